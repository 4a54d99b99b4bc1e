"""Statistics of training telemetry: the usual value of each hour of each metric, and the spread around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aiops_core.rules.anomaly.past import FLOOR, POINTS_PER_SLOT, profile_of

#: Median absolute deviation of a normal variable times this is its standard deviation.
MAD_TO_SD = 1.4826
#: A non-negative metric whose upper tail is this much longer than its lower one is judged on a log scale.
SKEWED = 3.0


def forward(values: np.ndarray, log: bool) -> np.ndarray:
    """Return the values on the scale they are judged on."""
    return np.log1p(np.maximum(values, 0.0)) if log else values


def backward(values: np.ndarray, log: bool) -> np.ndarray:
    """Return the inverse of `forward`."""
    return np.maximum(np.expm1(values), 0.0) if log else values


def reference_of(values: np.ndarray, slots: np.ndarray | None, metrics: Sequence[str]) -> dict[str, Any]:
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
        observed = forward(raw, log)
        median = float(np.median(observed))
        floor = max(FLOOR if log else FLOOR * abs(median), 1e-9)
        plain = max(MAD_TO_SD * float(np.median(np.abs(observed - median))), floor)
        profile = None if slots is None else profile_of(observed, slots[seen])
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
