"""What other nodes of a shared state folder serve: where a node begins that cannot reach the registry."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiops_core.errors import AiopsError
from aiops_core.facts import BY_MODEL
from serve_app.champions.node import POINTER, read_pointer
from serve_app.champions.verify import verify

__all__ = ["RETRY_SECONDS", "borrow"]

#: A servable of another node that failed its verification is tried again this often.
RETRY_SECONDS = 60.0

_log = logging.getLogger("serve_app")


def borrow(folder: Path, content: Mapping[str, Any], models: dict[str, Any], retry: dict[str, float]) -> list[str]:
    """Take over what another node serves, if it reached the registry later than this one.

    Parameters
    ----------
    folder : Path
        Of this node.
    content : mapping
        Pointer of this node.
    models : dict
        Its models, brought up to the other's.
    retry : dict of str to float
        By model, the monotonic time before which it is not tried again; written here.

    Returns
    -------
    list of str
        The models that are out of service.
    """
    vacant = list(content.get("vacant", []))
    found = _newest(folder)
    if found is None or _reached(found[1]) <= _reached(content):
        return vacant
    other, theirs = found
    for name, entry in theirs.get("models", {}).items():
        known = models.get(name, {})
        same = all(known.get(key) == entry.get(key) for key in ("version", "run_id", "recalibration"))
        if name not in BY_MODEL or same or time.monotonic() < retry.get(name, 0.0):
            continue
        try:
            copied = _copy(other, entry, folder)
            verify(copied, name, entry)
        except (AiopsError, OSError) as reason:
            retry[name] = time.monotonic() + RETRY_SECONDS
            _log.warning("%s version %s of node %s cannot be used: %s", name, entry["version"], other.name, reason)
            continue
        models[name] = {**entry, "folder": str(copied.resolve()), "fetched": time.time()}
        _log.warning("%s version %s is taken from node %s, without the registry", name, entry["version"], other.name)
    vacant = list(theirs.get("vacant", vacant))
    for name in vacant:
        models.pop(name, None)
    return vacant


def _reached(content: Mapping[str, Any]) -> float:
    """Return when the registry was last reached by whoever wrote a pointer file; 0 if never."""
    found = (content.get("registry") or {}).get("reached")
    return float(found) if isinstance(found, (int, float)) else 0.0


def _newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return folder and pointer of that other node which reached the registry last; None if there is none.

    Parameters
    ----------
    folder : Path
        Of this node.
    """
    others = [path.parent for path in folder.parent.glob(f"*/{POINTER}") if path.parent.name != folder.name]
    found = [(other, read_pointer(other)) for other in others]
    return max(found, key=lambda pair: _reached(pair[1]), default=None)


def _copy(other: Path, entry: Mapping[str, Any], folder: Path) -> Path:
    """Copy the servable of another node's entry into the cache of this one, under the same name, and return it.

    Raises
    ------
    OSError
        If it is not there any more, or there is no room.
    """
    # By its name only: the state folder may be mounted elsewhere there.
    name = Path(str(entry["folder"])).name
    target = folder / "servables" / name
    temporary = target.with_name(f".{name}.{os.getpid()}")
    try:
        shutil.copytree(other / "servables" / name, temporary)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
