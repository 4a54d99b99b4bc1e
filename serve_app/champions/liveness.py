"""Whether the node's follower runs, seen from any process of the node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["follower_runs"]


def follower_runs(registry: Mapping[str, Any]) -> bool | None:
    """Say whether the follower runs that wrote the pointer file last.

    Parameters
    ----------
    registry : mapping
        The part ``registry`` of the pointer file, with the pid.

    Returns
    -------
    bool or None
        None if the file names no follower.
    """
    pid = registry.get("pid")
    if pid is None:
        return None
    try:
        # A pid comes again; its command line tells.
        return b"serve_app.champions.follower" in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except OSError:
        return False
