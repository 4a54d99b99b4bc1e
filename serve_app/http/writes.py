"""Writes over HTTP: said in the audit log before and after, and done once for each ``Idempotency-Key``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serve_app.guard.access import Caller
from serve_app.guard.audit import Audit
from serve_app.guard.replays import HEADER, Replays, Ticket
from serve_app.http.routes import Route
from serve_app.wire.problems import Problem

__all__ = ["Writes"]

#: Characters of what was asked and answered that the audit log holds.
_MOST = 4000


class Writes:
    """Carry out what changes something.

    Parameters
    ----------
    audit : Audit
    replays : Replays
    """

    def __init__(self, audit: Audit, replays: Replays) -> None:
        self._audit = audit
        self._replays = replays
        self._running: set[asyncio.Task[Response]] = set()

    async def carry_out(
        self, request: Request, route: Route, content: Any, act: Callable[[Any], Awaitable[Response]]
    ) -> Response:
        """Do what a request asks for, unless it was done before.

        Parameters
        ----------
        request : Request
            Let through by the guard.
        route : Route
        content : Struct or Request
            What the handler takes.
        act : callable
            The handler.

        Raises
        ------
        Problem
            503 if the audit log cannot be written: then nothing was done. 400, 409, 422 for an idempotency key that cannot
            be used, see `Replays.open`.
        """
        # A client that hangs up does not end what it began: a promotion has no half.
        task = asyncio.ensure_future(self._once(request, route, content, act))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _once(
        self, request: Request, route: Route, content: Any, act: Callable[[Any], Awaitable[Response]]
    ) -> Response:
        caller: Caller = request.scope["aiops.caller"]
        client = request.scope.get("client")
        what = request.path_params if content is request else msgspec.to_builtins(content)
        entry = {
            "who": caller.name,
            "scope": route.scope,
            "address": client[0] if client else None,
            "method": route.method,
            "route": route.path,
            "what": _short(what),
            "request_id": request.scope["aiops.request_id"],
        }
        key = request.headers.get(HEADER)
        if key is None:
            return await self._audited(entry, content, act)
        place, asked = f"{route.method} {request.url.path}", msgspec.json.encode(what)
        found = await asyncio.to_thread(
            self._replays.open, caller.name or "", place, key, asked, repeatable=route.repeatable
        )
        if not isinstance(found, Ticket):
            return _again(found)
        try:
            response = await self._audited(entry, content, act)
        except BaseException as error:
            await asyncio.to_thread(_settle, found, error)
            raise
        answer = {"body": bytes(response.body).decode(), "location": response.headers.get("location")}
        await asyncio.to_thread(found.keep, status=response.status_code, **answer)
        return response

    async def _audited(
        self, entry: dict[str, Any], content: Any, act: Callable[[Any], Awaitable[Response]]
    ) -> Response:
        """Say that it begins, do it, say how it ended."""
        try:
            event = await asyncio.to_thread(self._audit.begin, **entry)
        except OSError as error:
            raise Problem(
                503, f"nothing was done, the audit log cannot be written: {error}", headers=[(b"retry-after", b"5")]
            ) from error
        try:
            response = await act(content)
        except BaseException as error:
            status = error.status if isinstance(error, Problem) else 500
            said = error.detail if isinstance(error, Problem) else type(error).__name__
            await asyncio.to_thread(self._audit.end, event, "failed", status=status, result=said[:_MOST])
            raise
        result = _short(msgspec.json.decode(response.body))
        await asyncio.to_thread(self._audit.end, event, "done", status=response.status_code, result=result)
        return response


def _settle(ticket: Ticket, error: BaseException) -> None:
    """Keep a refusal; forget what says that nothing was done, so that it may be tried again; leave the rest open."""
    if not isinstance(error, Problem):
        ticket.leave()
    elif error.status < 500:
        ticket.keep(status=error.status, detail=error.detail, errors=error.errors)
    elif any(name == b"retry-after" for name, _ in error.headers):
        ticket.drop()
    else:
        ticket.leave()


def _again(answer: dict[str, Any]) -> Response:
    """Return, or raise, what the first request was answered."""
    replayed = {"idempotent-replayed": "true"}
    if "detail" in answer:
        headers = [(name.encode(), value.encode()) for name, value in replayed.items()]
        raise Problem(answer["status"], answer["detail"], answer["errors"], headers)
    if answer["location"]:
        replayed["location"] = answer["location"]
    return Response(answer["body"], answer["status"], replayed, "application/json")


def _short(content: Any) -> Any:
    """Return what a line of the audit log holds of a body."""
    text = json.dumps(content)
    return content if len(text) <= _MOST else text[:_MOST]
