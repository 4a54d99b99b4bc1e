"""The Ray Serve application: `build(args) -> Application`, for Python and for Serve config files alike."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from aiops_core import settings
from aiops_core.errors import UsageError
from aiops_core.facts import MODELS
from aiops_core.journal.privacy import Privacy
from serve_app.alerts.watch import alerts
from serve_app.answers.window_journal import Journal
from serve_app.answers.windows import MAX_RESOURCES, Unreachable, Windows
from serve_app.backends import LocalModels, RemoteModels
from serve_app.guard import keys
from serve_app.guard.access import MARKER, Guard
from serve_app.journal.recorder import recorder
from serve_app.operations.telemetry import Metrics
from serve_app.ray_serve import answer_at_once, listen_on_loopback
from serve_app.wire.limits import MB, Limits

__all__ = ["Args", "build"]

#: Small shares: the processes share cores, and four whole ones would not fit on two.
CPUS = 0.1
#: How long the buffer of snapshots may take, and is left alone when it did not answer.
WINDOWS_SECONDS = 2.0
PAUSE_SECONDS = 0.5
_log = logging.getLogger("serve_app")
_QUIET = {"enable_access_log": False, "log_level": "WARNING"}


class Args(BaseModel):
    """Arguments of `build`, as ``args:`` in a Serve config file.

    Attributes
    ----------
    placement : {"ingress", "deployments"}
        Models inside the ingress replicas, or one deployment for each task.
    replicas : int
        Ingress replicas.
    model_replicas : int
        Replicas of each task's deployment, with ``placement: deployments``.
    state_dir, tracking_uri : str or None
        Default: `aiops_core.settings`. With several nodes both must be reachable from every node.
    follow : bool
        Start the follower of the registry; off in tests that write the pointer file themselves.
    """

    model_config = ConfigDict(extra="forbid")

    placement: Literal["ingress", "deployments"] = "ingress"
    replicas: int = Field(1, ge=1, le=256)
    model_replicas: int = Field(1, ge=1, le=256)
    state_dir: str | None = None
    tracking_uri: str | None = None
    follow: bool = True
    max_ongoing_requests: int = Field(1000, ge=1)


def absolute_uri(uri: str) -> str:
    """Make a SQLite URI independent of the folder a process runs in.

    Examples
    --------
    >>> absolute_uri("http://mlflow:5000")
    'http://mlflow:5000'
    """
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return prefix + str(Path(uri.removeprefix(prefix)).resolve())
    return uri


class _Process:
    """What every serving process starts: metrics, and the follower's supervisor."""

    def __init__(self, config: dict[str, Any]) -> None:
        # Only here, in the serving process: one core each, however many the machine has.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        # What is written into the state folder is for this user alone.
        os.umask(0o077)
        listen_on_loopback()
        from serve_app.champions.node import node_folder
        from serve_app.champions.supervisor import Supervisor

        state = Path(config["state_dir"])
        self.folder = node_folder(state)
        self.metrics = Metrics(state / "metrics")
        self.environment = {"MLFLOW_TRACKING_URI": config["tracking_uri"], "AIOPS_STATE_DIR": str(state)}
        self.supervisor = Supervisor(self.folder, self.environment)
        if config["follow"]:
            self.supervisor.start()


class TaskModels:
    """Deployment of one task's models, for ``placement: deployments``."""

    def __init__(self, task: str, config: dict[str, Any], windows: Any | None = None) -> None:
        self._process = _Process(config)
        buffer: Any = None if windows is None else RemoteWindows(windows)
        if buffer is None and task == "failure":
            buffer, self._journal = journalled(Path(config["state_dir"]), self._process.metrics)
        self._models = LocalModels(
            [task],
            self._process.folder,
            self._process.metrics,
            buffer,
            limits=config["limits"],
            journal=_kept(Path(config["state_dir"]), self._process.metrics),
        )
        self._models.start(30.0 if config["follow"] else 0.0)

    async def call(self, route: str, body: bytes, request_id: str, key: str | None = None) -> tuple[int, Any]:
        """See `LocalModels.call`."""
        return await self._models.call(route, body, request_id, key)

    async def status(self) -> dict[str, Any]:
        """See `LocalModels.status`."""
        return await self._models.status()

    async def cards(self) -> dict[str, Any]:
        """See `LocalModels.cards`."""
        return await self._models.cards()

    def __del__(self) -> None:
        found = getattr(self, "_models", None)
        if found is not None:
            found.close()
            self._process.supervisor.close()


