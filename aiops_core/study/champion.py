"""The champion of the registry, scored on the rows that a candidate was tested on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from aiops_core import servable, tracking
from aiops_core.errors import ServableError
from aiops_core.judge import gate


def against_champion(task: ModuleType, data: Any, folder: Path, *, promote: bool | str) -> tuple[Any, str, list[str]]:
    """Return the champion's prediction on these test rows, its name, and what speaks against replacing it.

    Parameters
    ----------
    task : module
    data : object
        What the task's ``prepare`` returned.
    folder : Path
        Servable of the candidate.
    promote : {True, False, "first"}
        As in `aiops_core.study.study.Study`.

    Returns
    -------
    prediction : object or None
        None where there is no champion or it cannot be compared.
    name : str
    obstacles : list of str
    """
    obstacles = [] if promote else ["was not to be promoted (promote=False, --no-promote)"]
    current = tracking.champions().get(task.MODEL)
    if current is None:
        return None, "the champion", obstacles
    name = f"the champion (version {current.version})"
    if promote == "first":
        obstacles.append(f"was not to replace {name} by itself")
    mine = servable.load(folder, verify=False).card
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            loaded = servable.load(tracking.fetch(current.name, current.version, Path(scratch) / "champion"))
        except ServableError as error:
            return None, name, [*obstacles, f"cannot be compared with {name}: {error}"]
        obstacles += gate.lesser(mine.get("lineage") or {}, loaded.card.get("lineage") or {}, name)
        reason = gate.comparable(mine, loaded.card)
        if reason:
            return None, name, [*obstacles, f"cannot be compared with {name}: {reason}"]
        return task.score(loaded, data, "test"), name, obstacles
