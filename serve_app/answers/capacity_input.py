"""What a request to the capacity forecaster holds: any form of history, put on the model's steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from aiops_core.servable.series import means_by_step
from serve_app.answers.rows import ignored_of, say_ignored
from serve_app.answers.series import check_order, check_resource, row_times, step_notes
from serve_app.wire.decoding import decode, unknown_names
from serve_app.wire.features import feature_range
from serve_app.wire.problems import invalid
from serve_app.wire.requests import CapacityRequest, Point
from serve_app.wire.times import parse_stamp
from serve_app.wire.wording import listed, plain_rule, span

__all__ = ["Instance", "read"]

_DAY = 86_400
_SINGLE = msgspec.json.Decoder(CapacityRequest)
#: Values, whole seconds (ascending) or None, and the path for errors; there ``[]`` stands for a row.
_Column = tuple[np.ndarray, np.ndarray | None, str]


@dataclass
class Instance:
    """One instance, read."""

    request: CapacityRequest
    path: str
    history: dict[str, np.ndarray] = field(default_factory=dict)
    last: int = 0
    steps: int = 1
    warnings: list[str] = field(default_factory=list)
    forecast: dict[str, np.ndarray] = field(default_factory=dict)
    #: As the answer states it.
    alarm: bool = False
    probability: float | None = None

    @property
    def values(self) -> int:
        """Values kept until the answer."""
        return sum(len(values) for values in self.history.values())


def read(servable: Any, body: bytes, path: str) -> Instance:
    """Put every accepted form of history on the model's grid."""
    request = decode(_SINGLE, body, path)
    step = servable.step_seconds
    instance = Instance(request, path)
    columns = _columns(servable, instance, path)
    if not columns:
        raise invalid(path, "historical_data or current_metrics is needed, with at least one metric")
    known = [*servable.targets, *(n for n in servable.exogenous if n not in servable.targets)]
    problem = unknown_names(columns, known, f"{path}.historical_data", "metric")
    if problem is not None:
        raise problem
    _check_values(servable, columns)
    if not any(np.isfinite(values).any() for name, (values, _, _) in columns.items() if name in servable.targets):
        raise invalid(path, f"at least one value is needed of {listed(servable.targets)}")
    timed = [s for _, s, _ in columns.values() if s is not None and len(s)]
    if timed:
        instance.last = int(max(s[-1] for s in timed))
        if any(s is None for _, s, _ in columns.values()):
            instance.warnings.append("metrics without timestamps are taken to end with those that have them")
        for note in dict.fromkeys(n for s in timed for n in step_notes(s, step, "the mean")):
            instance.warnings.append(note)
    else:
        instance.last = int(time.time()) // step * step
        instance.warnings.append(f"no timestamps: values are taken as one every {span(step)}, the last one now")
    for name, (values, when, _) in columns.items():
        if when is None:
            instance.history[name] = values[-servable.context :]
        else:
            instance.history[name] = means_by_step(when, values, instance.last, step, servable.context)
    longest = max(int(np.isfinite(h).sum()) for n, h in instance.history.items() if n in servable.targets)
    if longest < servable.season:
        instance.warnings.append(
            f"only {longest} of {servable.season} steps of a season are known: the forecast leans on the usual pattern"
        )
    wanted = max(1, round(request.forecast_days * _DAY / step))
    instance.steps = min(wanted, servable.horizon)
    if wanted > servable.horizon:
        instance.warnings.append(f"the model reaches {span(servable.horizon * step)} ahead: the forecast ends there")
    for name in request.thresholds or {}:
        if name not in instance.history or name not in servable.targets:
            raise invalid(f"{path}.thresholds.{name}", "is not one of the metrics to forecast")
    return instance


