"""Training over HTTP: the pipeline of ``aiops report`` in a process of its own, one at a time.

A job is a folder ``<state>/jobs/<id>`` with everything about it: ``job.json`` (what was asked), ``status.json`` (written by
the runner, see `serve_app.operations.runner`), ``log.txt`` and the report. The runner detaches from the replica that started
it, so a restarted replica finds the job still running; a pipeline whose runner was killed counts as running too and can be
cancelled; a job of which no process is left and no result is reported as *lost*. A job that fails or is cancelled
changes nothing: the pipeline registers and promotes only at the end of each task, behind the gate. The newest jobs are kept.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiops_core import settings
from aiops_core.redact import redacted
from serve_app.files import only_ours, read_json, write_json
from serve_app.operations import runner
from serve_app.operations.runner import RUNNING
from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem
from serve_app.wire.times import iso

__all__ = ["Jobs"]

#: Status files of other nodes that are older than this belong to a runner that is gone.
LOST_SECONDS = 30.0
STATES = (*RUNNING, "succeeded", "failed", "cancelled", "lost")
#: Jobs that are kept, unless told otherwise.
KEPT = 50
_TAIL = 8_000


class Jobs:
    """Start, watch and cancel training jobs.

    Parameters
    ----------
    folder : Path
        Shared by every replica.
    metrics : Metrics
    environment : mapping
        Added to the environment of the pipeline: the tracking URI, absolute.
    command : sequence of str, optional
        What runs the pipeline; by default ``python -m aiops_core.cli report``.
    keep : int
        Jobs that are kept; when another one starts, those that ended before the newest are removed with their reports.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Metrics,
        environment: Mapping[str, str],
        command: Sequence[str] | None = None,
        keep: int = KEPT,
    ) -> None:
        self._folder = folder
        self._metrics = metrics
        self._environment = dict(environment)
        self._command = list(command or (sys.executable, "-m", "aiops_core.cli", "report"))
        self._keep = keep
        #: Answers about jobs that have ended: nothing changes them, so their files are read once.
        self._ended: dict[str, dict[str, Any]] = {}

    def start(
        self, options: Sequence[str], request: Mapping[str, Any], *, command: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Start a job.

        Parameters
        ----------
        options : sequence of str
            Options of ``aiops report``; ``--out`` is added.
        request : mapping
            What was asked, for the record.
        command : sequence of str, optional
            What runs instead of ``aiops report``; it takes ``--out`` and leaves a report there too.

        Raises
        ------
        Problem
            409 while another job is running, 503 if the state folder cannot be written.
        """
        try:
            job_id = self._start([*(command or self._command), *options], request)
        except OSError as error:
            raise Problem(503, f"no job was started, the state folder cannot be written: {error}") from error
        self._metrics.counter("aiops_jobs_total", event="started").inc()
        return self.get(job_id)

    def _start(self, command: Sequence[str], request: Mapping[str, Any]) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "lock", "w", opener=only_ours) as lock:
            # Held only while deciding, so that two replicas do not both find nothing running.
            fcntl.flock(lock, fcntl.LOCK_EX)
            jobs = self.list()
            for job in jobs:
                if job["status"] in RUNNING:
                    raise Problem(409, f"job {job['job_id']} is still running; cancel it or wait")
            job_id = uuid.uuid4().hex[:12]
            folder = self._folder / job_id
            folder.mkdir(mode=0o700)
            alive = None
            try:
                alive = runner.hold(folder)
                asked = {
                    "job_id": job_id,
                    "created": time.time(),
                    "request": dict(request),
                    "command": [*command, "--out", str(folder / "report")],
                }
                write_json(folder / "status.json", {"status": "queued", "host": os.uname().nodename})
                write_json(folder / "job.json", asked)
                runner.detach(folder, self._given(), alive)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            finally:
                if alive is not None:
                    # The runner has its own hold on it by now.
                    os.close(alive)
            for job in jobs[max(0, self._keep - 1) :]:
                self._ended.pop(job["job_id"], None)
                shutil.rmtree(self._folder / job["job_id"], ignore_errors=True)
        return job_id

    def _given(self) -> dict[str, str]:
        return {**settings.for_children(), **self._environment}

    def get(self, job_id: str) -> dict[str, Any]:
        """Return the state of a job, its progress and, at the end, its result.

        Raises
        ------
        Problem
            404 for an unknown job.
        """
        folder = self._folder / job_id
        if not re.fullmatch(r"[0-9a-f]{12}", job_id) or not (folder / "job.json").is_file():
            raise Problem(404, f"there is no training job {job_id[:64]!r}")
        if job_id in self._ended:
            return dict(self._ended[job_id])
        job = read_json(folder / "job.json")
        state, status = _state(folder)
        result = None
        if state == "succeeded":
            result = read_json(folder / "report" / "report.json")
            result = _summary(result) if result else None
        found = {
            "job_id": job_id,
            "status": state,
            "created": iso(job.get("created", 0.0)),
            "started": _iso(status.get("started")),
            "ended": _iso(status.get("ended")),
            "request": job.get("request"),
            "progress": _progress(folder / "log.txt"),
            "exit_code": status.get("exit_code"),
            "error": _error(state, status, folder),
            "result": result,
            "report": str(folder / "report" / "report.html") if state == "succeeded" else None,
        }
        if status.get("status", "queued") not in RUNNING:
            self._ended[job_id] = dict(found)
        return found

    def list(self) -> list[dict[str, Any]]:
        """Return all jobs, newest first."""
        folders = [p.parent.name for p in self._folder.glob("*/job.json")]
        jobs = [self.get(name) for name in folders if re.fullmatch(r"[0-9a-f]{12}", name)]
        return sorted(jobs, key=lambda job: job["created"], reverse=True)

    def by_state(self) -> Sequence[tuple[dict[str, str], float]]:
        """Return how many jobs there are in each state, for the metric ``aiops_jobs``."""
        count = Counter(job["status"] for job in self.list())
        return [({"state": state}, float(count[state])) for state in STATES]

    def cancel_all(self) -> None:
        """Cancel whatever runs: the service is being stopped for good."""
        for job in self.list():
            if job["status"] in RUNNING:
                self.cancel(job["job_id"])

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: its runner, or in place of a killed one another, ends the pipeline and all its processes.

        Raises
        ------
        Problem
            404 for an unknown job, 409 if it has ended, 503 if the state folder cannot be written.
        """
        job = self.get(job_id)
        if job["status"] not in RUNNING:
            raise Problem(409, f"job {job_id} has ended already: {job['status']}")
        folder = self._folder / job_id
        try:
            (folder / "cancel").touch(mode=0o600)
            if runner.abandoned(read_json(folder / "status.json")):
                self._end(folder)
        except OSError as error:
            raise Problem(
                503, f"job {job_id} cannot be cancelled, the state folder cannot be written: {error}"
            ) from error
        self._metrics.counter("aiops_jobs_total", event="cancelled").inc()
        return self.get(job_id)

    def _end(self, folder: Path) -> None:
        """Have a pipeline ended whose runner is gone; until then it holds the lock of its job itself."""
        with open(folder / "end.lock", "a", opener=only_ours) as lock:
            runner.detach(folder, self._given(), lock.fileno(), "--end")


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds)


