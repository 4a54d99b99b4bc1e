"""Intervals of metrics, and comparisons of two predictions of the same rows, by the bootstrap.

Whole units are drawn with replacement, see `aiops_core.judge.units`. A replicate is a vector of weights, so no data is
copied. Intervals say how the test part might have fallen out otherwise; they hold nothing of another training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np
from scipy import special

from aiops_core.errors import UsageError
from aiops_core.judge.summed import Summed
from aiops_core.judge.units import Units, of_rows

__all__ = [
    "ExtraMetrics",
    "LOWER_IS_BETTER",
    "N_BOOT",
    "N_EXTRA",
    "Gain",
    "Metric",
    "Values",
    "Weighted",
    "bootstrap",
    "interval",
    "paired",
    "share",
    "with_extra",
]

#: Draws: with a few hundred, the lower end that decides a promotion would itself vary from seed to seed.
N_BOOT = 5_000
#: Draws of a user's own metrics, which are computed row by row.
N_EXTRA = 1_000
LOWER_IS_BETTER = frozenset({"brier", "ece", "log_loss", "mae", "nmae", "rmse", "mase", "wape", "pinball"})


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


def interval(value: float, replicates: np.ndarray, units: int = 0) -> Metric:
    """Return a value with the 95 % interval of its bootstrap replicates; non-finite ones are left out.

    Resampling adds to a calibration error, so that all replicates can lie above it: the interval reaches to the value.

    Parameters
    ----------
    units : int
        Units that were drawn. Percentiles of few are too narrow, as a normal interval is beside Student's: they are
        moved out by the same factor (Hesterberg 2015, "What teachers should know about the bootstrap"). 0: many.
    """
    finite = replicates[np.isfinite(replicates)]
    if len(finite) == 0 or not np.isfinite(value) or units == 1:
        return {"value": float(value), "low": float("nan"), "high": float("nan")}
    low, high = np.percentile(finite, [100 * _tail(units), 100 * (1 - _tail(units))])
    return {"value": float(value), "low": min(float(low), float(value)), "high": max(float(high), float(value))}


def _tail(units: int) -> float:
    if units == 0:
        return 0.025
    return float(special.ndtr(-np.sqrt(units / (units - 1)) * special.stdtrit(units - 1, 0.975)))


def bootstrap(values: Weighted, n: int, units: Units | None, seed: int, n_boot: int) -> dict[str, Metric]:
    """Return every metric of ``n`` rows with its interval from ``n_boot`` resamples of whole units; of rows without."""
    point, draws = _resampled({"": values}, n, units, seed, n_boot)
    return {name: interval(value, draws[""][name], _drawn(n, units)) for name, value in point[""].items()}


def _drawn(n: int, units: Units | None) -> int:
    return n if units is None else units.effective or units.size


def _resampled(
    everyone: Mapping[str, Weighted], n: int, units: Units | None, seed: int, n_boot: int
) -> tuple[dict[str, Values], dict[str, dict[str, np.ndarray]]]:
    """Return the metrics of some predictions, and their replicates (n_boot,) on the same resamples."""
    units = of_rows(n) if units is None else units
    point = {name: values(np.ones(n)) for name, values in everyone.items()}
    fast = {name: v.coarse or v for name, v in everyone.items() if isinstance(v, Summed)}
    sums = {name: values.by_unit(units.code, units.size) for name, values in fast.items()}
    parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in everyone}
    for weight in units.draws(seed, n_boot):
        for name, values in everyone.items():
            if name in fast:
                parts[name].append(fast[name].of(weight @ sums[name]))
            else:
                found = [values(row[units.code]) for row in weight]
                parts[name].append({metric: np.array([f[metric] for f in found]) for metric in point[name]})
    draws = {
        name: {metric: np.concatenate([part[metric] for part in found]) for metric in point[name]}
        for name, found in parts.items()
    }
    for name, values in fast.items():
        if values is not everyone[name]:
            # What the coarse sums are off by, they are off by in every resample.
            rough = values(np.ones(n))
            draws[name] = {
                metric: found + (point[name][metric] - rough[metric]) for metric, found in draws[name].items()
            }
    return point, draws


def with_extra(
    known: dict[str, Metric],
    functions: ExtraMetrics | None,
    truth: np.ndarray,
    prediction: Mapping[str, np.ndarray],
    units: Units | None,
    seed: int,
    n_boot: int = N_EXTRA,
) -> dict[str, Metric]:
    """Return known metrics and a user's own, with intervals from resamples of the same units.

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
    units = of_rows(n) if units is None else units
    rows_of += [
        np.repeat(np.arange(n), row[units.code].astype(int)) for some in units.draws(seed, n_boot) for row in some
    ]
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
    return known | {name: interval(found[0], np.array(found[1:]), _drawn(n, units)) for name, found in values.items()}


def paired(
    own: Weighted,
    others: Mapping[str, Weighted],
    n: int,
    *,
    only: tuple[str, ...],
    units: Units | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
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
    units : Units, optional
        What is drawn; single rows by default.

    Returns
    -------
    dict of str to dict of str to Gain
        By opponent and metric. An interval above 0: ``own`` is better beyond chance; below 0: the other one is.
    """
    point, draws = _resampled({"": own, **others}, n, units, seed, n_boot)
    gains: dict[str, dict[str, Gain]] = {}
    for name in others:
        gains[name] = {}
        for metric in only:
            sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
            mine, theirs = point[""][metric], point[name][metric]
            change = sign * (draws[""][metric] - draws[name][metric])
            found = interval(sign * (mine - theirs), change, _drawn(n, units))
            gains[name][metric] = {**found, "own": float(mine), "other": float(theirs)}
    return gains


def share(
    own: Weighted,
    naive: Weighted,
    oracle: Weighted,
    n: int,
    *,
    metric: str,
    units: Units | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
) -> Metric:
    """Return how much of the way from a naive prediction to the oracle's a prediction goes.

    ``(own - naive) / (oracle - naive)``, all three on the same resamples: 0 is no better than naive, 1 is perfect. The
    plain ratio to the oracle's value would be near 1 for any model of an easy data set.
    """
    point, draws = _resampled({"own": own, "naive": naive, "oracle": oracle}, n, units, seed, n_boot)

    def way(found: Mapping[str, Any]) -> Any:
        whole = np.asarray(found["oracle"][metric]) - np.asarray(found["naive"][metric])
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        # Where the oracle is no better than naive there is no way to go.
        whole = np.where(sign * whole > 0, whole, np.nan)
        return (np.asarray(found["own"][metric]) - np.asarray(found["naive"][metric])) / whole

    return interval(float(way(point)), way(draws), _drawn(n, units))
