"""Answers of one version and what is known of them, on the scale of the servable, in units that are independent of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiops_core.errors import UsageError
from aiops_core.journal import feedback, labelled, versions
from aiops_core.live.pairs import units_of
from aiops_core.servable import Recalibration
from aiops_core.servable.recalibration import shifted
from aiops_core.servable.threat import NORMAL

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNKNOWN", "Evidence", "evidence_of"]

#: Truth of an answer of which nothing is known.
UNKNOWN = -1
#: Labelled answers of each kind, alarms and others, without which the one kind would say nothing of the other.
LEAST_OF_KIND = 20
#: Quiet answers that are as often wrong as alarms are right, or nearly, were picked.
LIKE_ALARMS = 0.75
#: Statements about an answer itself.
_VERDICT = "verdict"


@dataclass(frozen=True)
class Evidence:
    """Answers, in the order of their event times.

    Attributes
    ----------
    unit : ndarray, (n,), int
        Answers of one unit share their truth and their errors.
    second : ndarray, (n,), int64
        Event time, since 1970.
    alarm : ndarray, (n,), bool
        As it was answered.
    probability : ndarray, (n,) or (n, n_classes)
        As the servable says it, without any correction.
    truth : ndarray, (n,), int
        1 for an incident, 0 for none; index of the class; `UNKNOWN`.
    length : float
        Seconds of a unit.
    weight : ndarray, (n,)
        Answers of its kind (alarm or not) for each labelled one: feedback is mostly given on alarms.
    """

    unit: np.ndarray
    second: np.ndarray
    alarm: np.ndarray
    probability: np.ndarray
    truth: np.ndarray
    length: float
    weight: np.ndarray

    def part(self, rows: np.ndarray) -> Evidence:
        """Return some of the answers (bool or positions)."""
        names = ("unit", "second", "alarm", "probability", "truth", "weight")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def bad(self, normal: int | None) -> np.ndarray:
        """Return which answers were about an incident or an attack, (n,), bool."""
        known = self.truth != UNKNOWN
        return np.asarray(known & (self.truth == 1 if normal is None else self.truth != normal))

    def units(self, rows: np.ndarray) -> int:
        """Return in how many units the rows (bool) lie."""
        return len(np.unique(self.unit[rows]))

    def told(self, normal: int | None, does: str) -> Evidence:
        """Return the labelled answers, each with the number of answers that it stands for.

        Parameters
        ----------
        normal : int or None
            Index of the benign class.
        does : str
            What this part of the feedback is for.

        Raises
        ------
        UsageError
            If too few of a kind are labelled, or the labels of quiet answers are no sample of them.
        """
        known, bad = self.truth != UNKNOWN, self.bad(normal)
        weight, share = np.zeros(len(known)), {}
        for kind, what in ((self.alarm, "alarms"), (~self.alarm, "answers that were no alarm")):
            count = int((kind & known).sum())
            if count < LEAST_OF_KIND:
                raise UsageError(
                    f"too little feedback: of the part of it that {does}, {count} of {int(kind.sum())} {what} are labelled, and "
                    f"{LEAST_OF_KIND} are needed; a calendar of incidents, or classes of a random sample, labels both kinds"
                )
            weight[kind & known] = kind.sum() / count
            share[what] = float(bad[kind & known].mean())
        alarms, quiet = share.values()
        if quiet > LIKE_ALARMS * alarms:
            # Labels of misses alone would make every quiet answer look like one.
            raise UsageError(
                f"of the part of the feedback that {does}, {quiet:.0%} of the labelled quiet answers were wrong to be quiet, and "
                f"{alarms:.0%} of the labelled alarms right: that is no sample of all answers; label some at random"
            )
        return replace(self, weight=weight).part(known)


def evidence_of(
    state: Path,
    task: str,
    version: int,
    corrections: Sequence[Mapping[str, Any]] = (),
    *,
    since: Any = None,
    until: Any = None,
) -> Evidence:
    """Collect the answers of a version, and what became known of them.

    Verdicts on quiet answers are left out, since people speak of those that missed something.

    Parameters
    ----------
    state : Path
        State folder.
    task : {"failure", "threat"}
    version : int
    corrections : sequence of mapping
        All that the version ever had, oldest first: answers were given on their scales.
    since, until : datetime or str, optional
        Event time.

    Raises
    ------
    UsageError
        If the journal holds no answer of the version.
    """
    frame = labelled(state, task, since=since, until=until)
    frame = frame[frame["version"] == version]
    if not len(frame):
        raise UsageError(f"the journal holds no answer of version {version} of {task}")
    known = versions(state, task)[version]
    alarm = frame["alarm"].to_numpy(dtype=bool)
    told = frame["truth"].notna().to_numpy() & (alarm | ~_spoken_of(state, frame))
    if task == "threat":
        place = {name: i for i, name in enumerate(known["classes"])}
        # A class that the version does not know cannot be decided for, whatever weighs how much.
        truth = frame["truth"].map(place).fillna(UNKNOWN).to_numpy(dtype=np.int64)
        probability = np.array(frame["probabilities"].tolist(), dtype=float)
        if NORMAL not in place:
            raise UsageError(f"version {version} knows no class {NORMAL}, so there is no weight to correct")
    else:
        truth = frame["truth"].fillna(UNKNOWN).to_numpy(dtype=np.int64)
        probability = _uncorrected(frame, corrections)
    units = units_of(frame, task, known)
    found = Evidence(
        unit=_units(units, np.where(told, truth, UNKNOWN) == 1 if task == "failure" else None),
        second=units["second"].to_numpy(),
        alarm=alarm,
        probability=probability,
        truth=np.where(told, truth, UNKNOWN),
        length=float(units["length"].iloc[0]),
        weight=np.ones(len(frame)),
    )
    return found.part(np.argsort(found.second, kind="stable"))


def _spoken_of(state: Path, frame: pd.DataFrame) -> np.ndarray:
    """Return which answers have a verdict of their own, (n,), bool."""
    said = feedback(state)
    asked = said.loc[said["kind"] == _VERDICT, "request_id"].dropna()
    return np.asarray(frame["request_id"].isin(set(asked)))


def _uncorrected(frame: pd.DataFrame, corrections: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return probabilities as the servable said them."""
    probability = frame["probability"].to_numpy(dtype=float).copy()
    number = frame["recalibration"].fillna(0).to_numpy(dtype=np.int64)
    for content in corrections:
        rows = number == content["number"]
        if rows.any():
            record = Recalibration.of(content)
            probability[rows] = shifted(probability[rows], 1 / record.slope, -record.offset / record.slope)
    return probability


def _units(units: pd.DataFrame, bad: np.ndarray | None) -> np.ndarray:
    """Return numbers of the units: blocks of a resource's time, and of incidents all answers that announce the same one.

    Answers without a resource share a block of time: nobody knows whether they are of one.
    """
    who = units["who"].where(~units["who"].astype(str).str.startswith("?"), "")
    block = units["block"].astype("int64")
    if bad is not None and bad.any():
        own = units.assign(who=who)[bad].sort_values(["who", "second"], kind="stable")
        new = (own["who"] != own["who"].shift()) | (own["second"].diff() > own["length"])
        # Below all blocks, so that no incident takes the number of one.
        block = block.copy()
        block.loc[own.index] = -1 - new.cumsum()
    return np.asarray(units.assign(who=who, block=block).groupby(["who", "block"], sort=False).ngroup())
