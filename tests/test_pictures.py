"""Pictures: each draws the numbers it was given, on axes that say what they are."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from aiops_core.data import synthetic
from aiops_core.data.tables import Dataset
from aiops_core.errors import UsageError
from aiops_core.search import SearchResult
from aiops_core.study import pictures
from aiops_core.study.pictures import common, of_study
from aiops_core.study.pictures.common import BLUE, GREEN, ORANGE, RED, SOFT, Picture
from aiops_core.tasks import capacity, failure, threat


def only(picture: Picture) -> Axes:
    """Return the one pair of axes of a picture, which must have a title."""
    (axes,) = picture.axes
    assert axes.get_title(loc="left")
    return axes


def points(axes: Axes, line: int = 0) -> list[list[float]]:
    """Return the points of a line."""
    return np.asarray(axes.lines[line].get_xydata()).tolist()


def colour(value: object) -> str:
    return matplotlib.colors.to_hex(value)  # type: ignore[arg-type]


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def ends(axes: Axes) -> list[list[float]]:
    """Return the ends of vertical lines."""
    return [np.asarray(path.vertices)[:, 1].tolist() for path in axes.collections[0].get_paths()]


def named(axes: Axes) -> list[str]:
    """Return what the legend names."""
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def own(task: str, name: str, content: object, **beside: object) -> Picture:
    """Draw a picture of a task's own from what its details would hold; ``beside`` holds other parts of them."""
    return of_study.OWN[task][name][1](content, **beside)


def result(mode: str = "max") -> SearchResult:
    """Return four trials; the third is the best when more is better, the second otherwise."""
    score = [0.5, 0.3, 0.8, np.nan]
    trials = pd.DataFrame(
        {
            "trial": ["a", "b", "c", "d"],
            "status": ["completed", "pruned", "completed", "errored"],
            "score": score,
            "param:rate": [0.2, 0.1, 0.4, 0.9],
            "param:kind": ["x", "y", "x", "y"],
            "param:fixed": [1, 1, 1, 1],
        }
    )
    curves = pd.DataFrame(
        {"trial": ["a", "a", "b", "c", "c"], "step": [1, 2, 1, 1, 2], "score": [0.4, 0.5, 0.3, 0.6, 0.8]}
    )
    return SearchResult("toy", "score", mode, trials, curves, [], {}, 1.0)


# What all tasks share ------------------------------------------------------------------------------------------------


def test_the_comparison_shows_every_model_with_its_interval_and_the_own_one_in_blue() -> None:
    def metric(value: float) -> dict[str, dict[str, float]]:
        return {"roc_auc": {"value": value, "low": value - 0.02, "high": value + 0.01}}

    baselines = {"class_prior": metric(0.5), "trees": metric(0.7)}
    axes = only(common.comparison("roc_auc", "mine", metric(0.8), baselines, metric(0.9)))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["oracle", "trees", "class_prior", "mine"]
    for i, (name, value) in enumerate(zip(names, (0.9, 0.7, 0.5, 0.8), strict=True)):
        assert points(axes, 2 * i) == [[pytest.approx(value - 0.02), i], [pytest.approx(value + 0.01), i]]
        assert points(axes, 2 * i + 1) == [[value, i]]
        assert axes.lines[2 * i].get_color() == {"mine": BLUE, "oracle": GREEN}.get(name, SOFT)
    assert axes.get_xlim()[0] < 0.5
    without = only(common.comparison("roc_auc", "mine", metric(0.8), {}, None))
    assert [label.get_text() for label in without.get_yticklabels()] == ["mine"]


