"""Which rows of telemetry a failure model has seen, and which test examples another has not."""

from __future__ import annotations

import numpy as np

from aiops_core.data import splits
from aiops_core.data.seen import Seen, row_hashes
from aiops_core.tasks.failure.data import FailureData
from aiops_core.tasks.failure.split import near
from aiops_core.tasks.failure.units import incidents_of

#: Fewest examples, and incidents ahead of them, that a comparison with a champion may rest on.
MIN_ROWS, MIN_INCIDENTS = 100, 10


def seen(data: FailureData) -> Seen:
    """Return which rows of telemetry the final model of these data has seen, and the test examples."""
    rows = _hashes(data)
    chose = data.part == splits.VALIDATION
    learned = ((data.fold >= 0) | (data.part == splits.TRAIN)) & ~chose
    return Seen(np.unique(rows[learned]), np.unique(rows[chose]), np.unique(rows[data.ends["test"]]))


def unseen(data: FailureData, known: np.ndarray) -> np.ndarray:
    """Return the test examples that a model has learned nothing of, (n,), bool.

    Parameters
    ----------
    known : ndarray, uint64
        Rows that the model has seen. An example is unseen if none lies within its window or its horizon, or within a
        window and a horizon of it: what was learned next to it holds its answer.
    """
    touched = near(data, np.isin(_hashes(data), known), data.served_window + data.horizon)
    return np.asarray(~touched[data.ends["test"]])


def too_few(data: FailureData, rows: np.ndarray) -> str | None:
    """Tell why some test examples (n,), bool, are too few for a comparison; None when they are not."""
    count, incidents = int(rows.sum()), incidents_of(data, data.ends["test"][rows])
    if count >= MIN_ROWS and incidents >= MIN_INCIDENTS:
        return None
    return f"{count:,} rows with {incidents} incidents, fewer than {MIN_ROWS} rows with {MIN_INCIDENTS}"


def _hashes(data: FailureData) -> np.ndarray:
    """Return the hash of every row by its metrics: what is derived from them makes no other row of it."""
    names = np.array(data.resources, dtype=object)
    return row_hashes([row_hashes([names])[data.resource], data.time, *data.values[:, : len(data.metrics)].T])
