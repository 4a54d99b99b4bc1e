"""The champion of the registry, scored on the rows that a candidate was tested on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from aiops_core import servable, tracking
from aiops_core.data.seen import read_seen
from aiops_core.errors import ServableError
from aiops_core.judge import gate


@dataclass(frozen=True)
class Rival:
    """The champion that a candidate would replace.

    Attributes
    ----------
    name : str
        For sentences.
    prediction : mapping or None
        On the test rows; None where there is no champion or it cannot be compared.
    rows : ndarray, (n,), bool, or None
        Test rows that it has not seen; None for all.
    obstacles : list of str
        What speaks against replacing it, as ends of a sentence that begins with "it".
    """

    name: str = "the champion"
    prediction: Any = None
    rows: np.ndarray | None = None
    obstacles: list[str] = field(default_factory=list)


def against_champion(task: ModuleType, data: Any, folder: Path, *, promote: bool | str) -> Rival:
    """Score the champion on the test rows that it has not seen, and say what speaks against replacing it.

    Parameters
    ----------
    task : module
    data : object
        What the task's ``prepare`` returned.
    folder : Path
        Servable of the candidate.
    promote : {True, False, "first"}
        As in `aiops_core.study.study.Study`.
    """
    obstacles = [] if promote else ["was not to be promoted (promote=False, --no-promote)"]
    current = tracking.champions().get(task.MODEL)
    if current is None:
        return Rival(obstacles=obstacles)
    name = f"the champion (version {current.version})"
    if promote == "first":
        obstacles.append(f"was not to replace {name} by itself")
    if data.effort == task.QUICK_EFFORT:
        obstacles.append(f"was made by a quick run (--quick), which does not replace {name}")
    mine = servable.load(folder, verify=False).card
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            loaded = servable.load(tracking.fetch(current.name, current.version, Path(scratch) / "champion"))
            # As clients hear it.
            loaded = servable.as_answering(loaded, current.recalibration)
        except ServableError as error:
            return Rival(name, obstacles=[*obstacles, f"cannot be compared with {name}: {error}"])
        obstacles += gate.lesser(mine.get("lineage") or {}, loaded.card.get("lineage") or {}, name)
        obstacles += _other_protocol(mine.get("lineage") or {}, loaded.card.get("lineage") or {}, name)
        reason = gate.comparable(mine, loaded.card)
        rows = None
        if reason is None:
            rows, reason = _fair_rows(task, data, loaded)
        if reason:
            return Rival(name, obstacles=[*obstacles, f"cannot be compared with {name}: {reason}"])
        return Rival(name, task.score(loaded, data, "test"), rows, obstacles)


def _other_protocol(candidate: Mapping[str, Any], champion: Mapping[str, Any], name: str) -> list[str]:
    """Tell that a candidate was made to measure generalisation; a card without a protocol is of the split by time."""
    if candidate.get("protocol", "time") == "time" or champion.get("protocol", "time") != "time":
        return []
    return [
        "was trained without the resources that it was tested on (--protocol resource): that says how far it carries, "
        f"but what is served should have learned from all of them, as {name} has"
    ]


def _fair_rows(task: ModuleType, data: Any, champion: servable.Servable) -> tuple[np.ndarray | None, str | None]:
    """Return the test rows that neither model has seen (None: all of them), or why the two cannot be compared.

    Only the rows themselves are believed: an equal digest, split and seed in both cards do not tell how an older
    version cut them.
    """
    known = read_seen(champion.folder)
    if known is None:
        return None, "its training rows are unknown, so it may have learned from the test rows"
    rows: np.ndarray = task.unseen(data, known)
    if rows.all():
        return None, None
    few = task.too_few(data, rows)
    if few is None:
        return rows, None
    return (
        None,
        f"it has learned from {(~rows).sum():,} of the {len(rows):,} test rows, and what is left is too little: {few}",
    )
