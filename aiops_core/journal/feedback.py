"""The store of feedback: what turned out true, said once or several times, early or late, and corrected."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiops_core import files
from aiops_core.errors import DataError, UsageError
from aiops_core.journal.privacy import Privacy
from aiops_core.journal.reading import utc
from aiops_core.journal.statements import FIELDS, KINDS, VERDICTS, digest_of, statement, subject_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FILE", "KINDS", "VERDICTS", "add_feedback", "feedback"]

FILE = "feedback.sqlite"
WAIT_SECONDS = 10.0
_COLUMNS = ("kind", *FIELDS, "who", "at")
#: Kinds that say something of a task; a verdict may name its task.
_OF_TASK = {
    "failure": ("verdict", "incident", "covered"),
    "threat": ("verdict", "class"),
    "capacity": ("verdict", "usage"),
}
_SCHEMA = (
    "create table if not exists statements (number integer primary key, subject text not null, digest text not null, "
    "id text unique, withdrawn integer not null, " + ", ".join(f'"{name}"' for name in _COLUMNS) + ")",
    "create index if not exists by_subject on statements (subject, number)",
)


@contextmanager
def _store(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the store for one transaction, and make it if there is none."""
    path = files.private_folder(folder) / FILE
    if not path.exists():
        # SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        connection.execute("pragma journal_mode=wal")
        connection.execute("begin immediate")
        for sentence in _SCHEMA:
            connection.execute(sentence)
        yield connection
        if connection.in_transaction:
            connection.execute("commit")
    finally:
        connection.close()


def add_feedback(
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    *,
    who: str | None = None,
    at: Any = None,
    privacy: Privacy | None = None,
) -> dict[str, int]:
    """Take in feedback, all of it or, where something is wrong with one entry, nothing.

    Parameters
    ----------
    folder : Path
        State folder.
    entries : sequence of mappings
        See `statements.KINDS` for the fields; times with a zone, or seconds since 1970. ``id`` names a statement: sent
        again it changes nothing. Without one, what is already known so changes nothing. Otherwise the newest statement
        about the same thing counts, earlier ones are kept as history; ``withdrawn`` takes it back.
    who : str, optional
        Who says so.
    at : datetime or str, optional
        When it became known; now, by default.
    privacy : Privacy, optional
        What the journal conceals, feedback conceals too.

    Returns
    -------
    dict of str to int
        ``new``, ``changed`` and ``unchanged``; they add up to the entries.

    Raises
    ------
    DataError
        Every entry that breaks a rule, by its place: ``feedback[3]``.
    UsageError
        If resources are named although the journal keeps none, or an ``id`` names another statement already.
    """
    faults: list[DataError] = []
    checked = []
    for i, entry in enumerate(entries):
        try:
            checked.append(statement(entry))
        except DataError as error:
            faults.append(DataError(f"feedback[{i}]: {error}"))
    if faults:
        raise DataError.all_of(faults)
    known = int((time.time() if at is None else utc(at).timestamp()) * 1_000_000)
    counts = {"new": 0, "changed": 0, "unchanged": 0}
    with _store(folder) as store:
        for i, entry in enumerate(checked):
            entry["resource_id"] = _concealed(privacy, entry["resource_id"], i)
            counts[_put(store, entry, who, known, i)] += 1
    return counts


def _concealed(privacy: Privacy | None, resource_id: str | None, place: int) -> str | None:
    if privacy is None or resource_id is None:
        return resource_id
    kept = privacy.text("resource_id", resource_id)
    if kept is None:
        raise UsageError(
            f"feedback[{place}]: the journal keeps no names of resources (AIOPS_JOURNAL_DROP): say it by request_id"
        )
    return kept


def _put(store: sqlite3.Connection, entry: dict[str, Any], who: str | None, at: int, place: int) -> str:
    subject, digest = subject_of(entry), digest_of(entry)
    if entry["id"] is not None:
        before = store.execute("select digest from statements where id=?", (entry["id"],)).fetchone()
        if before is not None and before[0] != digest:
            raise UsageError(f"feedback[{place}]: id {entry['id']!r} already names another statement: send a new id")
        if before is not None:
            return "unchanged"
    current = store.execute(
        "select digest from statements where subject=? order by number desc limit 1", (subject,)
    ).fetchone()
    if entry["id"] is None and current is not None and current[0] == digest:
        return "unchanged"
    values = {**{name: entry[name] for name in FIELDS}, "kind": entry["kind"], "who": who, "at": at}
    row = [subject, digest, entry["id"], entry["withdrawn"], *(values[name] for name in _COLUMNS)]
    marks = ", ".join("?" * len(row))
    names = ", ".join(f'"{name}"' for name in ("subject", "digest", "id", "withdrawn", *_COLUMNS))
    store.execute(f"insert into statements ({names}) values ({marks})", row)
    return "new" if current is None else "changed"


def feedback(folder: Path, task: str | None = None, *, until: Any = None) -> pd.DataFrame:
    """Return what is held true: of every thing the newest statement that was not withdrawn.

    Parameters
    ----------
    folder : Path
        State folder.
    task : str, optional
        Only what says something of this task.
    until : datetime or str, optional
        As it was known at that time, which it excludes.

    Returns
    -------
    DataFrame
        ``kind`` (verdict, incident, class, usage, covered), ``request_id, row, resource_id, start, end, timestamp,
        verdict, label, target, value, task, who`` and ``at``, when it became known; times are UTC.
    """
    import pandas as pd

    names = ", ".join(f's."{name}"' for name in _COLUMNS)
    before = None if until is None else int(utc(until).timestamp() * 1_000_000)
    rows: list[Any] = []
    if (folder / FILE).is_file():
        with _store(folder) as store:
            rows = store.execute(
                f"select {names} from statements s join (select max(number) as number from statements "
                "where ? is null or at < ? group by subject) newest using (number) where not s.withdrawn order by number",
                (before, before),
            ).fetchall()
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"value": "float64"})
    for name in ("start", "end", "timestamp", "at"):
        frame[name] = pd.to_datetime(frame[name].astype("Int64"), unit="us", utc=True).astype("datetime64[us, UTC]")
    if task is not None:
        if task not in _OF_TASK:
            raise UsageError(f"unknown task '{task}'; known: {', '.join(_OF_TASK)}")
        frame = frame[frame["kind"].isin(_OF_TASK[task]) & (frame["task"].isna() | (frame["task"] == task))]
    return frame.reset_index(drop=True)
