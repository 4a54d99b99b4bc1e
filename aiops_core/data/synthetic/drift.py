"""Let the world move: contract tables that change at a time, as after a release, a failure of a sensor, a new attack.

A monitor is judged by what it says of them: `tests/benchmarks/drift.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.tables import RESERVED, Dataset
from aiops_core.errors import UsageError

__all__ = ["DRIFTS", "drifted", "strength_or_kind"]

#: Kinds of drift, and the tables that each can change.
DRIFTS: dict[str, tuple[str, ...]] = {
    # The first metrics rise by one and a half standard deviations.
    "covariates": ("telemetry", "activity", "usage"),
    # Inputs as ever, but what follows from them changes.
    "labels": ("incidents", "activity"),
    # A sensor says nothing in a part of the fleet, or always the same.
    "missing_sensor": ("telemetry", "activity", "usage"),
    "frozen_sensor": ("telemetry", "activity", "usage"),
    # Incidents, or attacks, that announce themselves as none did before.
    "new_fault": ("telemetry", "activity"),
    # The daily wave comes eight hours earlier.
    "season": ("telemetry", "usage"),
}
#: Standard deviations of covariates; part of the fleet whose sensor fails; hours; share of ordinary rows that turn.
SHIFT, PART, EARLIER, TURNED = 1.5, 0.3, 8, 0.15
_HOUR = pd.Timedelta(hours=1)


def strength_or_kind(text: str) -> tuple[float, str | None]:
    """Return what ``--drift`` says: how far the world moves anyway, and which drift comes on top.

    Raises
    ------
    UsageError

    Examples
    --------
    >>> strength_or_kind("0.5"), strength_or_kind("season")
    ((0.5, None), (1.0, 'season'))
    """
    if text in DRIFTS:
        return 1.0, text
    try:
        return float(text), None
    except ValueError:
        raise UsageError(f"--drift '{text}' is neither a number nor one of {', '.join(DRIFTS)}") from None


def drifted(dataset: Dataset, kind: str, at: float = 0.75, *, over: float = 0.0, seed: int = 0) -> Dataset:
    """Return a data set whose world moves.

    Parameters
    ----------
    dataset : Dataset
    kind : str
        One of `DRIFTS`.
    at : float
        When it begins: the share of the time of a table, or of its rows where it has no time, that lies before.
    over : float
        The share over which it grows to its full size: 0 is sudden.
    seed : int

    Returns
    -------
    Dataset
        Tables that the kind does not concern are as they were. Oracles are left out: they know nothing of it.

    Raises
    ------
    UsageError
        For an unknown kind, a share that is not from 0 to 1, or a data set without a table of the kind.
    """
    if kind not in DRIFTS:
        raise UsageError(f"unknown drift '{kind}'; known: {', '.join(DRIFTS)}")
    if not 0 <= at <= 1 or not 0 <= over <= 1:
        raise UsageError(f"a drift at {at:g} over {over:g}: both are shares, from 0 to 1")
    mine = [table for table in DRIFTS[kind] if table in dataset.tables]
    if not mine:
        raise UsageError(f"drift '{kind}' changes {' or '.join(DRIFTS[kind])}; the data set holds neither")
    rng, tables = np.random.default_rng(seed), dict(dataset.tables)
    for table in mine:
        if table == "incidents" and "telemetry" not in tables:
            continue
        tables |= _changed(tables, table, kind, at, over, rng)
    return dataclasses.replace(dataset, tables=tables, title=f"{dataset.title}, drift {kind} at {at:g}", oracles={})


def _changed(
    tables: dict[str, pd.DataFrame], table: str, kind: str, at: float, over: float, rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    frame = tables[table].copy()
    if table == "incidents":
        return {table: _other_victims(frame, *_times(tables["telemetry"]["timestamp"], at, over), rng)}
    if "timestamp" in frame:
        size = _ramp(frame["timestamp"], *_times(frame["timestamp"], at, over))
    else:
        place = np.arange(len(frame)) / max(len(frame), 1)
        size = np.clip((place - at) / over, 0, 1) if over else (place >= at).astype(float)
    columns = [name for name in frame.columns if name not in RESERVED[table] and frame[name].dtype.kind == "f"]
    if kind == "covariates":
        return {table: _shift(frame, columns[:3], size)}
    if kind in ("missing_sensor", "frozen_sensor"):
        return {table: _fail(frame, columns[1], size, kind, rng)}
    if kind == "season":
        return {table: _earlier(frame, columns, size)}
    if kind == "labels":
        return {table: _mixed_up(frame, size, rng)}
    if table == "activity":
        return {table: _new_attack(frame, columns, size, rng)}
    return _new_incidents(tables, columns, *_times(frame["timestamp"], at, over), rng)


def _times(stamps: pd.Series, at: float, over: float) -> tuple[pd.Timestamp, pd.Timedelta]:
    begin, end = stamps.min(), stamps.max()
    return begin + at * (end - begin), over * (end - begin)


def _ramp(stamps: pd.Series, begin: pd.Timestamp, over: pd.Timedelta) -> np.ndarray:
    """Return how far the drift has come by each time, from 0 to 1."""
    passed = (stamps - begin) / _HOUR
    if over == pd.Timedelta(0):
        return np.asarray(passed >= 0, dtype=float)
    return np.clip(np.asarray(passed, dtype=float) / (over / _HOUR), 0, 1)


def _shift(frame: pd.DataFrame, columns: list[str], size: np.ndarray) -> pd.DataFrame:
    for name in columns:
        before = frame[name].to_numpy(dtype=np.float64)
        low, high, spread = np.nanmin(before), np.nanmax(before), np.nanstd(before)
        top = 100.0 if low >= 0 and high <= 100 and high > 1 else 1.0 if low >= 0 and high <= 1 else np.inf
        moved = np.minimum(before + SHIFT * spread * size, top)
        frame[name] = pd.Series(moved, index=frame.index).astype(frame[name].dtype)
    return frame


def _owner(frame: pd.DataFrame) -> np.ndarray:
    """Return a number for whoever a row is of: its resource, else itself."""
    return np.asarray(pd.factorize(frame["resource_id"])[0] if "resource_id" in frame else np.arange(len(frame)))


def _fail(frame: pd.DataFrame, name: str, size: np.ndarray, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    owner = _owner(frame)
    # Of a slow failure one sensor after the other.
    turn = rng.random(int(owner.max()) + 1)[owner]
    gone = (turn < PART) & (size > turn / PART)
    values = frame[name].to_numpy(dtype=np.float64, copy=True)
    if kind == "missing_sensor":
        values[gone] = np.nan
    elif "resource_id" in frame:
        values[gone] = np.nan
        held = pd.Series(values).groupby(owner).ffill()
        values[gone] = held[gone]
    else:
        values[gone] = np.nanmedian(values)
    frame[name] = pd.Series(values, index=frame.index).astype(frame[name].dtype)
    return frame


def _earlier(frame: pd.DataFrame, columns: list[str], size: np.ndarray) -> pd.DataFrame:
    owner, row = _owner(frame), np.arange(len(frame))
    ahead = np.minimum(row + np.round(EARLIER * size).astype(int), len(frame) - 1)
    ahead = np.where(owner[ahead] == owner, ahead, row)
    frame[columns] = frame[columns].to_numpy()[ahead]
    return frame


def _mixed_up(frame: pd.DataFrame, size: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Give half of the rows the class of another row."""
    rows = np.flatnonzero(rng.random(len(frame)) < size / 2)
    names = frame["threat_type"].to_numpy(dtype=object, copy=True)
    names[rows] = names[rng.permutation(rows)]
    frame["threat_type"] = pd.Series(names, index=frame.index, dtype="str")
    return frame


