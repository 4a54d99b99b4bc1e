"""What the inputs and answers of each version mean, kept beside them: the journal explains itself without a registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiops_core import files
from aiops_core.journal.segments import folder_of

__all__ = ["keep_version", "versions"]

#: Of a card.
_KEPT = ("kind", "step_seconds", "window", "horizon", "season", "targets", "classes")
#: Of a feature.
_OF_FEATURE = ("name", "dtype", "unit", "categories")


def keep_version(state: Path, task: str, version: int, card: Mapping[str, Any]) -> None:
    """Keep what a reader of the journal needs of a card.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    content = {key: card[key] for key in _KEPT if key in card}
    content["features"] = [{key: f[key] for key in _OF_FEATURE if key in f} for f in card["features"]]
    folder = files.private_folder(folder_of(state, task) / "versions")
    with files.private_files():
        files.write_json(folder / f"{version}.json", content)


def versions(folder: Path, task: str) -> dict[int, dict[str, Any]]:
    """Return what the records of each version hold.

    Parameters
    ----------
    folder : Path
        State folder.
    task : str

    Returns
    -------
    dict of int to dict
        ``features`` (list of dicts with ``name``, and ``categories`` where it has some) in the order of the inputs, and
        from the card what it has of ``kind, step_seconds, window, horizon, season, targets, classes``.
    """
    found = {}
    for path in sorted((folder_of(folder, task) / "versions").glob("*.json")):
        if path.stem.isdecimal():
            found[int(path.stem)] = json.loads(path.read_text(encoding="utf-8"))
    return found
