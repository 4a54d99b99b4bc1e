"""Corrections of a version's answers that were learned from feedback, as tags: numbered, none is ever lost, one is in effect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiops_core.errors import TrackingError

__all__ = ["changed", "current", "history"]

#: Tag of a version: the number of the correction in effect, 0 for none; and of each correction, with its number.
IN_EFFECT, RECORD = "recalibration", "recalibration_{}"


def current(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the correction in effect; None without one.

    Tags that cannot be read are told as ``damaged``: they concern one version, and no other one may suffer from them.
    """
    text = tags.get(IN_EFFECT) or "0"
    if text == "0":
        return None
    known = history(tags)
    if not text.isdecimal() or int(text) > len(known):
        return {"number": -1, "damaged": f"tag '{IN_EFFECT}' is {text!r}, and there are {len(known)} corrections"}
    return known[int(text) - 1]


def history(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return every correction there was, oldest first."""
    found: list[dict[str, Any]] = []
    while (text := tags.get(RECORD.format(len(found) + 1))) is not None:
        try:
            found.append(dict(json.loads(text)))
        except (ValueError, TypeError) as error:
            name = RECORD.format(len(found) + 1)
            found.append({"number": len(found) + 1, "before": 0, "damaged": f"tag '{name}': {error}"})
    return found


def changed(tags: Mapping[str, str], record: Mapping[str, Any] | None, whose: str) -> dict[str, str]:
    """Return the tags that put a correction into effect, or without one take the newest back.

    Parameters
    ----------
    tags : mapping
        Of the version.
    record : mapping or None
    whose : str
        For the sentence.

    Raises
    ------
    TrackingError
        If there is nothing to take back.
    """
    now = current(tags)
    if record is None:
        if now is None:
            raise TrackingError(f"{whose} has no correction that could be taken back")
        return {IN_EFFECT: str(now.get("before", 0))}
    number = len(history(tags)) + 1
    content = {**record, "number": number, "before": now["number"] if now and "damaged" not in now else 0}
    # The record first: whoever reads in between finds the one before.
    return {RECORD.format(number): json.dumps(content), IN_EFFECT: str(number)}
