"""Answers that nobody hears, off the way of requests: of a shadow, and of the champion where a canary spoke.

It stands before the journal while a version answers beside the champion: an answer waits here until the other version has
answered too, and goes on with both. More than `MOST` do not wait: they go on without, and are counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.answers.second import second
from serve_app.answers.service import Champion, Service
from serve_app.journal.entries import CANARY, Entry, asked
from serve_app.operations.telemetry import Metrics

__all__ = ["Shadows"]

#: Answers that wait at most, and numbers of their inputs.
MOST, MOST_VALUES = 4_096, 4_000_000
#: Answers that go through a model together, and the pause after them: requests go on meanwhile.
CHUNK, PAUSE_SECONDS = 64, 0.001
WAIT_SECONDS = 0.05
_log = logging.getLogger("serve_app")


class Shadows:
    """Have other versions answer what was answered, in a thread.

    Parameters
    ----------
    journal : Recorder or Silent
        Takes the answers, with those of the other version.
    services : mapping of str to Service
        By task.
    metrics : Metrics
    """

    def __init__(self, journal: Any, services: Mapping[str, Service], metrics: Metrics) -> None:
        self._journal = journal
        self._services = services
        self._metrics = metrics
        self._queue: deque[tuple[Entry, int]] = deque()
        self._values = 0
        self._described: set[Any] = set()
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-shadow", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer what waits, and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def put(self, entry: Entry, values: int) -> None:
        """Take an answer, or hand it on as it is when too many wait."""
        # Only here is it known when the request began, and who sent it.
        entry.ended = time.perf_counter()
        entry.key, entry.began = asked.get()
        other = self._other(entry)
        if other is None:
            self._journal.put(entry, values)
        elif len(self._queue) >= MOST or self._values > MOST_VALUES:
            self._count(other, "dropped", 1)
            self._journal.put(entry, values)
        else:
            self._values += values
            self._queue.append((entry, values))

    def _other(self, entry: Entry) -> Champion | None:
        """Return the version that is asked as well; None for an answer by the rules."""
        if entry.about.version == 0:
            return None
        service = self._services[entry.about.task]
        return service.champion if entry.about.role == CANARY else service.shadow

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(WAIT_SECONDS)
            while self._queue:
                part = [self._queue.popleft() for _ in range(min(len(self._queue), CHUNK))]
                self._answer(part)
                time.sleep(PAUSE_SECONDS)
            # Added to by another thread, so it cannot be counted down exactly.
            self._values = 0
            if stopping:
                return

    def _answer(self, part: Sequence[tuple[Entry, int]]) -> None:
        groups: dict[int, list[Entry]] = {}
        for entry, _ in part:
            groups.setdefault(id(entry.about), []).append(entry)
        for entries in groups.values():
            # Asked again: it may have gone meanwhile.
            other = self._other(entries[0])
            if other is not None:
                self._second(entries, other)
        for entry, values in part:
            self._journal.put(entry, values)

    def _second(self, entries: Sequence[Entry], other: Champion) -> None:
        try:
            found = second(entries[0].about.task, entries, other)
        except Exception as error:
            # Whatever is wrong with an unheard version, nobody is to hear of it but the operator.
            self._count(other, "failed", len(entries))
            said = f"{other.name} version {other.version} does not answer unheard: {type(error).__name__}: {error}"
            if said != self._said:
                _log.warning("%s", said)
                self._said = said
            return
        if other.about not in self._described:
            self._described.add(other.about)
            self._journal.describe(other.about)
        for entry, shadow in zip(entries, found, strict=True):
            entry.shadow = shadow
        self._count(other, "answered", len(entries))

    def _count(self, other: Champion, result: str, amount: int) -> None:
        self._metrics.counter("aiops_shadow_total", model=other.name, result=result).inc(amount)
