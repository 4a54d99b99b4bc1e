"""What can be trained can be served: every source goes from ``aiops report`` to HTTP answers equal to ``aiops score``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Service, point

from aiops_core import servable, tracking
from aiops_core.data import sources as datasets
from aiops_core.data.folder import load_folder, save_folder
from aiops_core.data.tables import Dataset
from aiops_core.facts import MODELS
from aiops_core.tracking import scoring

pytestmark = [pytest.mark.slow, pytest.mark.serve, pytest.mark.timeout(900)]
TABLE = {"failure": "telemetry", "threat": "activity", "capacity": "usage"}
#: Sources by the run that trains them: one folder holds a table of each task, and a table may hold the resources of two
#: sources, which saves reports.
RUNS: dict[str, dict[str, str]] = {
    "first": {"failure": "cmapss", "threat": "cicids2017", "capacity": "nab"},
    "second": {"failure": "smd", "threat": "nsl-kdd", "capacity": "azure-v1+own"},
    "third": {"failure": "own", "threat": "own", "capacity": "datacenter-traces"},
}
CASES = [(run, task, source) for run, tasks in RUNS.items() for task, source in tasks.items()]
ROWS = 50


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        frame.to_json(orient="records", date_format="iso", double_precision=15, force_ascii=False)
    )
    return found


# Sources, cut to what trains in seconds ------------------------------------------------------------------------------


def some_rows(activity: pd.DataFrame, total: int = 700) -> pd.DataFrame:
    """Return rows of every class, small classes whole, and of every part where there is an official split."""
    keys = ["threat_type", "split"] if "split" in activity.columns else ["threat_type"]
    share = total / len(activity)
    rank = activity.sample(frac=1.0, random_state=1).groupby(keys).cumcount()
    size = activity.groupby(keys)["threat_type"].transform("size")
    return activity[rank.reindex(activity.index) < np.maximum(10, (share * size).round())]


def some_resources(frame: pd.DataFrame, names: list[str], rows: int) -> pd.DataFrame:
    """Return the last rows of some resources."""
    return frame[frame["resource_id"].isin(names)].groupby("resource_id").tail(rows)


def cut(dataset: Dataset, task: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return the tables and settings of one task, small."""
    tables = dataset.tables
    if task == "threat":
        return {"activity": some_rows(tables["activity"])}, dict(dataset.config.get("threat", {}))
    if task == "capacity":
        usage = tables["usage"]
        some = some_resources(usage, sorted(usage["resource_id"].unique())[:3], 1000)
        known = {k: v for k, v in dataset.config["capacity"].items() if k == "target"}
        return {"usage": some}, {**known, "season": 24, "horizon": 12, "origins": 3, "origin_step": 12}
    telemetry, incidents = tables["telemetry"], tables["incidents"]
    if "split" in telemetry.columns:
        # Engines that fail soon after their record ends: others hold no positive row.
        last = telemetry.groupby("resource_id")["timestamp"].max()
        left = (incidents.set_index("resource_id")["start"] - last).sort_values()
        part = telemetry.groupby("resource_id")["split"].first()
        names = [name for which in ("train", "test") for name in left.index[part[left.index] == which][:9]]
        telemetry = telemetry[telemetry["resource_id"].isin(names)]
    else:
        telemetry = telemetry[telemetry["resource_id"] == incidents["resource_id"].max()].iloc[:9000]
    kept = incidents[incidents["resource_id"].isin(telemetry["resource_id"].unique())]
    kept = kept[kept["start"] <= telemetry["timestamp"].max() + pd.Timedelta("30h")]
    return {"telemetry": telemetry, "incidents": kept}, {"window": 6, "horizon": 30, "stride": 3}


