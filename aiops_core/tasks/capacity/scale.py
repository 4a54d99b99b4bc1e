"""In what units an error is counted: the naive error of a series, as far as it was known when the forecast was made."""

from __future__ import annotations

import numpy as np

from aiops_core.tasks.capacity.data import CapacityData

#: A series that has hardly moved is not measured in units of nothing: this share of the target's median naive error is
#: the least.
FLOOR = 0.1


def naive_scale(data: CapacityData, part: str) -> np.ndarray:
    """Return the mean absolute seasonal difference of each scored row's series up to the row's origin, (rows,).

    The scale of Hyndman and Koehler (2006): in-sample is all that was known when a forecast was made. One from the
    training rows alone is stale for a series that has since begun to move, and a few of these would outweigh all others.
    """
    pairs, season, targets = data.parts[part], data.layout.season, len(data.layout.targets)
    lag = season if data.limits["calibration"] >= season else 1
    values = data.values[:, :targets].astype(np.float64)
    gap = np.abs(values[..., lag:] - values[..., :-lag])
    known = ~np.isnan(gap)
    # The first entry stands for an origin without a season behind it.
    total, count = (
        np.insert(np.cumsum(x, axis=2), 0, 0, axis=2) for x in (np.where(known, gap, 0.0), known.astype(np.int64))
    )
    at = (pairs.resource, pairs.target, np.maximum(pairs.origin - lag + 1, 0))
    own = total[at] / np.maximum(count[at], 1)
    moving = np.where(data.naive_error > 0, data.naive_error, np.nan)
    least = np.array([np.nanmedian(x) if (x > 0).any() else 0.0 for x in moving.T])
    return pairs.flat(np.maximum(own, FLOOR * least[pairs.target]))
