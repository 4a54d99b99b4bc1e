"""The statistical anomaly detector: by what training telemetry says of the hour, or by the past of the series itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiops_core.errors import UsageError
from aiops_core.rules.anomaly.past import judge, slots_of
from aiops_core.rules.anomaly.reference import backward, forward, reference_of

#: Robust z-score from which a point is anomalous. A normal variable never gets there (once in 1.7 million points), but
#: metrics have heavy tails: up to 6 % of the values on healthy hours of the synthetic fleet do - batch jobs, deploys
#: and load spikes, which are unusual indeed.
ANOMALY_THRESHOLD = 5.0
#: Resources that get statistics of their own: keeps the reference of a large fleet small.
MAX_RESOURCES = 200
#: Rows, evenly spread, from which the statistics of the fleet are taken.
FLEET_ROWS = 200_000
#: Values below which a series says nothing of itself.
FEWEST = 3


@dataclass(frozen=True)
class Finding:
    """Anomalies of one metric.

    Attributes
    ----------
    metric : str
    score : ndarray, (n,)
        Robust standard deviations, >= 0; higher is more anomalous; 0 where the value is missing. Without a reference
        it rises within the range too, where several values together are unusual.
    anomalous : ndarray, (n,), bool
        ``score`` above the threshold.
    expected, low, high : ndarray, (n,)
        Usual value and the range within the threshold, in the metric's unit; NaN without statistics.
    """

    metric: str
    score: np.ndarray
    anomalous: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray


class StatisticalAnomalyDetector:
    """Distance from the usual value, in robust standard deviations.

    With statistics of training telemetry (`learn`) the usual value is the median of the same hour of the day, working
    days and weekends apart; the spread is the median absolute deviation from it over all hours, so that past anomalies
    hardly move either; skewed metrics are judged on a log scale. Without, each value of a series is judged by those
    before it, and never by what follows; see `aiops_core.rules.anomaly.past`.
    """

    name = "statistical_anomaly_detector"

    def __init__(self, threshold: float = ANOMALY_THRESHOLD) -> None:
        if not threshold > 0:
            raise UsageError(f"the anomaly threshold must be positive, not {threshold}")
        self.threshold = threshold

    def learn(self, telemetry: Any, *, max_resources: int = MAX_RESOURCES) -> dict[str, Any]:
        """Learn the reference of every numeric column from training telemetry.

        Parameters
        ----------
        telemetry : DataFrame
            Contract table with ``resource_id`` and ``timestamp``.
        max_resources : int
            How many resources, in the order of the table, get statistics of their own; about 4 kB of JSON each.

        Returns
        -------
        dict
            Ready for JSON: ``{"metrics": {name: statistics}, "resources": {id: {name: statistics}}}``. ``metrics``
            describes the fleet and judges resources that have none of their own.
        """
        metrics = list(telemetry.select_dtypes("number").columns)
        resources = telemetry["resource_id"].to_numpy(dtype=object)
        slots = slots_of(telemetry["timestamp"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
        values = telemetry[metrics].to_numpy(dtype=float, na_value=np.nan)
        cuts = np.flatnonzero(np.r_[True, resources[1:] != resources[:-1], True])
        own: dict[str, dict[str, Any]] = {}
        for a, b in zip(cuts[:-1], cuts[1:], strict=True):
            if len(own) == max_resources:
                break
            own[str(resources[a])] = reference_of(values[a:b], slots[a:b], metrics)
        step = max(1, len(values) // FLEET_ROWS)
        while math.gcd(step, 168) > 1:  # else some hours of the week would never be looked at
            step += 1
        return {"metrics": reference_of(values[::step], slots[::step], metrics), "resources": own}

    def detect(
        self,
        series: Mapping[str, Sequence[float | None] | np.ndarray],
        *,
        timestamps: np.ndarray | None = None,
        resource_id: str | None = None,
        reference: Mapping[str, Any] | None = None,
    ) -> list[Finding]:
        """Score every point of every metric.

        Parameters
        ----------
        series : mapping of str to sequence of float, (n,)
            Values by metric; None or NaN is missing.
        timestamps : ndarray, (n,), datetime64, optional
            UTC. Without them no season is used.
        resource_id : str, optional
            Chooses the resource's own statistics, if the reference has them.
        reference : mapping, optional
            From `learn`. Metrics it lacks, or all without it, are judged by their own past.

        Returns
        -------
        list of Finding
            One a metric, in the order of ``series``.

        Raises
        ------
        UsageError
            If a series and the timestamps differ in length.
        """
        slots = None if timestamps is None else slots_of(np.asarray(timestamps))
        known: dict[str, Any] = {}
        if reference is not None:
            known = {**reference.get("metrics", {}), **reference.get("resources", {}).get(resource_id, {})}
        findings = []
        for metric, given in series.items():
            if not isinstance(given, np.ndarray):
                given = np.array([np.nan if v is None else v for v in given])
            values = given.astype(float)
            if slots is not None and len(slots) != len(values):
                raise UsageError(f"metric '{metric}' has {len(values)} values but there are {len(slots)} timestamps")
            statistics = known.get(metric)
            if statistics is None:
                findings.append(self._by_past(metric, values, slots))
            else:
                findings.append(self._by_reference(metric, values, slots, statistics))
        return findings

    def _by_past(self, metric: str, values: np.ndarray, slots: np.ndarray | None) -> Finding:
        seen = np.isfinite(values)
        score = np.zeros(len(values))
        expected, low, high = np.full((3, len(values)), np.nan)
        if seen.sum() >= FEWEST:
            shown = values[seen]
            past = judge(shown, None if slots is None else slots[seen])
            score[seen], expected[seen] = past.score, past.expected
            low[seen] = past.expected - self.threshold * past.below
            high[seen] = past.expected + self.threshold * past.above
            if shown.min() >= 0:
                low = np.maximum(low, 0.0)
        return Finding(metric, score, score > self.threshold, expected, low, high)

    def _by_reference(
        self, metric: str, values: np.ndarray, slots: np.ndarray | None, statistics: Mapping[str, Any]
    ) -> Finding:
        profile = statistics["profile"]
        if slots is None or profile is None:
            centre = np.full(len(values), statistics["median"])
        else:
            centre = np.asarray(profile, dtype=float)[slots]
        spread = statistics["scale"] if profile is None or slots is not None else statistics["unseasonal_scale"]
        log = bool(statistics["log"])
        score = np.nan_to_num(np.abs(forward(values, log) - centre) / spread, nan=0.0)
        low, high = (backward(centre + sign * self.threshold * spread, log) for sign in (-1, 1))
        return Finding(metric, score, score > self.threshold, backward(centre, log), low, high)
