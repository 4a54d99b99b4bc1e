"""Which rows of usage a capacity model has seen, and which test forecasts another could not know the answer of."""

from __future__ import annotations

import numpy as np

from aiops_core.data.seen import Seen, row_hashes
from aiops_core.tasks.capacity.data import CapacityData

#: Fewest forecast values, and origins, that a comparison with a champion may rest on.
MIN_ROWS, MIN_ORIGINS = 100, 2


def seen(data: CapacityData) -> Seen:
    """Return which rows of usage the final model of these data has seen, and those that the test forecasts."""
    hashes, real = _hashes(data)
    position = np.arange(hashes.shape[1])
    learned = real & (position <= data.limits["train"])
    chose = real & (position > data.limits["train"]) & (position <= data.limits["validation"])
    return Seen(np.unique(hashes[learned]), np.unique(hashes[chose]), np.unique(_answers(data, hashes)))


def unseen(data: CapacityData, known: np.ndarray) -> np.ndarray:
    """Return the test values whose row is none of the ``known`` ones (hashes, uint64), (n,), bool."""
    return np.isin(_answers(data, _hashes(data)[0]), known, invert=True)


def too_few(data: CapacityData, rows: np.ndarray) -> str | None:
    """Tell why some test values (n,), bool, are too few for a comparison; None when they are not."""
    pairs = data.parts["test"]
    count, origins = int(rows.sum()), len(np.unique(pairs.flat(pairs.origin)[rows]))
    if count >= MIN_ROWS and origins >= MIN_ORIGINS:
        return None
    return f"{count:,} values of {origins} origins, fewer than {MIN_ROWS} values of {MIN_ORIGINS} origins"


def _hashes(data: CapacityData) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of every resource's row on the common axis, and which a fit may see; (resources, time).

    Derived features are no part of it: they make no other row of the same values.
    """
    n, _, length = data.values.shape
    resource, position = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(length), indexing="ij"))
    names = row_hashes([np.array(data.resources, dtype=object)])
    columns = [data.values[:, j].ravel() for j, name in enumerate(data.columns) if name in data.raw]
    rows = row_hashes([names[resource], data.time(resource, position), *columns])
    inside = (np.arange(length) >= data.first[:, None]) & (np.arange(length) <= data.last[:, None])
    return rows.reshape(n, length), inside & data.fitted[:, None]


def _answers(data: CapacityData, hashes: np.ndarray) -> np.ndarray:
    """Return the hash of the row that holds each test value, (n,)."""
    pairs = data.parts["test"]
    return np.asarray(hashes[pairs.flat(pairs.resource), pairs.flat(pairs.origin) + pairs.steps[pairs.known]])
