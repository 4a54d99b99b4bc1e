"""The journal of the snapshot buffer: with it, windows survive the end of their process, by SIGKILL too.

Every snapshot becomes a record in a file of the state folder, at most `WRITE_SECONDS` after its answer; a thread writes. A restarted
process reads the records back through the code that took them in. When the file has grown, and after every start, it is
replaced in one step by one that holds only what is still remembered.

A record is a length and a checksum, four bytes each, and MessagePack. What follows a damaged record is ignored, with a
line in the log: the rules answer for its resources until their windows have filled again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from serve_app.answers.windows import Buffer, Key, Windows

__all__ = ["Journal"]

WRITE_SECONDS = 0.2
#: Bytes from which a file is replaced, if it is also this many times as long as after the last time.
LONG, GROWN = 32_000_000, 3
_MAGIC = b"aiops windows 1\n"
_HEAD = struct.Struct("<II")
_log = logging.getLogger("serve_app")
_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """Keep a buffer of snapshots on disk.

    Parameters
    ----------
    path : Path
    windows : Windows
        Filled with what the file holds, then journalled.
    """

    def __init__(self, path: Path, windows: Windows) -> None:
        self._path = path
        self._windows = windows
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._compact = 0
        #: Number of each signature in this file.
        self._numbers: dict[tuple[object, ...], int] = {}
        self._failing = self._read = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-windows", daemon=True)

    def start(self) -> None:
        """Read what is there, then keep it up to date; a file in use by another process is left to it until that ends."""
        if self._owned():
            self._restore(self._windows)
            self._read = True
        self._windows.pending = []
        self._thread.start()

    def close(self) -> None:
        """Write what is not yet written."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _owned(self) -> bool:
        """Say whether this process may write, which one at a time may: its predecessor may be on its way out."""
        if self._lock is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                lock = open(self._path.with_suffix(".lock"), "ab")  # noqa: SIM115  (held while this process lives)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self._lock = lock
        return True

    def _restore(self, windows: Windows) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            _log.error("the journal of snapshots cannot be read, windows begin anew: %s", error)
            return
        signatures: list[tuple[Any, ...]] = []
        count = 0
        try:
            for record in _records(content):
                self._apply(record, signatures, windows)
                count += 1
        except (ValueError, TypeError, LookupError, struct.error, msgspec.DecodeError) as error:
            _log.warning("the journal of snapshots is damaged after %d records, the rest is ignored: %s", count, error)

    def _apply(self, record: list[Any], signatures: list[tuple[Any, ...]], windows: Windows) -> None:
        """Take one record in."""
        if record[0] == "signature":
            names, window, step = record[1]
            signatures.append((tuple(names), window, step))
            return
        _, resource_id, number, stamp, *rest = record
        signature = signatures[number]
        names, window, step = signature
        if record[0] == "snapshot":
            row = np.frombuffer(rest[0], dtype=np.float32, count=len(names))
            windows.put(resource_id, row, signature=signature, window=window, step=step, timestamp=stamp)
        else:
            timed, newest, first, slots = rest
            rows = {slot: np.frombuffer(row, dtype=np.float32, count=len(names)) for slot, row in slots}
            windows.restore(resource_id, signature, timed, Buffer(rows, newest, first, stamp))

    def _adopt(self) -> None:
        """Go on with the windows of a predecessor that has ended since, and what came here meanwhile."""
        before = Windows()
        self._restore(before)
        with self._windows.lock:
            for (resource_id, signature, timed), buffer in self._windows.items():
                _, window, step = cast(tuple[Any, int, int], signature)
                for slot, row in sorted(buffer.slots.items()):
                    stamp = None if not timed else buffer.latest if slot == buffer.newest else float(slot * step)
                    before.put(resource_id, row, signature=signature, window=window, step=step, timestamp=stamp)
            self._windows.become(before)

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(WRITE_SECONDS)
            try:
                if self._owned():
                    if not self._read:
                        self._adopt()
                        self._read = True
                    self._write()
                else:
                    self._windows.pending = []
            except OSError as error:
                # A new file is begun when there is room again: what is remembered lies in memory.
                self._file = None
                if not self._failing:
                    _log.error("the journal of snapshots cannot be written, trying again: %s", error)
                self._failing = True
            else:
                self._failing = False
            if stopping:
                return

    def _write(self) -> None:
        if self._file is None or self._file.tell() > max(LONG, GROWN * self._compact):
            self._replace()
            return
        with self._windows.lock:
            pending, self._windows.pending = self._windows.pending or [], []
        if pending:
            _put(self._file, b"".join(self._snapshots(pending)))

    def _snapshots(self, pending: Iterable[tuple[Any, ...]]) -> Iterator[bytes]:
        for resource_id, row, signature, timestamp in pending:
            yield from self._number(signature)
            yield _frame(["snapshot", resource_id, self._numbers[signature], timestamp, row.tobytes()])

    def _buffers(self, buffers: Iterable[tuple[Key, Buffer]]) -> Iterator[bytes]:
        for (resource_id, signature, timed), buffer in buffers:
            yield from self._number(signature)
            slots = [(slot, row.tobytes()) for slot, row in buffer.slots.items()]
            number = self._numbers[signature]
            yield _frame(["buffer", resource_id, number, buffer.latest, timed, buffer.newest, buffer.first, slots])

    def _number(self, signature: tuple[object, ...]) -> Iterator[bytes]:
        if signature not in self._numbers:
            self._numbers[signature] = len(self._numbers)
            yield _frame(["signature", signature])

    def _replace(self) -> None:
        """Begin a new file with what is remembered."""
        with self._windows.lock:
            # What waits is in there already.
            buffers = [(key, buffer.copy()) for key, buffer in self._windows.items()]
            self._windows.pending = []
        self._numbers.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
        fresh = self._path.with_suffix(".new")
        file = open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)
        try:
            _put(file, _MAGIC + b"".join(self._buffers(buffers)))
            os.replace(fresh, self._path)
        except OSError:
            file.close()
            fresh.unlink(missing_ok=True)
            raise
        self._file, self._compact = file, file.tell()


def _put(file: IO[bytes], content: bytes) -> None:
    """Write all of it, unbuffered: what a full disk refuses is not tried again behind our back."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _frame(record: list[Any]) -> bytes:
    content = _encode(record)
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _records(content: bytes) -> Iterator[list[Any]]:
    """Return the records of a file.

    Raises
    ------
    ValueError
        At the first that is damaged.
    """
    if not content.startswith(_MAGIC):
        raise ValueError("it does not begin like one")
    at = len(_MAGIC)
    while at < len(content):
        length, checksum = _HEAD.unpack_from(content, at)
        record = content[at + _HEAD.size : at + _HEAD.size + length]
        if len(record) != length or zlib.crc32(record) != checksum:
            raise ValueError(f"the record at byte {at} is cut off or changed")
        yield msgspec.msgpack.decode(record)
        at += _HEAD.size + length