def test_the_reliability_curve_stands_beside_the_diagonal_with_its_intervals_and_above_its_counts() -> None:
    curve = {"predicted": [0.1, 0.6], "observed": [0.2, 0.5], "count": [5.0, 7.0]}
    axes, below = common.reliability({**curve, "low": [0.1, 0.3], "high": [0.4, 0.8]}).axes
    assert points(axes) == [[0, 0], [1, 1]]
    assert points(axes, 1) == [[0.1, 0.2], [0.6, 0.5]]
    assert ends(axes) == [[0.1, 0.4], [0.3, 0.8]] and ends(below) == [[0, 5], [0, 7]]
    assert "predicted" in below.get_xlabel() and "95 % interval" in axes.get_ylabel()
    older = common.reliability(curve).axes[0]
    assert not older.collections and "interval" not in older.get_ylabel()
    for skill, said in ((0.53, "53% lower than"), (-0.1, "10% higher than")):
        better = pictures.draw(study(result(), reliability=curve, brier_skill=skill), "reliability").axes[0]
        assert said in better.get_title(loc="left")


def test_metrics_over_time_leave_a_gap_where_a_part_has_none_and_name_only_what_is_a_metric() -> None:
    starts = [f"2026-01-0{day}T00:00:00Z" for day in (1, 2, 3)]
    content: dict[str, list[Any]] = {
        "from": starts,
        "rows": [9, 9, 9],
        "average_precision": [0.5, None, 0.7],
        "recall": [0.2, None, 0.4],
    }
    axes = only(common.over_time(content))
    np.testing.assert_array_equal(np.asarray(axes.lines[0].get_ydata()), [0.5, np.nan, 0.7])
    np.testing.assert_array_equal(np.asarray(axes.lines[1].get_ydata()), [0.2, np.nan, 0.4])
    assert named(axes) == ["average precision", "recall"]


def test_the_most_important_features_stand_above_and_a_long_list_says_that_it_is_cut() -> None:
    rows = [{"feature": f"f{i}", "importance": 1 / (i + 1)} for i in range(common.MOST_FEATURES + 5)]
    axes = only(common.importance(rows))
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == [
        f"f{i}" for i in range(common.MOST_FEATURES)
    ]
    assert [bar.get_width() for bar in bars(axes)][-1] == 1
    assert f"the first {common.MOST_FEATURES} of {len(rows)}" in axes.get_title(loc="left")
    assert "first" not in only(common.importance(rows[:2])).get_title(loc="left")


def test_a_long_title_goes_on_in_a_second_line() -> None:
    assert common.canvas("word " * 20)[1].get_title(loc="left").count("\n") >= 1
    assert "\n" not in common.canvas("Precision and recall")[1].get_title(loc="left")


@pytest.mark.parametrize(("mode", "best"), [("max", [0.5, 0.5, 0.8]), ("min", [0.5, 0.3, 0.3])])
def test_search_progress_draws_every_trial_and_the_best_so_far(mode: str, best: list[float]) -> None:
    axes = only(pictures.draw(study(result(mode)), "search_progress"))
    drawn = axes.collections[0]
    assert np.asarray(drawn.get_offsets())[:3].tolist() == [[1, 0.5], [2, 0.3], [3, 0.8]]
    assert [colour(c) for c in drawn.get_facecolors()][:3] == [BLUE, SOFT, BLUE]  # type: ignore[attr-defined]
    assert np.asarray(axes.lines[0].get_ydata())[:3].tolist() == best
    assert axes.get_ylabel() == "score" and "4 trials" in axes.get_title(loc="left")


@pytest.mark.parametrize(("mode", "winner"), [("max", [[1, 0.6], [2, 0.8]]), ("min", [[1, 0.3]])])
def test_learning_curves_mark_the_best_trial(mode: str, winner: list[list[float]]) -> None:
    axes = only(pictures.draw(study(result(mode)), "learning_curves"))
    assert len(axes.lines) == 3
    assert [line.get_color() for line in axes.lines] == [SOFT, SOFT, ORANGE]
    assert points(axes, -1) == winner


@pytest.mark.parametrize(("mode", "more"), [("max", GREEN), ("min", RED)])
def test_parameters_that_varied_are_ranked_and_coloured_by_their_direction(mode: str, more: str) -> None:
    axes = only(pictures.draw(study(result(mode)), "parameters"))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["kind", "rate"]
    assert [bar.get_width() for bar in bars(axes)] == [pytest.approx(0.866, abs=1e-3), pytest.approx(1.0)]
    # The longer bar: a higher rate goes with a higher score, which is good only where more is better.
    assert colour(bars(axes)[1].get_facecolor()) == more


