"""Where the models live: one interface (`serve_app.http.handlers.Backend`), two placements.

`LocalModels` holds models in its own process. Inside the ingress replica it is the default placement: a prediction costs no
hop. `RemoteModels` sends each route to a deployment of `LocalModels`, one for each task, which can then be scaled apart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiops_core import servable
from aiops_core.facts import MODELS
from serve_app.alerts.watch import Alerts
from serve_app.answers import legacy
from serve_app.answers.anomaly import AnomalyService
from serve_app.answers.capacity import CapacityService
from serve_app.answers.failure import FailureService
from serve_app.answers.service import Service
from serve_app.answers.shadow import Shadows
from serve_app.answers.threat import ThreatService
from serve_app.champions.watcher import ChampionWatcher
from serve_app.http.routes import PREDICTIONS
from serve_app.journal.entries import asked
from serve_app.journal.recorder import Recorder, Silent
from serve_app.operations.telemetry import Metrics
from serve_app.wire.limits import Limits
from serve_app.wire.problems import Problem, busy

__all__ = ["LocalModels", "RemoteModels"]

#: How long a deployment may take to describe itself.
ANSWER_SECONDS = 2.0
_log = logging.getLogger("serve_app")


class LocalModels:
    """Models of some tasks in this process, kept up to date by a `ChampionWatcher`.

    Parameters
    ----------
    tasks : sequence of str
    folder : Path
        Of this node, where the follower writes.
    metrics : Metrics
    windows : object, optional
        Buffer of snapshots, see `FailureService`.
    loader : callable, optional
        Folder to verified servable.
    limits : Limits, optional
        What one request may cost.
    journal : Recorder, Silent or Alerts, optional
        Takes every answer.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        folder: Path,
        metrics: Metrics,
        windows: Any | None = None,
        loader: Callable[[str], Any] = servable.load,
        limits: Limits | None = None,
        journal: Recorder | Silent | Alerts | None = None,
    ) -> None:
        self._metrics = metrics
        self._journal = journal or Silent()
        self.services: dict[str, Service] = {}
        self._routes: dict[str, Service] = {}
        if "failure" in tasks:
            self.services["failure"] = failure = FailureService(metrics, windows)
            self._routes["predict/failure"] = failure
            self._routes["analyze/anomaly"] = AnomalyService(metrics, failure)
        if "threat" in tasks:
            self.services["threat"] = self._routes["predict/threat"] = ThreatService(metrics)
        if "capacity" in tasks:
            self.services["capacity"] = self._routes["predict/capacity"] = CapacityService(metrics)
        for service in {*self.services.values(), *self._routes.values()}:
            service.limits = limits or Limits()
            service.journal = service.kept = self._journal
        self._shadows = Shadows(self._journal, self.services, metrics)
        for service in self.services.values():
            service.unheard = self._shadows
        by_name = {MODELS[task]: service for task, service in self.services.items()}
        self.watcher = ChampionWatcher(folder, by_name, metrics, loader)

    def start(self, wait_seconds: float = 30.0) -> None:
        """Load the champions, then follow them."""
        self._journal.start()
        self._shadows.start()
        self.watcher.start(wait_seconds)

    def close(self) -> None:
        """Stop following, and write down what was answered."""
        self.watcher.close()
        self._shadows.close()
        self._journal.close()

    def answer(self, route: str, body: bytes, request_id: str) -> Awaitable[bytes]:
        """See `serve_app.http.handlers.Backend`."""
        return self._routes[route].answer(body, request_id)

    def version(self, route: str) -> str | None:
        """See `serve_app.http.handlers.Backend`."""
        service = self._routes.get(route)
        return None if service is None or service.champion is None else service.champion.version

    async def call(self, route: str, body: bytes, request_id: str, key: str | None = None) -> tuple[int, Any]:
        """Answer like `answer`, with a problem as a value: it crosses process borders unharmed.

        Parameters
        ----------
        route, body, request_id : str, bytes, str
        key : str, optional
            Name of the caller's key, for the journal.
        """
        asked.set((key, time.perf_counter()))
        try:
            return 200, await self.answer(route, body, request_id)
        except Problem as problem:
            return problem.status, (problem.detail, problem.errors)

    async def status(self) -> dict[str, Any]:
        """See `serve_app.http.handlers.Backend`."""
        models = []
        for service in self.services.values():
            entry = service.status()
            refused = self.watcher.refused.get(service.name)
            if refused is not None:
                entry["refused"] = refused
            beside = self.watcher.beside(service.name)
            if beside:
                entry["beside"] = beside
            models.append(entry)
        if "failure" in self.services:
            models += [_legacy(legacy.RULES, "rule_based"), _legacy(legacy.ANOMALY, "statistical")]
        return {"models": models, "mlflow": self.watcher.registry_status(), "replica": self._metrics.replica}

    async def cards(self) -> dict[str, Any]:
        """See `serve_app.http.handlers.Backend`."""
        found = {}
        for task, service in self.services.items():
            if service.champion is not None:
                card = service.champion.servable.card
                keep = (
                    "task",
                    "features",
                    "derived",
                    "ignored",
                    "classes",
                    "window",
                    "horizon",
                    "step_seconds",
                    "targets",
                    "season",
                )
                found[task] = {key: card[key] for key in keep if key in card}
        return found


