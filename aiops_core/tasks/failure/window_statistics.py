"""Statistics of sliding windows for the trees: a pass over the series, without cutting a window out."""

from __future__ import annotations

import numpy as np

from aiops_core.tasks.failure.data import FailureData

#: Columns of each metric, in this order.
STATISTICS = ("last", "mean", "spread", "least", "greatest", "recent", "change")
#: Below this share of the variance of the whole record, the variance of a window is rounding.
ROUNDING = 1e-10


def window_statistics(data: FailureData, ends: np.ndarray) -> np.ndarray:
    """Return the statistics of the windows that end at given rows, by metric.

    The last value; mean, standard deviation, least and greatest value; the mean of the last quarter, and how far that
    lies above the mean of the steps before it. A window reaches back to the first row of its resource at most.

    Parameters
    ----------
    ends : ndarray, (n,)
        Positions of rows.

    Returns
    -------
    ndarray, (n, 7 * n_features), float32
        NaN where a window holds no value of a metric.
    """
    width, window = data.values.shape[1], data.window
    recent = max(1, window // 4)
    out = np.empty((len(ends), len(STATISTICS) * width), dtype=np.float32)
    first = np.maximum(ends - window + 1, data.start[ends])
    late = np.maximum(ends - recent + 1, data.start[ends])
    for j in range(width):
        column = data.values[:, j]
        seen = ~np.isnan(column)
        # The sums are of distances from the record's own mean: a large level would drown small spreads.
        level = _record_mean(np.where(seen, column, 0.0).astype(np.float64), seen, data.start)
        distance = np.where(seen, column - level, 0.0)
        count = _sums(seen.astype(np.float64))
        total, square = _sums(distance), _sums(distance**2)
        n, n_late = (count[ends + 1] - count[at] for at in (first, late))
        s, s_late = (total[ends + 1] - total[at] for at in (first, late))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, mean_late, mean_early = s / n, s_late / n_late, (s - s_late) / (n - n_late)
            variance = (square[ends + 1] - square[first]) / n - mean**2
            variance[variance < ROUNDING * square[-1] / max(count[-1], 1.0)] = 0.0
        own = level[ends]
        least = _least(np.where(seen, column, np.inf), data.start, ends, window)
        greatest = -_least(np.where(seen, -column, np.inf), data.start, ends, window)
        found = (column[ends], mean + own, np.sqrt(variance), least, greatest, mean_late + own, mean_late - mean_early)
        for k, values in enumerate(found):
            out[:, k * width + j] = np.where(np.isfinite(values), values, np.nan)
    return out


def _sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values)])


def _record_mean(values: np.ndarray, seen: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return for every row the mean of its whole resource, (n_rows,), 0 where nothing was seen."""
    total = np.bincount(start, weights=values, minlength=len(start))
    count = np.bincount(start, weights=seen, minlength=len(start))
    return np.asarray((total / np.maximum(count, 1.0))[start])


def _least(values: np.ndarray, start: np.ndarray, ends: np.ndarray, window: int) -> np.ndarray:
    """Return the least value of each window, (n,), by doubling: minima of 1, 2, 4, ... rows give those of any length."""
    position = np.arange(len(values))
    span = 1
    while 2 * span <= window:
        values = np.minimum(values, values[np.maximum(position - span, start)])
        span *= 2
    return np.asarray(np.minimum(values[ends], values[np.maximum(ends - (window - span), start[ends])]))
