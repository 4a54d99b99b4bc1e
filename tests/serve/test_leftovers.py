"""What a killed service leaves running: ended by the next one, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.cluster import leftovers

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that sleeps, with or without a mark; all are ended with the test."""
    found: list[subprocess.Popen[bytes]] = []

    def sleep(mark: str | None = None) -> subprocess.Popen[bytes]:
        environment = {"PATH": "/usr/bin:/bin"} | ({leftovers.MARK: mark} if mark else {})
        found.append(subprocess.Popen(["sleep", "600"], env=environment))
        return found[-1]

    yield sleep
    for process in found:
        process.kill()
        process.wait()


def record(folder: Path, mark: str, **changes: Any) -> Path:
    """Write the record of a service whose process is no more."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    content = {"boot": boot, "owner": [os.getpid(), "1"], "haproxy": "", "processes": [], **changes}
    path = folder / "services" / f"{mark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_recorded_and_marked_processes_are_ended_and_a_reused_pid_is_not(tmp_path: Path, start: Start) -> None:
    marked, recorded, reused, other = start("aa"), start(), start(), start("bb")
    path = record(tmp_path, "aa", processes=[[recorded.pid, leftovers.started(recorded.pid)], [reused.pid, "12345"]])
    assert leftovers.clear(tmp_path) == 2
    assert marked.wait(5) < 0 and recorded.wait(5) < 0
    assert reused.poll() is None and other.poll() is None and not path.exists()


def test_a_process_that_ignores_sigterm_is_ended_all_the_same(tmp_path: Path, start: Start) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    stubborn = subprocess.Popen(
        ["python3", "-c", code], stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", leftovers.MARK: "aa"}
    )
    assert stubborn.stdout is not None and stubborn.stdout.readline() == b"1\n"
    stubborn.stdout.close()
    record(tmp_path, "aa")
    assert leftovers.clear(tmp_path) == 1
    assert stubborn.wait(5) == -9


def test_the_processes_of_a_living_service_and_of_another_boot_are_left_alone(tmp_path: Path, start: Start) -> None:
    living, booted = start("aa"), start()
    owner = [os.getpid(), leftovers.started(os.getpid())]
    kept = record(tmp_path, "aa", owner=owner)
    stale = record(tmp_path, "bb", boot="another", processes=[[booted.pid, leftovers.started(booted.pid)]])
    assert leftovers.clear(tmp_path) == 0
    assert living.poll() is None and booted.poll() is None
    assert kept.exists() and not stale.exists()


def test_a_record_follows_the_processes_and_goes_with_its_service(tmp_path: Path) -> None:
    found = leftovers.Record(tmp_path, "")
    found.start()
    try:
        child = subprocess.Popen(["sleep", "600"])
        expected = [child.pid, leftovers.started(child.pid)]
        (path,) = (tmp_path / "services").glob("*.json")
        deadline = time.time() + 10
        while expected not in json.loads(path.read_text())["processes"] and time.time() < deadline:
            time.sleep(0.05)
        assert expected in json.loads(path.read_text())["processes"]
        child.kill()
        child.wait()
    finally:
        found.close()
    assert not path.exists() and leftovers.MARK not in os.environ
