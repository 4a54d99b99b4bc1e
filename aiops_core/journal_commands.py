"""The commands ``aiops journal`` and ``aiops feedback``."""

from __future__ import annotations

import csv
import getpass
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiops_core import settings
from aiops_core.errors import UsageError
from aiops_core.facts import TASKS

if TYPE_CHECKING:
    import pandas as pd

    from aiops_core.journal import Privacy

__all__ = ["feedback_app", "journal_app"]

journal_app = typer.Typer(help="What the service answered: show, export.", no_args_is_help=True)
feedback_app = typer.Typer(help="What turned out true.", no_args_is_help=True)

Since = Annotated[str | None, typer.Option(help="first event time, such as 2026-01-01T00:00Z")]
Until = Annotated[str | None, typer.Option(help="event time that comes too late")]


@feedback_app.command("import")
def feedback_import(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet, a statement a row")],
    kind: Annotated[
        str | None,
        typer.Option(help="of every row: verdict, incident, class, usage, covered; told from the columns by default"),
    ] = None,
    covered_until: Annotated[
        str | None, typer.Option(help="the file holds all incidents until then: no news is good news")
    ] = None,
) -> None:
    """Take in feedback from a file, such as the incidents table; what is known already changes nothing."""
    from aiops_core import journal

    if kind is not None and kind not in journal.KINDS:
        raise UsageError(f"--kind '{kind}' is not one of {', '.join(journal.KINDS)}")
    entries = [_entry(row, kind) for row in _rows(source)]
    if covered_until is not None:
        entries.append({"kind": "covered", "end": covered_until})
    current = settings.load()
    counts = journal.add_feedback(current.state_dir, entries, who=f"{_user()} (shell)", privacy=_privacy(current))
    typer.echo(", ".join(f"{number} {word}" for word, number in counts.items()))


@journal_app.command("export")
def journal_export(
    folder: Annotated[Path, typer.Argument(help="folder that gets the tables")],
    form: Annotated[str, typer.Option("--as", help="tables: contract tables to learn from")] = "tables",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write journal and feedback as contract tables."""
    from aiops_core import journal

    if form != "tables":
        raise UsageError(f"--as '{form}' is not known; known: tables")
    rows = journal.export_tables(settings.load().state_dir, folder, since=since, until=until)
    typer.echo(f"{', '.join(f'{name}: {number} rows' for name, number in rows.items())} written to {folder}")


@journal_app.command("show")
def journal_show(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="of an answer, or of a whole batch")],
) -> None:
    """Print what was answered, what the model saw, and what was said of it since, a line of JSON for each record."""
    from aiops_core.journal.reading import newest

    state = settings.load().state_dir
    found = newest(state, TASKS, 10_000, request_id=request_id, inputs=True)
    if not found:
        raise UsageError(f"the journal of {state} holds no answer '{request_id}'")
    for record in sorted(found, key=lambda record: (record["task"], record["row"])):
        typer.echo(json.dumps(_shown(state, record), default=str))


def _shown(state: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its inputs by name, and the feedback on it."""
    import numpy as np

    from aiops_core import journal

    version = journal.versions(state, record["task"]).get(record["version"])
    content = record.pop("inputs")
    if version is not None and record["steps"]:
        names = [feature["name"] for feature in version["features"]]
        values = np.frombuffer(content, dtype="<f4").reshape(-1, len(names))
        record["inputs"] = {
            name: [None if value != value else value for value in column]
            for name, column in zip(names, values.T.tolist(), strict=True)
        }
    said = journal.feedback(state, record["task"])
    batch = record["request_id"].removesuffix(f"-{record['row']}")
    about = said[
        (said["request_id"] == record["request_id"]) | ((said["request_id"] == batch) & (said["row"] == record["row"]))
    ]
    record["feedback"] = [_present(row) for row in about.to_dict("records")]
    return record


def _present(row: dict[Any, Any]) -> dict[Any, Any]:
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}


def _rows(source: Path) -> list[dict[str, Any]]:
    if source.suffix == ".parquet":
        import pandas as pd

        try:
            frame: pd.DataFrame = pd.read_parquet(source)
        except (OSError, ValueError) as error:
            raise UsageError(f"{source} cannot be read: {error}") from error
        return [{str(name): value for name, value in row.items()} for row in map(_present, frame.to_dict("records"))]
    with open(source, encoding="utf-8-sig", newline="") as file:
        try:
            return [{name: value for name, value in row.items() if name is not None} for row in csv.DictReader(file)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{source} is not CSV in UTF-8: {error}") from error


def _entry(row: dict[str, Any], kind: str | None) -> dict[str, Any]:
    """Return a row as a statement; the incidents table calls the kind of an incident ``kind``."""
    from aiops_core.journal import KINDS

    if row.get("kind") not in KINDS:
        named = row.pop("kind", None)
        if named and "start" in row:
            row["label"] = row.get("label") or named
    return row if kind is None else {**row, "kind": kind}


def _privacy(current: settings.Settings) -> Privacy:
    from aiops_core.journal import Privacy

    return Privacy(current.state_dir, current.journal_drop, current.journal_hash)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers run as users without a name.
        return f"user {os.getuid()}"
