"""Labels, parts and folds of rows: what may be learned, what chooses, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data import splits, tables
from aiops_core.tasks.failure.data import FailureData

VALIDATION_FRACTION = 0.2
PARTS = {"train": splits.TRAIN, "validation": splits.VALIDATION, "test": splits.TEST}


def incident_table(incidents: pd.DataFrame, grid: tables.Grid) -> pd.DataFrame:
    """Return ``resource`` (index into the grid's), ``start`` and ``end`` (datetime64[s], UTC) of every incident.

    Sorted by resource and start.
    """
    code = {name: i for i, name in enumerate(grid.resources)}
    resource = incidents["resource_id"].map(code).to_numpy(dtype=np.int32)
    table = pd.DataFrame({"resource": resource, **{c: _naive(incidents[c]) for c in ("start", "end")}})
    return table.sort_values(["resource", "start"], kind="stable", ignore_index=True)


def _naive(stamps: pd.Series) -> np.ndarray:
    return np.asarray(stamps.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), dtype="datetime64[s]")


def labels(
    grid: tables.Grid, table: pd.DataFrame, starts: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps to the next start, whether a row is inside an incident, and the steps known after each row."""
    seconds = grid.time.astype(np.int64)
    begin, end = (table[c].to_numpy().astype("datetime64[s]").astype(np.int64) for c in ("start", "end"))
    owner = table["resource"].to_numpy().astype(np.int64)
    low = min(int(seconds.min()), int(begin.min(initial=int(seconds.min()))))
    high = max(int(seconds.max()), int(end.max(initial=int(seconds.max()))), int(begin.max(initial=int(seconds.max()))))
    # One sorted axis for all resources: each owns a span that no time of another can reach.
    span = high - low + 1
    at = grid.resource.astype(np.int64) * span + seconds - low
    begin_at, end_at = owner * span + begin - low, np.sort(owner * span + end - low)
    following = np.searchsorted(begin_at, at, side="right")
    padded = np.r_[begin_at, np.iinfo(np.int64).max]
    same = np.r_[owner, -1][following] == grid.resource
    until = np.where(same, (padded[following] - at) / grid.step_seconds, np.inf)
    inside = following > np.searchsorted(end_at, at, side="right")
    last = seconds[starts + lengths - 1].copy()
    np.maximum.at(last, owner, begin)
    known = (np.repeat(last, lengths) - seconds) / grid.step_seconds
    return until, inside, known


def assign_parts(
    frame: pd.DataFrame,
    grid: tables.Grid,
    config: Mapping[str, Any],
    position: np.ndarray,
    start: np.ndarray,
    rng: np.random.Generator,
    *,
    folds: int,
) -> tuple[np.ndarray, bool, str]:
    """Return the part of every row, whether whole resources are held out, and the sentence that says so."""
    embargo = int(config["window"]) + int(config["horizon"])
    if "split" not in frame.columns:
        fraction = float(config["test_fraction"])
        held = VALIDATION_FRACTION * (1 - fraction)
        part = splits.by_time(grid.resource, test_fraction=fraction, validation_fraction=held, embargo=embargo)
        words = (
            f"by time in every resource: the first {1 - fraction - held:.0%} trains, the next {held:.0%} validates, "
        )
        return part, False, f"{words}the last {fraction:.0%} tests, {embargo} steps of embargo between"
    tested = _test_rows(frame, grid, start)
    fresh = tested == (np.bincount(grid.resource, weights=tested) > 0)[grid.resource]
    if fresh.all():
        # Resources of the test part are new ones: validate on whole resources as well.
        part = np.where(tested, splits.TEST, splits.TRAIN).astype(np.int8)
        rows = np.flatnonzero(part == splits.TRAIN)
        if len(np.unique(grid.resource[rows])) >= folds:
            part[rows[splits.by_group(grid.resource[rows], VALIDATION_FRACTION, rng)]] = splits.VALIDATION
            return part, True, "official split; whole resources of its training part validate"
    # Rows before the first test row of a resource can be learned from, less an embargo.
    first = np.full(len(grid.resources), np.iinfo(np.int64).max)
    np.minimum.at(first, grid.resource[tested], position[tested])
    part = np.where(tested, splits.TEST, splits.TRAIN).astype(np.int8)
    part[~tested & (position > first[grid.resource] - 1 - embargo)] = splits.NONE
    rows = np.flatnonzero(part == splits.TRAIN)
    inner = splits.by_time(
        grid.resource[rows], test_fraction=VALIDATION_FRACTION, validation_fraction=0.0, embargo=embargo
    )
    part[rows] = np.where(inner == splits.TEST, splits.VALIDATION, inner)
    words = f"official split; the last {VALIDATION_FRACTION:.0%} of each training record validates"
    return part, False, f"{words}, {embargo} steps of embargo between"


def _test_rows(frame: pd.DataFrame, grid: tables.Grid, start: np.ndarray) -> np.ndarray:
    """Return the official test mark of every grid row; a missing row takes the mark of the row before it."""
    marks = tables.to_grid(
        frame[["resource_id", "timestamp"]].assign(mark=(frame["split"] == "test").astype(float)),
        ["mark"],
        step_seconds=grid.step_seconds,
    ).values[:, 0]
    filled = np.maximum.accumulate(np.where(np.isnan(marks), start, np.arange(len(marks))))
    return np.asarray(marks[filled] == 1)


def assign_folds(
    part: np.ndarray,
    resource: np.ndarray,
    start: np.ndarray,
    by_resource: bool,
    rng: np.random.Generator,
    *,
    folds: int,
) -> np.ndarray:
    """Assign every row that is not test to one of ``folds`` blocks: whole resources, or stretches of time."""
    fold: np.ndarray = np.full(len(part), -1, dtype=np.int8)
    if by_resource:
        names = np.unique(resource[part != splits.TEST])
        own = np.zeros(int(resource.max()) + 1, dtype=np.int8)
        own[rng.permutation(names)] = np.arange(len(names)) % folds
        fold[:] = own[resource]
        fold[part == splits.TEST] = -1
        return fold
    position = np.arange(len(part)) - start
    learned = np.where((part == splits.TRAIN) | (part == splits.VALIDATION), position, -1)
    last = np.full(int(resource.max()) + 1, -1)
    np.maximum.at(last, resource, learned)
    length = (last + 1)[resource]
    inside = position < length
    fold[inside] = (position[inside] * folds) // length[inside]
    return fold


def thin_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def steps_to_next(data: FailureData, stop: np.ndarray) -> np.ndarray:
    """Return the steps from every row to the next row at which ``stop`` is True, inf if none in its resource."""
    n = len(stop)
    index = np.where(stop, np.arange(n), n)
    following = np.minimum.accumulate(index[::-1])[::-1]
    same = (following < n) & (data.resource[np.minimum(following, n - 1)] == data.resource)
    return np.where(same, following - np.arange(n), np.inf)


def near(data: FailureData, block: np.ndarray, distance: int) -> np.ndarray:
    """Return the rows of a block and those within ``distance`` steps of it in the same resource."""
    after = steps_to_next(data, block) <= distance
    position = np.arange(len(block))
    last = np.maximum.accumulate(np.where(block, position, -1))
    before = (last >= data.start) & (position - last <= distance)
    return np.asarray(after | before)
