"""Whether requests should be sent to this replica: what ``health/ready`` answers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.champions.liveness import follower_runs
from serve_app.champions.node import read_pointer

__all__ = ["judge"]

#: How long the follower may be gone: the supervisor starts another one within seconds.
FOLLOWER_SECONDS = 30.0
#: Less room than this in the state folder counts as none, bytes.
ROOM = 1 << 20


def judge(status: Mapping[str, Any], folder: Path | None) -> tuple[list[str], list[str]]:
    """Judge what a replica serves, and its node.

    Parameters
    ----------
    status : mapping
        As from `serve_app.http.handlers.Backend.status`.
    folder : Path or None
        Of the node; without one only the models are judged.

    Returns
    -------
    reasons, warnings : list of str
        Why requests should go elsewhere, and what an operator should look at all the same.
    """
    reasons, warnings = [], []
    loaded = {model["name"] for model in status["models"] if model["status"] == "loaded"}
    for model in status["models"]:
        if model["status"] == "unreachable":
            reasons.append(f"the deployment of {model['name']} does not answer")
        if "refused" in model:
            refused = model["refused"]
            warnings.append(f"{model['name']} version {refused['version']} is refused: {refused['reason']}")
    pointer = {} if folder is None else read_pointer(folder)
    silent = {model["name"] for model in status["models"] if model["status"] == "unreachable"}
    for name, entry in pointer.get("models", {}).items():
        if name not in loaded | silent:
            reasons.append(f"{name} has a champion, version {entry.get('version')}, but none is in service")
    if folder is not None:
        reasons += _node(folder, pointer.get("registry", {}))
    registry = status["mlflow"]
    if not registry["reachable"]:
        warnings.append(f"the registry is not reachable: {registry['error']}")
    return reasons, warnings


def _node(folder: Path, registry: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the node itself."""
    reasons = []
    gone = time.time() - registry.get("asked", 0.0)
    if follower_runs(registry) is False and gone > FOLLOWER_SECONDS:
        reasons.append(f"the follower of the registry has been gone for {gone:.0f} s: no promotion arrives")
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return [*reasons, f"the state folder cannot be read: {error}"]
    if disk.f_flag & os.ST_RDONLY:
        reasons.append("the disk of the state folder is read-only")
    elif disk.f_bavail * disk.f_frsize < ROOM or (disk.f_files and not disk.f_favail):
        reasons.append("the disk of the state folder is full")
    return reasons
