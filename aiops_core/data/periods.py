"""Periods of resources: which rows of a series lie within some."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["within"]


def within(rows: pd.DataFrame, periods: pd.DataFrame) -> np.ndarray:
    """Return which rows lie within a period of their resource.

    Parameters
    ----------
    rows : DataFrame
        ``resource_id`` and ``timestamp``.
    periods : DataFrame
        ``resource_id``, ``start`` and ``end``, half open.

    Returns
    -------
    ndarray, (n,), bool
    """
    found = np.zeros(len(rows), dtype=bool)
    places = rows.groupby("resource_id").indices
    stamps = rows["timestamp"].to_numpy()
    for name, start, end in zip(periods["resource_id"], periods["start"], periods["end"], strict=True):
        mine = places.get(name)
        if mine is not None:
            found[mine] |= (stamps[mine] >= start) & (stamps[mine] < end)
    return found
