"""The routes that are not predictions, as a Starlette router drawn from the table of routes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Place
from starlette.routing import Router

from serve_app.guard.access import ANY, PUBLIC
from serve_app.http.bodies import Bodies
from serve_app.http.handlers import Handlers, Services
from serve_app.http.routes import PREFIX, ROUTES, Route
from serve_app.http.writes import Writes
from serve_app.journal.entries import asked
from serve_app.wire.decoding import decode

__all__ = ["allowed", "router"]

Handler = Callable[[Any], Awaitable[Response]]


def router(services: Services, bodies: Bodies) -> Router:
    """Return the router; what its handlers raise, and Starlette for unknown paths and methods, reaches the caller."""
    handlers = Handlers(services)
    by_path: dict[str, list[Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, []).append(route)
    places = []
    for path, routes in by_path.items():
        endpoint = _endpoint(routes, handlers, services, bodies)
        methods = ["OPTIONS", *(route.method for route in routes)]
        for at in dict.fromkeys((f"{PREFIX}/{path}", routes[0].shown)):
            places.append(Place(at, endpoint, methods=methods, name=path))

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        services.guard.close()
        services.backend.close()
        services.log.close()

    return Router(places, redirect_slashes=False, lifespan=lifespan)


def allowed(place: Place) -> str:
    """Return the methods of a path, as in the header ``Allow``."""
    return ", ".join(sorted(place.methods or ()))


def _endpoint(routes: Iterable[Route], handlers: Handlers, services: Services, bodies: Bodies) -> Handler:
    """Return what answers all methods of one path."""
    guard, writes = services.guard, Writes(services.audit, services.replays)
    methods = {route.method: _handler(route, handlers, writes, bodies) for route in routes if route.handler}
    needed = {route.method: route.scope for route in routes}
    if "metrics" in (route.path for route in routes) and guard.metrics_open:
        needed["GET"] = PUBLIC

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        scope = needed.get(method, ANY)
        if scope != PUBLIC:
            # Before the body is read.
            request.scope["aiops.caller"] = caller = guard.check(request.scope, scope)
            asked.set((caller.name, time.perf_counter()))
        if method == "OPTIONS":
            return Response(status_code=204, headers={"allow": allowed(request.scope["route"])})
        return await methods[method](request)

    return endpoint


def _handler(route: Route, handlers: Handlers, writes: Writes, bodies: Bodies) -> Handler:
    """Return what answers one entry of the table; a body is decoded before."""
    handler: Handler = getattr(handlers, route.handler)
    decoder = None if route.request is None else msgspec.json.Decoder(route.request)

    async def read_and_handle(request: Request) -> Response:
        content: Any = request
        if decoder is not None:
            content = decode(decoder, await bodies.read(request.scope, request.receive, order=True))
        if route.writes:
            return await writes.carry_out(request, route, content, handler)
        return await handler(content)

    return read_and_handle
