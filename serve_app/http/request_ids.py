"""One id for each request, from the client or made here, on every answer exactly once.

Ray Serve wraps the application in a middleware that makes an id where the client sends none and puts ``X-Request-ID`` on
every answer, its own plain-text errors included. So under Ray the application leaves the header to it
(``build_api(…, header=False)``), and `PlainHeaders` stands in front of both: Ray decodes several headers as UTF-8,
unchecked, and answers 500 where that fails.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import MutableMapping
from typing import Any

__all__ = ["HEADER", "Ids", "PlainHeaders", "middlewares"]

HEADER = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Ids:
    """Ids of the requests to one process."""

    def __init__(self) -> None:
        self._start = os.urandom(6).hex()
        self._serial = itertools.count(1)

    def of(self, headers: list[tuple[bytes, bytes]]) -> str:
        """Return the id that the client sent if it is a plain one, else a new one."""
        for name, value in headers:
            if name == HEADER and _ID.fullmatch(value):
                return bytes(value).decode()
        return f"{self._start}-{next(self._serial):x}"


class PlainHeaders:
    """ASGI middleware: take away headers that are not ASCII, and request ids that are not plain.

    Parameters
    ----------
    app : ASGI application
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Hand the request on."""
        if "headers" in scope:
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if value.isascii() and (name != HEADER or _ID.fullmatch(value))
            ]
        await self._app(scope, receive, send)


def middlewares() -> list[Any]:
    """Return what Ray Serve puts in front of its own middleware, named in ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""
    from starlette.middleware import Middleware

    return [Middleware(PlainHeaders)]
