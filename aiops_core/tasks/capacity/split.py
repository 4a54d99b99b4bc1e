"""Rolling origins on a common axis, the parts they belong to, and which resources are fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiops_core.data import tables
from aiops_core.data.splits import alive, rolling_origins, share_a_calendar
from aiops_core.errors import DataError, UsageError

PROTOCOLS = ("time", "resource")
#: Share of the resources that only test, with the protocol "resource".
LEFT_OUT = 0.3


@dataclass(frozen=True)
class Axis:
    """The columns of every resource on one axis.

    Attributes
    ----------
    values : ndarray, (resources, columns, time), float32
        NaN outside a resource's record and where a value is not finite.
    first, last : ndarray, (resources,), int
        Positions of the first and the last row on the axis.
    end : ndarray, (resources,), datetime64[s]
        Time of the last position.
    same_time : bool
        Whether a position is the same time for all resources.
    """

    values: np.ndarray
    first: np.ndarray
    last: np.ndarray
    end: np.ndarray
    same_time: bool


def aligned(grid: tables.Grid) -> Axis:
    """Put the columns of every resource on one axis: by the calendar where the records share one, else by their ends.

    On one calendar every cut falls at the same time for all resources: else the training rows of one would tell what
    happened to all while another was tested. The axis then ends at the last time at which at least half as many
    resources have a row as at the busiest time; what a few record after it is not used, and a resource whose record
    ends earlier is tested as far as it goes. Records of one resource each, or of different periods, share no
    calendar: each is cut at positions of its own, so that all end together.
    """
    n, step = len(grid.resources), np.timedelta64(grid.step_seconds, "s")
    sizes = np.bincount(grid.resource, minlength=n)
    stops = np.cumsum(sizes)
    begin, end = grid.time[stops - sizes], grid.time[stops - 1]
    # More than half of the records at a time: an axis that ends for all of them would leave few others their test.
    same_time = share_a_calendar(begin, end, grid.time, at_least=max(2, n // 2 + 1))
    # Steps between a resource's last row and the end of the axis; below 0 where its record goes on.
    behind = np.zeros(n, dtype=np.int64)
    if same_time:
        busy = alive(begin, end, np.r_[begin, end])
        final = end[2 * busy[n:] >= busy.max()].max()
        behind = np.round((final - end) / step).astype(np.int64)
    length = int((sizes + behind).max())
    first = length - behind - sizes
    position = np.arange(len(grid.resource)) - np.repeat(stops - sizes - first, sizes)
    kept = position < length
    values = np.full((n, len(grid.columns), length), np.nan, dtype=np.float32)
    values[grid.resource[kept], :, position[kept]] = grid.values[kept]
    values[~np.isfinite(values)] = np.nan
    return Axis(values, first, np.minimum(length - 1 - behind, length - 1), end + behind * step, same_time)


def fitted_resources(count: int, protocol: str, *, seed: int) -> np.ndarray:
    """Return which of ``count`` resources a fit may see, (count,), bool: all, or all but three in ten drawn at random.

    Raises
    ------
    UsageError
        For an unknown protocol.
    DataError
        If there are too few resources to leave one out.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is unknown; known: {', '.join(PROTOCOLS)}")
    fitted = np.ones(count, dtype=bool)
    if protocol == "resource":
        if count < 2:
            raise DataError("has one resource only; the protocol 'resource' needs at least 2", table="usage")
        left_out = min(count - 1, max(1, round(LEFT_OUT * count)))
        fitted[np.random.default_rng([seed, 3]).permutation(count)[:left_out]] = False
    return fitted


def split_origins(length: int, config: Mapping[str, Any], reach: int) -> dict[str, np.ndarray]:
    """Return the positions of the origins of ``validation``, ``calibration`` and ``test``.

    The forecasts of a part end at the first origin of the next. Validation and calibration have as many origins as
    test, or down to half as many when they would take more than six tenths of the record; when that is not enough,
    test gets fewer than asked for.

    Parameters
    ----------
    length : int
        Steps of the axis.
    config : mapping
        ``origins, origin_step, season`` are used.
    reach : int
        Longest scored forecast, in steps.

    Raises
    ------
    DataError
        If the record is too short.
    """
    found: dict[str, np.ndarray] = {}
    for tested in range(int(config["origins"]), 0, -1):
        for others in range(tested, (tested + 1) // 2 - 1, -1):
            last = length - 1
            for name, count in (("test", tested), ("calibration", others), ("validation", others)):
                found[name] = rolling_origins(last, origins=count, origin_step=int(config["origin_step"]), reach=reach)
                last = int(found[name][0])
            if last >= 0.4 * length:
                return found
    if last < max(8, config["season"] // 2) + min(reach, int(config["season"])):
        raise DataError(
            f"the longest record has {length} steps, too few to train, validate, calibrate and test forecasts "
            f"{reach} steps ahead",
            table="usage",
        )
    return found
