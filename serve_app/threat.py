"""The threat detector behind HTTP: one row or a batch of activity rows in, classes with probabilities out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np

from aiops_core.errors import DataError
from aiops_core.rules import threat_actions
from aiops_core.servable.threat import NORMAL, UNKNOWN, cost_matrix
from serve_app import schemas
from serve_app.answers import Ranges, lowered, quality, say_missing, severity, share
from serve_app.problems import invalid
from serve_app.services import CHUNK, Live, Service, breathe, decode, is_batch

__all__ = ["ThreatService"]

_TREATMENT = "treated as not observed, which the model was trained for"
#: Attack probability from which a `normal` row carries a warning, and from which an attack is critical.
NEAR, CRITICAL = 0.25, 0.9
_encode = msgspec.json.Encoder().encode


class _Ready:
    """Everything about one model that requests need, swapped as a whole."""

    def __init__(self, live: Live) -> None:
        servable = live.servable
        card = servable.card
        self.servable = servable
        self.names: list[str] = servable.features
        self.width = len(self.names)
        self.classes: list[str] = servable.classes
        self.normal = self.classes.index(NORMAL) if NORMAL in self.classes else None
        weights = np.asarray(card["decision"].get("weights") or np.ones(len(self.classes)), dtype=float)
        stored = servable.costs
        self.thresholds = self.against_normal(
            np.where(np.eye(len(weights)), 0.0, weights[:, None]) if stored is None else stored
        )
        self.ranges = Ranges(card["features"])
        self.low: list[float] = self.ranges.low.tolist()
        self.high: list[float] = self.ranges.high.tolist()
        self.numeric = not any(f.get("dtype") == "category" for f in card["features"])
        row = schemas.threat_request(card["features"])
        self.single = msgspec.json.Decoder(row)
        limit = msgspec.Meta(min_length=1, max_length=schemas.MAX_INSTANCES)
        batch = msgspec.defstruct(
            "ThreatBatch",
            [
                ("instances", Annotated[list[row], limit]),  # type: ignore[valid-type]
                ("explain", bool, False),
                ("costs", schemas.Costs | None, None),
            ],
            forbid_unknown_fields=True,
        )
        self.batch = msgspec.json.Decoder(batch)
        self.block = msgspec.Raw(_encode(live.block))
        self.kind = str(card.get("kind"))

        #: The same sources leave out the same features again and again.
        self.say_missing = lru_cache(maxsize=4096)(self._say_missing)

    def against_normal(self, costs: np.ndarray) -> list[float | None]:
        """Return what each class needs against `normal` alone; with several attacks competing it is the lower bound.

        `normal` itself holds as long as no attack reaches the highest of them.
        """
        if self.normal is None:
            return [None] * len(self.classes)
        false_alarm, missed = costs[self.normal].tolist(), costs[:, self.normal].tolist()
        out = [round(a / (a + m), 6) if a + m > 0 else None for a, m in zip(false_alarm, missed, strict=True)]
        out[self.normal] = None
        out[self.normal] = max((t for t in out if t is not None), default=0.5)
        return out

    def thresholds_of(self, costs: np.ndarray | None) -> list[float | None]:
        """Return the thresholds for a request's costs; the card's without any."""
        return self.thresholds if costs is None else self.against_normal(costs)

    def matrix(self, costs: Mapping[str, Mapping[str, float]] | None) -> np.ndarray | None:
        """Return a request's costs as a matrix.

        Raises
        ------
        Problem
            422 for an unknown class.
        """
        if costs is None:
            return None
        try:
            return cost_matrix(costs, self.classes)
        except DataError as error:
            raise invalid("$.costs", str(error)) from None

    def _say_missing(self, missing: tuple[int, ...]) -> str:
        return say_missing([self.names[j] for j in missing], _TREATMENT)

    def rows(self, requests: list[Any]) -> np.ndarray:
        """Return model input, (n, n_features) float32, NaN where not given."""
        if self.numeric:
            width = self.width
            table = [msgspec.structs.astuple(request)[:width] for request in requests]
            # None (an explicit null) becomes NaN.
            return np.array(table, dtype=np.float32)
        named = [dict(zip(self.names, msgspec.structs.astuple(r), strict=False)) for r in requests]
        encoded: np.ndarray = self.servable.encode(named)
        return encoded


@lru_cache(maxsize=256)
def _actions(label: str) -> tuple[str, ...]:
    return tuple(threat_actions(label))


@lru_cache(maxsize=4096)
def _lowered(factor: float, missing: int, outside: int, width: int) -> str:
    return lowered(
        factor,
        share("features", missing, width, "not given"),
        share("given features", outside, width - missing, "outside the training range"),
    )


class ThreatService(Service):
    """Answer ``predict/threat``."""

    task = "threat"
    _ready: _Ready | None = None

    def prepare(self, live: Live) -> None:
        """See `Service.prepare`."""
        ready = _Ready(live)
        warm = np.full((1, ready.width), np.nan, dtype=np.float32)
        ready.servable.occlude(warm[0])
        ready.servable.predict(warm)
        self._ready = ready

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """See `Service.answer`."""
        ready = self._ready
        if ready is None:
            raise self.no_champion()
        if is_batch(body):
            return await self._batch(ready, body, request_id)
        request: Any = decode(ready.single, body)
        row = ready.rows([request])[0]
        costs = ready.matrix(request.costs)
        if request.explain is False:
            probability, drivers = ready.servable.predict(row[None])[0], []
            label = int(ready.servable.decide(probability[None], costs)[0])
        else:
            probability, label, drivers = ready.servable.occlude(row, costs=costs)
        p, thresholds = probability.tolist(), ready.thresholds_of(costs)
        return _encode(self._envelope(ready, request, row, p, label, thresholds, drivers, request_id, "$"))

    async def _batch(self, ready: _Ready, body: bytes, request_id: str) -> bytes:
        batch: Any = decode(ready.batch, body)
        costs = ready.matrix(batch.costs)
        thresholds = ready.thresholds_of(costs)
        for i, request in enumerate(batch.instances):
            if request.costs is not None:
                raise invalid(f"$.instances[{i}].costs", "costs hold for a whole batch: name them beside instances")
        rows = ready.rows(batch.instances)
        out: list[dict[str, Any]] = []
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            probabilities = ready.servable.predict(part)
            labels = ready.servable.decide(probabilities, costs).tolist()
            for i, (p, label) in enumerate(zip(probabilities.tolist(), labels, strict=True), start):
                request = batch.instances[i]
                wanted = batch.explain if request.explain is None else request.explain
                drivers = ready.servable.occlude(rows[i], costs=costs)[2] if wanted else []
                name, path = f"{request_id}-{i}", f"$.instances[{i}]"
                out.append(self._envelope(ready, request, rows[i], p, label, thresholds, drivers, name, path))
            await breathe(0)
        return _encode({"predictions": out})

    def _envelope(
        self,
        ready: _Ready,
        request: Any,
        row: np.ndarray,
        p: list[float],
        label: int,
        thresholds: list[float | None],
        drivers: list[Any],
        request_id: str,
        path: str,
    ) -> dict[str, Any]:
        # Plain numbers: for a dozen features every numpy call would cost more than this whole loop.
        values = row.tolist()
        low, high = ready.low, ready.high
        missing = tuple([j for j, v in enumerate(values) if v != v])
        outside = [j for j, v in enumerate(values) if v < low[j] or v > high[j]]
        n_missing = len(missing)
        if n_missing == ready.width:
            raise invalid(path, f"at least one feature is needed; known are {', '.join(ready.names)}")
        warnings = [ready.say_missing(missing)] if missing else []
        for j in outside:
            warnings.append(ready.ranges.say(j, values[j]))
        attack = 1.0 - p[ready.normal] if ready.normal is not None else 1.0
        if label == UNKNOWN:
            prediction, probability, threshold = "unknown", max(p), None
        else:
            prediction, probability, threshold = ready.classes[label], p[label], thresholds[label]
        if label == ready.normal and attack >= NEAR:
            warnings.append(f"an attack is not unlikely: attack_probability {attack:.3g}")
        factor = quality(n_missing, len(outside), ready.width)
        if factor < 1.0:
            warnings.append(_lowered(factor, n_missing, len(outside), ready.width))
        self.count(ready.kind, prediction)
        return {
            "source_ip": getattr(request, "source_ip", None),
            "prediction": prediction,
            "probability": round(probability, 6),
            "probabilities": {name: round(v, 6) for name, v in zip(ready.classes, p, strict=True)},
            "attack_probability": round(attack, 6),
            "confidence": round(probability * factor, 6),
            "severity": severity(label != ready.normal, attack, attack >= CRITICAL),
            "threshold": threshold,
            "drivers": drivers,
            "recommended_actions": _actions(prediction),
            "warnings": warnings,
            "request_id": request_id,
            "model": ready.block,
        }
