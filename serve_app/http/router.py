"""The routes that are not predictions, as a Starlette router drawn from the table of routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Place
from starlette.routing import Router

from serve_app.http.bodies import Bodies
from serve_app.http.handlers import Handlers, Services
from serve_app.http.routes import PREFIX, ROUTES, Route
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
        endpoint, methods = _endpoint(routes, handlers, bodies), ["OPTIONS", *(route.method for route in routes)]
        for at in dict.fromkeys((f"{PREFIX}/{path}", routes[0].shown)):
            places.append(Place(at, endpoint, methods=methods, name=path))

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        services.backend.close()

    return Router(places, redirect_slashes=False, lifespan=lifespan)


def allowed(place: Place) -> str:
    """Return the methods of a path, as in the header ``Allow``."""
    return ", ".join(sorted(place.methods or ()))


def _endpoint(routes: Iterable[Route], handlers: Handlers, bodies: Bodies) -> Handler:
    """Return what answers all methods of one path."""
    methods = {route.method: _handler(route, handlers, bodies) for route in routes if route.handler}

    async def endpoint(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": allowed(request.scope["route"])})
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


def _handler(route: Route, handlers: Handlers, bodies: Bodies) -> Handler:
    """Return what answers one entry of the table; a body is decoded before."""
    handler: Handler = getattr(handlers, route.handler)
    if route.request is None:
        return handler
    decoder = msgspec.json.Decoder(route.request)

    async def read_and_handle(request: Request) -> Response:
        return await handler(decode(decoder, await bodies.read(request.scope, request.receive, order=True)))

    return read_and_handle
