"""The buffer of snapshots: when a window counts as filled, and what a snapshot that comes late may change."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Disk, Service, point

from aiops_core.errors import UsageError
from aiops_core.facts import MODELS
from serve_app import app
from serve_app.answers import window_journal
from serve_app.answers.window_journal import Journal
from serve_app.answers.windows import Windows
from serve_app.operations.telemetry import Metrics

ROOT = Path(__file__).parents[2]

WINDOW, STEP = 24, 3600


def put(
    windows: Windows,
    value: float,
    timestamp: float | None = None,
    *,
    resource: str = "a",
    signature: tuple[object, ...] = ("cpu",),
) -> tuple[np.ndarray | None, int, float | None]:
    """Add a snapshot of one metric."""
    row = np.array([value], dtype=np.float32)
    return windows.append(resource, row, signature=signature, window=WINDOW, step=STEP, timestamp=timestamp)


def filled_at(hours: list[int]) -> tuple[np.ndarray | None, int]:
    """Return window and count after snapshots at the given hours, each with its hour as the value."""
    windows = Windows()
    for hour in hours:
        found, have, _ = put(windows, hour, hour * STEP)
    return found, have


@pytest.mark.parametrize(("snapshots", "filled"), [(8, False), (11, False), (12, True), (24, True)])
def test_a_window_is_filled_when_half_of_its_steps_have_a_snapshot(snapshots: int, filled: bool) -> None:
    hours = [0, *range(WINDOW - snapshots + 1, WINDOW)]
    window, have = filled_at(hours)
    assert have == snapshots
    assert (window is not None) is filled
    if window is not None:
        assert np.flatnonzero(~np.isnan(window[:, 0])).tolist() == hours
        assert window[hours, 0].tolist() == hours


def test_a_window_is_not_filled_before_it_reaches_back_all_its_steps() -> None:
    assert filled_at(list(range(WINDOW - 1)))[0] is None
    assert filled_at(list(range(WINDOW)))[0] is not None


def test_without_timestamps_every_snapshot_is_the_next_step_and_the_oldest_leaves() -> None:
    windows = Windows()
    answers = [put(windows, i) for i in range(WINDOW + 2)]
    assert [a[0] is None for a in answers] == [True] * (WINDOW - 1) + [False] * 3
    assert [a[1] for a in answers] == [*range(1, WINDOW + 1), WINDOW, WINDOW]
    assert answers[-1][2] is None
    window = answers[-1][0]
    assert window is not None and window.shape == (WINDOW, 1) and window.dtype == np.float32
    assert window[:, 0].tolist() == list(range(2, WINDOW + 2))


def full() -> Windows:
    """Return a buffer whose window is full: hours 100 to 123, the hour as the value."""
    windows = Windows()
    for hour in range(100, 100 + WINDOW):
        put(windows, hour, hour * STEP)
    return windows


def test_a_later_snapshot_replaces_one_of_the_same_step_and_an_earlier_one_does_not() -> None:
    windows = full()
    window, _, newest = put(windows, 7, 123 * STEP + 600)
    assert window is not None and window[-1, 0] == 7 and newest == 123 * STEP + 600
    window, have, newest = put(windows, 8, 123 * STEP + 300)
    assert window is not None and window[-1, 0] == 7
    assert (have, newest) == (WINDOW, 123 * STEP + 600)


def test_a_late_snapshot_fills_its_own_step_of_the_window() -> None:
    windows = Windows()
    for hour in (*range(100, 110), *range(111, 124)):
        put(windows, hour, hour * STEP)
    window, have, newest = put(windows, -1, 110 * STEP)
    assert window is not None
    assert (have, newest) == (WINDOW, 123 * STEP)
    assert window[:, 0].tolist() == [*range(100, 110), -1, *range(111, 124)]


def test_a_snapshot_from_before_the_window_is_dropped_and_the_window_does_not_reach_back_to_it() -> None:
    windows = Windows()
    for hour in range(104, 124):
        put(windows, hour, hour * STEP)
    window, have, newest = put(windows, -1, 99 * STEP)
    assert window is None
    assert (have, newest) == (20, 123 * STEP)
    # The oldest step of the window itself is late too, and belongs to it.
    window, have, _ = put(windows, -2, 100 * STEP)
    assert window is not None and have == 21 and window[0, 0] == -2


def test_after_a_silence_longer_than_the_window_it_starts_anew() -> None:
    windows = full()
    assert put(windows, 1, (123 + WINDOW) * STEP)[1] == 1
    windows = full()
    window, have, _ = put(windows, 1, (123 + WINDOW - 1) * STEP)
    # One old step is left: too few, though the window reaches back to it.
    assert window is None and have == 2


def test_after_a_silence_longer_than_the_window_it_must_reach_back_all_its_steps_again() -> None:
    windows = full()
    first = 123 + WINDOW + 1
    answers = [put(windows, hour, hour * STEP) for hour in range(first, first + WINDOW)]
    assert [window is not None for window, _, _ in answers] == [False] * (WINDOW - 1) + [True]


@pytest.mark.parametrize(
    ("signature", "timestamp"),
    [(("cpu", "memory"), 124.0 * STEP), (("cpu",), None)],
    ids=["features", "clock"],
)
def test_other_features_or_a_missing_timestamp_have_a_window_of_their_own_and_harm_no_other(
    signature: tuple[object, ...], timestamp: float | None
) -> None:
    windows = full()
    window, have, _ = put(windows, 1, timestamp, signature=signature)
    assert window is None and have == 1
    window, have, newest = put(windows, 124, 124 * STEP)
    assert window is not None and have == WINDOW and newest == 124 * STEP
    assert window[:, 0].tolist() == list(range(101, 125))


def test_the_resource_not_heard_of_for_longest_is_forgotten_first() -> None:
    windows = Windows(max_resources=2)
    for resource in ("a", "b", "a", "c"):
        have = put(windows, 1, resource=resource)[1]
    assert len(windows) == 2 and have == 1
    assert put(windows, 1, resource="a")[1] == 3
    assert put(windows, 1, resource="b")[1] == 1


class Count:
    """What a counter of the metrics is asked."""

    value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


def test_what_is_forgotten_is_counted() -> None:
    count = Count()
    windows = Windows(2, count)
    for resource in ("a", "b", "a", "c", "d"):
        put(windows, 1, resource=resource)
    assert count.value == 2


# The journal ---------------------------------------------------------------------------------------------------------

SIGNATURE: Any = (("cpu",), WINDOW, STEP)


def told(windows: Windows, hours: Iterable[int], *, timed: bool = True, resource: str = "a") -> Any:
    """Add snapshots of some hours and return the last answer."""
    found = None
    for hour in hours:
        found = put(windows, hour, hour * STEP if timed else None, resource=resource, signature=SIGNATURE)
    return found


@contextmanager
def kept(path: Path) -> Iterator[Windows]:
    """A buffer with a journal."""
    windows = Windows()
    journal = Journal(path, windows)
    journal.start()
    yield windows
    journal.close()
    # Its process would end here.
    assert journal._lock is not None
    journal._lock.close()


@pytest.mark.parametrize("timed", [True, False])
def test_a_window_goes_on_where_the_last_process_left_it_however_often(tmp_path: Path, timed: bool) -> None:
    path = tmp_path / "state" / "windows.journal"
    for first in (100, 108, 116):
        with kept(path) as windows:
            window, have, _ = told(windows, range(first, first + 8), timed=timed)
    assert have == WINDOW and window[:, 0].tolist() == list(range(100, 124))
    with kept(path) as windows:
        window, have, newest = told(windows, [124], timed=timed)
    assert window[:, 0].tolist() == list(range(101, 125))
    assert newest == (124 * STEP if timed else None)
    assert path.stat().st_mode & 0o077 == 0


def test_a_window_with_gaps_is_as_full_after_a_restart_as_before(tmp_path: Path) -> None:
    path, hours = tmp_path / "windows.journal", [100, *range(112, 124)]
    with kept(path) as windows:
        before = told(windows, [*hours, 124])
    with kept(path) as windows:
        after = told(windows, [124])
    assert before[0] is not None and np.array_equal(before[0], after[0], equal_nan=True) and before[1:] == after[1:]


def test_snapshots_survive_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "windows.journal"
    code = f"""
