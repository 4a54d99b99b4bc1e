"""Write the journal of one process: a queue that services fill, and a thread that empties it into segments."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from aiops_core.journal import segments
from aiops_core.journal.privacy import Privacy
from aiops_core.journal.schema import SCHEMAS
from aiops_core.journal.versions import keep_version
from aiops_core.settings import Settings
from serve_app.journal.entries import About, Entry, asked
from serve_app.journal.records import batch_of
from serve_app.operations.telemetry import Metrics

__all__ = ["Recorder", "Silent", "recorder"]

WRITE_SECONDS = 0.25
#: Answers that wait at most, and values of their inputs.
MOST_ENTRIES, MOST_VALUES = 50_000, 16_000_000
#: Answers that become a record batch together, and the pause after them: requests go on meanwhile.
CHUNK, PAUSE_SECONDS = 256, 0.001
#: When a segment is sealed.
SEAL_BYTES, SEAL_SECONDS = 16 * 2**20, 3600.0
#: Between two looks at what dead processes left behind, and at size and age of all.
TIDY_SECONDS = 60.0
_log = logging.getLogger("serve_app")


class Silent:
    """Keeps nothing."""

    def put(self, entry: Entry, values: int) -> None:
        """Do nothing."""

    def describe(self, about: About) -> None:
        """Do nothing."""

    def start(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Recorder:
    """Take answers and write them down, at the latest a second later.

    Parameters
    ----------
    state : Path
        State folder.
    metrics : Metrics
    privacy : Privacy
    most_bytes, most_seconds : int, float
        Size and age of the whole journal of the state folder.
    seal_bytes, seal_seconds : int, float
        Size and age at which a segment is sealed.
    """

    def __init__(
        self,
        state: Path,
        metrics: Metrics,
        privacy: Privacy,
        *,
        most_bytes: int,
        most_seconds: float,
        seal_bytes: int = SEAL_BYTES,
        seal_seconds: float = SEAL_SECONDS,
    ) -> None:
        self._state = state
        self._privacy = privacy
        self._most = (most_bytes, most_seconds)
        self._seal = (seal_bytes, seal_seconds)
        self._node = socket.gethostname()
        self._queue: deque[Entry] = deque()
        self._values = 0
        self._written = {task: metrics.counter("aiops_journal_records_total", task=task) for task in SCHEMAS}
        self._full = metrics.counter("aiops_journal_dropped_total", reason="queue")
        self._lost = metrics.counter("aiops_journal_dropped_total", reason="disk")
        self._segments: dict[str, segments.Segment] = {}
        #: Kept as objects: the id of one that is gone could come again.
        self._described: set[About] = set()
        self._failing = False
        self._tidied = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-journal", daemon=True)

    def put(self, entry: Entry, values: int) -> None:
        """Take an answer, or drop it when too many wait; nothing else happens on the way of a request.

        Parameters
        ----------
        entry : Entry
        values : int
            Numbers that its inputs hold.
        """
        if not entry.ended:
            entry.ended = time.perf_counter()
            entry.key, entry.began = asked.get()
        if len(self._queue) >= MOST_ENTRIES or self._values > MOST_VALUES:
            self._full.inc()
            return
        self._values += values
        self._queue.append(entry)

    def describe(self, about: About) -> None:
        """Keep what the answers of a version mean that is not heard itself."""
        try:
            keep_version(self._state, about.task, about.version, about.card)
        except OSError as error:
            _log.error("version %d of %s cannot be described in the journal: %s", about.version, about.task, error)

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(WRITE_SECONDS)
            try:
                self._drain()
                self._turn()
                self._tidy()
            except Exception:
                # A thread that ends would lose all that comes after, and nobody would know.
                _log.exception("the journal met an error that nobody expected, and goes on")
            if stopping:
                for segment in self._segments.values():
                    segment.close()
                return

    def _drain(self) -> None:
        """Write all that waits now."""
        waiting = len(self._queue)
        while waiting:
            part = [self._queue.popleft() for _ in range(min(waiting, CHUNK))]
            waiting -= len(part)
            for task in SCHEMAS:
                mine = [entry for entry in part if entry.about.task == task]
                if mine:
                    self._write(task, mine)
            if waiting:
                self._stop.wait(PAUSE_SECONDS)
        if not self._queue:
            # Added to by another thread, so it cannot be counted down exactly.
            self._values = 0

    def _write(self, task: str, entries: Sequence[Entry]) -> None:
        clock = time.time() - time.perf_counter()
        for entry in entries:
            # Handed over outside of a request, where nobody knows when it was asked.
            entry.began = entry.began or entry.ended
        try:
            batch = batch_of(task, entries, clock, self._privacy)
            self._describe(entries)
            if task not in self._segments:
                folder = segments.folder_of(self._state, task)
                self._segments[task] = segments.Segment(folder, SCHEMAS[task], self._node)
            self._segments[task].append(batch)
        except (OSError, pa.ArrowException, ValueError, TypeError, LookupError) as error:
            self._lost.inc(len(entries))
            if not self._failing:
                _log.error("the journal cannot be written, records are dropped: %s", error)
            self._failing = True
            return
        self._failing = False
        self._written[task].inc(batch.num_rows)

    def _describe(self, entries: Sequence[Entry]) -> None:
        for about in {entry.about for entry in entries} - self._described:
            keep_version(self._state, about.task, about.version, about.card)
            self._described.add(about)

    def _turn(self) -> None:
        """Seal the segments that are long or old."""
        most, seconds = self._seal
        for task, segment in list(self._segments.items()):
            if segment.size > most or time.time() - segment.began > seconds:
                del self._segments[task]
                segment.close()
                try:
                    segments.seal(segment.path)
                except (OSError, pa.ArrowException) as error:
                    _log.error("the segment %s of the journal cannot be sealed yet: %s", segment.path, error)

    def _tidy(self) -> None:
        now = time.monotonic()
        if not self._tidied or now - self._tidied > TIDY_SECONDS:
            self._tidied = now
            try:
                segments.seal_left_behind(self._state, SCHEMAS, self._node)
                segments.retain(self._state, *self._most)
            except OSError as error:
                _log.error("old files of the journal cannot be removed: %s", error)


def recorder(state: Path, metrics: Metrics, current: Settings) -> Recorder | Silent:
    """Return what writes the journal, by the settings."""
    if current.journal == "off":
        return Silent()
    privacy = Privacy(state, current.journal_drop, current.journal_hash)
    return Recorder(
        state, metrics, privacy, most_bytes=current.journal_max_mb * 2**20, most_seconds=86_400 * current.journal_days
    )
