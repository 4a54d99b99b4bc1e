"""Alerts behind HTTP: which there are, and what nobody wants to hear of for a while."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aiops_core.journal.privacy import Privacy
from serve_app.alerts.store import Store
from serve_app.wire.problems import Problem, invalid
from serve_app.wire.requests import AlertsQuery, MuteRequest
from serve_app.wire.times import iso

__all__ = ["mute", "shown"]

_TIMES = ("opened", "last_alarm", "closed", "muted_until", "until")


def shown(state: Path, privacy: Privacy, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the alerts that a query asks for, and the mute windows.

    Raises
    ------
    Problem
        422 for a parameter that is unknown or out of range, 503 if they cannot be read.
    """
    try:
        asked = msgspec.convert(dict(query), AlertsQuery, strict=False)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at ")
        raise invalid(path.strip("`") or "$", rule) from None
    resource = privacy.text(asked.resource_id, "resource_id")
    wanted = None if asked.state == "all" else asked.state
    now, store = time.time(), Store(state)
    try:
        found = store.alerts(now, wanted, asked.task, resource, asked.limit)
        mutes = store.mutes(now)
    except (OSError, sqlite3.Error) as error:
        raise Problem(503, f"the alerts cannot be read: {error}") from error
    return {"alerts": [_timed(one) for one in found], "mutes": [_timed(one) for one in mutes]}


def _timed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: iso(value) if key in _TIMES and value is not None else value for key, value in content.items()
    }  # fmt: skip


def mute(state: Path, privacy: Privacy, request: MuteRequest) -> dict[str, Any]:
    """Keep quiet about something for a while, or no longer.

    Raises
    ------
    Problem
        422 if neither task nor resource is named, or no resources are kept, 503 if it cannot be written.
    """
    resource = privacy.text(request.resource_id, "resource_id")
    if request.resource_id is not None and resource is None:
        raise invalid("$.resource_id", "the journal keeps no names of resources (AIOPS_JOURNAL_DROP): name a task")
    if request.task is None and resource is None:
        raise invalid("$", "name a task, a resource_id or both: not everything is muted at once")
    now, store = time.time(), Store(state)
    try:
        store.mute(request.task, resource, now + 60 * request.minutes, request.reason, now)
        return {"mutes": [_timed(one) for one in store.mutes(now)]}
    except (OSError, sqlite3.Error) as error:
        retry = [(b"retry-after", b"5")]
        raise Problem(503, f"nothing was muted, the alerts cannot be written: {error}", headers=retry) from error
