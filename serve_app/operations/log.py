"""The request log: one JSON line for each request of note, and a span for each request where a collector is named.

Of note is a request that was refused (4xx), that failed (5xx), that was slow, or that changes something (training, promotion,
remediation and the like). A line holds what an operator asks first and never anything of a body::

    {"time": "2026-11-24T12:00:00.123Z", "level": "warning", "event": "refused", "request_id": "…", "trace_id": "…",
     "route": "predict/threat", "method": "POST", "status": 422, "milliseconds": 0.41, "bytes": 311, "key": "-",
     "model_version": "3"}

Lines go to ``log.jsonl`` in the node's folder of the state folder, those of all replicas to the same file; at `MAX_BYTES` it
becomes ``log.jsonl.1``. The event loop only appends to a queue: a thread writes. What finds the queue full, or the disk,
is dropped and counted in ``aiops_log_dropped_total``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from serve_app.files import append_line
from serve_app.guard.access import KEY
from serve_app.operations import tracing
from serve_app.operations.telemetry import Metrics

__all__ = ["FILE", "RequestLog"]

FILE = "log.jsonl"
#: Lines that wait to be written.
WAITING = 10_000
MAX_BYTES = 50_000_000
#: How long the thread gathers lines before it writes.
GATHER_SECONDS = 0.05
_CHANGES = ("POST", "DELETE", "PUT", "PATCH")
_logger = logging.getLogger("serve_app")

Scope = MutableMapping[str, Any]


class RequestLog:
    """Write the requests of note.

    Parameters
    ----------
    path : Path, optional
        Without one nothing is written.
    mode : {"note", "all", "off"}
        What is written: the requests of note, all, or none.
    slow : float
        Seconds from which a request is slow.
    metrics : Metrics, optional
        Count what was dropped.
    endpoint, headers : str
        Of an OTLP collector, see `serve_app.operations.tracing.Exporter`; none by default.

    Attributes
    ----------
    every : bool
        Whether every request is handed to `note`, not only those of note.
    slow : float
        Seconds from which a request must be handed to it.
    """

    def __init__(
        self,
        path: Path | None = None,
        mode: Literal["note", "all", "off"] = "off",
        slow: float = 1.0,
        metrics: Metrics | None = None,
        *,
        endpoint: str = "",
        headers: str = "",
    ) -> None:
        self._path = None if mode == "off" else path
        self._all = mode == "all" and path is not None
        self._slow = slow
        self._dropped = None if metrics is None else metrics.counter("aiops_log_dropped_total", to="file")
        self._spans = None
        if endpoint and metrics is not None:
            lost = metrics.counter("aiops_log_dropped_total", to="otlp")
            self._spans = tracing.Exporter(endpoint, headers, lost)
        self.every = self._all or self._spans is not None
        self.slow = math.inf if self._path is None else slow
        self._lines: deque[dict[str, Any]] = deque()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def note(
        self,
        scope: Scope,
        request_id: str,
        route: str,
        status: int,
        seconds: float,
        size: int,
        *,
        changing: bool,
        version: str | None,
    ) -> None:
        """Take down one request, if it is of note; called when it has been answered.

        Parameters
        ----------
        scope : dict
            Of the ASGI request.
        request_id, route : str
        status : int
        seconds : float
            How long it took.
        size : int
            Bytes of the answer's body.
        changing : bool
            Whether the route changes something when it is posted to.
        version : str or None
            Of the model in service on the route, where it is known.
        """
        if self._path is None and self._spans is None:
            return
        event = _event(status, seconds >= self._slow, changing and scope["method"] in _CHANGES)
        trace = scope.get("aiops.trace") or tracing.of(scope["headers"])
        now = time.time()
        method = scope["method"][:16]
        fields = {
            "request_id": request_id,
            "route": route,
            "method": method,
            "status": status,
            "milliseconds": round(1e3 * seconds, 3),
            "bytes": size,
            "key": scope.get(KEY) or "-",
            "model_version": version,
        }
        if self._spans is not None:
            named = {f"http.{k}" if k in ("route",) else f"aiops.{k}": v for k, v in fields.items()}
            named |= {"http.request.method": method, "http.response.status_code": status}
            self._spans.add(trace, f"{method} {route}", now - seconds, now, status >= 500, named)
        if self._path is None or (event == "answered" and not self._all):
            return
        level = "error" if status >= 500 else "warning" if event in ("refused", "slow") else "info"
        self._put({"time": now, "level": level, "event": event, "trace_id": trace.trace_id, **fields})

    def _put(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= WAITING:
            self._drop(1)
            return
        self._lines.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aiops-log", daemon=True)
            self._thread.start()
        self._wake.set()

    def _drop(self, lines: int) -> None:
        if self._dropped is not None:
            self._dropped.inc(lines)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._spans is not None:
            self._spans.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._stop.wait(GATHER_SECONDS)
            self._wake.clear()
            self._write([self._lines.popleft() for _ in range(len(self._lines))])

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if not lines or self._path is None:
            return
        text = "".join(json.dumps({**line, "time": _iso(line["time"])}) + "\n" for line in lines)
        try:
            self._turn()
            append_line(self._path, text.encode())
        except OSError as error:
            self._drop(len(lines))
            if not self._failing:
                _logger.error("the request log cannot be written, its lines are dropped: %s", error)
            self._failing = True
            return
        self._failing = False

    def _turn(self) -> None:
        """Begin a new file when this one is long."""
        assert self._path is not None
        with suppress(FileNotFoundError), open(self._path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                # One replica turns it; the others then find another file at the path.
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    self._path.replace(self._path.with_name(FILE + ".1"))


def _event(status: int, slow: bool, written: bool) -> str:
    """Say what is notable about a request."""
    if status >= 500:
        return "failed"
    if status >= 400:
        return "refused"
    return "written" if written else "slow" if slow else "answered"


def _iso(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
