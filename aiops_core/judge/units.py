"""What is drawn when an interval is made: the units of a test part that are independent of each other.

Neighbouring windows share their content, attacks of one campaign look alike, forecasts from neighbouring origins share
their future: drawing single rows would make every interval too narrow. So whole units are drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: Resamples, and weights of them, that are held in memory at a time.
AT_ONCE, CELLS = 1_000, 4_000_000


@dataclass(frozen=True)
class Units:
    """The independent units of some rows.

    Attributes
    ----------
    code : ndarray, (n,), int
        Unit of each row, from 0.
    words : str
        What a reader is told: "25 resources".
    count : int
        How much the rows hold of what a larger test would hold more of.
    counted : str
        What that is: "incidents", "rows", "origins".
    strata : ndarray, (k,), int, optional
        Units are drawn within these, as often as each has units.
    crossed : ndarray, (k, 2), int, optional
        Level of each unit on two axes that are drawn independently; a unit counts as often as both together (Owen 2007,
        "The pigeonhole bootstrap").
    effective : int
        Units that a figure hangs on, where those are few: the ones that hold an incident, or the levels of the crossed
        axis that has fewer. 0: all.
    """

    code: np.ndarray
    words: str
    count: int
    counted: str
    strata: np.ndarray | None = None
    crossed: np.ndarray | None = None
    effective: int = 0

    @property
    def size(self) -> int:
        """Number of units, k."""
        return int(self.code.max()) + 1 if len(self.code) else 0

    def draws(self, seed: int, n_boot: int) -> Iterator[np.ndarray]:
        """Yield how often each unit was drawn, in chunks (some of ``n_boot``, k), float64."""
        rng = np.random.default_rng([seed, 20251])
        size = max(self.size, 1)
        at_once = max(1, min(AT_ONCE, CELLS // size))
        for start in range(0, n_boot, at_once):
            some = min(at_once, n_boot - start)
            if self.crossed is not None:
                one, two = (_drawn(rng, int(axis.max()) + 1, some)[:, axis] for axis in self.crossed.T)
                yield one * two
                continue
            weight = np.zeros((some, self.size))
            strata = np.zeros(self.size, dtype=np.int64) if self.strata is None else self.strata
            for stratum in np.unique(strata):
                members = np.flatnonzero(strata == stratum)
                weight[:, members] = _drawn(rng, len(members), some)
            yield weight


def _drawn(rng: np.random.Generator, size: int, draws: int) -> np.ndarray:
    """Return how often each of ``size`` was drawn, (draws, size), float64."""
    place = rng.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(place.ravel(), minlength=draws * size).reshape(draws, size).astype(float)


def of_rows(n: int) -> Units:
    """Return every row as a unit of its own."""
    return Units(np.arange(n), f"{n:,} rows", n, "rows")


def of_labels(
    labels: np.ndarray, words: str = "", count: int | None = None, counted: str = "", effective: int = 0
) -> Units:
    """Return the units that labels (n,) name; ``words`` and ``counted`` default to "units"."""
    names, code = np.unique(labels, return_inverse=True)
    k = len(names)
    return Units(code, words or f"{k} units", k if count is None else count, counted or "units", effective=effective)
