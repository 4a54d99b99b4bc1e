"""Training over HTTP: the pipeline of ``aiops report`` in a process of its own, one at a time.

A job is a folder ``<state>/jobs/<id>`` with everything about it: ``job.json`` (what was asked), ``status.json`` (written by
the runner every second), ``log.txt`` and the report. The runner detaches from the replica that started it, so a
restarted replica finds the job still running; a job whose runner is gone without a final state is reported as *lost*. A
job that fails or is cancelled changes nothing: the pipeline registers and promotes only at the end of each task, behind the gate.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.cluster.leftovers import MARK
from serve_app.files import read_json, write_json
from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem
from serve_app.wire.times import iso

__all__ = ["Jobs"]

#: Status files older than this belong to a runner that is gone.
HEARTBEAT_SECONDS = 1.0
LOST_SECONDS = 30.0
RUNNING = ("queued", "running")
STATES = (*RUNNING, "succeeded", "failed", "cancelled", "lost")
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
    """

    def __init__(
        self, folder: Path, metrics: Metrics, environment: Mapping[str, str], command: Sequence[str] | None = None
    ) -> None:
        self._folder = folder
        self._metrics = metrics
        self._environment = dict(environment)
        self._command = list(command or (sys.executable, "-m", "aiops_core.cli", "report"))

    def start(self, options: Sequence[str], request: Mapping[str, Any]) -> dict[str, Any]:
        """Start a job.

        Parameters
        ----------
        options : sequence of str
            Options of ``aiops report``; ``--out`` is added.
        request : mapping
            What was asked, for the record.

        Raises
        ------
        Problem
            409 while another job is running, 503 if the state folder cannot be written.
        """
        try:
            job_id = self._start(options, request)
        except OSError as error:
            raise Problem(503, f"no job was started, the state folder cannot be written: {error}") from error
        self._metrics.counter("aiops_jobs_total", event="started").inc()
        return self.get(job_id)

    def _start(self, options: Sequence[str], request: Mapping[str, Any]) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "lock", "w") as lock:
            # Held only while deciding, so that two replicas do not both find nothing running.
            fcntl.flock(lock, fcntl.LOCK_EX)
            for job in self.list():
                if job["status"] in RUNNING:
                    raise Problem(409, f"job {job['job_id']} is still running; cancel it or wait")
            job_id = uuid.uuid4().hex[:12]
            folder = self._folder / job_id
            folder.mkdir()
            try:
                write_json(
                    folder / "job.json",
                    {
                        "job_id": job_id,
                        "created": time.time(),
                        "request": dict(request),
                        "command": [*self._command, *options, "--out", str(folder / "report")],
                    },
                )
                write_json(folder / "status.json", {"status": "queued"})
                self._detach(folder)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return job_id

    def _detach(self, folder: Path) -> None:
        # The first child only starts the second and ends: the runner belongs to init, not to this replica.
        # What Ray tells its workers is not meant for the pipeline, which starts or joins a cluster itself; nor is the
        # mark of the service, which the job may outlive.
        inherited = {
            k: v for k, v in os.environ.items() if (not k.startswith("RAY_") or k == "RAY_ADDRESS") and k != MARK
        }
        with open(folder / "runner.log", "wb") as log:
            subprocess.run(
                [sys.executable, "-c", _DETACH, sys.executable, "-m", "serve_app.operations.jobs", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **self._environment},
                check=True,
                timeout=30,
            )

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
        job = read_json(folder / "job.json")
        status = read_json(folder / "status.json")
        state = status.get("status", "queued")
        if state in RUNNING and not _alive(folder, status):
            state = "lost"
        result = None
        if state == "succeeded":
            result = read_json(folder / "report" / "report.json")
            result = _summary(result) if result else None
        return {
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
        """Cancel a job: the runner ends the pipeline and all its processes.

        Raises
        ------
        Problem
            404 for an unknown job, 409 if it has ended, 503 if the state folder cannot be written.
        """
        job = self.get(job_id)
        if job["status"] not in RUNNING:
            raise Problem(409, f"job {job_id} has ended already: {job['status']}")
        try:
            (self._folder / job_id / "cancel").touch()
        except OSError as error:
            raise Problem(
                503, f"job {job_id} cannot be cancelled, the state folder cannot be written: {error}"
            ) from error
        self._metrics.counter("aiops_jobs_total", event="cancelled").inc()
        return self.get(job_id)


_DETACH = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.DEVNULL)"


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds)


def _alive(folder: Path, status: Mapping[str, Any]) -> bool:
    try:
        age = time.time() - (folder / "status.json").stat().st_mtime
    except OSError:
        return False
    if age > LOST_SECONDS:
        return False
    pid, host = status.get("pid"), status.get("host")
    if pid is None or host != os.uname().nodename:
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _progress(log: Path) -> list[str]:
    """Return the last lines of the log, without the control characters of a terminal."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
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


def run(folder: Path) -> int:
    """Run one job: the pipeline as a child, its state in ``status.json``."""
    job = read_json(folder / "job.json")
    status: dict[str, Any] = {
        "status": "running",
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "started": time.time(),
    }
    told = _tell(folder, status)
    with open(folder / "log.txt", "wb") as log:
        child = subprocess.Popen(
            job["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
        )
        cancelled = False
        while child.poll() is None:
            if (folder / "cancel").exists() and not cancelled:
                cancelled = True
                _end(child)
            told = told or _tell(folder, status)
            _beat(folder)
            time.sleep(HEARTBEAT_SECONDS)
    code = child.returncode
    state = "cancelled" if cancelled else "succeeded" if code == 0 else "failed"
    final = {**status, "status": state, "exit_code": code, "ended": time.time()}
    while not _tell(folder, final):
        # The result is worth waiting for: until the disk has room again the job counts as running.
        _beat(folder)
        time.sleep(HEARTBEAT_SECONDS)
    return 0


def _tell(folder: Path, status: Mapping[str, Any]) -> bool:
    """Write the state of a job; False on a full disk, where the old one stays."""
    try:
        write_json(folder / "status.json", status)
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"the state of the job cannot be written, trying again: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _beat(folder: Path) -> None:
    """Show that the runner lives: the file's time needs no room on the disk."""
    with contextlib.suppress(OSError):
        os.utime(folder / "status.json")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the whole process group to end, then make it."""
    for sign, seconds in ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            return
        try:
            child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
        if sign is signal.SIGKILL:
            return
        # The leader is gone; what it left behind in its group goes with the next, harder signal.


def main(argv: list[str] | None = None) -> int:
    """Run the job of a folder."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.operations.jobs", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    return run(parser.parse_args(argv).folder)


if __name__ == "__main__":
    sys.exit(main())
