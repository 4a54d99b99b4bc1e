"""Which rows a model has seen: 8-byte hashes of rows, kept beside a servable.

Two models can be compared only on rows that neither was trained on. A row is known by what it is, its resource and
time where it has them and its values, so that no file, order or split of the table matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = "seen.npz"


@dataclass(frozen=True)
class Seen:
    """Hashes of rows, each sorted and without repetition, uint64.

    Attributes
    ----------
    train : ndarray
        Rows that were learned from.
    validation : ndarray
        Rows that chose parameters or thresholds; the final model has often learned from them too.
    test : ndarray
        Rows of the test part. Not kept in a file.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Rows that the model is not to be tested on."""
        return np.union1d(self.train, self.validation)

    @property
    def test_digest(self) -> str:
        """What the test rows are known by, 16 hexadecimal digits."""
        return hashlib.blake2b(self.test.tobytes(), digest_size=8).hexdigest()


def write_seen(folder: Path, seen: Seen) -> None:
    """Write the rows that were learned from, and those that chose, into the folder of a servable."""
    np.savez(folder / FILE, train=seen.train, validation=seen.validation)


def read_seen(folder: Path) -> np.ndarray | None:
    """Return the hashes of all rows that a servable has seen, sorted; None where it does not say."""
    path = folder / FILE
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return np.union1d(stored["train"], stored["validation"])


def row_hashes(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Hash rows, the same on every machine.

    Parameters
    ----------
    columns : sequence of ndarray, (n,)
        Numbers are taken as float32, so that a table read from another format is the same; times as seconds; hashes
        (uint64) as they are; all else as text. A missing value is a value.

    Returns
    -------
    ndarray, (n,), uint64
    """
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        state = _mixed(state * np.uint64(0x9E3779B97F4A7C15) + _bits(column))
    return state


def _bits(column: np.ndarray) -> np.ndarray:
    if column.dtype == np.uint64:
        return column
    if column.dtype.kind == "M":
        return column.astype("datetime64[s]").astype(np.int64).view(np.uint64)
    if column.dtype.kind in "biuf":
        numbers = column.astype(np.float32) + np.float32(0)  # one zero, not two
        numbers[np.isnan(numbers)] = np.nan  # one NaN of the many
        return numbers.view(np.uint32).astype(np.uint64)
    names, code = np.unique(column.astype(str), return_inverse=True)
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names.tolist()]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)[code]


def _mixed(state: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finalizer of SplitMix64, Steele, Lea and Flood 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))
