"""The ASGI application: predictions are answered here, everything else by Starlette (`serve_app.http.router`).

The four prediction routes are bare ASGI, because every layer in front of a 0.1 ms prediction costs as much as the prediction.
`build_api(services)` needs neither Ray nor a network: tests call it in process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve_app.guard.access import ANY, KEY
from serve_app.http.bodies import HELD, Bodies
from serve_app.http.handlers import Services
from serve_app.http.request_ids import HEADER, Ids
from serve_app.http.router import allowed, router
from serve_app.http.routes import PREDICTIONS, PREFIX, ROUTES
from serve_app.journal.entries import asked
from serve_app.operations import tracing
from serve_app.operations.load import Load
from serve_app.operations.telemetry import Metrics, Slot
from serve_app.wire.limits import LARGE
from serve_app.wire.problems import TYPE, Problem, busy

__all__ = ["Api", "build_api"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = b"application/json"
#: Other methods share one label: a client must not be able to invent label values.
_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
_log = logging.getLogger("serve_app")


class _Counts:
    """Requests and latencies of one path."""

    __slots__ = ("_metrics", "_observe", "_slots", "changing", "name")

    def __init__(self, name: str, metrics: Metrics, changing: bool) -> None:
        self.name = name
        self.changing = changing
        self._metrics = metrics
        self._observe = metrics.histogram("aiops_request_seconds", route=name).observe
        self._slots: dict[tuple[str, int], Slot] = {}

    def count(self, method: str, status: int, started: float) -> float:
        """Count one request, which began at `started` of the performance counter; returns the seconds it took."""
        slot = self._slots.get((method, status))
        if slot is None:
            named = method if method in _METHODS else "other"
            slot = self._metrics.counter("aiops_requests_total", route=self.name, method=named, status=str(status))
            self._slots[method, status] = slot
        slot.inc()
        seconds = time.perf_counter() - started
        self._observe(seconds)
        return seconds


class Api:
    """The ASGI application.

    Parameters
    ----------
    services : Services
    header : bool
        Whether to put ``x-request-id`` on answers; under Ray Serve it is there already.
    """

    def __init__(self, services: Services, *, header: bool = True) -> None:
        self._metrics = services.metrics
        self._backend = services.backend
        self._check = services.guard.check
        self._ids = Ids()
        self._header = header
        self._log = services.log
        self._load = Load(services.metrics)
        names = [*dict.fromkeys(route.path for route in ROUTES), "unknown"]
        changing = {route.path for route in ROUTES if route.method != "GET" and not route.task}
        self._counts = {name: _Counts(name, self._metrics, name in changing) for name in names}
        self._predictions = {f"{PREFIX}/{path}": self._counts[path] for path in PREDICTIONS}
        self._bodies = Bodies(services.limits)
        self._most = services.limits.requests
        #: Requests under way.
        self.under_way = 0
        self._router = router(services, self._bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] != "http":
            self._load.watch()
            await self._router(scope, receive, send)
            return
        started = time.perf_counter()
        method: str = scope["method"]
        request_id = self._ids.of(scope["headers"])
        counts = self._predictions.get(scope["path"]) if method == "POST" else None
        self._load.begin()
        self.under_way += 1
        try:
            if counts is None:
                counts, status, size = await self._other(scope, receive, send, request_id)
            else:
                status, size = await self._predict(scope, receive, send, request_id, counts.name)
        finally:
            self._load.end()
            self.under_way -= 1
            if HELD in scope:
                self._bodies.release(scope)
        seconds = counts.count(method, status, started)
        if (key := scope.get(KEY)) is not None:
            self._load.let_in(key)
        if status >= 400 or counts.changing or seconds >= self._log.slow or self._log.every:
            version = self._backend.version(counts.name)
            self._log.note(
                scope, request_id, counts.name, status, seconds, size, changing=counts.changing, version=version
            )

    async def _predict(self, scope: Scope, receive: Receive, send: Send, request_id: str, name: str) -> tuple[int, int]:
        """Answer a prediction; return the status, and the size of the answer."""
        try:
            # Before the body is read.
            self._check(scope, "predict")
            if self.under_way > self._most:
                raise busy(f"{self._most} requests are under way")
            body = await self._bodies.read(scope, receive)
            asked.set((scope.get(KEY), time.perf_counter()))
            answering = self._backend.answer(name, body, request_id)
            content = await (answering if len(body) <= LARGE else self._bodies.answer(answering, receive))
            status, headers = 200, [(b"content-type", _JSON)]
        except Exception as error:
            status, content, headers = self._problem(error, name, request_id, scope)
        size = len(content)
        headers.append((b"content-length", b"%d" % size))
        if self._header:
            headers.append((HEADER, request_id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await self._bodies.send(scope, send, content)
        return status, size

    async def _other(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> tuple[_Counts, int, int]:
        """Have Starlette answer; return whose request it was, the status, and the size of the answer."""
        status = size = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._header:
                    message["headers"] = [*message["headers"], (HEADER, request_id.encode())]
            elif scope["method"] == "HEAD":
                message["body"] = b""
            size += len(message.get("body", b""))
            await send(message)

        # Makes Starlette raise what it does not find, instead of answering in plain text.
        scope["app"] = self
        scope["aiops.request_id"] = request_id
        scope["aiops.trace"] = trace = tracing.of(scope["headers"])
        failure: Exception | None = None
        before = tracing.current.set(trace)
        try:
            await self._router(scope, receive, answer)
        except Exception as error:
            if status:
                raise
            failure = (self._hidden(scope) if isinstance(error, HTTPException) else None) or error
        finally:
            tracing.current.reset(before)
        name = scope["route"].name if "route" in scope else "unknown"
        if failure is not None:
            code, content, headers = self._problem(failure, name, request_id, scope)
            response = Response(content, code)
            response.raw_headers += headers
            await response(scope, receive, answer)
        return self._counts[name], status, size

    def _hidden(self, scope: Scope) -> Problem | None:
        """Return why a caller is not told that there is no such path or method; None if it may know."""
        try:
            self._check(scope, ANY)
        except Problem as problem:
            return problem
        return None

    def _problem(self, error: Exception, name: str, request_id: str, scope: Scope) -> tuple[int, bytes, Headers]:
        """Return status, body and headers of the problem that an exception is; log and count what nobody expected."""
        path = scope["path"]
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, HTTPException) and error.status_code == 405:
            methods = allowed(scope["route"])
            text = f"{scope['method'][:16]} is not possible here; {methods} are"
            problem = Problem(405, text, headers=[(b"allow", methods.encode())])
        elif isinstance(error, HTTPException):
            problem = Problem(404, f"there is nothing at {path[:200]!r}; see {PREFIX}/docs")
        else:
            self._metrics.counter("aiops_errors_total", route=name, type=type(error).__name__).inc()
            _log.error("request %s to %s failed", request_id, name, exc_info=error)
            problem = Problem(500, f"internal error; quote request_id {request_id}")
        self._load.refused(name, problem)
        return problem.status, problem.body(path[:512]), [(b"content-type", TYPE), *problem.headers]


def build_api(services: Services, *, header: bool = True) -> Api:
    """Build the ASGI application from its services, see `Api`."""
    return Api(services, header=header)
