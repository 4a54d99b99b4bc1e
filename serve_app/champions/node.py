"""What the processes of one node share: its folder, the pointer file in it, the lock and the address of the follower."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

from serve_app.files import private_folder, read_json

__all__ = ["LOCK", "POINTER", "POLL_SECONDS", "node_folder", "read_pointer", "socket_path"]

POINTER = "champions.json"
LOCK = "follower.lock"
#: How often the follower asks the registry.
POLL_SECONDS = 1.5


def node_folder(state_dir: Path) -> Path:
    """Return the folder of this node inside the state folder, which several nodes may share."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "_", socket.gethostname()) or "node"
    return state_dir / "nodes" / host


def socket_path(folder: Path) -> Path:
    """Return the address of the follower: in the temporary folder, since socket paths are short.

    Raises
    ------
    OSError
        If somebody else took the name of the folder there that only this user may enter.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return private_folder(Path(tempfile.gettempdir()) / f"aiops-{os.getuid()}") / f"{digest}.sock"


def read_pointer(folder: Path) -> dict[str, Any]:
    """Return the content of the pointer file; empty if there is none yet."""
    return read_json(folder / POINTER)
