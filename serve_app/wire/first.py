"""Where a large body breaks a schema first, without building it up as Python values.

`serve_app.wire.violations` names every place, which takes longer than reading the body did. Of a large body only the place
where the decoder stopped is named: it says all but the keys of objects with free names, which are looked up part by part.
"""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

import msgspec

from serve_app.wire.problems import Problem, invalid
from serve_app.wire.violations import NAME, branches_of, split_message

__all__ = ["first_violation"]

#: What msgspec writes for a key that it does not name.
_ANY_KEY = "[...]"
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def first_violation(kind: Any, body: bytes, message: str, path: str) -> Problem:
    """Return the 422 for the place where the decoder stopped.

    Parameters
    ----------
    kind : type
        What the body should be.
    body : bytes
        JSON, whole.
    message : str
        What msgspec said about it.
    path : str
        Where the body stands in a larger one.
    """
    place, rule = split_message(message)
    if _ANY_KEY in place:
        place = _named(kind, body, place)
    return invalid(path + place.removeprefix("$"), rule)


def _named(kind: Any, raw: bytes, place: str) -> str:
    """Return a place with the keys that msgspec left out, as far as they can be found."""
    named = "$"
    for step in _STEP.finditer(place):
        try:
            if step["field"]:
                raw, kind = bytes(_OBJECT.decode(raw)[step["field"]]), _field(kind, step["field"])
                named += step[0]
            elif step["index"]:
                raw, kind = bytes(_LIST.decode(raw)[int(step["index"])]), _inner(kind, list)
                named += step[0]
            else:
                kind = _inner(kind, dict)
                key, raw = _bad_item(kind, raw)
                named += f".{key[:NAME]}"
        except (LookupError, msgspec.MsgspecError):
            # A name with dots in it, or a key that came twice: what the decoder said is still true.
            return place
    return named


def _bad_item(kind: Any, raw: bytes) -> tuple[str, bytes]:
    """Return key and value of the first member that is not of its type."""
    decoder = msgspec.json.Decoder(kind)
    for key, value in _OBJECT.decode(raw).items():
        try:
            decoder.decode(value)
        except msgspec.ValidationError:
            return key, bytes(value)
    raise LookupError


def _field(kind: Any, name: str) -> Any:
    for branch in branches_of(kind):
        if isinstance(branch, type) and issubclass(branch, msgspec.Struct):
            return next(field.type for field in msgspec.structs.fields(branch) if field.encode_name == name)
    raise LookupError


def _inner(kind: Any, container: type) -> Any:
    """Return the type of what a list or object holds."""
    for branch in branches_of(kind):
        if get_origin(branch) is container:
            return get_args(branch)[-1]
    raise LookupError
