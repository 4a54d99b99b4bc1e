"""Rolling origins on a common axis at whose end every resource's last row lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiops_core.data import tables
from aiops_core.data.splits import rolling_origins
from aiops_core.errors import DataError


def right_aligned(grid: tables.Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack the columns of every resource on one axis, so that all end together.

    Returns
    -------
    values : ndarray, (resources, columns, time), float32
        NaN before a resource's first row and where a value is not finite.
    first : ndarray, (resources,), int
        Position of the first row.
    end : ndarray, (resources,), datetime64[s]
        Time of the last row.
    """
    n = len(grid.resources)
    sizes = np.bincount(grid.resource, minlength=n)
    length = int(sizes.max())
    stops = np.cumsum(sizes)
    within = np.arange(len(grid.resource)) - np.repeat(stops - sizes, sizes)
    values = np.full((n, len(grid.columns), length), np.nan, dtype=np.float32)
    values[grid.resource, :, within + np.repeat(length - sizes, sizes)] = grid.values
    values[~np.isfinite(values)] = np.nan
    return values, length - sizes, grid.time[stops - 1]


def split_origins(length: int, config: Mapping[str, Any], reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of test and validation origins.

    Fewer than asked for when they would take most of the record.

    Parameters
    ----------
    length : int
        Steps of the longest record.
    config : mapping
        ``origins, origin_step, season`` are used.
    reach : int
        Longest scored forecast, in steps.

    Raises
    ------
    DataError
        If the record is too short.
    """
    for origins in range(int(config["origins"]), 0, -1):
        test = rolling_origins(length - 1, origins=origins, origin_step=int(config["origin_step"]), reach=reach)
        validation = rolling_origins(int(test[0]), origins=origins, origin_step=int(config["origin_step"]), reach=reach)
        if validation[0] >= 0.4 * length:
            break
    if validation[0] < max(8, config["season"] // 2) + min(reach, int(config["season"])):
        raise DataError(
            f"the longest record has {length} steps, too few to train, validate and test forecasts {reach} steps ahead",
            table="usage",
        )
    return test, validation
