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
from collections.abc import Mapping
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

__all__ = ["validate", "validate_all", "validated"]

_OFFSET = re.compile(r"(?:[zZ]|UTC|[+-]\d{2}:?\d{2})$")


def validate(
    table: str, frame: pd.DataFrame, *, origin: str = "", learning: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """Check one contract table and bring it to its canonical form.

    Parameters
    ----------
    table : {"telemetry", "incidents", "activity", "usage"}
    frame : DataFrame
        As read from a file.
    origin : str, optional
        File name, for messages.
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
        Naming the table, the column, the rule and the first bad rows.
    """
    frame = frame.reset_index(drop=True)
    frame.columns = frame.columns.map(str)
    _check_columns(table, frame, origin)
    if frame.empty:
        raise DataError("has no rows", table=table)
    for column in TIME_COLUMNS[table]:
        if column in frame.columns:
            frame[column] = _utc(table, column, frame[column])
    for column in ("resource_id", "threat_type", "group", "kind"):
        if column in frame.columns and column in RESERVED[table]:
            missing = frame[column].isna()
            if missing.any() and column != "kind":
                raise DataError(f"{_count(missing)} no value", table=table, column=column)
            if column != "kind":
                frame[column] = frame[column].astype(str)
    _check_values(table, frame, learning)
    if table == "incidents":
        return _check_incidents(frame), []
    if table == "activity":
        return frame, _activity_notes(frame)
    duplicated = frame.duplicated(["resource_id", "timestamp"], keep=False)
    if duplicated.any():
        first = frame.loc[duplicated].iloc[0]
        raise DataError(
            f"{int(duplicated.sum())} rows share a (resource_id, timestamp), first {first['resource_id']} at {first['timestamp']}",
            table=table,
        )
    ordered = frame.sort_values(["resource_id", "timestamp"], kind="stable", ignore_index=True)
    return ordered, _series_notes(table, frame, ordered)


def validate_all(tables: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], dict[str, list[str]]]:
    """Validate every table and the references between them.

    Raises
    ------
    DataError
        As `validate`, or if incidents name resources that telemetry does not hold.
    """
    checked: dict[str, pd.DataFrame] = {}
    notes: dict[str, list[str]] = {}
    for name in TABLES:
        if name in tables:
            checked[name], notes[name] = validate(name, tables[name])
    if "telemetry" in checked and "incidents" in checked:
        known = set(checked["telemetry"]["resource_id"])
        unknown = sorted(set(checked["incidents"]["resource_id"]) - known)
        if unknown:
            raise DataError(
                f"{len(unknown)} resources are not in telemetry, first {', '.join(unknown[:3])}",
                table="incidents",
                column="resource_id",
            )
    return checked, notes


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


def _check_columns(table: str, frame: pd.DataFrame, origin: str) -> None:
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
            near = difflib.get_close_matches(absent[0], columns, n=1)
            hint = f"; '{near[0]}' looks like it, rename it" if near else f"; it has {', '.join(columns[:8])}"
            raise DataError(
                f"is missing{hint}{f' ({origin})' if origin else ''}", table=table, column=absent[0]
            ) from None


def _utc(table: str, column: str, values: pd.Series) -> pd.Series:
    naive = "has timestamps without a time zone; they are not guessed: write UTC with an offset, such as 2026-01-31T12:00:00Z"
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        stamps = values.dt.tz_convert("UTC")
    elif pd.api.types.is_datetime64_any_dtype(values):
        raise DataError(naive, table=table, column=column)
    elif pd.api.types.is_numeric_dtype(values):
        raise DataError(
            f"holds numbers such as {values.iloc[0]!r}, not timestamps; write ISO 8601 with an offset, such as 2026-01-31T12:00:00Z",
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


def _check_values(table: str, frame: pd.DataFrame, learning: bool) -> None:
    features = feature_columns(table, frame)
    if table == "incidents":
        return
    if not features:
        raise DataError(f"has no feature column beside {', '.join(RESERVED[table])}", table=table)
    for column in features:
        values = frame[column]
        if not pd.api.types.is_numeric_dtype(values):
            if table == "activity":
                continue
            as_number = pd.to_numeric(values, errors="coerce")
            bad = as_number.isna() & values.notna()
            if bad.any():
                raise DataError(
                    f"{_count(bad)} text in a metric column, first {values[bad].iloc[0]!r}", table=table, column=column
                )
            frame[column] = as_number.astype(float)
    numeric = {
        c: pa.Column(checks=pa.Check(_finite, name="finite"), nullable=True) for c in features if _number(frame[c])
    }
    try:
        pa.DataFrameSchema(numeric, strict=False).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        first = errors.failure_cases.iloc[0]
        column = str(first["column"])
        infinite = np.isinf(frame[column].to_numpy(dtype=float, na_value=np.nan))
        raise DataError(
            f"{_count(infinite)} an infinite value; write a missing one instead", table=table, column=column
        ) from None
    empty = [c for c in features if frame[c].isna().all()]
    if empty and learning:
        raise DataError("holds only missing values (NaN); remove it", table=table, column=empty[0])
    if learning and all(frame[c].nunique(dropna=True) <= 1 for c in features):
        raise DataError(
            f"all {len(features)} feature columns are constant; there is nothing to learn from", table=table
        )
    if "split" in frame.columns and "split" in RESERVED[table]:
        wrong = ~frame["split"].isin(["train", "test"])
        if wrong.any():
            raise DataError(
                f"{_count(wrong)} a value other than 'train' and 'test', first {frame.loc[wrong, 'split'].iloc[0]!r}",
                table=table,
                column="split",
            )
        if frame["split"].nunique() < 2:
            raise DataError("must hold both 'train' and 'test'", table=table, column="split")


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


def _number(values: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values))


def _finite(values: pd.Series) -> pd.Series:
    return pd.Series(~np.isinf(values.to_numpy(dtype=float, na_value=np.nan)), index=values.index)


def _count(mask: Any) -> str:
    rows = np.flatnonzero(np.asarray(mask, dtype=bool))
    shown = ", ".join(str(r) for r in rows[:3])
    return f"{len(rows)} rows have (first: row {shown})" if len(rows) > 1 else f"row {shown} has"
