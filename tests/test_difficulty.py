"""The command that measures how hard the synthetic data are, on small samples and without the tasks' own models."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "benchmarks" / "difficulty.py"


@pytest.fixture(scope="module")
def difficulty() -> ModuleType:
    spec = importlib.util.spec_from_file_location("difficulty", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(difficulty: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], str]:
    folder = tmp_path_factory.mktemp("difficulty")
    given = sys.argv
    sys.argv = ["difficulty", "--samples", "1500", "--no-models", "--out", str(folder), "--seeds", "3"]
    try:
        difficulty.main()
    finally:
        sys.argv = given
    rows = json.loads((folder / "difficulty.json").read_text(encoding="utf-8"))
    return rows, (folder / "difficulty.md").read_text(encoding="utf-8")


def value(rows: list[dict], task: str, start: str) -> float:
    (found,) = [r["value"] for r in rows if r["task"] == task and r["method"].startswith(start)]
    return float(found)


def test_every_task_has_its_best_single_feature_of_at_least_500(table: tuple[list[dict], str]) -> None:
    rows, text = table
    for task in ("failure", "threat", "capacity"):
        (best,) = [r for r in rows if r["task"] == task and r["method"].startswith("best of")]
        assert int(best["method"].split()[2]) >= 500
        assert best["note"] in text


def test_the_failure_oracle_is_far_above_any_feature_and_logistic_regression(table: tuple[list[dict], str]) -> None:
    rows, _ = table
    oracle = value(rows, "failure", "oracle")
    assert oracle > 0.9
    assert value(rows, "failure", "best of") < min(0.8, oracle - 0.15)
    assert value(rows, "failure", "logistic regression") < min(0.88, oracle - 0.08)


def test_the_threat_oracle_is_far_above_logistic_regression(table: tuple[list[dict], str]) -> None:
    rows, _ = table
    assert value(rows, "threat", "oracle: exact") > 0.85
    assert value(rows, "threat", "logistic regression") < 0.8
    assert value(rows, "threat", "best of") < 0.5


def test_the_capacity_oracle_is_far_below_the_median_of_three(table: tuple[list[dict], str]) -> None:
    rows, _ = table
    oracle = value(rows, "capacity", "oracle")
    assert oracle < 0.75 * value(rows, "capacity", "untrained median of three")
    assert oracle < 0.85 * value(rows, "capacity", "best of")
    assert value(rows, "capacity", "knows the state") < oracle
