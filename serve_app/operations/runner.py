"""The process beside a training job: it starts the pipeline, says how it goes and ends it when asked to.

Whether a job lives is a matter of a lock on a file of its folder, which the runner and the pipeline hold as long as either
of them does: no clock is asked, and a pipeline whose runner was killed still counts.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.cluster.leftovers import started
from serve_app.files import only_ours, read_json, write_json

__all__ = ["HEARTBEAT_SECONDS", "RUNNING", "abandoned", "detach", "held", "hold"]

LOCK = "alive.lock"
HEARTBEAT_SECONDS = 1.0
RUNNING = ("queued", "running")
#: How long the processes of a job may take to end after each signal.
END_SECONDS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

_DETACH = (
    "import subprocess, sys; "
    "subprocess.Popen(sys.argv[2:], start_new_session=True, stdin=subprocess.DEVNULL, pass_fds=[int(sys.argv[1])])"
)


def hold(folder: Path) -> int:
    """Make and lock the file that says that a job lives; returns its descriptor, which children may inherit."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def held(folder: Path) -> bool:
    """Say whether any process of a job still holds its lock."""
    try:
        with open(folder / LOCK, "rb") as lock:
            # Shared: two who look at the same time do not take each other for the job.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def abandoned(status: Mapping[str, Any]) -> bool:
    """Say whether the runner of a job on this machine is gone."""
    pid, start = status.get("runner") or (None, None)
    return pid is not None and status.get("host") == os.uname().nodename and started(int(pid)) != start


def detach(folder: Path, environment: Mapping[str, str], lock: int, *options: str) -> None:
    """Start a runner that belongs to init, not to this process: the first child only starts the second and ends.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    command = [sys.executable, "-m", "serve_app.operations.runner", str(folder), "--lock", str(lock), *options]
    with open(folder / "runner.log", "ab", opener=only_ours) as log:
        try:
            subprocess.run(
                [sys.executable, "-c", _DETACH, str(lock), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                pass_fds=[lock],
                check=True,
                timeout=30,
            )
        except subprocess.SubprocessError as error:
            raise OSError(f"the runner of the job cannot be started: {error}") from error


def run(folder: Path, lock: int) -> int:
    """Run one job: the pipeline as a child, its state in ``status.json``."""
    job = read_json(folder / "job.json")
    status: dict[str, Any] = {
        "status": "running",
        "runner": [os.getpid(), started(os.getpid())],
        "host": os.uname().nodename,
        "started": time.time(),
    }
    with open(folder / "log.txt", "wb") as log:
        child = subprocess.Popen(
            job["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
        )
        status["pipeline"] = [child.pid, started(child.pid)]
        told = _tell(folder, status)
        cancelled = False
        while child.poll() is None:
            if (folder / "cancel").exists() and not cancelled:
                cancelled = True
                _end(child.pid, child)
            told = told or _tell(folder, status)
            _beat(folder)
            time.sleep(HEARTBEAT_SECONDS)
    # What it started must not outlive it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.returncode
    state = "cancelled" if cancelled else "succeeded" if code == 0 else "failed"
    _finish(folder, {**status, "status": state, "exit_code": code})
    return 0


def end(folder: Path) -> int:
    """End a pipeline whose runner is gone."""
    status = read_json(folder / "status.json")
    pid, start = status.get("pipeline") or (None, None)
    if pid is not None and started(int(pid)) == start:
        _end(int(pid))
    _finish(folder, {**status, "status": "cancelled"})
    return 0


def _finish(folder: Path, status: Mapping[str, Any]) -> None:
    final = {**status, "ended": time.time()}
    while not _tell(folder, final):
        # The result is worth waiting for: until the disk has room again the job counts as running.
        _beat(folder)
        time.sleep(HEARTBEAT_SECONDS)


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
    """Show other nodes that the runner lives: the file's time needs no room on the disk."""
    with contextlib.suppress(OSError):
        os.utime(folder / "status.json")


def _end(group: int, child: subprocess.Popen[bytes] | None = None) -> None:
    """Ask the whole process group to end, then make it."""
    for sign, seconds in END_SECONDS:
        try:
            os.killpg(group, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + seconds
        # The leader gone, what it left behind in its group goes with the next, harder signal.
        while time.monotonic() < deadline and (child.poll() is None if child else started(group) is not None):
            time.sleep(0.05)


def main(argv: list[str] | None = None) -> int:
    """Run the job of a folder, or end one that nobody looks after any more."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.operations.runner", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, required=True, help="descriptor of the lock that says that the job lives")
    parser.add_argument("--end", action="store_true")
    options = parser.parse_args(argv)
    # What a job writes is for the user of the service alone.
    os.umask(0o077)
    return end(options.folder) if options.end else run(options.folder, options.lock)


if __name__ == "__main__":
    sys.exit(main())