def _other_victims(
    incidents: pd.DataFrame, begin: pd.Timestamp, over: pd.Timedelta, rng: np.random.Generator
) -> pd.DataFrame:
    """Let incidents strike others than those whose metrics announced them."""
    moved = np.flatnonzero(rng.random(len(incidents)) < _ramp(incidents["start"], begin, over))
    names = incidents["resource_id"].to_numpy(dtype=object, copy=True)
    names[moved] = names[rng.permutation(moved)]
    incidents["resource_id"] = pd.Series(names, index=incidents.index, dtype="str")
    return _apart(incidents)


def _apart(incidents: pd.DataFrame) -> pd.DataFrame:
    """Leave out incidents that begin while another one of their resource goes on."""
    ordered = incidents.sort_values(["resource_id", "start"]).reset_index(drop=True)
    ended = ordered.groupby("resource_id")["end"].transform(lambda ends: ends.cummax().shift())
    return ordered[~(ordered["start"] < ended)].reset_index(drop=True)


def _new_attack(frame: pd.DataFrame, columns: list[str], size: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Turn ordinary rows into a class of attack that shows as it never did: in features of its own, one high, one low."""
    ordinary = (frame["threat_type"] == "normal").to_numpy()
    turned = ordinary & (rng.random(len(frame)) < TURNED * size)
    classes = sorted(set(frame["threat_type"]) - {"normal"})
    if classes:
        frame.loc[turned, "threat_type"] = classes[0]
    for name, quantile in ((columns[3 % len(columns)], 0.97), (columns[7 % len(columns)], 0.03)):
        level = float(np.nanquantile(frame[name], quantile))
        frame.loc[turned, name] = level * rng.uniform(0.9, 1.1, int(turned.sum()))
    return frame


def _new_incidents(
    tables: dict[str, pd.DataFrame],
    columns: list[str],
    begin: pd.Timestamp,
    over: pd.Timedelta,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Add incidents, one a resource every five days, that two metrics announce a day before: one falls, one doubles."""
    frame, horizon = tables["telemetry"].copy(), pd.Timedelta(hours=24)
    rows: list[dict[str, Any]] = []
    last = frame["timestamp"].max()
    for resource, stamps in frame.groupby("resource_id", sort=False)["timestamp"]:
        at = begin + horizon + pd.Timedelta(hours=float(rng.uniform(0, 120)))
        while at < last:
            if over == pd.Timedelta(0) or rng.random() < (at - begin) / over:
                start = at.floor("h")
                before = stamps.index[((stamps >= start - horizon) & (stamps < start)).to_numpy()]
                frame.loc[before, columns[-1]] = frame.loc[before, columns[-1]] * 0.4
                frame.loc[before, columns[3 % len(columns)]] = frame.loc[before, columns[3 % len(columns)]] * 2.0
                rows.append({"resource_id": resource, "start": start, "end": start + pd.Timedelta(hours=4)})
            at += pd.Timedelta(hours=float(rng.uniform(96, 144)))
    incidents = tables["incidents"]
    if rows:
        added = pd.DataFrame(rows).assign(kind="new_fault")
        added = added[[name for name in incidents.columns if name in added]].astype(incidents.dtypes.to_dict())
        incidents = _apart(pd.concat([incidents, added], ignore_index=True))
    return {"telemetry": frame, "incidents": incidents}
