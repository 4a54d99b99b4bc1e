"""The body of a request: its type and size, checked while it is read; and what a large one may hold and take.

A large body is one of more than `serve_app.wire.limits.LARGE` bytes: a batch, mostly. Small ones never get here for more
than `Bodies.read`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve_app.wire.limits import MAX_ORDER, MB, Limits
from serve_app.wire.problems import Problem, busy

__all__ = ["HELD", "PIECE", "Bodies"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_JSON = b"application/json"
#: Where a scope says how many bytes its request holds; `Bodies.release` gives them back.
HELD = "aiops.held"
#: Bytes of a large answer that are handed to the server together.
PIECE = MB


class Bodies:
    """The bodies that one process reads and answers.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._turn = asyncio.Lock()

    async def read(self, scope: MutableMapping[str, Any], receive: Receive, *, order: bool = False) -> bytes:
        """Return the body of a request; `release` its scope when the answer is sent.

        Parameters
        ----------
        scope, receive
            Of ASGI.
        order : bool
            Whether it is no prediction: then it is short.

        Raises
        ------
        Problem
            415 if it is not plain JSON in UTF-8, 413 if it is too large, 400 if the connection ended within it, 408 if it
            came too slowly, 503 if there are too many bodies already.
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
        most = MAX_ORDER if order else self._limits.body
        if length is not None and length.isdigit() and int(length[:18]) > most:
            raise _too_large(most)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            return await self._pieces(scope, receive, body, most)
        if message["type"] == "http.disconnect":
            raise Problem(400, "the connection ended before the body")
        if len(body) > most:
            raise _too_large(most)
        return body

    async def _pieces(self, scope: MutableMapping[str, Any], receive: Receive, first: bytes, most: int) -> bytes:
        """Return a body that comes in several pieces."""
        chunks, more = [first], True
        self._hold(scope, len(first))
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the connection ended within the body")
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    if scope[HELD] + len(chunk) > most:
                        raise _too_large(most)
                    self._hold(scope, len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise Problem(408, f"the body did not arrive within {seconds:g} s: send it faster or in parts") from None
        return b"".join(chunks)

    def _hold(self, scope: MutableMapping[str, Any], size: int) -> None:
        if self._held + size > self._limits.held:
            raise busy(f"{self._held // MB} MB of other requests are being read or answered")
        self._held += size
        scope[HELD] = scope.get(HELD, 0) + size

    def release(self, scope: MutableMapping[str, Any]) -> None:
        """Give back what a request holds."""
        self._held -= scope.pop(HELD, 0)

    async def answer(self, answering: Awaitable[bytes], receive: Receive) -> bytes:
        """Await the answer to a large body, one at a time, for as long as the client waits for it.

        Raises
        ------
        Problem
            What the answer raises, 499 if the client hung up, 503 if it took too long. The work ends in both cases.
        """
        work = asyncio.ensure_future(self._in_turn(answering))
        gone = asyncio.ensure_future(_hang_up(receive))
        try:
            await asyncio.wait({work, gone}, timeout=self._limits.answer_seconds, return_when="FIRST_COMPLETED")
            if work.done():
                return work.result()
            if gone.done():
                raise Problem(499, "the client hung up before the answer")
            raise busy(f"the answer took longer than {self._limits.answer_seconds:g} s; send fewer instances")
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _in_turn(self, answering: Awaitable[bytes]) -> bytes:
        try:
            async with self._turn:
                return await answering
        finally:
            if inspect.iscoroutine(answering):
                # Where the client hung up while it waited, it was never begun.
                answering.close()

    async def send(self, scope: MutableMapping[str, Any], send: Send, content: bytes) -> None:
        """Send the body of a large answer, at the pace of its reader, which gets as long as a sender does."""
        # Counted, never refused: it is there already.
        self._held += len(content)
        scope[HELD] = scope.get(HELD, 0) + len(content)
        async with asyncio.timeout(self._limits.body_seconds):
            for start in range(0, len(content), PIECE):
                end = start + PIECE
                await send({"type": "http.response.body", "body": content[start:end], "more_body": end < len(content)})


async def _hang_up(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most / MB:g} MB: send fewer instances")
