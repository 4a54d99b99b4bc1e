"""Contract tables: their columns, their validation, loading and saving.

Column names are constants, never options. Nothing is silently dropped or filled: what is tolerated is counted
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
import hashlib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pandera.pandas as pa

from aiops_core.errors import DataError, UsageError
from aiops_core.facts import FACTS, TASKS

__all__ = [
    "TABLES",
    "TASKS",
    "TASK_TABLES",
    "Dataset",
    "Grid",
    "check_section",
    "column_facts",
    "ignored_columns",
    "load_folder",
    "save_folder",
    "to_grid",
    "validate",
    "validate_all",
]

TABLES = ("telemetry", "incidents", "activity", "usage")
TASK_TABLES: dict[str, tuple[str, ...]] = {task: facts.tables for task, facts in FACTS.items()}
REQUIRED: dict[str, tuple[str, ...]] = {
    "telemetry": ("resource_id", "timestamp"),
    "incidents": ("resource_id", "start", "end"),
    "activity": ("threat_type",),
    "usage": ("resource_id", "timestamp"),
}
#: Columns that are never features, by table.
RESERVED: dict[str, tuple[str, ...]] = {
    "telemetry": ("resource_id", "timestamp", "split"),
    "incidents": ("resource_id", "start", "end", "kind"),
    "activity": ("threat_type", "timestamp", "group", "split"),
    "usage": ("resource_id", "timestamp"),
}
TIME_COLUMNS: dict[str, tuple[str, ...]] = {
    "telemetry": ("timestamp",),
    "incidents": ("start", "end"),
    "activity": ("timestamp",),
    "usage": ("timestamp",),
}
#: Keys of ``dataset.toml`` by section, with their type and smallest value.
CONFIG: dict[str, dict[str, tuple[type | tuple[type, ...], float]]] = {
    "failure": {
        "window": (int, 2),
        "horizon": (int, 1),
        "stride": (int, 1),
        "test_fraction": (float, 0.01),
        "decision": (dict, 0),
    },
    "threat": {"test_fraction": (float, 0.01), "costs": (dict, 0)},
    "capacity": {
        "target": ((str, list), 0),
        "season": (int, 1),
        "horizon": (int, 1),
        "origins": (int, 1),
        "origin_step": (int, 1),
        "score_steps": (list, 0),
    },
}
DEFAULT_CONFIG: dict[str, dict[str, Any]] = {
    "failure": {"window": 24, "horizon": 24, "stride": 1, "test_fraction": 0.3},
    "threat": {"test_fraction": 0.3},
    "capacity": {"season": 24, "horizon": 24, "origins": 7, "origin_step": 24},
}
_OFFSET = re.compile(r"(?:[zZ]|UTC|[+-]\d{2}:?\d{2})$")


@dataclass(frozen=True)
class Dataset:
    """Validated contract tables of one source, with what they cannot say themselves.

    Attributes
    ----------
    name : str
        Short name of the source.
    title, licence : str
        Shown in reports.
    tables : dict of str to DataFrame
        Validated tables by name; any subset of `TABLES`.
    config : dict of str to dict
        Settings by task, see `CONFIG`.
    oracles : dict
        Best achievable prediction by task; synthetic data only.
    notes : dict of str to list of str
        By table, what validation counted and tolerated.
    """

    name: str
    title: str
    licence: str
    tables: dict[str, pd.DataFrame]
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    oracles: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def has(self, task: str) -> bool:
        """Tell whether all tables of a task are present."""
        return all(name in self.tables for name in TASK_TABLES[task])

    def digest(self, task: str) -> str:
        """Return the sha256 of the task's tables and settings; equal data give equal digests on every machine."""
        sha = hashlib.sha256()
        for name in TASK_TABLES[task]:
            frame = self.tables[name]
            sha.update(name.encode())
            for column in frame.columns:
                sha.update(str(column).encode())
                sha.update(pd.util.hash_pandas_object(frame[column], index=False).to_numpy().tobytes())
        sha.update(repr(sorted(self.config.get(task, {}).items())).encode())
        return sha.hexdigest()

    def configured(self, task: str, **overrides: Any) -> Dataset:
        """Return a copy whose settings of ``task`` are overridden by the values that are not None."""
        given = {key: value for key, value in overrides.items() if value is not None}
        check_section(task, given, where="options")
        config = {**self.config, task: {**self.config.get(task, {}), **given}}
        return Dataset(self.name, self.title, self.licence, self.tables, config, self.oracles, self.notes)


