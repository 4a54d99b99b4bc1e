"""Writes that carry an ``Idempotency-Key`` are done once: a repeated request gets the answer of the first.

Each is a file of the state folder, named by a digest of caller, route and key, and locked while the write is carried out, so that
any replica knows of it and a process that ends within leaves the lock free but the file without an answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from serve_app.wire.problems import Problem

__all__ = ["HEADER", "Replays", "Ticket"]

HEADER = "idempotency-key"
#: How long an answer is kept.
KEPT_SECONDS = 24 * 3600.0
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class Ticket:
    """The right to carry out one write; `keep` its answer or `drop` it, then it is over."""

    def __init__(self, path: Path, handle: int, content: dict[str, Any]) -> None:
        self._path, self._handle, self._content = path, handle, content

    def keep(self, **answer: Any) -> None:
        """Keep the answer, its ``status`` among it, for whoever asks again.

        On a full disk the write stays known as one of unknown outcome.
        """
        self._content |= answer
        try:
            with contextlib.suppress(OSError):
                _write(self._handle, self._content)
        finally:
            os.close(self._handle)

    def drop(self) -> None:
        """Forget the write, because nothing was done: the same key may be used again."""
        try:
            with contextlib.suppress(OSError):
                self._path.unlink()
        finally:
            os.close(self._handle)

    def leave(self) -> None:
        """Leave it open whether the write was done."""
        os.close(self._handle)


class Replays:
    """Writes of the last day that carried an idempotency key.

    Parameters
    ----------
    folder : Path
        Shared by every replica.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, owner: str, route: str, key: str, request: bytes, *, repeatable: bool) -> Ticket | dict[str, Any]:
        """Return the right to carry out a write, or what `Ticket.keep` was given when it was.

        Parameters
        ----------
        owner, route, key : str
            Caller, path and the header.
        request : bytes
            What is asked for.
        repeatable : bool
            Whether doing it twice is the same as once, so that an attempt of unknown outcome may be repeated.

        Raises
        ------
        Problem
            400 for a key that is none, 409 while it is carried out or if nobody knows whether it was, 422 if it came with
            another request before, 503 if the state folder cannot be written.
        """
        if not _KEY.fullmatch(key):
            raise Problem(400, "Idempotency-Key has 1 to 128 printable characters without spaces")
        name = hashlib.sha256("\0".join((owner, route, key)).encode()).hexdigest()
        digest = hashlib.sha256(request).hexdigest()
        try:
            self._prune()
            handle = self._lock(self._folder / name)
        except OSError as error:
            raise Problem(
                503, f"nothing was done, the state folder cannot be written: {error}", headers=[(b"retry-after", b"5")]
            ) from error
        try:
            return self._decide(self._folder / name, handle, digest, repeatable)
        except BaseException:
            os.close(handle)
            raise

    def _decide(self, path: Path, handle: int, digest: str, repeatable: bool) -> Ticket | dict[str, Any]:
        try:
            content = json.loads(os.pread(handle, 1 << 22, 0) or b"{}")
        except ValueError:
            content = {"request": digest}
        if not content:
            content = {"request": digest}
            try:
                _write(handle, content)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise Problem(
                    503, f"nothing was done, the state folder cannot be written: {error}",
                    headers=[(b"retry-after", b"5")],
                ) from error  # fmt: skip
            return Ticket(path, handle, content)
        if content.get("request") != digest:
            raise Problem(422, "this Idempotency-Key came with another request before: use a new one")
        if "status" in content:
            os.close(handle)
            found: dict[str, Any] = content
            return found
        if repeatable:
            return Ticket(path, handle, content)
        raise Problem(
            409,
            "this Idempotency-Key was used for an attempt of which nobody knows whether it succeeded: "
            "see models/status and the audit log, then use a new one",
        )

    def _lock(self, path: Path) -> int:
        """Open and lock the file of a write, made if need be."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise Problem(
                    409, "a request with this Idempotency-Key is being carried out", headers=[(b"retry-after", b"1")]
                ) from None
            except OSError:
                os.close(handle)
                raise
            # Somebody may have removed it between the two calls.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(handle).st_ino:
                    return handle
            os.close(handle)

    def _prune(self) -> None:
        """Remove what is too old to be asked for."""
        limit = time.time() - KEPT_SECONDS
        if not self._folder.is_dir():
            return
        for entry in os.scandir(self._folder):
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < limit:
                    os.unlink(entry.path)


def _write(handle: int, content: dict[str, Any]) -> None:
    """Write a file anew that nobody else has open for longer than the lock is held."""
    text = json.dumps(content).encode()
    # Longer than what it replaces: an answer is only ever added.
    written = os.pwrite(handle, text, 0)
    if written < len(text):
        os.pwrite(handle, text[written:], written)
    os.fsync(handle)
