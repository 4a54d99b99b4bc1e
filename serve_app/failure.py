"""The failure predictor behind HTTP: a window goes to the LSTM, a lone snapshot to the rules until a window has filled."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from aiops_core.rules import failure_actions
from aiops_core.servable.failure import choose_threshold
from serve_app import legacy
from serve_app.answers import (
    UNCALIBRATED,
    Ranges,
    close,
    lowered,
    parse_stamp,
    quality,
    say_missing,
    severity,
    share,
)
from serve_app.problems import invalid
from serve_app.schemas import FailureBatch, FailureRequest, Policy, feature_range
from serve_app.services import CHUNK, Live, Service, breathe, decode, is_batch, legacy_block, unknown_names
from serve_app.windows import Windows

__all__ = ["FailureService"]

_encode = msgspec.json.Encoder().encode
_TREATMENT = "treated as not observed, which the model was trained for"


class _Ready:
    """Everything about one model that requests need, swapped as a whole."""

    def __init__(self, live: Live) -> None:
        servable = live.servable
        card = servable.card
        self.servable = servable
        self.names: list[str] = servable.features
        self.index = {name: i for i, name in enumerate(self.names)}
        self.bounds = [feature_range(f) for f in card["features"]]
        self.window: int = servable.window
        self.step: int = servable.step_seconds
        self.threshold = float(servable.threshold)
        self.curve = card["decision"].get("curve") or {}
        self.chosen = lru_cache(maxsize=256)(self._choose)
        self.horizon_seconds = int(servable.horizon) * self.step
        self.ranges = Ranges(card["features"])
        self.block = msgspec.Raw(_encode(live.block))
        self.kind = str(card.get("kind"))
        self.signature = (tuple(self.names), self.window, self.step)

    def _choose(self, policy: Policy) -> float:
        return choose_threshold(self.curve, **msgspec.structs.asdict(policy))

    def row(self, metrics: Mapping[str, float | None], path: str) -> np.ndarray:
        """Return one model row, (n_features,) float32, NaN where not given."""
        out = np.full(len(self.names), np.nan, dtype=np.float32)
        for name, value in metrics.items():
            j = self.index.get(name)
            if j is None:
                problem = unknown_names(metrics, self.names, path)
                if problem is not None:
                    raise problem
            elif value is not None:
                low, high = self.bounds[j]
                if not low <= value <= high:
                    raise invalid(f"{path}.{name}", f"{value:g} is not within {low:g} and {high:g}")
                out[j] = value
        return out


class FailureService(Service):
    """Answer ``predict/failure``.

    Parameters
    ----------
    metrics : Metrics
    windows : Windows or object with an awaitable ``append``
        Where snapshots are kept; shared by all replicas when there are several.
    """

    task = "failure"
    _ready: _Ready | None = None

    def __init__(self, metrics: Any, windows: Any | None = None) -> None:
        super().__init__(metrics)
        self._windows = Windows() if windows is None else windows
        self._single = msgspec.json.Decoder(FailureRequest)
        self._batch_decoder = msgspec.json.Decoder(FailureBatch)
        self._rules = msgspec.Raw(_encode(legacy_block(legacy.RULES, "rule_based")))

    def prepare(self, live: Live) -> None:
        """See `Service.prepare`."""
        ready = _Ready(live)
        warm = np.zeros((1, ready.window, len(ready.names)), dtype=np.float32)
        ready.servable.predict(warm)
        ready.servable.explain(warm[0])
        self._ready = ready

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """See `Service.answer`."""
        ready = self._ready
        if not is_batch(body):
            request = decode(self._single, body)
            window, note = await self._window(ready, request, "$")
            if ready is None or window is None:
                return _encode(self._by_rules(request, note, request_id, "$"))
            last = _last(request)
            p = float(ready.servable.predict(window[None], last)[0])
            drivers = ready.servable.explain(window, last=last) if request.explain is not False else []
            threshold = _threshold(ready, request.decision, "$.decision")
            return _encode(self._envelope(ready, request, window, p, threshold, drivers, note, request_id))
        batch = decode(self._batch_decoder, body)
        out: list[dict[str, Any] | None] = [None] * len(batch.instances)
        waiting: list[tuple[int, np.ndarray, list[str]]] = []
        for i, request in enumerate(batch.instances):
            path = f"$.instances[{i}]"
            window, note = await self._window(ready, request, path)
            if ready is None or window is None:
                out[i] = self._by_rules(request, note, f"{request_id}-{i}", path)
            else:
                waiting.append((i, window, note))
            if len(waiting) == CHUNK:
                self._finish(ready, batch, waiting, out, request_id)
                waiting = []
            await breathe(i)
        self._finish(ready, batch, waiting, out, request_id)
        return _encode({"predictions": out})

    def _finish(
        self,
        ready: _Ready | None,
        batch: FailureBatch,
        waiting: Sequence[tuple[int, np.ndarray, list[str]]],
        out: list[dict[str, Any] | None],
        request_id: str,
    ) -> None:
        if ready is None or not waiting:
            return
        last = np.concatenate([_last(batch.instances[i]) for i, _, _ in waiting])
        probabilities = ready.servable.predict(np.stack([window for _, window, _ in waiting]), last)
        for (i, window, note), p in zip(waiting, probabilities.tolist(), strict=True):
            request = batch.instances[i]
            wanted = batch.explain if request.explain is None else request.explain
            drivers = ready.servable.explain(window, last=_last(request)) if wanted else []
            threshold = _threshold(ready, request.decision or batch.decision, f"$.instances[{i}].decision")
            out[i] = self._envelope(ready, request, window, p, threshold, drivers, note, f"{request_id}-{i}")

    async def _window(
        self, ready: _Ready | None, request: FailureRequest, path: str
    ) -> tuple[np.ndarray | None, list[str]]:
        """Return the window to predict from, or None while the rules must answer, and warnings about it."""
        if (request.metrics is None) == (request.time_series is None):
            raise invalid(path, "give either metrics (a snapshot) or time_series (a window, oldest row first)")
        stamp = None if request.timestamp is None else parse_stamp(request.timestamp, f"{path}.timestamp")
        if ready is None:
            for given in request.time_series or [request.metrics or {}]:
                legacy.check(given, f"{path}.metrics" if request.time_series is None else f"{path}.time_series")
            return None, ["no failure_predictor has been promoted yet: the rules answer; train one with 'aiops report'"]
        if request.time_series is not None:
            series = request.time_series
            rows = [ready.row(r, f"{path}.time_series[{k}]") for k, r in enumerate(series[-ready.window :])]
            note = []
            if len(series) > ready.window:
                note.append(f"time_series has {len(series)} rows: the last {ready.window} were used")
            elif len(series) < ready.window:
                note.append(f"time_series has {len(series)} of {ready.window} rows: the earlier ones are not observed")
            window = np.full((ready.window, len(ready.names)), np.nan, dtype=np.float32)
            window[ready.window - len(rows) :] = rows
            if not np.isfinite(window).any():
                raise invalid(f"{path}.time_series", "at least one value is needed")
            return window, note
        row = ready.row(request.metrics or {}, f"{path}.metrics")
        if not np.isfinite(row).any():
            raise invalid(f"{path}.metrics", f"at least one metric is needed; known are {', '.join(ready.names)}")
        found = self._windows.append(
            request.resource_id,
            row,
            signature=ready.signature,
            window=ready.window,
            step=ready.step,
            timestamp=stamp,
        )
        full, have = await found if inspect.isawaitable(found) else found
        if full is None:
            return None, [
                f"{have} of {ready.window} snapshots of {request.resource_id} seen: the rules answer until a window is filled"
            ]
        note = [] if stamp is not None else [f"snapshots without timestamp count as one every {ready.step} s"]
        return full, note

    def _envelope(
        self,
        ready: _Ready,
        request: FailureRequest,
        window: np.ndarray,
        p: float,
        threshold: float,
        drivers: list[Any],
        note: list[str],
        request_id: str,
    ) -> dict[str, Any]:
        latest = window[-1]
        seen = np.isfinite(window).any(axis=0)
        unseen = np.flatnonzero(~seen).tolist()
        warnings = list(note)
        if unseen:
            warnings.append(say_missing([ready.names[j] for j in unseen], _TREATMENT))
        outside = ready.ranges.outside(latest)
        for j in outside:
            warnings.append(ready.ranges.say(j, float(latest[j])))
        failing = p >= threshold
        prediction = "failure" if failing else "no_failure"
        # Cells, not columns: a window of one row is nearly all missing.
        missing = int(np.count_nonzero(np.isnan(window)))
        factor = quality(missing, 0, window.size) * quality(0, len(outside), len(ready.names) - len(unseen))
        if factor < 1.0:
            warnings.append(
                lowered(
                    factor,
                    share("values of the window", missing, window.size, "not given"),
                    share("metrics", len(outside), len(ready.names) - len(unseen), "outside the training range"),
                )
            )
        if not failing and 2 * p >= threshold:
            warnings.append(close("probability", p, threshold))
        self.count(ready.kind, prediction)
        return {
            "resource_id": request.resource_id,
            "prediction": prediction,
            "probability": round(p, 6),
            "confidence": round((p if failing else 1.0 - p) * factor, 6),
            "severity": severity(failing, p, 2 * p >= 1.0 + threshold),
            "threshold": round(threshold, 6),
            "horizon_seconds": ready.horizon_seconds,
            "drivers": drivers,
            "recommended_actions": failure_actions(_raising(drivers), failing),
            "warnings": warnings,
            "request_id": request_id,
            "model": ready.block,
        }

    def _by_rules(self, request: FailureRequest, note: list[str], request_id: str, path: str) -> dict[str, Any]:
        metrics = request.metrics if request.metrics is not None else (request.time_series or [{}])[-1]
        given = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
        verdict = legacy.failure(given)
        if not verdict.used:
            note = [*note, f"none of the metrics that the rules know was given: {', '.join(legacy.RULE_METRICS)}"]
        warnings = list(note)
        absent = [name for name in legacy.RULE_METRICS if name not in verdict.used]
        if absent and verdict.used:
            warnings.append(say_missing(absent, "the rules leave them out"))
        if request.decision is not None:
            warnings.append("the rules have a threshold of their own: decision was not used")
        ignored = [name for name in given if name not in verdict.used]
        if ignored:
            warnings.append(f"the rules do not use {', '.join(ignored)}")
        failing = verdict.probability >= legacy.THRESHOLD
        prediction = "failure" if failing else "no_failure"
        stated = verdict.probability if failing else 1.0 - verdict.probability
        factor = UNCALIBRATED * quality(len(absent), 0, len(legacy.RULE_METRICS))
        missing = share("metrics of the rules", len(absent), len(legacy.RULE_METRICS), "not given")
        warnings.append(lowered(factor, "the rules are not calibrated", missing))
        if not failing and 2 * verdict.probability >= legacy.THRESHOLD:
            warnings.append(close("probability", verdict.probability, legacy.THRESHOLD))
        self.count("rule_based", prediction)
        return {
            "resource_id": request.resource_id,
            "prediction": prediction,
            "probability": round(verdict.probability, 6),
            "confidence": round(stated * factor, 6),
            "severity": severity(failing, verdict.probability, 2 * verdict.probability >= 1.0 + legacy.THRESHOLD),
            "threshold": legacy.THRESHOLD,
            "horizon_seconds": None if self._ready is None else self._ready.horizon_seconds,
            "drivers": verdict.drivers[:3],
            "recommended_actions": failure_actions(verdict.drivers[:3], failing),
            "warnings": warnings,
            "request_id": request_id,
            "model": self._rules,
        }


def _threshold(ready: _Ready, policy: Policy | None, path: str) -> float:
    if policy is None:
        return ready.threshold
    if not ready.curve:
        raise invalid(path, "this model's card has no policy curve to choose from")
    return ready.chosen(policy)


def _last(request: FailureRequest) -> np.ndarray:
    """Return the time of the newest row, (1,) datetime64[s], NaT when not given: then the hour of day is not used."""
    if request.timestamp is None:
        return np.array(["NaT"], dtype="datetime64[s]")
    return np.array([int(parse_stamp(request.timestamp, "$.timestamp"))], dtype="datetime64[s]")


def _raising(drivers: Sequence[Any]) -> list[Any]:
    """Return the drivers that raised the probability."""
    return [driver for driver in drivers if driver["contribution"] > 0]
