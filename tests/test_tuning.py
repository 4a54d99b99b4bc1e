from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy_task

from aiops_core import search as tuning
from aiops_core.errors import AiopsError, ClusterError, SearchStopped, UsageError

pytestmark = pytest.mark.slow


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def started(self, trial: str, params: dict[str, Any]) -> None:
        self.events.append(("started", trial))

    def reported(self, trial: str, step: int, metrics: dict[str, float]) -> None:
        self.events.append(("reported", trial, step, metrics["score"]))

    def ended(self, trial: str, status: str, error: str | None) -> None:
        self.events.append(("ended", trial, status, error))


def data(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"journal": str(folder / "journal"), "pause": 0.0, "fail_below": None, **changes}


def test_a_search_reports_every_trial_and_survives_failing_ones(ray_cluster: str, tmp_path: Path) -> None:
    log, states = Log(), []
    result = tuning.search(
        toy_task, data(tmp_path, fail_below=-0.2), n_trials=10, folder=tmp_path / "s", log=log, progress=states.append
    )
    assert result.counts["trials"] == 10
    assert result.counts["errored"] >= 1
    assert sum(result.counts[k] for k in ("completed", "pruned", "errored")) == 10
    assert all("the toy broke" in error for error in result.errors.values())
    best = result.trials.loc[result.trials["score"].idxmax(), "param:x"]
    assert result.best_params["x"] == pytest.approx(best)
    assert result.best_params["x"] > -0.2
    kinds = Counter(event[0] for event in log.events)
    assert kinds["started"] == kinds["ended"] == 10
    assert states[-1]["done"] == 10
    for _, trial, status, _ in (event for event in log.events if event[0] == "ended"):
        steps = [event[2] for event in log.events if event[:2] == ("reported", trial)]
        if status == "completed":
            assert max(steps) == toy_task.MAX_STEPS
        if status == "pruned":
            assert max(steps) < toy_task.MAX_STEPS


def test_a_search_in_which_all_trials_fail_says_why(ray_cluster: str, tmp_path: Path) -> None:
    with pytest.raises(AiopsError, match="all 2 trials failed, the first with: .*the toy broke"):
        tuning.search(toy_task, data(tmp_path, fail_below=2.0), n_trials=2, folder=tmp_path / "s")


def test_a_deterministic_search_repeats(ray_cluster: str, tmp_path: Path) -> None:
    first, second = (
        tuning.search(toy_task, data(tmp_path), n_trials=9, seed=3, folder=tmp_path / name, deterministic=True)
        for name in ("a", "b")
    )
    assert first.trials["param:x"].tolist() == second.trials["param:x"].tolist()
    assert first.trials["status"].tolist() == second.trials["status"].tolist()
    assert first.ranked == second.ranked


