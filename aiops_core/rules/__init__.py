"""The untrained models: failure rules, a robust seasonal anomaly detector, and threat signatures.

They answer when no trained model can (one snapshot instead of a window, no champion yet), and they are the simple
baselines that a trained model has to beat. Only numpy is needed. Every limit is a named constant with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from aiops_core.errors import UsageError

__all__ = [
    "ANOMALY_THRESHOLD",
    "FAILURE_RULES",
    "THREAT_RULES",
    "Driver",
    "Finding",
    "Rule",
    "RuleBasedFailurePredictor",
    "StatisticalAnomalyDetector",
    "Verdict",
    "failure_actions",
    "severity",
    "threat_actions",
    "threat_rules",
]


class Driver(TypedDict):
    """One reason of a verdict; ``contribution`` is in log-odds, positive raises the risk."""

    feature: str
    value: float
    contribution: float


#: Lowest probability of each severity, highest first. A coin flip is worth waking somebody (high); at 0.8 acting at
#: once costs less than waiting; from 0.25, more than twice the base rate, a look in office hours pays.
SEVERITIES = (("critical", 0.8), ("high", 0.5), ("medium", 0.25), ("low", 0.0))


def severity(probability: float) -> str:
    """Return ``low``, ``medium``, ``high`` or ``critical`` for a probability of failure.

    Examples
    --------
    >>> [severity(p) for p in (0.1, 0.25, 0.6, 0.95)]
    ['low', 'medium', 'high', 'critical']
    """
    return next(name for name, least in SEVERITIES if probability >= least)


# ---------------------------------------------------------------------------------------------------------------------
# failure
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """Evidence of one metric: 0 up to ``warn``, ``weight`` at ``critical``, at most ``LEVEL_CAP`` times that beyond.

    Attributes
    ----------
    warn, critical : float
        In the unit of the metric.
    weight : float
        Log-odds at ``critical``.
    reason : str
    """

    warn: float
    critical: float
    weight: float
    reason: str


#: Limits of the failure rules by metric. Weights of 2 to 2.5 mean: one metric at its critical limit lifts the base
#: rate of 10 % to about an even chance, two make an incident likely.
FAILURE_RULES: dict[str, Rule] = {
    "cpu_usage": Rule(70.0, 90.0, 2.5, "queues grow sharply once a processor is busier than 70-90 %"),
    "memory_usage": Rule(75.0, 95.0, 2.5, "swapping and out-of-memory kills start near full memory"),
    "disk_io": Rule(1000.0, 5000.0, 1.5, "a few thousand operations a second saturate an ordinary disk"),
    "network_traffic": Rule(250.0, 1000.0, 0.5, "1 GB/s fills a 10-Gbit link; traffic alone is weak evidence"),
    "network_errors": Rule(5.0, 30.0, 2.0, "a healthy link damages hardly any packet"),
    "error_rate": Rule(5.0, 30.0, 2.0, "single errors are normal, several a minute are not"),
    "response_time": Rule(500.0, 2000.0, 2.0, "users notice half a second and leave after two"),
    "request_rate": Rule(2000.0, 10000.0, 0.5, "demand alone is weak evidence: services differ in size"),
}
#: Log-odds without any evidence: about one window in ten precedes an incident.
BASE_LOG_ODDS = math.log(0.1 / 0.9)
#: Beyond twice the way from warn to critical a metric says nothing new: one broken sensor must not decide alone.
LEVEL_CAP = 2.0


@dataclass(frozen=True)
class Verdict:
    """What the failure rules say about one snapshot.

    Attributes
    ----------
    probability : float
        Of an incident soon; ordered well, not calibrated.
    severity : str
    drivers : list of Driver
        Metrics above their warning limit, strongest first.
    reasons : list of str
        One sentence a driver.
    used : list of str
        Metrics that were given and have a rule.
    """

    probability: float
    severity: str
    drivers: list[Driver]
    reasons: list[str]
    used: list[str]


class RuleBasedFailurePredictor:
    """Weighted threshold rules over one snapshot of metrics, combined by a logistic function.

    ``probability = sigmoid(base + sum_m weight_m * clip((x_m - warn_m) / (critical_m - warn_m), 0, 2))`` over the
    metrics that are known and observed. Missing ones are no evidence either way. See `FAILURE_RULES`.
    """

    name = "rule_based_failure_predictor"
    metrics = tuple(FAILURE_RULES)
    #: A failure is predicted from here on: more likely than not.
    threshold = 0.5

    def predict(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Predict many snapshots.

        Parameters
        ----------
        values : ndarray, (n, len(names)) or (len(names),)
            In the units of `aiops_core.data.synthetic.UNITS`; NaN is missing.
        names : sequence of str
            Metric of each column; metrics without a rule are ignored.

        Returns
        -------
        ndarray, (n,), float64
            Probability; higher is riskier.

        Raises
        ------
        UsageError
            If the columns do not match ``names``.
        """
        array = _table(values, names)
        return np.asarray(1 / (1 + np.exp(-(BASE_LOG_ODDS + self._evidence(array, names).sum(axis=1)))))

    def assess(self, metrics: Mapping[str, float | None]) -> Verdict:
        """Judge one snapshot and say why.

        Parameters
        ----------
        metrics : mapping of str to float or None
            Any subset of the metrics that have a rule; others are ignored.

        Returns
        -------
        Verdict

        Examples
        --------
        >>> snapshot = {"cpu_usage": 85.5, "memory_usage": 78.2, "disk_io": 1200, "network_errors": 15}
        >>> verdict = RuleBasedFailurePredictor().assess(snapshot)
        >>> verdict.severity, [driver["feature"] for driver in verdict.drivers[:2]]
        ('high', ['cpu_usage', 'network_errors'])
        """
        used = [name for name in FAILURE_RULES if _given(metrics.get(name))]
        row = np.array([[float(metrics[name] or 0.0) for name in used]], dtype=float).reshape(1, len(used))
        evidence = self._evidence(row, used)[0]
        order = [i for i in np.argsort(-evidence, kind="stable") if evidence[i] > 0]
        drivers = [Driver(feature=used[i], value=float(row[0, i]), contribution=float(evidence[i])) for i in order]
        reasons = [
            f"{d['feature']} {d['value']:g} is above {FAILURE_RULES[d['feature']].warn:g}: "
            f"{FAILURE_RULES[d['feature']].reason}"
            for d in drivers
        ]
        probability = float(self.predict(row, used)[0])
        return Verdict(probability, severity(probability), drivers, reasons, used)

    def _evidence(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Log-odds of each value, (n, len(names)); 0 where unknown or missing."""
        out = np.zeros(values.shape)
        for j, name in enumerate(names):
            if name in FAILURE_RULES:
                rule = FAILURE_RULES[name]
                level = (values[:, j] - rule.warn) / (rule.critical - rule.warn)
                out[:, j] = rule.weight * np.clip(np.nan_to_num(level, nan=0.0, posinf=LEVEL_CAP), 0.0, LEVEL_CAP)
        return out


def _given(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _table(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    array = np.atleast_2d(np.asarray(values, dtype=float))
    if array.ndim != 2 or array.shape[1] != len(names):
        raise UsageError(f"{len(names)} feature names do not fit values of shape {np.shape(values)}")
    return array


# ---------------------------------------------------------------------------------------------------------------------
# anomaly
# ---------------------------------------------------------------------------------------------------------------------

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

    def learn(
        self, telemetry: Any, metrics: Sequence[str] | None = None, *, max_resources: int = MAX_RESOURCES
    ) -> dict[str, Any]:
        """Learn the reference from training telemetry.

        Parameters
        ----------
        telemetry : DataFrame
            Contract table with ``resource_id`` and ``timestamp``.
        metrics : sequence of str, optional
            By default every numeric column.
        max_resources : int
            How many resources, in the order of the table, get statistics of their own; about 4 kB of JSON each.

        Returns
        -------
        dict
            Ready for JSON: ``{"metrics": {name: statistics}, "resources": {id: {name: statistics}}}``. ``metrics``
            describes the fleet and judges resources that have none of their own.
        """
        if metrics is None:
            metrics = list(telemetry.select_dtypes("number").columns)
        resources = telemetry["resource_id"].to_numpy(dtype=object)
        slots = _slots(telemetry["timestamp"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
        values = telemetry[list(metrics)].to_numpy(dtype=float, na_value=np.nan)
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


# ---------------------------------------------------------------------------------------------------------------------
# threat
# ---------------------------------------------------------------------------------------------------------------------

#: Signature of each attack: its leading feature, then supporting ones, each with its limit. Limits are set to stay
#: quiet: a busy user fails fifteen logins an hour at most, a busy site answers two thousand requests a second, and a
#: score above 0.6 means that the sensor itself is rather sure. Stealthy attacks stay below them.
THREAT_RULES: dict[str, tuple[tuple[str, float], ...]] = {
    "brute_force": (("failed_auth_count", 15.0), ("request_rate", 300.0), ("time_anomaly_score", 0.6)),
    "ddos_attack": (("request_rate", 2000.0), ("unique_ips", 100.0), ("geographic_entropy", 3.0)),
    "sql_injection": (("sql_injection_score", 0.6), ("avg_payload_size", 4000.0)),
    "xss_attack": (("xss_score", 0.6), ("avg_payload_size", 4000.0)),
    "data_exfiltration": (("data_transfer_rate", 50.0), ("file_access_rate", 60.0), ("avg_payload_size", 5000.0)),
    "privilege_escalation": (("privilege_escalation_score", 0.6), ("file_access_rate", 60.0)),
    "malware_activity": (("port_scan_score", 0.6), ("file_access_rate", 60.0), ("data_transfer_rate", 20.0)),
    "unauthorized_access": (("time_anomaly_score", 0.85), ("file_access_rate", 60.0), ("geographic_entropy", 3.0)),
}
#: Log-odds of a leading and of a supporting feature above its limit, and what normal activity has in advance: a
#: leading feature alone wins, supporting ones alone do not.
LEADING, SUPPORTING, NORMAL_LEAD = 4.0, 1.0, 3.0


def threat_rules(X: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Classify activity by the signature table `THREAT_RULES`.

    Each class collects log-odds for its features above their limits; probabilities are the softmax. A missing
    feature counts as below its limit.

    Parameters
    ----------
    X : ndarray, (n, len(names))
        NaN is missing.
    names : sequence of str
        Feature of each column.
    classes : sequence of str
        Order of the result. Classes without a rule get no evidence; ``normal`` wins when no signature matches.

    Returns
    -------
    ndarray, (n, len(classes)), float64
        Rows sum to 1.

    Raises
    ------
    UsageError
        If the columns do not match ``names``.

    Examples
    --------
    >>> row = np.array([[25.0, 1500.0, 50.0]])
    >>> names = ["failed_auth_count", "request_rate", "unique_ips"]
    >>> threat_rules(row, names, ["normal", "ddos_attack", "brute_force"]).round(2).tolist()
    [[0.12, 0.01, 0.88]]
    """
    array = _table(X, names)
    column = {name: j for j, name in enumerate(names)}
    score = np.zeros((len(array), len(classes)))
    for c, label in enumerate(classes):
        if label == "normal":
            score[:, c] = NORMAL_LEAD
        for place, (feature, limit) in enumerate(THREAT_RULES.get(label, ())):
            if feature in column:
                above = np.nan_to_num(array[:, column[feature]], nan=-np.inf) >= limit
                score[:, c] += above * (LEADING if place == 0 else SUPPORTING)
    score = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(score / score.sum(axis=1, keepdims=True))


# ---------------------------------------------------------------------------------------------------------------------
# actions
# ---------------------------------------------------------------------------------------------------------------------

#: What helps against a metric that drives the risk of failure, most effective first.
FAILURE_ACTIONS: dict[str, tuple[str, ...]] = {
    "cpu_usage": ("scale_horizontal",),
    "memory_usage": ("restart_service", "scale_vertical"),
    "disk_io": ("clear_disk_space",),
    "network_traffic": ("scale_horizontal",),
    "network_errors": ("failover_network",),
    "error_rate": ("rollback_deploy",),
    "response_time": ("scale_horizontal",),
    "request_rate": ("scale_horizontal",),
}
#: What stops an attack of a class, most effective first.
THREAT_ACTIONS: dict[str, tuple[str, ...]] = {
    "normal": ("continue_monitoring",),
    "unauthorized_access": ("lock_account", "rotate_credentials"),
    "ddos_attack": ("rate_limit_source", "block_source_ip"),
    "data_exfiltration": ("isolate_host", "rotate_credentials"),
    "privilege_escalation": ("isolate_host", "lock_account"),
    "malware_activity": ("isolate_host", "block_source_ip"),
    "brute_force": ("block_source_ip", "lock_account", "rate_limit_source"),
    "sql_injection": ("enable_waf_rule", "block_source_ip"),
    "xss_attack": ("enable_waf_rule", "block_source_ip"),
}


def failure_actions(drivers: Sequence[Mapping[str, Any]], failing: bool = True) -> list[str]:
    """Return the ids of the actions for the drivers of a failure prediction, strongest driver first.

    Parameters
    ----------
    drivers : sequence of Driver
    failing : bool
        Whether a failure is predicted; if not, the only advice is to keep watching.

    Examples
    --------
    >>> failure_actions([{"feature": "memory_usage"}, {"feature": "cpu_usage"}])
    ['restart_service', 'scale_vertical', 'scale_horizontal']
    >>> failure_actions([{"feature": "fan_speed"}])
    ['investigate']
    """
    if not failing:
        return ["continue_monitoring"]
    found = [action for driver in drivers for action in FAILURE_ACTIONS.get(str(driver["feature"]), ())]
    return list(dict.fromkeys(found)) or ["investigate"]


def threat_actions(label: str) -> list[str]:
    """Return the ids of the actions against a threat class; unknown attacks are investigated.

    Examples
    --------
    >>> threat_actions("ddos_attack"), threat_actions("novel_attack")
    (['rate_limit_source', 'block_source_ip'], ['investigate'])
    """
    return list(THREAT_ACTIONS.get(label, ("investigate",)))
