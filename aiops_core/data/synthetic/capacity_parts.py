"""What the use of a resource is made of: calendar, orders that come a day ahead, slow noise and shifts of the level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiops_core.data.synthetic.draws import DAY, WEEK

__all__ = [
    "LEAD",
    "MONTH",
    "ORDERS_DECAY",
    "ORDERS_MEAN",
    "ORDERS_SPREAD",
    "PARTS",
    "USAGE_EXOGENOUS",
    "USAGE_HOURS",
    "USAGE_START",
    "USAGE_TARGETS",
    "WALK",
    "Part",
    "calendar",
]

USAGE_TARGETS = ("cpu_usage", "memory_usage", "storage_usage")
USAGE_EXOGENOUS = ("request_rate", "user_count", "transaction_count")
USAGE_START = np.datetime64("2025-04-07T00:00:00", "s")  # a Monday
USAGE_HOURS = 120 * DAY
MONTH = 30 * DAY
#: Transactions are orders: use follows their log so many hours later.
LEAD = 24
#: Log of the orders of a resource: mean and sd between resources, and how long a campaign lasts (decay per hour, sd 1).
ORDERS_MEAN, ORDERS_SPREAD, ORDERS_DECAY = 9.0, 0.8, 0.988
#: Sd per hour of the random walk that replaces everything else as the signal goes to 0.
WALK = 0.3


@dataclass(frozen=True)
class Part:
    """How one target behaves, in % of capacity: mean and sd between resources of each coefficient, and its noise."""

    mean: tuple[float, ...]  # of the columns of `calendar`, then of the orders
    spread: tuple[float, ...]
    decay: float  # of the slow noise, per hour
    slow: float  # its sd
    fast: float  # sd of white noise
    shift_rate: float  # shifts of the level per hour, at drift 1
    shift: float  # their sd


#: Columns: level, trend a month, cosine and sine of the day, of half a day, weekend, weekend times cosine and sine, hours
#: since Monday (as a share of the week), log orders a day before.
PARTS: dict[str, Part] = {
    "cpu_usage": Part(
        (48.0, 0.0, -5.0, -5.0, 0.0, 0.0, -7.0, 3.0, 3.0, 0.0, 7.0),
        (8.0, 1.5, 5.0, 5.0, 2.0, 2.0, 5.0, 3.0, 3.0, 0.5, 2.0),
        0.85, 2.4, 1.6, 1 / 1200, 9.0,
    ),
    "memory_usage": Part(
        (50.0, 0.5, -2.0, -2.0, 0.0, 0.0, -3.0, 1.0, 1.0, 2.0, 5.0),
        (9.0, 2.0, 3.0, 3.0, 1.0, 1.0, 4.0, 1.5, 1.5, 3.0, 2.0),
        0.92, 1.8, 1.0, 1 / 1200, 9.0,
    ),
    "storage_usage": Part(
        (42.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 12.0, 2.5),
        (10.0, 1.5, 0.7, 0.7, 0.3, 0.3, 1.0, 0.3, 0.3, 4.0, 1.5),
        0.95, 1.4, 0.7, 1 / 1000, 8.0,
    ),
}  # fmt: skip


def calendar(hours: np.ndarray) -> np.ndarray:
    """Return the calendar's columns of hours after `USAGE_START`, (..., 10)."""
    angle = 2 * np.pi * (hours % DAY) / DAY
    weekend = ((hours // DAY) % 7 >= 5).astype(np.float64)
    one, cos, sin = np.ones_like(angle), np.cos(angle), np.sin(angle)
    week = (hours % WEEK) / WEEK - 0.5  # cleaned up on Monday at midnight
    columns = (one, hours / MONTH, cos, sin, np.cos(2 * angle), np.sin(2 * angle))
    return np.stack([*columns, weekend, weekend * cos, weekend * sin, week], axis=-1)
