"""Requests that two versions answered and whose truth is known, as losses of independent units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiops_core.journal import labelled, versions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEAST", "Pairs", "pairs_of", "units_of"]

#: Smallest probability that a log score counts: one wild answer must not decide. It is in units of that loss.
LEAST = 0.01
#: Seconds that make a unit where the horizon does not say it.
HOUR, DAY = 3600.0, 86_400.0


@dataclass(frozen=True)
class Pairs:
    """Losses of both versions, one row a unit, in the order in which the units became known.

    Attributes
    ----------
    losses : dict of str to (champion, candidate)
        By name of the loss, ndarrays (n,) from 0 to 1; the first decides.
    rows : int
        Answers with a truth.
    waiting : int
        Answers of both versions that wait for theirs.
    """

    losses: dict[str, tuple[np.ndarray, np.ndarray]]
    rows: int
    waiting: int


def pairs_of(
    state: Path, task: str, champion: int, candidate: int, *, since: Any = None, until: Any = None, known_at: Any = None
) -> Pairs:
    """Collect what both versions answered.

    A unit is a block of a resource's time as long as the horizon (threat: an hour of a source): answers within share their
    truth and their errors. It counts when all its answers are labelled, or when two more blocks have gone by.

    Parameters
    ----------
    state : Path
        State folder.
    task : {"failure", "threat", "capacity"}
    champion, candidate : int
        Versions; either may have been the one that was heard.
    since, until : datetime or str, optional
        Event time.
    known_at : datetime or str, optional
        As it was known at that time.
    """
    frame = labelled(state, task, since=since, until=until, known_at=known_at)
    heard, unheard = frame["version"], frame["shadow_version"]
    straight = (heard == champion) & (unheard == candidate)
    turned = (heard == candidate) & (unheard == champion)
    frame = frame[(straight | turned).to_numpy(dtype=bool)]
    if len(frame):
        # A correction from feedback makes another model of a version: what it said before does not count any more.
        now = frame.groupby("version")["recalibration"].transform("last").fillna(0)
        frame = frame[frame["recalibration"].fillna(0) == now]
    known = versions(state, task)
    scored = _LOSSES[task](frame, known)
    names = list(scored)
    other = frame["version"].to_numpy() == candidate
    sides = {}
    for name, (own, shadow) in scored.items():
        sides[name] = (np.where(other, shadow, own), np.where(other, own, shadow))
    labels = ~np.isnan(sides[names[0]][0])
    unit = units_of(frame, task, known.get(champion, {}))
    losses = _by_unit(frame, sides, labels, unit)
    if task == "capacity":
        # Of what both are off together, so that resources of any size count alike.
        own, their = losses[names[0]]
        both = np.where(own + their > 0, own + their, 1.0)
        losses = {names[0]: (own / both, their / both)}
    return Pairs(losses, int(labels.sum()), int((~labels).sum()))


def units_of(frame: pd.DataFrame, task: str, known: Mapping[str, Any]) -> pd.DataFrame:
    """Return the unit of each row: who, which block, and the length of a block in seconds."""
    import pandas as pd

    block = HOUR if task == "threat" else float(known.get("horizon", 0) * known.get("step_seconds", 0)) or DAY
    when = frame["event_time"].fillna(frame["arrival_time"])
    seconds = when.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    who = frame["resource_id"].where(frame["resource_id"].notna(), "?" + frame["request_id"].astype(str))
    return pd.DataFrame({"who": who.to_numpy(), "block": seconds // block, "length": block, "second": seconds})


def _by_unit(
    frame: pd.DataFrame, sides: dict[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray, unit: pd.DataFrame
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the mean losses of the units that count."""
    table = unit.assign(labelled=labels, known_at=frame["known_at"].to_numpy())
    for name, (own, their) in sides.items():
        table[f"{name} 0"], table[f"{name} 1"] = own, their
    last = table["second"].max() if len(table) else 0
    columns = [f"{name} {side}" for name in sides for side in (0, 1)]
    group = table.groupby(["who", "block"], sort=False)
    found = group[columns].mean()
    found["known_at"] = group["known_at"].max()
    length = group["length"].first()
    over = (found.index.get_level_values("block") + 3) * length <= last
    counts = (group["labelled"].all() | (over & group["labelled"].any())).to_numpy(dtype=bool)
    found = found[counts].reset_index().sort_values(["known_at", "block"], kind="stable")
    return {name: (found[f"{name} 0"].to_numpy(), found[f"{name} 1"].to_numpy()) for name in sides}


def _failure(frame: pd.DataFrame, known: Mapping[int, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    truth = frame["truth"].to_numpy(dtype=float)

    def brier(p: np.ndarray) -> np.ndarray:
        return np.asarray((p - truth) ** 2)

    def log(p: np.ndarray) -> np.ndarray:
        return _log_loss(np.where(truth == 1, p, 1 - p), truth)

    both = [frame[name].to_numpy(dtype=float) for name in ("probability", "shadow_probability")]
    return {"Brier score": (brier(both[0]), brier(both[1])), "log loss": (log(both[0]), log(both[1]))}


def _log_loss(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the log loss in units of its largest value, NaN where there is no truth."""
    found = np.log(np.clip(p, LEAST, 1.0)) / math.log(LEAST)
    return np.where(np.isnan(truth), np.nan, found)


def _threat(frame: pd.DataFrame, known: Mapping[int, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    truth = frame["truth"].to_numpy(dtype=object)
    missing = np.array([np.nan if t is None or t != t else 0.0 for t in truth], dtype=float)

    def side(version: str, probabilities: str, label: str) -> tuple[np.ndarray, np.ndarray]:
        places: dict[int, dict[str, int]] = {
            int(v): {name: i for i, name in enumerate(known.get(int(v), {}).get("classes", ()))}
            for v in frame[version].unique()
        }
        p = np.full(len(frame), np.nan)
        for row, (v, given, true) in enumerate(zip(frame[version], frame[probabilities], truth, strict=True)):
            place = places[int(v)].get(true)
            # A class that the version does not know has no probability.
            p[row] = 0.0 if place is None or given is None else float(given[place])
        wrong = np.where(np.isnan(missing), np.nan, (frame[label].to_numpy(dtype=object) != truth).astype(float))
        return _log_loss(p, missing), wrong

    own = side("version", "probabilities", "threat_type")
    their = side("shadow_version", "shadow_probabilities", "shadow_threat_type")
    return {"log loss": (own[0], their[0]), "share of wrong classes": (own[1], their[1])}


def _capacity(frame: pd.DataFrame, known: Mapping[int, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    def side(column: str) -> np.ndarray:
        out = np.full(len(frame), np.nan)
        for row, (given, truth) in enumerate(zip(frame[column], frame["truth"], strict=True)):
            if given is None or truth is None:
                continue
            n = min(len(given), len(truth))
            off = np.abs(np.asarray(given[:n], dtype=float) - np.asarray(truth[:n], dtype=float))
            if np.isfinite(off).any():
                out[row] = np.nanmean(off)
        return out

    return {"share of the absolute error": (side("forecast"), side("shadow_forecast"))}


_LOSSES: dict[str, Callable[[Any, Mapping[int, Any]], dict[str, tuple[np.ndarray, np.ndarray]]]] = {
    "failure": _failure,
    "threat": _threat,
    "capacity": _capacity,
}