import sys, time
from pathlib import Path
import numpy as np
from serve_app.answers.window_journal import Journal
from serve_app.answers.windows import Windows
from serve_app.operations.telemetry import Metrics
windows = Windows()
Journal(Path(sys.argv[1]), windows).start()
for i in range(30):
    windows.append("a", np.array([i], dtype=np.float32), signature={SIGNATURE!r}, window={WINDOW}, step={STEP}, timestamp=None)
    time.sleep(0.02)
print("done", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == b"done\n"
    time.sleep(1)
    process.kill()
    process.wait()
    process.stdout.close()
    with kept(path) as windows:
        window, _, _ = told(windows, [30], timed=False)
    assert window[:, 0].tolist() == list(range(7, 31))


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_of_a_damaged_journal_what_stands_before_the_damage_is_kept(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "windows.journal"
    with kept(path) as windows:
        told(windows, range(100, 123))
        time.sleep(0.5)
        told(windows, [123])
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
    path.write_bytes({"cut": content[:-3], "changed": content, "other": b"{}"}[damage])
    with kept(path) as windows:
        _, have, _ = told(windows, [123])
    assert have == (1 if damage == "other" else WINDOW)
    assert "the journal of snapshots is damaged" in caplog.text
    with kept(path) as windows:
        assert told(windows, [124])[1] == (2 if damage == "other" else WINDOW)


def test_a_long_journal_is_replaced_by_what_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_journal, "LONG", 3_000)
    monkeypatch.setattr(window_journal, "WRITE_SECONDS", 0.01)
    path = tmp_path / "windows.journal"
    with kept(path) as windows:
        for hour in range(100, 400):
            told(windows, [hour])
            if hour % 30 == 0:
                time.sleep(0.05)
    assert path.stat().st_size < 6_000
    with kept(path) as windows:
        window, _, _ = told(windows, [400])
    assert window[:, 0].tolist() == list(range(377, 401))


def test_a_full_disk_stops_the_journal_and_no_snapshot_and_it_goes_on_when_there_is_room(disk: Disk) -> None:
    path = disk.path / "windows.journal"
    with kept(path) as windows:
        told(windows, range(100, 110))
        time.sleep(0.5)
        disk.fill()
        for hour in range(110, 2_000):
            told(windows, [hour], resource=str(hour))
        told(windows, range(110, 120))
        time.sleep(0.5)
        disk.free()
    with kept(path) as windows:
        assert told(windows, [120])[1] == 21


def test_a_second_process_leaves_the_journal_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "windows.journal"
    with kept(path) as windows:
        told(windows, range(100, 110))
        other = Windows()
        journal = Journal(path, other)
        journal.start()
        told(other, [500])
        journal.close()
    with kept(path) as windows:
        assert told(windows, [110])[1] == 11


@pytest.mark.parametrize("timed", [True, False])
def test_a_process_that_starts_before_the_last_one_has_ended_goes_on_with_its_windows(
    tmp_path: Path, timed: bool
) -> None:
    path = tmp_path / "windows.journal"
    with kept(path) as windows:
        told(windows, range(100, 120), timed=timed)
        after = Windows()
        journal = Journal(path, after)
        journal.start()
        assert told(after, [120, 121], timed=timed)[1] == 2
    deadline = time.time() + 10
    while len(dict(after.items())[("a", SIGNATURE, timed)].slots) < 22 and time.time() < deadline:
        time.sleep(0.05)
    window, have, newest = told(after, [122, 123], timed=timed)
    assert have == WINDOW and window[:, 0].tolist() == list(range(100, 124))
    assert newest == (123 * STEP if timed else None)
    journal.close()
    assert journal._lock is not None
    journal._lock.close()
    with kept(path) as windows:
        assert told(windows, [124], timed=timed)[1] == WINDOW


# Behind HTTP ---------------------------------------------------------------------------------------------------------

SNAPSHOT = {"cpu_usage": 30.0, "memory_usage": 50.0}


def kind_of(service: Service, hour: int | None, resource: str = "a") -> tuple[str, str]:
    """Send a snapshot of an hour of 2026; returns the kind of model that answered, and the first warning."""
    body: dict[str, Any] = {"resource_id": resource, "metrics": SNAPSHOT}
    if hour is not None:
        body["timestamp"] = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).isoformat()
    answer = service.client.post("predict/failure", body)
    assert answer.status == 200, answer.body
    return answer.json()["model"]["kind"], answer.json()["warnings"][0]


