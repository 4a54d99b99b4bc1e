"""Turn a data set's telemetry and incidents into `FailureData`."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiops_core.data import splits, tables
from aiops_core.data.derive import derived_of
from aiops_core.data.tables import Dataset
from aiops_core.derive import Derived
from aiops_core.errors import DataError
from aiops_core.tasks.cards import numeric_feature
from aiops_core.tasks.failure.data import FULL_EFFORT, PARTS, Effort, FailureData
from aiops_core.tasks.failure.split import assign_folds, assign_parts, incident_table, labels

__all__ = ["prepare"]


def prepare(dataset: Dataset, *, seed: int, effort: Effort = FULL_EFFORT, protocol: str = "time") -> FailureData:
    """Turn telemetry and incidents into labelled, split series.

    Parameters
    ----------
    dataset : Dataset
        With tables ``telemetry`` and ``incidents``; ``config["failure"]`` may hold ``window, horizon, stride,
        test_fraction, derive``.
    seed : int
        Chooses the held-out resources where whole resources are held out.
    effort : Effort, optional
        Kept as ``data.effort`` for all that follows.
    protocol : {"time", "resource"}
        What tests: the last part of the time, or whole resources. An official split of resources stays as it is.

    Returns
    -------
    FailureData

    Raises
    ------
    DataError
        If there are fewer rows than a window, or a part has no positive or no negative example.
    UsageError
        If a derived feature cannot be read.
    """
    dataset.require("failure")
    config = {**tables.DEFAULT_CONFIG["failure"], **dataset.config.get("failure", {})}
    window, horizon, stride = (int(config[name]) for name in ("window", "horizon", "stride"))
    frame, derived = dataset.tables["telemetry"], derived_of(dataset, "failure")
    grid = tables.to_grid(frame, tables.feature_columns("telemetry", frame))
    starts, lengths, start, position = _places(grid, window)
    table = incident_table(dataset.tables["incidents"], grid)
    until, inside, known = labels(grid, table, starts, lengths)
    example = grid.present & ~inside & (known >= horizon)
    soon = example & (until <= horizon)
    served = {**config, "window": window + derived.reach}
    part, by_resource, sentence = assign_parts(
        frame, grid, served, position, start, soon, seed=seed, folds=effort.folds, protocol=protocol
    )
    on_stride = example & ((position - (window - 1)) % stride == 0)
    ends = _ends(part, on_stride, until <= horizon, f"window {window}, horizon {horizon} steps, {len(table)} incidents")
    seen = (part == splits.TRAIN) & grid.present
    values, names, derived, left_out = _features(grid, derived, start, seen)
    train = values[seen]
    center, scale = _scaling(train)
    data = FailureData(
        values=values,
        start=start,
        resource=grid.resource,
        time=grid.time,
        until=until,
        known=known,
        example=example,
        part=part,
        ends=ends,
        fold=assign_folds(part, grid, start, soon, by_resource, seed=seed, folds=effort.folds),
        by_resource=by_resource,
        incidents=table,
        resources=grid.resources,
        features=[numeric_feature(name, train[:, i]) for i, name in enumerate([*names, *derived.names])],
        center=center,
        scale=scale,
        window=window,
        horizon=horizon,
        stride=stride,
        step_seconds=grid.step_seconds,
        oracle=None,
        effort=effort,
        derived=derived,
    )
    data.facts = {name: tables.column_facts(frame[name]) for name in names}
    data.oracle = _oracle_rows(dataset.oracles.get("failure"), data)
    data.info = _info(
        data,
        split=sentence,
        protocol=protocol,
        official="split" in frame.columns,
        unlabelled=grid.present & ~inside & ~example,
        inside=grid.present & inside,
        ignored=tables.ignored_columns("telemetry", frame, names),
        left_out=left_out,
    )
    return data


def _places(grid: tables.Grid, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the first row and the length of every resource, and for every row its resource's first row and its place.

    Raises
    ------
    DataError
        If no resource is as long as a window.
    """
    starts = tables.run_starts(grid.resource)
    lengths = np.diff(np.r_[starts, len(grid.resource)])
    if lengths.max() < window:
        raise DataError(
            f"the longest resource has {int(lengths.max())} steps, fewer than a window of {window}", table="telemetry"
        )
    start = np.repeat(starts, lengths)
    return starts, lengths, start, np.arange(len(start)) - start


def _features(
    grid: tables.Grid, derived: Derived, start: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, list[str], Derived, dict[str, str]]:
    """Return the values of useful columns and derived features, the names of the columns, and as `_with_derived`."""
    useful = _useful_columns(grid.values[seen], grid.columns, derived)
    names = [grid.columns[i] for i in useful]
    values, derived, left_out = _with_derived(grid.values[:, useful], names, derived, start, seen)
    return values, names, derived, left_out


