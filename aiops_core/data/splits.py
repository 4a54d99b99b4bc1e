"""Splits that do not leak: by time with an embargo, by whole groups, by rolling origins."""

from __future__ import annotations

import numpy as np

from aiops_core.data.tables import run_starts

#: Codes in a part array; `NONE` marks rows that belong to no part (the embargo).
TRAIN, VALIDATION, TEST, NONE = 0, 1, 2, -1


def by_time(resource: np.ndarray, *, test_fraction: float, validation_fraction: float, embargo: int) -> np.ndarray:
    """Cut every resource's time into train, validation and test, in this order, with an embargo between them.

    Parameters
    ----------
    resource : ndarray, (n_rows,), int
        Resource of each row of a `Grid`: sorted, one row a step, so that a position is a time.
    test_fraction, validation_fraction : float
        Shares of every resource's rows.
    embargo : int
        Steps after the end of a part that belong to no part. With ``window + horizon`` neither a window nor a
        label of one part reaches into the other.

    Returns
    -------
    ndarray, (n_rows,), int8
        `TRAIN`, `VALIDATION`, `TEST` or `NONE`.

    Examples
    --------
    >>> by_time(np.zeros(10, int), test_fraction=0.3, validation_fraction=0.2, embargo=1).tolist()
    [0, 0, 0, 0, 0, -1, 1, -1, 2, 2]
    """
    starts = run_starts(resource)
    lengths = np.diff(np.r_[starts, len(resource)])
    position = np.arange(len(resource)) - np.repeat(starts, lengths)
    length = np.repeat(lengths, lengths)
    test_at = np.floor(length * (1 - test_fraction) + 1e-9)
    validation_at = np.floor(length * (1 - test_fraction - validation_fraction) + 1e-9)
    part = np.full(len(resource), NONE, dtype=np.int8)
    part[position < validation_at] = TRAIN
    part[(position >= validation_at + embargo) & (position < test_at)] = VALIDATION
    part[position >= test_at + embargo] = TEST
    return part


def rolling_origins(last: int, *, origins: int, origin_step: int, reach: int) -> np.ndarray:
    """Return the positions of forecast origins, ascending, the last one ``reach`` steps before ``last``.

    Parameters
    ----------
    last : int
        Position of the last row.
    origins, origin_step : int
        Number of origins and the steps between them.
    reach : int
        Longest scored step ahead; the last origin's longest forecast ends at ``last``.

    Examples
    --------
    >>> rolling_origins(100, origins=3, origin_step=12, reach=24).tolist()
    [52, 64, 76]
    """
    return last - reach - origin_step * np.arange(origins - 1, -1, -1)
