"""Feedback as it is stated: what kinds there are, and what each must say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiops_core.errors import DataError
from aiops_core.facts import TASKS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIELDS", "KINDS", "VERDICTS", "digest_of", "statement", "subject_of"]

VERDICTS = ("confirmed", "false_alarm", "expected", "new_trend", "missed")
#: Kind to (fields that it needs, fields that it may have). ``covered`` says until when the incidents of a resource, or
#: of all, have been reported.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "verdict": (("request_id", "verdict"), ("row", "label", "task", "target")),
    "class": (("request_id", "label"), ("row",)),
    "incident": (("resource_id", "start"), ("end", "label")),
    "usage": (("resource_id", "timestamp", "target", "value"), ()),
    "covered": (("end",), ("resource_id",)),
}
#: Columns of the store, beside kind, who and at.
FIELDS = (
    "request_id", "row", "resource_id", "start", "end", "timestamp", "verdict", "label", "target", "value", "task",
)  # fmt: skip
_TIMES = ("start", "end", "timestamp")
#: What a statement is about: a later one about the same replaces it.
_SUBJECT = {
    "verdict": ("request_id", "row"),
    "class": ("request_id", "row"),
    "incident": ("resource_id", "start"),
    "usage": ("resource_id", "target", "timestamp"),
    "covered": ("resource_id",),
}
_ALWAYS = ("kind", "id", "withdrawn")
_MOST_TEXT = 512


def statement(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked statement: every one of `FIELDS`, ``kind``, ``id``, ``withdrawn``; what was not given is None.

    Parameters
    ----------
    given : mapping
        Without ``kind`` it is told from what is there: ``verdict``, a ``start``, a ``value``, a ``label``.

    Raises
    ------
    DataError
        In one sentence, what is missing or wrong; ``column`` names the field.
    """
    entry = {name: value for name, value in given.items() if not _absent(value)}
    kind = entry.get("kind") or _kind_of(entry)
    if kind not in KINDS:
        raise DataError(f"is {kind!r}, not one of {', '.join(KINDS)}", column="kind")
    needed, possible = KINDS[kind]
    withdrawn = bool(entry.get("withdrawn", False))
    if withdrawn:
        # What is taken back need not be said again.
        needed, possible = _SUBJECT[kind], (*needed, *possible)
        needed = tuple(name for name in needed if name not in ("row", *(("resource_id",) if kind == "covered" else ())))
    for name in needed:
        if name not in entry:
            raise DataError(f"is missing, which feedback of kind '{kind}' needs", column=name)
    for name in entry:
        if name not in (*needed, *possible, *_ALWAYS):
            raise DataError(f"does not belong to feedback of kind '{kind}'", column=name)
    _check(entry)
    return {**dict.fromkeys(FIELDS), **entry, "kind": kind, "id": entry.get("id"), "withdrawn": withdrawn}


def _kind_of(entry: Mapping[str, Any]) -> str:
    for field, kind in (("verdict", "verdict"), ("start", "incident"), ("value", "usage"), ("label", "class")):
        if field in entry:
            return kind
    raise DataError(f"is missing; it is one of {', '.join(KINDS)}", column="kind")


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _check(entry: dict[str, Any]) -> None:
    """Check the values of a statement, and bring them into their form."""
    for name in ("request_id", "resource_id", "label", "target", "id"):
        if name in entry:
            entry[name] = str(entry[name])
            if len(entry[name]) > _MOST_TEXT:
                raise DataError(f"is longer than {_MOST_TEXT} characters", column=name)
    for name in _TIMES:
        if name in entry:
            entry[name] = _micro(entry[name], name)
    if "row" in entry:
        row = entry["row"]
        if isinstance(row, bool) or row != int(row) or row < 0:
            raise DataError(f"is {row!r}, not the place of a row in a batch, counted from 0", column="row")
        entry["row"] = int(row)
    if "value" in entry:
        try:
            entry["value"] = float(entry["value"])
        except (TypeError, ValueError):
            raise DataError(f"is {entry['value']!r}, not a number", column="value") from None
        if not math.isfinite(entry["value"]):
            raise DataError("is not finite", column="value")
    if entry.get("verdict", VERDICTS[0]) not in VERDICTS:
        raise DataError(f"is {entry['verdict']!r}, not one of {', '.join(VERDICTS)}", column="verdict")
    if entry.get("task", TASKS[0]) not in TASKS:
        raise DataError(f"is {entry['task']!r}, not one of {', '.join(TASKS)}", column="task")
    if "start" in entry and "end" in entry and entry["end"] < entry["start"]:
        raise DataError("lies before start", column="end")


def _micro(value: Any, name: str) -> int:
    """Return a time as microseconds since 1970; numbers are seconds."""
    import pandas as pd

    try:
        stamp: pd.Timestamp = (
            pd.Timestamp(value, unit="s", tz="UTC")
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            else pd.Timestamp(value)
        )
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"{str(value)[:64]!r} is not a time such as 2026-01-31T12:00:00Z", column=name) from None
    if pd.isna(stamp) or stamp.tzinfo is None:
        raise DataError(
            f"{str(value)[:64]!r} has no time zone, which is not guessed: write it like 2026-01-31T12:00:00Z",
            column=name,
        )
    return int(stamp.tz_convert("UTC").timestamp() * 1_000_000)


def subject_of(entry: Mapping[str, Any]) -> str:
    """Return what names the thing that a statement is about."""
    return json.dumps([entry["kind"], *(entry[name] for name in _SUBJECT[entry["kind"]])])


def digest_of(entry: Mapping[str, Any]) -> str:
    """Return the hash of all that a statement says."""
    said = {name: entry[name] for name in (*FIELDS, "kind", "withdrawn")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
