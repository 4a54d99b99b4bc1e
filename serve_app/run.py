"""What `aiops serve` runs: Ray on the loopback interface, Serve with its fast settings, until Ctrl-C."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from aiops_core import files, settings
from aiops_core.errors import AiopsError, UsageError
from serve_app.cluster import haproxy, leftovers
from serve_app.guard import keys
from serve_app.guard.access import MARKER, is_loopback
from serve_app.operations import schedule

__all__ = ["FAST", "RunningService", "main"]

#: Read by Ray when it starts, so set before; a value in the environment wins. HAProxy instead of the Python proxy, no
#: thread hop inside a replica, one HAProxy thread for two cores, and none of HAProxy's per-request metrics: ours
#: are counted in the replicas.
FAST = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # HAProxy sends a log line for every request to a port where mostly nobody listens: one in ten thousand will do.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:10000",
    # A client that neither sends nor reads for so long is gone; Ray waits an hour.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    # Headers that are a little long are refused with a reason; the default of 16 KB would cut the connection.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "32768",
    # Three checks must fail before HAProxy is started again: a killed one is back within 5 s instead of 28.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    # Headers that Ray could not read would be answered by 500.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.http.request_ids:middlewares",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS": "0",
    "OMP_NUM_THREADS": "1",
    # Ray runs its workers at niceness 15: right for training, wrong for answering requests beside it.
    "RAY_worker_niceness": "0",
    # Silences a note about how Ray will treat accelerators that are not there.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: For a cluster of our own: all of its processes listen on the loopback interface only. Ray replaces the address 127.0.0.1
#: of a node by one that others can reach, unless told that clusters are not possible here, whatever the system is called.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
ATTEMPTS = 4
#: A second replica uses what the first one leaves of two cores; more would only take memory.
REPLICAS = min(2, os.cpu_count() or 1)
HEALTHY_SECONDS = 120.0
_APPLICATION = "aiops"


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port(preferred: int) -> int:
    if _free("0.0.0.0", preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(url: str, timeout: float = 2.0) -> dict[str, Any] | None:
    # Loopback never goes through a proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            content: dict[str, Any] = json.loads(answer.read())
            return content
    except (OSError, ValueError, urllib.error.URLError):
        return None


@cache
def _haproxy() -> tuple[str, dict[str, str]]:
    """Return HAProxy's folder and settings: one for this process, since Ray reads them once."""
    folder, own = haproxy.settings()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, own


def _environment() -> str:
    """Set what Ray reads at import and return HAProxy's folder; others on the machine may hold its usual ports."""
    for name, value in FAST.items():
        os.environ.setdefault(name, value)
    folder, own = _haproxy()
    for name, value in own.items():
        if name == haproxy.BINARY:
            # Ends in whatever program the environment named.
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_SERVE_HAPROXY_METRICS_PORT", str(_free_port(9101)))
    os.environ.setdefault("RAY_SERVE_HAPROXY_STATS_PORT", str(_free_port(8404)))
    return folder


def _check_keys(host: str, path: Path, marker: Path) -> None:
    """Refuse to be reachable by others without a key, or to start with keys that cannot be read.

    Raises
    ------
    UsageError
    """
    try:
        found = keys.read(path)
    except FileNotFoundError:
        found = []
        if marker.exists():
            raise UsageError(
                f"the keys file {path} is gone: put it back, make a key with aiops keys add, or, to serve without keys, "
                f"remove {marker}"
            ) from None
    if not found and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and there is no key yet: make one with "
            "aiops keys add NAME --scope read,predict,operate"
        )


