"""The watcher, a thread in every serving process: it takes the champions into service that the pointer file names."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable
from aiops_core.errors import AiopsError
from serve_app.answers.service import Champion, Service
from serve_app.champions.beside import Beside
from serve_app.champions.liveness import follower_runs
from serve_app.champions.node import POINTER, POLL_SECONDS, read_pointer
from serve_app.operations.telemetry import Histogram, Metrics

__all__ = ["STALE_SECONDS", "WATCH_SECONDS", "ChampionWatcher"]

_log = logging.getLogger("serve_app")

WATCH_SECONDS = 0.2
#: Methods by which a servable is called, whichever it has.
CALLS = ("predict", "forecast", "explain")
#: Looks at the pointer file between two looks at the follower.
LIVENESS_TURNS = 5
#: The registry counts as unreachable when the follower has not reached it for this long.
STALE_SECONDS = 45.0


def timed(loaded: Any, histogram: Histogram) -> None:
    """Have every call of a servable measured; what one method asks of another belongs to its call."""
    observe, clock = histogram.observe, time.perf_counter
    inside = False

    def measured(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal inside
            if inside:
                return method(*args, **options)
            inside, started = True, clock()
            try:
                return method(*args, **options)
            finally:
                inside = False
                observe(clock() - started)

        return call

    for name in CALLS:
        if hasattr(loaded, name):
            setattr(loaded, name, measured(getattr(loaded, name)))


class ChampionWatcher:
    """Load the champions of some services as the pointer file names them.

    Parameters
    ----------
    folder : Path
        Of this node.
    services : mapping of str to Service
        By registered model name.
    metrics : Metrics
    loader : callable, optional
        Folder to verified servable; `aiops_core.servable.load` by default.
    """

    def __init__(
        self,
        folder: Path,
        services: Mapping[str, Service],
        metrics: Metrics,
        loader: Callable[[str], Any] = servable.load,
    ) -> None:
        self._folder = folder
        self._services = dict(services)
        self._metrics = metrics
        self._loader = loader
        self._seen: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-watch", daemon=True)
        self._tried: dict[str, tuple[Any, ...]] = {}
        #: Model name to version and reason of the last refusal, by the follower and by this process.
        self._by_follower: dict[str, dict[str, str]] = {}
        self._by_us: dict[str, dict[str, str]] = {}
        self.registry: dict[str, Any] = {}
        self._beside = Beside(folder, self._services, metrics, self._load)
        self._up = metrics.gauge("aiops_registry_up", replica=metrics.replica)
        self._follower = metrics.gauge("aiops_follower_up", replica=metrics.replica)

    def start(self, wait_seconds: float = 30.0) -> None:
        """Load what the pointer file names, then go on watching.

        Parameters
        ----------
        wait_seconds : float
            How long to wait for the first answer of the follower. Models of an earlier run are served meanwhile.
        """
        started = time.time()
        self.look()
        while time.time() - started < wait_seconds:
            asked = self.registry.get("asked")
            if asked is not None and asked >= started - POLL_SECONDS:
                break
            time.sleep(0.1)
            self.look()
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        for turn in itertools.count():
            if self._stop.wait(WATCH_SECONDS):
                return
            self.look()
            self._beside.report()
            if turn % LIVENESS_TURNS == 0:
                self.feel()

    def feel(self) -> None:
        """Say in the metrics whether the follower runs and the registry answers it."""
        runs = follower_runs(self.registry)
        reachable = self.registry_status()["reachable"]
        self._follower.set(float(reachable if runs is None else runs))
        self._up.set(float(reachable and runs is not False))

    def look(self) -> None:
        """Take what changed in the pointer file into service."""
        try:
            state = (self._folder / POINTER).stat()
        except OSError:
            return
        seen = (state.st_mtime_ns, state.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        content = read_pointer(self._folder)
        if not content:
            # Not read, for want of a file handle say: looked at again.
            self._seen = None
            return
        self.registry = content.get("registry", {})
        self.feel()
        before, self._by_follower = self._by_follower, {}
        for name, reason in content.get("refused", {}).items():
            if name in self._services:
                self._by_follower[name] = {"version": reason["version"], "reason": reason["reason"]}
                if before.get(name) != self._by_follower[name]:
                    self._say(name, self._by_follower[name])
        for name in content.get("vacant", []):
            if name in self._services:
                self._vacate(name)
        for name, entry in content.get("models", {}).items():
            if name in self._services:
                self._take(name, entry)
        self._beside.look(content)

    @property
    def refused(self) -> dict[str, dict[str, str]]:
        """Model name to version and reason of the last refusal."""
        return {**self._by_follower, **self._by_us}

    def beside(self, name: str) -> list[dict[str, Any]]:
        """Describe what answers beside the champion of a model, for ``models/status``."""
        return self._beside.status(name)

    def _vacate(self, name: str) -> None:
        """Take a model out of service whose alias was removed."""
        service = self._services[name]
        self._by_us.pop(name, None)
        self._tried.pop(name, None)
        if service.champion is not None:
            self._info(service.champion).set(0.0)
            service.retire()
            _log.warning("%s has no champion in the registry any more: taken out of service", name)

    def _take(self, name: str, entry: Mapping[str, Any]) -> None:
        service = self._services[name]
        champion = service.champion
        version, run_id = str(entry["version"]), str(entry["run_id"])
        number = (entry.get("recalibration") or {}).get("number")
        served = None if champion is None else (champion.version, champion.run_id, champion.recalibration)
        if served == (version, run_id, number):
            # Back to what is served: nothing is refused any more.
            self._by_us.pop(name, None)
            self._tried.pop(name, None)
            return
        attempt = (version, run_id, number, entry.get("fetched"))
        if self._tried.get(name) == attempt:
            return
        self._tried[name] = attempt
        try:
            fresh = self._load(name, entry)
            service.install(fresh)
        except Exception as error:
            # Whatever is wrong with a new model, the old one goes on serving.
            refusal = {"version": version, "reason": str(error) or type(error).__name__}
            if self._by_us.get(name) != refusal:
                self._by_us[name] = refusal
                self._say(name, refusal)
            return
        self._by_us.pop(name, None)
        if champion is not None:
            self._info(champion).set(0.0)
        self._info(fresh).set(1.0)
        self._metrics.counter("aiops_reloads_total", model=name, result="loaded").inc()

    def _load(self, name: str, entry: Mapping[str, Any]) -> Champion:
        """Return the verified model of an entry of the pointer file, its calls timed."""
        task, version = self._services[name].task, str(entry["version"])
        loaded = self._loader(entry["folder"])
        if loaded.task != task:
            raise AiopsError(f"the servable is for task '{loaded.task}', not '{task}'")
        loaded = servable.as_answering(loaded, entry.get("recalibration"))
        timed(loaded, self._metrics.histogram("aiops_model_seconds", model=name, version=version))
        return Champion(loaded, name, version, str(entry["run_id"]), entry.get("alias"), entry.get("created"))

    def _info(self, champion: Champion) -> Any:
        kind = str(champion.servable.card.get("kind"))
        labels = {
            "model": champion.name,
            "version": str(champion.version),
            "kind": kind,
            "replica": self._metrics.replica,
        }
        return self._metrics.gauge("aiops_model_info", **labels)

    def _say(self, name: str, refusal: Mapping[str, str]) -> None:
        _log.warning("%s version %s is refused: %s", name, refusal["version"], refusal["reason"])
        self._metrics.counter("aiops_reloads_total", model=name, result="refused").inc()

    def registry_status(self) -> dict[str, Any]:
        """Describe the registry for ``models/status``."""
        asked, error = self.registry.get("asked"), self.registry.get("error")
        fresh = asked is not None and time.time() - asked < STALE_SECONDS
        reachable = bool(fresh and not error)
        if error is None and not fresh:
            error = "the follower has not reported yet" if asked is None else "the follower has stopped reporting"
        return {"reachable": reachable, "error": error, "reached": self.registry.get("reached")}
