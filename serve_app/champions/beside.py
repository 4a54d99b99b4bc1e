"""Shadow and canary of a serving process: taken into service as the pointer file names them, reported when stopped."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serve_app.answers.service import Champion, Service
from serve_app.champions.companions import ALIASES, CANARY, parts, slot
from serve_app.champions.node import socket_path
from serve_app.operations.telemetry import Metrics

__all__ = ["Beside"]

#: How often the follower is told of a stopped canary until the pointer file does not name it any more, and its time to answer.
TELL_SECONDS = 5.0
_log = logging.getLogger("serve_app")


class Beside:
    """What answers beside the champions of some services.

    Parameters
    ----------
    folder : Path
        Of this node.
    services : mapping of str to Service
        By registered model name.
    metrics : Metrics
    load : callable
        Model name and entry of the pointer file to a verified `Champion`.
    """

    def __init__(
        self,
        folder: Path,
        services: Mapping[str, Service],
        metrics: Metrics,
        load: Callable[[str, Mapping[str, Any]], Champion],
    ) -> None:
        self._folder = folder
        self._services = services
        self._metrics = metrics
        self._load = load
        #: By slot: what is in service, and what was tried last.
        self._in: dict[str, tuple[Any, ...]] = {}
        self._tried: dict[str, tuple[Any, ...]] = {}
        self._why: dict[str, dict[str, str]] = {}
        self._stopped: Mapping[str, Any] = {}
        self._told: dict[str, float] = {}

    def look(self, content: Mapping[str, Any]) -> None:
        """Take what the pointer file names into service, and out what it does not name any more."""
        self._stopped = content.get("stopped", {})
        named = content.get("companions", {})
        refused = content.get("refused", {})
        for name in self._services:
            for alias in ALIASES:
                place = slot(name, alias)
                if place in refused:
                    self._why[place] = {key: refused[place][key] for key in ("version", "reason")}
                else:
                    self._why.pop(place, None)
                if place in named:
                    self._take(place, named[place])
                elif place in self._in:
                    self._out(place)

    def _take(self, place: str, entry: Mapping[str, Any]) -> None:
        name, alias = parts(place)
        number = (entry.get("recalibration") or {}).get("number")
        wanted = (*(entry.get(key) for key in ("version", "run_id", "share", "fetched")), number)
        if self._in.get(place) == wanted or self._tried.get(place) == wanted:
            return
        self._tried[place] = wanted
        try:
            fresh = self._load(name, {**entry, "alias": alias})
            self._services[name].accompany(fresh, float(entry.get("share") or 0.0))
        except Exception as error:
            # Whatever is wrong with it, the champion answers.
            self._why[place] = {"version": str(entry["version"]), "reason": str(error) or type(error).__name__}
            _log.warning("%s version %s is refused: %s", place, entry["version"], error)
            self._metrics.counter("aiops_reloads_total", model=name, result="refused").inc()
            return
        if place in self._in:
            self._info(place).set(0.0)
        self._in[place] = wanted
        self._info(place).set(1.0)
        self._metrics.counter("aiops_reloads_total", model=name, result="loaded").inc()

    def _out(self, place: str) -> None:
        name, alias = parts(place)
        self._services[name].part(alias)
        self._info(place).set(0.0)
        del self._in[place]
        self._tried.pop(place, None)
        self._told.pop(place, None)

    def _info(self, place: str) -> Any:
        name, alias = parts(place)
        version = str(self._in[place][0])
        return self._metrics.gauge(
            "aiops_companion_info", model=name, version=version, alias=alias, replica=self._metrics.replica
        )

    def report(self) -> None:
        """Tell the follower which canaries the guard rails of this process stopped."""
        for name, service in self._services.items():
            canary, place = service.canary, slot(name, CANARY)
            if canary is None or not canary.stopped:
                continue
            if place not in self._told:
                _log.warning("%s version %s stops answering: %s", name, canary.champion.version, canary.stopped)
                self._metrics.counter("aiops_canary_stopped_total", model=name).inc()
            elif time.monotonic() - self._told[place] < TELL_SECONDS:
                continue
            self._told[place] = time.monotonic()
            self._tell({"do": "stop", "name": name, "version": canary.champion.version, "reason": canary.stopped})

    def _tell(self, command: Mapping[str, Any]) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TELL_SECONDS)
                connection.connect(str(socket_path(self._folder)))
                connection.sendall(json.dumps(command).encode() + b"\n")
                connection.recv(1 << 16)
        except OSError as error:
            # It stays out of this process, and is reported again.
            _log.warning("the follower does not answer: %s", error)

    def status(self, name: str) -> list[dict[str, Any]]:
        """Describe what answers, was refused or was stopped beside the champion of a model."""
        found = []
        for alias in ALIASES:
            place = slot(name, alias)
            entry: dict[str, Any] = {"alias": alias}
            if place in self._in:
                version, run_id, share, _, number = self._in[place]
                more = {"share": share, "recalibration": number}
                entry |= {"version": version, "run_id": run_id} | {k: v for k, v in more.items() if v is not None}
            if place in self._why:
                entry["refused"] = self._why[place]
            if place in self._stopped:
                entry["stopped"] = {key: self._stopped[place][key] for key in ("version", "reason")}
            if len(entry) > 1:
                found.append(entry)
        return found
