"""Small files that several processes read: written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append_line", "only_ours", "private_folder", "read_json", "stage_json", "write_json"]


def only_ours(path: str, flags: int) -> int:
    """Open a file for `open` that, if it is made, nobody else can read."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can enter, and return it.

    Raises
    ------
    OSError
        If something else stands there, or a folder that others own or can enter.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder that only this user can enter: remove it")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def stage_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object beside ``path`` and return where: an `os.replace` then needs no more space on the disk.

    Raises
    ------
    OSError
        If it cannot be written, for want of space say; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", opener=only_ours) as file:
            json.dump(content, file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step.

    Raises
    ------
    OSError
        If it cannot be written; the file then is what it was.
    """
    os.replace(stage_json(path, content), path)


def append_line(path: Path, line: bytes, mode: int = 0o600) -> None:
    """Append one line, whole, to a file that several processes append to.

    Raises
    ------
    OSError
        If it cannot be written whole; nothing of it stays in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        # Held so that cutting off a half-written line cannot cut off somebody else's.
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = os.fstat(handle).st_size
        try:
            while line:
                # Shorter than asked where the disk fills up within the line; the next write says so.
                line = line[os.write(handle, line) :]
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
