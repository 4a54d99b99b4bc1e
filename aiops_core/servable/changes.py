"""What changes for those who ask, when one servable takes the place of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["changes"]

#: What requests and answers are measured in.
_NUMBERS = ("window", "horizon", "step_seconds")


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare two cards of a task by what requests may hold and answers may say.

    Parameters
    ----------
    before, after : mapping
        Cards of the servable in service and of its successor.

    Returns
    -------
    list of dict
        One for each difference: ``of`` ("feature", "class", "target", "window", "horizon" or "step_seconds"), ``name``
        (None for numbers), ``change`` ("added", "removed", "retyped" or "changed"), ``before`` and ``after``. Empty
        if clients will notice nothing but other predictions.

    Examples
    --------
    >>> changes({"features": [{"name": "cpu"}], "window": 24}, {"features": [], "window": 24})
    [{'of': 'feature', 'name': 'cpu', 'change': 'removed', 'before': 'number', 'after': None}]
    """
    found = []
    for of, read in (("feature", _features), ("class", _classes), ("target", _targets)):
        old, new = read(before), read(after)
        for name in [*old, *(n for n in new if n not in old)]:
            change = "added" if name not in old else "removed" if name not in new else "retyped"
            if change != "retyped" or old[name] != new[name]:
                found.append(_change(of, name, change, old.get(name), new.get(name)))
    for of in _NUMBERS:
        if before.get(of) != after.get(of):
            found.append(_change(of, None, "changed", before.get(of), after.get(of)))
    return found


def _change(of: str, name: str | None, change: str, before: Any, after: Any) -> dict[str, Any]:
    return {"of": of, "name": name, "change": change, "before": before, "after": after}


def _features(card: Mapping[str, Any]) -> dict[str, str]:
    return {str(f["name"]): str(f.get("dtype", "number")) for f in card.get("features") or []}


def _classes(card: Mapping[str, Any]) -> dict[str, str]:
    return dict.fromkeys(map(str, card.get("classes") or []), "class")


def _targets(card: Mapping[str, Any]) -> dict[str, str]:
    return dict.fromkeys(map(str, card.get("targets") or []), "target")
