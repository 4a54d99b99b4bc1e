"""The statistical anomaly detector behind HTTP: a snapshot against the training telemetry, a series against its own past.

The reference is what `StatisticalAnomalyDetector.learn` stored in the failure predictor's card under ``anomaly``; a card
without it still has the median and spread of every feature. A ``time_series`` is judged by the reference where there is
one for the resource, else by its own history.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from typing import Any

import msgspec
import numpy as np

from aiops_core.rules import ANOMALY_THRESHOLD, Finding, StatisticalAnomalyDetector
from serve_app.answers import legacy
from serve_app.answers.batches import Work
from serve_app.answers.envelope import UNCALIBRATED, close, lowered, quality, severity, share
from serve_app.answers.rows import RESERVED, ignored_of, is_nested, say_ignored
from serve_app.answers.series import check_resource, row_times, step_notes
from serve_app.answers.service import Champion, Service, encode, legacy_block
from serve_app.wire.decoding import decode
from serve_app.wire.features import feature_range
from serve_app.wire.limits import MAX_METRICS, MAX_NAME, MAX_VALUES
from serve_app.wire.problems import invalid
from serve_app.wire.requests import AnomalyBatch, AnomalyRequest, Row
from serve_app.wire.times import iso, parse_stamp
from serve_app.wire.wording import plain_rule

__all__ = ["AnomalyService"]

#: Values that are judged at once: a few milliseconds.
_AT_ONCE = 2_000
#: Rows a series needs before its own history says anything.
_ENOUGH = 8
#: Shares of the threshold above which a score carries a warning, and above which an anomaly is critical.
NEAR, CRITICAL = 0.75, 2.0


@dataclass(slots=True)
class Instance:
    """One instance, read and checked: (n,) values a metric, and the time of each row where it is known."""

    resource_id: str
    sensitivity: float | None
    path: str
    field: str
    series: dict[str, np.ndarray] = made(default_factory=dict)
    times: np.ndarray | None = None
    notes: list[str] = made(default_factory=list)

    @property
    def values(self) -> int:
        """Values kept until the answer."""
        return sum(len(values) for values in self.series.values())


class AnomalyService(Service):
    """Answer ``analyze/anomaly``.

    Parameters
    ----------
    metrics : Metrics
    failure : Service
        Its model's card holds the reference.
    """

    task = "anomaly"
    batch_decoder = msgspec.json.Decoder(AnomalyBatch)

    def __init__(self, metrics: Any, failure: Service) -> None:
        super().__init__(metrics)
        self._failure = failure
        self._single = msgspec.json.Decoder(AnomalyRequest)
        self._block = legacy_block(legacy.ANOMALY, "statistical")
        self._of: Champion | None = None
        self._reference: dict[str, Any] | None = None
        self._row = msgspec.json.Decoder(Row)
        self._units: dict[str, Mapping[str, Any]] = {}
        self._ignored: frozenset[str] = frozenset(RESERVED["failure"]) - {"resource_id", "timestamp"}

    def current(self) -> None:
        """Take over the reference of the failure predictor now in service; there need not be one."""
        champion = self._failure.champion
        if champion is self._of:
            return
        self._of = champion
        card = champion.servable.card if champion is not None else {}
        self._units = {f["name"]: f for f in card.get("features", [])}
        ignored = ignored_of(card) if champion is not None else RESERVED["failure"]
        self._ignored = frozenset(ignored) - {"resource_id", "timestamp"}
        self._reference = card.get("anomaly") or _from_features(card.get("features", []))

    async def answer_one(self, model: None, body: bytes, request_id: str) -> bytes:
        """See `Service.answer_one`."""
        instance = self._read(body, "$")
        return encode(self._envelope(instance, await self._judged(instance), request_id))

    def read(self, model: None, batch: AnomalyBatch, body: bytes, path: str) -> Instance:
        """See `Service.read`."""
        return self._read(body, path)

    async def answer_each(
        self, model: None, batch: AnomalyBatch, instances: list[Instance], ids: list[str], work: Work
    ) -> list[bytes]:
        """See `Service.answer_each`."""
        answers = []
        for k, instance in enumerate(instances):
            answers.append(work.encode(self._envelope(instance, await self._judged(instance), ids[k])))
            await work.rest()
        return answers

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(self, body: bytes, path: str) -> Instance:
        """Read one instance: `metrics`, a `time_series`, or a row of telemetry as it is."""
        form = self._form(body, path)
        if form is None:
            request = decode(self._single, body, path)
        else:
            request = form
        if (request.metrics is None) == (request.time_series is None):
            raise invalid(path, "give either metrics (a snapshot) or time_series (oldest row first)")
        field = "metrics" if request.time_series is None else "time_series"
        rows = [request.metrics or {}] if request.time_series is None else request.time_series
        resource_id = str(request.resource_id)
        instance = Instance(resource_id, request.sensitivity, path, field)
        places = [f"{path}.metrics"] if field == "metrics" else [f"{path}.time_series[{k}]" for k in range(len(rows))]
        if form is not None:
            places = [path]
        for row, where in zip(rows, places, strict=True):
            check_resource(row, resource_id, where)
        passed = {name for row in rows for name in row if name in self._ignored}
        if passed:
            instance.notes.append(say_ignored(sorted(passed)))
        skipped = self._ignored | {"resource_id", "timestamp"}
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in skipped]
        if not names or len(names) > MAX_METRICS or len(names) * len(rows) > MAX_VALUES:
            rule = f"needs at least one metric, and at most {MAX_METRICS:,} metrics and {MAX_VALUES:,} values"
            raise invalid(f"{path}.{field}", rule)
        long = next((name for name in names if len(name) > MAX_NAME), None)
        if long is not None:
            raise invalid(f"{path}.{field}", f"names of metrics have at most {MAX_NAME} characters: {long[:64]!r}…")
        instance.series = {
            name: np.array(
                [self._value(name, row.get(name), bounds, where) for row, where in zip(rows, places, strict=True)]
            )
            for name, bounds in ((name, feature_range(self._units.get(name, {"name": name}))) for name in names)
        }
        self._time(instance, request, rows)
        return instance

    def _form(self, body: bytes, path: str) -> AnomalyRequest | None:
        """Return a flat row as a snapshot; None for a request that names `metrics` or `time_series`."""
        if is_nested(body, self._units):
            return None
        row: dict[str, Any] = decode(self._row, body, path)
        resource_id = row.get("resource_id")
        if resource_id is None or isinstance(resource_id, bool):
            raise invalid(f"{path}.resource_id", "is missing" if resource_id is None else "text is expected")
        if isinstance(resource_id, float):
            resource_id = int(resource_id) if resource_id.is_integer() else str(resource_id)
        metrics = {
            name: value for name, value in row.items() if name not in ("resource_id", "timestamp", "sensitivity")
        }
        if "sensitivity" in self._units and "sensitivity" in row:
            metrics["sensitivity"] = row["sensitivity"]
            row = {name: value for name, value in row.items() if name != "sensitivity"}
        if not metrics:
            raise invalid(
                path, "give metrics (a snapshot), time_series (oldest row first) or a row with at least one metric"
            )
        controls = {name: row[name] for name in ("timestamp", "sensitivity") if row.get(name) is not None}
        try:
            return msgspec.convert({"resource_id": resource_id, "metrics": metrics, **controls}, AnomalyRequest)
        except msgspec.ValidationError as error:
            rule, _, where = str(error).partition(" - at `")
            raise invalid(path + where.rstrip("`").removeprefix("$"), plain_rule(rule)) from None

    def _value(self, name: str, value: Any, bounds: tuple[float, float], path: str) -> float:
        if type(value) is not float:
            if value is None:
                return math.nan
            if not (isinstance(value, bool) and self._units.get(name, {}).get("boolean")):
                got = "bool" if isinstance(value, bool) else "str"
                raise invalid(f"{path}.{name}", plain_rule(f"Expected `float | null`, got `{got}`"))
        low, high = bounds
        if not low <= value <= high:
            raise invalid(f"{path}.{name}", f"{value:g} is not within {low:g} and {high:g}")
        return float(value)

    def _time(self, instance: Instance, request: AnomalyRequest, rows: Sequence[Mapping[str, Any]]) -> None:
        """Set the time of each row: its own, or steps before the newest one's; without either no season is used."""
        champion = self._of
        step = int(champion.servable.step_seconds) if champion is not None else 3600
        if instance.field == "time_series":
            seconds = row_times(rows, f"{instance.path}.time_series")
            if seconds is not None:
                instance.times = seconds.astype("datetime64[s]")
                if champion is not None:
                    instance.notes += [n.split(":")[0] for n in step_notes(seconds, step, "each one")]
                return
        stamp = request.timestamp
        if stamp is None and instance.field == "metrics":
            stamp = rows[0].get("timestamp")
        if stamp is not None:
            last = int(parse_stamp(stamp, f"{instance.path}.timestamp"))
            seconds = np.maximum(last - step * np.arange(len(rows) - 1, -1, -1), 0)
            instance.times = seconds.astype("datetime64[s]")

    # Answering -------------------------------------------------------------------------------------------------------

    async def _judged(self, instance: Instance) -> list[Finding]:
        """Return the findings; of many values from a thread: other requests are answered meanwhile."""
        if instance.values <= _AT_ONCE:
            return self._findings(instance)
        return await asyncio.to_thread(self._findings, instance)

    def _findings(self, instance: Instance) -> list[Finding]:
        series, reference = instance.series, self._reference
        own = instance.field == "time_series" and instance.resource_id not in (reference or {}).get("resources", {})
        if own and len(next(iter(series.values()))) >= _ENOUGH:
            # The past judges the newest rows better than the whole fleet does.
            reference = None
        detector = StatisticalAnomalyDetector(instance.sensitivity or ANOMALY_THRESHOLD)
        return detector.detect(series, timestamps=instance.times, resource_id=instance.resource_id, reference=reference)

    def _envelope(self, instance: Instance, findings: list[Finding], request_id: str) -> dict[str, Any]:
        series, threshold = instance.series, instance.sensitivity or ANOMALY_THRESHOLD
        warnings: list[str] = list(instance.notes)
        judged = [f for f in findings if np.isfinite(f.expected).any()]
        unjudged = [f.metric for f in findings if not np.isfinite(f.expected).any()]
        if unjudged:
            shown = ", ".join(name[:64] for name in unjudged[:20])
            warnings.append(f"nothing to compare with: {shown}; give a time_series or train a failure_predictor")
        anomalies = [entry for finding in judged for entry in self._entries(finding, instance)]
        newest = sorted(judged, key=lambda f: -float(f.score[-1]))
        found = any(bool(f.anomalous[-1]) for f in judged)
        top = float(newest[0].score[-1]) if newest else 0.0
        probability = _probability(top, threshold)
        prediction = "anomaly" if found else "normal"
        stated = probability if found else 1.0 - probability
        if not found and top > NEAR * threshold:
            warnings.append(close("score", top, threshold))
        # Where nothing could be compared, nothing is known.
        factor = UNCALIBRATED * quality(len(unjudged), 0, len(findings)) if judged else 0.0
        missing = share("metrics", len(unjudged), len(findings), "without anything to compare with")
        warnings.append(lowered(factor, "the statistics are not calibrated", missing))
        self.count("statistical", prediction)
        return {
            "resource_id": instance.resource_id,
            "prediction": prediction,
            "probability": round(probability, 6),
            "confidence": round(stated * factor, 6),
            "severity": severity(found, probability, top > CRITICAL * threshold),
            "threshold": threshold,
            "score": _number(top),
            "anomalies": anomalies,
            "drivers": [
                {
                    "feature": f.metric,
                    "value": _number(series[f.metric][-1]),
                    "contribution": _number(f.score[-1]),
                }
                for f in newest[:3]
                if f.score[-1] > 0
            ],
            "recommended_actions": ["investigate"] if found else ["continue_monitoring"],
            "warnings": warnings,
            "request_id": request_id,
            "model": self._block,
        }

    def _entries(self, finding: Finding, instance: Instance) -> list[dict[str, Any]]:
        """Count the anomalies of one metric, and return the newest of them."""
        hits = np.flatnonzero(finding.anomalous).tolist()
        if hits:
            self._count(finding.metric, len(hits))
        values, times = instance.series[finding.metric], instance.times
        return [
            {
                "metric": finding.metric,
                "index": k,
                "timestamp": None if times is None else iso(float(times[k].astype("datetime64[s]").astype(int))),
                "value": _number(values[k]),
                "expected": _number(finding.expected[k]),
                "low": _number(finding.low[k]),
                "high": _number(finding.high[k]),
                "score": _number(finding.score[k]),
            }
            for k in hits[-100:]
        ]

    def _count(self, metric: str, amount: int) -> None:
        # Only names that the model knows become label values: a client must not be able to invent them.
        known = metric if metric in self._units or metric in legacy.RULE_METRICS else "other"
        self.metrics.counter("aiops_anomalies_detected_total", metric=known).inc(amount)


def _from_features(features: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Build a reference without season from the quantiles of a card's features."""
    found = {}
    for feature in features:
        r = feature.get("reference") or {}
        if not all(isinstance(r.get(k), (int, float)) for k in ("median", "p01", "p99")):
            continue
        # p01 and p99 of a normal variable lie 2.326 standard deviations from its median; the wider side counts.
        scale = max(r["p99"] - r["median"], r["median"] - r["p01"]) / 2.326
        scale = max(scale, 0.02 * abs(r["median"]), 1e-9)
        found[feature["name"]] = {
            "median": r["median"],
            "scale": scale,
            "unseasonal_scale": scale,
            "log": False,
            "profile": None,
        }
    return {"metrics": found, "resources": {}} if found else None


def _probability(score: float, threshold: float) -> float:
    """Map a robust z-score to 0..1, 0.5 at the threshold: ordered, not calibrated."""
    return 1.0 / (1.0 + math.exp(-min(max(score - threshold, -30.0), 30.0)))


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
