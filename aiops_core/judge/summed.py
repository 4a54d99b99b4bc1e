"""A metric as a function of sums over rows: thousands of resamples of units become one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Summed:
    """Metrics of some rows under any weights.

    Attributes
    ----------
    rows : sparse array, (n, m)
        What each row adds to the sums.
    of : callable
        Sums (draws, m) to the metrics by name, (draws,) each.
    coarse : Summed, optional
        Nearly the same with fewer sums, for resamples.
    """

    rows: sparse.csr_array
    of: Callable[[np.ndarray], dict[str, np.ndarray]]
    coarse: Summed | None = None

    def __call__(self, weight: np.ndarray) -> dict[str, float]:
        """Return the metrics under row weights (n,)."""
        return {name: float(value[0]) for name, value in self.of((weight @ self.rows)[None]).items()}

    def by_unit(self, code: np.ndarray, size: int) -> sparse.csr_array:
        """Return what each unit adds to the sums, (size, m)."""
        n = len(code)
        return sparse.csr_array((np.ones(n), (code, np.arange(n))), shape=(size, n)) @ self.rows


def per_row(n: int, parts: Iterable[tuple[np.ndarray | int, np.ndarray, int]]) -> sparse.csr_array:
    """Put what rows add to sums side by side.

    Parameters
    ----------
    n : int
        Number of rows.
    parts : iterable of (column, value, width)
        Each of ``width`` columns: a row adds ``value`` (n,) to ``column`` (n,); a column of -1 adds nothing.
    """
    rows, columns, values, offset = [], [], [], 0
    for column, value, width in parts:
        place = np.broadcast_to(np.asarray(column), (n,))
        some = np.flatnonzero((place >= 0) & (value != 0))
        rows.append(some)
        columns.append(place[some] + offset)
        values.append(np.asarray(value, dtype=float)[some])
        offset += width
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(entries, shape=(n, offset))
