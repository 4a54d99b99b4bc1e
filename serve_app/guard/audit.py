"""The audit log: one JSON line before every write and one after it, each holding the SHA-256 of the line before.

Nothing is written to the registry, a webhook or the keys before the log says that it begins, so a disk that is full refuses
the act instead of leaving it unrecorded. How it ended is written after it; where there is no room any more that line
waits in memory and is tried again. Whoever changes, removes or inserts a line breaks the chain from there on. Whoever may
write the file can also make the whole chain anew, so its last digest is worth keeping elsewhere: `aiops audit verify` prints it.

All processes of all nodes append to one file under a lock. With several nodes it lies on their shared volume, which
must offer ``flock`` to all of them, as the lock of the training jobs does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiops_core.errors import AiopsError

__all__ = ["NAME", "Audit", "Broken", "append", "last", "now", "verify"]

#: Of the file, in the state folder.
NAME = "audit.jsonl"
#: What the first line holds in place of a digest.
START = "0" * 64
#: Lines that are kept in memory while the disk is full, and how often they are tried again.
KEPT = 10_000
RETRY_SECONDS = 5.0
_BLOCK = 1 << 16
_log = logging.getLogger("serve_app")


class Broken(AiopsError):
    """A line of the audit log is not what was written."""


class Audit:
    """Append to the audit log.

    Parameters
    ----------
    path : Path
        Its file, made with mode 600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._retrying = False
        #: What could not be written for want of room, oldest first.
        self._waiting: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def begin(self, **entry: Any) -> str:
        """Say what is about to be done and by whom; returns the id that `end` asks for.

        Raises
        ------
        OSError
            If it cannot be written: then do not do it.
        """
        event = uuid.uuid4().hex[:16]
        with self._lock:
            # In order: what waits for room came before.
            while self._waiting:
                append(self._path, self._waiting[0])
                self._waiting.popleft()
            append(self._path, {"time": now(), "event": event, "phase": "begun", **entry})
        return event

    def end(self, event: str, phase: str, **entry: Any) -> bool:
        """Say how it ended; False if that waits in memory for a disk that can be written.

        Parameters
        ----------
        event : str
            As `begin` returned it.
        phase : {"done", "failed"}
        """
        line = {"time": now(), "event": event, "phase": phase, **entry}
        with self._lock:
            self._waiting.append(line)
            written = self._write()
            if not written and not self._retrying:
                self._retrying = True
                threading.Thread(target=self._retry, name="aiops-audit", daemon=True).start()
        return written

    def _write(self) -> bool:
        """Write what waits, oldest first; True if nothing waits any more."""
        try:
            while self._waiting:
                append(self._path, self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not self._retrying:
                _log.error("the audit log cannot be written, trying again: %s", error)
            return False
        return True

    def _retry(self) -> None:
        while True:
            time.sleep(RETRY_SECONDS)
            with self._lock:
                if self._write():
                    self._retrying = False
                    _log.warning("the audit log is written again, with everything that waited")
                    return


def now() -> str:
    """Return the time as entries hold it."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one line, whole, chained to the one before it.

    Raises
    ------
    OSError
        If it cannot be written whole; nothing of it stays in the file.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        # Held from reading the last line to writing the next, so that no two follow the same one.
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = os.fstat(handle).st_size
        previous, whole = _last_line(handle, before)
        digest = hashlib.sha256(previous).hexdigest() if before else START
        line = json.dumps({**entry, "previous": digest}).encode() + b"\n"
        if not whole:
            # Of a line that a power cut left in pieces: it stays, and is found.
            line = b"\n" + line
        try:
            while line:
                # Shorter than asked where the disk fills up within the line; the next write says so.
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)


def _last_line(handle: int, size: int) -> tuple[bytes, bool]:
    """Return the last line of a file without its end, and whether it has one."""
    found = b""
    at = size
    while at > 0 and b"\n" not in found[:-1]:
        step = min(_BLOCK, at)
        at -= step
        found = os.pread(handle, step, at) + found
    whole = not found or found.endswith(b"\n")
    return found.removesuffix(b"\n").rpartition(b"\n")[2], whole


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file, contextlib.ExitStack() as stack:
        # A line that is being written now is not half a line.
        fcntl.flock(file, fcntl.LOCK_SH)
        stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield from file


def verify(path: Path) -> tuple[int, str]:
    """Check the chain of an audit log.

    Returns
    -------
    int
        Lines.
    str
        SHA-256 of the last line: kept elsewhere, it tells whether lines were taken from the end later.

    Raises
    ------
    Broken
        Naming the first line that does not follow from the one before it.
    FileNotFoundError
        If there is no such file.
    """
    digest, number = START, 0
    for number, line in enumerate(_lines(path), 1):
        if not line.endswith(b"\n"):
            raise Broken(f"{path}: line {number} is not whole")
        try:
            entry = json.loads(line)
        except ValueError:
            raise Broken(f"{path}: line {number} is no JSON") from None
        if not isinstance(entry, dict) or entry.get("previous") != digest:
            what = "is not the first one" if number == 1 else f"does not follow from line {number - 1}"
            raise Broken(f"{path}: line {number} {what}: one of them was changed, or lines are missing between")
        digest = hashlib.sha256(line[:-1]).hexdigest()
    return number, digest


def last(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the last entries, oldest first, without checking the chain; what is no entry is left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    found = []
    for line in deque(_lines(path), maxlen=count):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.append(entry)
    return found