def _kept(state: Path, metrics: Metrics) -> Any:
    """Return what takes every answer: the alerts, and behind them the journal."""
    current = settings.load()
    return alerts(recorder(state, metrics, current), state, metrics, current)


def journalled(state: Path, metrics: Metrics) -> tuple[Windows, Journal]:
    """Return the buffer of snapshots as the last process left it, and its journal."""
    _refuse_siblings()
    windows = Windows(MAX_RESOURCES, metrics.counter("aiops_windows_forgotten_total"))
    journal = Journal(state / "windows.journal", windows)
    journal.start()
    return windows, journal


def _refuse_siblings() -> None:
    """Refuse to be one of several replicas that would each keep a part of every window.

    A config file may give a deployment more replicas than the arguments say, which decide where the windows are kept.

    Raises
    ------
    UsageError
    """
    try:
        context = serve.get_replica_context()
    except RayServeException:
        # Not run by Serve.
        return
    several = context.world_size > 1 or getattr(context._deployment_config, "autoscaling_config", None) is not None
    if several:
        raise UsageError(
            f"the deployment '{context.deployment}' is to have several replicas, each of which would see a part of every "
            "window of snapshots: give their number as replicas or model_replicas under args, not under deployments"
        )


class SharedWindows:
    """Deployment of the one snapshot buffer that several replicas ask."""

    def __init__(self, config: dict[str, Any]) -> None:
        listen_on_loopback()
        state = Path(config["state_dir"])
        self._metrics = Metrics(state / "metrics")
        self._windows, self._journal = journalled(state, self._metrics)

    async def append(self, resource_id: str, row: Any, options: dict[str, Any]) -> Any:
        """See `Windows.append`."""
        return self._windows.append(resource_id, row, **options)

    def __del__(self) -> None:
        journal = getattr(self, "_journal", None)
        if journal is not None:
            journal.close()


class RemoteWindows:
    """`Windows` behind a handle."""

    def __init__(self, handle: Any) -> None:
        self._append = handle.append
        self._pause = 0.0

    async def append(self, resource_id: str, row: Any, **options: Any) -> Any:
        """See `Windows.append`.

        Raises
        ------
        Unreachable
            If the buffer does not answer in time; for a moment it is then not asked again, or a batch would wait for each
            of its snapshots.
        """
        if time.monotonic() < self._pause:
            raise Unreachable
        try:
            async with asyncio.timeout(WINDOWS_SECONDS):
                return await self._append.remote(resource_id, row, options)
        except Exception as error:
            # Ray raises many types while an actor dies, starts or is overrun.
            self._pause = time.monotonic() + PAUSE_SECONDS
            raise Unreachable from error


class Ingress:
    """Deployment of the HTTP application."""

    def __init__(
        self, config: dict[str, Any], windows: Any | None = None, models: dict[str, Any] | None = None
    ) -> None:
        from serve_app.champions.client import Registry
        from serve_app.guard import audit
        from serve_app.guard.replays import Replays
        from serve_app.guard.sources import Sources
        from serve_app.http.handlers import Services
        from serve_app.operations.jobs import Jobs
        from serve_app.operations.log import FILE, RequestLog
        from serve_app.operations.monitored import Monitored
        from serve_app.operations.remediation import Remediator

        self._process = process = _Process(config)
        state = Path(config["state_dir"])
        if models is None:
            buffer: Any = None if windows is None else RemoteWindows(windows)
            if buffer is None:
                buffer, self._journal = journalled(state, process.metrics)
            journal = _kept(state, process.metrics)
            local = LocalModels(
                list(MODELS), process.folder, process.metrics, buffer, limits=config["limits"], journal=journal
            )
            local.start(30.0 if config["follow"] else 0.0)
            backend: Any = local
        else:
            backend = RemoteModels(models, (BackPressureError, DeploymentUnavailableError))
        current = settings.load()
        self._services = Services(
            backend=backend,
            metrics=process.metrics,
            registry=Registry(process.folder),
            jobs=Jobs(state / "jobs", process.metrics, process.environment, keep=current.keep_jobs),
            log=RequestLog(
                process.folder / FILE,
                current.log,
                current.log_slow_seconds,
                process.metrics,
                endpoint=current.otlp_endpoint,
                headers=current.otlp_headers,
            ),
            folder=process.folder if config["follow"] else None,
            remediator=Remediator(current.webhooks, current.webhook_secret, process.metrics),
            guard=_guard(config, current),
            audit=audit.Audit(state / audit.NAME),
            replays=Replays(state / "replays"),
            sources=Sources(current.source_roots or (state / "datasets",)),
            limits=config["limits"],
            state=state,
            privacy=Privacy(state, current.journal_drop, current.journal_hash),
            monitored=Monitored(state),
        )
        self._services.guard.start()

    def __serve_build_asgi_app__(self) -> Any:
        from serve_app.http.api import build_api

        answer_at_once()
        # Ray Serve names every answer's request itself, see `serve_app.http.request_ids`.
        return build_api(self._services, header=False)

    def check_health(self) -> None:
        """Ray Serve asks now and then; an exception would replace the replica."""

    def __del__(self) -> None:
        services = getattr(self, "_services", None)
        if services is not None:
            services.guard.close()
        process = getattr(self, "_process", None)
        if process is not None:
            process.supervisor.close()


