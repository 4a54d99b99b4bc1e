"""Where a decoded body breaks a schema: every place with its path and rule, in time linear in the body.

msgspec stops at the first error and writes ``[...]`` for a key it does not name. Only a body already refused comes
here, and is compared with the type once more, part by part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from serve_app.wire.problems import Problem
from serve_app.wire.wording import listed, plain_rule

__all__ = ["NAME", "branches_of", "split_message", "violations"]

#: Errors named in one answer.
LIMIT = 100
#: Sentences of its summary.
SENTENCES = 5
#: Longest name from a body that is repeated to its sender.
NAME = 64
#: Items compared together; one by one only where a bad one is among them.
_TOGETHER = 256
_AT = re.compile(r"^(?P<rule>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)


class _Found:
    """Errors and the sentences that sum them up."""

    def __init__(self) -> None:
        self.errors: list[dict[str, str]] = []
        self.sentences: list[str] = []

    @property
    def full(self) -> bool:
        return len(self.errors) >= LIMIT

    def add(self, path: str, rule: str) -> None:
        self.errors.append({"path": path, "rule": rule})
        self.sentences.append(f"{path}: {rule}")

    def unknown(self, path: str, names: Sequence[str], known: Iterable[str]) -> None:
        choices = f"known are {listed(list(known))}"
        room = LIMIT - len(self.errors)
        self.errors += [{"path": f"{path}.{n[:NAME]}", "rule": f"unknown field; {choices}"} for n in names[:room]]
        what = "unknown field" if len(names) == 1 else "unknown fields"
        self.sentences.append(f"{path}: {what} {listed([repr(n[:NAME]) for n in names])}; {choices}")


def violations(kind: Any, content: Any, message: str, path: str = "$") -> Problem:
    """Return the 422 that names every place where a body breaks its type, up to `LIMIT`.

    Parameters
    ----------
    kind : type
        What the body should be.
    content : Any
        The body as plain Python values; None where it cannot be had as such.
    message : str
        What msgspec said about the body. It is used where the plain values show nothing: of a key given twice, they
        keep the last value only.
    path : str, default "$"
        Where the body stands in a larger one.
    """
    found = _Found()
    if content is not None:
        _visit(kind, content, path, found)
    if not found.errors:
        place, rule = split_message(message)
        found.add(path + place.removeprefix("$"), rule)
    detail = "; ".join(found.sentences[:SENTENCES])
    if len(found.sentences) > SENTENCES:
        detail += "; and more, see errors"
    return Problem(422, detail, found.errors)


def split_message(message: str) -> tuple[str, str]:
    """Return place and rule of what msgspec said."""
    match = _AT.match(message)
    place = (match and match["path"]) or "$"
    return place, plain_rule(match["rule"] if match else message)


def _visit(kind: Any, value: Any, path: str, found: _Found) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
    else:
        return
    before = len(found.errors)
    branches = branches_of(kind)
    if isinstance(value, dict):
        # A union has one branch at most for each kind of JSON.
        for branch in branches:
            if get_origin(branch) is dict:
                _each(get_args(branch)[1], [(f"{path}.{k[:NAME]}", v) for k, v in value.items()], found)
            elif isinstance(branch, type) and issubclass(branch, msgspec.Struct):
                _fields(branch, value, path, found)
    elif isinstance(value, list):
        for branch in branches:
            if get_origin(branch) is list:
                _each(get_args(branch)[0], [(f"{path}[{i}]", v) for i, v in enumerate(value)], found)
    if len(found.errors) == before and not found.full:
        found.add(path, _rule(message, value, branches))


def _fields(kind: type[msgspec.Struct], value: dict[str, Any], path: str, found: _Found) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    unknown = [name for name in value if name not in fields] if kind.__struct_config__.forbid_unknown_fields else []
    if unknown:
        found.unknown(path, unknown, fields)
    for name, field in fields.items():
        if found.full:
            return
        if name in value:
            _visit(_readable(field.type), value[name], f"{path}.{name}", found)
        elif field.required:
            found.add(f"{path}.{name}", "is required")


def _readable(kind: Any) -> Any:
    """Return a type with JSON that is read later taken as anything."""
    origin = get_origin(kind)
    if kind is msgspec.Raw:
        return Any
    if origin is Annotated:
        return Annotated[(_readable(get_args(kind)[0]), *kind.__metadata__)]
    return list[_readable(get_args(kind)[0])] if origin is list else kind  # type: ignore[misc]


def _each(kind: Any, items: list[tuple[str, Any]], found: _Found) -> None:
    for start in range(0, len(items), _TOGETHER):
        part = items[start : start + _TOGETHER]
        try:
            msgspec.convert([value for _, value in part], list[kind])
        except msgspec.ValidationError:
            for path, value in part:
                if found.full:
                    return
                _visit(kind, value, path, found)


def branches_of(kind: Any) -> list[Any]:
    """Return the types of a union, without their constraints; a type that is none, alone."""
    origin = get_origin(kind)
    if origin is Annotated:
        return branches_of(get_args(kind)[0])
    if origin in (Union, UnionType):
        return [part for branch in get_args(kind) for part in branches_of(branch)]
    return [kind]


def _rule(message: str, value: Any, branches: Sequence[Any]) -> str:
    choices = [str(choice) for branch in branches if get_origin(branch) is Literal for choice in get_args(branch)]
    if choices and isinstance(value, str):
        return f"{value[:NAME]!r} is not one of {listed(choices)}"
    return split_message(message)[1]
