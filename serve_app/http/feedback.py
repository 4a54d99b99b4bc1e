"""Feedback and the journal behind HTTP: what was answered, and what turned out true."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aiops_core.errors import DataError, UsageError
from aiops_core.facts import TASKS
from aiops_core.journal.feedback import Conflict, add_feedback
from aiops_core.journal.privacy import Privacy
from aiops_core.journal.reading import newest
from aiops_core.journal.statements import statement
from serve_app.wire.problems import Problem, invalid
from serve_app.wire.requests import FeedbackRequest, JournalQuery

__all__ = ["recent", "take"]

#: Broken entries that one answer lists.
_MOST_ERRORS = 100


def take(state: Path, privacy: Privacy, request: FeedbackRequest, who: str | None) -> dict[str, int]:
    """Take in the feedback of a request, all or nothing of it; see `add_feedback`.

    Raises
    ------
    Problem
        422 with path and rule of everything that is wrong, 409 for an id that names another statement, 503 if the store
        cannot be written.
    """
    entries = _entries(request)
    errors: list[dict[str, str]] = []
    for path, entry in entries.items():
        try:
            statement(entry)
        except DataError as error:
            where = f"{path}.{error.column}"
            errors.append({"path": where, "rule": str(error).removeprefix(f"column '{error.column}': ")})
    if errors:
        first = errors[0]
        raise Problem(422, f"{first['path']}: {first['rule']}", errors[:_MOST_ERRORS])
    try:
        return add_feedback(state, list(entries.values()), who=who, privacy=privacy)
    except Conflict as error:
        raise Problem(409, str(error)) from None
    except UsageError as error:
        raise invalid("$", str(error)) from None
    except (OSError, sqlite3.Error) as error:
        retry = [(b"retry-after", b"5")]
        raise Problem(
            503, f"nothing was kept, the store of feedback cannot be written: {error}", headers=retry
        ) from error


def _entries(request: FeedbackRequest) -> dict[str, dict[str, Any]]:
    """Return what a request states, by path."""
    own = _given(request)
    many = own.pop("feedback", None)
    if many is None:
        return {"$": own}
    if own:
        raise invalid("$", f"{', '.join(own)} cannot stand beside feedback: every entry says it itself")
    return {f"$.feedback[{i}]": _given(entry) for i, entry in enumerate(many)}


def _given(entry: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(entry).items() if value not in (None, False)}


def recent(state: Path, privacy: Privacy, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the newest records that a query asks for.

    Raises
    ------
    Problem
        422 for a parameter that is unknown or out of range, 503 if the journal cannot be read.
    """
    try:
        asked = msgspec.convert(dict(query), JournalQuery, strict=False)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at ")
        raise invalid(path.strip("`") or "$", rule) from None
    name = privacy.text(asked.resource_id, "resource_id")
    if asked.resource_id is not None and name is None:
        return {"records": []}
    tasks = TASKS if asked.task is None else (asked.task,)
    try:
        found = newest(state, tasks, asked.limit, request_id=asked.request_id, resource_id=name)
    except OSError as error:
        raise Problem(503, f"the journal cannot be read: {error}") from error
    return {"records": found}