def _columns(servable: Any, instance: Instance, path: str) -> dict[str, _Column]:
    """Return what a request holds, by metric."""
    request = instance.request
    given = request.historical_data or {}
    columns: dict[str, _Column] = {}
    if isinstance(given, list):
        columns = _table(servable, instance, given, f"{path}.historical_data")
    else:
        # Times that all metrics share are read once.
        shared = None
        if request.timestamps is not None:
            where = f"{path}.timestamps"
            stamps = [parse_stamp(s, f"{where}[{i}]") for i, s in enumerate(request.timestamps)]
            check_order(stamps, where, "")
            shared = np.array(stamps).astype(np.int64)
        for name, values in given.items():
            columns[name] = _column(values, shared, f"{path}.historical_data.{name}")
    for name, value in (request.current_metrics or {}).items():
        if name not in columns:
            here = f"{path}.current_metrics.{name}"
            columns[name] = (np.array([math.nan if value is None else value]), None, here)
    return columns


def _table(servable: Any, instance: Instance, rows: list[dict[str, Any]], path: str) -> dict[str, _Column]:
    """Read rows of a usage table: every row holds its time, the metrics, and columns that are not used."""
    names = [*servable.targets, *(n for n in servable.exogenous if n not in servable.targets)]
    ignored, used = set(ignored_of(servable.card)), set()
    table = {name: np.full(len(rows), math.nan) for name in names}
    booleans = {f["name"] for f in servable.card["features"] if f.get("boolean")}
    passed: set[str] = set()
    resource_id = str(instance.request.resource_id)
    for k, row in enumerate(rows):
        check_resource(row, resource_id, f"{path}[{k}]")
        for name, value in row.items():
            if name in table:
                used.add(name)
                if value is None:
                    continue
                if type(value) is not float and not (isinstance(value, bool) and name in booleans):
                    got = "bool" if isinstance(value, bool) else "str"
                    raise invalid(f"{path}[{k}].{name}", plain_rule(f"Expected `float | null`, got `{got}`"))
                table[name][k] = value
            elif name in ignored:
                passed.add(name)
            elif name not in ("resource_id", "timestamp"):
                strange = [n for n in row if n not in ignored and n not in ("resource_id", "timestamp")]
                raise unknown_names(strange, names, f"{path}[{k}]", "metric") or invalid(f"{path}[{k}]", "unknown")
    passed -= {"resource_id", "timestamp"}
    if passed:
        instance.warnings.append(say_ignored(sorted(passed)))
    seconds = row_times(rows, path)
    return {name: (table[name], seconds, f"{path}[].{name}") for name in names if name in used}


def _check_values(servable: Any, columns: dict[str, _Column]) -> None:
    units = {f["name"]: f for f in servable.card["features"]}
    for name, (values, _, where) in columns.items():
        low, high = feature_range(units.get(name, {}))
        bad = np.flatnonzero((values < low) | (values > high))
        if len(bad):
            at = where.replace("[]", f"[{bad[0]}]", 1) if "[]" in where else f"{where}[{bad[0]}]"
            raise invalid(at, f"{values[bad[0]]:g} is not within {low:g} and {high:g}")


def _column(given: Any, shared: np.ndarray | None, path: str) -> _Column:
    """Return values and times (seconds, ascending) of one metric."""
    items = given if isinstance(given, list) else [given]
    values = np.empty(len(items))
    stamps: list[float | None] = []
    for i, item in enumerate(items):
        if isinstance(item, Point):
            values[i] = math.nan if item.value is None else item.value
            stamps.append(None if item.timestamp is None else parse_stamp(item.timestamp, f"{path}[{i}].timestamp"))
        else:
            values[i] = math.nan if item is None else item
            stamps.append(None)
    have = [s for s in stamps if s is not None]
    if have and len(have) < len(stamps):
        raise invalid(path, "either every point has a timestamp or none")
    if have:
        check_order(have, path)
        return values, np.array(have).astype(np.int64), path
    if shared is not None and len(shared) != len(values):
        raise invalid(path, f"has {len(values)} values, but there are {len(shared)} timestamps")
    return values, shared, path
