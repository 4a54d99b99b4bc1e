"""What is known of the last retraining of each task: a small file that the service reads too."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiops_core import files
from aiops_core.errors import UsageError

__all__ = ["FOLDER", "alone", "last", "remember"]

#: Below the state folder: ``<task>.json``, the lock, and a folder of each run.
FOLDER = "retraining"


@contextlib.contextmanager
def alone(state: Path) -> Iterator[Path]:
    """Yield the folder of retrainings while no other process retrains.

    Raises
    ------
    UsageError
        If one does.
    """
    files.private_folder(state)
    folder = files.private_folder(state / FOLDER)
    with open(folder / "lock", "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError("another retraining is running; wait for it") from None
        yield folder


def last(state: Path, task: str) -> dict[str, Any]:
    """Return what is known of the last retraining of a task; empty before the first."""
    try:
        content: dict[str, Any] = json.loads((state / FOLDER / f"{task}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def remember(state: Path, task: str, content: Mapping[str, Any]) -> None:
    """Keep what is known of the last retraining of a task."""
    files.write_json(state / FOLDER / f"{task}.json", content)
