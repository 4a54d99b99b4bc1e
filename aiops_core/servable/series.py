"""Timed rows on a model's regular steps: the same for batch scoring and for requests.

The newest row is the last step. A row that lies ``d`` seconds before it takes the step ``floor(d / step + 1/4)``: scrapes
may jitter by a quarter of a step. Of several rows in a step the latest counts; a step without a row is missing.
"""

from __future__ import annotations

import numpy as np


def steps_back(seconds: np.ndarray, newest: np.ndarray | int, step: int) -> np.ndarray:
    """Return how many steps before the newest row each row lies.

    Parameters
    ----------
    seconds : ndarray, (n,), int64
    newest : int or ndarray, (n,)
        Time of the newest row.
    step : int
        Seconds.

    Examples
    --------
    >>> steps_back(np.array([0, 3500, 7300]), 7300, 3600).tolist()
    [2, 1, 0]
    """
    distance = np.asarray(newest - np.asarray(seconds, dtype=np.int64))
    return np.asarray((4 * distance + step) // (4 * step))


def window_of(seconds: np.ndarray, values: np.ndarray, window: int, step: int) -> np.ndarray:
    """Return the window that ends at the last row.

    Parameters
    ----------
    seconds : ndarray, (n,), int64
        Ascending.
    values : ndarray, (n, n_features), float32
    window, step : int
        Steps and seconds.

    Returns
    -------
    ndarray, (window, n_features), float32
        Oldest step first, NaN where there is no row.
    """
    back = steps_back(seconds, int(seconds[-1]), step)
    out = np.full((window, values.shape[1]), np.nan, dtype=np.float32)
    kept = back < window
    # Of repeated positions numpy keeps the last value: the latest row of a step.
    out[window - 1 - back[kept]] = values[kept]
    return out


def windows_ending_at(
    ends: np.ndarray, seconds: np.ndarray, values: np.ndarray, first: np.ndarray, window: int, step: int
) -> np.ndarray:
    """Return the window that ends at each of some rows of a table; see `window_of`.

    Parameters
    ----------
    ends : ndarray, (m,), int
        Positions of rows.
    seconds : ndarray, (n,), int64
        Rows sorted by resource, then time.
    values : ndarray, (n, n_features), float32
    first : ndarray, (n,), int
        Position of the first row of each row's resource.
    window, step : int
        Steps and seconds.

    Returns
    -------
    ndarray, (m, window, n_features), float32
    """
    out = np.full((len(ends), window, values.shape[1]), np.nan, dtype=np.float32)
    index = np.arange(len(ends))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    ago = 0
    while len(index):
        rows = ends[index] - ago
        back = steps_back(seconds[rows], seconds[ends[index]], step)
        near = back < window
        index, rows, back = index[near], rows[near], back[near]
        found.append((index, rows, back))
        index = index[rows > first[rows]]
        ago += 1
    # Oldest rows first, so that the latest of a step stays.
    for index, rows, back in reversed(found):
        out[index, window - 1 - back] = values[rows]
    return out


def means_by_step(seconds: np.ndarray, values: np.ndarray, newest: int, step: int, length: int) -> np.ndarray:
    """Return one value a step of a single column, ending at the time of the newest row.

    Parameters
    ----------
    seconds : ndarray, (n,), int64
    values : ndarray, (n,)
        NaN where unknown.
    newest : int
        Time of the last step, at least that of the last row.
    step : int
        Seconds.
    length : int
        Most steps to return.

    Returns
    -------
    ndarray, (up to length,), float64
        Means within a step, NaN where there is none; oldest first.
    """
    values = np.asarray(values, dtype=np.float64)
    back = steps_back(seconds, newest, step)
    kept = (back < length) & np.isfinite(values)
    back, values = back[kept], values[kept]
    size = int(back.max()) + 1 if len(back) else 1
    total = np.bincount(back, weights=values, minlength=size)
    count = np.bincount(back, minlength=size)
    mean: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean[::-1]
