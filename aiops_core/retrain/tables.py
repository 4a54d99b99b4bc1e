"""What is learned from: the original source and, beside it, journal and feedback as contract tables."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aiops_core import journal
from aiops_core.data import folder, sources
from aiops_core.data.periods import within
from aiops_core.data.tables import TASK_TABLES, Dataset, feature_columns, step_of
from aiops_core.data.validation import validate_all
from aiops_core.errors import UsageError

__all__ = ["Joined", "join", "joined_source"]

#: What names a row of a table; of two rows with the same name the original one stays.
KEYS = {
    "telemetry": ["resource_id", "timestamp"],
    "usage": ["resource_id", "timestamp"],
    "incidents": ["resource_id", "start"],
}
#: A column that the journal cannot know: with it only the original rows would test.
SPLIT = "split"


@dataclass(frozen=True)
class Joined:
    """A data set from two sources.

    Attributes
    ----------
    dataset : Dataset
    rows : dict of str to dict
        By table: rows of the ``original`` source, rows that the ``journal`` added, and rows that were ``masked``.
    """

    dataset: Dataset
    rows: dict[str, dict[str, int]]


def joined_source(
    state: Path, task: str, source: str, *, since: Any = None, n_samples: int | None = None, seed: int = 7
) -> Joined:
    """Load the original source and put the journal of a state folder beside it.

    Parameters
    ----------
    state : Path
        State folder with journal and feedback.
    task : str
    source : str
        As of ``aiops report``.
    since : datetime or str, optional
        Event time from which the journal is taken.
    n_samples, seed : int
        Of synthetic data.

    Raises
    ------
    UsageError
        If the source is unknown, or the journal holds nothing for the task.
    DataError
        If a table breaks its contract.
    """
    original = sources.load(source, n_samples=n_samples, seed=seed, tasks=[task])
    original.require(task)
    with tempfile.TemporaryDirectory(prefix="aiops-") as scratch:
        found = journal.export_tables(state, Path(scratch) / "tables", since=since)
        wanted = [table for table in TASK_TABLES[task] if table in found]
        if not [table for table in wanted if table != "incidents"]:
            raise UsageError(
                f"the journal holds nothing that the {task} model could learn from"
                + (": no answer whose class is known yet" if task == "threat" else "")
            )
        tables = folder.load_folder(Path(scratch) / "tables").tables
    periods = {"incidents": _incidents(state, original), "expected": _expected(state, task, original)}
    return join(original, {table: tables[table] for table in wanted}, task, periods)


def join(
    original: Dataset, added: Mapping[str, pd.DataFrame], task: str, periods: Mapping[str, pd.DataFrame] | None = None
) -> Joined:
    """Put tables of the journal under those of the original source; resources of the same name continue.

    Columns are those of the original tables: what the model did not use is missing in the rows of the journal. An official
    ``split`` is dropped, since the newest rows are to test. In usage what lies within an incident or was ``expected``
    is masked, in telemetry what was ``expected``: a forecast, and what counts as usual, must not learn from it.

    Parameters
    ----------
    original : Dataset
    added : mapping of str to DataFrame
    task : str
    periods : mapping of str to DataFrame, optional
        ``incidents`` and ``expected``, each with ``resource_id, start, end``.

    Returns
    -------
    Joined
    """
    tables: dict[str, pd.DataFrame] = {}
    rows: dict[str, dict[str, int]] = {}
    for name in TASK_TABLES[task]:
        own = original.tables[name]
        both = _joined(name, own, added[name]) if name in added else own
        tables[name] = both.drop(columns=SPLIT, errors="ignore") if name in added else own
        rows[name] = {"original": len(own), "journal": len(both) - len(own), "masked": 0}
    table = TASK_TABLES[task][0]
    if table in ("usage", "telemetry"):
        kinds = ("incidents", "expected") if table == "usage" else ("expected",)
        masked = np.zeros(len(tables[table]), dtype=bool)
        for kind in kinds:
            if periods is not None and len(periods[kind]):
                masked |= within(tables[table], periods[kind])
        columns = feature_columns(table, tables[table])
        tables[table] = tables[table].astype(dict.fromkeys(columns, "float64"))
        tables[table].loc[masked, columns] = np.nan
        rows[table]["masked"] = int(masked.sum())
    checked, notes = validate_all(tables)
    title = f"{original.title}, and the journal"
    return Joined(Dataset(original.name, title, original.licence, checked, original.config, {}, notes), rows)


def _joined(name: str, own: pd.DataFrame, added: pd.DataFrame) -> pd.DataFrame:
    fresh = added.reindex(columns=own.columns)
    if name == "activity" and "group" in own:
        # A campaign is not known: a day of traffic stands for one.
        fresh["group"] = "journal " + added["timestamp"].dt.strftime("%Y-%m-%d")
    if name == "incidents" and fresh["end"].isna().any():
        fresh["end"] = fresh["end"].fillna(fresh["start"] + pd.Timedelta(hours=1))
    fresh = fresh.dropna(axis=1, how="all")
    both = pd.concat([own, fresh], ignore_index=True)
    if name not in KEYS:
        return both
    both = both.drop_duplicates(KEYS[name], keep="first")
    return both.sort_values(KEYS[name], kind="stable").reset_index(drop=True)


def _incidents(state: Path, original: Dataset) -> pd.DataFrame:
    """Return the incidents of both sources, one without an end an hour long."""
    said = journal.feedback(state)
    parts = [said[said["kind"] == "incident"][["resource_id", "start", "end"]]]
    if "incidents" in original.tables:
        parts.append(original.tables["incidents"][["resource_id", "start", "end"]])
    both = pd.concat([part.astype({"resource_id": object}) for part in parts], ignore_index=True)
    both["end"] = both["end"].fillna(both["start"] + pd.Timedelta(hours=1))
    return both


def _expected(state: Path, task: str, original: Dataset) -> pd.DataFrame:
    """Return the steps at which an alarm was answered by "that was to be expected"."""
    said = journal.feedback(state)
    said = said[(said["kind"] == "verdict") & (said["verdict"] == "expected")]
    empty = pd.DataFrame({"resource_id": [], "start": [], "end": []})
    if task == "threat" or not len(said):
        return empty
    frame = journal.read(state, task, columns=["request_id", "row", "resource_id", "event_time"])
    frame = frame[frame["request_id"].isin(said["request_id"]) & frame["event_time"].notna()]
    step = pd.Timedelta(seconds=step_of(original.tables[TASK_TABLES[task][0]]))
    start = frame["event_time"].dt.floor(step)
    return pd.DataFrame({"resource_id": frame["resource_id"], "start": start, "end": start + step}).drop_duplicates()
