"""What the routes do that are not predictions: health, models, training, remediation, documentation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from aiops_core.facts import BY_MODEL, MODELS
from aiops_core.journal.privacy import Privacy
from serve_app.alerts.store import Store
from serve_app.answers import legacy
from serve_app.champions.client import Registry
from serve_app.guard.access import Guard
from serve_app.guard.audit import Audit
from serve_app.guard.replays import Replays
from serve_app.guard.sources import Sources
from serve_app.http import alerting, openapi
from serve_app.http.docs import Docs
from serve_app.http.feedback import recent, take
from serve_app.http.judging import verdicts
from serve_app.http.ready import judge
from serve_app.http.routes import PREFIX
from serve_app.journal.entries import asked
from serve_app.journal.watch import watch
from serve_app.operations import retraining
from serve_app.operations.jobs import Jobs
from serve_app.operations.log import RequestLog
from serve_app.operations.monitored import Monitored
from serve_app.operations.remediation import Remediator, catalogue
from serve_app.operations.telemetry import Metrics
from serve_app.wire.limits import Limits
from serve_app.wire.problems import TYPE, Problem, invalid
from serve_app.wire.requests import (
    CanaryRequest,
    FeedbackRequest,
    MuteRequest,
    PromoteRequest,
    RegisterRequest,
    RemediateRequest,
    RollbackRequest,
    ShadowRequest,
    TrainRequest,
)

__all__ = ["Backend", "Handlers", "Services"]


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class Backend(Protocol):
    """Where the models of the three tasks and the anomaly detector live: one interface, two placements."""

    def answer(self, route: str, body: bytes, request_id: str) -> Awaitable[bytes]:
        """Answer the body of ``predict/failure``, ``predict/threat``, ``predict/capacity`` or ``analyze/anomaly``."""

    async def status(self) -> dict[str, Any]:
        """Return models, refusals and the state of the registry, see `serve_app.backends`."""

    async def cards(self) -> dict[str, Any]:
        """Return features, classes, windows of the models in service by task, for the OpenAPI description."""

    def version(self, route: str) -> str | None:
        """Return the version of the model in service on a route, where it is known without asking anybody."""

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
    guard : Guard
    audit : Audit
    replays : Replays
    sources : Sources
    limits : Limits
    log : RequestLog
        Writes nothing by default.
    folder : Path, optional
        Of the node, for ``health/ready``.
    state : Path, optional
        State folder, for the journal and feedback.
    privacy : Privacy, optional
        What they conceal.
    monitored : Monitored, optional
        What the newest monitoring report found.
    """

    backend: Backend
    metrics: Metrics
    registry: Registry
    jobs: Jobs
    remediator: Remediator
    guard: Guard
    audit: Audit
    replays: Replays
    sources: Sources
    limits: Limits = Limits()
    log: RequestLog = field(default_factory=RequestLog)
    folder: Path | None = None
    state: Path | None = None
    privacy: Privacy | None = None
    monitored: Monitored | None = None


