"""The ASGI application: routes, limits and problem details.

Bare ASGI, because every layer in front of a 0.1 ms prediction costs as much as the prediction.
`build_api(services)` needs neither Ray nor a network: tests call it in process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from serve_app.answers import legacy
from serve_app.champions.client import Registry
from serve_app.facts import MODELS, TASKS
from serve_app.http import docs, openapi
from serve_app.http.request_ids import HEADER, Ids
from serve_app.operations.jobs import Jobs
from serve_app.operations.remediation import Remediator, catalogue
from serve_app.operations.telemetry import Histogram, Metrics, Slot
from serve_app.wire.decoding import decode
from serve_app.wire.features import MAX_BODY
from serve_app.wire.problems import TYPE, Problem, invalid
from serve_app.wire.requests import PromoteRequest, RegisterRequest, RemediateRequest, RollbackRequest, TrainRequest

__all__ = ["PREFIX", "Api", "Backend", "Services", "build_api"]

PREFIX = "/api/v3/aiops"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_encode = msgspec.json.Encoder().encode
_JSON = b"application/json"


class Backend(Protocol):
    """Where the models of the three tasks and the anomaly detector live: one interface, two placements."""

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """Answer the body of ``predict/failure``, ``predict/threat``, ``predict/capacity`` or ``analyze/anomaly``."""

    async def status(self) -> dict[str, Any]:
        """Return models, refusals and the state of the registry, see `serve_app.backends`."""

    async def cards(self) -> dict[str, Any]:
        """Return features, classes, windows of the models in service by task, for the OpenAPI document."""

    def close(self) -> None:
        """Stop background threads."""


@dataclass
class Services:
    """Everything the routes need, handed in.

    Attributes
    ----------
    backend : Backend
    metrics : Metrics
    registry : Registry
    jobs : Jobs
    remediator : Remediator
    """

    backend: Backend
    metrics: Metrics
    registry: Registry
    jobs: Jobs
    remediator: Remediator


#: (method, path below the prefix) -> handler name; the paths of jobs are matched apart.
ROUTES: dict[str, dict[str, str]] = {
    "health": {"GET": "health"},
    "models/status": {"GET": "models_status"},
    "metrics": {"GET": "prometheus"},
    "predict/failure": {"POST": "predict"},
    "predict/threat": {"POST": "predict"},
    "predict/capacity": {"POST": "predict"},
    "analyze/anomaly": {"POST": "predict"},
    "models/train": {"POST": "train", "GET": "train_list"},
    "models/train/{job_id}": {"GET": "train_get", "DELETE": "train_cancel"},
    "models/versions": {"GET": "versions"},
    "models/register": {"POST": "register"},
    "models/promote": {"POST": "promote"},
    "models/rollback": {"POST": "rollback"},
    "remediate": {"POST": "remediate"},
    "actions": {"GET": "actions"},
}


class _Route:
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
        self._started = time.time()
        self._ids = Ids()
        self._header = header
        self._routes: dict[str, _Route] = {}
        for name, handlers in ROUTES.items():
            self._routes[f"{PREFIX}/{name}"] = self._route(
                name, {m: getattr(self, f"_{h}") for m, h in handlers.items()}
            )
        for name, handler in (("schema", self._schema), ("docs", self._docs)):
            route = self._route(name, {"GET": handler})
            self._routes[f"/{name}"] = self._routes[f"{PREFIX}/{name}"] = route
        self._job_route = self._routes[f"{PREFIX}/models/train/{{job_id}}"]
        self._nowhere = self._route("unknown", {})
        self._train_decoder = msgspec.json.Decoder(TrainRequest)
        self._promote_decoder = msgspec.json.Decoder(PromoteRequest)
        self._rollback_decoder = msgspec.json.Decoder(RollbackRequest)
        self._register_decoder = msgspec.json.Decoder(RegisterRequest)
        self._remediate_decoder = msgspec.json.Decoder(RemediateRequest)

    def _route(self, name: str, handlers: dict[str, Any]) -> _Route:
        return _Route(name, handlers, self._metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        started = time.perf_counter()
        path: str = scope["path"]
        method: str = scope["method"]
        route = self._routes.get(path) or self._find(path)
        headers: list[tuple[bytes, bytes]] = []
        request_id = self._ids.of(scope["headers"])
        try:
            handler = route.handlers.get(method)
            if handler is None:
                handler = self._no_handler(route, method, path)
            if method == "POST":
                body = await _read(scope, receive)
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
            self._metrics.counter("aiops_errors_total", route=route.name, type=type(error).__name__).inc()
            _log(route.name, request_id)
            failure = Problem(500, f"internal error; quote request_id {request_id}")
            status, kind, content = 500, TYPE, failure.body(path[:512])
        sent = [(b"content-type", kind), (b"content-length", b"%d" % len(content)), *headers]
        if self._header:
            sent.append((HEADER, request_id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else content})
        key = (method, status)
        slot = route.statuses.get(key)
        if slot is None:
            named = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
            slot = self._metrics.counter("aiops_requests_total", route=route.name, method=named, status=str(status))
            route.statuses[key] = slot
        slot.inc()
        route.histogram.observe(time.perf_counter() - started)

    def _find(self, path: str) -> _Route:
        if path.startswith(f"{PREFIX}/models/train/") and "/" not in path[len(PREFIX) + 14 :]:
            return self._job_route
        return self._nowhere

    def _no_handler(self, route: _Route, method: str, path: str) -> Callable[..., Awaitable[Any]]:
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

    # Predictions -----------------------------------------------------------------------------------------------------

    def _predict(self, route: str, body: bytes, request_id: str) -> Awaitable[bytes]:
        return self._services.backend.answer(route, body, request_id)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _health(self, path: str) -> bytes:
        status = await self._services.backend.status()
        loaded = [m["name"] for m in status["models"] if m["status"] == "loaded"]
        trained = [name for name in TASKS if name in loaded]
        return _encode(
            {
                "status": "healthy",
                "models_loaded": loaded,
                "ready": len(trained) == len(TASKS),
                "detail": None if trained else "no trained model yet: the legacy models answer; run 'aiops report'",
                "refused": [{"name": m["name"], **m["refused"]} for m in status["models"] if "refused" in m],
                "uptime_seconds": round(time.time() - self._started, 3),
                "replica": self._metrics.replica,
            }
        )

    async def _models_status(self, path: str) -> bytes:
        return _encode(await self._services.backend.status())

    async def _prometheus(self, path: str) -> Any:
        return 200, b"text/plain; version=0.0.4; charset=utf-8", self._metrics.render(), []

    async def _schema(self, path: str) -> bytes:
        return _encode(openapi.document(await self._services.backend.cards()))

    async def _docs(self, path: str) -> Any:
        page = docs.page(openapi.document(await self._services.backend.cards()))
        return 200, b"text/html; charset=utf-8", page, docs.HEADERS

    async def _actions(self, path: str) -> bytes:
        return _encode({"actions": [{"id": a.id, "does": a.does, "when": a.when} for a in catalogue().values()]})

    # Registry --------------------------------------------------------------------------------------------------------

    async def _versions(self, path: str) -> bytes:
        return _encode({"versions": await self._services.registry.ask(do="list")})

    async def _promote(self, route: str, body: bytes, request_id: str) -> bytes:
        request = decode(self._promote_decoder, body)
        _model(request.name)
        found = await self._services.registry.ask(do="promote", name=request.name, version=request.version)
        return _encode({"promoted": found})

    async def _rollback(self, route: str, body: bytes, request_id: str) -> bytes:
        request = decode(self._rollback_decoder, body)
        _model(request.name)
        return _encode({"promoted": await self._services.registry.ask(do="rollback", name=request.name)})

    async def _register(self, route: str, body: bytes, request_id: str) -> Any:
        request = decode(self._register_decoder, body)
        _model(request.name)
        found = await self._services.registry.ask(
            do="register", name=request.name, run_id=request.run_id, alias=request.alias
        )
        return 201, _JSON, _encode({"registered": found}), []

    # Training --------------------------------------------------------------------------------------------------------

    async def _train(self, route: str, body: bytes, request_id: str) -> Any:
        request = decode(self._train_decoder, body)
        for i, name in enumerate(request.models):
            _model(name, f"$.models[{i}]")
        if request.source is None and not request.use_synthetic_data:
            raise invalid("$.source", "name a public data set or a folder, or set use_synthetic_data")
        source = "synthetic" if request.source is None else request.source
        if source.startswith("-"):
            raise invalid("$.source", "is the name of a public data set or a folder")
        tasks = ",".join(task for task, name in MODELS.items() if name in request.models)
        options = ["--source", source, "--tasks", tasks]
        for option, value in (
            ("--n-samples", request.n_samples),
            ("--trials", request.trials),
            ("--seed", request.seed),
        ):
            if value is not None:
                options += [option, str(value)]
        # Without a word for it, a run over HTTP replaces no champion: it may only fill an empty place.
        options += ["--promote", "gate" if request.promote else "first"]
        job = await asyncio.to_thread(self._services.jobs.start, options, msgspec.to_builtins(request))
        location = f"{PREFIX}/models/train/{job['job_id']}"
        return 202, _JSON, _encode({**job, "location": location}), [(b"location", location.encode())]

    async def _train_list(self, path: str) -> bytes:
        return _encode({"jobs": await asyncio.to_thread(self._services.jobs.list)})

    async def _train_get(self, path: str) -> bytes:
        return _encode(await asyncio.to_thread(self._services.jobs.get, path.rsplit("/", 1)[1]))

    async def _train_cancel(self, path: str) -> Any:
        job = await asyncio.to_thread(self._services.jobs.cancel, path.rsplit("/", 1)[1])
        return 202, _JSON, _encode(job), []

    # Remediation -----------------------------------------------------------------------------------------------------

    async def _remediate(self, route: str, body: bytes, request_id: str) -> bytes:
        request = decode(self._remediate_decoder, body)
        return _encode(
            await self._services.remediator.execute(
                request.action,
                request.resource_id,
                dry_run=request.dry_run,
                reason=request.reason,
                request_id=request.request_id,
            )
        )


def _model(name: str, path: str = "$.name") -> None:
    if name in TASKS:
        return
    if name in (legacy.RULES, legacy.ANOMALY):
        raise invalid(path, f"{name} is not trained; trained are {', '.join(TASKS)}")
    raise Problem(404, f"there is no model {name[:64]!r}; there are {', '.join(TASKS)}")


async def _read(scope: Scope, receive: Receive) -> bytes:
    """Return the body, after checking its type and size."""
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


def _log(route: str, request_id: str) -> None:
    logging.getLogger("serve_app").exception("request %s to %s failed", request_id, route)


def build_api(services: Services, *, header: bool = True) -> Api:
    """Build the ASGI application from its services, see `Api`."""
    return Api(services, header=header)