@dataclass(frozen=True)
class Grid:
    """Rows of a table on the regular grid of each resource, missing rows included.

    Attributes
    ----------
    values : ndarray, (n_rows, n_columns), float32
        NaN where a value or the whole row is missing; rows sorted by resource, then time.
    resource : ndarray, (n_rows,), int32
        Index into `resources`.
    resources : list of str
    time : ndarray, (n_rows,), datetime64[s]
        UTC.
    present : ndarray, (n_rows,), bool
        False for rows that the table does not hold.
    step_seconds : int
    columns : list of str
    """

    values: np.ndarray
    resource: np.ndarray
    resources: list[str]
    time: np.ndarray
    present: np.ndarray
    step_seconds: int
    columns: list[str]


def to_grid(frame: pd.DataFrame, columns: Sequence[str], *, step_seconds: int | None = None) -> Grid:
    """Put a validated telemetry or usage table on its regular grid.

    Parameters
    ----------
    frame : DataFrame
        Validated table with ``resource_id`` and ``timestamp``.
    columns : sequence of str
        Numeric columns to take.
    step_seconds : int, optional
        Step of the grid in seconds; by default the most frequent difference between two rows of a resource.

    Returns
    -------
    Grid
    """
    seconds = _seconds(frame["timestamp"])
    codes, names = pd.factorize(frame["resource_id"], sort=True)
    order = np.lexsort((seconds, codes))
    seconds, codes = seconds[order], codes[order].astype(np.int32)
    values = frame[list(columns)].to_numpy(dtype=np.float32, na_value=np.nan)[order]
    if step_seconds is None:
        step_seconds = step_of(frame)
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    lengths = np.diff(np.r_[starts, len(codes)])
    first = seconds[starts]
    slot = (seconds - np.repeat(first, lengths)) // step_seconds
    ends = np.r_[starts[1:], len(codes)] - 1
    sizes = slot[ends] + 1
    offset = np.r_[0, np.cumsum(sizes)[:-1]]
    position = np.repeat(offset, lengths) + slot
    total = int(sizes.sum())
    if total > 20 * len(codes) + 1000:
        raise DataError(
            f"timestamps are too irregular: {len(codes)} rows would become {total} on a grid of {step_seconds} s"
        )
    out = np.full((total, len(columns)), np.nan, dtype=np.float32)
    out[position] = values
    present = np.zeros(total, dtype=bool)
    present[position] = True
    resource = np.repeat(np.arange(len(names), dtype=np.int32), sizes)
    within = np.arange(total) - np.repeat(offset, sizes)
    time = (np.repeat(first, sizes) + within * step_seconds).astype("datetime64[s]")
    return Grid(out, resource, [str(n) for n in names], time, present, int(step_seconds), list(columns))


def step_of(frame: pd.DataFrame) -> int:
    """Return the regular step of a table in seconds: the most frequent difference within resources."""
    same = frame["resource_id"].to_numpy()[1:] == frame["resource_id"].to_numpy()[:-1]
    differences = np.diff(_seconds(frame["timestamp"]))[same]
    differences = differences[differences > 0]
    if len(differences) == 0:
        return 3600
    values, counts = np.unique(differences, return_counts=True)
    return int(values[np.argmax(counts)])


def feature_columns(table: str, frame: pd.DataFrame) -> list[str]:
    """Return the columns of a table that are not reserved, in their order."""
    return [str(c) for c in frame.columns if c not in RESERVED[table]]


_RESERVED_REASON = {
    "threat_type": "the class to predict",
    "timestamp": "the time of the row",
    "group": "keeps campaigns on one side of the split",
    "split": "says training or test",
}


