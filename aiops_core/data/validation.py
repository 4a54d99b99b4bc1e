"""Validation of contract tables.

Nothing is silently dropped or filled: what is tolerated is counted
in `Dataset.notes`, and each irregularity has one treatment:

===========================  =========================================================================
irregularity                 treatment
===========================  =========================================================================
unsorted rows                sorted by resource and time
missing rows (gaps)          kept as rows without values on the regular grid (`to_grid`)
missing values (NaN)         kept as missing; models are trained for them
off-grid timestamps          moved to the grid point before them; the last row of a grid point is kept
constant column              kept out of the features, unless all are constant (refused)
duplicate (resource, time)   refused
timestamp without a zone     refused: a guess would shift labels against metrics
infinite value               refused
===========================  =========================================================================
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pandera.pandas as pa

from aiops_core.data.tables import (
    REQUIRED,
    RESERVED,
    TABLES,
    TIME_COLUMNS,
    Dataset,
    epoch_seconds,
    feature_columns,
    step_of,
)
from aiops_core.errors import DataError

_OFFSET = re.compile(r"(?:[zZ]|UTC|[+-]\d{2}:?\d{2})$")


def validate(table: str, frame: pd.DataFrame, *, learning: bool = True) -> tuple[pd.DataFrame, list[str]]:
    """Check one contract table and bring it to its canonical form.

    Parameters
    ----------
    table : {"telemetry", "incidents", "activity", "usage"}
    frame : DataFrame
        As read from a file.
    learning : bool, default True
        Refuse what nothing can be learned from: empty columns, and tables where every column is constant.

    Returns
    -------
    frame : DataFrame
        UTC timestamps, string ids, sorted rows; the input is not changed.
    notes : list of str
        What was counted and tolerated.

    Raises
    ------
    DataError
        Naming the table, the column, the rule and the first bad rows; every fault that can be told at once.
    """
    frame = frame.reset_index(drop=True)
    frame.columns = frame.columns.map(str)
    _check_columns(table, frame)
    if frame.empty:
        raise DataError("has no rows", table=table)
    faults: list[DataError] = []
    for column in TIME_COLUMNS[table]:
        if column in frame.columns:
            with collecting(faults):
                frame[column] = _utc(table, column, frame[column])
    for column in ("resource_id", "threat_type", "group", "kind"):
        if column in frame.columns and column in RESERVED[table]:
            missing = frame[column].isna()
            if missing.any() and column != "kind":
                faults.append(DataError(f"{_count(missing)} no value", table=table, column=column))
            elif column != "kind":
                frame[column] = frame[column].astype(str)
    faults += _faults_of_values(table, frame, learning)
    if faults:
        raise DataError.all_of(faults)
    if table == "incidents":
        return _check_incidents(frame), []
    if table == "activity":
        return frame, _activity_notes(frame)
    _refuse_duplicates(table, frame)
    ordered = frame.sort_values(["resource_id", "timestamp"], kind="stable", ignore_index=True)
    return ordered, _series_notes(table, frame, ordered)


def validate_all(tables: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], dict[str, list[str]]]:
    """Validate every table and the references between them.

    Raises
    ------
    DataError
        As `validate` for all tables together, or if incidents name resources that telemetry does not hold.
    """
    checked: dict[str, pd.DataFrame] = {}
    notes: dict[str, list[str]] = {}
    faults: list[DataError] = []
    for name in TABLES:
        if name in tables:
            with collecting(faults):
                checked[name], notes[name] = validate(name, tables[name])
    if "telemetry" in checked and "incidents" in checked:
        known = set(checked["telemetry"]["resource_id"])
        unknown = sorted(set(checked["incidents"]["resource_id"]) - known)
        if unknown:
            shown = f"{len(unknown)} resources are not in telemetry, first {', '.join(unknown[:3])}"
            faults.append(DataError(shown, table="incidents", column="resource_id"))
    if faults:
        raise DataError.all_of(faults)
    return checked, notes


@contextmanager
def collecting(faults: list[DataError]) -> Iterator[None]:
    """Put the faults of a `DataError` raised in the block on a list, so that the next check can go on."""
    try:
        yield
    except DataError as error:
        faults += error.faults


def validated(
    name: str, title: str, licence: str, tables: dict[str, pd.DataFrame], config: dict[str, dict[str, object]]
) -> Dataset:
    """Validate the tables of a source and make them a data set.

    Raises
    ------
    DataError
        If a table breaks its contract.
    """
    checked, notes = validate_all(tables)
    return Dataset(name, title, licence, checked, config, {}, notes)


def _check_columns(table: str, frame: pd.DataFrame) -> None:
    columns = [str(c) for c in frame.columns]
    repeated = sorted({c for c in columns if columns.count(c) > 1})
    if repeated:
        raise DataError("appears more than once", table=table, column=repeated[0])
    schema = pa.DataFrameSchema({name: pa.Column() for name in REQUIRED[table]}, strict=False)
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        absent = [str(c) for c in cases.loc[cases["check"] == "column_in_dataframe", "failure_case"]]
        if absent:
            faults = [DataError(f"is missing{_looks_like(c, columns)}", table=table, column=c) for c in absent]
            raise DataError.all_of(faults) from None


def _looks_like(absent: str, columns: list[str]) -> str:
    plain = {c.strip().lower(): c for c in columns}
    near = difflib.get_close_matches(absent, plain, n=1)
    return f"; '{plain[near[0]]}' looks like it, rename it" if near else f"; it has {', '.join(columns[:8])}"


def _refuse_duplicates(table: str, frame: pd.DataFrame) -> None:
    keys = ["resource_id", "timestamp"]
    duplicated = frame.duplicated(keys, keep=False)
    if not duplicated.any():
        return
    first = frame.loc[duplicated].iloc[0]
    copies = int(frame.loc[duplicated].duplicated(keep=False).sum())
    alike = (
        "they are identical: drop the copies" if copies == duplicated.sum()
        else "their values differ: keep one of each" if copies == 0
        else f"{copies} of them are identical copies, the others' values differ"
    )  # fmt: skip
    raise DataError(
        f"{int(duplicated.sum())} rows share a (resource_id, timestamp), "
        f"first {first['resource_id']} at {first['timestamp']}; {alike}",
        table=table,
    )


def _utc(table: str, column: str, values: pd.Series) -> pd.Series:
    naive = "has timestamps without a time zone; they are not guessed: write UTC with an offset, such as 2026-01-31T12:00:00Z"
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        stamps = values.dt.tz_convert("UTC")
    elif pd.api.types.is_datetime64_any_dtype(values):
        raise DataError(naive, table=table, column=column)
    elif pd.api.types.is_numeric_dtype(values):
        raise DataError(
            f"holds numbers{_epoch(values)}, not timestamps; write ISO 8601 with an offset, such as 2026-01-31T12:00:00Z",
            table=table,
            column=column,
        )
    else:
        text = values.astype("string").str.strip()
        stamps = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
        bad = stamps.isna()
        if bad.any():
            raise DataError(
                f"{_count(bad)} a timestamp that cannot be parsed, first {text[bad].iloc[0]!r}",
                table=table,
                column=column,
            )
        without = ~text.str.contains(_OFFSET).astype(bool)
        if without.any():
            raise DataError(f"{naive} (first {text[without].iloc[0]!r})", table=table, column=column)
    if stamps.isna().any():
        raise DataError(f"{_count(stamps.isna())} no timestamp", table=table, column=column)
    canonical: pd.Series = stamps.dt.as_unit("us")
    return canonical


def _epoch(values: pd.Series) -> str:
    """Return an example of numbers where timestamps belong, with the time it may mean."""
    known = values.dropna()
    if known.empty:
        return ""
    number = known.iloc[0].item()
    for unit, scale in (("seconds", 1), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        # From 2001 to 2096: what else is that large?
        if 1e9 <= number / scale < 4e9:
            time = pd.Timestamp(number / scale, unit="s").strftime("%Y-%m-%dT%H:%M:%SZ")
            return f" such as {number} ({unit} since 1970? that would be {time})"
    return f" such as {number}"


def _faults_of_values(table: str, frame: pd.DataFrame, learning: bool) -> list[DataError]:
    """Return what is wrong with the values of a table; text that holds numbers becomes numbers in ``frame``."""
    features = feature_columns(table, frame)
    if table == "incidents":
        return []
    if not features:
        return [DataError(f"has no feature column beside {', '.join(RESERVED[table])}", table=table)]
    faults = []
    for column in features:
        values = frame[column]
        if table == "activity" or pd.api.types.is_numeric_dtype(values):
            continue
        as_number = pd.to_numeric(values, errors="coerce")
        bad = as_number.isna() & values.notna()
        if bad.any():
            text = f"{_count(bad)} text in a metric column, first {values[bad].iloc[0]!r}"
            faults.append(DataError(text, table=table, column=column))
        else:
            frame[column] = as_number.astype(float)
    for column in features:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            continue
        infinite = np.isinf(frame[column].to_numpy(dtype=float, na_value=np.nan))
        if infinite.any():
            text = f"{_count(infinite)} an infinite value; write a missing one instead"
            faults.append(DataError(text, table=table, column=column))
    if learning:
        faults += [
            DataError("holds only missing values (NaN); remove it", table=table, column=column)
            for column in features
            if frame[column].isna().all()
        ]
        if all(frame[c].nunique(dropna=True) <= 1 for c in features) and not faults:
            text = f"all {len(features)} feature columns are constant; there is nothing to learn from"
            faults.append(DataError(text, table=table))
    if "split" in frame.columns and "split" in RESERVED[table]:
        faults += _faults_of_split(table, frame["split"])
    return faults


def _faults_of_split(table: str, split: pd.Series) -> list[DataError]:
    wrong = ~split.isin(["train", "test"])
    if wrong.any():
        text = f"{_count(wrong)} a value other than 'train' and 'test', first {split[wrong].iloc[0]!r}"
    elif split.nunique() < 2:
        text = "must hold both 'train' and 'test'"
    else:
        return []
    return [DataError(text, table=table, column="split")]


def _check_incidents(frame: pd.DataFrame) -> pd.DataFrame:
    backwards = frame["end"] < frame["start"]
    if backwards.any():
        first = frame.loc[backwards].iloc[0]
        raise DataError(
            f"{_count(backwards)} an end before the start, first {first['resource_id']} from {first['start']} to {first['end']}",
            table="incidents",
            column="end",
        )
    return frame.sort_values(["resource_id", "start"], kind="stable", ignore_index=True)


def _activity_notes(frame: pd.DataFrame) -> list[str]:
    counts = frame["threat_type"].value_counts()
    if len(counts) < 2:
        raise DataError(f"holds one class only ({counts.index[0]!r})", table="activity", column="threat_type")
    single = counts[counts < 2]
    if len(single):
        raise DataError(
            f"class {single.index[0]!r} has one member; a class needs at least 2 to be in training and test",
            table="activity",
            column="threat_type",
        )
    return _value_notes("activity", frame)


def _series_notes(table: str, frame: pd.DataFrame, ordered: pd.DataFrame) -> list[str]:
    notes = _value_notes(table, ordered)
    same = ordered["resource_id"].to_numpy()[1:] == ordered["resource_id"].to_numpy()[:-1]
    step = step_of(ordered)
    difference = np.diff(epoch_seconds(ordered["timestamp"]))[same]
    gaps = int(np.maximum(difference // step - 1, 0).sum())
    off = int((difference % step != 0).sum())
    # The order of arrival within each resource: tables may interleave resources.
    arrival = frame.sort_values("resource_id", kind="stable")
    late = int((np.diff(epoch_seconds(arrival["timestamp"]))[same] < 0).sum())
    if late:
        notes.append(f"{late} rows came late (out of order) and were sorted")
    if gaps:
        notes.append(f"{gaps} rows are missing on the {step} s grid and are kept as gaps")
    if off:
        notes.append(f"{off} timestamps lie off the {step} s grid and move to the grid point before them")
    return notes


def _value_notes(table: str, frame: pd.DataFrame) -> list[str]:
    notes = []
    features = feature_columns(table, frame)
    missing = int(frame[features].isna().to_numpy().sum())
    if missing:
        share = missing / (len(frame) * len(features))
        notes.append(f"{missing} values are missing ({share:.1%}) and are kept as missing")
    constant = [c for c in features if frame[c].nunique(dropna=True) <= 1]
    if constant:
        notes.append(f"{len(constant)} constant columns carry no information: {', '.join(constant[:6])}")
    return notes


def _count(mask: Any) -> str:
    rows = np.flatnonzero(np.asarray(mask, dtype=bool))
    shown = ", ".join(str(r) for r in rows[:3])
    return f"{len(rows)} rows (first: {shown}) have" if len(rows) > 1 else f"row {shown} has"
