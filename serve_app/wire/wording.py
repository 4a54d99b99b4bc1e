"""Rules in plain words: what a client reads instead of the decoder's type names."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["listed", "plain_rule", "span"]

#: Names that a message lists before it only counts the rest.
MAX_LISTED = 20

_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_EXPECTED = re.compile(r"^Expected `(?P<want>[^`]*)`(?P<limit>.*?)(?:, got `(?P<got>[^`]*)`)?$", re.DOTALL)
#: Rules of msgspec that name no type.
_OTHERS = {
    "Integer value out of range": "the number is too large",
    "Number out of range": "the number is too large",
}
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")
_MEMBERS = re.compile(r" of length <= (\d+)")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`$")


def _kinds(names: str) -> str:
    kinds = [part.strip() for part in names.split("|")]
    # Every number is a number; naming the whole ones beside the others says nothing.
    words = [_TYPES.get(kind, kind) for kind in kinds if not (kind == "int" and "float" in kinds)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def plain_rule(message: str) -> str:
    """Say a rule of msgspec in plain words; a message that is plain already comes back as it is.

    Parameters
    ----------
    message : str
        Of a `msgspec.ValidationError`, without its path.

    Examples
    --------
    >>> plain_rule("Expected `float | null`, got `str`")
    'a number or null is expected, not text'
    >>> plain_rule("Expected `float` <= 100.0")
    'a number <= 100 is expected'
    >>> plain_rule("Object missing required field `resource_id`")
    'resource_id is missing'
    """
    found = _EXPECTED.match(message)
    if found:
        limit = re.sub(r"(\d)\.0\b", r"\1", found["limit"])
        limit = _MEMBERS.sub(r" with at most \1 members", limit) if found["want"] == "object" else limit
        got = "" if found["got"] is None else f", not {_kinds(found['got'])}"
        return f"{_kinds(found['want'])}{limit} is expected{got}"
    found = _MISSING.match(message)
    if found:
        return f"{found['name']} is missing"
    found = _UNKNOWN.match(message)
    return f"unknown field {found['name'][:64]}" if found else _OTHERS.get(message, message)


def listed(names: Iterable[str], limit: int = MAX_LISTED) -> str:
    """Return names separated by commas; beyond ``limit`` only how many more there are.

    Examples
    --------
    >>> listed(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    every = [name[:64] for name in names]
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def span(seconds: float) -> str:
    """Return a length of time in its natural unit.

    Examples
    --------
    >>> span(300), span(3600), span(604800), span(12)
    ('5 min', '1 h', '7 days', '12 s')
    """
    if seconds >= 172_800:
        return f"{seconds / 86_400:g} days"
    if seconds >= 3600:
        return f"{seconds / 3600:g} h"
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
