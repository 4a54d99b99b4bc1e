"""The body of a request: its type and size, checked while it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve_app.wire.features import MAX_BODY
from serve_app.wire.problems import Problem

__all__ = ["read_body"]

_JSON = b"application/json"


async def read_body(
    scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[MutableMapping[str, Any]]]
) -> bytes:
    """Return the body of a request.

    Raises
    ------
    Problem
        415 if it is not plain JSON in UTF-8, 413 if it is larger than `MAX_BODY`, 400 if the connection ended within it.
    """
    kind = b""
    length = None
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise Problem(415, "a compressed body is not read; send it plain")
    if kind != _JSON:
        media, _, parameters = kind.partition(b";")
        if media.strip().lower() != _JSON or (parameters and b"utf-8" not in parameters.lower()):
            raise Problem(415, "send application/json, in UTF-8")
    if length is not None and length.isdigit() and int(length) > MAX_BODY:
        raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        chunks = [body]
        size = len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "the connection ended within the body")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY:
                raise _too_large()
            chunks.append(chunk)
        body = b"".join(chunks)
    return body


def _too_large() -> Problem:
    return Problem(413, f"the body is larger than {MAX_BODY // 2**20} MB: send fewer instances")
