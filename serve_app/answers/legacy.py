"""The two untrained models of `aiops_core.rules`, as the services call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiops_core.rules import FAILURE_RULES, RuleBasedFailurePredictor, StatisticalAnomalyDetector, Verdict
from serve_app.wire.decoding import unknown_names
from serve_app.wire.features import feature_range
from serve_app.wire.problems import invalid

__all__ = ["ANOMALY", "RULES", "RULE_METRICS", "THRESHOLD", "check", "failure"]

RULES = RuleBasedFailurePredictor.name
ANOMALY = StatisticalAnomalyDetector.name
#: Metrics that have a rule.
RULE_METRICS: tuple[str, ...] = tuple(FAILURE_RULES)
THRESHOLD = RuleBasedFailurePredictor.threshold

_predictor = RuleBasedFailurePredictor()


def check(row: Mapping[str, Any], path: str) -> None:
    """Refuse what the rules cannot judge: metrics without a rule, values beyond their unit.

    Raises
    ------
    Problem
        422 with path and rule.
    """
    problem = unknown_names(row, RULE_METRICS, path)
    if problem is not None:
        raise problem
    for name, value in row.items():
        low, high = feature_range({"name": name})
        if value is not None and type(value) is not float:
            raise invalid(f"{path}.{name}", "a number or null is expected")
        if value is not None and not low <= value <= high:
            raise invalid(f"{path}.{name}", f"{value:g} is not within {low:g} and {high:g}")


def failure(metrics: Mapping[str, float]) -> Verdict:
    """Judge one snapshot by the rules."""
    return _predictor.assess(metrics)
