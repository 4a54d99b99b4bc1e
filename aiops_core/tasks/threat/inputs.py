"""What stands between raw features and the forest; the exported graph holds the same operations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Inputs:
    """Missing values are filled and get indicator columns: a forest's own treatment of NaN converts wrongly.

    Attributes
    ----------
    fill : ndarray, (n_features,), float32
        Training median, or most frequent code.
    flagged : ndarray, (k,), int64
        Features that get an indicator column.
    ranks : dict of int to ndarray, (n_categories,), float32
        By category feature: what stands for each code. Only in a fold, whose codes must not tell the labels of the rows
        that it leaves out.
    """

    fill: np.ndarray
    flagged: np.ndarray
    ranks: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of columns of `expand`."""
        return len(self.fill) + len(self.flagged) + 1

    def expand(self, X: np.ndarray) -> np.ndarray:
        """Return (n, width) float32: filled features, indicators, count of missing features."""
        missing = np.isnan(X)
        flags = missing.astype(np.float32)
        filled = self.recoded(np.where(missing, self.fill, X))
        return np.concatenate([filled, flags[:, self.flagged], flags.sum(axis=1, keepdims=True)], axis=1)

    def recoded(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_features) with the codes of categories as `ranks` orders them; what is missing stays so."""
        if not self.ranks:
            return X
        out = X.copy()
        for j, rank in self.ranks.items():
            known = ~np.isnan(X[:, j])
            out[known, j] = rank[X[known, j].astype(np.int64)]
        return out