class RunningService:
    """The service, as a context: starts Ray (or joins a cluster) and the application, and stops what it started.

    Parameters
    ----------
    port, host : int, str
        Where to listen.
    placement : {"ingress", "deployments"}
    replicas : int
    state_dir, tracking_uri : str, optional
        Default: `aiops_core.settings`.

    Raises
    ------
    UsageError
        On entry, if something else holds the port, the service does not get healthy, or others could reach it without a key.
    """

    def __init__(
        self,
        *,
        port: int = 8100,
        host: str = "127.0.0.1",
        placement: str = "ingress",
        replicas: int = REPLICAS,
        state_dir: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        self.port, self.host = port, host
        self._arguments: dict[str, Any] = {"placement": placement, "replicas": replicas, "tracking_uri": tracking_uri}
        self._state = Path(state_dir or settings.load().state_dir).resolve()
        self._started_ray = False
        self._record: leftovers.Record | None = None
        self._retraining: Any = None
        self._schedule: schedule.Schedule | None = None
        self.url = f"http://{host if host != '0.0.0.0' else '127.0.0.1'}:{port}"

    def __enter__(self) -> RunningService:
        from serve_app.champions.node import node_folder

        # Inherited by all that is started here.
        os.umask(0o077)
        files.private_folder(self._state)
        _check_keys(self.host, keys.location(self._state), self._state / MARKER)
        expression = settings.load().monitor_schedule
        due = schedule.times(expression) if expression else None
        node = node_folder(self._state)
        ended = leftovers.clear(node)
        if ended:
            print(f"ended {ended} processes that an earlier service left behind when it was killed", file=sys.stderr)
        if not _free(self.host, self.port):
            raise UsageError(
                f"port {self.port} on {self.host} is taken: stop what listens there or choose another --port"
            )
        address = settings.load().ray_address
        folder = _environment()
        if not address:
            os.environ.update(LOOPBACK)
            if "RAY_AUTH_MODE" not in os.environ:
                files.private_token(Path.home() / ".ray" / "auth_token")
            self._record = leftovers.Record(node, folder)
            self._record.start()
        import ray
        from ray import serve

        from serve_app.app import Args, build

        try:
            self._connect(ray, address)
            # Counters of an earlier service on this machine would be added to those of this one.
            if self._started_ray:
                shutil.rmtree(self._state / "metrics", ignore_errors=True)
            arguments = Args(state_dir=str(self._state), **self._arguments)
            serve.start(http_options={"host": self.host, "port": self.port}, logging_config={"log_level": "WARNING"})
            serve.run(build(arguments), name=_APPLICATION, route_prefix="/")
            self.health = self._wait()
            self._watch()
            if due is not None:
                self._schedule = schedule.Schedule(due, self._state, self._for_monitoring())
                self._schedule.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _watch(self) -> None:
        """Train again when the settings say so."""
        from serve_app.app import absolute_uri
        from serve_app.operations.jobs import Jobs
        from serve_app.operations.retraining import Retraining, wanted
        from serve_app.operations.telemetry import Metrics

        current = settings.load()
        if not wanted(current):
            return
        uri = absolute_uri(self._arguments["tracking_uri"] or current.mlflow_tracking_uri)
        environment = {"MLFLOW_TRACKING_URI": uri, "AIOPS_STATE_DIR": str(self._state)}
        jobs = Jobs(
            self._state / "jobs", Metrics(self._state / "metrics", flush=False), environment, keep=current.keep_jobs
        )
        self._retraining = Retraining(self._state, jobs, current, environment)
        self._retraining.start()

    def _for_monitoring(self) -> dict[str, str]:
        """Return what a run of the monitoring must know of this service."""
        current = settings.load()
        uri = self._arguments["tracking_uri"] or current.mlflow_tracking_uri
        return {"AIOPS_STATE_DIR": str(self._state), "AIOPS_HOME": str(current.home), "MLFLOW_TRACKING_URI": uri}

    def _connect(self, ray: Any, address: str | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if address:
            ray.init(address=address, **options)
            return
        for attempt in range(1, ATTEMPTS + 1):
            try:
                ray.init(include_dashboard=False, **options)
                self._started_ray = True
                return
            except Exception as error:
                # Ray raises bare Exception when its node agent misses a fixed 15 s deadline, as it does on a busy machine.
                ray.shutdown()
                if attempt == ATTEMPTS:
                    raise UsageError(f"Ray did not start in {ATTEMPTS} attempts: {error}") from error

    def _wait(self) -> dict[str, Any]:
        deadline = time.time() + HEALTHY_SECONDS
        while time.time() < deadline:
            health = _get(f"{self.url}/api/v3/aiops/health")
            if health is not None and health.get("status") == "healthy":
                return health
            time.sleep(0.1)
        raise UsageError(
            f"the service did not become healthy within {HEALTHY_SECONDS:g} s; see /tmp/ray/session_latest/logs"
        )

    def __exit__(self, *exception: object) -> None:
        try:
            if self._schedule is not None:
                self._schedule.close()
            self._stop()
        finally:
            if self._record is not None:
                self._record.close()

    def _stop(self) -> None:
        import ray
        from ray import serve

        from serve_app.operations.jobs import Jobs
        from serve_app.operations.telemetry import Metrics

        if self._retraining is not None:
            self._retraining.close()
        if not ray.is_initialized():
            return
        try:
            if self._started_ray:
                Jobs(self._state / "jobs", Metrics(self._state / "metrics", flush=False), {}).cancel_all()
                serve.shutdown()
            else:
                serve.delete(_APPLICATION)
        except Exception as error:
            print(f"Serve did not shut down cleanly: {error}", file=sys.stderr)
        finally:
            ray.shutdown()


def _announce(service: RunningService) -> None:
    url, prefix = service.url, f"{service.url}/api/v3/aiops"
    loaded = service.health.get("models_loaded")
    print("serving callers with a key" if loaded is None else f"serving {len(loaded)} models: {', '.join(loaded)}")
    if not service.health["ready"]:
        print(
            "some models have no champion yet: train them with aiops report, or see what waits with aiops models list"
        )
    print(f"  docs    {url}/docs\n  schema  {url}/schema\n  health  {prefix}/health\n  metrics {prefix}/metrics")
    body = '{"source_ip": "192.168.1.100", "failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}'
    print(
        f"try:\n  curl {prefix}/predict/threat -H 'Content-Type: application/json' -d '{body}'\nCtrl-C stops it",
        flush=True,
    )


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C.

    Returns
    -------
    int
        0 after Ctrl-C, 2 if it cannot start (one sentence on standard error).
    """
    parser = argparse.ArgumentParser(prog="aiops serve", description="Serve the champions over HTTP on Ray Serve.")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--placement", choices=["ingress", "deployments"], default="ingress")
    parser.add_argument("--replicas", type=int, default=REPLICAS)
    options = parser.parse_args(argv)
    if not 1 <= options.port <= 65535 or options.replicas < 1:
        print("aiops serve: --port must lie within 1 and 65535, and --replicas be at least 1", file=sys.stderr)
        return 2
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: _interrupt(stop))
    try:
        with RunningService(**vars(options)) as service:
            _announce(service)
            # Ray installs handlers of its own on start.
            for sign in (signal.SIGINT, signal.SIGTERM):
                signal.signal(sign, lambda *_: stop.set())
            stop.wait()
            for sign in (signal.SIGINT, signal.SIGTERM):
                signal.signal(sign, signal.SIG_IGN)
            print("stopping", flush=True)
    except KeyboardInterrupt:
        return 0
    except AiopsError as error:
        print(f"aiops serve: {error}", file=sys.stderr)
        return 2
    return 0


def _interrupt(stop: threading.Event) -> None:
    """Before the service stands, Ctrl-C ends the start itself."""
    if stop.is_set():
        return
    stop.set()
    raise KeyboardInterrupt
