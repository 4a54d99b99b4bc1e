"""Incidents that recur: a table of resource and time of day, without any telemetry."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from aiops_core.data import splits
from aiops_core.servable.failure import clock_of
from aiops_core.tasks.failure.data import FailureData

#: Standard deviations of the kernel that validation chooses from, in horizons.
BANDWIDTHS = (1 / 6, 1 / 2, 1.0)
#: Days of the whole fleet's rate that are mixed into a resource's own.
PRIOR_DAYS = 1.0
DAY_SECONDS = 86_400
#: Times of the day that a table holds at most.
MOST_BINS = 288


def recurrence(data: FailureData, learned: np.ndarray, asked: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the probability of an incident within the horizon, from the times of day of the resource's earlier ones.

    Every start of an incident that labels a learned row adds a Gaussian kernel to the resource's table of the day.
    A resource without learned rows gets the table of the whole fleet, others a little of it.

    Parameters
    ----------
    learned, asked : ndarray
        Positions of rows.
    bandwidth : float
        Standard deviation of the kernel in horizons.

    Returns
    -------
    ndarray, (len(asked),), float64
    """
    clock = (data.time[asked].astype(np.int64) / data.step_seconds) % (DAY_SECONDS / data.step_seconds)
    return _expected_at(data, learned, data.resource[asked], clock, bandwidth)


def recurrence_table(data: FailureData, learned: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return what `recurrence` says of every resource at the times of a day, to be looked up.

    Returns
    -------
    ndarray, (n_resources + 1, n_bins + 1), float64
        The last row is for resources that were never seen, the last column, the mean of the day, for unknown times.
    """
    day = DAY_SECONDS / data.step_seconds
    bins = int(min(day, MOST_BINS))
    shift = 0.0 if bins == day else 0.5
    count = len(data.resources) + 1
    owner = np.repeat(np.r_[np.arange(count - 1), -1], bins)
    clock = np.tile((np.arange(bins) + shift) * day / bins, count)
    table = _expected_at(data, learned, owner, clock, bandwidth).reshape(count, bins)
    return np.column_stack([table, table.mean(axis=1)])


def looked_up(table: np.ndarray, resource: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the entries of a table for resources (n,), int, and times (n,), datetime64[s]; NaT is unknown."""
    bins = table.shape[1] - 1
    clock = clock_of(time, len(time))[:, 0]
    return np.asarray(table[resource, np.where(np.isnan(clock), bins, np.nan_to_num(clock) * bins).astype(np.int64)])


def recurs(data: FailureData) -> bool:
    """Tell whether a time of day can say anything: a horizon of half a day or more covers every one."""
    return 2 * data.horizon * data.step_seconds < DAY_SECONDS


def choose_bandwidth(data: FailureData) -> tuple[float, np.ndarray]:
    """Return the bandwidth of highest average precision on validation, and what it says there."""
    from sklearn.metrics import average_precision_score

    train, check = np.flatnonzero((data.part == splits.TRAIN) & data.example), data.ends["validation"]
    tried = [recurrence(data, train, check, bandwidth) for bandwidth in BANDWIDTHS]
    best = int(np.argmax([average_precision_score(data.label(check), found) for found in tried]))
    return BANDWIDTHS[best], tried[best]


def _expected_at(
    data: FailureData, learned: np.ndarray, resource: np.ndarray, clock: np.ndarray, bandwidth: float
) -> np.ndarray:
    """Return the probabilities at times of the day (n,), in steps, of resources (n,), -1 where it was never seen."""
    day = DAY_SECONDS / data.step_seconds
    soon = learned[data.label(learned) == 1]
    # A record may end before its incident: its place, past the rows of the resource, is kept apart from the next one's.
    place = np.round(soon + data.until[soon] + data.resource[soon] * (data.horizon + 1.0), 6)
    row = soon[np.unique(place, return_index=True)[1]]
    owner = data.resource[row]
    when = (data.time[row].astype(np.int64) / data.step_seconds + data.until[row]) % day
    days = np.r_[np.bincount(data.resource[learned], minlength=len(data.resources)) / day, 0.0]
    fleet = _expected(clock, when, data.horizon, bandwidth * data.horizon, day) / max(days.sum(), 1e-9)
    # Without a start of its own, a resource has its share of the fleet's rate.
    seen = days[resource]
    found = np.where(seen > 0, PRIOR_DAYS * fleet / (seen + PRIOR_DAYS), fleet)
    order = np.argsort(resource, kind="stable")
    for r in np.unique(owner):
        low, high = np.searchsorted(resource, [r, r + 1], sorter=order)
        mine = order[low:high]
        own = _expected(clock[mine], when[owner == r], data.horizon, bandwidth * data.horizon, day)
        found[mine] += own / (days[r] + PRIOR_DAYS)
    return np.asarray(1 - np.exp(-found))


def _expected(clock: np.ndarray, when: np.ndarray, horizon: int, sd: float, day: float) -> np.ndarray:
    """Return how much of the kernels of all starts lies within the horizon after each time of the day, (n,)."""
    # Equal times of day are asked again every day, and starts fall on the same grid.
    places, index = np.unique(clock, return_inverse=True)
    starts, weight = np.unique(when, return_counts=True)
    total = np.zeros(len(places))
    turns = int(np.ceil((horizon + 4 * sd) / day))
    for at, times in zip(starts, weight, strict=True):
        for turn in range(-1, turns + 1):
            ahead = at + turn * day - places
            total += times * (ndtr((horizon - ahead) / sd) - ndtr(-ahead / sd))
    return np.asarray(total[index])
