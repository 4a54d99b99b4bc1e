"""The statistical anomaly detector behind HTTP: a snapshot against the training telemetry, a series against its own past.

The reference is what `StatisticalAnomalyDetector.learn` stored in the failure predictor's card under ``anomaly``; a card
without it still has the median and spread of every feature. A ``time_series`` is judged by the reference where there is
one for the resource, else by its own history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from aiops_core.rules import ANOMALY_THRESHOLD, StatisticalAnomalyDetector
from serve_app import legacy
from serve_app.answers import UNCALIBRATED, close, iso, lowered, parse_stamp, quality, severity, share
from serve_app.problems import invalid
from serve_app.schemas import MAX_SERIES, AnomalyBatch, AnomalyRequest, feature_range
from serve_app.services import Live, Service, breathe, decode, is_batch, legacy_block

__all__ = ["AnomalyService"]

_encode = msgspec.json.Encoder().encode
#: Rows a series needs before its own history says anything.
_ENOUGH = 8
#: Shares of the threshold above which a score carries a warning, and above which an anomaly is critical.
NEAR, CRITICAL = 0.75, 2.0


class AnomalyService(Service):
    """Answer ``analyze/anomaly``.

    Parameters
    ----------
    metrics : Metrics
    failure : Service
        Its model's card holds the reference.
    """

    task = "anomaly"

    def __init__(self, metrics: Any, failure: Service) -> None:
        super().__init__(metrics)
        self._failure = failure
        self._single = msgspec.json.Decoder(AnomalyRequest)
        self._batch = msgspec.json.Decoder(AnomalyBatch)
        self._block = msgspec.Raw(_encode(legacy_block(legacy.ANOMALY, "statistical")))
        self._of: Live | None = None
        self._reference: dict[str, Any] | None = None
        self._units: dict[str, Mapping[str, Any]] = {}

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """See `Service.answer`."""
        self._refresh()
        if not is_batch(body):
            return _encode(self._judge(decode(self._single, body), request_id, "$"))
        batch = decode(self._batch, body)
        out = []
        for i, request in enumerate(batch.instances):
            out.append(self._judge(request, f"{request_id}-{i}", f"$.instances[{i}]"))
            await breathe(i)
        return _encode({"predictions": out})

    def _refresh(self) -> None:
        """Take over the reference of the failure predictor now in service."""
        live = self._failure.live
        if live is self._of:
            return
        self._of = live
        card = live.servable.card if live is not None else {}
        self._units = {f["name"]: f for f in card.get("features", [])}
        self._reference = card.get("anomaly") or _from_features(card.get("features", []))

    def _judge(self, request: AnomalyRequest, request_id: str, path: str) -> dict[str, Any]:
        if (request.metrics is None) == (request.time_series is None):
            raise invalid(path, "give either metrics (a snapshot) or time_series (oldest row first)")
        field = "metrics" if request.time_series is None else "time_series"
        rows = [request.metrics or {}] if request.time_series is None else request.time_series
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names or len(names) * len(rows) > 20 * MAX_SERIES:
            raise invalid(f"{path}.{field}", "needs at least one metric, and at most 400,000 values")
        series = {name: np.full(len(rows), np.nan) for name in names}
        for k, row in enumerate(rows):
            for name, value in row.items():
                if value is None:
                    continue
                low, high = feature_range(self._units.get(name, {"name": name}))
                if not low <= value <= high:
                    place = f"{path}.{field}.{name}" if field == "metrics" else f"{path}.{field}[{k}].{name}"
                    raise invalid(place, f"{value:g} is not within {low:g} and {high:g}")
                series[name][k] = value
        return self._envelope(request, series, request_id, path, field)

    def _envelope(
        self, request: AnomalyRequest, series: dict[str, np.ndarray], request_id: str, path: str, field: str
    ) -> dict[str, Any]:
        n = len(next(iter(series.values())))
        warnings: list[str] = []
        times, step = self._times(request, n, path)
        reference = self._reference
        own = field == "time_series" and request.resource_id not in (reference or {}).get("resources", {})
        if own and n >= _ENOUGH:
            # The past judges the newest rows better than the whole fleet does.
            reference = None
        detector = StatisticalAnomalyDetector(request.sensitivity or ANOMALY_THRESHOLD)
        findings = detector.detect(series, timestamps=times, resource_id=request.resource_id, reference=reference)
        judged = [f for f in findings if np.isfinite(f.expected).any()]
        unjudged = [f.metric for f in findings if not np.isfinite(f.expected).any()]
        if unjudged:
            shown = ", ".join(name[:64] for name in unjudged[:20])
            warnings.append(f"nothing to compare with: {shown}; give a time_series or train a failure_predictor")
        anomalies: list[dict[str, Any]] = []
        for finding in judged:
            hits = np.flatnonzero(finding.anomalous).tolist()
            if hits:
                self._count(finding.metric, len(hits))
            for k in hits[-100:]:
                anomalies.append(
                    {
                        "metric": finding.metric,
                        "index": k,
                        "timestamp": None
                        if times is None
                        else iso(float(times[k].astype("datetime64[s]").astype(int))),
                        "value": _number(series[finding.metric][k]),
                        "expected": _number(finding.expected[k]),
                        "low": _number(finding.low[k]),
                        "high": _number(finding.high[k]),
                        "score": _number(finding.score[k]),
                    }
                )
        newest = sorted(judged, key=lambda f: -float(f.score[-1]))
        found = any(bool(f.anomalous[-1]) for f in judged)
        top = float(newest[0].score[-1]) if newest else 0.0
        probability = _probability(top, detector.threshold)
        prediction = "anomaly" if found else "normal"
        stated = probability if found else 1.0 - probability
        if not found and top > NEAR * detector.threshold:
            warnings.append(close("score", top, detector.threshold))
        # Where nothing could be compared, nothing is known.
        factor = UNCALIBRATED * quality(len(unjudged), 0, len(findings)) if judged else 0.0
        missing = share("metrics", len(unjudged), len(findings), "without anything to compare with")
        warnings.append(lowered(factor, "the statistics are not calibrated", missing))
        self.count("statistical", prediction)
        return {
            "resource_id": request.resource_id,
            "prediction": prediction,
            "probability": round(probability, 6),
            "confidence": round(stated * factor, 6),
            "severity": severity(found, probability, top > CRITICAL * detector.threshold),
            "threshold": detector.threshold,
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

    def _times(self, request: AnomalyRequest, n: int, path: str) -> tuple[np.ndarray | None, int]:
        """Return the time of each row when the newest one's is given; without it no season is used."""
        live = self._of
        step = int(live.servable.step_seconds) if live is not None else 3600
        if request.timestamp is None:
            return None, step
        last = int(parse_stamp(request.timestamp, f"{path}.timestamp"))
        seconds = np.maximum(last - step * np.arange(n - 1, -1, -1), 0)
        return seconds.astype("datetime64[s]"), step

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
