"""Request bodies: decoded, or told where they break which rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from serve_app.wire.first import first_violation
from serve_app.wire.problems import Problem
from serve_app.wire.violations import violations
from serve_app.wire.wording import listed

__all__ = ["BATCH_MARK", "check_values", "decode", "is_batch", "unknown_names"]

T = TypeVar("T")
#: In every body that is a batch; looked for before `is_batch` decodes anything.
BATCH_MARK = b'"instances"'
#: Bytes up to which every broken rule of a body is named; beyond, the first one.
_ALL_NAMED = 64 * 1024
#: Plain values of any JSON; a number beyond float64 becomes infinite, which breaks the same rule.
_anything = msgspec.json.Decoder(float_hook=float)
#: Any JSON, checked and left as it is.
_unread = msgspec.json.Decoder(msgspec.Raw)
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, path: str = "$") -> T:
    """Decode a request body, or say where it breaks which rule.

    Parameters
    ----------
    decoder : msgspec.json.Decoder or serve_app.answers.rows.Renaming
    body : bytes
    path : str, default "$"
        Where the body stands, for errors: an instance of a batch is decoded by itself.

    Raises
    ------
    Problem
        400 if the body is not JSON, 422 with paths and rules if it breaks the schema.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error)
    except _BROKEN as error:
        raise _broken(error) from None
    try:
        # A schema error may hide broken JSON further on, which comes first.
        content = (_unread if len(body) > _ALL_NAMED else _anything).decode(body)
    except msgspec.ValidationError:
        content = None
    except _BROKEN as error:
        raise _broken(error) from None
    if len(body) > _ALL_NAMED:
        raise first_violation(decoder.type, body, message, path)
    rename = getattr(decoder, "rename", None)
    raise violations(decoder.type, content if rename is None else rename(content), message, path)


def _broken(error: Exception) -> Problem:
    if isinstance(error, RecursionError):
        return Problem(400, "the body is nested too deeply: no request has more than 5 levels")
    if isinstance(error, UnicodeDecodeError):
        return Problem(
            400, f"the body is not JSON in UTF-8: it holds a byte 0x{error.object[error.start]:02x} that is no text"
        )
    return Problem(400, f"the body is not JSON: {error}")


def check_values(body: bytes, most: int, path: str) -> None:
    """Refuse a body of more values than a request may have, before they are built.

    Raises
    ------
    Problem
        413.
    """
    # As many commas as values, one less for each list or object; those in texts hardly count.
    if len(body) > most and body.count(b",") >= most:
        raise Problem(413, f"{path} holds more than {most:,} values: send fewer rows or instances")


class _Peek(msgspec.Struct):
    instances: msgspec.Raw = msgspec.Raw()


_PEEK = msgspec.json.Decoder(_Peek)


def is_batch(body: bytes, named: bool = False) -> bool:
    """Say whether a body has an ``instances`` member at its top level.

    Parameters
    ----------
    body : bytes
    named : bool, default False
        Whether a column is called so: then only a list makes a batch.
    """
    try:
        found = bytes(_PEEK.decode(body).instances)
    except _BROKEN:
        return False
    return found.startswith(b"[") if named else bool(found)


def unknown_names(given: Iterable[str], known: Iterable[str], path: str, what: str = "feature") -> Problem | None:
    """Return the 422 that lists every name that a card does not know."""
    known = list(dict.fromkeys(known))
    names = set(known)
    bad = [name[:64] for name in given if name not in names]
    if not bad:
        return None
    choices = f"known are {listed(known)}"
    errors = [{"path": f"{path}.{name}", "rule": f"unknown {what}; {choices}"} for name in bad[:100]]
    return Problem(422, f"{path}: unknown {what}s {listed(bad)}; {choices}", errors)
