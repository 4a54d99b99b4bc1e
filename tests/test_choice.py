"""A search has to earn its time: the default point stays unless another is better by more than noise."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy_task

from aiops_core import search
from aiops_core.data import sources
from aiops_core.search import choice
from aiops_core.search.result import SearchResult
from aiops_core.tasks import capacity, failure, threat

DEFAULT = {"x": 0.5}
EFFORTS: dict[ModuleType, Any] = {
    failure: failure.Effort(epoch_rows=(300, 300), max_steps=2),
    threat: threat.Effort(max_rows=400),
    capacity: capacity.Effort(search_rows=500, linear_rows=200, scored_rows=200, max_steps=3),
}


def found(*points: dict[str, float]) -> SearchResult:
    trials = pd.DataFrame({"score": [0.0] * len(points)})
    counts = {"trials": len(points), "completed": len(points), "pruned": 0, "errored": 0}
    return SearchResult("toy", "score", "max", trials, pd.DataFrame(), list(points), counts, 1.0)


def data(folder: Path, noise: float, fail_below: float | None = None) -> dict[str, Any]:
    return {"journal": str(folder / "journal"), "pause": 0, "fail_below": fail_below, "noise": noise}


def fits(folder: Path) -> int:
    path = folder / "journal"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_a_point_that_is_better_beyond_noise_replaces_the_default(ray_cluster: str, tmp_path: Path) -> None:
    result = search.chosen(toy_task, data(tmp_path, 0.001), found({"x": 0.31}, {"x": 0.4}, DEFAULT), seed=7)
    assert result.best_params == {"x": 0.31} and DEFAULT in result.ranked
    choice = result.summary()["choice"]
    assert choice["chosen"] == "trial" and choice["gain"]["lower_end"] > 0
    assert choice["why"].endswith("more than noise, and the trial is used")


def test_a_best_trial_within_noise_leaves_the_default_point_first(ray_cluster: str, tmp_path: Path) -> None:
    given = data(tmp_path, 2.0) | {"draw": 2}
    result = search.chosen(toy_task, given, found({"x": 0.31}, {"x": 0.4}, DEFAULT), seed=7)
    assert result.best_params == DEFAULT and result.ranked[1:] == [{"x": 0.31}, {"x": 0.4}]
    assert result.choice is not None and result.choice.chosen == "default"
    assert result.choice.gain["value"] > 0 and "not more than noise" in result.choice.why


def test_a_default_point_that_came_first_costs_no_fit(ray_cluster: str, tmp_path: Path) -> None:
    result = search.chosen(toy_task, data(tmp_path, 0.0), found(DEFAULT, {"x": 0.31}), seed=7)
    assert result.best_params == DEFAULT and fits(tmp_path) == 0


def test_a_point_whose_second_fit_fails_is_left_out(ray_cluster: str, tmp_path: Path) -> None:
    given = data(tmp_path, 0.001, fail_below=0.35)
    result = search.chosen(toy_task, given, found({"x": 0.31}, {"x": 0.4}, DEFAULT), seed=7)
    assert result.best_params == {"x": 0.4}
    given = data(tmp_path, 0.001, fail_below=0.9)
    assert search.chosen(toy_task, given, found({"x": 0.31}, DEFAULT), seed=7).best_params == {"x": 0.31}


def test_pure_noise_replaces_the_default_in_about_one_of_five_searches(ray_cluster: str, tmp_path: Path) -> None:
    taken = 0
    for k in range(12):
        # As far from the best as the default, on the other side.
        points = [{"x": 0.1 + 1e-5 * (3 * k + i)} for i in range(3)]
        result = search.chosen(toy_task, data(tmp_path, 0.5) | {"draw": k}, found(*points, DEFAULT), seed=k)
        taken += result.best_params != DEFAULT
    assert taken <= 6


def test_the_best_of_many_equal_trials_by_the_same_rows_seldom_replaces_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fits are those of the workers, run in this process."""
    monkeypatch.setattr(
        choice, "_fits",
        lambda task, given, points, seed: [task.validated(task.fit(p, given, seed=seed), given) for p in points],
    )  # fmt: skip
    taken = 0
    for k in range(20):
        given = data(tmp_path, 0.5) | {"draw": k}
        # As far from the best as the default, on the other side.
        points = [{"x": 0.1 + 1e-5 * (30 * k + i)} for i in range(30)]
        score = {p["x"]: toy_task.validated(p["x"], given)[0](np.ones(40))["score"] for p in points}
        ranked = sorted(points, key=lambda p: -score[p["x"]])
        result = choice.chosen(toy_task, given, found(*ranked, DEFAULT), seed=k)
        taken += result.best_params != DEFAULT
    assert taken <= 8


@pytest.mark.parametrize("task", EFFORTS, ids=lambda task: task.NAME)
def test_every_task_is_compared_on_its_validation_rows(task: Any) -> None:
    dataset = sources.load("synthetic", n_samples={"capacity": 300}.get(task.NAME, 1500), seed=7, tasks=[task.NAME])
    prepared = task.prepare(dataset, seed=7, effort=EFFORTS[task])
    values, units = task.validated(task.fit(task.defaults(prepared)[0], prepared, seed=8), prepared)
    point = values(np.ones(len(units.code)))[task.MAIN_METRIC]
    assert np.isfinite(point) and units.size > 1
    only = values(np.isin(units.code, range(units.size // 2)).astype(float))[task.MAIN_METRIC]
    assert only != point
