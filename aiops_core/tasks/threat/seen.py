"""Which rows of activity a threat model has seen, and which test rows another has not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.seen import Seen, row_hashes
from aiops_core.data.splits import TRAIN
from aiops_core.tasks.threat.data import ThreatData

#: Fewest rows that a comparison with a champion may rest on, and of each of two classes.
MIN_ROWS, MIN_OF_CLASS = 100, 10


def hashes_of(frame: pd.DataFrame, features: list[dict[str, Any]]) -> np.ndarray:
    """Return the hash of every row of activity by the features that a model reads, (n,), uint64."""
    numbers = {feature["name"] for feature in features if feature["dtype"] == "number"}
    return row_hashes(
        [
            frame[name].to_numpy(dtype=np.float32, na_value=np.nan)
            if name in numbers
            else frame[name].to_numpy(dtype=object)
            for name in (feature["name"] for feature in features)
        ]
    )


def seen(data: ThreatData) -> Seen:
    """Return which rows the final model of these data has seen, and the test rows.

    Rows that chose are the training rows themselves: validation is out of fold.
    """
    hashes = data.row_hashes
    chose = np.zeros(len(hashes), dtype=bool)
    chose[data.rows] = True
    learned = (data.part == TRAIN) & ~chose
    return Seen(np.unique(hashes[learned]), np.unique(hashes[chose]), np.unique(hashes[data.index("test")]))


def unseen(data: ThreatData, known: np.ndarray) -> np.ndarray:
    """Return the test rows that are none of the ``known`` ones (hashes, uint64), (n,), bool."""
    return np.isin(data.row_hashes[data.index("test")], known, invert=True)


def too_few(data: ThreatData, rows: np.ndarray) -> str | None:
    """Tell why some test rows (n,), bool, are too few for a comparison; None when they are not."""
    count = int(rows.sum())
    classes = int((np.bincount(data.truth("test")[rows]) >= MIN_OF_CLASS).sum())
    if count >= MIN_ROWS and classes >= 2:
        return None
    return (
        f"{count:,} rows with {classes} classes of at least {MIN_OF_CLASS} rows, fewer than {MIN_ROWS} rows with 2 such"
    )
