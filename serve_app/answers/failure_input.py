"""What a request to the failure predictor holds: a snapshot, a window or a row of telemetry, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from aiops_core.servable.failure import choose_threshold
from aiops_core.servable.series import steps_back, window_of
from serve_app.answers import legacy
from serve_app.answers.envelope import (
    Ranges,
)
from serve_app.answers.rows import RESERVED, RowReader, ignored_of, is_nested, say_ignored
from serve_app.answers.series import check_resource, row_times, step_notes
from serve_app.answers.service import Champion
from serve_app.wire.decoding import decode, unknown_names
from serve_app.wire.features import feature_range
from serve_app.wire.problems import invalid
from serve_app.wire.requests import FailureRequest, Policy, ResourceId, Stamp
from serve_app.wire.times import parse_stamp
from serve_app.wire.wording import listed, plain_rule, span

__all__ = ["FailureModel", "Instance", "read"]

_SINGLE = msgspec.json.Decoder(FailureRequest)


@dataclass(slots=True)
class Instance:
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

    @property
    def values(self) -> int:
        """Values kept until the answer."""
        return 0 if self.window is None else self.window.size


class FailureModel:
    """Everything about one model that requests need, swapped as a whole."""

    def __init__(self, champion: Champion) -> None:
        servable = champion.servable
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
        self.block = champion.block
        self.kind = str(card.get("kind"))
        self.about = champion.about
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


@lru_cache(maxsize=1)
def _rule_reader() -> RowReader:
    return _reader([{"name": name} for name in legacy.RULE_METRICS], ())


def read(model: FailureModel | None, body: bytes, path: str, decision: Policy | None) -> Instance:
    """Read one instance in any of its forms; ``decision`` is that of the batch."""
    reader = _rule_reader() if model is None else model.reader
    if not is_nested(body, reader.known):
        return _read_row(model, reader, body, path, decision)
    request = decode(_SINGLE, body, path)
    if (request.metrics is None) == (request.time_series is None):
        raise invalid(path, "give either metrics (a snapshot) or time_series (a window, oldest row first)")
    instance = _asked(model, request, path, decision)
    if request.time_series is not None:
        _read_series(model, request.time_series, f"{path}.time_series", instance)
        return instance
    metrics = request.metrics or {}
    check_resource(metrics, instance.resource_id, f"{path}.metrics")
    if instance.stamp is None and metrics.get("timestamp") is not None:
        instance.stamp = parse_stamp(metrics["timestamp"], f"{path}.metrics.timestamp")  # type: ignore[arg-type]
    if model is None:
        instance.given = _for_rules(metrics, f"{path}.metrics")
        return instance
    ignored: set[str] = set()
    _take_row(model, model.row(metrics, f"{path}.metrics", ignored), f"{path}.metrics", instance)
    if ignored:
        instance.notes.append(say_ignored(sorted(ignored)))
    return instance


def _asked(model: FailureModel | None, request: Any, path: str, decision: Policy | None) -> Instance:
    # A feature of that name is the feature, and the field is not there.
    own = getattr(request, "decision", None)
    threshold = 0.0 if model is None else model.threshold_for(own or decision, f"{path}.decision")
    given = request.timestamp
    stamp = None if given is None else parse_stamp(given, f"{path}.timestamp")
    return Instance(str(request.resource_id), getattr(request, "explain", None), own, threshold, {}, stamp=stamp)


def _read_row(
    model: FailureModel | None, reader: RowReader, body: bytes, path: str, decision: Policy | None
) -> Instance:
    request: Any = decode(reader.decoder, body, path)
    row = np.array(reader.values(request), dtype=np.float32)
    instance = _asked(model, request, path, decision)
    if np.isnan(row).all():
        known = listed(reader.known[: reader.width])
        rule = "give metrics (a snapshot), time_series (a window, oldest row first) or a row with at least one metric"
        raise invalid(path, f"{rule}; known are {known}")
    if model is None:
        names = reader.known[: reader.width]
        instance.given = {n: v for n, v in zip(names, row.tolist(), strict=True) if v == v}
        return instance
    _take_row(model, row, path, instance)
    ignored = reader.ignored_in(request)
    if ignored:
        instance.notes.append(say_ignored(ignored))
    return instance


def _take_row(model: FailureModel, row: np.ndarray, path: str, instance: Instance) -> None:
    if np.isnan(row).all():
        raise invalid(path, f"at least one metric is needed; known are {listed(model.names)}")
    instance.row = row
    if instance.stamp is None:
        instance.notes.append(f"snapshots without timestamp count as one every {model.step} s")


def _read_series(model: FailureModel | None, rows: Sequence[Mapping[str, Any]], path: str, instance: Instance) -> None:
    """Put a window's rows on the model's steps."""
    for k, row in enumerate(rows):
        check_resource(row, instance.resource_id, f"{path}[{k}]")
    seconds = row_times(rows, path)
    if model is None:
        for k, row in enumerate(rows):
            instance.given = _for_rules(row, f"{path}[{k}]")
        return
    if seconds is None:
        first = max(0, len(rows) - model.window)
        instance.notes.append(f"time_series without timestamps: rows count as one every {span(model.step)}")
    else:
        first = int(np.argmax(steps_back(seconds, int(seconds[-1]), model.step) < model.window))
        instance.stamp = float(seconds[-1])
        instance.notes += step_notes(seconds[first:], model.step, "the last one")
    if first:
        used = len(rows) - first if seconds is None else f"{model.window} steps"
        instance.notes.append(f"time_series has {len(rows)} rows: the last {used} were used")
    ignored: set[str] = set()
    values = np.stack([model.row(rows[k], f"{path}[{k}]", ignored) for k in range(first, len(rows))])
    if not np.isfinite(values).any():
        raise invalid(path, "at least one value is needed")
    if seconds is None:
        window = np.full((model.window, len(model.names)), np.nan, dtype=np.float32)
        window[model.window - len(values) :] = values
    else:
        window = window_of(seconds[first:], values, model.window, model.step)
    reach = len(rows) if seconds is None else int(steps_back(seconds[:1], int(seconds[-1]), model.step)[0]) + 1
    if reach < model.window:
        instance.notes.append(f"time_series has {reach} of {model.window} rows: the earlier ones are not observed")
    instance.window = window
    if ignored:
        instance.notes.append(say_ignored(sorted(ignored)))


def _for_rules(row: Mapping[str, Any], path: str) -> dict[str, float]:
    """Return what the rules are to judge, checked."""
    metrics = {name: value for name, value in row.items() if name not in RESERVED["failure"]}
    legacy.check(metrics, path)
    return {name: float(value) for name, value in metrics.items() if value is not None}
