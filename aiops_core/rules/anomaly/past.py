"""Anomalies of a series judged by its own past: causal, at several time scales, in plain numpy.

1. The seasonal shape of the day is taken off where the past shows one.
2. Each value, and each step from the value before, becomes a distance from the median of the past in robust standard
   deviations. The spread above and below the median differ, and each is the widest that the quartile, the decile and
   the twentieth say: counts that are mostly zero, and metrics with bursts, have a spread then, where the median
   absolute deviation of most values says none.
3. Trailing means of those distances over 4 to 256 rows find what no single value shows: a new level, a drift, a spell
   of restlessness. Each mean is judged like a value, by its own past.

The score is the largest of all. ``reports/anomaly.md`` says what each part brings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Rows that are judged together, since nothing precedes them.
FIRST = 8
#: Rows that count as the past. What is older has no say, so that a new level becomes usual in the end.
MEMORY = 1536
#: Statistics are taken anew when the past has grown by this share, and at least every `STEP` rows.
GROWTH, STEP = 1.25, 64
#: Values of the past, evenly spread, from which a quantile is taken.
SAMPLE = 512
#: Shares of the values below a quantile, and its distance from the median of a normal variable.
TAILS = ((0.75, 0.6745), (0.9, 1.2816), (0.95, 1.6449))
#: Smallest spread, as a share of the median: a constant metric would turn every wiggle into an anomaly.
FLOOR = 0.02
#: Rows of the trailing means; one needs twice as many rows of past.
WIDTHS = (4, 16, 64, 256)
#: Distances of values and of steps count up to this much in a mean: one outlier, which is two steps, must not make its
#: neighbours anomalous.
CLIP = np.array([[4.0], [2.0]])
#: Standard deviation of the distance of a normal variable, whose mean over w independent rows has 1 / sqrt(w) of it.
MEAN_SPREAD = 0.6
#: The season is believed when it takes this share off the spread.
SEASON_GAIN = 1 / 2
#: A season needs this many points in each hour of the day.
POINTS_PER_SLOT = 3
#: Working-day hours 0-23, then weekend hours 24-47.
SLOTS = 48


@dataclass(frozen=True)
class Past:
    """A series against its own past.

    Attributes
    ----------
    score : ndarray, (n,)
        Robust standard deviations, >= 0; of the value itself or of the trailing means, whichever is larger.
    expected, below, above : ndarray, (n,)
        Usual value, and one robust standard deviation to either side of it, in the metric's unit.
    """

    score: np.ndarray
    expected: np.ndarray
    below: np.ndarray
    above: np.ndarray


def judge(values: np.ndarray, slots: np.ndarray | None = None) -> Past:
    """Score each value by those before it; only the first `FIRST` are judged together.

    Parameters
    ----------
    values : ndarray, (n,)
        Finite, oldest first, at least one.
    slots : ndarray, (n,), optional
        Hour of the day 0-23, plus 24 on weekends; without them no season is used.

    Returns
    -------
    Past
    """
    n = len(values)
    marks = _marks(n, STEP)
    block = np.maximum(np.searchsorted(marks, np.arange(n), side="right") - 1, 0)
    shape = np.zeros(n) if slots is None else _shape(values, slots)
    level = values - shape
    pair = np.stack([level, np.diff(level, prepend=level[:1])])
    centre, above, below = _spread(pair, marks)
    floor = np.maximum(FLOOR * np.abs(centre[0]), 1e-9)
    above, below = np.maximum(above, floor)[:, block], np.maximum(below, floor)[:, block]
    gap = pair - centre[:, block]
    distance = np.maximum(gap / above, -gap / below)
    score = distance[0]
    widths = [w for w in WIDTHS if 2 * w <= n]
    if widths:
        score = np.maximum(score, _of_means(np.minimum(distance, CLIP), widths, marks, block))
    return Past(score, centre[0, block] + shape, below[0], above[0])


def slots_of(times: np.ndarray) -> np.ndarray:
    """Return the slot of each UTC time, (n,), 0..47."""
    hours = times.astype("datetime64[h]").astype(np.int64)
    # 1970-01-01 was a Thursday: day 3 of a week that starts on Monday.
    weekend = (hours // 24 + 3) % 7 >= 5
    return np.asarray(hours % 24 + 24 * weekend)


def profile_of(observed: np.ndarray, slots: np.ndarray) -> np.ndarray | None:
    """Return the median by slot, (48,); None when the hours of the day are not covered.

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


def _marks(n: int, step: int) -> np.ndarray:
    """Rows before which the statistics are taken anew, (m,); the same whatever follows them."""
    marks = [min(FIRST, n)]
    while (following := min(int(marks[-1] * GROWTH), marks[-1] + step)) < n:
        marks.append(following)
    return np.array(marks)


def _shape(values: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return the season's part of each value, (n,): around zero, and zero while the past shows no season."""
    shape = np.zeros(len(values))
    # Fewer rows do not cover the hours of the day.
    marks = [int(m) for m in _marks(len(values), step=len(values)) if m >= 24 * POINTS_PER_SLOT]
    for mark, end in zip(marks, [*marks, len(values)][1:], strict=True):
        profile = profile_of(values[:mark], slots[:mark])
        if profile is None:
            continue
        rest = values[:mark] - profile[slots[:mark]]
        _, above, below = _spread(np.stack([values[:mark], rest]), np.array([mark]))
        plain, seasonal = np.maximum(above, below)[:, 0]
        if seasonal < (1 - SEASON_GAIN) * plain:
            shape[mark:end] = (profile - np.median(profile))[slots[mark:end]]
    return shape


def _of_means(distance: np.ndarray, widths: list[int], marks: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Score of the trailing means of the distances, (k, n), over each width; the largest for each row, (n,)."""
    n = distance.shape[1]
    total = np.cumsum(np.pad(distance, ((0, 0), (1, 0))), axis=1)
    end = np.arange(1, n + 1)
    means = np.concatenate([(total[:, 1:] - total[:, np.maximum(end - w, 0)]) / np.minimum(end, w) for w in widths])
    width = np.repeat(widths, len(distance))[:, None]
    centre, above, _ = _spread(means, marks)
    above = np.where(marks >= 2 * width, np.maximum(above, MEAN_SPREAD / np.sqrt(width)), np.inf)
    return np.asarray(((means - centre[:, block]) / above[:, block]).max(axis=0))


def _spread(history: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, and spread above and below it, of what precedes each mark, each (k, m), for ``history`` (k, n)."""
    span = np.minimum(marks, MEMORY)
    size = np.minimum(span, SAMPLE)
    place = np.arange(size.max())
    rows = marks[:, None] - 1 - place * span[:, None] // size[:, None]
    sample = np.where(place < size[:, None], history[:, np.maximum(rows, 0)], np.inf)
    sample.sort(axis=-1)

    upper, unit = np.array(TAILS).T
    position = np.concatenate([[0.5], upper, 1 - upper]) * (size[:, None] - 1)
    low = position.astype(int)
    first, second = (np.take_along_axis(sample, k[None], -1) for k in (low, np.minimum(low + 1, size[:, None] - 1)))
    found = first + (position - low) * (second - first)
    centre, above, below = found[..., :1], found[..., 1 : len(unit) + 1], found[..., len(unit) + 1 :]
    return centre[..., 0], ((above - centre) / unit).max(axis=-1), ((centre - below) / unit).max(axis=-1)
