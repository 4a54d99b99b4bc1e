"""Read the journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aiops_core.errors import UsageError
from aiops_core.journal.schema import SCHEMAS, TIME
from aiops_core.journal.segments import SEALED, SEGMENT, folder_of, read_segment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["inputs_of", "newest", "read", "utc"]

_TIMES = ("event_time", "arrival_time")


def read(
    folder: Path,
    task: str,
    *,
    since: Any = None,
    until: Any = None,
    by: str = "event_time",
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the records of a task, sealed ones and those of open segments, in the order of arrival.

    Parameters
    ----------
    folder : Path
        State folder.
    task : {"failure", "threat", "capacity"}
    since, until : datetime or str, optional
        ``since <= time < until``; without a zone they are UTC.
    by : {"event_time", "arrival_time"}
        Which time that is; a record without event time is taken by its arrival.
    columns : sequence of str, optional
        Only these.

    Returns
    -------
    DataFrame
        Columns of `SCHEMAS`; null is NaN, NaT or None.

    Raises
    ------
    UsageError
        For an unknown task, column or time.
    """
    frame: pd.DataFrame = _table(folder, task, since, until, by, columns).to_pandas()
    return frame


def _table(folder: Path, task: str, since: Any, until: Any, by: str, columns: Sequence[str] | None) -> pa.Table:
    schema = _schema(task)
    if by not in _TIMES:
        raise UsageError(f"by is {by!r}, not one of {', '.join(_TIMES)}")
    wanted = schema.names if columns is None else list(columns)
    strange = [name for name in wanted if name not in schema.names]
    if strange:
        raise UsageError(f"the journal of {task} has no column {strange[0]!r}")
    needed = list(dict.fromkeys([*wanted, *_TIMES]))
    parts = [_within(part, since, until, by) for part in _parts(folder_of(folder, task), schema, needed)]
    empty = pa.schema([schema.field(name) for name in needed]).empty_table()
    table = pa.concat_tables(parts) if parts else empty
    return table.sort_by("arrival_time").select(wanted)


def _schema(task: str) -> pa.Schema:
    if task not in SCHEMAS:
        raise UsageError(f"unknown task '{task}'; known: {', '.join(SCHEMAS)}")
    return SCHEMAS[task]


def _parts(folder: Path, schema: pa.Schema, columns: Sequence[str]) -> list[pa.Table]:
    """Return the content of every file; what is sealed while we read is read once."""
    parts, seen = [], set()
    for path in sorted(folder.glob(f"*{SEGMENT}")):
        try:
            table = read_segment(path)
        except FileNotFoundError:
            continue
        seen.add(path.stem)
        if table is not None:
            parts.append(_conform(table, schema, columns))
    for path in sorted(folder.glob(f"*{SEALED}")):
        if path.stem not in seen:
            try:
                table = _columns(path, columns)
            except FileNotFoundError:
                # Too old or too much: removed meanwhile.
                continue
            parts.append(_conform(table, schema, columns))
    return parts


def _columns(path: Path, columns: Sequence[str]) -> pa.Table:
    have = pq.read_schema(path).names
    return pq.read_table(path, columns=[name for name in columns if name in have], partitioning=None)


def _conform(table: pa.Table, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Return the columns asked for; one that was not yet known when the file was written is null."""
    arrays = [
        table[name] if name in table.column_names else pa.nulls(len(table), schema.field(name).type) for name in columns
    ]
    return pa.table(arrays, schema=pa.schema([schema.field(name) for name in columns]))


def _within(table: pa.Table, since: Any, until: Any, by: str) -> pa.Table:
    when = table["arrival_time"]
    if by == "event_time":
        when = pc.coalesce(table["event_time"], when)
    if since is not None:
        keep = pc.greater_equal(when, pa.scalar(utc(since), TIME))
        table, when = table.filter(keep), when.filter(keep)
    if until is not None:
        table = table.filter(pc.less(when, pa.scalar(utc(until), TIME)))
    return table


def utc(time: Any) -> pd.Timestamp:
    """Return a time with its zone; without one it is UTC.

    Raises
    ------
    UsageError
        If it is no time.
    """
    import pandas as pd

    try:
        stamp = pd.Timestamp(time)
    except (ValueError, TypeError):
        raise UsageError(f"'{time}' is no time; write it like 2026-01-31T12:00Z") from None
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def newest(
    folder: Path,
    tasks: Sequence[str],
    limit: int,
    *,
    request_id: str | None = None,
    resource_id: str | None = None,
) -> list[dict[str, Any]]:
    """Return the newest records as plain values, newest first, files from the newest backwards until there are enough.

    Parameters
    ----------
    folder : Path
        State folder.
    tasks : sequence of str
    limit : int
        Most records.
    request_id : str, optional
        Of an answer, or of a whole batch.
    resource_id : str, optional
        As the journal holds it.

    Returns
    -------
    list of dict
        Columns of `SCHEMAS` and ``task``, without ``inputs``.
    """
    found: list[dict[str, Any]] = []
    for task in tasks:
        schema = _schema(task)
        columns = [name for name in schema.names if name != "inputs"]
        mine: list[dict[str, Any]] = []
        for path in _backwards(folder_of(folder, task)):
            try:
                table = read_segment(path) if path.suffix == SEGMENT else _columns(path, columns)
            except FileNotFoundError:
                continue
            if table is None:
                continue
            table = _matching(_conform(table, schema, columns), request_id, resource_id).sort_by("arrival_time")
            mine += [{"task": task, **row} for row in table.slice(max(0, len(table) - limit)).to_pylist()]
            # Files of several replicas overlap: one more file than needed would not hold much that is newer.
            if len(mine) >= limit:
                break
        found += mine
    found.sort(key=lambda row: row["arrival_time"], reverse=True)
    return found[:limit]


def _backwards(folder: Path) -> list[Path]:
    """Return segments and sealed files, newest first, each record once."""
    segments = {path.stem: path for path in folder.glob(f"*{SEGMENT}")}
    sealed = [path for path in folder.glob(f"*{SEALED}") if path.stem not in segments]
    # Open segments first: what is sealed is older than what its replica writes now.
    return [
        *sorted(segments.values(), key=lambda path: path.name, reverse=True),
        *sorted(sealed, key=lambda path: path.name, reverse=True),
    ]


def _matching(table: pa.Table, request_id: str | None, resource_id: str | None) -> pa.Table:
    if resource_id is not None:
        table = table.filter(pc.equal(table["resource_id"], resource_id))
    if request_id is not None:
        own = pc.equal(table["request_id"], request_id)
        row = pc.cast(table["row"], pa.string())
        of_batch = pc.equal(table["request_id"], pc.binary_join_element_wise(request_id, row, "-"))
        table = table.filter(pc.or_(own, of_batch))
    return table


def inputs_of(frame: pd.DataFrame, width: int) -> list[np.ndarray]:
    """Return what the model saw, by record.

    Parameters
    ----------
    frame : DataFrame
        From `read`, with ``inputs`` and ``steps``.
    width : int
        Features of the version, see `versions`.

    Returns
    -------
    list of ndarray, (steps, width), float32
        Oldest row first, raw units, NaN is missing; no rows where inputs were not kept.

    Raises
    ------
    UsageError
        If the records are of a version with another number of features.
    """
    out = []
    for content in frame["inputs"]:
        values = np.frombuffer(content, dtype="<f4") if isinstance(content, bytes) else np.empty(0, dtype=np.float32)
        if width < 1 or len(values) % width:
            raise UsageError(
                f"{len(values)} values of a record are no rows of {width} features: read one version at a time"
            )
        out.append(values.reshape(-1, width))
    return out
