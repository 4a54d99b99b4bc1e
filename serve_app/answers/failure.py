"""The failure predictor behind HTTP: a window goes to the LSTM, a lone snapshot to the rules until a window has filled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from aiops_core.rules import failure_actions
from aiops_core.servable.failure import choose_threshold
from aiops_core.servable.series import steps_back, window_of
from serve_app.answers import legacy
from serve_app.answers.batches import read_each, refuse, said
from serve_app.answers.envelope import (
    UNCALIBRATED,
    Ranges,
    close,
    lowered,
    quality,
    say_missing,
    severity,
    share,
)
from serve_app.answers.rows import RESERVED, RowReader, ignored_of, is_nested, say_ignored
from serve_app.answers.series import check_resource, row_times, step_notes
from serve_app.answers.service import CHUNK, Live, Service, breathe, legacy_block
from serve_app.answers.windows import Windows
from serve_app.wire.decoding import decode, is_batch, unknown_names
from serve_app.wire.features import feature_range
from serve_app.wire.problems import Problem, invalid
from serve_app.wire.requests import FailureBatch, FailureRequest, Policy, ResourceId, Stamp
from serve_app.wire.times import iso, parse_stamp
from serve_app.wire.wording import listed, plain_rule, span

__all__ = ["FailureService"]

_encode = msgspec.json.Encoder().encode
_TREATMENT = "treated as not observed, which the model was trained for"
_NO_TIME = np.datetime64("NaT", "s")


@dataclass(slots=True)
class _Asked:
    """One instance, read and checked.

    Either ``window`` is given or ``row``, the snapshot of a window that is still to be filled.
    """

    resource_id: str
    explain: bool | None
    decision: Policy | None
    threshold: float
    given: dict[str, float]
    window: np.ndarray | None = None
    row: np.ndarray | None = None
    stamp: float | None = None
    notes: list[str] = field(default_factory=list)


class _Ready:
    """Everything about one model that requests need, swapped as a whole."""

    def __init__(self, live: Live) -> None:
        servable = live.servable
        card = servable.card
        self.servable = servable
        self.names: list[str] = servable.features
        self.index = {name: i for i, name in enumerate(self.names)}
        self.bounds = [feature_range(f) for f in card["features"]]
        self.boolean = [bool(f.get("boolean")) for f in card["features"]]
        self.ignored = frozenset(ignored_of(card)) - {"resource_id", "timestamp"}
        self.reader = _reader(card["features"], sorted(self.ignored))
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

    def row(self, metrics: Mapping[str, Any], path: str, ignored: set[str]) -> np.ndarray:
        """Return one model row, (n_features,) float32, NaN where not given; note columns that are not used."""
        out = np.full(len(self.names), np.nan, dtype=np.float32)
        for name, value in metrics.items():
            j = self.index.get(name)
            if j is None:
                if name in self.ignored:
                    ignored.add(name)
                elif name not in ("timestamp", "resource_id"):
                    strange = [n for n in metrics if n not in self.ignored and n not in ("timestamp", "resource_id")]
                    problem = unknown_names(strange, self.names, path)
                    if problem is not None:
                        raise problem
            elif value is not None:
                out[j] = _number(value, self.bounds[j], self.boolean[j], path, name)
        return out

    def given(self, row: np.ndarray) -> dict[str, float]:
        """Return what a row holds, by name."""
        return {name: value for name, value in zip(self.names, row.tolist(), strict=True) if value == value}

    def threshold_for(self, policy: Policy | None, path: str) -> float:
        """Return the threshold of a request's policy; the card's without one."""
        if policy is None:
            return self.threshold
        if not self.curve:
            raise invalid(path, "this model's card has no policy curve to choose from")
        return self.chosen(policy)


def _reader(features: Sequence[Mapping[str, Any]], ignored: Sequence[str]) -> RowReader:
    controls = {
        "resource_id": (ResourceId, msgspec.NODEFAULT),
        "timestamp": (Stamp | None, None),
        "explain": (bool | None, None),
        "decision": (Policy | None, None),
    }
    return RowReader("TelemetryRow", features, ignored, controls)


def _number(value: Any, bounds: tuple[float, float], boolean: bool, path: str, name: str) -> float:
    if type(value) is not float and not (boolean and isinstance(value, bool)):
        got = "bool" if isinstance(value, bool) else "str"
        raise invalid(f"{path}.{name}", plain_rule(f"Expected `float | null`, got `{got}`"))
    low, high = bounds
    if not low <= value <= high:
        raise invalid(f"{path}.{name}", f"{value:g} is not within {low:g} and {high:g}")
    return float(value)


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
        self._rule_reader = _reader([{"name": name} for name in legacy.RULE_METRICS], ())

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
        if is_batch(body, ready is not None and ready.reader.named_instances):
            return await self._batch(ready, body, request_id)
        asked = self._read(ready, body, "$", None)
        window, last = await self._window(ready, asked)
        if ready is None or window is None:
            return _encode(self._by_rules(asked, request_id))
        p = float(ready.servable.predict(window[None], last)[0])
        return _encode(self._decided(ready, asked, window, last, p, asked.explain is not False, request_id))

    async def _batch(self, ready: _Ready | None, body: bytes, request_id: str) -> bytes:
        batch = decode(self._batch_decoder, body)
        found = await read_each(batch.instances, lambda raw, path: self._read(ready, raw, path, batch.decision))
        refuse(found, batch.partial)
        out: list[dict[str, Any] | None] = [None] * len(found)
        waiting: list[tuple[int, np.ndarray, np.ndarray]] = []
        for i, asked in enumerate(found):
            if isinstance(asked, Problem):
                out[i] = said(asked)
                continue
            window, last = await self._window(ready, asked)
            if ready is None or window is None:
                out[i] = self._by_rules(asked, f"{request_id}-{i}")
            else:
                waiting.append((i, window, last))
            if len(waiting) == CHUNK:
                self._finish(ready, batch.explain, found, waiting, out, request_id)
                waiting = []
            await breathe(i)
        self._finish(ready, batch.explain, found, waiting, out, request_id)
        return _encode({"predictions": out})

    def _finish(
        self,
        ready: _Ready | None,
        explain: bool,
        found: Sequence[Any],
        waiting: Sequence[tuple[int, np.ndarray, np.ndarray]],
        out: list[dict[str, Any] | None],
        request_id: str,
    ) -> None:
        if ready is None or not waiting:
            return
        last = np.concatenate([when for _, _, when in waiting])
        probabilities = ready.servable.predict(np.stack([window for _, window, _ in waiting]), last)
        for (i, window, when), p in zip(waiting, probabilities.tolist(), strict=True):
            asked = found[i]
            wanted = explain if asked.explain is None else asked.explain
            out[i] = self._decided(ready, asked, window, when, p, wanted, f"{request_id}-{i}")

    def _decided(
        self, ready: _Ready, asked: _Asked, window: np.ndarray, last: np.ndarray, p: float, shown: bool, request_id: str
    ) -> dict[str, Any]:
        # The advice follows the drivers, whether they are shown or not.
        needed = shown or p >= asked.threshold
        drivers = ready.servable.explain(window, last=last) if needed else []
        return self._envelope(ready, asked, window, p, drivers, shown, request_id)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(self, ready: _Ready | None, body: bytes, path: str, decision: Policy | None) -> _Asked:
        """Read one instance in any of its forms; ``decision`` is that of the batch."""
        reader = self._rule_reader if ready is None else ready.reader
        if not is_nested(body, reader.known):
            return self._read_row(ready, reader, body, path, decision)
        request = decode(self._single, body, path)
        if (request.metrics is None) == (request.time_series is None):
            raise invalid(path, "give either metrics (a snapshot) or time_series (a window, oldest row first)")
        asked = self._asked(ready, request, path, decision)
        if request.time_series is not None:
            self._read_series(ready, request.time_series, f"{path}.time_series", asked)
            return asked
        metrics = request.metrics or {}
        check_resource(metrics, asked.resource_id, f"{path}.metrics")
        if asked.stamp is None and metrics.get("timestamp") is not None:
            asked.stamp = parse_stamp(metrics["timestamp"], f"{path}.metrics.timestamp")  # type: ignore[arg-type]
        if ready is None:
            asked.given = _for_rules(metrics, f"{path}.metrics")
            return asked
        ignored: set[str] = set()
        self._take_row(ready, ready.row(metrics, f"{path}.metrics", ignored), f"{path}.metrics", asked)
        if ignored:
            asked.notes.append(say_ignored(sorted(ignored)))
        return asked

    def _asked(self, ready: _Ready | None, request: Any, path: str, decision: Policy | None) -> _Asked:
        # A feature of that name is the feature, and the field is not there.
        own = getattr(request, "decision", None)
        threshold = 0.0 if ready is None else ready.threshold_for(own or decision, f"{path}.decision")
        given = request.timestamp
        stamp = None if given is None else parse_stamp(given, f"{path}.timestamp")
        return _Asked(str(request.resource_id), getattr(request, "explain", None), own, threshold, {}, stamp=stamp)

    def _read_row(
        self, ready: _Ready | None, reader: RowReader, body: bytes, path: str, decision: Policy | None
    ) -> _Asked:
        request: Any = decode(reader.decoder, body, path)
        row = np.array(reader.values(request), dtype=np.float32)
        asked = self._asked(ready, request, path, decision)
        if np.isnan(row).all():
            known = listed(reader.known[: reader.width])
            rule = (
                "give metrics (a snapshot), time_series (a window, oldest row first) or a row with at least one metric"
            )
            raise invalid(path, f"{rule}; known are {known}")
        if ready is None:
            names = reader.known[: reader.width]
            asked.given = {n: v for n, v in zip(names, row.tolist(), strict=True) if v == v}
            return asked
        self._take_row(ready, row, path, asked)
        ignored = reader.ignored_in(request)
        if ignored:
            asked.notes.append(say_ignored(ignored))
        return asked

    @staticmethod
    def _take_row(ready: _Ready, row: np.ndarray, path: str, asked: _Asked) -> None:
        if np.isnan(row).all():
            raise invalid(path, f"at least one metric is needed; known are {listed(ready.names)}")
        asked.row = row
        if asked.stamp is None:
            asked.notes.append(f"snapshots without timestamp count as one every {ready.step} s")

    def _read_series(self, ready: _Ready | None, rows: Sequence[Mapping[str, Any]], path: str, asked: _Asked) -> None:
        """Put a window's rows on the model's steps."""
        for k, row in enumerate(rows):
            check_resource(row, asked.resource_id, f"{path}[{k}]")
        seconds = row_times(rows, path)
        if ready is None:
            for k, row in enumerate(rows):
                asked.given = _for_rules(row, f"{path}[{k}]")
            return
        if seconds is None:
            first = max(0, len(rows) - ready.window)
            asked.notes.append(f"time_series without timestamps: rows count as one every {span(ready.step)}")
        else:
            first = int(np.argmax(steps_back(seconds, int(seconds[-1]), ready.step) < ready.window))
            asked.stamp = float(seconds[-1])
            asked.notes += step_notes(seconds[first:], ready.step, "the last one")
        if first:
            used = len(rows) - first if seconds is None else f"{ready.window} steps"
            asked.notes.append(f"time_series has {len(rows)} rows: the last {used} were used")
        ignored: set[str] = set()
        values = np.stack([ready.row(rows[k], f"{path}[{k}]", ignored) for k in range(first, len(rows))])
        if not np.isfinite(values).any():
            raise invalid(path, "at least one value is needed")
        if seconds is None:
            window = np.full((ready.window, len(ready.names)), np.nan, dtype=np.float32)
            window[ready.window - len(values) :] = values
        else:
            window = window_of(seconds[first:], values, ready.window, ready.step)
        reach = len(rows) if seconds is None else int(steps_back(seconds[:1], int(seconds[-1]), ready.step)[0]) + 1
        if reach < ready.window:
            asked.notes.append(f"time_series has {reach} of {ready.window} rows: the earlier ones are not observed")
        asked.window = window
        if ignored:
            asked.notes.append(say_ignored(sorted(ignored)))

    async def _window(self, ready: _Ready | None, asked: _Asked) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the window to predict from, or None while the rules must answer, and the time of its newest row."""
        if ready is None:
            asked.notes.append(
                "no failure_predictor has been promoted yet: the rules answer; train one with 'aiops report'"
            )
            return None, _last(None)
        if asked.window is not None:
            return asked.window, _last(asked.stamp)
        assert asked.row is not None
        found = self._windows.append(
            asked.resource_id,
            asked.row,
            signature=ready.signature,
            window=ready.window,
            step=ready.step,
            timestamp=asked.stamp,
        )
        full, have, newest = await found if inspect.isawaitable(found) else found
        if newest is not None and asked.stamp is not None and asked.stamp < newest:
            asked.notes.append(
                f"older than the newest snapshot of {asked.resource_id}, of {iso(newest)}: judged as of then"
            )
            asked.stamp = newest
        if full is None:
            asked.given = ready.given(asked.row)
            # The rules judge one snapshot: how snapshots are timed says nothing about their answer.
            asked.notes[:] = [n for n in asked.notes if not n.startswith("snapshots without timestamp")]
            asked.notes.insert(
                0,
                f"{have} of {ready.window} snapshots of {asked.resource_id} seen: "
                "the rules answer until a window is filled",
            )
        return full, _last(asked.stamp)

    # Answering -------------------------------------------------------------------------------------------------------

    def _envelope(
        self,
        ready: _Ready,
        asked: _Asked,
        window: np.ndarray,
        p: float,
        drivers: list[Any],
        shown: bool,
        request_id: str,
    ) -> dict[str, Any]:
        threshold = asked.threshold
        latest = window[-1]
        seen = np.isfinite(window).any(axis=0)
        unseen = np.flatnonzero(~seen).tolist()
        warnings = list(asked.notes)
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
            "resource_id": asked.resource_id,
            "prediction": prediction,
            "probability": round(p, 6),
            "confidence": round((p if failing else 1.0 - p) * factor, 6),
            "severity": severity(failing, p, 2 * p >= 1.0 + threshold),
            "threshold": round(threshold, 6),
            "horizon_seconds": ready.horizon_seconds,
            "drivers": drivers if shown else [],
            "recommended_actions": failure_actions(_raising(drivers), failing),
            "warnings": warnings,
            "request_id": request_id,
            "model": ready.block,
        }

    def _by_rules(self, asked: _Asked, request_id: str) -> dict[str, Any]:
        given = asked.given
        verdict = legacy.failure(given)
        warnings = list(asked.notes)
        if not verdict.used:
            warnings.append(f"none of the metrics that the rules know was given: {', '.join(legacy.RULE_METRICS)}")
        absent = [name for name in legacy.RULE_METRICS if name not in verdict.used]
        if absent and verdict.used:
            warnings.append(say_missing(absent, "the rules leave them out"))
        if asked.decision is not None:
            warnings.append("the rules have a threshold of their own: decision was not used")
        ignored = [name for name in given if name not in verdict.used]
        if ignored:
            warnings.append(f"the rules do not use {listed(ignored)}")
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
            "resource_id": asked.resource_id,
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


def _for_rules(row: Mapping[str, Any], path: str) -> dict[str, float]:
    """Return what the rules are to judge, checked."""
    metrics = {name: value for name, value in row.items() if name not in RESERVED["failure"]}
    legacy.check(metrics, path)
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _last(stamp: float | None) -> np.ndarray:
    """Return the time of the newest row, (1,) datetime64[s], NaT when not given: then the hour of day is not used."""
    return np.array([_NO_TIME if stamp is None else int(stamp)], dtype="datetime64[s]")


def _raising(drivers: Sequence[Any]) -> list[Any]:
    """Return the drivers that raised the probability."""
    return [driver for driver in drivers if driver["contribution"] > 0]
