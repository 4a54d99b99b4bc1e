"""The ASGI application: routes, limits and problem details.

Bare ASGI, because every layer in front of a 0.1 ms prediction costs as much as the prediction.
`build_api(services)` needs neither Ray nor a network: tests call it in process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from serve_app.http.bodies import read_body
from serve_app.http.handlers import Handlers, Services
from serve_app.http.request_ids import HEADER, Ids
from serve_app.http.routes import JOB, PREFIX, ROUTES, Route
from serve_app.operations.telemetry import Histogram, Metrics, Slot
from serve_app.wire.decoding import decode
from serve_app.wire.problems import TYPE, Problem

__all__ = ["Api", "build_api"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = b"application/json"
_JOBS = f"{PREFIX}/{JOB.partition('{')[0]}"
#: Other methods share one label: a client must not be able to invent label values.
_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")


_log = logging.getLogger("serve_app")


class _Path:
    """One path: its handlers and its counters."""

    __slots__ = ("handlers", "histogram", "methods", "name", "statuses")

    def __init__(self, name: str, handlers: dict[str, Any], metrics: Metrics) -> None:
        self.name = name
        self.handlers = handlers
        self.methods = ", ".join(sorted([*handlers, "OPTIONS"] + (["HEAD"] if "GET" in handlers else [])))
        self.histogram: Histogram = metrics.histogram("aiops_request_seconds", route=name)
        self.statuses: dict[tuple[str, int], Slot] = {}


class Api:
    """The ASGI application.

    Parameters
    ----------
    services : Services
    header : bool
        Whether to put ``x-request-id`` on answers; under Ray Serve it is there already.
    """

    def __init__(self, services: Services, *, header: bool = True) -> None:
        self._services = services
        self._metrics = services.metrics
        self._ids = Ids()
        self._header = header
        handlers = Handlers(services)
        by_path: dict[str, dict[str, Any]] = {}
        for route in ROUTES:
            by_path.setdefault(route.path, {})[route.method] = self._handler(route, handlers)
        self._paths: dict[str, _Path] = {}
        for name, methods in by_path.items():
            self._paths[f"{PREFIX}/{name}"] = _Path(name, methods, self._metrics)
        for route in ROUTES:
            if route.top:
                self._paths[f"/{route.path}"] = self._paths[f"{PREFIX}/{route.path}"]
        self._job = self._paths[f"{PREFIX}/{JOB}"]
        self._nowhere = _Path("unknown", {}, self._metrics)

    def _handler(self, route: Route, handlers: Handlers) -> Callable[..., Awaitable[Any]]:
        """Return what answers a route: takes name, body and request id for POST, the path otherwise."""
        if route.task:
            return self._predict
        handler: Callable[..., Awaitable[Any]] = getattr(handlers, route.handler)
        if route.request is None:
            return handler
        decoder = msgspec.json.Decoder(route.request)

        async def read_and_handle(name: str, body: bytes, request_id: str) -> Any:
            return await handler(decode(decoder, body))

        return read_and_handle

    def _predict(self, name: str, body: bytes, request_id: str) -> Awaitable[bytes]:
        return self._services.backend.answer(name, body, request_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        started = time.perf_counter()
        path: str = scope["path"]
        method: str = scope["method"]
        route = self._paths.get(path) or self._find(path)
        headers: list[tuple[bytes, bytes]] = []
        request_id = self._ids.of(scope["headers"])
        try:
            handler = route.handlers.get(method)
            if handler is None:
                handler = self._no_handler(route, method, path)
            if method == "POST":
                body = await read_body(scope, receive)
                result = await handler(route.name, body, request_id)
            else:
                result = await handler(path)
            if type(result) is bytes:
                status, kind, content = 200, _JSON, result
            else:
                status, kind, content, headers = result
        except Problem as problem:
            status, kind, content = problem.status, TYPE, problem.body(path[:512])
            headers = problem.headers
        except asyncio.CancelledError:
            raise
        except Exception as error:
            status, kind, content = 500, TYPE, self._internal(route, error, request_id).body(path[:512])
        sent = [(b"content-type", kind), (b"content-length", b"%d" % len(content)), *headers]
        if self._header:
            sent.append((HEADER, request_id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else content})
        key = (method, status)
        slot = route.statuses.get(key)
        if slot is None:
            slot = route.statuses[key] = self._slot(route, method, status)
        slot.inc()
        route.histogram.observe(time.perf_counter() - started)

    def _internal(self, route: _Path, error: Exception, request_id: str) -> Problem:
        self._metrics.counter("aiops_errors_total", route=route.name, type=type(error).__name__).inc()
        _log.exception("request %s to %s failed", request_id, route.name)
        return Problem(500, f"internal error; quote request_id {request_id}")

    def _slot(self, route: _Path, method: str, status: int) -> Slot:
        named = method if method in _METHODS else "other"
        return self._metrics.counter("aiops_requests_total", route=route.name, method=named, status=str(status))

    def _find(self, path: str) -> _Path:
        if path.startswith(_JOBS) and "/" not in path[len(_JOBS) :]:
            return self._job
        return self._nowhere

    def _no_handler(self, route: _Path, method: str, path: str) -> Callable[..., Awaitable[Any]]:
        if not route.handlers:
            raise Problem(404, f"there is nothing at {path[:200]!r}; see {PREFIX}/docs")
        if method == "HEAD" and "GET" in route.handlers:
            handler: Callable[..., Awaitable[Any]] = route.handlers["GET"]
            return handler
        allow = [(b"allow", route.methods.encode())]
        if method == "OPTIONS":

            async def options(*args: Any) -> Any:
                return 204, _JSON, b"", allow

            return options
        raise Problem(405, f"{method[:16]} is not possible here; {route.methods} are", headers=allow)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self._services.backend.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def build_api(services: Services, *, header: bool = True) -> Api:
    """Build the ASGI application from its services, see `Api`."""
    return Api(services, header=header)