def _useful_columns(train: np.ndarray, columns: list[str], derived: Derived) -> list[int]:
    """Return the columns that vary in the training rows, and those known ones that derived features need."""
    useful = []
    for i, name in enumerate(columns):
        known = train[~np.isnan(train[:, i]), i]
        if _varies(known) or (len(known) and name in derived.columns):
            useful.append(i)
    if not useful:
        raise DataError("all feature columns are constant or missing in the training part", table="telemetry")
    return useful


def _with_derived(
    values: np.ndarray, names: list[str], derived: Derived, start: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, Derived, dict[str, str]]:
    """Return the values with derived features behind them, those features, and the ones left out with the reason."""
    usable = derived.within(names)
    found = usable.of_grid(values, names, start)
    kept = [j for j in range(len(usable)) if _varies(found[seen, j])]
    missing = {name: "a column of it is missing in training" for name in derived.names if name not in usable.names}
    left_out = missing | {name: "constant in training" for j, name in enumerate(usable.names) if j not in kept}
    derived = usable.kept([usable.names[j] for j in kept])
    return np.concatenate([values, found[:, kept]], axis=1), derived, left_out


def _varies(values: np.ndarray) -> bool:
    """Tell whether there are at least two different values."""
    return len(np.unique(values[~np.isnan(values)])) > 1


def _ends(part: np.ndarray, example: np.ndarray, positive: np.ndarray, settings: str) -> dict[str, np.ndarray]:
    """Return the examples of every part, as positions; raise DataError when they are none, or all of one class."""
    ends = {name: np.flatnonzero((part == code) & example) for name, code in PARTS.items()}
    for name, rows in ends.items():
        if positive[rows].any() and not positive[rows].all():
            continue
        lacking = "rows" if len(rows) == 0 else "negative rows" if positive[rows].any() else "positive rows"
        needs = "it needs more time, more incidents or other window and horizon"
        raise DataError(f"the {name} part has no {lacking} ({settings}); {needs}", table="incidents")
    return ends


def _info(
    data: FailureData,
    *,
    split: str,
    protocol: str,
    official: bool,
    unlabelled: np.ndarray,
    inside: np.ndarray,
    ignored: dict[str, str],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Return what reports and runs say about the data."""
    ends = data.ends
    return {
        "rows": sum(len(rows) for rows in ends.values()),
        "train_rows": len(ends["train"]),
        "validation_rows": len(ends["validation"]),
        "test_rows": len(ends["test"]),
        "split": split,
        "protocol": protocol,
        "official_split": official,
        "window": data.window,
        "horizon": data.horizon,
        "stride": data.stride,
        "step_seconds": data.step_seconds,
        "features": [feature["name"] for feature in data.metrics],
        "ignored": ignored,
        "derived": data.derived.entries(),
        "derived_left_out": left_out,
        "resources": len(data.resources),
        "incidents": len(data.incidents),
        "base_rate": float(data.truth("train").mean()),
        "test_base_rate": float(data.truth("test").mean()),
        "unlabelled_rows": int(unlabelled.sum()),
        "rows_inside_incidents": int(inside.sum()),
        **{f"{part}_incidents": int(count) for part, count in data.summary()["incidents"].items()},
    }


def _scaling(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and robust standard deviation of each column (n_features,), float32."""
    low, center, high = np.nanpercentile(train, [5, 50, 95], axis=0)
    # The middle 90 % of a normal distribution spans 3.29 standard deviations.
    robust, plain = (high - low) / 3.29, np.nanstd(train.astype(np.float64), axis=0)
    # A column that is nearly always the same has no robust spread.
    scale = np.where(robust > 1e-3 * plain, robust, plain)
    return center.astype(np.float32), np.where(scale > 0, scale, 1.0).astype(np.float32)


def _oracle_rows(oracle: Any, data: FailureData) -> dict[str, np.ndarray] | None:
    """Ask the oracle, a function of the keys or a frame of keys with ``probability``, about test and, if known, validation."""
    if oracle is None:
        return None
    found = {}
    for part in ("test", "validation"):
        keys = data.keys(part)
        if callable(oracle):
            asked = oracle(keys)
        else:
            asked = keys.merge(oracle, on=["resource_id", "timestamp"], how="left", validate="one_to_one")[
                "probability"
            ]
        found[part] = np.asarray(asked, dtype=np.float64)
    if np.isnan(found["validation"]).any():
        del found["validation"]
    return found
