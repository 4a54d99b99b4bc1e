"""Which files of the state folder go into an archive, and as what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from aiops_core.errors import UsageError
from aiops_core.files import copy_database

__all__ = ["members", "successor"]

#: What the service makes anew: counters of running processes, their records, fetched servables of the command line.
_PASSING = ("metrics", "servables", "services")
#: What SQLite keeps beside a database; a copy holds it.
_BESIDE = (".sqlite-wal", ".sqlite-shm", ".sqlite-journal")


def members(folder: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of all that a restored service needs; databases as copies, whoever writes to them.

    Parameters
    ----------
    folder : Path
        State folder.
    work : Path
        For the copies.

    Raises
    ------
    UsageError
        If a database cannot be read.
    """
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        passing = inside[0] in _PASSING[:2] or (inside[0] == "nodes" and inside[2:3] == (_PASSING[2],))
        # Locks, and what is being written this moment.
        unfinished = path.suffix == ".lock" or path.name == "lock" or any(part.startswith(".") for part in inside)
        if passing or unfinished or path.suffix in _BESIDE or not path.is_file() or path.is_symlink():
            continue
        yield "/".join(inside), _copied(path, work) if path.suffix == ".sqlite" else path


def _copied(path: Path, work: Path) -> Path:
    copy = work / path.name
    try:
        copy_database(path, copy)
    except sqlite3.Error as error:
        raise UsageError(f"the database {path} cannot be read: {error}") from error
    return copy


def successor(path: Path) -> Path | None:
    """Return what has become of a file of the journal that is gone: a segment is sealed, a sealed file removed for its age.

    Raises
    ------
    FileNotFoundError
        For a file that does not go by itself.
    """
    if path.parent.parent.name != "journal":
        raise FileNotFoundError(2, "No such file or directory", str(path))
    sealed = path.with_suffix(".parquet")
    return sealed if path.suffix == ".segment" and sealed.is_file() else None
