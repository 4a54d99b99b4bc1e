"""The two untrained models of `aiops_core.rules`, as the services call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.problems import invalid

RULES = "rule_based_failure_predictor"
ANOMALY = "statistical_anomaly_detector"

RULE_METRICS = ("cpu_usage", "memory_usage", "disk_io", "network_errors", "error_rate", "response_time")
_LIMITS = {"cpu_usage": (80, 95, .3), "memory_usage": (80, 95, .3), "disk_io": (2000, 5000, .2), "network_errors": (10, 50, .2), "error_rate": (10, 50, .2), "response_time": (500, 2000, .2)}


@dataclass(frozen=True)
class Verdict:
    probability: float
    threshold: float
    drivers: list[dict[str, Any]]
    used: tuple[str, ...]


def check(row: Mapping[str, Any], path: str) -> None:
    for name, value in row.items():
        if value is not None and name.endswith("_usage") and not 0 <= value <= 100:
            raise invalid(f"{path}.{name}", f"{value:g} is not within 0 and 100")


def failure(metrics: Mapping[str, float]) -> Verdict:
    drivers = []
    p = 1.0
    used = []
    for name, (lo, hi, w) in _LIMITS.items():
        if name in metrics:
            used.append(name)
            share = min(max((metrics[name] - lo) / (hi - lo), 0), 1)
            p *= 1 - .8 * share
            if share:
                drivers.append({"feature": name, "value": metrics[name], "contribution": .8 * share})
    return Verdict(1 - p, 0.5, sorted(drivers, key=lambda d: -d["contribution"])[:3], tuple(used))
