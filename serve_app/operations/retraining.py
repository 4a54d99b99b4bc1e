"""When a model is trained again by itself: a schedule, a verdict of the monitoring, or enough that became known since.

One thread beside the service looks now and then. What it starts is a training job like any other, ``aiops retrain``, which
ends in the shadow of the champion; whether anything is promoted is a matter of the policy, never of the trigger.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from aiops_core import journal, settings
from aiops_core.errors import UsageError
from aiops_core.facts import TASKS
from serve_app.files import read_json
from serve_app.operations.jobs import Jobs
from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem

__all__ = ["Retraining", "next_time", "states", "wanted", "watch"]

LOOK_SECONDS = 30.0
#: Between two looks at the version in the shadow, where the policy names a verdict.
SETTLE_SECONDS = 600.0
_HOUR = 3600.0
_log = logging.getLogger("serve_app")


def wanted(current: settings.Settings) -> bool:
    """Say whether any trigger or a policy is set."""
    return bool(
        current.retrain_cron or current.retrain_on_drift or current.retrain_labels or current.retrain_policy == "better"
    )


def watch(metrics: Metrics, state: Path) -> None:
    """Show how the last retraining of each task went whenever the metrics are asked for."""
    metrics.at_scrape("aiops_retraining", lambda: states(state))


def states(state: Path) -> list[tuple[dict[str, str], float]]:
    """Return the labels of ``aiops_retraining`` with 1, by task; a run whose process is gone has failed."""
    found = []
    for task in TASKS:
        said = read_json(state / "retraining" / f"{task}.json").get("state")
        if said is not None:
            said = "failed" if said == "running" and not _held(state) else said
            found.append(({"task": task, "state": str(said)}, 1.0))
    return found


def _held(state: Path) -> bool:
    try:
        with open(state / "retraining" / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def next_time(expression: str, after: float) -> float:
    """Return the next time of a cron expression, seconds since 1970; its fields are UTC.

    Raises
    ------
    UsageError
        If it is no cron expression.
    """
    from cronsim import CronSim, CronSimError

    try:
        return float(next(CronSim(expression, datetime.fromtimestamp(after, UTC))).timestamp())
    except (CronSimError, StopIteration) as error:
        raise UsageError(f"AIOPS_RETRAIN_CRON '{expression}' is no cron expression: {error}") from None


class Retraining:
    """Start retrainings of the tasks in the settings when one is due.

    Parameters
    ----------
    state : Path
        State folder.
    jobs : Jobs
    current : Settings
    environment : mapping
        Added to the environment of ``aiops retrain --settle``: the tracking URI, absolute.
    clock : callable, optional
        Seconds since 1970.

    Raises
    ------
    UsageError
        If the schedule is no cron expression.
    """

    def __init__(
        self,
        state: Path,
        jobs: Jobs,
        current: settings.Settings,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._jobs, self._current, self._clock = state, jobs, current, clock
        self._environment = dict(environment)
        self._next = next_time(current.retrain_cron, clock()) if current.retrain_cron else None
        self._settled = clock()
        self._stop = threading.Event()

    def start(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._run, name="aiops-retraining", daemon=True).start()

    def close(self) -> None:
        """Look no more; a job that runs goes on."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:
                # A registry or disk that is away now may be back at the next look.
                _log.error("no retraining could be started: %s", error)

    def look(self) -> list[str]:
        """Start what is due, and settle what is in the shadow; returns the triggers by task, for the log."""
        now, begun = self._clock(), []
        scheduled = self._next is not None and now >= self._next
        for task in self._current.retrain_tasks:
            reason = "schedule" if scheduled else self.due(task)
            if reason is not None and self._begin(task, reason):
                begun.append(f"{task}: {reason}")
        if scheduled:
            self._next = next_time(self._current.retrain_cron, now)
        if self._current.retrain_policy == "better" and now - self._settled >= SETTLE_SECONDS:
            self._settled = now
            self._settle()
        return begun

    def due(self, task: str) -> str | None:
        """Return why a task is to be trained again now, None where nothing says so or the cool-down is not over."""
        last = read_json(self._state / "retraining" / f"{task}.json")
        began = float(last.get("began", 0.0))
        if self._clock() - began < self._current.retrain_cool_down_hours * _HOUR:
            return None
        if self._current.retrain_on_drift and self._drifted(task, began):
            return "drift"
        least = self._current.retrain_labels
        if least:
            fresh = len(journal.feedback(self._state, task)) - int(last.get("labels", 0))
            if fresh >= least:
                return f"{fresh:,} labels since the last one"
        return None

    def _drifted(self, task: str, began: float) -> bool:
        """Say whether the newest look of the monitoring, younger than the last retraining, asks to act on the model."""
        path = self._state / "monitor" / "report.json"
        with contextlib.suppress(OSError):
            found = (read_json(path).get("tasks") or {}).get(task) or {}
            # What a broken sensor says is not to be learned.
            act = (found.get("verdict") or {}).get("state") == "act" and not found.get("broken")
            return act and path.stat().st_mtime > began
        return False

    def _begin(self, task: str, reason: str) -> bool:
        current = self._current
        options = [
            "--task", task, "--trigger", reason, "--policy", current.retrain_policy,
            "--trials", str(current.retrain_trials), "--cool-down", f"{current.retrain_cool_down_hours:g}",
        ]  # fmt: skip
        command = [sys.executable, "-m", "aiops_core.cli", "retrain"]
        try:
            self._jobs.start(options, {"retrain": task, "trigger": reason}, command=command)
        except Problem as problem:
            # Another job runs, or the disk is full: the reason will still be there.
            _log.warning("the retraining of %s (%s) waits: %s", task, reason, problem.detail)
            return False
        return True

    def _settle(self) -> None:
        for task in self._current.retrain_tasks:
            last = read_json(self._state / "retraining" / f"{task}.json")
            if (
                last.get("state") == "succeeded"
                and last.get("shadow")
                and not (last.get("settled") or {}).get("promoted")
            ):
                done = subprocess.run(
                    [sys.executable, "-m", "aiops_core.cli", "retrain", "--settle", "--task", task],
                    env={**settings.for_children(), **self._environment},
                    capture_output=True,
                    text=True,
                    timeout=SETTLE_SECONDS,
                    check=False,
                )
                _log.info("%s: %s", task, json.dumps((done.stdout + done.stderr).strip()[-500:]))