def test_a_picture_is_a_png_by_itself_and_a_small_one_on_disk(tmp_path: Any) -> None:
    picture = common.reliability({"predicted": [0.1, 0.6], "observed": [0.2, 0.5], "count": [5.0, 5.0]})
    with Image.open(io.BytesIO(picture._repr_png_())) as image:
        shown = image.size
    pictures.save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == shown and len(image.getcolors(1000) or []) <= 128


def study(found: SearchResult | None = None, task: Any = failure, **details: Any) -> Any:
    """Return what the pictures read of a study."""
    metrics = {task.MAIN_METRIC: {"value": 0.8, "low": 0.7, "high": 0.9}}
    return SimpleNamespace(
        name=task.NAME, task=task, result=found, metrics=metrics, baselines={}, oracle=None, details=details, drawn={}
    )


def test_a_study_draws_what_its_details_can_fill_once_and_in_order() -> None:
    curve = {"predicted": [0.1], "observed": [0.2], "count": [1.0]}
    mine = study(result(), reliability=curve, by_lead={})
    names = ["comparison", "reliability", "search_progress", "learning_curves", "parameters"]
    assert pictures.available(mine) == names
    assert list(pictures.figures(mine)) == [f"{i:02d}_{name}" for i, name in enumerate(names, 1)]
    assert pictures.draw(mine, "reliability") is pictures.draw(mine, "reliability")
    assert list(pictures.gallery(mine)) == [mine.drawn["reliability"]]
    with pytest.raises(UsageError, match=r"call search\(\) first"):
        pictures.draw(study(), "parameters")


# The tasks' own ------------------------------------------------------------------------------------------------------


def test_the_histogram_stacks_nothing_and_names_both_kinds_of_rows() -> None:
    axes = only(own("failure", "histogram", {"edges": [0.0, 0.5, 1.0], "negative": [90, 3], "positive": [1, 7]}))
    assert [bar.get_height() for bar in bars(axes)] == [90, 3, 1, 7]
    assert [bar.get_x() for bar in bars(axes)] == [0, 0.5, 0, 0.5]
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["no incident follows", "an incident follows"]


def test_lead_times_count_the_caught_and_a_model_that_caught_none_draws_no_bar() -> None:
    events = {"caught": 3, "incidents": 5, "leads_hours": [1.0, 2.0, 6.0], "median_lead_hours": 2.0}
    axes = only(own("failure", "lead_times", events))
    assert "3 of 5" in axes.get_title(loc="left")
    assert sum(bar.get_height() for bar in bars(axes)) == 3
    assert set(np.asarray(axes.lines[0].get_xdata()).tolist()) == {2.0}
    none = only(own("failure", "lead_times", {**events, "caught": 0, "leads_hours": [], "median_lead_hours": None}))
    assert not none.patches and "0 of 5" in none.get_title(loc="left")


def test_the_cost_picture_marks_the_cheapest_threshold_of_each_price() -> None:
    curve = {"threshold": [0.9, 0.5, 0.1], "missed": [0.10, 0.02, 0.0], "false_alarms": [0.0, 0.1, 0.5]}
    axes = only(own("failure", "cost", {**curve, "validation": curve}))
    for i, (price, best) in enumerate(((3, 0.5), (10, 0.5), (30, 0.1))):
        cost = price * np.array(curve["missed"]) + curve["false_alarms"]
        np.testing.assert_allclose(np.asarray(axes.lines[2 * i].get_ydata()), cost / cost.max())
        assert points(axes, 2 * i + 1)[0][0] == best
    # Validation chooses: another threshold would have been cheaper in the test.
    known = {**curve, "false_alarms": [0.0, 0.9, 1.2]}
    cheap = only(own("failure", "cost", {**curve, "validation": known}))
    assert [points(cheap, line)[0][0] for line in (1, 3, 5)] == [0.9, 0.9, 0.1]
    assert len(only(own("failure", "cost", curve)).lines) == 3


