"""The Ray Serve application: `build(args) -> Application`, for Python and for Serve config files alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from aiops_core import settings
from aiops_core.facts import MODELS
from serve_app.answers.windows import Windows
from serve_app.backends import LocalModels, RemoteModels
from serve_app.operations.telemetry import Metrics
from serve_app.wire.limits import MB, Limits

__all__ = ["Args", "build"]

#: Small shares: the processes share cores, and four whole ones would not fit on two.
CPUS = 0.1
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


def _answer_at_once() -> None:
    """Spare two tasks a request: nobody here looks out for clients that hang up.

    Ray Serve does so by itself for requests that carry the header ``x-request-disconnect-disabled: ?1``; this treats all
    of them like that, since a prediction is over before a hang-up could be noticed. Worth a fifth of the time of a
    request. If a release of Ray names its function otherwise, everything works as before, only slower.
    """
    from ray.serve._private import replica

    if hasattr(replica, "parse_disconnect_disabled_header"):
        replica.parse_disconnect_disabled_header = lambda headers: True


class _Process:
    """What every serving process starts: metrics, and the follower's supervisor."""

    def __init__(self, config: dict[str, Any]) -> None:
        # Only here, in the serving process: one core each, however many the machine has.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
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
        buffer = None if windows is None else RemoteWindows(windows)
        self._models = LocalModels([task], self._process.folder, self._process.metrics, buffer, limits=config["limits"])
        self._models.start(30.0 if config["follow"] else 0.0)

    async def call(self, route: str, body: bytes, request_id: str) -> tuple[int, Any]:
        """See `LocalModels.call`."""
        return await self._models.call(route, body, request_id)

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


class SharedWindows:
    """Deployment of the one snapshot buffer that several replicas ask."""

    def __init__(self) -> None:
        self._windows = Windows()

    async def append(self, resource_id: str, row: Any, options: dict[str, Any]) -> Any:
        """See `Windows.append`."""
        return self._windows.append(resource_id, row, **options)


class RemoteWindows:
    """`Windows` behind a handle."""

    def __init__(self, handle: Any) -> None:
        self._append = handle.append

    async def append(self, resource_id: str, row: Any, **options: Any) -> Any:
        """See `Windows.append`."""
        return await self._append.remote(resource_id, row, options)


class Ingress:
    """Deployment of the HTTP application."""

    def __init__(
        self, config: dict[str, Any], windows: Any | None = None, models: dict[str, Any] | None = None
    ) -> None:
        from serve_app.champions.client import Registry
        from serve_app.http.handlers import Services
        from serve_app.operations.jobs import Jobs
        from serve_app.operations.remediation import Remediator

        self._process = process = _Process(config)
        state = Path(config["state_dir"])
        if models is None:
            buffer = None if windows is None else RemoteWindows(windows)
            local = LocalModels(list(MODELS), process.folder, process.metrics, buffer, limits=config["limits"])
            local.start(30.0 if config["follow"] else 0.0)
            backend: Any = local
        else:
            backend = RemoteModels(models, (BackPressureError, DeploymentUnavailableError))
        current = settings.load()
        self._services = Services(
            backend=backend,
            metrics=process.metrics,
            registry=Registry(process.folder),
            jobs=Jobs(state / "jobs", process.metrics, process.environment),
            remediator=Remediator(current.webhooks, current.webhook_secret, state / "audit.jsonl", process.metrics),
            limits=config["limits"],
        )

    def __serve_build_asgi_app__(self) -> Any:
        from serve_app.http.api import build_api

        _answer_at_once()
        # Ray Serve names every answer's request itself, see `serve_app.http.request_ids`.
        return build_api(self._services, header=False)

    def check_health(self) -> None:
        """Ray Serve asks now and then; an exception would replace the replica."""

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            process.supervisor.close()


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
    config = {
        "state_dir": str(state),
        "tracking_uri": absolute_uri(args.tracking_uri or current.mlflow_tracking_uri),
        "follow": args.follow,
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
    windows = place(SharedWindows, "windows", 1).bind() if several else None
    ingress = place(serve.ingress()(Ingress), "ingress", args.replicas)
    if not apart:
        return cast(Application, ingress.bind(config, windows))
    models = {
        task: place(TaskModels, task, args.model_replicas).bind(task, config, windows if task == "failure" else None)
        for task in MODELS
    }
    return cast(Application, ingress.bind(config, None, models))
