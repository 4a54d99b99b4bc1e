"""The main job for real: notebooks, Ray, MLflow, files. Assertions are on what it leaves, not on that it ran."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from command import aiops

ROOT = Path(__file__).resolve().parent.parent
METRICS = {
    "failure": {"roc_auc", "average_precision", "f1", "precision", "recall", "brier", "ece"},
    "threat": {"accuracy", "macro_f1", "log_loss", "ece"},
    "capacity": {"mae", "nmae", "rmse", "r2", "mase", "wape", "pinball", "coverage_80"},
}

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(1500)]


#: Options of the run that most tests look at; deterministic, so that a second one must equal it.
SMALL = ("report", "--n-samples", "1000", "--trials", "2", "--deterministic", "--quick", "--out", "out")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One small run of all three tasks, with a store and a cluster that it makes itself."""
    home = tmp_path_factory.mktemp("home")
    aiops(home, *SMALL)
    yield home


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
    # The state folder holds the lock under which champions change.
    assert sorted(p.name for p in small.iterdir() if p.name.startswith(".") or "partial" in p.name) == [".aiops"]
    assert [p.name for p in (small / ".aiops").iterdir()] == ["registry.lock"]


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
    less += ["--quick"]
    aiops(small, *less, cluster=ray_cluster)
    gate = json.loads((small / "smoke" / "report.json").read_text())["tasks"]["capacity"]["gate"]
    assert gate["decision"] == "challenger"
    said = " ".join(gate["reasons"])
    assert "was not to be promoted" in said
    assert f"was made by a quick run (--quick), which does not replace the champion (version {version})" in said
    assert f"had 1 trials, fewer than the 2 of the champion (version {version})" in said
    shown = " ".join(aiops(small, "models", "show", "capacity_forecaster", str(version + 1)).stdout.split())
    assert '"decision": "challenger"' in shown
    begun, done = (json.loads(line) for line in (small / ".aiops" / "audit.jsonl").read_text().splitlines())
    assert begun["route"] == "models promote" and begun["what"] == {"name": "capacity_forecaster", "version": version}
    assert done["event"] == begun["event"] and done["phase"] == "done"


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
