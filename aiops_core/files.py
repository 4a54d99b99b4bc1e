"""Files that are whole or absent: written under a temporary name beside the target, then renamed; and files of this user alone."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; a reader sees the old file or the new one, never a part.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def copy_database(path: Path, copy: Path) -> None:
    """Copy an SQLite database whole, whoever writes to it meanwhile.

    Raises
    ------
    sqlite3.Error
        If it cannot be read, or the copy not be written.
    """
    import sqlite3

    with (
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table that a spreadsheet opens without running anything.

    Names and texts that begin with ``=``, ``+``, ``-``, ``@``, a tab or a line break, which a spreadsheet would take for a
    formula, get an apostrophe in front; numbers stay as they are.

    Parameters
    ----------
    path : Path
    frame : DataFrame
        Its index is not written.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    safe = frame.set_axis([_harmless(name) for name in frame.columns], axis=1)
    returns = any("\r" in str(name) for name in frame.columns)
    for i, kind in enumerate(safe.dtypes):
        if kind.kind == "O":
            values = [_harmless(value) for value in safe.iloc[:, i]]
            returns = returns or any(isinstance(value, str) and "\r" in value for value in values)
            safe.isetitem(i, values)
    # By itself pandas puts no quotes around a carriage return, after which a spreadsheet would begin a new cell.
    safe.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the folder if need be; NaN becomes null, because JSON has none.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(_clean(content), indent=1, allow_nan=False) + "\n")


def close(path: Path) -> None:
    """Take a file or folder out of the reach of other users; what belongs to another user is left as it is.

    Raises
    ------
    OSError
        If there is none.
    """
    state = path.stat()
    if state.st_uid == os.getuid() and state.st_mode & 0o077:
        path.chmod(state.st_mode & 0o7700)


def private_folder(path: Path) -> Path:
    """Make a folder, if it is missing, that only this user can enter, and return it.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    close(path)
    return path


def private_token(path: Path) -> None:
    """Make the file of a secret with a new one, if it is missing, and take it out of the reach of other users."""
    private_folder(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        close(path)
        return
    with open(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Give what is written in the block to this user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_clean(v) for v in value]
    if isinstance(value, np.ndarray):
        return _clean(value.tolist())
    if isinstance(value, np.generic):
        return _clean(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