class Handlers:
    """One method for each entry of the route table that names a handler.

    Those of GET and DELETE take the request, those of POST the decoded body.

    Parameters
    ----------
    services : Services
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._started = time.time()
        services.metrics.at_scrape("aiops_jobs", services.jobs.by_state)
        if services.state is not None:
            watch(services.metrics, services.state)
            retraining.watch(services.metrics, services.state)
            services.metrics.at_scrape("aiops_alerts_open", Store(services.state).samples)
        if services.monitored is not None:
            services.monitored.attach(services.metrics)
        files = Docs()
        self.docs, self.docs_file = files.page, files.file

    async def health(self, request: Request) -> Response:
        """Say whether the service is up, and what it serves."""
        status = await self._services.backend.status()
        loaded = [m["name"] for m in status["models"] if m["status"] == "loaded"]
        trained = [name for name in BY_MODEL if name in loaded]
        ready = len(trained) == len(BY_MODEL)
        if not self._services.guard.may(request.scope, "read"):
            return _Json({"status": "healthy", "ready": ready})
        return _Json(
            {
                "status": "healthy",
                "models_loaded": loaded,
                "ready": ready,
                "detail": None if trained else "no trained model yet: the legacy models answer; run 'aiops report'",
                "refused": [{"name": m["name"], **m["refused"]} for m in status["models"] if "refused" in m],
                "uptime_seconds": round(time.time() - self._started, 3),
                "replica": self._services.metrics.replica,
            }
        )

    async def live(self, request: Request) -> Response:
        """Say that the process answers."""
        return _Json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Say whether requests should be sent here, and why not."""
        status = await self._services.backend.status()
        folder = self._services.folder
        reasons, warnings = await asyncio.to_thread(judge, status, folder)
        guard = self._services.guard
        if guard.closed:
            reasons.append("the service is closed: its keys file is missing or damaged")
        may = guard.may(request.scope, "read")
        if not reasons:
            return _Json({"status": "ready", **({"warnings": warnings} if may else {})})
        if not may:
            raise Problem(503, "no requests should be sent here; a key that may read is told why")
        content = {
            **Problem(503, "; ".join(reasons)).content(request.url.path),
            "reasons": reasons,
            "warnings": warnings,
        }
        return Response(msgspec.json.encode(content), 503, media_type=TYPE.decode())

    async def models_status(self, request: Request) -> Response:
        """Describe the models in service."""
        return _Json(await self._services.backend.status())

    async def prometheus(self, request: Request) -> Response:
        """Render the metrics of all replicas."""
        # All replicas' files are read, which takes milliseconds.
        text = await asyncio.to_thread(self._services.metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def schema(self, request: Request) -> Response:
        """Return the OpenAPI description."""
        # Public are the routes; what the models look at is for those who may read.
        may = self._services.guard.may(request.scope, "read")
        return _Json(openapi.describe(await self._services.backend.cards() if may else {}))

    async def actions(self, request: Request) -> Response:
        """List the catalogue of actions."""
        return _Json({"actions": [{"id": a.id, "does": a.does, "when": a.when} for a in catalogue().values()]})

    async def versions(self, request: Request) -> Response:
        """List the registered versions."""
        return _Json({"versions": await self._services.registry.ask(do="list")})

    async def promote(self, request: PromoteRequest) -> Response:
        """Make a version the champion."""
        _check_trained(request.name)
        found = await self._services.registry.ask(
            do="promote", name=request.name, version=request.version, expected=request.expected_version
        )
        return _Json(_answer("promoted", found))

    async def rollback(self, request: RollbackRequest) -> Response:
        """Go back to the previous champion."""
        _check_trained(request.name)
        found = await self._services.registry.ask(do="rollback", name=request.name, expected=request.expected_version)
        return _Json(_answer("promoted", found))

    async def shadow(self, request: ShadowRequest) -> Response:
        """Let a version answer unheard beside the champion."""
        return await self._beside("shadow", request)

    async def canary(self, request: CanaryRequest) -> Response:
        """Let a version answer a share of the requests."""
        return await self._beside("canary", request, share=request.share)

    async def _beside(self, alias: str, request: ShadowRequest | CanaryRequest, **options: Any) -> Response:
        _check_trained(request.name)
        found = await self._services.registry.ask(
            do=alias, name=request.name, version=request.version, expected=request.expected_version, **options
        )
        return _Json(_answer("removed" if request.version is None else alias, found))

    async def register(self, request: RegisterRequest) -> Response:
        """Register the servable of a run."""
        _check_trained(request.name)
        found = await self._services.registry.ask(
            do="register", name=request.name, run_id=request.run_id, alias=request.alias
        )
        return _Json(_answer("registered", found), 201)

    async def train(self, request: TrainRequest) -> Response:
        """Start a training job."""
        for i, name in enumerate(request.models):
            _check_trained(name, f"$.models[{i}]")
        if request.source is None and not request.use_synthetic_data:
            raise invalid("$.source", "name a public data set or a folder, or set use_synthetic_data")
        source = self._services.sources.allow("synthetic" if request.source is None else request.source)
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
        return _Json({**job, "location": location}, 202, {"location": location})

    async def train_list(self, request: Request) -> Response:
        """List the training jobs."""
        return _Json({"jobs": await asyncio.to_thread(self._services.jobs.list)})

    async def train_get(self, request: Request) -> Response:
        """Return one training job."""
        return _Json(await asyncio.to_thread(self._services.jobs.get, request.path_params["job_id"]))

    async def train_cancel(self, request: Request) -> Response:
        """Cancel a training job."""
        job = await asyncio.to_thread(self._services.jobs.cancel, request.path_params["job_id"])
        return _Json(job, 202)

    async def feedback(self, request: FeedbackRequest) -> Response:
        """Take in what turned out true."""
        state, privacy = self._kept()
        return _Json(await asyncio.to_thread(take, state, privacy, request, asked.get()[0]))

    async def journal(self, request: Request) -> Response:
        """Return the newest records of the journal."""
        state, privacy = self._kept()
        return _Json(await asyncio.to_thread(recent, state, privacy, request.query_params))

    async def judged(self, request: Request) -> Response:
        """Say which is better, champion or candidate."""
        state, _ = self._kept()
        folder = self._services.folder
        if folder is None:
            raise Problem(503, "this service does not follow the registry: nothing answers beside its champions")
        return _Json(await asyncio.to_thread(verdicts, state, folder, request.query_params))

    async def alerts(self, request: Request) -> Response:
        """List the alerts."""
        state, privacy = self._kept()
        return _Json(await asyncio.to_thread(alerting.shown, state, privacy, request.query_params))

    async def mute(self, request: MuteRequest) -> Response:
        """Keep quiet about a task or a resource for a while."""
        state, privacy = self._kept()
        return _Json(await asyncio.to_thread(alerting.mute, state, privacy, request))

    def _kept(self) -> tuple[Path, Privacy]:
        state = self._services.state
        if state is None:
            raise Problem(503, "this service keeps no journal")
        return state, self._services.privacy or Privacy(state)

    async def remediate(self, request: RemediateRequest) -> Response:
        """Execute an action, or say what would be sent."""
        return _Json(
            await self._services.remediator.execute(
                request.action,
                request.resource_id,
                dry_run=request.dry_run,
                reason=request.reason,
                request_id=request.request_id,
            )
        )


def _answer(what: str, version: dict[str, Any]) -> dict[str, Any]:
    """Return a version and, where it came into service, what that changes for clients."""
    changes = {"changes": version["changes"]} if "changes" in version else {}
    return {what: {key: value for key, value in version.items() if key != "changes"}, **changes}


def _check_trained(name: str, path: str = "$.name") -> None:
    """Refuse a name that is no trained model."""
    if name in BY_MODEL:
        return
    if name in (legacy.RULES, legacy.ANOMALY):
        raise invalid(path, f"{name} is not trained; trained are {', '.join(BY_MODEL)}")
    raise Problem(404, f"there is no model {name[:64]!r}; there are {', '.join(BY_MODEL)}")
