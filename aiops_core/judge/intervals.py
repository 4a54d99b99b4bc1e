"""Intervals of metrics, and comparisons of two predictions of the same rows, by the bootstrap.

Intervals come from a cluster bootstrap: whole clusters (a resource's day, a resource, a row) are drawn with
replacement, because neighbouring windows share most of their content and drawing single rows would make every
interval too narrow. A replicate is a vector of row weights, so no data is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import numpy as np

from aiops_core.errors import UsageError

__all__ = [
    "ExtraMetrics",
    "LOWER_IS_BETTER",
    "N_BOOT",
    "N_PAIRED",
    "Gain",
    "Metric",
    "Values",
    "Weighted",
    "bootstrap",
    "interval",
    "paired",
    "with_extra",
]

N_BOOT = 300
#: Draws of a paired comparison: with 300, the lower end that decides a promotion would itself vary from seed to seed.
N_PAIRED = 5_000
LOWER_IS_BETTER = frozenset({"brier", "ece", "log_loss", "mae", "rmse", "mase", "wape", "pinball"})


class Metric(TypedDict):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Gain(Metric):
    """How much better one prediction is than another on the same rows: positive means better, whatever the metric.

    ``own`` and ``other`` are the metric's values of the two.
    """

    own: float
    other: float


Values = dict[str, float]
Weighted = Callable[[np.ndarray], Values]
#: A user's own metrics by name: functions of the truth and of a prediction of the same rows.
ExtraMetrics = Mapping[str, Callable[[np.ndarray, Mapping[str, np.ndarray]], float]]


def interval(value: float, replicates: np.ndarray) -> Metric:
    """Return a value with the 2.5 and 97.5 percentiles of its bootstrap replicates; non-finite ones are left out.

    Resampling adds to a calibration error, so that all replicates can lie above it: the interval reaches to the value.
    """
    finite = replicates[np.isfinite(replicates)]
    if len(finite) == 0 or not np.isfinite(value):
        return {"value": float(value), "low": float("nan"), "high": float("nan")}
    low, high = np.percentile(finite, [2.5, 97.5])
    return {"value": float(value), "low": min(float(low), float(value)), "high": max(float(high), float(value))}


def _replicates(n: int, clusters: np.ndarray | None, seed: int, n_boot: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, 20251])
    if clusters is None:
        index, size = np.arange(n), n
    else:
        _, index = np.unique(clusters, return_inverse=True)
        size = int(index.max()) + 1 if n else 0
    return [rng.multinomial(size, np.full(size, 1.0 / size)).astype(float)[index] for _ in range(n_boot)]


def bootstrap(values: Weighted, n: int, clusters: np.ndarray | None, seed: int, n_boot: int) -> dict[str, Metric]:
    """Return every metric of ``n`` rows with its interval from ``n_boot`` resamples of whole clusters."""
    point = values(np.ones(n))
    draws = [values(weight) for weight in _replicates(n, clusters, seed, n_boot)]
    return {name: interval(value, np.array([draw[name] for draw in draws])) for name, value in point.items()}


def with_extra(
    known: dict[str, Metric],
    functions: ExtraMetrics | None,
    truth: np.ndarray,
    prediction: Mapping[str, np.ndarray],
    clusters: np.ndarray | None,
    seed: int,
    n_boot: int = N_BOOT,
) -> dict[str, Metric]:
    """Return known metrics and a user's own, with intervals from the resamples that all metrics get.

    Parameters
    ----------
    known : dict of str to Metric
    functions : mapping of str to callable, optional
        Each is called with the truth (n,) and the prediction, arrays of n rows by name, of a resample.
    truth : ndarray, (n,)
    prediction : mapping of str to ndarray, (n, ...)

    Raises
    ------
    UsageError
        If a metric has the name of a known one, or reads what the prediction does not hold.
    """
    if not functions:
        return known
    for name in functions:
        if name in known:
            raise UsageError(f"extra metric '{name}' has the name of a metric that is always measured; choose another")
    n = len(truth)
    rows_of: list[Any] = [np.arange(n)]
    rows_of += [np.repeat(np.arange(n), w.astype(int)) for w in _replicates(n, clusters, seed, n_boot)]
    values: dict[str, list[float]] = {name: [] for name in functions}
    for rows in rows_of:
        drawn = {key: value[rows] for key, value in prediction.items()}
        for name, function in functions.items():
            try:
                values[name].append(float(function(truth[rows], drawn)))
            except KeyError as error:
                raise UsageError(
                    f"extra metric '{name}' reads {error}, but a prediction holds {', '.join(prediction)}; "
                    "return nan where it is absent"
                ) from error
    return known | {name: interval(found[0], np.array(found[1:])) for name, found in values.items()}


def paired(
    own: Weighted,
    others: Mapping[str, Weighted],
    n: int,
    *,
    only: tuple[str, ...],
    clusters: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = N_PAIRED,
) -> dict[str, dict[str, Gain]]:
    """Compare a prediction with others of the same rows, on the same resamples for all.

    Parameters
    ----------
    own : callable
        As returned by `failure_values`, `threat_values` or `capacity_values`.
    others : mapping of str to callable
        By name.
    n : int
        Number of rows.
    only : tuple of str
        Metrics to compare.
    clusters : ndarray, (n,), optional
        Units that are drawn whole.

    Returns
    -------
    dict of str to dict of str to Gain
        By opponent and metric. An interval above 0: ``own`` is better beyond chance; below 0: the other one is.
    """
    everyone = {"": own, **others}
    ones = np.ones(n)
    point = {name: values(ones) for name, values in everyone.items()}
    draws = {name: np.empty((n_boot, len(only))) for name in everyone}
    for i, weight in enumerate(_resamples(n, clusters, seed, n_boot)):
        for name, values in everyone.items():
            found = values(weight)
            draws[name][i] = [found[metric] for metric in only]
    gains: dict[str, dict[str, Gain]] = {}
    for name in others:
        gains[name] = {}
        for j, metric in enumerate(only):
            sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
            mine, theirs = point[""][metric], point[name][metric]
            found_interval = interval(sign * (mine - theirs), sign * (draws[""][:, j] - draws[name][:, j]))
            gains[name][metric] = {**found_interval, "own": float(mine), "other": float(theirs)}
    return gains


def _resamples(n: int, clusters: np.ndarray | None, seed: int, n_boot: int) -> Iterator[np.ndarray]:
    """Yield row weights like `_replicates`, one at a time and drawn the faster way."""
    rng = np.random.default_rng([seed, 20262])
    index = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    size = int(index.max()) + 1 if n else 0
    for _ in range(n_boot):
        yield np.bincount(rng.integers(0, size, size), minlength=size).astype(float)[index]