@pytest.fixture
def service(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> Service:
    point(tmp_path / "state", {MODELS["failure"]: (servables["failure"], "1")})
    found: Service = make_service()
    return found


def test_a_future_or_untimed_snapshot_harms_only_itself(service: Service) -> None:
    far = 24 * 365 * 174
    assert "lies in the future" in kind_of(service, far)[1]
    kinds = [kind_of(service, hour)[0] for hour in range(WINDOW)]
    assert kinds == ["rule_based"] * (WINDOW - 1) + ["lstm"]
    kind, why = kind_of(service, far)
    assert kind == "rule_based" and "lies in the future" in why and "not kept" in why
    kind, why = kind_of(service, None)
    assert kind == "rule_based" and why.startswith("1 of 24 snapshots")
    assert kind_of(service, WINDOW)[0] == "lstm"


def test_while_the_buffer_does_not_answer_the_rules_do(
    make_service: Any, servables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app import app

    asked = []

    class Handle:
        """A deployment that never answers."""

        def __init__(self) -> None:
            self.append = self

        async def remote(self, *_: Any) -> None:
            asked.append(1)
            await asyncio.sleep(60)

    monkeypatch.setattr(app, "WINDOWS_SECONDS", 0.1)
    monkeypatch.setattr(app, "PAUSE_SECONDS", 60.0)
    point(tmp_path / "state", {MODELS["failure"]: (servables["failure"], "1")})
    service = make_service(windows=app.RemoteWindows(Handle()))
    body = {"instances": [{"resource_id": "a", "metrics": SNAPSHOT}] * 500}
    answers = service.client.post("predict/failure", body).json()["predictions"]
    assert {a["model"]["kind"] for a in answers} == {"rule_based"} and len(answers) == 500
    assert "did not answer" in answers[0]["warnings"][0] and len(asked) == 1


@pytest.mark.parametrize(("replicas", "scaling"), [(2, None), (1, {"min_replicas": 1})])
def test_replicas_that_a_config_file_adds_do_not_split_the_windows(
    replicas: int, scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments that say one replica, and a deployment that is overridden to have several."""
    config = SimpleNamespace(autoscaling_config=scaling)
    context = SimpleNamespace(world_size=replicas, deployment="ingress", _deployment_config=config)
    metrics = Metrics(tmp_path / "metrics", flush=False)
    monkeypatch.setattr(app.serve, "get_replica_context", lambda: context)
    with pytest.raises(UsageError, match="'ingress' is to have several replicas.*under args"):
        app.journalled(tmp_path, metrics)
    context.world_size, config.autoscaling_config = 1, None
    _, journal = app.journalled(tmp_path, metrics)
    journal.close()
