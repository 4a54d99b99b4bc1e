"""How busy a replica is, and what it refuses: gauges of one process, counters of refusals and limits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem

__all__ = ["Load"]

PULSE_SECONDS = 1.0
#: Reasons by status; others are called after their status.
REASONS = {
    400: "broken_request", 401: "no_key", 403: "scope", 404: "not_found", 405: "method", 408: "time", 409: "conflict",
    413: "body", 415: "content_type", 422: "invalid", 429: "rate", 431: "headers", 503: "not_available",
}  # fmt: skip
LIMITS = {408: "time", 413: "body", 429: "rate"}
#: Names of keys that get a label of their own; more than an operator would look at share one.
KEYS = 200


class Load:
    """Requests in flight, the wait for the event loop, refusals by reason, requests by key.

    Parameters
    ----------
    metrics : Metrics
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._in_flight = metrics.gauge("aiops_requests_in_flight", replica=metrics.replica)
        self._queue = metrics.gauge("aiops_queue_seconds", replica=metrics.replica)
        self._pulse: asyncio.Task[None] | None = None
        self._keys: dict[str, Any] = {}
        #: Requests under way. Written to shared memory with every pulse, and when the metrics may be asked for: twice a
        #: request would be dearer than all that the guard does.
        self.under_way = 0

    def show(self) -> None:
        """Write how many requests are under way."""
        self._in_flight.set(self.under_way)

    def let_in(self, key: str) -> None:
        """Count a request by the name of its key, which must come from the keys file."""
        slot = self._keys.get(key)
        if slot is None:
            named = key if len(self._keys) < KEYS else "other"
            slot = self._keys[key] = self._metrics.counter("aiops_key_requests_total", key=named)
        slot.inc()

    def refused(self, route: str, problem: Problem) -> None:
        """Count a refusal by its reason; a failure (500, 502) is none."""
        status = problem.status
        if status >= 500 and status != 503:
            return
        limit = LIMITS.get(status)
        if status == 503 and any(name.lower() == b"retry-after" for name, _ in problem.headers):
            limit = "queue"
        reason = limit or REASONS.get(status, str(status))
        self._metrics.counter("aiops_refusals_total", route=route, reason=reason).inc()
        if limit is not None:
            self._metrics.counter("aiops_limits_total", limit=limit).inc()

    def watch(self) -> None:
        """Begin to measure how busy the event loop is; called from within it, when the application starts."""
        if self._pulse is None:
            self._pulse = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            due = time.perf_counter() + PULSE_SECONDS
            await asyncio.sleep(PULSE_SECONDS)
            self.show()
            self._queue.set(max(0.0, time.perf_counter() - due))
