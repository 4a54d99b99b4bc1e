"""Traces: the header ``traceparent`` of W3C Trace Context, and spans to an OTLP endpoint where one is named.

Spans leave as OTLP over HTTP in its JSON form, which needs no library: a post to ``<endpoint>/v1/traces`` every second, by a
thread. What the collector does not take in time is dropped and counted in ``aiops_log_dropped_total``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib import request as urlrequest

__all__ = ["Exporter", "Trace", "current", "of"]

#: Spans that wait for the collector.
WAITING = 10_000
BATCH = 500
EXPORT_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_log = logging.getLogger("serve_app")


@dataclass(frozen=True)
class Trace:
    """Where a request stands in a trace.

    Attributes
    ----------
    trace_id, span_id : str
        Of the trace, and of what this service does for the request: 32 and 16 hexadecimal digits.
    parent : str
        Span of the caller; empty if the trace begins here.
    sampled : bool
        Whether the caller records the trace; a trace that begins here is recorded.
    """

    trace_id: str
    span_id: str
    parent: str = ""
    sampled: bool = True

    @property
    def header(self) -> str:
        """The ``traceparent`` to pass on."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


#: The trace of the request that is being answered, on every route that is no prediction.
current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def of(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """Return the trace that a request belongs to; a new one if its ``traceparent`` is missing, twice there or invalid."""
    found = [value for name, value in headers if name == b"traceparent"]
    span = os.urandom(8).hex()
    if len(found) == 1 and (match := _PARENT.fullmatch(found[0].strip())):
        version, trace, parent, flags, more = match.groups()
        # Later versions may append fields; version ff is forbidden, and so are ids of zeros.
        if version != b"ff" and not (version == b"00" and more) and trace.strip(b"0") and parent.strip(b"0"):
            return Trace(trace.decode(), span, parent.decode(), bool(int(flags, 16) & 1))
    return Trace(os.urandom(16).hex(), span)


class Exporter:
    """Send spans to a collector, from a thread of its own.

    Parameters
    ----------
    endpoint : str
        Base URL of the collector, as in ``OTEL_EXPORTER_OTLP_ENDPOINT``.
    headers : str
        ``name=value`` pairs, with commas between them, as in ``OTEL_EXPORTER_OTLP_HEADERS``.
    dropped : object with ``inc``
        Counts the spans that were given up.
    """

    def __init__(self, endpoint: str, headers: str, dropped: Any) -> None:
        self._url = endpoint.rstrip("/") + "/v1/traces"
        pairs = [pair.partition("=") for pair in headers.split(",") if "=" in pair]
        self._headers = {name.strip(): value.strip() for name, _, value in pairs}
        self._dropped = dropped
        self._spans: deque[dict[str, Any]] = deque()
        self._stop = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="aiops-spans", daemon=True)
        self._thread.start()

    def add(self, trace: Trace, name: str, start: float, end: float, failed: bool, fields: Mapping[str, Any]) -> None:
        """Queue the span of one request; `start` and `end` are seconds since 1970."""
        if not trace.sampled:
            return
        if len(self._spans) >= WAITING:
            self._dropped.inc()
            return
        self._spans.append(
            {
                "traceId": trace.trace_id,
                "spanId": trace.span_id,
                **({"parentSpanId": trace.parent} if trace.parent else {}),
                "name": name,
                "kind": 2,
                "startTimeUnixNano": str(int(start * 1e9)),
                "endTimeUnixNano": str(int(end * 1e9)),
                "attributes": [_attribute(key, value) for key, value in fields.items() if value is not None],
                "status": {"code": 2} if failed else {},
            }
        )

    def close(self) -> None:
        """Send what waits, and stop."""
        self._stop.set()
        self._thread.join(timeout=TIMEOUT_SECONDS)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(EXPORT_SECONDS)
            while self._spans:
                batch = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
                if not self._post(batch):
                    self._dropped.inc(len(batch))
                    break

    def _post(self, batch: list[dict[str, Any]]) -> bool:
        resource = {"attributes": [_attribute("service.name", "aiops"), _attribute("process.pid", os.getpid())]}
        scopes = [{"scope": {"name": "serve_app"}, "spans": batch}]
        body = json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}).encode()
        request = urlrequest.Request(self._url, body, {"Content-Type": "application/json", **self._headers})
        try:
            with urlrequest.urlopen(request, timeout=TIMEOUT_SECONDS):
                pass
        except (OSError, ValueError) as error:
            if not self._failing:
                _log.warning("spans cannot be sent to the collector, they are dropped: %s", error)
            self._failing = True
            return False
        self._failing = False
        return True


def _attribute(key: str, value: Any) -> dict[str, Any]:
    kind = "intValue" if isinstance(value, int) else "doubleValue" if isinstance(value, float) else "stringValue"
    return {"key": key, "value": {kind: str(value) if kind != "doubleValue" else value}}
