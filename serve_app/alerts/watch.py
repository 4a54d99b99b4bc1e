"""Watch answers go by, off the way of requests: a queue that the services fill, and a thread that makes alerts of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from aiops_core.journal.privacy import Privacy
from aiops_core.settings import Settings
from serve_app.alerts.rules import ACTIONS, Rules, Seen
from serve_app.alerts.store import Store
from serve_app.journal.entries import About, Entry
from serve_app.journal.records import source_of
from serve_app.operations.remediation import Remediator
from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem

__all__ = ["Alerts", "alerts"]

WRITE_SECONDS, SWEEP_SECONDS = 0.5, 15.0
#: Answers that wait at most.
MOST = 50_000
#: The benign class.
_NORMAL = "normal"
_log = logging.getLogger("serve_app")


class Alerts:
    """Stands before the journal, hands every answer on and looks at it later.

    Parameters
    ----------
    journal : Recorder or Silent
    store : Store
    metrics : Metrics
    remediator : Remediator
        Tells the webhooks of `ACTIONS`.
    privacy : Privacy
        What the journal conceals, alerts conceal too.
    """

    def __init__(self, journal: Any, store: Store, metrics: Metrics, remediator: Remediator, privacy: Privacy) -> None:
        self._journal = journal
        self._store = store
        self._metrics = metrics
        self._remediator = remediator
        self._privacy = privacy
        self._queue: deque[Entry] = deque()
        self._dropped = metrics.counter("aiops_alerts_dropped_total")
        self._swept = 0.0
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-alerts", daemon=True)
        self.describe = journal.describe

    def put(self, entry: Entry, values: int) -> None:
        """Hand an answer on, and look at it later."""
        self._journal.put(entry, values)
        if len(self._queue) < MOST:
            self._queue.append(entry)
        else:
            self._dropped.inc()

    def start(self) -> None:
        """Make alerts from now on."""
        self._journal.start()
        self._thread.start()

    def close(self) -> None:
        """Look at what waits, and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._journal.close()

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(WRITE_SECONDS)
            try:
                self.look()
                if not stopping:
                    self._tell()
                self._failing = False
            except (OSError, sqlite3.Error) as error:
                if not self._failing:
                    _log.error("alerts cannot be kept, trying again: %s", error)
                self._failing = True
            except Exception:
                # A thread that ends would lose every alert that comes after, and nobody would know.
                _log.exception("the alerts met an error that nobody expected, and go on")
            if stopping:
                return

    def look(self) -> None:
        """Look at all that waits now."""
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        now = time.time()
        events: list[tuple[str, str]] = []
        if entries:
            # Most answers are quiet, and nobody waits for them: they cost a comparison each.
            living = self._store.living()
            seen = self._seen(entries, living, now - time.perf_counter())
            if seen:
                events += self._store.take(seen)
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            events += self._store.sweep(now)
        for task, event in events:
            self._metrics.counter("aiops_alerts_total", task=task, event=event).inc()

    def _seen(self, entries: list[Entry], living: set[tuple[str, str]], clock: float) -> list[Seen]:
        found: list[Seen] = []
        for entry in entries:
            about, outputs = entry.about, entry.outputs
            alarm = _alarms(about, outputs)
            if not alarm and not living:
                continue
            name = self._name(entry)
            # An alarm of nobody leads nobody anywhere.
            if name is None or not (alarm or (about.task, name) in living):
                continue
            living.add((about.task, name))
            prediction, probability = _said(about, outputs)
            at = clock + (entry.ended or time.perf_counter())
            found.append(
                Seen(about.task, name, alarm, at, entry.request_id, prediction, probability, about.version)
            )  # fmt: skip
        return found

    def _name(self, entry: Entry) -> str | None:
        if entry.about.task == "threat":
            return source_of(entry.subject, self._privacy)
        return self._privacy.text(entry.subject, "resource_id")

    def _tell(self) -> None:
        """Tell the webhooks what is due."""
        if not any(self._remediator.reaches(action) for action in ACTIONS):
            return
        for row in self._store.due(time.time()):
            if not self._remediator.reaches(row["action"]):
                self._store.sent(row["waiting"])
                continue
            result = "sent"
            try:
                asyncio.run(
                    self._remediator.execute(
                        row["action"],
                        row["resource_id"],
                        dry_run=False,
                        reason=_words(row),
                        request_id=row["request_id"],
                    )
                )
                self._store.sent(row["waiting"])
            except Problem as problem:
                again = self._store.failed(row["waiting"], row["tries"], time.time())
                result = "failed" if again else "given_up"
                _log.warning("alert %d is not heard of: %s", row["number"], problem.detail)
            self._metrics.counter("aiops_alert_webhooks_total", action=row["action"], result=result).inc()


def _alarms(about: About, outputs: tuple[Any, ...]) -> bool:
    if about.task == "failure":
        return bool(outputs[0] >= outputs[1])
    if about.task == "threat":
        return bool(about.classes[outputs[1]] != _NORMAL)
    return bool(outputs[1])


def _said(about: About, outputs: tuple[Any, ...]) -> tuple[str, float | None]:
    """Return the stated prediction, as the answer named it, and its probability."""
    if about.task == "failure":
        return "failure" if outputs[0] >= outputs[1] else "no_failure", float(outputs[0])
    if about.task == "threat":
        return about.classes[outputs[1]], float(outputs[0][outputs[1]])
    return "threshold_reached" if outputs[1] else "within_capacity", outputs[2]


def _words(row: dict[str, Any]) -> str:
    chance = "" if row["probability"] is None else f", probability {row['probability']:.2f}"
    said = f"alert {row['number']} ({row['task']}): {row['prediction']}{chance}, {row['alarms']} alarms"
    return f"{said}; closed: {row['why']}" if row["state"] == "closed" else said


def alerts(
    journal: Any, state: Path, metrics: Metrics, current: Settings, privacy: Privacy | None = None
) -> Alerts | Any:
    """Return what makes alerts of answers on their way to the journal, by the settings."""
    if current.alerts == "off":
        return journal
    remediator = Remediator(current.webhooks, current.webhook_secret, metrics)
    store = Store(state, Rules.of_settings(current), any(remediator.reaches(action) for action in ACTIONS))
    kept = privacy or Privacy(state, current.journal_drop, current.journal_hash)
    return Alerts(journal, store, metrics, remediator, kept)
