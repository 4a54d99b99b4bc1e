"""Shares of counts with their intervals."""

from __future__ import annotations

__all__ = ["wilson"]


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of counts (Wilson 1927); NaN without any.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    from scipy.stats import binomtest

    if n == 0:
        return float("nan"), float("nan")
    found = binomtest(round(hits), round(n)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
