"""A steady load over several routes that counts every answer and says what became of each request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

__all__ = ["ROUTES", "Load", "Outcome"]

PREFIX = "/api/v3/aiops/"
TIMEOUT_SECONDS = 20.0
#: Pause of each connection between two requests: the load is steady, not the most that is possible.
PAUSE_SECONDS = 0.01
SNAPSHOT = {"cpu_usage": 35.0, "memory_usage": 50.0, "disk_io": 200.0, "network_errors": 2.0}
#: What is asked in turn.
ROUTES: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("predict/threat", {"source_ip": "10.0.0.1", "failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}),
    ("predict/failure", {"resource_id": "load", "metrics": SNAPSHOT}),
    ("predict/capacity", {"resource_id": "load", "historical_data": {"cpu_usage": [50, 55, 61]}, "forecast_days": 1}),
    ("predict/threat", {"instances": [{"failed_auth_count": 25}] * 20}),
    ("analyze/anomaly", {"resource_id": "load", "metrics": SNAPSHOT}),
    ("health", None),
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Outcome:
    """What became of the requests of a load.

    Attributes
    ----------
    answers : Counter
        ``ok``, ``problem`` (an error as problem details), ``closed`` (the connection ended before the answer), ``refused``
        (no connection), ``plain`` (an error that is no problem details) and ``hung`` (no answer within `TIMEOUT_SECONDS`).
    statuses : Counter
        Of the answers that were no success.
    times : list of float
        When successes arrived, seconds of the monotonic clock.
    """

    answers: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.answers.values())

    @property
    def failed(self) -> int:
        """Those without a success."""
        return self.requests - self.answers["ok"]

    @property
    def gap(self) -> float:
        """Longest time without a success, seconds."""
        marks = [self.began, *sorted(self.times), self.ended or time.monotonic()]
        return max(later - earlier for earlier, later in zip(marks, marks[1:], strict=False))


class Load:
    """Ask the service, from a thread of its own, until told to stop.

    Parameters
    ----------
    port : int
    connections : int
    headers : mapping of str to str
        Sent with every request, a key say.
    routes : sequence
        Path and body of what is asked.
    """

    def __init__(
        self,
        port: int,
        connections: int = 8,
        headers: dict[str, str] | None = None,
        routes: Sequence[tuple[str, dict[str, Any] | None]] = ROUTES,
    ) -> None:
        self.outcome = Outcome()
        self._port = port
        self._connections = connections
        self._requests = [request(path, body, headers) for path, body in routes]
        self._turn = count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.outcome.ended = time.monotonic()

    async def _all(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(self._connections)))

    async def _one(self) -> None:
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stop.is_set():
            asked = self._requests[next(self._turn) % len(self._requests)]
            kind, status, link = await ask(self._port, asked, link)
            if kind == "ok":
                self.outcome.times.append(time.monotonic())
            elif status:
                self.outcome.statuses[status] += 1
            self.outcome.answers[kind] += 1
            await asyncio.sleep(PAUSE_SECONDS if kind == "ok" else 10 * PAUSE_SECONDS)
        if link is not None:
            link[1].close()


def request(path: str, body: dict[str, Any] | None, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {PREFIX}{path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"] if body is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + content


async def ask(port: int, asked: bytes, link: Any) -> tuple[str, int, Any]:
    """Send one request; returns what became of it, the status, and the connection if it can be used again."""
    status = 0
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if link is None:
                try:
                    link = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    return "refused", 0, None
            reader, writer = link
            writer.write(asked)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            length = _LENGTH.search(head)
            content = await (reader.readexactly(int(length[1])) if length else reader.read())
    except TimeoutError:
        kind, link = "hung", _closed(link)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError):
        kind, link = "closed", _closed(link)
    else:
        lowered = head.lower()
        if length is None or b"\r\nconnection: close" in lowered:
            link = _closed(link)
        problem = b"application/problem+json" in lowered and content.startswith(b"{")
        kind = "ok" if status < 400 else "problem" if problem else "plain"
    return kind, status, link


def _closed(link: Any) -> None:
    if link is not None:
        with contextlib.suppress(OSError):
            link[1].close()
