"""Request bodies: decoded, or told where they break which rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from serve_app.wire.problems import Problem
from serve_app.wire.violations import violations
from serve_app.wire.wording import listed

__all__ = ["BATCH_MARK", "decode", "is_batch", "unknown_names"]

T = TypeVar("T")
#: In every body that is a batch; looked for before `is_batch` decodes anything.
BATCH_MARK = b'"instances"'
#: Plain values of any JSON; a number beyond float64 becomes infinite, which breaks the same rule.
_anything = msgspec.json.Decoder(float_hook=float)


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    try:
        # A schema error may hide broken JSON further on, which comes first.
        content = _anything.decode(body)
    except msgspec.ValidationError:
        content = None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    rename = getattr(decoder, "rename", None)
    raise violations(decoder.type, content if rename is None else rename(content), message, path)


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
