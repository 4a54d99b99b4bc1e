"""Repeated training: mean, spread and interval of a metric over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

from aiops_core.errors import UsageError


class OverSeeds(TypedDict):
    """A metric over trainings that differ in their seed only.

    ``spread`` is the standard deviation of one training; ``low`` and ``high`` are the 95 % interval of the mean. With
    one seed neither is known (NaN).
    """

    mean: float
    spread: float
    low: float
    high: float
    seeds: int


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Return mean, spread and 95 % t-interval (Student 1908) of a metric over seeds.

    The interval is about training again on the same data. It says nothing of other test rows: see
    `aiops_core.judge.intervals`.

    Parameters
    ----------
    values : sequence of float
        One a seed; those that are not finite are left out.

    Raises
    ------
    UsageError
        If there is no finite value.

    Examples
    --------
    >>> found = over_seeds([0.70, 0.72, 0.74])
    >>> round(found["mean"], 3), round(found["spread"], 3), round(found["low"], 3), round(found["high"], 3)
    (0.72, 0.02, 0.67, 0.77)
    """
    known = np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    if len(known) == 0:
        raise UsageError("no value of any seed is a number")
    mean, n = float(known.mean()), len(known)
    if n == 1:
        return {"mean": mean, "spread": math.nan, "low": math.nan, "high": math.nan, "seeds": 1}
    spread = float(known.std(ddof=1))
    reach = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return {"mean": mean, "spread": spread, "low": mean - reach, "high": mean + reach, "seeds": n}
