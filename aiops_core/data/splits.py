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


def alive(begin: np.ndarray, end: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return how many records, whose first and last rows are at ``begin`` and ``end``, cover each time, (n,), int."""
    started = np.searchsorted(np.sort(begin), time, side="right")
    return np.asarray(started - np.searchsorted(np.sort(end), time, side="left"))


def share_a_calendar(begin: np.ndarray, end: np.ndarray, time: np.ndarray, *, at_least: int = 2) -> bool:
    """Tell whether records share a calendar: most rows lie at a time that ``at_least`` records cover.

    Records of one resource each, or laid end to end with made-up dates, do not.

    Parameters
    ----------
    begin, end : ndarray, (n_records,), datetime64
        Times of the first and the last row of each record.
    time : ndarray, (n_rows,), datetime64
        Of all their rows.
    at_least : int
        2 where a cut in time is to part what happened at once; more where the records are also to be laid on one axis
        that ends for all of them together.

    Examples
    --------
    >>> begin, end = (np.array(t, "datetime64[s]") for t in (["2026-01-01", "2026-01-02"], ["2026-01-03", "2026-01-04"]))
    >>> share_a_calendar(begin, end, np.r_[begin, end])
    False
    >>> share_a_calendar(begin, end, np.r_[begin, end, begin[1], end[0]])
    True
    """
    return bool(np.mean(alive(begin, end, time) >= at_least) > 0.5)


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