def test_precision_and_recall_stand_beside_the_baselines_and_the_oracle_and_mark_the_served_threshold() -> None:
    def curve(precision: float) -> dict[str, list[float]]:
        return {"recall": [0.1, 1.0], "precision": [1.0, precision]}

    details = {
        "precision_recall": curve(0.4),
        "precision_recall_others": {"trees": curve(0.3), "forest": curve(0.2), "oracle": curve(0.6)},
        "served": {"threshold": 0.31, "precision": 0.7, "recall": 0.55},
    }
    axes = only(pictures.draw(study(result(), **details), "precision_recall"))
    assert named(axes) == ["trees", "forest", "oracle", "this model", "served threshold 0.31"]
    assert [points(axes, line)[-1][1] for line in range(4)] == [0.3, 0.2, 0.6, 0.4]
    assert [line.get_color() for line in axes.lines] == [SOFT, SOFT, GREEN, BLUE, ORANGE]
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert points(axes, 4) == [[0.55, 0.7]]
    older = only(pictures.draw(study(result(), precision_recall=curve(0.4)), "precision_recall"))
    assert len(older.lines) == 1 and older.get_legend() is None


def test_incidents_by_kind_show_how_many_each_share_rests_on() -> None:
    rows = [
        {"kind": "leak", "incidents": 20, "caught": 16, "share_caught": 0.8, "low": 0.58, "high": 0.92},
        {"kind": "disk", "incidents": 4, "caught": 1, "share_caught": 0.25, "low": 0.05, "high": 0.7},
    ]
    axes = only(own("failure", "by_kind", rows))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["disk: 1 of 4", "leak: 16 of 20"]
    assert points(axes, 2) == [[0.58, 1], [0.92, 1]] and points(axes, 3) == [[0.8, 1]]


def test_known_and_novel_attacks_show_their_shares_with_intervals() -> None:
    rows = [
        {"attacks": "known", "rows": 1200, "share": 0.9, "low": 0.88, "high": 0.92},
        {"attacks": "novel", "rows": 30, "share": 0.4, "low": 0.25, "high": 0.58},
    ]
    axes = only(own("threat", "novelty", rows))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["novel: 30 rows", "known: 1,200 rows"]
    assert points(axes) == [[0.25, 0], [0.58, 0]] and points(axes, 1) == [[0.4, 0]]


def test_recall_by_distance_stands_at_the_middle_of_its_steps() -> None:
    axes = only(
        own(
            "failure", "recall_by_distance",
            {"from_steps": [0, 4], "to_steps": [4, 8], "recall": [0.9, 0.4], "probability": [0.8, 0.3]},
        )
    )  # fmt: skip
    assert points(axes) == [[2, 0.9], [6, 0.4]]
    assert points(axes, 1) == [[2, 0.8], [6, 0.3]]


@pytest.mark.parametrize(
    ("task", "name", "content", "x", "y", "drawn"),
    [
        ("failure", "precision_recall", {"recall": [0.1, 1.0], "precision": [1.0, 0.4]}, "recall", "precision",
         [[0.1, 1.0], [1.0, 0.4]]),
        ("failure", "budget", {"alerts_per_resource_day": [0.1, 2.0], "share_caught": [0.2, 0.9]}, "alerts", "caught",
         [[0.1, 0.2], [2.0, 0.9]]),
        ("threat", "precision_recall", {"scan": {"recall": [0.5, 1.0], "precision": [0.9, 0.3]}}, "recall", "precision",
         [[0.5, 0.9], [1.0, 0.3]]),
        ("threat", "abstain", {"answered": [0.5, 1.0], "accuracy": [0.99, 0.9]}, "answered", "accuracy",
         [[0.5, 0.99], [1.0, 0.9]]),
        ("threat", "attack_cost", {"threshold": [0.1, 0.9], "cost": [7, 4], "chosen": 0.9, "miss_cost": 10.0},
         "P(attack)", "a miss costs 10", [[0.1, 7], [0.9, 4]]),
    ],
)  # fmt: skip
def test_a_curve_is_drawn_as_it_is_and_its_axes_are_named(
    task: str, name: str, content: dict[str, Any], x: str, y: str, drawn: list[list[float]]
) -> None:
    axes = only(own(task, name, content))
    assert points(axes) == drawn
    assert x in axes.get_xlabel() and y in axes.get_ylabel()


