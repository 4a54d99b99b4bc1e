"""Digests of a servable's files, kept beside them: what was damaged or added on the way is seen before it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from aiops_core import files
from aiops_core.errors import ServableError

__all__ = ["SEAL", "check_seal", "digest", "seal"]

SEAL = "digests.json"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: str | Path) -> None:
    """Write the digests of all files of a servable, anew if there are some.

    Parameters
    ----------
    folder : str or Path
        Of the servable.

    Raises
    ------
    OSError
        If a file cannot be read, or the digests not be written.
    """
    folder = Path(folder)
    files.write_json(folder / SEAL, {name: digest(folder / name) for name in _names(folder)})


def check_seal(folder: str | Path) -> None:
    """Compare the files of a servable with its digests; one that has none, as of an earlier release, passes.

    Raises
    ------
    ServableError
        If a file is missing, was changed or was added.
    """
    folder = Path(folder)
    if not (folder / SEAL).is_file():
        return
    try:
        stored = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        expected = {str(name): str(value) for name, value in stored.items()}
        found = set(_names(folder))
        wrong = sorted(n for n in found | set(expected) if n not in found or expected.get(n) != digest(folder / n))
    except (OSError, ValueError, AttributeError) as error:
        raise ServableError(f"servable {folder}: its digests cannot be checked ({error})") from error
    if wrong:
        name = wrong[0]
        what = "is missing" if name not in found else "does not belong there" if name not in expected else "is damaged"
        raise ServableError(f"servable {folder}: {name} {what}, by the digests in {SEAL}")


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SEAL)
