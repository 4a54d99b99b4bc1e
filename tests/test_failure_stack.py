"""The members of the failure model: trees as a graph, past incidents as a table, and what each of them counts."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from test_failure import PARAMS, dataset, telemetry

from aiops_core import servable
from aiops_core.servable.failure import FailureServable, log_odds
from aiops_core.tasks import failure
from aiops_core.tasks.failure.recurrence import looked_up, recurrence, recurrence_table
from aiops_core.tasks.failure.split import rows_before_test
from aiops_core.tasks.failure.stack import combined, stack_of
from aiops_core.tasks.failure.tree_graph import graph_of_table, graph_of_trees, statistics_of
from aiops_core.tasks.failure.trees import GRID, fit_trees, tree_logits
from aiops_core.tasks.failure.window_statistics import window_statistics


@pytest.fixture(scope="module")
def gappy() -> failure.FailureData:
    frame, incidents = telemetry(resources=4)
    rng = np.random.default_rng(3)
    frame.loc[rng.random(len(frame)) < 0.2, "signal"] = np.nan
    frame.loc[100:140, "noise"] = np.nan
    frame["noise"] += np.where(frame["resource_id"] == "host-1", 1e5, 0)
    return failure.prepare(dataset(frame, incidents), seed=0)


def answer(graph: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, feed)[0])


def test_statistics_in_the_graph_are_those_that_trees_learn(gappy: failure.FailureData) -> None:
    ends = np.arange(len(gappy.time))
    found, fast = statistics_of(gappy.windows(ends)), window_statistics(gappy, ends)
    assert np.isnan(fast).any() and (np.isnan(found) == np.isnan(fast)).all()
    np.testing.assert_allclose(found, fast, rtol=1e-5, atol=2e-4)
    flat = np.full((1, 12, 2), 0.1, dtype=np.float32)
    spread, change = statistics_of(flat)[0, 4:6], statistics_of(flat)[0, 12:]
    assert spread.tolist() == change.tolist() == [0.0, 0.0]


def test_the_graph_of_trees_answers_as_scikit_learn_does_also_with_missing_values_and_at_a_threshold(
    gappy: failure.FailureData,
) -> None:
    rows = gappy.ends["train"]
    x, truth = window_statistics(gappy, rows), gappy.label(rows)
    # Neighbouring single-precision values: the threshold between them lies where only double precision has numbers.
    x[:, 0] = np.where(truth == 1, np.nextafter(np.float32(1), np.float32(2)), np.float32(1))
    models = {name: fit_trees(name, GRID[name][0], x, truth, np.ones(len(x)), trees=12, seed=1) for name in GRID}
    windows = gappy.windows(gappy.ends["test"])
    windows[::7, -1, 0] = 1.0
    windows[::5, -1, 0] = np.nextafter(np.float32(1), np.float32(2))
    found = answer(graph_of_trees(models, gappy.window, windows.shape[2]), {"window": windows})
    expected = tree_logits(models, statistics_of(windows))
    assert len(np.unique(expected.round(6))) > 20
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_table_of_past_incidents_is_looked_up_by_resource_and_time_of_day() -> None:
    data = failure.prepare(dataset(*telemetry(every=24)), seed=0)
    learned, asked = rows_before_test(data), data.ends["test"]
    table = recurrence_table(data, learned, 0.5)
    assert table.shape == (len(data.resources) + 1, 25)
    expected = recurrence(data, learned, asked, 0.5)
    np.testing.assert_allclose(looked_up(table, data.resource[asked], data.time[asked]), expected, rtol=1e-9)
    never = looked_up(table, np.array([-1]), np.array(["NaT"], dtype="datetime64[s]"))
    assert never[0] == table[-1, :-1].mean()
    found = answer(graph_of_table(table), {"place": np.array([[0, 3], [len(data.resources), 24]])})
    np.testing.assert_allclose(found, log_odds(table[[0, -1], [3, 24]]), rtol=1e-6)


def test_members_count_by_what_they_know_and_equally_while_incidents_are_few() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.random(6_000) < 0.1).astype(np.int64)
    good, poor = 3.0 * truth + rng.normal(size=6_000), rng.normal(size=6_000)
    known = stack_of(["good", "poor"], np.c_[good, poor], truth, incidents=10_000)
    assert known[0]["weight"] > 0.95 and sum(m["weight"] for m in known) == pytest.approx(1.0)
    assert [m["weight"] for m in stack_of(["good", "poor"], np.c_[good, poor], truth, incidents=0)] == [0.5, 0.5]
    # One that knows nothing says the base rate: it dilutes the others, and turns no order round.
    equal = combined(stack_of(["good", "poor"], np.c_[good, poor], truth, incidents=0), np.c_[good, poor])
    assert np.corrcoef(equal, good)[0, 1] > 0.99


@pytest.mark.slow
def test_baselines_and_members_share_their_fits_and_each_member_is_shown_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    effort = failure.Effort(folds=2, max_steps=2, epoch_rows=(400, 500), baseline_trees=12)
    data = failure.prepare(dataset(*telemetry()), seed=0, effort=effort)
    baselines = failure.baselines(data, seed=0)
    model = failure.finish([PARAMS], data, seed=0)
    assert all(model.trees[name] is tree for name, tree in data.trees[0].items())
    assert set(data.trees) == {"chosen", 0}
    failure.export(model, data, tmp_path_factory.mktemp("stack") / "servable")
    loaded = servable.load(tmp_path_factory.getbasetemp() / "stack0" / "servable")
    assert isinstance(loaded, FailureServable)
    rows = failure.members_alone(loaded, data)
    assert [row["member"] for row in rows] == ["all together", "lstm", *GRID, "recurrence"]
    assert sum(float(row["weight"] or 0) for row in rows[1:]) == pytest.approx(1.0)
    assert rows[0]["without_it"] is None and all(isinstance(row["without_it"], float) for row in rows[1:])
    own = failure.evaluate(data, baselines["random_forest"])["average_precision"]["value"]
    assert rows[3]["average_precision"] == pytest.approx(own, abs=0.01)
    whole = failure.evaluate(data, failure.score(loaded, data, "test"))["average_precision"]["value"]
    assert rows[0]["average_precision"] == pytest.approx(whole, abs=1e-6)
    # A resource that was never seen gets the habits of all, not those of another.
    window, last = data.served_windows(data.ends["test"][:1]), data.time[data.ends["test"][:1]]
    assert loaded.predict(window, last, ["never seen"]) == loaded.predict(window, last)
