"""Incidents that recur: a table of resource and time of day, without any telemetry."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from aiops_core.tasks.failure.data import FailureData

#: Standard deviations of the kernel that validation chooses from, in horizons.
BANDWIDTHS = (1 / 6, 1 / 2, 1.0)
#: Days of the whole fleet's rate that are mixed into a resource's own.
PRIOR_DAYS = 1.0
DAY_SECONDS = 86_400


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
    day = DAY_SECONDS / data.step_seconds
    soon = learned[data.label(learned) == 1]
    # A record may end before its incident: its place, past the rows of the resource, is kept apart from the next one's.
    place = np.round(soon + data.until[soon] + data.resource[soon] * (data.horizon + 1.0), 6)
    row = soon[np.unique(place, return_index=True)[1]]
    owner = data.resource[row]
    when = (data.time[row].astype(np.int64) / data.step_seconds + data.until[row]) % day
    count = len(data.resources)
    days = np.bincount(data.resource[learned], minlength=count) / day
    clock = (data.time[asked].astype(np.int64) / data.step_seconds) % day
    fleet = _expected(clock, when, data.horizon, bandwidth * data.horizon, day) / max(days.sum(), 1e-9)
    # Without a start of its own, a resource has its share of the fleet's rate.
    seen = days[data.resource[asked]]
    found = np.where(seen > 0, PRIOR_DAYS * fleet / (seen + PRIOR_DAYS), fleet)
    order = np.argsort(data.resource[asked], kind="stable")
    for r in np.unique(owner):
        low, high = np.searchsorted(data.resource[asked], [r, r + 1], sorter=order)
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
