"""Bring back what an archive holds: checked whole, then put in place by renaming."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aiops_core import files
from aiops_core.backup.places import DATABASE, FORMAT, MANIFEST, Place, places, refuse_while_in_use
from aiops_core.errors import UsageError
from aiops_core.tracking import snapshot

__all__ = ["restore"]

_CHUNK = 1 << 20


def restore(source: str | Path, *, force: bool = False) -> tuple[dict[str, Any], list[Path]]:
    """Put the parts of an archive where the settings say, all or none of them.

    Parameters
    ----------
    source : str or Path
        Archive made by `backup`.
    force : bool
        Set what is there aside, under names that end in the time; without it nothing that is there is touched.

    Returns
    -------
    manifest : dict
    aside : list of Path
        What was there before.

    Raises
    ------
    UsageError
        If the archive is damaged or not one of ours, something is in the way, or a service is running on the state folder.
    """
    source = Path(source)
    found = places()
    refuse_while_in_use(next(place.path for place in found if place.part == "state/"))
    # Beside each target, so that the last step is a rename.
    staged: dict[str, Path] = {}
    try:
        for place in found:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            staged[place.part] = Path(tempfile.mkdtemp(prefix=".restore-", dir=place.path.parent))
        with files.private_files():
            manifest = _unpack(source, {place: staged[place.part] / "content" for place in found})
        # What the archive does not hold stays as it is.
        found = [place for place in found if (staged[place.part] / "content").exists()]
        full = next((place for place in found if not place.is_empty()), None)
        if full is not None and not force:
            raise UsageError(
                f"{full.what} {full.path} is not empty: nothing was restored; --force sets aside what is there"
            )
        if DATABASE in manifest["members"] and manifest.get("artifacts"):
            database = next(place.path for place in found if place.part == DATABASE)
            snapshot.relocate(
                staged[DATABASE] / "content", Path(manifest["artifacts"]), database.parent / snapshot.ARTIFACTS
            )
        return manifest, _put(found, staged)
    except OSError as error:
        raise UsageError(f"nothing was restored: {error.filename or source}: {error.strerror or error}") from error
    finally:
        for folder in staged.values():
            shutil.rmtree(folder, ignore_errors=True)


def _unpack(source: Path, targets: Mapping[Place, Path]) -> dict[str, Any]:
    """Unpack an archive beside its targets and compare every digest; returns the manifest."""
    digests: dict[str, str] = {}
    manifest: Any = None
    try:
        with tarfile.open(source, "r:gz") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    raise UsageError(f"archive {source}: {member.name[:200]!r} is no file, which no backup holds")
                if member.name == MANIFEST:
                    manifest = json.loads(file.read())
                    continue
                if member.name in digests:
                    raise UsageError(f"archive {source}: {member.name[:200]!r} is in it twice")
                target = _target(source, member.name, targets)
                target.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with open(target, "xb") as out:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
                digests[member.name] = digest.hexdigest()
    except FileNotFoundError:
        if source.exists():
            raise
        raise UsageError(f"archive {source} does not exist") from None
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise UsageError(f"archive {source} is damaged: nothing was restored ({error})") from error
    except OSError as error:
        # gzip says in this way that a file is none of its own, or does not agree with its checksum.
        if error.errno is None:
            raise UsageError(f"archive {source} is damaged: nothing was restored ({error})") from error
        raise
    _check(source, manifest, digests)
    return dict(manifest)


def _target(source: Path, name: str, targets: Mapping[Place, Path]) -> Path:
    """Return where a member is unpacked, which never lies outside the folders made for it."""
    path = PurePosixPath(name)
    place = next((place for place in targets if place.holds(name)), None)
    if path.is_absolute() or ".." in path.parts or "\0" in name or str(path) != name:
        raise UsageError(f"archive {source}: {name[:200]!r} would leave its folder: nothing was restored")
    if place is None:
        raise UsageError(
            f"archive {source}: there is no place for {name[:200]!r}, since the settings name another registry or no keys "
            "file (MLFLOW_TRACKING_URI, AIOPS_KEYS_FILE): nothing was restored"
        )
    return targets[place] / name.removeprefix(place.part) if place.part.endswith("/") else targets[place]


def _check(source: Path, manifest: Any, digests: Mapping[str, str]) -> None:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("members"), dict):
        raise UsageError(f"archive {source} has no manifest: it was cut off, or is no backup; nothing was restored")
    if manifest.get("format") != FORMAT:
        raise UsageError(f"archive {source} is of format {manifest.get('format')!r}, this release reads {FORMAT}")
    expected = manifest["members"]
    for name in sorted({*expected, *digests}):
        if expected.get(name) != digests.get(name):
            what = (
                "is missing"
                if name not in digests
                else "is not in its manifest"
                if name not in expected
                else "is damaged"
            )
            raise UsageError(f"archive {source}: {name[:200]!r} {what}: nothing was restored")


def _put(found: list[Place], staged: Mapping[str, Path]) -> list[Path]:
    """Rename everything into place; what was there is set aside, and put back if one step fails."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    done: list[tuple[Path, Path | None]] = []
    try:
        for place in found:
            content = staged[place.part] / "content"
            # What SQLite keeps beside a database would be taken for a part of the new one.
            beside = (
                [Path(f"{place.path}-{end}") for end in ("wal", "shm", "journal")] if place.part == DATABASE else []
            )
            for path in (place.path, *beside):
                if path.is_file() or (path.is_dir() and any(path.iterdir())):
                    aside = path.with_name(f"{path.name}.before-restore-{stamp}")
                    os.rename(path, aside)
                    done.append((path, aside))
            if place.path.is_dir():
                place.path.rmdir()
            done.append((place.path, None))
            os.rename(content, place.path)
    except OSError:
        for path, before in reversed(done):
            _remove(path)
            if before is not None:
                os.rename(before, path)
        raise
    return [aside for _, aside in done if aside is not None]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
