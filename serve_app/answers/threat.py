"""The threat detector behind HTTP: one row or a batch of activity rows in, classes with probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np

from aiops_core.errors import DataError
from aiops_core.rules import threat_actions
from aiops_core.servable.threat import NORMAL, cost_matrix
from serve_app.answers.batches import CHUNK, Work, place
from serve_app.answers.envelope import Ranges, lowered, quality, say_missing, severity, share
from serve_app.answers.rows import RowReader, ignored_of, say_ignored
from serve_app.answers.service import Champion, Service, encode
from serve_app.journal.entries import Entry
from serve_app.wire.decoding import decode
from serve_app.wire.limits import MAX_ID
from serve_app.wire.problems import Problem, invalid
from serve_app.wire.requests import Costs, ThreatBatch
from serve_app.wire.wording import listed

__all__ = ["ThreatService"]

#: Attack probability from which a `normal` row carries a warning, and from which an attack is critical.
NEAR, CRITICAL = 0.25, 0.9

_Named = (
    Annotated[str, msgspec.Meta(max_length=MAX_ID)] | Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | float | None
)
#: Fields of a row beside its features.
CONTROLS: dict[str, tuple[Any, Any]] = {
    "source_ip": (_Named, None),
    "resource_id": (_Named, None),
    "explain": (bool | None, None),
    "costs": (Costs | None, None),
}


class ThreatModel:
    """Everything about one model that requests need, swapped as a whole."""

    def __init__(self, champion: Champion) -> None:
        servable = champion.servable
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
        ignored = ignored_of(card)
        # A stamp says when, not what: it comes with rows of any table.
        names = [name for name in (*ignored, "timestamp") if name not in ("source_ip", "resource_id")]
        self.reader = RowReader("ThreatRequest", card["features"], list(dict.fromkeys(names)), CONTROLS)
        self.about = champion.about
        self.about.stamp = self._stamp_field()
        self.block = champion.block
        self.kind = str(card.get("kind"))

        #: The same sources leave out the same features again and again.
        self.say_missing = lru_cache(maxsize=4096)(self._say_missing)

    def _stamp_field(self) -> str | None:
        """Return the attribute of a request that holds its time; none if a feature is called so."""
        ignored = self.reader.ignored
        return f"ignored{ignored.index('timestamp')}" if "timestamp" in ignored else None

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
        return say_missing([self.names[j] for j in missing])

    def rows(self, requests: list[Any]) -> np.ndarray:
        """Return model input, (n, n_features) float32, NaN where not given."""
        values = self.reader.values
        if self.numeric:
            # None (an explicit null) becomes NaN.
            return np.array([values(request) for request in requests], dtype=np.float32)
        named = [dict(zip(self.names, values(request), strict=True)) for request in requests]
        encoded: np.ndarray = self.servable.encode(named)
        return encoded

    def nothing(self, path: str) -> Problem:
        """Return the 422 for a row without a feature."""
        return invalid(path, f"at least one feature is needed; known are {listed(self.names)}")


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
    _model: ThreatModel | None = None
    batch_decoder = msgspec.json.Decoder(ThreatBatch)

    def prepare(self, champion: Champion) -> ThreatModel:
        """See `Service.prepare`."""
        model = ThreatModel(champion)
        warm = np.full((1, model.width), np.nan, dtype=np.float32)
        model.servable.occlude(warm[0])
        model.servable.predict(warm)
        return model

    def names_instances(self, model: ThreatModel) -> bool:
        """See `Service.names_instances`."""
        return model.reader.named_instances

    async def answer_one(self, model: ThreatModel, body: bytes, request_id: str) -> bytes:
        """See `Service.answer_one`."""
        request: Any = decode(model.reader.decoder, body)
        row = model.rows([request])[0]
        # A feature called so takes the name: then the field is not there.
        costs = model.matrix(getattr(request, "costs", None))
        explain = getattr(request, "explain", None)
        if explain is False:
            probability, drivers = model.servable.predict(row[None])[0], []
            label = int(model.servable.decide(probability[None], costs)[0])
        else:
            probability, label, drivers = model.servable.occlude(row, costs=costs)
        p, thresholds = probability.tolist(), model.thresholds_of(costs)
        answer = encode(self._envelope(model, request, row, p, label, thresholds, drivers, request_id))
        outputs = (p, label, thresholds[label])
        self.journal.put(Entry(model.about, request_id, False, request, None, row, outputs), model.width)
        return answer

    def read(self, model: ThreatModel, batch: ThreatBatch, body: bytes, path: str) -> Any:
        """See `Service.read`."""
        request = decode(model.reader.decoder, body, path)
        if getattr(request, "costs", None) is not None:
            raise invalid(f"{path}.costs", "costs hold for a whole batch: name them beside instances")
        return request

    async def read_batch(self, model: ThreatModel, batch: ThreatBatch, places: Sequence[int], work: Work) -> list[Any]:
        """See `Service.read_batch`; a good instance comes with its row."""
        # Wrong costs are named before wrong rows.
        model.matrix(batch.costs)
        found = await super().read_batch(model, batch, places, work)
        every = [i for i, request in enumerate(found) if not isinstance(request, Problem)]
        for start in range(0, len(every), CHUNK):
            good = every[start : start + CHUNK]
            rows = model.rows([found[i] for i in good]).reshape(len(good), model.width)
            for i, row, empty in zip(good, rows, np.isnan(rows).all(axis=1).tolist(), strict=True):
                found[i] = model.nothing(place(places[i])) if empty else (found[i], row)
            await work.rest()
        return found

    async def answer_each(
        self,
        model: ThreatModel,
        batch: ThreatBatch,
        instances: list[tuple[Any, np.ndarray]],
        ids: list[str],
        work: Work,
    ) -> list[bytes]:
        """See `Service.answer_each`."""
        costs = model.matrix(batch.costs)
        thresholds = model.thresholds_of(costs)
        answers = []
        for start in range(0, len(instances), CHUNK):
            part = instances[start : start + CHUNK]
            probabilities = model.servable.predict(np.stack([row for _, row in part]))
            labels = model.servable.decide(probabilities, costs).tolist()
            for (request, row), p, label, name in zip(part, probabilities.tolist(), labels, ids[start:], strict=False):
                explain = getattr(request, "explain", None)
                wanted = batch.explain if explain is None else explain
                drivers = model.servable.occlude(row, costs=costs)[2] if wanted else []
                answer = self._envelope(model, request, row, p, label, thresholds, drivers, name)
                answers.append(work.encode(answer))
                outputs = (p, label, thresholds[label])
                self.journal.put(Entry(model.about, name, True, request, None, row, outputs), model.width)
                await work.rest()
        return answers

    def _envelope(
        self,
        model: ThreatModel,
        request: Any,
        row: np.ndarray,
        p: list[float],
        label: int,
        thresholds: list[float | None],
        drivers: list[Any],
        request_id: str,
    ) -> dict[str, Any]:
        # Plain numbers: for a dozen features every numpy call would cost more than this whole loop.
        values = row.tolist()
        low, high = model.low, model.high
        missing = tuple([j for j, v in enumerate(values) if v != v])
        outside = [j for j, v in enumerate(values) if v < low[j] or v > high[j]]
        n_missing = len(missing)
        if n_missing == model.width:
            raise model.nothing("$")
        warnings = [model.say_missing(missing)] if missing else []
        ignored = model.reader.ignored_in(request)
        if ignored:
            warnings.append(say_ignored(ignored))
        for j in outside:
            warnings.append(model.ranges.say(j, values[j]))
        attack = 1.0 - p[model.normal] if model.normal is not None else 1.0
        prediction, probability, threshold = model.classes[label], p[label], thresholds[label]
        if label == model.normal and attack >= NEAR:
            warnings.append(f"an attack is not unlikely: attack_probability {attack:.3g}")
        factor = quality(n_missing, len(outside), model.width)
        if factor < 1.0:
            warnings.append(_lowered(factor, n_missing, len(outside), model.width))
        self.count(model.kind, prediction)
        return {
            "source_ip": _text(getattr(request, "source_ip", None)),
            "prediction": prediction,
            "probability": round(probability, 6),
            "probabilities": {name: round(v, 6) for name, v in zip(model.classes, p, strict=True)},
            "attack_probability": round(attack, 6),
            "confidence": round(probability * factor, 6),
            "severity": severity(label != model.normal, attack, attack >= CRITICAL),
            "threshold": threshold,
            "drivers": drivers,
            "recommended_actions": _actions(prediction),
            "warnings": warnings,
            "request_id": request_id,
            "model": model.block,
        }


def _text(name: Any) -> str | None:
    return name if name is None or type(name) is str else str(name)