def _legacy(name: str, kind: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "version": None,
        "alias": None,
        "status": "loaded",
        "metrics": {},
        "loaded_at": None,
        "legacy": True,
    }


class RemoteModels:
    """Models in deployments of their own.

    Parameters
    ----------
    handles : mapping of str to DeploymentHandle
        By task; each is a deployed `LocalModels`.
    full : tuple of exception types
        What a handle raises for a deployment that takes no further request.
    """

    def __init__(self, handles: Mapping[str, Any], full: tuple[type[Exception], ...] = ()) -> None:
        self._full = full
        self._handles = dict(handles)
        self._route = {path: self._handles[route.task].call for path, route in PREDICTIONS.items()}

    def close(self) -> None:
        """Nothing runs here."""

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """See `serve_app.http.handlers.Backend`."""
        try:
            status, content = await self._route[route].remote(route, body, request_id, asked.get()[0])
        except self._full:
            raise busy("the models of this route have no place for another request") from None
        if status == 200:
            return bytes(content)
        raise Problem(status, content[0], content[1])

    def version(self, route: str) -> str | None:
        """See `serve_app.http.handlers.Backend`; the deployments know it, nobody here does."""
        return None

    async def status(self) -> dict[str, Any]:
        """See `serve_app.http.handlers.Backend`; the registry counts as reachable when every deployment says so."""
        answers = await self._ask("status")
        parts = [part for part in answers.values() if part is not None]
        models = [model for part in parts for model in part["models"]]
        models += [_silent(task) for task, part in answers.items() if part is None]
        models.sort(key=lambda model: bool(model.get("legacy")))
        registry = next((p["mlflow"] for p in parts if not p["mlflow"]["reachable"]), None)
        if registry is None:
            unknown = {"reachable": False, "error": "no deployment answers", "reached": None}
            registry = parts[0]["mlflow"] if parts else unknown
        return {"models": models, "mlflow": registry, "replica": [part["replica"] for part in parts]}

    async def cards(self) -> dict[str, Any]:
        """See `serve_app.http.handlers.Backend`."""
        parts = await self._ask("cards")
        return {task: card for part in parts.values() if part is not None for task, card in part.items()}

    async def _ask(self, method: str) -> dict[str, Any]:
        """Ask every deployment at once; None stands for one that does not answer in time."""

        async def one(handle: Any) -> Any:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await getattr(handle, method).remote()
            except Exception as error:
                # Whatever a deployment that is starting, ending or overrun raises: the others answer.
                _log.warning("a deployment did not answer %s: %s", method, type(error).__name__)
                return None

        found = await asyncio.gather(*(one(handle) for handle in self._handles.values()))
        return dict(zip(self._handles, found, strict=True))


def _silent(task: str) -> dict[str, Any]:
    return {"name": MODELS[task], "kind": None, "version": None, "alias": None, "status": "unreachable"}
