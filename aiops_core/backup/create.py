"""Write an archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiops_core
from aiops_core import settings
from aiops_core.backup import state
from aiops_core.backup.places import DATABASE, FORMAT, MANIFEST, places
from aiops_core.errors import UsageError
from aiops_core.redact import redacted
from aiops_core.tracking import snapshot

__all__ = ["backup"]


def backup(target: str | Path) -> dict[str, Any]:
    """Write registry, state folder and keys into one archive, while they are in use.

    Parameters
    ----------
    target : str or Path
        File to write; it is there whole or not at all, and readable by this user only.

    Returns
    -------
    dict
        The manifest: ``format``, ``created``, ``version``, ``members`` (SHA-256 by name), ``left_out`` (sentences), and
        ``artifacts``, where the registry's artifacts lay.

    Raises
    ------
    UsageError
        If the file cannot be written or lies in the state folder.
    TrackingError
        If the registry cannot be read.
    """
    target = Path(target).absolute()
    current = settings.load()
    if target.resolve().is_relative_to(current.state_dir.resolve()):
        raise UsageError(f"{target} lies in the state folder, which goes into it: write it elsewhere")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tempfile.TemporaryDirectory(prefix="aiops-backup-") as work:
            taken = snapshot.take(current.mlflow_tracking_uri, Path(work))
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with (
                open(handle, "wb") as file,
                tarfile.open(fileobj=file, mode="w:gz", compresslevel=6, format=tarfile.PAX_FORMAT) as archive,
            ):
                manifest: dict[str, Any] = {
                    "format": FORMAT,
                    "created": time.time(),
                    "version": aiops_core.__version__,
                    "artifacts": next((str(p.path) for p in places() if p.part == "registry/mlartifacts/"), None),
                    "left_out": [redacted(sentence) for sentence in taken.left_out],
                    "members": _add_all(archive, _members(taken, Path(work))),
                }
                _write(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(f"the backup {target} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def _members(taken: snapshot.Snapshot, work: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of everything but the manifest."""
    if taken.database is not None:
        yield DATABASE, taken.database
    for name, path in taken.files.items():
        yield f"registry/mlartifacts/{name}", path
    for place in places():
        if place.part == "state/":
            for name, path in state.members(place.path, work):
                yield f"state/{name}", path
        elif place.part.startswith("keys/") and place.path.is_file():
            yield place.part, place.path


def _add_all(archive: tarfile.TarFile, members: Iterator[tuple[str, Path]]) -> dict[str, str]:
    """Add files and return their digests by name; a file of the journal may have changed its form meanwhile."""
    digests: dict[str, str] = {}
    for name, path in members:
        try:
            digests[name] = _add(archive, name, path)
        except FileNotFoundError:
            later = state.successor(path)
            renamed = name.rpartition("/")[0] + f"/{later.name}" if later is not None else name
            if later is not None and renamed not in digests:
                digests[renamed] = _add(archive, renamed, later)
    return digests


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str:
    """Add a file as it is now, however it may grow, and return its digest."""
    with open(path, "rb") as file:
        content = _Hashed(file, os.fstat(file.fileno()).st_size)
        archive.addfile(_info(name, content.left), content)  # type: ignore[arg-type]
    return content.digest.hexdigest()


def _write(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_info(name, len(content)), io.BytesIO(content))


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info


class _Hashed:
    """The first bytes of a file, and their digest when they have been read."""

    def __init__(self, file: io.BufferedReader, left: int) -> None:
        self._file = file
        self.left = left
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        found = self._file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(found)
        self.digest.update(found)
        return found
