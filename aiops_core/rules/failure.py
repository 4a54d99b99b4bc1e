"""Failure: weighted threshold rules over one snapshot of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from aiops_core.rules.inputs import feature_table


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
            In the units of `aiops_core.units.UNITS`; NaN is missing.
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
        array = feature_table(values, names)
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
        known = {name: metrics.get(name) for name in FAILURE_RULES}
        given = {name: value for name, value in known.items() if value is not None and math.isfinite(value)}
        used, row = list(given), np.array([list(given.values())], dtype=float)
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
