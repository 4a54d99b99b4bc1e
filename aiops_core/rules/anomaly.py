"""Anomalies: distance from the usual value of the hour, by robust statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiops_core.errors import UsageError

#: Robust z-score from which a point is anomalous. A normal variable never gets there (once in 1.7 million points), but
#: metrics have heavy tails: up to 6 % of the values on healthy hours of the synthetic fleet do - batch jobs, deploys
#: and load spikes, which are unusual indeed.
ANOMALY_THRESHOLD = 5.0
#: Median absolute deviation of a normal variable times this is its standard deviation.
MAD_TO_SD = 1.4826
#: Smallest scale, as a share of the metric's median: a constant metric would turn every wiggle into an anomaly.
SCALE_FLOOR = 0.02
#: A season needs this many points in each hour of the day; with fewer the plain median is safer.
POINTS_PER_SLOT = 3
#: Resources that get statistics of their own: keeps the reference of a large fleet small.
MAX_RESOURCES = 200
#: Rows, evenly spread, from which the statistics of the fleet are taken.
FLEET_ROWS = 200_000
#: Working-day hours 0-23, then weekend hours 24-47.
SLOTS = 48
#: A non-negative metric whose upper tail is this much longer than its lower one is judged on a log scale.
SKEWED = 3.0


@dataclass(frozen=True)
class Finding:
    """Anomalies of one metric.

    Attributes
    ----------
    metric : str
    score : ndarray, (n,)
        Robust z-score, >= 0; higher is more anomalous; 0 where the value is missing.
    anomalous : ndarray, (n,), bool
        ``score`` above the threshold.
    expected, low, high : ndarray, (n,)
        Seasonal median and the range within the threshold, in the metric's unit; NaN without statistics.
    """

    metric: str
    score: np.ndarray
    anomalous: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray


class StatisticalAnomalyDetector:
    """Robust seasonal statistics: distance from the usual value of the hour, in robust standard deviations.

    The usual value is the median of the same hour of the day, working days and weekends apart; the spread is the
    median absolute deviation from it over all hours, so that past anomalies hardly move either. Skewed metrics are
    judged on a log scale. Statistics come from training telemetry (`learn`) or, without any, from the series itself.
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
        slots = _slots(telemetry["timestamp"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
        values = telemetry[metrics].to_numpy(dtype=float, na_value=np.nan)
        cuts = np.flatnonzero(np.r_[True, resources[1:] != resources[:-1], True])
        own: dict[str, dict[str, Any]] = {}
        for a, b in zip(cuts[:-1], cuts[1:], strict=True):
            if len(own) == max_resources:
                break
            own[str(resources[a])] = _reference(values[a:b], slots[a:b], metrics)
        step = max(1, len(values) // FLEET_ROWS)
        while math.gcd(step, 168) > 1:  # else some hours of the week would never be looked at
            step += 1
        return {"metrics": _reference(values[::step], slots[::step], metrics), "resources": own}

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
            From `learn`. Metrics it lacks, or all without it, are judged by their own series.

        Returns
        -------
        list of Finding
            One a metric, in the order of ``series``.

        Raises
        ------
        UsageError
            If a series and the timestamps differ in length.
        """
        slots = None if timestamps is None else _slots(np.asarray(timestamps))
        known: dict[str, Any] = {}
        if reference is not None:
            known = {**reference.get("metrics", {}), **reference.get("resources", {}).get(resource_id, {})}
        findings = []
        for metric, given in series.items():
            values = np.array([np.nan if v is None else v for v in given], dtype=float)
            if slots is not None and len(slots) != len(values):
                raise UsageError(f"metric '{metric}' has {len(values)} values but there are {len(slots)} timestamps")
            statistics = known.get(metric) or _reference(values[:, None], slots, [metric]).get(metric)
            findings.append(self._judge(metric, values, slots, statistics))
        return findings

    def _judge(
        self, metric: str, values: np.ndarray, slots: np.ndarray | None, statistics: Mapping[str, Any] | None
    ) -> Finding:
        if statistics is None:
            nothing = np.full(len(values), np.nan)
            return Finding(metric, np.zeros(len(values)), np.zeros(len(values), dtype=bool), nothing, nothing, nothing)
        profile = statistics["profile"]
        if slots is None or profile is None:
            centre = np.full(len(values), statistics["median"])
        else:
            centre = np.asarray(profile, dtype=float)[slots]
        spread = statistics["scale"] if profile is None or slots is not None else statistics["unseasonal_scale"]
        log = bool(statistics["log"])
        score = np.nan_to_num(np.abs(_forward(values, log) - centre) / spread, nan=0.0)
        low, high = (_backward(centre + sign * self.threshold * spread, log) for sign in (-1, 1))
        return Finding(metric, score, score > self.threshold, _backward(centre, log), low, high)


def _slots(times: np.ndarray) -> np.ndarray:
    """Slot of each UTC time, (n,), 0..47."""
    hours = times.astype("datetime64[h]").astype(np.int64)
    # 1970-01-01 was a Thursday: day 3 of a week that starts on Monday.
    weekend = (hours // 24 + 3) % 7 >= 5
    return np.asarray(hours % 24 + 24 * weekend)


def _forward(values: np.ndarray, log: bool) -> np.ndarray:
    return np.log1p(np.maximum(values, 0.0)) if log else values


def _backward(values: np.ndarray, log: bool) -> np.ndarray:
    return np.maximum(np.expm1(values), 0.0) if log else values


def _reference(values: np.ndarray, slots: np.ndarray | None, metrics: Sequence[str]) -> dict[str, Any]:
    """Statistics of the columns of ``values``, (n, n_metrics), by metric; none for fewer than three values.

    Each is a dict: ``median``, ``scale`` (around the profile, if there is one), ``unseasonal_scale`` (around the
    median), ``log`` (all three on the log1p scale), ``profile`` (list of 48, or None).
    """
    found: dict[str, Any] = {}
    for j, metric in enumerate(metrics):
        seen = np.isfinite(values[:, j])
        if seen.sum() < POINTS_PER_SLOT:
            continue
        raw = values[seen, j]
        low, middle, high = np.quantile(raw, (0.01, 0.5, 0.99))
        log = bool(raw.min() >= 0 and high > 1 and high - middle > SKEWED * (middle - low))
        observed = _forward(raw, log)
        median = float(np.median(observed))
        floor = max(SCALE_FLOOR if log else SCALE_FLOOR * abs(median), 1e-9)
        plain = max(MAD_TO_SD * float(np.median(np.abs(observed - median))), floor)
        profile = None if slots is None else _profile(observed, slots[seen])
        scale = plain
        if profile is not None and slots is not None:
            scale = max(MAD_TO_SD * float(np.median(np.abs(observed - profile[slots[seen]]))), floor)
        found[str(metric)] = {
            "median": _short(median),
            "scale": _short(scale),
            "unseasonal_scale": _short(plain),
            "log": log,
            "profile": None if profile is None else [_short(v) for v in profile],
        }
    return found


def _short(value: float) -> float:
    """Five significant digits: enough for a limit, a third of the JSON."""
    return float(f"{value:.5g}")


def _profile(observed: np.ndarray, slots: np.ndarray) -> np.ndarray | None:
    """Median by slot, (48,); None when the hours of the day are not covered.

    Working days and weekends share a profile where either has too few points.
    """
    by_hour = _medians(observed, slots % 24, 24)
    if by_hour is None:
        return None
    by_slot = _medians(observed, slots, SLOTS)
    return np.tile(by_hour, 2) if by_slot is None else by_slot


def _medians(observed: np.ndarray, slots: np.ndarray, count: int) -> np.ndarray | None:
    """Median of each slot, (count,); None if one has fewer than `POINTS_PER_SLOT` points."""
    sizes = np.bincount(slots, minlength=count)
    if sizes.min() < POINTS_PER_SLOT:
        return None
    ordered = observed[np.lexsort((observed, slots))]
    first = np.cumsum(sizes) - sizes
    return np.asarray((ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) / 2)
