"""Runs that are stopped, killed, repeated, or have nothing to find; and single notebooks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from command import AIOPS, aiops, environment

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(1500)]


def processes_of(home: Path) -> dict[int, str]:
    """Return the command lines of the processes that work for a home, by id: its path is in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"AIOPS_HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            # It ended meanwhile.
            continue
    return found


@pytest.mark.usefixtures("made_store")
def test_without_signal_nothing_is_promoted(tmp_path: Path, ray_cluster: str) -> None:
    aiops(
        tmp_path, "report", "--n-samples", "800", "--trials", "1", "--signal", "0", "--out", "out", cluster=ray_cluster
    )
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    for section in content["tasks"].values():
        assert section["gate"]["decision"] in ("refused", "challenger"), section["gate"]
        assert section["gate"]["reasons"]
    listed = aiops(tmp_path, "models", "list").stdout
    assert "champion" not in listed


@pytest.mark.usefixtures("made_store")
def test_a_killed_run_resumes_and_repeats_no_finished_trial(tmp_path: Path) -> None:
    arguments = ["report", "--n-samples", "1500", "--trials", "6", "--tasks", "threat", "--quick", "--out", "out"]
    process = subprocess.Popen(
        [*AIOPS, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    events = tmp_path / "out.partial" / "threat" / "search" / "events.jsonl"
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if events.is_file() and events.read_text().count('"ended"') >= 2:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The kernel notices that its parent is gone; what it wrote until then counts.
    time.sleep(5)
    finished = [json.loads(line)["trial"] for line in events.read_text().splitlines() if '"ended"' in line]
    assert not (tmp_path / "out").exists()
    wrong = aiops(tmp_path, *arguments[:2], "1600", *arguments[3:], "--resume", code=2)
    assert "the interrupted run was started with --n-samples 1500, this one with --n-samples 1600" in wrong.stderr
    aiops(tmp_path, *arguments, "--resume")
    section = json.loads((tmp_path / "out" / "report.json").read_text())["tasks"]["threat"]
    assert section["search"]["trials"] == 6
    kept = pd.read_csv(tmp_path / "out" / "threat" / "trials.csv")
    assert set(finished) <= set(kept["trial"])
    assert kept["trial"].is_unique and len(kept) == 6


@pytest.mark.usefixtures("made_store")
def test_ctrl_c_ends_every_kernel_and_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = [
        "report",
        "--n-samples",
        "400",
        "--trials",
        "6",
        "--tasks",
        "threat,capacity",
        "--quick",
        "--out",
        "out",
    ]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [*AIOPS, *arguments],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=log,
            stderr=log,
            # A shell's background job has Ctrl-C switched off.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 300
        work = tmp_path / "out.partial"
        while process.poll() is None and len(list(work.glob("*/search/events.jsonl"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    said = (tmp_path / "log").read_text().splitlines()
    assert said[-1] == "stopped; the same command with --resume goes on from here"
    assert "Traceback" not in "".join(said)
    assert (work / "run.json").is_file() and not (tmp_path / "out").exists()
    deadline = time.monotonic() + 30
    while processes_of(tmp_path):
        assert time.monotonic() < deadline, processes_of(tmp_path)
        time.sleep(0.5)


@pytest.mark.usefixtures("made_store")
def test_a_killed_kernel_fails_its_task_and_no_other(tmp_path: Path, ray_cluster: str) -> None:
    arguments = [
        "report",
        "--n-samples",
        "400",
        "--trials",
        "1",
        "--tasks",
        "threat,capacity",
        "--quick",
        "--out",
        "out",
    ]
    process = subprocess.Popen(
        [*AIOPS, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path, ray_cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "out.partial" / "threat" / "progress.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    kernels = [pid for pid, line in processes_of(tmp_path).items() if "ipykernel_launcher" in line]
    os.kill(max(kernels), signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    tasks = json.loads((tmp_path / "out" / "report.json").read_text())["tasks"]
    failed = [task for task, section in tasks.items() if section["status"] == "failed"]
    assert len(failed) == 1 and "its kernel was ended from outside" in tasks[failed[0]]["reason"]
    assert sorted(section["status"] for section in tasks.values()) == ["failed", "skipped", "trained"]
    assert b"failed" in said


@pytest.mark.usefixtures("made_store")
def test_a_notebook_runs_under_plain_papermill_and_every_cell_can_run_twice(tmp_path: Path, ray_cluster: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "03_threat_detector.ipynb", as_version=4)
    twice: list[Any] = []
    for cell in notebook.cells:
        again = cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
        twice += [cell, nbformat.v4.new_code_cell(cell.source), nbformat.v4.new_code_cell("i = 3")] if again else [cell]
    notebook.cells = twice
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    parameters = ["-p", "n_trials", "2", "-p", "n_samples", "2000", "-p", "out", "nb"]
    done = subprocess.run(
        [*command, "in.ipynb", "out.ipynb", *parameters],
        cwd=tmp_path, env=environment(tmp_path, ray_cluster), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    section = json.loads((tmp_path / "nb" / "threat" / "section.json").read_text())
    assert section["search"]["trials"] == 2
    assert section["metrics"]["accuracy"]["value"] > 0.6
    executed = nbformat.read(tmp_path / "out.ipynb", 4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any("2 finished trials of the same search are reused" in output.get("text", "") for output in outputs)
    # Nobody can press a button in an executed notebook: a line of text, and no widgets.
    assert any("2/2 trials done" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "widgets" not in executed.metadata
    assert not any("widget-view" in kind for output in outputs for kind in output.get("data", {}))
    # Run twice, registered once, as it was judged.
    assert section["gate"]["decision"] != "refused", section["gate"]["reasons"]
    assert aiops(tmp_path, "models", "list").stdout.count("threat_detector") == 1


@pytest.mark.usefixtures("made_store")
def test_an_experiment_of_ones_own_searches_its_space_and_logs_its_metric(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiops_core import tracking
    from aiops_core.tracking.store import open_client

    parameters = ["-p", "n_trials", "2", "-p", "n_samples", "600", "-p", "out", "mine"]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar",
         str(ROOT / "notebooks" / "00_your_own_experiment.ipynb"), "out.ipynb", *parameters],
        cwd=tmp_path, env=environment(tmp_path, ray_cluster), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with open_client() as client:
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(trials) == 2 and {int(run.data.params["max_depth"]) for run in trials} <= {3, 4, 5}
    assert parent.info.status == "FINISHED"
    assert {"test_specificity", "test_specificity_rules", "test_macro_f1"} <= set(parent.data.metrics)
    assert tracking.list_models() == []
    outputs = [o for c in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in c.get("outputs", [])]
    pages = "".join(str(o["data"].get("text/html", "")) for o in outputs if "data" in o)
    assert "specificity" in pages and "request_rate" in pages and parent.info.run_id in pages
