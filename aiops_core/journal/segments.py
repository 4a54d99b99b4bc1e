"""Files of the journal: segments that a replica appends to, sealed into Parquet, and removed when there are too many.

A segment is a magic line and frames: a length and a checksum, four bytes each, and content. The first frame is an Arrow
schema, every other one a record batch of it. Whoever reads stops at the first frame that is cut off or changed, which
after a SIGKILL is the last one at most. A sealed file bears the name of its segment: ``<start>-<node>-<pid>-<serial>``,
the start in UTC, so that names sort by time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aiops_core import files

__all__ = ["Segment", "folder_of", "held", "oldest", "read_segment", "retain", "seal", "seal_left_behind"]

SEGMENT, SEALED = ".segment", ".parquet"
#: Last in the name of a file that is still being made: a leading dot alone would not hide it from `Path.glob`.
UNFINISHED = ".unfinished"
#: A segment of another node counts as left behind when nobody has written to it for so long.
SILENT_SECONDS = 86_400.0
_MAGIC = b"aiops journal 1\n"
_HEAD = struct.Struct("<II")
_STAMP = "%Y%m%dT%H%M%S%f"
#: Columns whose values hardly ever repeat: a dictionary of them would only take time.
_PLAIN = ("request_id", "inputs")
_log = logging.getLogger("aiops_core")


def folder_of(state: Path, task: str) -> Path:
    """Return where the records of a task lie in a state folder."""
    return state / "journal" / task


class Segment:
    """A segment that this process appends to; its lock says that the process lives.

    Parameters
    ----------
    folder : Path
        Of the task, see `folder_of`; made if it is missing.
    schema : pyarrow.Schema
    node : str
        Name of this machine.

    Attributes
    ----------
    path : Path
    size : int
        Bytes written.
    began : float
        Seconds since 1970.

    Raises
    ------
    OSError
        If it cannot be made; nothing is left behind.
    """

    def __init__(self, folder: Path, schema: pa.Schema, node: str) -> None:
        files.private_folder(folder.parent)
        files.private_folder(folder)
        self.began = time.time()
        stamp = datetime.fromtimestamp(self.began, UTC).strftime(_STAMP)
        name = f"{stamp}-{_plain(node)}-{os.getpid()}{SEGMENT}"
        self.path = folder / name
        # Locked before it bears its name: nobody takes it for one left behind.
        fresh = folder / f"{name}{UNFINISHED}"
        self._file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.size = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._put(_MAGIC + _frame(schema.serialize()))
            os.rename(fresh, self.path)
        except OSError:
            os.close(self._file)
            fresh.unlink(missing_ok=True)
            raise

    def append(self, batch: pa.RecordBatch) -> None:
        """Append a batch of records, whole or not at all.

        Raises
        ------
        OSError
            If the disk refuses it.
        """
        self._put(_frame(batch.serialize()))

    def _put(self, content: bytes) -> None:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(content)

    def close(self) -> None:
        """Give it up; it can then be sealed."""
        os.close(self._file)


def _plain(node: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", node) or "node"


def _frame(content: Any) -> bytes:
    data = bytes(content)
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def _frames(content: bytes) -> Iterator[bytes]:
    """Return the whole frames of a segment."""
    if not content.startswith(_MAGIC):
        return
    at = len(_MAGIC)
    while at + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, at)
        data = content[at + _HEAD.size : at + _HEAD.size + length]
        if len(data) != length or zlib.crc32(data) != checksum:
            return
        yield data
        at += _HEAD.size + length


def read_segment(path: Path) -> pa.Table | None:
    """Return the records of a segment, up to the first that is damaged; None if it holds not even a schema.

    Raises
    ------
    OSError
        If it cannot be read, because it was sealed meanwhile, say.
    """
    frames = _frames(path.read_bytes())
    first = next(frames, None)
    if first is None:
        return None
    schema = pa.ipc.read_schema(pa.py_buffer(first))
    return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(data), schema) for data in frames], schema)


def seal(path: Path) -> Path | None:
    """Turn a segment that nobody writes to into Parquet, in one step; return the new file, None if there was nothing in it.

    Raises
    ------
    OSError
        If the disk is full, say: the segment is then still there.
    """
    table = read_segment(path)
    sealed = None
    if table is not None and table.num_rows:
        sealed = path.with_suffix(SEALED)
        temporary = path.with_name(f"{sealed.name}{UNFINISHED}")
        plain = [name for name in table.column_names if name not in _PLAIN]
        try:
            pq.write_table(table.combine_chunks(), temporary, compression="zstd", use_dictionary=plain)
            os.chmod(temporary, 0o600)
            os.replace(temporary, sealed)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    path.unlink(missing_ok=True)
    return sealed


def seal_left_behind(state: Path, tasks: Iterable[str], node: str) -> int:
    """Seal the segments of processes that have ended, and return how many there were.

    Those of other nodes, whose locks may not be seen here, only after a day without a word.
    """
    sealed = 0
    for task in tasks:
        for path in sorted(folder_of(state, task).glob(f"*{SEGMENT}")):
            try:
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found = os.fstat(file.fileno())
                    ours = path.name.split("-")[1] == _plain(node)
                    # Another process may have sealed it while this one waited for the lock.
                    if path.stat().st_ino == found.st_ino and (ours or time.time() - found.st_mtime > SILENT_SECONDS):
                        seal(path)
                        sealed += 1
            except (BlockingIOError, FileNotFoundError):
                continue
            except (OSError, pa.ArrowException) as error:
                _log.error("the segment %s of the journal cannot be sealed: %s", path, error)
    return sealed


def held(state: Path) -> list[tuple[float, int, Path]]:
    """Return start (seconds since 1970), bytes and path of every file of the journal, oldest first."""
    found = []
    for path in (state / "journal").glob("*/*"):
        if path.suffix in (SEGMENT, SEALED):
            with contextlib.suppress(OSError, ValueError):
                began = datetime.strptime(path.name.split("-")[0], _STAMP).replace(tzinfo=UTC).timestamp()
                found.append((began, path.stat().st_size, path))
    return sorted(found)


def oldest(state: Path) -> float | None:
    """Return when the oldest file of the journal was begun, seconds since 1970; None if there is none."""
    return next((began for began, _, _ in held(state)), None)


def retain(state: Path, most_bytes: int, most_seconds: float, now: float | None = None) -> int:
    """Remove the oldest sealed files while there are more bytes than wanted, and those begun too long ago.

    Open segments count and stay.

    Parameters
    ----------
    state : Path
        State folder.
    most_bytes : int
    most_seconds : float
        Age, by the time a file was begun.
    now : float, optional
        Seconds since 1970.

    Returns
    -------
    int
        Files removed.
    """
    now = time.time() if now is None else now
    found = held(state)
    total = sum(size for _, size, _ in found)
    removed = 0
    for began, size, path in found:
        if path.suffix == SEALED and (total > most_bytes or now - began > most_seconds):
            path.unlink(missing_ok=True)
            total -= size
            removed += 1
    return removed
