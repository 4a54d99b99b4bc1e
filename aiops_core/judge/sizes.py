"""How large a test would have to be for what this one leaves open."""

from __future__ import annotations

import math
from collections.abc import Iterable

from aiops_core.judge.intervals import Gain
from aiops_core.judge.units import Units


def times_larger(gain: Gain, limit: float) -> float:
    """Return how many times larger a test must be for the lower end of a gain to lie above a limit.

    The width of an interval falls with the root of the number of units; the point estimate is taken to stay.

    Returns
    -------
    float
        1 where it lies there already, inf where the point estimate does not, NaN where the gain is undefined.

    Examples
    --------
    >>> times_larger({"value": 0.01, "low": -0.05, "high": 0.07, "own": 0.5, "other": 0.49}, -0.02)
    4.0
    """
    if not (math.isfinite(gain["value"]) and math.isfinite(gain["low"])):
        return math.nan
    room = gain["value"] - limit
    if room <= 0:
        return math.inf
    return max(1.0, round(((gain["value"] - gain["low"]) / room) ** 2, 9))


def how_many_more(open_ones: Iterable[tuple[Gain, float]], units: Units | None) -> str:
    """Say how many more units would settle all open comparisons, as the end of a sentence; nothing where none would.

    Parameters
    ----------
    open_ones : iterable of (Gain, float)
        Gains, each with the limit that its lower end must lie above.
    units : Units or None
    """
    if units is None or units.count == 0:
        return ""
    times = [times_larger(gain, limit) for gain, limit in open_ones]
    if not times or not all(map(math.isfinite, times)):
        return ""
    more = max(1, _round(units.count * (max(times) - 1)))
    return (
        f"; about {more:,} more {units.counted} ({units.count + more:,} instead of {units.count:,}) would settle it "
        "if the difference stays"
    )


def _round(number: float) -> int:
    """Round up to two digits: more would pretend to know."""
    step: int = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / step) * step
