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
    """Return the correction in effect; None without one."""
    number = int(tags.get(IN_EFFECT) or 0)
    return history(tags)[number - 1] if number else None


def history(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return every correction there was, oldest first."""
    found: list[dict[str, Any]] = []
    while (text := tags.get(RECORD.format(len(found) + 1))) is not None:
        found.append(json.loads(text))
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
    known = history(tags)
    if record is None:
        now = current(tags)
        if now is None:
            raise TrackingError(f"{whose} has no correction that could be taken back")
        return {IN_EFFECT: str(now["before"])}
    before = current(tags)
    number = len(known) + 1
    content = {**record, "number": number, "before": before["number"] if before else 0}
    # The record first: whoever reads in between finds the one before.
    return {RECORD.format(number): json.dumps(content), IN_EFFECT: str(number)}
