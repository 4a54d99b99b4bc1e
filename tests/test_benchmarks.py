"""The benchmark of real data: what stands is not measured again, and its tables hide nothing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent / "benchmarks" / "real_data"
KEY = {"seed": 7, "seeds": 5}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of the benchmark, which is run as a folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("plan", "learning", "ordinary", "protocols", "table")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names}, program=load_program())
    for name in names:
        sys.modules.pop(name, None)


def load_program() -> Any:
    spec = importlib.util.spec_from_file_location("real_data_program", FOLDER / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metric(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def section() -> dict[str, Any]:
    """A model that its baseline beats, and that was refused."""
    names = ("average_precision", "roc_auc", "f1", "precision", "recall", "brier", "ece")
    again = {"mean": 0.1, "spread": 0.02, "low": 0.08, "high": 0.12, "seeds": 5, "values": [0.1] * 5}
    return {
        "model": "failure_predictor", "status": "trained", "reason": None, "main_metric": "average_precision",
        "metrics": {name: metric(0.09) for name in names},
        "seeds": {"seeds": [7, 8, 9, 10, 11], "metrics": {"average_precision": again}},
        "baselines": {"random_forest": {name: metric(0.19) for name in names}, "rules": {"f1": metric(0.01)}},
        "oracle": None, "share_of_oracle": None, "intervals_over": "12 resources", "test_looks": 1,
        "gate": {"decision": "refused", "reasons": ["is worse than random_forest", "alarms too much"]},
        "search": {"choice": {"why": "no trial was better"}}, "data": {},
    }  # fmt: skip


def test_what_the_same_code_measured_with_the_same_seeds_is_not_measured_again(bench: SimpleNamespace) -> None:
    done = {**bench.program.key_of("asd", KEY), "seconds": 1}
    state: dict[str, Any] = {"ordinary": {"asd": done}, "protocols": {}}
    steps = [("ordinary", "asd"), ("protocols", "asd")]
    assert bench.program.waiting(state, ["asd"], KEY, anew=False) == steps[1:]
    assert bench.program.waiting(state, ["asd"], KEY, anew=True) == steps
    assert bench.program.waiting(state, ["asd"], {**KEY, "seeds": 3}, anew=False) == steps
    state["ordinary"]["asd"] = {**done, "digest": "of other code"}
    assert bench.program.waiting(state, ["asd"], KEY, anew=False) == steps


def test_code_of_another_task_leaves_a_measurement_standing(bench: SimpleNamespace) -> None:
    assert bench.plan.code_digest("asd") == bench.plan.code_digest("smd")
    assert bench.plan.code_digest("asd") != bench.plan.code_digest("nsl-kdd")


def test_the_time_plan_fits_into_the_time_that_there_is(bench: SimpleNamespace) -> None:
    assert sum(map(sum, bench.plan.MINUTES.values())) <= 100
    assert set(bench.plan.MINUTES) == set(bench.plan.MEASURES)
    words = bench.program.plan_words([("ordinary", "asd"), ("protocols", "asd")], 100)
    assert "asd: ordinary, about 7 min" in words and "11 min expected, at most 100" in words


def test_the_tables_show_a_model_that_its_baseline_beats_as_it_is(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.table, "TABLE", tmp_path / "real-data.md")
    monkeypatch.setattr(bench.table, "CURVE", tmp_path / "none.json")
    row = {
        "task": "failure",
        "protocol": "resource",
        "clock": 0,
        "metrics": section()["metrics"],
        "units": "4 resources",
    }
    refused = {"task": "failure", "protocol": "time", "clock": None, "why": "too few"}
    state = {
        "ordinary": {"asd": {"digest": "of other code", "seconds": 60, "tasks": {"failure": section()}}},
        "protocols": {"asd": {"digest": bench.plan.code_digest("asd"), "rows": [row, refused]}},
    }
    bench.table.write(state, seed=7, seeds=5, left=["smd (ordinary)"])
    page = (tmp_path / "real-data.md").read_text()
    assert "| asd † | average precision | **0.090** (0.040 to 0.140) | 0.100 ± 0.020 (0.080 to 0.120) |" in page
    assert "| **refused** | is worse than random_forest; alarms too much | no trial was better |" in page
    assert page.index("| random_forest | 0.190") < page.index("| **failure_predictor** | 0.090")
    assert "| rules | – | – | 0.010" in page
    assert "| asd | failure | resource | no | average_precision 0.090" in page and "not possible: too few" in page
    assert "smd (ordinary)" in page


@pytest.mark.parametrize("task", ["failure", "threat", "capacity"])
def test_the_benchmark_of_the_gate_refuses_shuffled_predictions(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    found = importlib.import_module("gate_power").judged(task, 500, 0)
    sys.modules.pop("gate_power")
    assert found["shuffled"] == "refused"
    assert found["equal"] in ("champion", "challenger") and set(found["passed"]) and found["margin"] > 0
