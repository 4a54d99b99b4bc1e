"""The main job for real: notebooks, Ray, MLflow, files. Assertions are on what it leaves, not on that it ran."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
AIOPS = [sys.executable, "-m", "aiops_core.cli"]
METRICS = {
    "failure": {"roc_auc", "average_precision", "f1", "precision", "recall", "brier", "ece"},
    "threat": {"accuracy", "macro_f1", "log_loss", "ece"},
    "capacity": {"mae", "nmae", "rmse", "r2", "mase", "wape", "pinball", "coverage_80"},
}

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(1500)]


#: Options of the run that most tests look at; deterministic, so that a second one must equal it.
SMALL = ("report", "--n-samples", "1000", "--trials", "2", "--deterministic", "--out", "out")


def environment(home: Path, cluster: str | None = None) -> dict[str, str]:
    """Return the environment of a process: a store of its own, and a Ray cluster of its own unless one is given."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    given = {} if cluster is None else {"RAY_ADDRESS": cluster}
    return {**kept, **given, "AIOPS_HOME": str(home), "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}"}


def aiops(home: Path, *arguments: str, code: int = 0, cluster: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*AIOPS, *arguments], cwd=home, env=environment(home, cluster), capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One small run of all three tasks, with a store and a cluster that it makes itself."""
    home = tmp_path_factory.mktemp("home")
    aiops(home, *SMALL)
    yield home


@pytest.fixture
def made_store(tmp_path: Path, store_template: Path) -> None:
    """Spare a run in `tmp_path` the seconds in which it would make its store."""
    shutil.copy(store_template, tmp_path / "mlflow.db")


@pytest.fixture(scope="module")
def content(small: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((small / "out" / "report.json").read_text())
    return loaded


def test_the_report_has_the_stable_shape(content: dict[str, Any]) -> None:
    assert content["schema_version"] == 1
    assert {"source", "seed", "n_samples", "created", "wall_seconds", "versions", "tasks"} <= set(content)
    assert content["n_samples"] == 1000
    assert content["wall_seconds"] > 0
    for task, section in content["tasks"].items():
        assert section["status"] == "trained", section["reason"]
        assert {"rows", "train_rows", "validation_rows", "test_rows", "digest", "split"} <= set(section["data"])
        assert {"trials", "completed", "pruned", "errored", "seconds", "best_params"} <= set(section["search"])
        assert section["search"]["trials"] == 2
        assert section["search"]["errored"] == 0, section["search"]["errors"]
        for owner in (section["metrics"], section["oracle"], *section["baselines"].values()):
            for metric in owner.values():
                assert set(metric) == {"value", "low", "high"}
        assert set(section["metrics"]) >= METRICS[task]
        assert all(math.isfinite(section["metrics"][name]["value"]) for name in METRICS[task])
        assert section["gate"]["decision"] in ("champion", "challenger", "refused")
        assert section["gate"]["reasons"]


def test_the_models_are_never_at_chance(content: dict[str, Any]) -> None:
    tasks = content["tasks"]
    assert tasks["threat"]["metrics"]["accuracy"]["value"] >= 0.60
    assert tasks["capacity"]["metrics"]["r2"]["value"] >= 0.50
    # Two trials on a thousand windows: the full search is held to more by the committed report.
    assert tasks["failure"]["metrics"]["roc_auc"]["value"] >= 0.65


def test_the_served_artefact_is_the_measured_one(small: Path, content: dict[str, Any]) -> None:
    from aiops_core import servable

    for task, section in content["tasks"].items():
        assert section["parity"] is not None and section["parity"] < 1e-3
        card = servable.load(small / "out" / task / "servable").card
        assert card["metrics"] == section["metrics"]
        assert card["lineage"]["run_id"] == section["run_id"]
        assert card["lineage"]["digest"] == section["data"]["digest"]
        assert "# Model card" in (small / "out" / task / "servable" / "model-card.md").read_text()


def test_the_page_is_self_contained_and_shows_no_code(small: Path) -> None:
    page = (small / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert "import " not in page
    assert page.count("data:image/png;base64,") >= 15
    assert len(page.encode()) < 1_500_000


def test_the_notebooks_ran_to_their_end(small: Path) -> None:
    paths = sorted((small / "out" / "notebooks").glob("*.ipynb"))
    assert [p.stem[:2] for p in paths] == ["01", "02", "03", "04", "05"]
    for path in paths:
        code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert all(c.execution_count for c in code if c.source)
        assert not [o for c in code for o in c.outputs if o.output_type == "error"]


def test_nothing_unfinished_is_left(small: Path) -> None:
    assert sorted(p.name for p in small.iterdir() if p.name.startswith(".") or "partial" in p.name) == []


def test_every_trial_is_a_run_with_its_metrics(
    small: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiops_core import tracking
    from aiops_core.tracking.store import open_client

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{small / 'mlflow.db'}")
    with open_client() as client:
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
        assert experiment is not None
        for section in content["tasks"].values():
            parent = client.get_run(section["run_id"])
            assert parent.info.status == "FINISHED"
            assert parent.data.params["data_digest"] == section["data"]["digest"]
            main = section["main_metric"]
            assert parent.data.metrics[f"test_{main}"] == pytest.approx(section["metrics"][main]["value"])
            children = client.search_runs(
                [experiment.experiment_id], f"tags.mlflow.parentRunId = '{section['run_id']}'"
            )
            assert len(children) == 2
            for child in children:
                assert child.data.params and child.data.metrics
                name = section["search"]["objective"]
                assert len(client.get_metric_history(child.info.run_id, name)) >= 1
            artifacts = {a.path for a in client.list_artifacts(section["run_id"])}
            assert {"figures", "native"} <= artifacts
            assert [i.dataset.name for i in parent.inputs.dataset_inputs] == ["synthetic"]
        registered = {v.name: v for v in tracking.list_models()}
    for section in content["tasks"].values():
        if section["gate"]["decision"] != "refused":
            assert registered[section["model"]].alias == section["gate"]["decision"]
            assert registered[section["model"]].version == section["model_version"]


def test_report_and_executed_notebook_lie_in_the_run(
    small: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from aiops_core.tracking.store import open_client

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{small / 'mlflow.db'}")
    with open_client() as client:
        for task, notebook in (("failure", "02_failure_predictor"), ("threat", "03_threat_detector")):
            run = content["tasks"][task]["run_id"]
            report = Path(client.download_artifacts(run, "report.html", str(tmp_path)))
            assert report.read_bytes() == (small / "out" / "report.html").read_bytes()
            page = Path(client.download_artifacts(run, f"{notebook}.html", str(tmp_path))).read_text(encoding="utf-8")
            assert page.count("data:image/png;base64,") >= 3
            assert not re.findall(r'<script[^>]*src="http', page)


def test_scoring_a_file_equals_the_servable(small: Path) -> None:
    from aiops_core import servable
    from aiops_core.data import sources as datasets
    from aiops_core.data import tables

    telemetry = datasets.load("synthetic", n_samples=100, seed=3, tasks=["failure"]).tables["telemetry"]
    telemetry = telemetry[telemetry["resource_id"] == telemetry["resource_id"].iloc[0]].iloc[:200]
    telemetry.to_parquet(small / "in.parquet", index=False)
    version = json.loads((small / "out" / "report.json").read_text())["tasks"]["failure"]["model_version"]
    aiops(small, "score", "failure", "in.parquet", "scored.parquet", "--version", str(version))
    scored = pd.read_parquet(small / "scored.parquet")
    assert len(scored) == len(telemetry)
    loaded = servable.load(small / "out" / "failure" / "servable")
    grid = tables.to_grid(telemetry, loaded.features)
    window = loaded.card["window"]
    ends = np.flatnonzero(grid.present)[-20:]
    windows = np.stack([grid.values[end - window + 1 : end + 1] for end in ends])
    probability = loaded.predict(windows, last=grid.time[ends])  # type: ignore[attr-defined]
    np.testing.assert_allclose(scored["probability"].to_numpy()[-20:], probability, atol=1e-9)
    assert scored["probability"].nunique() > 10


def test_a_smaller_run_replaces_no_champion(small: Path, content: dict[str, Any], ray_cluster: str) -> None:
    version = content["tasks"]["capacity"]["model_version"]
    aiops(small, "models", "promote", "capacity_forecaster", str(version))
    less = ["report", "--n-samples", "900", "--trials", "1", "--tasks", "capacity", "--out", "smoke", "--no-promote"]
    aiops(small, *less, cluster=ray_cluster)
    gate = json.loads((small / "smoke" / "report.json").read_text())["tasks"]["capacity"]["gate"]
    assert gate["decision"] == "challenger"
    said = " ".join(gate["reasons"])
    assert "was not to be promoted" in said
    assert f"had 1 trials, fewer than the 2 of the champion (version {version})" in said
    shown = " ".join(aiops(small, "models", "show", "capacity_forecaster", str(version + 1)).stdout.split())
    assert '"decision": "challenger"' in shown


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
    arguments = ["report", "--n-samples", "1500", "--trials", "6", "--tasks", "threat", "--out", "out"]
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
    arguments = ["report", "--n-samples", "400", "--trials", "6", "--tasks", "threat,capacity", "--out", "out"]
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
    arguments = ["report", "--n-samples", "400", "--trials", "1", "--tasks", "threat,capacity", "--out", "out"]
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


def stable(section: Any) -> Any:
    """Drop times and ids."""
    volatile = {"created", "wall_seconds", "seconds", "run_id", "model_version"}
    if isinstance(section, dict):
        return {k: stable(v) for k, v in section.items() if k not in volatile}
    return [stable(v) for v in section] if isinstance(section, list) else section


@pytest.mark.usefixtures("made_store")
def test_a_deterministic_run_repeats_whole(tmp_path: Path, content: dict[str, Any], ray_cluster: str) -> None:
    # In another folder, with another store and on another cluster.
    aiops(tmp_path, *SMALL, cluster=ray_cluster)
    assert stable(json.loads((tmp_path / "out" / "report.json").read_text())) == stable(content)