def ignored_columns(
    table: str, frame: pd.DataFrame, features: Iterable[str], reasons: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the columns of a table that a model does not use, with the reason: a card lists them under ``ignored``.

    Rows of the table may come as requests, and these columns with them. ``resource_id`` and ``timestamp`` of a series
    are used.

    Parameters
    ----------
    table : str
    frame : DataFrame
    features : iterable of str
        Columns in use.
    reasons : mapping of str to str, optional
        Why a column that is not reserved was left out.
    """
    used = set(features) | ({"resource_id", "timestamp"} if table in ("telemetry", "usage") else set())
    reasons = {**_RESERVED_REASON, **(reasons or {})}
    return {
        str(name): reasons.get(str(name), "constant or missing in the training part")
        for name in frame.columns
        if str(name) not in used
    }


def column_facts(values: pd.Series) -> dict[str, Any]:
    """Return what a card says of a numeric column as a whole, test rows included: what a request may hold.

    Returns
    -------
    dict
        ``seen``, smallest and largest value; ``boolean``, only where the column holds true and false.
    """
    known = values.dropna().to_numpy(dtype=np.float64)
    facts: dict[str, Any] = {"seen": [float(known.min()), float(known.max())]} if len(known) else {}
    return {**facts, "boolean": True} if pd.api.types.is_bool_dtype(values) else facts


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


def load_folder(folder: str | Path) -> Dataset:
    """Load a folder of contract tables, Parquet or CSV, with its optional ``dataset.toml``.

    Raises
    ------
    DataError
        If no table is there, or a table breaks its contract.
    UsageError
        If ``dataset.toml`` cannot be parsed or holds an unknown key.
    """
    folder = Path(folder)
    paths: dict[str, Path] = {}
    for name in TABLES:
        files = [p for p in (folder / f"{name}.parquet", folder / f"{name}.csv") if p.is_file()]
        if len(files) > 1:
            raise DataError(f"both {files[0].name} and {files[1].name} exist in {folder}; keep one", table=name)
        if files:
            paths[name] = files[0]
    if not paths:
        wanted = ", ".join(f"{name}.parquet" for name in TABLES)
        raise DataError(f"folder {folder} holds no contract table (any of {wanted}, or the same as .csv)")
    tables, notes = validate_all({name: _read(name, path) for name, path in paths.items()})
    config, title, licence = _read_config(folder / "dataset.toml", folder.name)
    return Dataset(folder.resolve().name, title, licence, tables, config, {}, notes)


def save_folder(dataset: Dataset, folder: str | Path) -> Path:
    """Write tables as Parquet and the settings as ``dataset.toml``; each file is renamed into place when complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in dataset.tables.items():
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
        os.close(handle)
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, folder / f"{name}.parquet")
    lines = [f"title = {_toml(dataset.title)}", f"licence = {_toml(dataset.licence)}"]
    for section, values in dataset.config.items():
        lines += ["", f"[{section}]", *[f"{key} = {_toml(value)}" for key, value in values.items()]]
    temporary_toml = folder / ".dataset.toml"
    temporary_toml.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary_toml, folder / "dataset.toml")
    return folder


def check_section(section: str, values: Mapping[str, Any], *, where: str) -> None:
    """Refuse unknown keys and values out of range in a section of ``dataset.toml`` or in options.

    Raises
    ------
    UsageError
    """
    allowed = CONFIG[section]
    for key, value in values.items():
        if key not in allowed:
            raise UsageError(f"{where}: [{section}] has no key '{key}'{suggestion(key, allowed)}")
        kind, least = allowed[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind is float and not (number and least <= value < 1):
            raise UsageError(f"{where}: [{section}] {key} = {value!r} must be a number from {least} to below 1")
        if kind is int and not (number and isinstance(value, int) and value >= least):
            raise UsageError(f"{where}: [{section}] {key} = {value!r} must be a whole number of at least {least:g}")
        if kind not in (int, float) and not isinstance(value, kind):
            raise UsageError(f"{where}: [{section}] {key} = {value!r} has the wrong type")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean '…'?`` for the nearest known name, or the list of the known ones."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)


def _read(table: str, path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:
        # pyarrow and the CSV parser raise a family of unrelated types for damaged files.
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"file {path.name} cannot be read ({text[0]})", table=table) from error


def _read_config(path: Path, default_title: str) -> tuple[dict[str, dict[str, Any]], str, str]:
    if not path.is_file():
        return {}, default_title, "not stated"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}: not valid TOML ({error})") from error
    title = str(content.pop("title", default_title))
    licence = str(content.pop("licence", "not stated"))
    for section, values in content.items():
        if section not in CONFIG or not isinstance(values, dict):
            raise UsageError(
                f"{path.name}: unknown entry '{section}'{suggestion(section, [*CONFIG, 'title', 'licence'])}"
            )
        check_section(section, values, where=path.name)
    return content, title, licence


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
    difference = np.diff(_seconds(ordered["timestamp"]))[same]
    gaps = int(np.maximum(difference // step - 1, 0).sum())
    off = int((difference % step != 0).sum())
    # The order of arrival within each resource: tables may interleave resources.
    arrival = frame.sort_values("resource_id", kind="stable")
    late = int((np.diff(_seconds(arrival["timestamp"]))[same] < 0).sum())
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


def _seconds(stamps: pd.Series) -> np.ndarray:
    naive = stamps.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    return np.asarray(naive.astype("datetime64[s]").astype(np.int64))


def _number(values: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values))


def _finite(values: pd.Series) -> pd.Series:
    return pd.Series(~np.isinf(values.to_numpy(dtype=float, na_value=np.nan)), index=values.index)


def _count(mask: Any) -> str:
    rows = np.flatnonzero(np.asarray(mask, dtype=bool))
    shown = ", ".join(str(r) for r in rows[:3])
    return f"{len(rows)} rows have (first: row {shown})" if len(rows) > 1 else f"row {shown} has"