def test_the_confusion_matrix_shows_shares_of_the_truth_and_survives_a_class_without_rows() -> None:
    content = {"classes": ["normal", "scan", "rare"], "confusion": [[8, 2, 0], [1, 3, 0], [0, 0, 0]]}
    axes = only(own("threat", "confusion", content))
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0.25, 0.75, 0], [0, 0, 0]])  # type: ignore[arg-type]
    assert [label.get_text() for label in axes.get_yticklabels()] == content["classes"]
    assert [label.get_text() for label in axes.get_xticklabels()] == content["classes"]
    assert [t.get_text() for t in axes.texts] == ["0.80", "0.20", "0.25", "0.75"]


def forecast(**more: Any) -> dict[str, Any]:
    stamps = [f"2026-01-01T{h:02d}:00:00Z" for h in range(4)]
    return {
        "kind": "ordinary", "resource_id": "host-0", "target": "cpu",
        "history": {"timestamp": stamps, "value": [1.0, None, 3.0, 4.0]},
        "timestamp": [stamps[3], stamps[2]], "p50": [4.5, 3.5], **more,
    }  # fmt: skip


def test_forecasts_are_drawn_in_the_order_of_time_with_their_band() -> None:
    picture = own("capacity", "examples", [forecast(p10=[4.0, 3.0], p90=[5.0, 4.0]), forecast(kind="worst")])
    first, second = picture.axes
    assert first.get_title(loc="left") == "ordinary: host-0, cpu"
    np.testing.assert_array_equal(np.asarray(first.lines[0].get_ydata()), [1, np.nan, 3, 4])
    assert np.asarray(first.lines[1].get_ydata()).tolist() == [3.5, 4.5]
    assert ends(first) == [[3, 4], [4, 5]]
    assert not second.collections


def test_errors_by_step_keep_their_place_where_a_target_lacks_one() -> None:
    rows = [
        {"target": t, "step": s, "mae": m, "coverage_80": c}
        for t, s, m, c in (("cpu", "1", 1.0, 0.8), ("cpu", "2–6", 2.0, 0.7), ("disk", "2–6", 5.0, 0.9))
    ]
    left, right = own("capacity", "error_by_step", rows).axes
    assert points(left) == [[0, 1.0], [1, 2.0]] and points(left, 1) == [[1, 5.0]]
    assert points(right) == [[0, 0.8], [1, 0.7]] and points(right, 1) == [[1, 0.9]]
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "2–6"]


def test_misses_below_and_above_the_band_are_drawn_by_steps_where_they_were_counted() -> None:
    row = {"target": "cpu", "mae": 1.0, "coverage_80": 0.8}
    rows = [{**row, "step": s, "below_p10": b, "above_p90": a} for s, b, a in (("1", 0.05, 0.15), ("24", 0.1, None))]
    picture = own("capacity", "error_by_step", rows)
    axes = picture.axes[2]
    assert points(axes)[0] == [0, 0.15] and np.isnan(points(axes)[1][1])
    assert points(axes, 1) == [[0, 0.05], [1, 0.1]]
    assert "p90" in axes.get_title(loc="left") and "p10" in axes.get_title(loc="left")
    assert set(np.asarray(axes.lines[2].get_ydata()).tolist()) == {0.1}


def test_forecasts_over_time_show_scaled_error_and_coverage() -> None:
    rows = [
        {"origins_from": f"2026-01-0{day}T00:00:00Z", "rows": 5, "mae": 2.0, "mase": mase, "coverage_80": 0.75}
        for day, mase in ((1, 0.9), (2, None))
    ]
    axes = only(own("capacity", "over_time", rows))
    assert named(axes) == ["MASE", "coverage of the 80 % band"]
    np.testing.assert_array_equal(np.asarray(axes.lines[0].get_ydata()), [0.9, np.nan])