def _guard(config: Mapping[str, Any], current: settings.Settings) -> Guard:
    """Return what decides on the requests to one replica, on the port of the proxy and on its own alike."""
    return Guard(
        keys.location(Path(config["state_dir"])),
        host=_listening(),
        allowed=current.allowed_hosts or (socket.gethostname(),),
        keyed=config["keyed"],
        marker=Path(config["state_dir"]) / MARKER,
        replicas=config["replicas"],
        metrics_open=current.metrics_open,
    )


def _listening() -> str:
    """Return the address that Serve's proxies and replicas listen on; all of them if nobody can say."""
    from ray.serve.context import _get_global_client

    try:
        client = _get_global_client()
        assert client is not None, "Serve runs this code"
        return str(client.http_config.host)
    except Exception as error:
        # Whatever a release of Ray may raise here, doubt must not open the service.
        _log.error("the HTTP options of Serve cannot be read, so keys are needed: %s", error)
        return "0.0.0.0"


def _limits(current: settings.Settings) -> Limits:
    return Limits(
        body=current.max_body_mb * MB,
        answer=current.max_answer_mb * MB,
        held=current.max_held_mb * MB,
        requests=current.max_requests,
    )


def build(args: Args | Mapping[str, Any]) -> Application:
    """Build the application.

    Parameters
    ----------
    args : Args or mapping
        A mapping is what Ray Serve passes from the ``args:`` of a config file; it is validated as `Args`.

    Returns
    -------
    ray.serve.Application

    Raises
    ------
    pydantic.ValidationError
        For an unknown argument or one out of range.
    """
    args = Args.model_validate(args)
    current = settings.load()
    state = Path(args.state_dir or current.state_dir).resolve()
    # Fields that cannot be hashed are named here, not by a replica that does not start.
    Privacy(state, current.journal_drop, current.journal_hash)
    config = {
        "state_dir": str(state),
        "tracking_uri": absolute_uri(args.tracking_uri or current.mlflow_tracking_uri),
        "follow": args.follow,
        "keyed": keys.location(state).exists(),
        "replicas": args.replicas,
        "limits": _limits(current),
    }
    common: dict[str, Any] = {
        "max_ongoing_requests": args.max_ongoing_requests,
        "logging_config": _QUIET,
        "graceful_shutdown_timeout_s": 10,
        "health_check_period_s": 10,
    }

    def place(cls: type, name: str, replicas: int) -> Any:
        # Ray's own queue comes into play where fewer requests run at a time than our limit lets in.
        queued = -1 if cls is SharedWindows else current.max_requests
        return serve.deployment(
            cls, name=name, num_replicas=replicas, max_queued_requests=queued,
            ray_actor_options={"num_cpus": CPUS}, **common,
        )  # fmt: skip

    apart = args.placement == "deployments"
    several = (args.model_replicas if apart else args.replicas) > 1
    windows = place(SharedWindows, "windows", 1).bind(config) if several else None
    ingress = place(serve.ingress()(Ingress), "ingress", args.replicas)
    if not apart:
        return cast(Application, ingress.bind(config, windows))
    models = {
        task: place(TaskModels, task, args.model_replicas).bind(task, config, windows if task == "failure" else None)
        for task in MODELS
    }
    return cast(Application, ingress.bind(config, None, models))