def own(task: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return a user's tables, with columns, classes and resources called as people call them."""
    rng = np.random.default_rng(4)
    n, names = 500, ["db 1 (primär)", "web/2", "cache-3"]
    stamps = pd.date_range("2026-03-01", periods=n, freq="h", tz="UTC")
    wave = np.sin(np.arange(n) / 24 * 2 * np.pi)
    if task == "threat":
        label = rng.integers(0, 3, 900)
        columns = ["Failed Logins", "Bytes Out (MB)", "req/s", "explain", "costs", "source_ip", "größe", "instances"]
        frame = pd.DataFrame({c: (rng.normal(label * (1 + j % 3), 1.0)).round(4) for j, c in enumerate(columns)})
        frame["Country of Origin"] = np.array(["DE", "US", "FR"])[(label + rng.integers(0, 2, 900)) % 3]
        frame["always"], frame["on"] = 1, label > 0
        frame["threat_type"] = np.array(["normal", "Web Attack (XSS)", "übernahme / takeover"])[label]
        return {"activity": frame}, {}
    usage, metrics, incidents = [], [], []
    for i, name in enumerate(names):
        usage.append(
            pd.DataFrame(
                {
                    "resource_id": name,
                    "timestamp": stamps,
                    "Disk Used (GB)": 200 + 20 * wave + rng.normal(0, 2, n).cumsum(),
                    "explain": 5 + wave + rng.normal(0, 0.2, n),
                    "req/s": 100 + 10 * wave + rng.normal(0, 3, n),
                }
            )
        )
        starts = np.arange(40 + 7 * i, n, 45)
        heat = np.zeros(n)
        for start in starts:
            heat[max(0, start - 12) : start] += np.linspace(0, 6, min(12, start))
            incidents.append({"resource_id": name, "start": stamps[start], "end": stamps[start] + pd.Timedelta("2h")})
        metrics.append(
            pd.DataFrame(
                {
                    "resource_id": name,
                    "timestamp": stamps,
                    "CPU Load (%)": 50 + 4 * heat + rng.normal(0, 2, n),
                    "metrics": heat + rng.normal(0, 1, n),
                    "decision": rng.integers(0, 9, n),
                    "always": 1.0,
                    "instances": 3 + heat.round(),
                    "is up": heat < 5,
                }
            )
        )
    if task == "capacity":
        capacity = {
            "target": ["Disk Used (GB)", "explain"],
            "season": 24,
            "horizon": 12,
            "origins": 3,
            "origin_step": 12,
        }
        return {"usage": pd.concat(usage)}, capacity
    return {"telemetry": pd.concat(metrics), "incidents": pd.DataFrame(incidents)}, {"window": 6, "horizon": 12}


def write_own(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write a user's tables as CSV, in place of the Parquet files."""
    for name, frame in tables.items():
        (folder / f"{name}.parquet").unlink()
        frame.to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture(scope="module")
def report(
    real_data: Path, ray_cluster: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path, str]]:
    """Return a function that gives the source folder, the report and the store of a run, made once."""
    made: dict[str, tuple[Path, Path, str]] = {}

    def of(run: str) -> tuple[Path, Path, str]:
        if run not in made:
            made[run] = train(run, real_data, ray_cluster, tmp_path_factory.mktemp(run))
        return made[run]

    return of


def public(name: str, task: str, real_data: Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return the tables and settings of one task of a public source, small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOPS_DATASETS_DIR", str(real_data))
        dataset = datasets.load(name) if name in datasets.PUBLIC else load_folder(real_data / name)
    return cut(dataset, task)


def train(run: str, real_data: Path, address: str, home: Path) -> tuple[Path, Path, str]:
    """Cut the sources of a run into one folder and run the ordinary command on it."""
    source, uri = home / "source", f"sqlite:///{home / 'mlflow.db'}"
    tables: dict[str, pd.DataFrame] = {}
    config: dict[str, Any] = {}
    csv: dict[str, pd.DataFrame] = {}
    for task, names in RUNS[run].items():
        first, *others = names.split("+")
        found, config[task] = own(task) if first == "own" else public(first, task, real_data)
        for _ in others:
            # The resources of a user beside those of the first source, each with targets that the other lacks.
            more, settings = own(task)
            found = {name: pd.concat([found[name], more[name]], ignore_index=True) for name in found}
            config[task]["target"] = [config[task]["target"], *settings["target"]]
        csv |= found if "own" in names else {}
        tables |= found
    save_folder(Dataset(run, run, "test", tables, config), source)
    write_own(source, csv)
    kept = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI",)}
    environment = {**kept, "AIOPS_HOME": str(home), "MLFLOW_TRACKING_URI": uri, "RAY_ADDRESS": address}
    command = [
        sys.executable,
        "-m",
        "aiops_core.cli",
        "report",
        "--source",
        str(source),
        "--trials",
        "1",
        "--quick",
        "--out",
        "out",
    ]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return source, home / "out", uri


@pytest.fixture
def served(
    report: Callable[[str], tuple[Path, Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], tuple[Service, Any, pd.DataFrame]]:
    """Return a function that registers a run's model and gives a service, the servable and the task's table."""

    def of(run: str, task: str) -> tuple[Service, Any, pd.DataFrame]:
        source, out, uri = report(run)
        section = json.loads((out / "report.json").read_text(encoding="utf-8"))["tasks"][task]
        assert section["status"] == "trained", section
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        # So little data need not pass the gate: registered by hand, as a user may.
        version = tracking.register(task, section["run_id"], "champion")
        folder = tracking.fetch(MODELS[task], version.version, tmp_path / "fetched")
        point(tmp_path / "state", {MODELS[task]: (folder, str(version.version))})
        service = Service(tmp_path / "state")
        status = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == MODELS[task])
        assert status["status"] == "loaded", status
        return service, servable.load(folder), load_folder(source).tables[TABLE[task]]

    return of


# Tests ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "task", "source"), CASES, ids=[f"{source}-{task}" for _, task, source in CASES])
def test_rows_of_the_table_that_trained_a_model_are_answered_as_the_batch_score_says(
    served: Callable[[str, str], tuple[Service, Any, pd.DataFrame]], run: str, task: str, source: str
) -> None:
    service, loaded, table = served(run, task)
    checks = {"failure": check_failure, "threat": check_threat, "capacity": check_capacity}
    assert checks[task](service, loaded, table) >= ROWS
    assert service.client.get("/schema").status == service.client.get("/docs").status == 200
    assert service.client.get("metrics").status == 200


def ask(service: Service, route: str, instances: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Ask for a batch, and for some of it alone."""
    answer = service.client.post(route, {"instances": instances})
    assert answer.status == 200, answer.body[:1000]
    found: list[dict[str, Any]] = answer.json()["predictions"]
    single = service.client.post(route, instances[0])
    assert single.status == 200, single.body[:1000]
    assert single.json()["prediction"] == found[0]["prediction"]
    assert {a["model"]["kind"] for a in found} == {kind}
    return found


def check_threat(service: Service, loaded: Any, table: pd.DataFrame) -> int:
    some = table.sample(300, random_state=2)
    scored = scoring.score_table(loaded, some)
    answers = ask(service, "predict/threat", rows_of(some), "random_forest")
    for k, answer in enumerate(answers):
        assert answer["prediction"] == scored["prediction"][k]
        for name in loaded.classes:
            assert answer["probabilities"][name] == pytest.approx(scored[name][k], abs=1e-6)
        assert any("threat_type" in w for w in answer["warnings"])
    return len(answers)


def check_failure(service: Service, loaded: Any, table: pd.DataFrame) -> int:
    names = table["resource_id"].unique()[:2]
    some = pd.concat([table[table["resource_id"] == name].tail(120) for name in names])
    scored = scoring.score_table(loaded, some)
    instances, expected = [], []
    for name, part in some.groupby("resource_id", sort=False):
        rows = rows_of(part)
        mine = scored.loc[scored["resource_id"] == name, "probability"].to_list()
        for k in range(len(rows)):
            instances.append({"resource_id": name, "time_series": rows[max(0, k + 1 - loaded.window) : k + 1]})
            expected.append(mine[k])
    answers = ask(service, "predict/failure", instances, "lstm")
    for answer, p in zip(answers, expected, strict=True):
        assert answer["probability"] == pytest.approx(p, abs=1e-6)
    # The same rows as they are, one after the other, fill the window.
    flat = rows_of(some[some["resource_id"] == names[0]])
    seen = service.client.post("predict/failure", {"instances": flat})
    assert seen.status == 200, seen.body[:1000]
    last = seen.json()["predictions"][-1]
    first = scored[scored["resource_id"] == names[0]].iloc[-1]
    assert last["model"]["kind"] == "lstm" and last["probability"] == pytest.approx(first["probability"], abs=1e-6)
    return len(answers)


def check_capacity(service: Service, loaded: Any, table: pd.DataFrame) -> int:
    instances, cuts = [], []
    for back in range(0, 36, 2):
        for name, part in table.groupby("resource_id"):
            kept = part.iloc[: len(part) - back]
            known = rows_of(kept.dropna(axis=1, how="all"))
            instances.append({"resource_id": name, "historical_data": known, "forecast_days": 365})
            cuts.append(kept)
    answers = ask(service, "predict/capacity", instances, "xgboost")
    for answer, kept in zip(answers, cuts, strict=True):
        scored = scoring.score_table(loaded, kept)
        for target, points in answer["forecast"].items():
            mine = scored[scored["target"] == target]
            assert len(points) == len(mine) == loaded.horizon
            for name in ("p10", "p50", "p90"):
                want = mine[name].to_numpy()
                found = np.array([p[name] for p in points])
                assert (np.abs(found - want) <= 1e-6 * np.maximum(1.0, np.abs(want))).all()
    return len(answers)