def _state(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the state of a job and what its status file says."""
    # In this order: a job that ends in between has said how.
    alive = runner.held(folder)
    status = read_json(folder / "status.json")
    state = str(status.get("status", "queued"))
    if state not in RUNNING or alive or _beats(folder, status):
        return state, status
    # Its runner was killed, but the pipeline came to its end, or was ended.
    if (folder / "report" / "report.json").is_file():
        return "succeeded", status
    return ("cancelled" if (folder / "cancel").exists() else "lost"), status


def _beats(folder: Path, status: Mapping[str, Any]) -> bool:
    """Say whether a runner on another node, whose lock may not be seen from here, has been at work lately."""
    if status.get("host") in (None, os.uname().nodename):
        return False
    try:
        return time.time() - (folder / "status.json").stat().st_mtime < LOST_SECONDS
    except OSError:
        return False


def _progress(log: Path) -> list[str]:
    """Return the last lines of the log, without the control characters of a terminal."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    text = redacted(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line][-10:]


def _error(state: str, status: Mapping[str, Any], folder: Path) -> str | None:
    if state == "lost":
        return "the process of this job ended without a result (machine or container restarted?)"
    if state == "failed":
        lines = _progress(folder / "log.txt")
        return lines[-1] if lines else f"exit code {status.get('exit_code')}"
    return None


def _summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a report what a client decides on."""
    tasks = report.get("tasks", {})
    keep = ("model", "status", "reason", "metrics", "gate", "run_id", "model_version")
    return {task: {key: entry.get(key) for key in keep} for task, entry in tasks.items()}
