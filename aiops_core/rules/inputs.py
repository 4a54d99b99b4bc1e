"""Values of many rows with the names of their columns, as the rules take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiops_core.errors import UsageError


def feature_table(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return values as a float array, (n, len(names)); one row may be given flat.

    Raises
    ------
    UsageError
        If the columns do not match ``names``.
    """
    array = np.atleast_2d(np.asarray(values, dtype=float))
    if array.ndim != 2 or array.shape[1] != len(names):
        raise UsageError(f"{len(names)} feature names do not fit values of shape {np.shape(values)}")
    return array