def test_less_than_one_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="n_trials = 0 must be at least 1"):
        tuning.search(toy_task, data(tmp_path), n_trials=0, folder=tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_unreachable_cluster_is_named(address: str) -> None:
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS '{address}'"):
        tuning.check_address(address)


def test_a_killed_search_resumes_without_repeating_finished_trials(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import toy_task
            from aiops_core import search as tuning
            data = {{"journal": {str(tmp_path / "journal")!r}, "pause": 0.15, "fail_below": None}}
            result = tuning.search(toy_task, data, n_trials=8, folder={str(tmp_path / "s")!r})
            print(result.counts["trials"], result.counts["errored"], len(set(result.trials["param:x"])))
            """
        )
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, str(script)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    events = tmp_path / "s" / "events.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if events.is_file() and events.read_text().count('"ended"') >= 3:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the search ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended_before = [line for line in events.read_text().splitlines() if '"ended"' in line]
    finished = {line.split('"trial": "')[1].split('"')[0] for line in ended_before}
    started_before = events.read_text().count('"started"')
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr[-2000:]
    assert second.stdout.split()[-3:] == ["8", "0", "8"]
    text = events.read_text()
    assert all(text.count(f'"ended", "trial": "{name}"') == 1 for name in finished)
    journal = Counter((tmp_path / "journal").read_text().split())
    # Only trials that were running at the kill may appear twice.
    assert sum(count - 1 for count in journal.values()) <= started_before - len(finished)


def test_the_same_search_is_reused_and_a_changed_one_is_not(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, given = tmp_path / "s", data(tmp_path)
    first = tuning.search(toy_task, given, n_trials=3, folder=folder)
    assert (first.reused, tuning.reusable(toy_task, given, seed=7, folder=folder)) == (0, 3)
    again = tuning.search(toy_task, given, n_trials=4, folder=folder)
    assert again.reused == 3 and set(first.trials["trial"]) < set(again.trials["trial"])
    # Other data, then another space: nothing of the old search is left.
    other = tuning.search(toy_task, {**given, "fail_below": -9.0}, n_trials=2, folder=folder)
    assert other.reused == 0 and not set(again.trials["trial"]) & set(other.trials["trial"])
    narrow = {"x": optuna.distributions.FloatDistribution(0.4, 0.6)}
    monkeypatch.setattr(toy_task, "space", lambda data: narrow)
    changed = tuning.search(toy_task, {**given, "fail_below": -9.0}, n_trials=3, folder=folder)
    assert changed.reused == 0
    assert changed.trials["param:x"].between(0.4, 0.6).all()


def test_the_workers_search_the_space_that_is_handed_in(ray_cluster: str, tmp_path: Path) -> None:
    folder, given = tmp_path / "s", data(tmp_path)
    first = tuning.search(toy_task, given, n_trials=2, folder=folder)
    narrow = {"x": optuna.distributions.FloatDistribution(-0.9, -0.8)}
    found = tuning.search(toy_task, given, space=narrow, n_trials=4, folder=folder)
    assert found.reused == 0 and not set(first.trials["trial"]) & set(found.trials["trial"])
    tried = [float(line) for line in (tmp_path / "journal").read_text().split()[2:]]
    assert len(tried) == 4 and all(-0.9 <= x <= -0.8 for x in tried)
    # The default point of 0.5 is tried at the end of the range that is nearest to it, beside another trial.
    assert -0.8 in tried[:2]
    assert tuning.search(toy_task, given, space=narrow, n_trials=4, folder=folder).reused == 4


def test_an_interrupt_ends_a_search_as_an_interrupt_and_keeps_what_is_done(ray_cluster: str, tmp_path: Path) -> None:
    folder = tmp_path / "s"

    def stop(state: dict[str, Any]) -> None:
        if state["done"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="of 30 trials are done"):
        tuning.search(toy_task, data(tmp_path, pause=0.1), n_trials=30, folder=folder, progress=stop)
    kept = tuning.reusable(toy_task, data(tmp_path, pause=0.1), seed=7, folder=folder)
    assert 2 <= kept < 10


def test_an_interrupt_before_the_first_trial_is_no_failed_search(ray_cluster: str, tmp_path: Path) -> None:
    sent = []

    def stop(state: dict[str, Any]) -> None:
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        tuning.search(toy_task, data(tmp_path, pause=0.1), n_trials=5, folder=tmp_path / "s", progress=stop)


def test_a_search_that_is_asked_to_stop_ends_with_what_is_done_and_goes_on_later(
    ray_cluster: str, tmp_path: Path
) -> None:
    folder, given, log, stop = tmp_path / "s", data(tmp_path, pause=0.1), Log(), threading.Event()
    states: list[dict[str, Any]] = []

    def press(state: dict[str, Any]) -> None:
        states.append(state)
        if state["done"] == 2:
            threading.Thread(target=stop.set).start()

    found = tuning.search(toy_task, given, n_trials=30, folder=folder, log=log, progress=press, stop=stop)
    done = found.counts["trials"]
    assert 2 <= done < 10
    assert found.counts["errored"] == 0 and set(found.trials["status"]) <= {"completed", "pruned"}
    last = states[-1]
    assert last["running"] == 0 and len(last["trials"]) == done
    assert found.best_score == max(trial["value"] for trial in last["trials"])
    # Whoever watches the trials sees none that goes on for ever.
    assert {event[1] for event in log.events if event[0] == "ended"} == {
        event[1] for event in log.events if event[0] == "started"
    }
    later = tuning.search(toy_task, given, n_trials=done + 2, folder=folder, stop=threading.Event())
    assert (later.counts["trials"], later.reused) == (done + 2, done)
    assert set(found.trials["trial"]) < set(later.trials["trial"])


def test_a_search_that_is_asked_to_stop_before_any_trial_ends_says_so(ray_cluster: str, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SearchStopped, match="stopped before any of 5 trials ended") as raised:
        tuning.search(toy_task, data(tmp_path, pause=0.2), n_trials=5, folder=tmp_path / "s", stop=stop)
    # What a notebook shows of it: one line, no traceback.
    assert raised.value._render_traceback_() == [str(raised.value)]


def test_who_follows_a_search_sees_every_trial_with_its_best_value(ray_cluster: str, tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []
    given = data(tmp_path, fail_below=-0.2)
    found = tuning.search(toy_task, given, n_trials=6, folder=tmp_path / "s", progress=states.append)
    trials = states[-1]["trials"]
    assert [trial["number"] for trial in trials] == list(range(1, 7))
    assert Counter(trial["status"] for trial in trials) == Counter(found.trials["status"])
    for trial, (_, row) in zip(trials, found.trials.iterrows(), strict=True):
        assert trial["params"] == {"x": row["param:x"]} and trial["step"] == row["steps"]
        assert trial["value"] == (None if row["status"] == "errored" else row["score"])
    # A search that has nothing left to do shows where it stands all the same.
    states.clear()
    tuning.search(toy_task, given, n_trials=6, folder=tmp_path / "s", progress=states.append)
    assert [state["done"] for state in states] == [6]
