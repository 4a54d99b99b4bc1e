"""Contract tables: their columns and settings, a data set of them, and the regular grid of a series.

Column names are constants, never options.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.errors import DataError, UsageError
from aiops_core.facts import FACTS
from aiops_core.facts import TASKS as TASKS
from aiops_core.markup import html_table
from aiops_core.redact import redacted

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
        "derive": (dict, 0),
        "start": (dict, 0),
    },
    "threat": {
        "test_fraction": (float, 0.01),
        "costs": (dict, 0),
        "whole_groups": (bool, 0),
        "derive": (dict, 0),
        "start": (dict, 0),
    },
    "capacity": {
        "target": ((str, list), 0),
        "season": (int, 1),
        "horizon": (int, 1),
        "origins": (int, 1),
        "origin_step": (int, 1),
        "score_steps": (list, 0),
        "derive": (dict, 0),
        "start": (dict, 0),
    },
}
DEFAULT_CONFIG: dict[str, dict[str, Any]] = {
    "failure": {"window": 24, "horizon": 24, "stride": 1, "test_fraction": 0.3},
    "threat": {"test_fraction": 0.3},
    "capacity": {"season": 24, "horizon": 24, "origins": 7, "origin_step": 24},
}


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
    tables: dict[str, pd.DataFrame] = field(repr=False)
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    oracles: dict[str, Any] = field(default_factory=dict, repr=False)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # An address in a title goes into reports, cards and the registry.
        object.__setattr__(self, "title", redacted(self.title))

    def _repr_html_(self) -> str:
        rows: dict[str, Any] = {"licence": self.licence}
        rows |= {
            name: f"{len(frame):,} rows: {', '.join(map(str, frame.columns))}" for name, frame in self.tables.items()
        }
        rows |= {
            f"settings of {task}": ", ".join(f"{k} = {v}" for k, v in given.items())
            for task, given in self.config.items()
        }
        return html_table(self.title, rows)

    def has(self, task: str) -> bool:
        """Tell whether all tables of a task are present."""
        return all(name in self.tables for name in TASK_TABLES[task])

    def require(self, task: str) -> None:
        """Refuse a task whose tables are not all present.

        Raises
        ------
        UsageError
        """
        if not self.has(task):
            wanted = " and ".join(TASK_TABLES[task])
            raise UsageError(f"data set '{self.name}' has no {wanted} table: task '{task}' has nothing to learn from")

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

    def replaced(self, **tables: pd.DataFrame) -> Dataset:
        """Return a copy with some tables replaced, such as one with a derived column; rows must stay the same.

        Examples
        --------
        ``dataset.replaced(activity=activity.assign(share=activity["failed"] / activity["all"]))``
        """
        for name in tables:
            if name not in self.tables:
                raise UsageError(f"data set '{self.name}' has no table '{name}'{suggestion(name, list(self.tables))}")
        merged = {**self.tables, **tables}
        return Dataset(self.name, self.title, self.licence, merged, self.config, self.oracles, self.notes)

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


def run_starts(codes: np.ndarray) -> np.ndarray:
    """Return the first position of each run of equal values, (n_runs,), ascending."""
    return np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])


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
    seconds = epoch_seconds(frame["timestamp"])
    codes, names = pd.factorize(frame["resource_id"], sort=True)
    order = np.lexsort((seconds, codes))
    seconds, codes = seconds[order], codes[order].astype(np.int32)
    values = frame[list(columns)].to_numpy(dtype=np.float32, na_value=np.nan)[order]
    if step_seconds is None:
        step_seconds = step_of(frame)
    starts = run_starts(codes)
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
    differences = np.diff(epoch_seconds(frame["timestamp"]))[same]
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


def epoch_seconds(stamps: pd.Series) -> np.ndarray:
    """Return the seconds since 1970 of timestamps with a zone, (n,), int64."""
    naive = stamps.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    return np.asarray(naive.astype("datetime64[s]").astype(np.int64))
