"""Labels, parts and folds of rows: what may be learned, what chooses, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data import splits, tables
from aiops_core.errors import DataError, UsageError
from aiops_core.tasks.failure.data import PROTOCOLS, FailureData

VALIDATION_FRACTION = 0.2


def incident_table(incidents: pd.DataFrame, grid: tables.Grid) -> pd.DataFrame:
    """Return ``resource`` (index into the grid's), ``start``, ``end`` (datetime64[s], UTC) and ``kind`` of every incident.

    Sorted by resource and start; the kind is empty where the table has none.
    """
    code = {name: i for i, name in enumerate(grid.resources)}
    resource = incidents["resource_id"].map(code).to_numpy(dtype=np.int32)
    table = pd.DataFrame({"resource": resource, **{c: _naive(incidents[c]) for c in ("start", "end")}})
    table["kind"] = incidents["kind"].fillna("").astype(str).to_numpy() if "kind" in incidents.columns else ""
    return table.sort_values(["resource", "start"], kind="stable", ignore_index=True)


def _naive(stamps: pd.Series) -> np.ndarray:
    return np.asarray(stamps.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), dtype="datetime64[s]")


def labels(
    grid: tables.Grid, table: pd.DataFrame, starts: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps to the next start, whether a row is inside an incident, and the steps known after each row.

    Incidents are known up to the last row of the resource. Where an incident starts at or after that row, the record
    ends by failure: nothing comes after it, and all is known of each of its rows (inf). Other rows near the end of a
    record have no full follow-up: to keep those that an incident follows all the same would make the end of every
    record look dangerous.
    """
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
    last = seconds[starts + lengths - 1]
    latest = np.full(len(starts), -1, dtype=np.int64)
    np.maximum.at(latest, owner, begin)
    known = (np.repeat(last, lengths) - seconds) / grid.step_seconds
    return until, inside, np.where(np.repeat(latest >= last, lengths), np.inf, known)


def assign_parts(
    frame: pd.DataFrame,
    grid: tables.Grid,
    config: Mapping[str, Any],
    position: np.ndarray,
    start: np.ndarray,
    soon: np.ndarray,
    *,
    seed: int,
    folds: int,
    protocol: str = "time",
) -> tuple[np.ndarray, bool, str]:
    """Return the part of every row, whether whole resources are held out, and the sentence that says so.

    An official split that tests new resources is kept under both protocols.

    Parameters
    ----------
    position, start : ndarray, (n_rows,)
        Steps since the first row of the resource, and where that row is.
    soon : ndarray, (n_rows,), bool
        Rows with a label that is positive: held-out resources get their share of these.
    protocol : {"time", "resource"}

    Raises
    ------
    UsageError
        For an unknown protocol.
    DataError
        If there are too few resources to hold any out.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is unknown; known: {', '.join(PROTOCOLS)}")
    tested = _test_rows(frame, grid, start) if "split" in frame.columns else np.zeros(len(start), dtype=bool)
    fresh = bool((tested == (np.bincount(grid.resource, weights=tested) > 0)[grid.resource]).all()) and tested.any()
    if protocol == "resource" or fresh:
        return _parts_by_resource(grid, tested if fresh else None, config, soon, seed=seed, folds=folds)
    embargo = int(config["window"]) + int(config["horizon"])
    if "split" not in frame.columns:
        fraction = float(config["test_fraction"])
        held = VALIDATION_FRACTION * (1 - fraction)
        part, whose = cut_by_time(grid, test_fraction=fraction, validation_fraction=held, embargo=embargo)
        sentence = (
            f"by time{whose.rstrip(',')}: the first {1 - fraction - held:.0%} trains, the next {held:.0%} validates, the last "
            f"{fraction:.0%} tests, {embargo} steps of embargo between"
        )
        return part, False, sentence
    # Rows before the first test row of a resource can be learned from, less an embargo.
    first = np.full(len(grid.resources), np.iinfo(np.int64).max)
    np.minimum.at(first, grid.resource[tested], position[tested])
    part = np.where(tested, splits.TEST, splits.TRAIN).astype(np.int8)
    part[~tested & (position > first[grid.resource] - 1 - embargo)] = splits.NONE
    rows = np.flatnonzero(part == splits.TRAIN)
    inner, whose = cut_by_time(grid, rows, test_fraction=VALIDATION_FRACTION, validation_fraction=0.0, embargo=embargo)
    part[rows] = np.where(inner == splits.TEST, splits.VALIDATION, inner)
    sentence = (
        f"official split; the last {VALIDATION_FRACTION:.0%} of the training time{whose} validates, "
        f"{embargo} steps of embargo between"
    )
    return part, False, sentence


def on_one_calendar(resource: np.ndarray, time: np.ndarray) -> bool:
    """Tell whether most rows (resource and time of each, sorted) lie at a time that another record covers too."""
    starts = tables.run_starts(resource)
    return splits.share_a_calendar(time[starts], time[np.r_[starts[1:], len(time)] - 1], time)


def cut_by_time(
    grid: tables.Grid,
    rows: np.ndarray | None = None,
    *,
    test_fraction: float,
    validation_fraction: float,
    embargo: int,
) -> tuple[np.ndarray, str]:
    """Cut rows into train, validation and test by time, as `splits.by_time` does.

    Records on one calendar are cut at the same time: else the training rows of one would tell what happened to all
    while another was tested. A resource whose record begins after the cut is tested without having been seen.

    Parameters
    ----------
    rows : ndarray, (n,), optional
        Positions to cut; by default all.

    Returns
    -------
    part : ndarray, (n,), int8
    whose : str
        What was cut, for a sentence.
    """
    resource, time = (grid.resource, grid.time) if rows is None else (grid.resource[rows], grid.time[rows])
    if not on_one_calendar(resource, time):
        part = splits.by_time(
            resource, test_fraction=test_fraction, validation_fraction=validation_fraction, embargo=embargo
        )
        return part, " in every resource"
    ordered = np.sort(time)
    test_at, validation_at = (
        ordered[min(int(len(time) * (1 - share) + 1e-9), len(time) - 1)]
        for share in (test_fraction, test_fraction + validation_fraction)
    )
    gap = np.timedelta64(embargo * grid.step_seconds, "s")
    part = np.full(len(time), splits.NONE, dtype=np.int8)
    part[time < validation_at] = splits.TRAIN
    part[(time >= validation_at + gap) & (time < test_at)] = splits.VALIDATION
    part[time >= test_at + gap] = splits.TEST
    return part, ", at the same time for all resources,"


def _parts_by_resource(
    grid: tables.Grid,
    tested: np.ndarray | None,
    config: Mapping[str, Any],
    soon: np.ndarray,
    *,
    seed: int,
    folds: int,
) -> tuple[np.ndarray, bool, str]:
    """Hold out whole resources, with all their time: for test unless ``tested`` says which, and for validation."""
    part = np.full(len(soon), splits.TRAIN, dtype=np.int8)
    if tested is None:
        groups = max(2, round(1 / float(config["test_fraction"])))
        tested = _shares(grid.resource, soon, groups, seed) == 0
        sentence = (
            f"by resource: {len(np.unique(grid.resource[tested]))} of {len(grid.resources)} resources test with all "
            "their time, the others train and validate; all live in the same time, so what strikes the whole fleet "
            "at once is known from the others"
        )
    else:
        sentence = "official split of resources"
    part[tested] = splits.TEST
    rows = np.flatnonzero(~tested)
    if len(np.unique(grid.resource[rows])) >= folds:
        held = _shares(grid.resource[rows], soon[rows], round(1 / VALIDATION_FRACTION), seed) == 0
        part[rows[held]] = splits.VALIDATION
        return part, True, f"{sentence}; whole resources of its training part validate"
    inner, whose = cut_by_time(
        grid,
        rows,
        test_fraction=VALIDATION_FRACTION,
        validation_fraction=0.0,
        embargo=int(config["window"]) + int(config["horizon"]),
    )
    part[rows] = np.where(inner == splits.TEST, splits.VALIDATION, inner)
    return part, False, f"{sentence}; the last {VALIDATION_FRACTION:.0%} of the training time{whose} validates"


def _shares(resource: np.ndarray, soon: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Deal whole resources out into ``count`` shares that have about the same share of positive rows.

    Returns
    -------
    ndarray, (n,), int8
        From 0.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names, code = np.unique(resource, return_inverse=True)
    if len(names) < 2:
        raise DataError("has one resource only; whole resources cannot be held out", table="telemetry")
    count = min(count, len(names))
    share = np.zeros(len(resource), dtype=np.int8)
    # Few rows a resource say enough of it: the deal is by counts, and its time grows with the rows.
    few = np.unique(np.r_[thin_rows(np.arange(len(resource)), 100_000), np.unique(code, return_index=True)[1]])
    own = np.zeros(len(names), dtype=np.int8)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for k, (_, held) in enumerate(splitter.split(few, soon[few], code[few])):
        own[code[few[held]]] = k
    share[:] = own[code]
    return share


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
    grid: tables.Grid,
    start: np.ndarray,
    soon: np.ndarray,
    by_resource: bool,
    *,
    seed: int,
    folds: int,
) -> np.ndarray:
    """Assign every row that is not test to one of ``folds`` blocks: whole resources, or stretches of time.

    Stretches are the same for all resources where their records are on one calendar.
    """
    fold: np.ndarray = np.full(len(part), -1, dtype=np.int8)
    if by_resource:
        rows = np.flatnonzero(part != splits.TEST)
        fold[rows] = _shares(grid.resource[rows], soon[rows], folds, seed)
        return fold
    learned = (part == splits.TRAIN) | (part == splits.VALIDATION)
    # What lies behind the last learned row of a resource is its embargo, or follows its test.
    position = np.arange(len(part)) - start
    last = np.full(len(grid.resources), -1)
    np.maximum.at(last, grid.resource, np.where(learned, position, -1))
    length = (last + 1)[grid.resource]
    inside = position < length
    if on_one_calendar(grid.resource, grid.time):
        ordered = np.sort(grid.time[learned])
        edges = ordered[(len(ordered) * np.arange(1, folds)) // folds]
        fold[inside] = np.searchsorted(edges, grid.time[inside], side="right")
    else:
        fold[inside] = (position[inside] * folds) // length[inside]
    fold[part == splits.TEST] = -1
    return fold


def thin_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def stretches(data: FailureData, rows: np.ndarray, most: int) -> np.ndarray:
    """Return about ``most`` of the rows at most, in whole stretches of time that are evenly spread.

    What an alert is depends on the steps before it: thinned rows would not show how often a service alerts.
    """
    if len(rows) <= most:
        return rows
    length = 10 * (data.window + data.horizon)
    mark = data.resource[rows].astype(np.int64) * len(data.time) + (rows - data.start[rows]) // length
    names, index = np.unique(mark, return_inverse=True)
    kept = np.zeros(len(names), dtype=bool)
    kept[thin_rows(np.arange(len(names)), max(1, len(names) * most // len(rows)))] = True
    return rows[kept[index]]


def steps_to_next(data: FailureData, stop: np.ndarray) -> np.ndarray:
    """Return the steps from every row to the next row at which ``stop`` is True, inf if none in its resource."""
    n = len(stop)
    index = np.where(stop, np.arange(n), n)
    following = np.minimum.accumulate(index[::-1])[::-1]
    same = (following < n) & (data.resource[np.minimum(following, n - 1)] == data.resource)
    return np.where(same, following - np.arange(n), np.inf)


def rows_before_test(data: FailureData) -> np.ndarray:
    """Return the labelled rows of training and validation whose horizon does not reach into the test, ascending."""
    rows = np.flatnonzero((data.fold >= 0) & data.example)
    return rows[steps_to_next(data, data.part == splits.TEST)[rows] > data.horizon]


def near(data: FailureData, block: np.ndarray, distance: int) -> np.ndarray:
    """Return the rows of a block and those within ``distance`` steps of it in the same resource."""
    after = steps_to_next(data, block) <= distance
    position = np.arange(len(block))
    last = np.maximum.accumulate(np.where(block, position, -1))
    before = (last >= data.start) & (position - last <= distance)
    return np.asarray(after | before)
