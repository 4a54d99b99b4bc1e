"""Which of two versions is better, from labels that arrive one after another: a verdict that may be looked at any time.

A test for a fixed number of rows that is looked at every day finds a difference sooner or later where there is none. A
**confidence sequence** does not: with probability ``1 - alpha`` the true difference lies in *all* of its intervals at once,
so that one may look after every label, and stop when it says enough. The one here is by betting (Waudby-Smith and Ramdas,
*Estimating means of bounded random variables by betting*, JRSS B 86, 2024): against every value that the difference could
have, two gamblers stake part of their wealth before each label, one on more and one on less. If the value were the true
one, no strategy would multiply the wealth by ``2 / alpha`` more often than in ``alpha / 2`` of all cases (Ville's
inequality); values against which one gambler got that rich are ruled out for good.

A stake follows the spread of the units before, never the unit at hand: stakes that were higher where two predictions lie
close together would weigh those units more, and measure another difference than the plain mean.

The units must be independent of each other, as blocks of a resource's time are and its overlapping windows are not; and
the difference is taken to be the same throughout. When everything is ruled out, it was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ALPHA", "BETTER", "CHANGED", "EQUIVALENT", "GO_ON", "WORSE", "Sequential", "judge", "settled"]

ALPHA = 0.05
BETTER, EQUIVALENT, WORSE, GO_ON = "better", "equivalent", "worse", "go on collecting"
#: No value of the difference fits the whole time.
CHANGED = "changed"
#: Share of what a gambler may stake without going bankrupt.
_BOLD = 0.75
#: Values of the difference on either side of none, closer together near none.
_VALUES = 160
_CHUNK = 2048


@dataclass(frozen=True)
class Sequential:
    """What the labels say so far.

    Attributes
    ----------
    units : int
        Independent units seen.
    mean, low, high : float
        Difference of the losses, positive where the candidate is better, and its interval; both ends NaN when `CHANGED`.
    verdict : {"better", "equivalent", "worse", "go on collecting", "changed"}
    settled : int or None
        Units after which the verdict stood.
    margin, alpha : float
    """

    units: int
    mean: float
    low: float
    high: float
    verdict: str
    settled: int | None
    margin: float
    alpha: float


def judge(
    differences: Sequence[float] | np.ndarray,
    margin: float,
    *,
    bound: float = 1.0,
    alpha: float = ALPHA,
) -> Sequential:
    """Judge a candidate by its paired differences, in the order in which their labels became known.

    Parameters
    ----------
    differences : array_like, (n,)
        Loss of the champion minus that of the candidate, one an independent unit.
    margin : float
        Largest difference that does not matter, in units of the loss; above 0.
    bound : float, default 1.0
        Largest size that a difference can have.
    alpha : float, default 0.05
        Largest share of wrong verdicts, however often one looks.

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        If the margin is not above 0 and below the bound, or a difference is larger than the bound or not finite.

    Examples
    --------
    >>> judge([0.5] * 40, margin=0.02).verdict, judge([0.0] * 400, margin=0.05).verdict, judge([0.1], margin=0.02).verdict
    ('better', 'equivalent', 'go on collecting')
    """
    found = np.asarray(differences, dtype=float).reshape(-1)
    if not 0 < margin < bound:
        raise ValueError(f"the margin must lie between 0 and {bound:g}, not at {margin:g}")
    if not np.isfinite(found).all() or (np.abs(found) > bound * (1 + 1e-9)).any():
        raise ValueError(f"a difference is not finite, or larger than {bound:g}")
    values = _values(bound, margin)
    gone = _ruled_out(found, bound, values, alpha)
    verdict, after = _verdict(gone, values, margin, len(found))
    low, high = _interval(gone, values, len(found))
    mean = float(found.mean()) if len(found) else float("nan")
    return Sequential(len(found), mean, low, high, verdict, after, margin, alpha)


def settled(differences: np.ndarray, margin: float, bound: float = 1.0, alpha: float = ALPHA) -> tuple[str, int | None]:
    """Return the verdict of `judge` and the units it took, without the interval: for simulations.

    Parameters
    ----------
    differences : ndarray, (n,)
    margin, bound, alpha : float
    """
    values = np.array([-margin, 0.0, margin])
    return _verdict(_ruled_out(differences, bound, values, alpha), values, margin, len(differences))


def _values(bound: float, margin: float) -> np.ndarray:
    """Return the values of the difference that are bet against: none, the margins, and a grid between the extremes."""
    near = margin / 20
    side = near * np.sinh(np.linspace(0, np.arcsinh(bound / near), _VALUES))
    return np.unique(np.clip(np.concatenate([side, -side, [0.0, margin, -margin]]), -bound, bound))


def _ruled_out(found: np.ndarray, bound: float, values: np.ndarray, alpha: float) -> np.ndarray:
    """Return from which unit on (0-based) each value is ruled out by those who bet on more and on less, (2, n_values).

    ``len(found)`` where it is not.
    """
    out = np.full((2, len(values)), len(found))
    if not len(found):
        return out
    stake = _stakes(found, bound, alpha)
    # What is left after the worst outcome is a share 1 - _BOLD of the wealth.
    most = _BOLD / (bound + np.abs(values))
    wealth = np.zeros((2, len(values)))
    for start in range(0, len(found), _CHUNK):
        part = slice(start, start + _CHUNK)
        gain = np.minimum(stake[part, None], most) * (found[part, None] - values)
        for side, sign in enumerate((1.0, -1.0)):
            grown = wealth[side] + np.cumsum(np.log1p(sign * gain), axis=0)
            rich = grown >= np.log(2 / alpha)
            first = np.where(rich.any(axis=0), start + rich.argmax(axis=0), len(found))
            out[side] = np.minimum(out[side], first)
            wealth[side] = grown[-1]
    return out


def _stakes(found: np.ndarray, bound: float, alpha: float) -> np.ndarray:
    """Return the stake of each unit by the spread of those before it, which is all that a gambler may know."""
    n = np.arange(1, len(found) + 1)
    before = np.concatenate([[0.0], np.cumsum(found)[:-1]]) / np.maximum(n - 1, 1)
    squares = np.concatenate([[0.0], np.cumsum((found - before) ** 2)[:-1]])
    spread = np.maximum((bound**2 / 4 + squares) / n, 1e-18)
    stake: np.ndarray = np.sqrt(2 * np.log(2 / alpha) / (spread * n * np.log1p(n)))
    return stake


def _verdict(gone: np.ndarray, values: np.ndarray, margin: float, units: int) -> tuple[str, int | None]:
    """Return the verdict, and the units that it took."""
    none, least, most = (int(np.argmin(np.abs(values - value))) for value in (0.0, -margin, margin))
    # Who bets on more rules out what is too little, and the other way round.
    when = {
        BETTER: int(gone[0, none]),
        WORSE: int(gone[1, none]),
        EQUIVALENT: max(int(gone[0, least]), int(gone[1, most])),
    }
    if not (gone.min(axis=0) >= units).any() and units and len(values) > 3:
        return CHANGED, None
    if when[BETTER] < units and when[WORSE] < units:
        return CHANGED, None
    for verdict, unit in when.items():
        if unit < units:
            return verdict, unit + 1
    return GO_ON, None


def _interval(gone: np.ndarray, values: np.ndarray, units: int) -> tuple[float, float]:
    """Return the interval of what is not ruled out, to the next values that are; NaN when everything is."""
    left = np.flatnonzero(gone.min(axis=0) >= units)
    if not len(left):
        return float("nan"), float("nan")
    return float(values[max(left[0] - 1, 0)]), float(values[min(left[-1] + 1, len(values) - 1)])
