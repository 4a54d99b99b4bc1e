"""What stands in front of Ray Serve's own part of a replica: one id for each request, and problems in place of plain text.

Ray Serve wraps the application in a middleware that makes an id where the client sends none and puts ``X-Request-ID`` on
every answer, its own plain-text errors included. So under Ray the application leaves the header to it
(``build_api(…, header=False)``), and `Border` stands in front of both. Ray decodes several headers as UTF-8, unchecked,
and answers 500 where that fails; it takes a time-out from the client, and answers 408 in plain text when it is over.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve_app.wire.limits import MAX_HEADER
from serve_app.wire.problems import TYPE, Problem

__all__ = ["HEADER", "Border", "Ids", "middlewares"]

HEADER = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
#: Headers by which a client could change how Ray Serve treats its request.
_RAYS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
_CONTENT = (b"content-type", b"content-length")
#: Headers that `Border` looks at; the others only have to be short ASCII.
_WATCHED = frozenset((HEADER, *_RAYS))
#: What Ray Serve's answers mean here; it gives no others.
_SAID = {
    404: "there is nothing here yet: the service is starting",
    408: "the request took too long",
    499: "the client hung up before the answer",
    500: "internal error",
    503: "too much at once, or the service is starting or stopping; try again",
}


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
        return self.new()

    def new(self) -> str:
        """Return an id that no other request has."""
        return f"{self._start}-{next(self._serial):x}"


class Border:
    """ASGI middleware: no header reaches Ray Serve that it cannot read, and none of its errors leaves as plain text.

    Parameters
    ----------
    app : ASGI application
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._ids = Ids()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Hand the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name in _WATCHED or len(value) > MAX_HEADER or not value.isascii():
                # Rare, so that most requests pay for no list.
                if not await self._clear(scope, send):
                    return
                break
        else:
            # Ray Serve would make one, which takes longer.
            scope["headers"].append((HEADER, self._ids.new().encode()))
        await self._app(scope, receive, _replacing(send, scope["path"]))

    async def _clear(self, scope: MutableMapping[str, Any], send: Any) -> bool:
        """Take away what Ray Serve must not see; return False where the request was refused."""
        headers, named = [], False
        for header in scope["headers"]:
            name, value = header
            if len(value) > MAX_HEADER:
                await _refuse(scope, name, send)
                return False
            elif name == HEADER:
                # Of several ids the first plain one counts, as in `Ids`.
                if not named and _ID.fullmatch(value):
                    named = True
                    headers.append(header)
            elif value.isascii() and name not in _RAYS:
                headers.append(header)
        scope["headers"] = headers
        return True


async def _refuse(scope: MutableMapping[str, Any], name: bytes, send: Any) -> None:
    """Answer 431 for a header that is too long; what makes ids stands behind."""
    shown = name[:64].decode("latin-1")
    problem = Problem(431, f"the header {shown!r} is longer than {MAX_HEADER // 1024} KB")
    content = problem.body(scope["path"][:512])
    headers = [(b"content-type", TYPE), (b"content-length", b"%d" % len(content))]
    headers.append((HEADER, Ids().of(scope["headers"]).encode()))
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _replacing(send: Any, path: str) -> Callable[[MutableMapping[str, Any]], Awaitable[None]]:
    """Return ``send`` of one request, with a problem in place of an error that is none."""
    content: bytes | None = None

    # Not a coroutine: that would be two more to run for every request.
    def replaced(message: MutableMapping[str, Any]) -> Awaitable[None]:
        nonlocal content
        if message["type"] == "http.response.start":
            status = message["status"]
            if status >= 400 and (b"content-type", TYPE) not in message["headers"]:
                content = Problem(status, _SAID.get(status, "the request was refused")).body(path[:512])
                message["headers"] = [
                    *((name, value) for name, value in message["headers"] if name.lower() not in _CONTENT),
                    (b"content-type", TYPE),
                    (b"content-length", b"%d" % len(content)),
                ]
        elif content is not None:
            message["body"] = b"" if message.get("more_body") else content
        sent: Awaitable[None] = send(message)
        return sent

    return replaced


def middlewares() -> list[Any]:
    """Return what Ray Serve puts in front of its own middleware, named in ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""
    from starlette.middleware import Middleware

    return [Middleware(Border)]
