"""Journal and feedback as contract tables, to learn from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiops_core import files
from aiops_core.errors import UsageError
from aiops_core.journal.feedback import feedback
from aiops_core.journal.labels import labelled
from aiops_core.journal.reading import inputs_of, read, utc
from aiops_core.journal.usage import observed
from aiops_core.journal.versions import versions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["export_tables"]

#: Settings that a version knows, by section of ``dataset.toml``.
_SETTINGS = {"failure": ("window", "horizon"), "capacity": ("season", "horizon", "targets")}


def export_tables(
    folder: Path, out: Path, *, since: Any = None, until: Any = None, known_at: Any = None
) -> dict[str, int]:
    """Write what the journal and feedback hold as a folder of contract tables.

    ``telemetry`` are the windows of failure requests, one row a resource and step; ``incidents`` those that were reported;
    ``activity`` the rows of threat requests whose class is known; ``usage`` the histories of capacity requests. A table
    without rows is not written; neither is telemetry without incidents, from which nothing can be learned, left out.

    Parameters
    ----------
    folder : Path
        State folder.
    out : Path
        Folder to write; made if it is missing.
    since, until : datetime or str, optional
        Event time.
    known_at : datetime or str, optional
        Use feedback that was known before that time; by default all.

    Returns
    -------
    dict of str to int
        Rows by table.

    Raises
    ------
    UsageError
        If the journal holds nothing that could be written.
    """
    tables = {
        "telemetry": _series(folder, "failure", since, until),
        "incidents": _incidents(folder, since, until, known_at),
        "activity": _activity(folder, since, until, known_at),
        "usage": _series(folder, "capacity", since, until),
    }
    tables = {name: frame for name, frame in tables.items() if len(frame)}
    if not tables:
        raise UsageError(f"the journal of {folder} holds nothing yet that could be a table")
    with files.private_files():
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in tables.items():
            temporary = out / f".{name}.parquet"
            frame.to_parquet(temporary, index=False)
            os.replace(temporary, out / f"{name}.parquet")
        files.write_text(out / "dataset.toml", _config(folder, tables))
    return {name: len(frame) for name, frame in tables.items()}


def _series(folder: Path, task: str, since: Any, until: Any) -> pd.DataFrame:
    import pandas as pd

    columns = ["request_id", "row", "resource_id", "event_time", "arrival_time", "version", "inputs", "steps"]
    frame = read(folder, task, since=since, until=until, columns=columns).drop_duplicates(["request_id", "row"])
    # Version 0 are rules: they see a part of a snapshot, and the model's windows hold it whole.
    trained = {version: found for version, found in versions(folder, task).items() if version > 0}
    seen = observed(frame, trained)
    if not len(seen):
        return seen
    if since is not None:
        seen = seen[seen["second"] >= utc(since).timestamp()]
    stamps = pd.to_datetime(seen["second"], unit="s", utc=True)
    features = seen.drop(columns=["resource_id", "second", "arrival_time"]).dropna(axis=1, how="all")
    head = pd.DataFrame({"resource_id": seen["resource_id"].astype(str), "timestamp": stamps})
    return pd.concat([head, features], axis=1)


def _incidents(folder: Path, since: Any, until: Any, known_at: Any) -> pd.DataFrame:
    """Return incidents that are over, and windows of wrongly missed alarms are not among them: only what was reported."""
    said = feedback(folder, "failure", until=known_at)
    chosen = said[(said["kind"] == "incident") & said["end"].notna() & (said["end"] > said["start"])]
    if since is not None:
        chosen = chosen[chosen["end"] > utc(since)]
    if until is not None:
        chosen = chosen[chosen["start"] < utc(until)]
    table = chosen[["resource_id", "start", "end", "label"]].rename(columns={"label": "kind"})
    return table.dropna(axis=1, how="all").reset_index(drop=True)


def _activity(folder: Path, since: Any, until: Any, known_at: Any) -> pd.DataFrame:
    import pandas as pd

    frame = labelled(folder, "threat", since=since, until=until, known_at=known_at)
    frame = frame[frame["truth"].notna() & frame["inputs"].notna() & frame["steps"].gt(0)]
    found = versions(folder, "threat")
    parts = []
    for version, rows in frame.groupby("version"):
        known = found.get(int(str(version)))
        if known is None:
            continue
        names = [f["name"] for f in known["features"]]
        values = np.concatenate(inputs_of(rows, len(names)))
        table = pd.DataFrame(values, columns=names)
        for feature in known["features"]:
            if "categories" in feature:
                table[feature["name"]] = _category(table[feature["name"]], feature["categories"])
        when = rows["event_time"].fillna(rows["arrival_time"])
        head = {"timestamp": pd.Series(when.array), "threat_type": rows["truth"].to_numpy(dtype=object)}
        parts.append(pd.concat([pd.DataFrame(head), table], axis=1))
    return pd.concat(parts, ignore_index=True).dropna(axis=1, how="all") if parts else pd.DataFrame()


def _category(codes: pd.Series, categories: list[str]) -> pd.Series:
    """Return the names behind codes; missing and unknown ones are None."""
    import pandas as pd

    names = [*categories, None]
    places = codes.fillna(-1).astype(int).to_numpy()
    return pd.Series([names[place] if 0 <= place < len(categories) else None for place in places], dtype="object")


def _config(folder: Path, tables: dict[str, pd.DataFrame]) -> str:
    """Return ``dataset.toml``: the settings of the newest version of each task that has a table."""
    lines = ['title = "journal of the service"', 'licence = "own data"']
    for task, table in (("failure", "telemetry"), ("capacity", "usage")):
        found = versions(folder, task)
        newest = max((version for version in found if version > 0), default=None)
        if table not in tables or newest is None:
            continue
        lines += ["", f"[{task}]"]
        for name in _SETTINGS[task]:
            if name == "targets":
                targets = [t for t in found[newest].get("targets", ()) if t in tables[table]]
                lines += [f"target = [{', '.join(_quoted(t) for t in targets)}]"] if targets else []
            elif name in found[newest]:
                lines.append(f"{name} = {int(found[newest][name])}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
