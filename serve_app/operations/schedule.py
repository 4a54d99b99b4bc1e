"""Run the monitoring of the service at the times of a cron expression, in a process of its own.

One thread of the process that starts the service: several replicas or nodes do not run it several times.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from aiops_core import settings
from aiops_core.errors import UsageError

__all__ = ["Schedule", "times"]

_log = logging.getLogger("serve_app")


def times(expression: str, start: datetime | None = None) -> Iterator[datetime]:
    """Return the coming times of a cron expression, UTC.

    Parameters
    ----------
    expression : str
        Five fields: minute, hour, day of the month, month, day of the week.
    start : datetime, optional
        Now by default.

    Raises
    ------
    UsageError
        If the expression cannot be read, or the package ``cronsim`` is not installed.
    """
    try:
        import cronsim
    except ImportError:
        raise UsageError("AIOPS_MONITOR_SCHEDULE needs the package cronsim, which is not installed") from None
    try:
        found: Iterator[datetime] = cronsim.CronSim(expression, start or datetime.now(UTC))
    except cronsim.CronSimError as error:
        raise UsageError(f"AIOPS_MONITOR_SCHEDULE '{expression}' is no cron expression: {error}") from None
    return found


class Schedule:
    """Runs ``aiops monitor`` at given times; a run that is still going on when the next is due is not doubled.

    Parameters
    ----------
    due : iterator of datetime
        Ascending, with a zone; those that have passed meanwhile are left out.
    state : Path
        State folder; the report goes to ``monitor/latest`` there.
    environment : mapping
        Added to the environment of the run.
    command : sequence of str, optional
    """

    def __init__(
        self,
        due: Iterator[datetime],
        state: Path,
        environment: Mapping[str, str],
        command: tuple[str, ...] = (sys.executable, "-m", "aiops_core.cli", "monitor"),
    ) -> None:
        self._due = due
        self._command = [*command, "--out", str(state / "monitor" / "latest")]
        self._environment = dict(environment)
        self._stop = threading.Event()
        self._run: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="aiops-schedule", daemon=True)

    def start(self) -> None:
        """Begin to wait for the first time."""
        self._thread.start()

    def close(self) -> None:
        """End the waiting, and a run that is going on."""
        self._stop.set()
        run = self._run
        if run is not None and run.poll() is None:
            run.terminate()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _work(self) -> None:
        for due in self._due:
            wait = due.timestamp() - time.time()
            if wait < 0:
                continue
            if self._stop.wait(wait):
                return
            try:
                self._once()
            except OSError as error:
                _log.error("monitoring could not be started: %s", error)

    def _once(self) -> None:
        given = {**settings.for_children(), **self._environment}
        self._run = subprocess.Popen(
            self._command, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if self._stop.is_set():
            # Closed between the wait and the start.
            self._run.terminate()
        _, said = self._run.communicate()
        if self._run.returncode and not self._stop.is_set():
            last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            _log.error("monitoring ended with code %d: %s", self._run.returncode, last[0])
