"""What a notebook can do with plain functions: another space, a metric of one's own, frames, tables that show themselves."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from aiops_core.data import sources
from aiops_core.data.tables import Dataset
from aiops_core.errors import UsageError
from aiops_core.judge.gate import Verdict
from aiops_core.search.space import checked_space, moved_into
from aiops_core.tasks import capacity, failure, threat

TASKS = [failure, threat, capacity]
SPACE = {
    "units": CategoricalDistribution([64]),
    "depth": IntDistribution(3, 5),
    "step": IntDistribution(10, 50, step=20),
    "rate": FloatDistribution(0.1, 0.2),
}


@cache
def dataset(task: str) -> Dataset:
    return sources.load("synthetic", n_samples=600, tasks=[task])


@cache
def prepared(task: ModuleType) -> Any:
    return task.prepare(dataset(task.NAME), seed=7)


def guess(task: ModuleType, data: Any) -> dict[str, np.ndarray]:
    """A prediction of the test part that needs no training."""
    rng = np.random.default_rng(0)
    if task is failure:
        probability = rng.random(len(data.ends["test"]))
        return {"probability": probability, "alarm": probability > 0.5}
    if task is threat:
        probability = rng.dirichlet(np.ones(len(data.classes)), len(data.index("test")))
        return {"probability": probability, "label": probability.argmax(axis=1)}
    middle = rng.normal(50, 10, int(data.parts["test"].known.sum()))
    return {"p10": middle - 5, "p50": middle, "p90": middle + 5}


def test_default_points_move_to_the_nearest_place_in_a_space_and_are_tried_once() -> None:
    points = [
        {"units": 32, "depth": 14, "step": 44, "rate": 0.5},
        {"units": 16, "depth": 9, "step": 48, "rate": 0.3},
        {"units": 64, "depth": 4, "step": 10, "rate": 0.15},
    ]
    moved = moved_into(SPACE, points)
    assert moved == [{"units": 64, "depth": 5, "step": 50, "rate": 0.2}, points[2]]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.NAME)
def test_the_tasks_own_default_points_stay_where_they_are_in_its_own_space(task: ModuleType) -> None:
    data = prepared(task)
    assert moved_into(checked_space(task, data, None), task.defaults(data)) == task.defaults(data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_dept": IntDistribution(3, 5)}, "no parameter 'max_dept'; did you mean 'max_depth'"),
        ({"max_depth": [3, 4]}, r"'max_depth' is \[3, 4\]; it must be a distribution of optuna.distributions"),
    ],
)
def test_a_space_that_the_task_would_not_understand_is_refused(change: dict[str, Any], sentence: str) -> None:
    data = prepared(threat)
    with pytest.raises(UsageError, match=sentence):
        checked_space(threat, data, threat.space(data) | change)
    without = {name: found for name, found in threat.space(data).items() if name != "balance"}
    with pytest.raises(UsageError, match="'balance' is missing"):
        checked_space(threat, data, without)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.NAME)
def test_a_metric_of_ones_own_stands_beside_the_others_with_an_interval(task: ModuleType) -> None:
    data = prepared(task)
    prediction = guess(task, data)
    key = {"failure": "alarm", "threat": "label", "capacity": "p50"}[task.NAME]
    mine = {"mean_guess": lambda truth, p: p[key].mean(), "base": lambda truth, p: truth.mean()}
    plain = task.evaluate(data, prediction)
    found = task.evaluate(data, prediction, extra_metrics=mine)
    assert {name: value for name, value in found.items() if name not in mine} == plain
    assert found["mean_guess"]["value"] == pytest.approx(prediction[key].mean())
    for metric in (found["mean_guess"], found["base"]):
        assert metric["low"] < metric["value"] < metric["high"]


def test_an_extra_accuracy_gets_the_interval_of_the_builtin_one() -> None:
    data = prepared(threat)
    mine = {"mine": lambda truth, p: np.mean(truth == p["label"])}
    found = threat.evaluate(data, guess(threat, data), extra_metrics=mine)
    assert found["mine"]["value"] == pytest.approx(found["accuracy"]["value"])
    # From fewer resamples of the same units.
    assert found["mine"] == pytest.approx(found["accuracy"], abs=0.02)


def test_an_extra_metric_that_cannot_be_computed_is_named() -> None:
    data = prepared(threat)
    prediction = guess(threat, data)
    with pytest.raises(
        UsageError, match="extra metric 'mine' reads 'alarm', but a prediction holds probability, label"
    ):
        threat.evaluate(data, prediction, extra_metrics={"mine": lambda truth, p: p["alarm"].mean()})
    with pytest.raises(UsageError, match="'accuracy' has the name of a metric that is always measured"):
        threat.evaluate(data, prediction, extra_metrics={"accuracy": lambda truth, p: 1.0})


def test_failure_predictions_are_a_frame_of_keys_truth_and_error() -> None:
    data, prediction = prepared(failure), guess(failure, prepared(failure))
    frame = failure.predictions(data, prediction)
    pd.testing.assert_frame_equal(frame[["resource_id", "timestamp"]], data.keys("test"))
    assert (frame["truth"] == (frame["steps_to_incident"] <= data.horizon)).all()
    np.testing.assert_allclose(frame["error"], np.abs(data.truth("test") - prediction["probability"]))


def test_threat_predictions_point_back_into_the_activity_table() -> None:
    data, prediction = prepared(threat), guess(threat, prepared(threat))
    frame = threat.predictions(data, prediction)
    activity = dataset("threat").tables["activity"].iloc[frame.index]
    assert frame["truth"].tolist() == activity["threat_type"].tolist()
    np.testing.assert_allclose(frame["request_rate"], activity["request_rate"], rtol=1e-6)
    assert (frame["decided"] == frame.filter(like="p:").idxmax(axis=1).str.removeprefix("p:")).all()
    own = [row[f"p:{row['truth']}"] for _, row in frame.iterrows()]
    np.testing.assert_allclose(frame["error"], 1 - np.array(own))


def test_capacity_predictions_name_the_value_that_was_forecast() -> None:
    data, prediction = prepared(capacity), guess(capacity, prepared(capacity))
    frame = capacity.predictions(data, prediction)
    usage = dataset("capacity").tables["usage"].set_index(["resource_id", "timestamp"])
    step = pd.Timedelta(seconds=data.layout.step_seconds)
    for _, row in frame.sample(30, random_state=0).iterrows():
        measured = usage.loc[(row["resource_id"], row["origin"] + row["step"] * step), row["target"]]
        assert row["truth"] == pytest.approx(measured, rel=1e-6)
    assert (frame["inside"] == (frame["error"] <= 5)).all()
    assert "inside" not in capacity.predictions(data, {"p50": prediction["p50"]})


def test_a_derived_column_becomes_a_feature_and_keeps_the_oracle() -> None:
    given = dataset("threat")
    activity = given.tables["activity"]
    changed = given.replaced(activity=activity.assign(double=activity["request_rate"] * 2))
    data = threat.prepare(changed, seed=7)
    assert data.features[-1]["name"] == "double" and data.oracle is not None
    assert changed.digest("threat") != given.digest("threat") and "double" not in activity
    with pytest.raises(UsageError, match="has no table 'activty'; did you mean 'activity'"):
        given.replaced(activty=activity)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.NAME)
def test_a_task_without_its_tables_is_refused_in_one_sentence(task: ModuleType) -> None:
    empty = Dataset("mine", "Mine", "none", {})
    with pytest.raises(
        UsageError, match=f"data set 'mine' has no .* table: task '{task.NAME}' has nothing to learn from"
    ):
        task.prepare(empty, seed=7)


def test_objects_show_themselves_as_small_escaped_tables() -> None:
    frame = pd.DataFrame({"<b>": [1], "threat_type": ["normal"]})
    shown = Dataset("x", "<script>", "none", {"activity": frame}, {"threat": {"test_fraction": 0.2}})._repr_html_()
    assert "&lt;script&gt;" in shown and "<script>" not in shown
    assert "1 rows: &lt;b&gt;, threat_type" in shown and "test_fraction = 0.2" in shown
    verdict = Verdict("challenger", ["is inferior to <x>", "beats class_prior"], "Search again.")._repr_html_()
    assert "Gate: challenger" in verdict and "is inferior to &lt;x&gt;<br>beats class_prior" in verdict


def test_a_link_leads_from_the_working_folder_to_a_file_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiops_core.markup import Link

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a & b").mkdir()
    assert Link(tmp_path / "a & b")._repr_html_() == '<a href="a &amp; b">a &amp; b</a>'
    assert Link(tmp_path / "none")._repr_html_() == "none"
