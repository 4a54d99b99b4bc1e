"""Answers of one version whose truth is known, on the scale of the servable, in units that are independent of each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiops_core.errors import UsageError
from aiops_core.journal import labelled, versions
from aiops_core.live.pairs import units_of
from aiops_core.replay.answers import answers, usable
from aiops_core.servable.threat import NORMAL

if TYPE_CHECKING:
    import pandas as pd

    from aiops_core.servable import Servable

__all__ = ["Evidence", "evidence_of"]

#: Labelled answers of each kind, alarms and others, without which the one kind would say nothing of the other.
LEAST_OF_KIND = 20


@dataclass(frozen=True)
class Evidence:
    """Labelled answers, in the order of their event times.

    Attributes
    ----------
    unit : ndarray, (n,), int
        Answers of one unit share their truth and their errors.
    second : ndarray, (n,), int64
        Event time, since 1970.
    weight : ndarray, (n,)
        All answers of its kind (alarm or not) for each labelled one: feedback is mostly given on alarms.
    probability : ndarray, (n,) or (n, n_classes)
        As the servable says it, without any correction.
    truth : ndarray, (n,), int
        1 for an incident; index of the class.
    length : float
        Seconds of a unit.
    """

    unit: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    probability: np.ndarray
    truth: np.ndarray
    length: float

    def part(self, rows: np.ndarray) -> Evidence:
        """Return some of the answers (bool or positions)."""
        return Evidence(
            self.unit[rows],
            self.second[rows],
            self.weight[rows],
            self.probability[rows],
            self.truth[rows],
            self.length,
        )

    def bad(self, normal: int | None) -> np.ndarray:
        """Return which answers were about an incident or an attack, (n,), bool."""
        return np.asarray(self.truth == 1 if normal is None else self.truth != normal)

    def units(self, rows: np.ndarray) -> int:
        """Return in how many units the rows (bool) lie."""
        return len(np.unique(self.unit[rows]))


def evidence_of(state: Path, loaded: Servable, version: int, *, since: Any = None, until: Any = None) -> Evidence:
    """Collect the answers of a version whose truth is known.

    Parameters
    ----------
    state : Path
        State folder.
    loaded : Servable
        The version, not corrected.
    version : int
    since, until : datetime or str, optional
        Event time.

    Raises
    ------
    UsageError
        If too few of its alarms, or of its other answers, are labelled.
    """
    known = versions(state, loaded.task)
    frame = labelled(state, loaded.task, since=since, until=until)
    frame = frame[(frame["version"] == version) & usable(frame, known)]
    weight = _weights(frame, version)
    frame, weight = frame[weight > 0], weight[weight > 0]
    if loaded.task == "threat":
        classes = list(known[version]["classes"])
        place = frame["truth"].map({name: i for i, name in enumerate(classes)})
        # A class that the version does not know cannot be decided for, whatever it costs.
        frame, weight, place = frame[place.notna()], weight[place.notna()], place[place.notna()]
        probability, truth = np.array(frame["probabilities"].tolist()), place.to_numpy(dtype=np.int64)
        if NORMAL not in classes:
            raise UsageError(f"version {version} knows no class {NORMAL}, so nothing weighs against an alarm")
    else:
        probability = answers(loaded, frame, known)["score"].to_numpy(dtype=float)
        truth = frame["truth"].to_numpy(dtype=float).astype(np.int64)
    unit = units_of(frame, loaded.task, known[version])
    order = np.argsort(unit["second"].to_numpy(), kind="stable")
    number = unit.groupby(["who", "block"], sort=False).ngroup().to_numpy()
    length = float(unit["length"].iloc[0])
    return Evidence(number, unit["second"].to_numpy(), weight, probability, truth, length).part(order)


def _weights(frame: pd.DataFrame, version: int) -> np.ndarray:
    """Return how many answers each labelled one stands for, 0 for those without a label."""
    told, alarm = frame["truth"].notna().to_numpy(), frame["alarm"].to_numpy(dtype=bool)
    weight: np.ndarray = np.zeros(len(frame))
    for kind, what in ((alarm, "alarms"), (~alarm, "answers that were no alarm")):
        count = int((kind & told).sum())
        if count < LEAST_OF_KIND:
            raise UsageError(
                f"too little feedback: {count} of {int(kind.sum())} {what} of version {version} are labelled, and "
                f"{LEAST_OF_KIND} are needed; a calendar of incidents labels both kinds"
            )
        weight[kind & told] = kind.sum() / count
    return weight
