"""The capacity forecaster behind HTTP: any form of history in, bands, time to a threshold and a recommendation out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from aiops_core.servable.series import means_by_step
from serve_app.answers.batches import read_each, refuse, said
from serve_app.answers.envelope import lowered, quality, severity, share, span
from serve_app.answers.outlook import LIKELY, Outlook, default_threshold, recommend, warn
from serve_app.answers.rows import ignored_of, say_ignored
from serve_app.answers.series import check_order, check_resource, row_times, step_notes
from serve_app.answers.service import Live, Service, breathe
from serve_app.wire.decoding import decode, is_batch, unknown_names
from serve_app.wire.features import feature_range
from serve_app.wire.problems import Problem, invalid
from serve_app.wire.requests import CapacityBatch, CapacityRequest, Point
from serve_app.wire.times import parse_stamp
from serve_app.wire.wording import listed, plain_rule
from serve_app.wire.wording import span as _span

__all__ = ["CapacityService"]

#: A crossing within a day is critical.
SOON_HOURS = 24.0
MAX_POINTS = 2_000_000
#: (series, step) pairs forecast before other requests get a turn.
_CHUNK_PAIRS = 8_192
_DAY = 86_400
#: Recommendation to the action of the catalogue.
_ACTIONS = {
    "scale_up": "scale_up",
    "plan_capacity": "plan_capacity",
    "scale_down": "scale_down",
    "maintain": "continue_monitoring",
}
_encode = msgspec.json.Encoder().encode
#: Values, whole seconds (ascending) or None, and the path for errors; there ``[]`` stands for a row.
_Column = tuple[np.ndarray, np.ndarray | None, str]


@dataclass
class _Job:
    """One instance, read."""

    request: CapacityRequest
    path: str
    history: dict[str, np.ndarray] = field(default_factory=dict)
    last: int = 0
    steps: int = 1
    warnings: list[str] = field(default_factory=list)
    forecast: dict[str, np.ndarray] = field(default_factory=dict)


class CapacityService(Service):
    """Answer ``predict/capacity``."""

    task = "capacity"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._single = msgspec.json.Decoder(CapacityRequest)
        self._batch = msgspec.json.Decoder(CapacityBatch)
        self._block = msgspec.Raw(b"null")

    def prepare(self, live: Live) -> None:
        """See `Service.prepare`."""
        servable = live.servable
        history = np.ones((1, 2))
        servable.forecast(history, None, [1, min(2, servable.horizon)], servable.targets[0])
        servable.explain(history, None, 1, servable.targets[0])
        self._block = msgspec.Raw(_encode(live.block))

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """See `Service.answer`."""
        live = self.live
        if live is None:
            raise self.no_champion()
        if not is_batch(body):
            job = self._read(live.servable, decode(self._single, body), "$")
            await self._forecast(live.servable, [job])
            return _encode(self._envelope(live, job, request_id, job.request.explain is not False))
        batch = decode(self._batch, body)

        def read(raw: bytes, path: str) -> _Job:
            return self._read(live.servable, decode(self._single, raw, path), path)

        found = await read_each(batch.instances, read)
        refuse(found, batch.partial)
        jobs = [job for job in found if isinstance(job, _Job)]
        if sum(job.steps * len(job.history) for job in jobs) > MAX_POINTS:
            raise invalid("$.instances", f"ask for at most {MAX_POINTS} forecast points in one request")
        await self._forecast(live.servable, jobs)
        out = []
        for i, item in enumerate(found):
            if isinstance(item, Problem):
                out.append(said(item))
                continue
            wanted = batch.explain if item.request.explain is None else item.request.explain
            out.append(self._envelope(live, item, f"{request_id}-{i}", wanted))
            await breathe(i)
        return _encode({"predictions": out})

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(self, servable: Any, request: CapacityRequest, path: str) -> _Job:
        """Put every accepted form of history on the model's grid."""
        step = servable.step_seconds
        job = _Job(request, path)
        columns = self._columns(servable, job, path)
        if not columns:
            raise invalid(path, "historical_data or current_metrics is needed, with at least one metric")
        known = [*servable.targets, *(n for n in servable.exogenous if n not in servable.targets)]
        problem = unknown_names(columns, known, f"{path}.historical_data", "metric")
        if problem is not None:
            raise problem
        self._check_values(servable, columns)
        if not any(np.isfinite(values).any() for name, (values, _, _) in columns.items() if name in servable.targets):
            raise invalid(path, f"at least one value is needed of {listed(servable.targets)}")
        timed = [s for _, s, _ in columns.values() if s is not None and len(s)]
        if timed:
            job.last = int(max(s[-1] for s in timed))
            if any(s is None for _, s, _ in columns.values()):
                job.warnings.append("metrics without timestamps are taken to end with those that have them")
            for note in dict.fromkeys(n for s in timed for n in step_notes(s, step, "the mean")):
                job.warnings.append(note)
        else:
            job.last = int(time.time()) // step * step
            job.warnings.append(f"no timestamps: values are taken as one every {_span(step)}, the last one now")
        for name, (values, when, _) in columns.items():
            if when is None:
                job.history[name] = values[-servable.context :]
            else:
                job.history[name] = means_by_step(when, values, job.last, step, servable.context)
        longest = max(int(np.isfinite(h).sum()) for n, h in job.history.items() if n in servable.targets)
        if longest < servable.season:
            job.warnings.append(
                f"only {longest} of {servable.season} steps of a season are known: the forecast leans on the usual pattern"
            )
        wanted = max(1, round(request.forecast_days * _DAY / step))
        job.steps = min(wanted, servable.horizon)
        if wanted > servable.horizon:
            job.warnings.append(f"the model reaches {_span(servable.horizon * step)} ahead: the forecast ends there")
        for name in request.thresholds or {}:
            if name not in job.history or name not in servable.targets:
                raise invalid(f"{path}.thresholds.{name}", "is not one of the metrics to forecast")
        return job

    def _columns(self, servable: Any, job: _Job, path: str) -> dict[str, _Column]:
        """Return what a request holds, by metric."""
        request = job.request
        given = request.historical_data or {}
        columns: dict[str, _Column] = {}
        if isinstance(given, list):
            columns = self._table(servable, job, given, f"{path}.historical_data")
        else:
            # Times that all metrics share are read once.
            shared = None
            if request.timestamps is not None:
                where = f"{path}.timestamps"
                stamps = [parse_stamp(s, f"{where}[{i}]") for i, s in enumerate(request.timestamps)]
                check_order(stamps, where, "")
                shared = np.array(stamps).astype(np.int64)
            for name, values in given.items():
                columns[name] = self._column(values, shared, f"{path}.historical_data.{name}")
        for name, value in (request.current_metrics or {}).items():
            if name not in columns:
                here = f"{path}.current_metrics.{name}"
                columns[name] = (np.array([math.nan if value is None else value]), None, here)
        return columns

    def _table(self, servable: Any, job: _Job, rows: list[dict[str, Any]], path: str) -> dict[str, _Column]:
        """Read rows of a usage table: every row holds its time, the metrics, and columns that are not used."""
        names = [*servable.targets, *(n for n in servable.exogenous if n not in servable.targets)]
        ignored, used = set(ignored_of(servable.card)), set()
        table = {name: np.full(len(rows), math.nan) for name in names}
        booleans = {f["name"] for f in servable.card["features"] if f.get("boolean")}
        passed: set[str] = set()
        resource_id = str(job.request.resource_id)
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
            job.warnings.append(say_ignored(sorted(passed)))
        seconds = row_times(rows, path)
        return {name: (table[name], seconds, f"{path}[].{name}") for name in names if name in used}

    @staticmethod
    def _check_values(servable: Any, columns: dict[str, _Column]) -> None:
        units = {f["name"]: f for f in servable.card["features"]}
        for name, (values, _, where) in columns.items():
            low, high = feature_range(units.get(name, {}))
            bad = np.flatnonzero((values < low) | (values > high))
            if len(bad):
                at = where.replace("[]", f"[{bad[0]}]", 1) if "[]" in where else f"{where}[{bad[0]}]"
                raise invalid(at, f"{values[bad[0]]:g} is not within {low:g} and {high:g}")

    def _column(self, given: Any, shared: np.ndarray | None, path: str) -> _Column:
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

    # Forecasting -----------------------------------------------------------------------------------------------------

    async def _forecast(self, servable: Any, jobs: list[_Job]) -> None:
        """Forecast all jobs, series of one target and length of forecast together."""
        groups: dict[tuple[str, int], list[_Job]] = {}
        for job in jobs:
            for name in job.history:
                if name in servable.targets and np.isfinite(job.history[name]).any():
                    groups.setdefault((name, job.steps), []).append(job)
        for (name, steps), members in groups.items():
            size = max(1, _CHUNK_PAIRS // steps)
            ahead = np.arange(1, steps + 1)
            for start in range(0, len(members), size):
                part = members[start : start + size]
                history = _stack([job.history[name] for job in part])
                last = np.array([job.last for job in part], dtype="datetime64[s]")
                others = {
                    other: _stack([job.history.get(other, np.array([math.nan])) for job in part])
                    for other in servable.exogenous
                    if other != name and any(other in job.history for job in part)
                }
                bands = servable.forecast(history, last, ahead, name, others or None)
                for job, band in zip(part, bands, strict=True):
                    job.forecast[name] = band
                await breathe(0)

    def _envelope(self, live: Live, job: _Job, request_id: str, explain: bool) -> dict[str, Any]:
        servable, request = live.servable, job.request
        step = servable.step_seconds
        units = {f["name"]: f for f in servable.card["features"]}
        when = job.last + step * np.arange(1, job.steps + 1)
        names = [f"{s}Z" for s in np.datetime_as_string(when.astype("datetime64[s]"))]
        forecast, outlooks = {}, {}
        for metric, bands in job.forecast.items():
            # Judged by what is shown, so that a reader of the bands comes to the same verdict.
            bands = np.round(bands, 7)
            forecast[metric] = [
                {"timestamp": t, "p10": a, "p50": b, "p90": c}
                for t, (a, b, c) in zip(names, bands.tolist(), strict=True)
            ]
            limit = (request.thresholds or {}).get(metric, default_threshold(units.get(metric, {})))
            if limit is not None:
                known = job.history[metric]
                outlooks[metric] = Outlook(bands, limit, float(known[np.isfinite(known)][-1]), job.last, step)
        probability = max((o.chance for o in outlooks.values()), default=None)
        first = max(outlooks or job.forecast, key=lambda m: outlooks[m].chance if outlooks else 0.0)
        recommendation = recommend(outlooks, _span(job.steps * step))
        observed = max(int(np.isfinite(h).sum()) for n, h in job.history.items() if n in job.forecast)
        absent = [name for name in servable.targets if name not in job.forecast]
        warnings = list(job.warnings)
        if absent:
            warnings.append(f"not given: {', '.join(absent)}; not forecast")
        warnings += warn(outlooks, [m for m in job.forecast if m not in outlooks])
        outside = 0
        for metric in job.forecast:
            reference = units.get(metric, {}).get("reference") or {}
            values = job.history[metric][np.isfinite(job.history[metric])]
            low, high = reference.get("min", -math.inf), reference.get("max", math.inf)
            beyond = values[(values < low) | (values > high)]
            if len(beyond):
                outside += 1
                warnings.append(f"{metric} = {beyond[-1]:g} is outside the training range {span(low, high)}")
        verdict = _Verdict.of(probability, observed, outside, servable.season, warnings)
        drivers: list[Any] = []
        if explain:
            bands = job.forecast[first]
            crossing = int(np.argmax(bands[:, 1]))
            others = {n: job.history[n][None] for n in servable.exogenous if n != first and n in job.history}
            last = np.array([job.last], dtype="datetime64[s]")
            drivers = servable.explain(job.history[first][None], last, crossing + 1, first, exogenous=others or None)
        self.count(str(servable.card.get("kind")), verdict.prediction)
        soon = any(o.hours is not None and o.hours <= SOON_HOURS for o in outlooks.values())
        return {
            "resource_id": str(request.resource_id),
            "prediction": verdict.prediction,
            "probability": None if probability is None else round(probability, 6),
            "confidence": verdict.confidence,
            "severity": severity(verdict.alarm, probability or 0.0, soon),
            "threshold": None if probability is None else LIKELY,
            "forecast": forecast,
            "time_to_threshold": {metric: outlook.reach() for metric, outlook in outlooks.items()},
            "recommendation": recommendation,
            "drivers": drivers,
            "recommended_actions": [_ACTIONS[recommendation["action"]]],
            "warnings": warnings,
            "request_id": request_id,
            "model": self._block,
        }


def _stack(series: list[np.ndarray]) -> np.ndarray:
    """Align series of different length at their end, NaN in front."""
    length = max(len(s) for s in series)
    out = np.full((len(series), length), np.nan)
    for row, values in zip(out, series, strict=True):
        row[length - len(values) :] = values
    return out


@dataclass
class _Verdict:
    prediction: str
    alarm: bool
    confidence: float | None

    @classmethod
    def of(cls, probability: float | None, observed: int, outside: int, season: int, warnings: list[str]) -> _Verdict:
        """Decide, and add to the warnings why the confidence is lower than the probability."""
        if probability is None:
            return cls("forecast_only", False, None)
        alarm = probability >= LIKELY
        outside = outside if observed >= season else 0
        factor = quality(max(season - observed, 0), outside, season)
        if factor < 1.0:
            missing = share("steps of a season", max(season - observed, 0), season, "not given")
            warnings.append(lowered(factor, missing, "values outside the training range" if outside else ""))
        prediction = "threshold_reached" if alarm else "within_capacity"
        return cls(prediction, alarm, round((probability if alarm else 1.0 - probability) * factor, 6))