def test_resources_without_a_scaled_error_are_left_out_and_the_worst_are_named() -> None:
    rows = [{"resource_id": f"host-{i}", "mase": i / 2, "coverage_80": 0.8} for i in range(5)]
    axes = only(own("capacity", "by_resource", [*rows, {"resource_id": "flat", "mase": None, "coverage_80": 0.5}]))
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[i / 2, 0.8] for i in range(5)]
    assert [t.get_text() for t in axes.texts] == ["host-4", "host-3", "host-2"]


@pytest.mark.parametrize("task", [failure, threat, capacity], ids=lambda t: t.NAME)
def test_every_picture_of_a_task_is_drawn_from_the_details_of_a_prediction(task: Any) -> None:
    source = synthetic.dataset(600, seed=3, tasks=(task.NAME,))
    if task is capacity:
        usage = source.tables["usage"]
        usage = usage[usage["resource_id"].isin(usage["resource_id"].unique()[:3])].reset_index(drop=True)
        source = Dataset("toy", "toy", "none", {"usage": usage}, source.config)
        data = capacity.prepare(
            source, seed=0, effort=capacity.Effort(search_rows=500, final_rows=500, linear_rows=500)
        )
        truth = data.parts["test"].truth[data.parts["test"].known]
        prediction = {"p10": truth - 1, "p50": truth + 0.1, "p90": truth + 1}
    else:
        data = task.prepare(source, seed=0)
        truth = data.truth("test")
        if task is failure:
            prediction = {"probability": 0.1 + 0.8 * truth, "alarm": truth == 1}
        else:
            label = np.where(np.arange(len(truth)) % 5 == 0, 0, truth)
            prediction = {"probability": np.eye(len(data.classes))[label] * 0.9 + 0.01, "label": label}
    mine = study(result(), task, **task.details(data, prediction))
    filled = {name for name, (key, _) in of_study.OWN[task.NAME].items() if key in mine.details}
    assert set(pictures.available(mine)) == {*of_study.COMMON, *filled} and len(filled) >= 3
    for name, picture in pictures.figures(mine).items():
        picture.draw_without_rendering()
        assert all(axes.get_title(loc="left") or axes.get_ylabel() for axes in picture.axes), name


# Contract tables -----------------------------------------------------------------------------------------------------


def test_the_overview_shows_the_series_of_a_resource_with_incidents_and_they_lie_where_they_were() -> None:
    stamps = pd.date_range("2026-01-01", periods=20, freq="h", tz="UTC")
    frame = pd.concat(
        [
            pd.DataFrame({"resource_id": name, "timestamp": stamps, "cpu": np.arange(20.0), "same": 1.0, "note": "x"})
            for name in ("quiet", "busy")
        ],
        ignore_index=True,
    )
    incidents = pd.DataFrame({"resource_id": ["busy"], "start": [stamps[5]], "end": [stamps[8]]})
    data = Dataset("toy", "toy", "none", {"telemetry": frame, "incidents": incidents})
    picture = pictures.overview(data, "telemetry")
    (axes,) = picture.axes
    assert picture.get_suptitle() == "telemetry: busy, incidents in red"
    assert axes.get_ylabel() == "cpu"
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == list(range(20))
    (span,) = bars(axes)
    days = (stamps[5] - pd.Timestamp(0, tz="UTC")) / pd.Timedelta("1D")
    assert (span.get_x(), span.get_width()) == (pytest.approx(days), pytest.approx(3 / 24))
    assert colour(span.get_facecolor()) == RED


def test_the_overview_of_activity_counts_its_classes() -> None:
    activity = pd.DataFrame({"threat_type": ["normal"] * 5 + ["scan"] * 2, "x": np.arange(7.0)})
    (picture,) = pictures.overviews(Dataset("toy", "toy", "none", {"activity": activity}))
    axes = only(picture)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["scan", "normal"]
    assert [bar.get_width() for bar in bars(axes)] == [2, 5]
    assert "7 rows" in axes.get_title(loc="left")
