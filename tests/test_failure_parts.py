"""Labels, parts, blocks and alarms of the failure task, on arrays small enough to count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from test_failure import START, dataset, telemetry

from aiops_core.data import splits, tables
from aiops_core.data.derive import Derived
from aiops_core.errors import DataError
from aiops_core.servable.failure import F1_TOLERANCE, choose_threshold
from aiops_core.tasks import failure
from aiops_core.tasks.failure import decision
from aiops_core.tasks.failure.model import _alignment
from aiops_core.tasks.failure.prepare import _ends, _oracle_rows, _places, _scaling, _useful_columns, _with_derived
from aiops_core.tasks.failure.split import assign_folds, incident_table, labels, near, steps_to_next, thin_rows
from aiops_core.tasks.failure.stack import LEAST_SLOPE, platt
from aiops_core.tasks.failure.trees import GRID, choose_trees, fit_trees, tree_probability

TRAIN, VALIDATION, TEST, NONE = splits.TRAIN, splits.VALIDATION, splits.TEST, splits.NONE


def series(sizes: list[int], until: np.ndarray, **settings: Any) -> failure.FailureData:
    """Return resources of the given sizes whose rows are all examples of the test part, half an hour apart."""
    starts = np.cumsum([0, *sizes[:-1]])
    n = sum(sizes)
    given: dict[str, Any] = {
        "values": np.zeros((n, 1), np.float32), "start": np.repeat(starts, sizes),
        "resource": np.repeat(np.arange(len(sizes)), sizes).astype(np.int32),
        "time": np.datetime64("2026-01-01T00", "s") + np.arange(n) * np.timedelta64(1800, "s"),
        "until": until, "known": np.full(n, 99.0), "example": np.ones(n, bool), "part": np.full(n, TEST, np.int8),
        "ends": {"test": np.arange(n)}, "fold": np.full(n, -1, np.int8), "by_resource": False,
        "incidents": pd.DataFrame(), "resources": [f"host-{i}" for i in range(len(sizes))], "features": [],
        "center": np.zeros(1), "scale": np.ones(1), "window": 2, "horizon": 4, "stride": 1, "step_seconds": 1800,
        "oracle": None,
    }  # fmt: skip
    return failure.FailureData(**{**given, **settings})


# Labels --------------------------------------------------------------------------------------------------------


def test_incidents_long_before_or_after_the_rows_stay_with_their_resource() -> None:
    hours = {"a": [(-30, -20), (2, 4), (72, 73)], "b": [(-70, 3), (30, 60)], "c": []}
    frame = pd.concat(
        pd.DataFrame({"resource_id": name, "timestamp": pd.date_range(START, periods=10, freq="h"), "x": 0.0})
        for name in hours
    )
    grid = tables.to_grid(frame, ["x"])
    spans = [
        (name, START + pd.Timedelta(s, "h"), START + pd.Timedelta(e, "h")) for name in hours for s, e in hours[name]
    ]
    table = incident_table(pd.DataFrame(spans[::-1], columns=["resource_id", "start", "end"]), grid)
    assert table["resource"].tolist() == [0, 0, 0, 1, 1]
    until, inside, known = labels(grid, table, np.array([0, 10, 20]), np.full(3, 10))
    for i, name in enumerate(hours):
        mine = slice(10 * i, 10 * i + 10)
        assert until[mine].tolist() == [
            min((s - t for s, _ in hours[name] if s > t), default=np.inf) for t in range(10)
        ]
        assert inside[mine].tolist() == [any(s <= t < e for s, e in hours[name]) for t in range(10)]
        # A record whose last incident starts after its rows ends by failure: all is known of it.
        ended = any(s >= 9 for s, _ in hours[name])
        assert known[mine].tolist() == [np.inf if ended else 9 - t for t in range(10)]


# Parts ---------------------------------------------------------------------------------------------------------


def test_the_sentence_on_the_split_tells_the_shares_and_the_embargo() -> None:
    prepared = failure.prepare(dataset(*telemetry()), seed=0)
    assert prepared.info["split"] == (
        "by time, at the same time for all resources: the first 56% trains, the next 14% validates, the last 30% "
        "tests, 18 steps of embargo between"
    )
    assert not prepared.by_resource
    counts = [int((prepared.part[prepared.resource == 0] == part).sum()) for part in (TRAIN, VALIDATION, TEST)]
    assert counts == [224, 56 - 18, 120 - 18]


def test_an_official_test_part_at_the_end_of_a_resource_is_kept_apart_by_an_embargo() -> None:
    frame, incidents = telemetry(resources=6)
    hour = ((frame["timestamp"] - START) / pd.Timedelta("1h")).astype(int)
    tested = (hour >= 300) & (frame["resource_id"] != "host-3")
    # In the middle of the record: what follows the test part lies in its future, and teaches nothing.
    tested = np.where(frame["resource_id"] == "host-2", (hour >= 200) & (hour < 260), tested)
    frame["split"] = np.where(tested, "test", "train")
    # A missing row is of the part of the row before it.
    frame = frame[~((frame["resource_id"] == "host-1") & hour.isin([299, 310]))]
    prepared = failure.prepare(dataset(frame, incidents), seed=0)
    assert not prepared.by_resource
    assert prepared.info["split"] == (
        "official split; the last 20% of the training time, at the same time for all resources, validates, "
        "18 steps of embargo between"
    )

    def spans(name: str) -> dict[int, list[int]]:
        part = prepared.part[prepared.resource == prepared.resources.index(name)]
        found = {code: np.flatnonzero(part == code) for code in (TRAIN, VALIDATION, TEST)}
        assert all(np.array_equal(rows, np.arange(rows[0], rows[-1] + 1)) for rows in found.values() if len(rows))
        return {code: [int(rows[0]), int(rows[-1])] if len(rows) else [] for code, rows in found.items()}

    # One hour parts training and validation of all resources: that before which 80 % of the learned rows lie.
    times = np.sort(np.concatenate([np.arange(282)] * 4 + [np.arange(182), np.arange(400)]))
    cut = int(times[int(len(times) * 0.8)])
    late = {TRAIN: [0, cut - 1], VALIDATION: [cut + 18, 281], TEST: [300, 399]}
    assert spans("host-0") == spans("host-1") == late
    assert spans("host-2") == {TRAIN: [0, 181], VALIDATION: [], TEST: [200, 259]}
    assert spans("host-3") == {TRAIN: [0, cut - 1], VALIDATION: [cut + 18, 399], TEST: []}


@pytest.mark.parametrize(("learned", "by_resource"), [(3, True), (2, False)])
def test_whole_resources_validate_when_there_is_one_for_each_block(learned: int, by_resource: bool) -> None:
    frame, incidents = telemetry(resources=learned + 1)
    frame["split"] = np.where(frame["resource_id"] == f"host-{learned}", "test", "train")
    prepared = failure.prepare(dataset(frame, incidents), seed=0)
    assert prepared.by_resource == by_resource
    assert ("whole resources of its training part" in prepared.info["split"]) == by_resource
    validated = [set(prepared.part[prepared.resource == r]) for r in range(learned)]
    assert validated.count({VALIDATION}) == (1 if by_resource else 0)
    assert set(prepared.part[prepared.resource == learned]) == {TEST}


def grid_of(resource: np.ndarray, time: np.ndarray) -> tables.Grid:
    """Return a grid of empty rows at the given hours."""
    stamps = np.datetime64("2026-01-01T00", "s") + time * np.timedelta64(3600, "s")
    names = [f"host-{i}" for i in range(int(resource.max()) + 1)]
    empty = np.zeros((len(time), 1), np.float32)
    return tables.Grid(empty, resource, names, stamps, np.ones(len(time), bool), 3600, ["x"])


def test_blocks_of_time_share_out_what_lies_before_the_test_part() -> None:
    long = [TRAIN] * 4 + [NONE] + [VALIDATION] * 3 + [NONE] + [TEST] * 3
    part = np.array([*long, *[TEST] * 5, *[TRAIN] * 4, TEST])
    resource = np.repeat([0, 1, 2], [12, 5, 5])
    start = np.repeat([0, 12, 17], [12, 5, 5])
    # Laid end to end: no two records overlap.
    apart = grid_of(resource, np.arange(len(part)))
    fold = assign_folds(part, apart, start, np.zeros(len(part), bool), False, seed=0, folds=4)
    assert fold.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, -1, -1, -1, -1, *[-1] * 5, 0, 1, 2, 3, -1]
    together = grid_of(resource, np.arange(len(part)) - start)
    fold = assign_folds(part, together, start, np.zeros(len(part), bool), False, seed=0, folds=4)
    assert fold.tolist() == [0, 1, 2, 2, 2, 3, 3, 3, -1, -1, -1, -1, *[-1] * 5, 0, 1, 2, 2, -1]


def test_no_block_of_time_holds_what_follows_the_learned_rows_of_its_own_resource() -> None:
    # An official split that ends the training of one resource before that of the other.
    early = [TRAIN] * 3 + [NONE] + [TEST] * 2 + [NONE] * 2 + [TEST] * 4
    part = np.array([*early, *[TRAIN] * 10, NONE, TEST])
    resource = np.repeat([0, 1], 12)
    start = resource * 12
    grid = grid_of(resource, np.arange(24) - start)
    fold = assign_folds(part, grid, start, np.zeros(len(part), bool), False, seed=0, folds=3)
    assert fold.tolist() == [0, 0, 1, *[-1] * 9, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, -1, -1]


def test_blocks_of_resources_hold_as_many_resources_each() -> None:
    resource = np.repeat(np.arange(7), 3)
    part = np.where(resource == 2, TEST, np.where(resource == 4, VALIDATION, TRAIN))
    grid = grid_of(resource, np.tile(np.arange(3), 7))
    soon = np.arange(len(part)) % 3 == 0
    fold = assign_folds(part, grid, resource * 3, soon, True, seed=0, folds=3)
    assert (fold.reshape(7, 3) == fold[::3, None]).all()
    assert fold[6] == -1
    assert np.bincount(fold[::3] + 1).tolist() == [1, 2, 2, 2]


def test_rows_are_thinned_evenly_from_the_first_to_the_last() -> None:
    rows = np.arange(100, 110)
    assert thin_rows(rows, 4).tolist() == [100, 103, 106, 109]
    assert thin_rows(rows, 10).tolist() == thin_rows(rows, 11).tolist() == rows.tolist()


def test_steps_and_nearness_end_with_the_resource() -> None:
    data = series([4, 4], np.full(8, np.inf))
    stop = np.array([0, 1, 0, 0, 0, 0, 1, 0], dtype=bool)
    assert steps_to_next(data, stop).tolist() == [1, 0, np.inf, np.inf, 2, 1, 0, np.inf]
    assert steps_to_next(data, ~stop)[[1, 6]].tolist() == [1, 1]
    assert np.flatnonzero(near(data, np.arange(8) == 4, 2)).tolist() == [4, 5, 6]
    assert np.flatnonzero(near(data, np.arange(8) == 3, 2)).tolist() == [1, 2, 3]
    assert np.flatnonzero(near(data, np.arange(8) == 0, 1)).tolist() == [0, 1]


def test_a_window_ends_with_its_row_and_begins_with_its_resource() -> None:
    values = np.arange(7, dtype=np.float32)[:, None]
    data = series([3, 4], np.full(7, np.inf), window=3, values=values)
    found = data.windows(np.array([0, 2, 3, 6]))
    nan = np.nan
    np.testing.assert_array_equal(found[:, :, 0], [[nan, nan, 0], [0, 1, 2], [nan, nan, 3], [4, 5, 6]])
    assert found.dtype == np.float32 and found.shape == (4, 3, 1)


# Columns, examples and what is known of them -------------------------------------------------------------------


def test_a_column_is_scaled_by_the_middle_of_its_values_unless_it_hardly_ever_moves() -> None:
    even = np.linspace(0, 1, 1000)
    columns = [np.r_[even, np.nan], np.r_[even, 1e3], np.r_[even, 1e5], np.r_[np.zeros(1000), 8.0], np.full(1001, 3.0)]
    center, scale = _scaling(np.column_stack(columns))
    assert center.dtype == scale.dtype == np.float32
    assert center == pytest.approx([0.5, 0.5, 0.5, 0.0, 3.0], abs=1e-3)
    # A normal distribution holds 90 % within 1.645 standard deviations of its middle.
    expected = [0.9 / 3.29, 0.9 / 3.29, np.std(columns[2]), np.std(columns[3]), 1.0]
    assert scale == pytest.approx(expected, rel=2e-3)


def test_a_column_is_used_if_it_varies_in_training_or_a_derived_feature_needs_it() -> None:
    nan = np.nan
    train = np.array([[1.0, 5.0, nan, 7.0, nan], [1.0, 5.0, nan, nan, 3.0], [2.0, 5.0, nan, 7.0, 4.0]])
    names = ["moves", "needed", "missing", "still", "gaps"]
    derived = Derived.read({"sum": "needed + missing"}, names, where="", series=True)
    assert _useful_columns(train, names, derived) == [0, 1, 4]
    assert _useful_columns(train, names, Derived()) == [0, 4]
    with pytest.raises(DataError, match="constant or missing in the training part"):
        _useful_columns(train[:1], names, Derived())


def test_a_derived_feature_is_left_out_with_the_reason_and_the_others_stand_behind_the_columns() -> None:
    values = np.array([[1, 2], [2, 2], [4, 2], [8, 2], [9, 3]], dtype=np.float32)
    written = {"twice": "b * 2", "ratio": "a / b", "gone": "c + 1", "sum": "a + b"}
    seen = np.arange(5) < 4
    found, derived, left_out = _with_derived(
        values,
        ["a", "b"],
        Derived.read(written, ["a", "b", "c"], where="", series=True),
        np.zeros(5, dtype=np.int64),
        seen,
    )
    # The last row is not of the training part: that it differs makes no feature of ``twice``.
    assert left_out == {"gone": "a column of it is missing in training", "twice": "constant in training"}
    assert list(derived.names) == ["ratio", "sum"]
    assert found.tolist() == [[1, 2, 0.5, 3], [2, 2, 1, 4], [4, 2, 2, 6], [8, 2, 4, 10], [9, 3, 3, 12]]


def test_every_part_needs_rows_of_both_classes() -> None:
    part = np.repeat([TRAIN, VALIDATION, TEST, NONE], 4)
    example = np.arange(16) % 4 != 1
    positive = np.arange(16) % 4 < 2
    found = _ends(part, example, positive, "settings")
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "train": [0, 2, 3], "validation": [4, 6, 7], "test": [8, 10, 11],
    }  # fmt: skip
    late = (part == VALIDATION) & example
    for less, labels_of, lacking in (
        (example & ~late, positive, "rows"),
        (example, positive & ~late, "positive rows"),
        (example, positive | late, "negative rows"),
    ):
        with pytest.raises(DataError, match=rf"the validation part has no {lacking} \(settings\)"):
            _ends(part, less, labels_of, "settings")


def test_every_row_knows_the_first_row_of_its_resource_and_its_place() -> None:
    grid = grid_of(np.repeat([0, 1, 2], [2, 4, 1]), np.arange(7))
    starts, lengths, start, position = _places(grid, 4)
    assert (starts.tolist(), lengths.tolist()) == ([0, 2, 6], [2, 4, 1])
    assert (start.tolist(), position.tolist()) == ([0, 0, 2, 2, 2, 2, 6], [0, 1, 0, 1, 2, 3, 0])
    with pytest.raises(DataError, match="the longest resource has 4 steps, fewer than a window of 5"):
        _places(grid, 5)


def test_an_oracle_is_asked_by_key_and_counts_on_validation_only_if_it_knows_all_of_it() -> None:
    data = series([4, 4], np.full(8, np.inf), ends={"test": np.array([1, 6]), "validation": np.array([2, 7])})
    keys = pd.concat([data.keys("validation"), data.keys("test")]).assign(probability=[0.2, 0.7, 0.1, 0.6])
    found = _oracle_rows(keys, data)
    assert found is not None and {k: v.tolist() for k, v in found.items()} == {
        "test": [0.1, 0.6],
        "validation": [0.2, 0.7],
    }
    assert list(_oracle_rows(keys.iloc[1:], data) or {}) == ["test"]
    asked = _oracle_rows(lambda k: (k["resource_id"] == "host-1").astype(float), data)
    assert asked is not None and asked["test"].tolist() == asked["validation"].tolist() == [0.0, 1.0]
    assert _oracle_rows(None, data) is None
    with pytest.raises(pd.errors.MergeError):
        _oracle_rows(pd.concat([keys, keys]), data)


def test_what_is_told_of_the_data_is_what_its_rows_hold() -> None:
    frame, incidents = telemetry()
    whole = failure.prepare(dataset(frame.drop(index=[30, 31]), incidents, stride=5), seed=0)
    info, hour = whole.info, ((whole.time - whole.time[0]) / np.timedelta64(3600, "s")).astype(int)
    present = (whole.resource > 0) | ~np.isin(hour, [30, 31])
    begin = [
        ((incidents["start"][incidents["resource_id"] == name] - START) / pd.Timedelta("1h")).to_numpy()
        for name in whole.resources
    ]
    inside = np.array(
        [bool(((h >= begin[r]) & (h < begin[r] + 3)).any()) for r, h in zip(whole.resource, hour, strict=True)]
    )
    assert info["rows_inside_incidents"] == (present & inside).sum()
    assert info["unlabelled_rows"] == (present & ~inside & ~whole.example).sum() > 0
    assert not whole.example[~present | inside].any()
    sizes = {part: len(whole.ends[part]) for part in ("train", "validation", "test")}
    assert {part: info[f"{part}_rows"] for part in sizes} == sizes
    assert (info["rows"], info["resources"], info["incidents"]) == (sum(sizes.values()), 6, len(incidents))
    # Every stride-th row, from the first that ends a whole window.
    assert {int(p) for rows in whole.ends.values() for p in (rows - whole.start[rows] - 11) % 5} == {0}
    assert info["base_rate"] == whole.truth("train").mean() and info["test_base_rate"] == whole.truth("test").mean()
    assert (info["window"], info["horizon"], info["stride"], info["step_seconds"]) == (12, 6, 5, 3600)
    assert (info["official_split"], info["protocol"], info["derived"], info["derived_left_out"]) == (
        False,
        "time",
        [],
        {},
    )
    assert info["features"] == list(whole.facts) == ["signal", "noise"]
    assert list(info["ignored"]) == ["flat"]
    assert [info[f"{part}_incidents"] for part in sizes] == whole.summary()["incidents"].tolist()


# Calibration ---------------------------------------------------------------------------------------------------


def test_the_calibration_is_the_logistic_curve_of_highest_likelihood() -> None:
    rng = np.random.default_rng(2)
    logit = rng.normal(40, 8, 4_000)
    truth = (rng.random(4_000) < 1 / (1 + np.exp(-(logit - 45) / 4))).astype(int)
    slope, offset = platt(logit, truth)
    miss = 1 / (1 + np.exp(-(slope * logit + offset))) - truth
    # At the maximum neither level nor slope is left to correct.
    assert abs(miss.mean()) < 1e-4 and abs((miss * (logit - 40) / 8).mean()) < 1e-4
    assert slope == pytest.approx(0.25, abs=0.02)


def test_held_out_rows_that_rank_backwards_only_set_the_level() -> None:
    logit, truth = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1, 0, 0, 0])
    slope, offset = platt(logit, truth)
    assert slope == LEAST_SLOPE
    assert slope * logit.mean() + offset == pytest.approx(np.log(0.25 / 0.75))
    same, level = platt(np.full(4, 7.0), truth)
    assert same * 7 + level == pytest.approx(np.log(0.25 / 0.75), abs=1e-3)
    assert platt(logit, np.zeros(4)) == platt(logit, np.ones(4)) == (1.0, 0.0)
    # Classes that are apart: the slope stays finite.
    assert 1 < platt(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0, 0, 1, 1]))[0] < 1e3


def test_networks_are_brought_to_one_mean_and_one_spread() -> None:
    logits = [np.array([0.0, 2.0, 4.0]), np.array([10.0, 11.0, 12.0]), np.array([5.0, 5.0, 5.0])]
    found = [k * x + shift for (k, shift), x in zip(_alignment(logits), logits, strict=True)]
    spread = np.mean([x.std() for x in logits])
    assert [x.mean() for x in found] == pytest.approx([18 / 3] * 3)
    assert [x.std() for x in found] == pytest.approx([spread, spread, 0.0], rel=1e-5)


# Alarms --------------------------------------------------------------------------------------------------------


def two_resources() -> tuple[failure.FailureData, np.ndarray]:
    """Return twelve rows a resource, incidents at row 8.5 and at rows 20 and 21.5, and every second row as examples."""
    incidents = {0: [8.5], 1: [20.0, 21.5]}
    until = [min((s - i for s in incidents[i // 12] if s > i), default=np.inf) for i in range(24)]
    return series([12, 12], np.array(until), stride=2), np.arange(0, 24, 2)


def test_events_are_those_of_counting_by_hand() -> None:
    data, ends = two_resources()
    found = failure.events(data, ends, np.isin(ends, [2, 6, 8, 12, 18, 22]))
    # Alerts at 2, 8, 12 (of another resource) and 18; 6 and 22 lie within the horizon of an alert.
    assert found == {
        "incidents": 3, "caught": 2, "share_caught": pytest.approx(2 / 3), "leads_hours": [1.0, 1.25],
        "median_lead_hours": 1.125, "alerts": 4, "false_alerts": 2, "resource_days": 0.5,
        "alerts_per_resource_day": 8.0, "false_alerts_per_resource_day": 4.0,
    }  # fmt: skip


def test_one_alarm_catches_one_incident() -> None:
    data, ends = two_resources()
    found = failure.events(data, ends, np.isin(ends, [18, 20]))
    assert (found["caught"], found["leads_hours"]) == (2, [0.75, 1.0])
    assert failure.policies(data, ends[3:5], np.array([0.2, 0.1]))["recall"] == [0.5, 1.0]
    assert failure.policies(data, ends[2:4], np.array([0.2, 0.1]))["recall"] == [0.0, 1.0]
    assert failure.policies(data, ends[:2], np.array([0.2, 0.1]))["recall"] == [0.0, 0.0]


def test_no_rows_have_no_events_and_no_rates() -> None:
    data, ends = two_resources()
    found = failure.events(data, ends[:0], np.zeros(0, dtype=bool))
    assert np.isnan(found["share_caught"])
    assert (found["alerts"], found["resource_days"], found["median_lead_hours"]) == (0, 0, None)
    assert (found["alerts_per_resource_day"], found["false_alerts_per_resource_day"]) == (0.0, 0.0)


def test_a_summary_counts_incidents_not_rows() -> None:
    data, _ = two_resources()
    row = data.summary().loc["test"]
    # Rows 5 to 8, 16 to 19 and 20 to 21 lie within the horizon.
    assert row.to_dict() == {"examples": 24, "positive": 10, "base_rate": 10 / 24, "resources": 2, "incidents": 3}


def test_each_threshold_lies_between_two_scores_and_means_what_its_alarms_mean() -> None:
    data, ends = two_resources()
    truth = data.label(ends)
    score = np.array([0.1, 0.5, 0.14, 0.8, 0.7, 0.2, 0.4, 0.4, 0.3, 0.9, 0.6, 0.2])
    found = failure.policies(data, ends, score)
    assert found["threshold"] == pytest.approx([0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.17, 0.12, 0.095])
    for i, threshold in enumerate(found["threshold"]):
        alarm = score >= threshold
        assert found["f1"][i] == pytest.approx(f1_score(truth, alarm))
        assert found["false_alarms"][i] == pytest.approx((alarm & (truth == 0)).mean())
        assert found["missed"][i] == pytest.approx((~alarm & (truth == 1)).mean())
        seen = failure.events(data, ends, alarm)
        for name in ("alerts_per_resource_day", "false_alerts_per_resource_day", "share_caught"):
            assert found[name][i] == seen[name]


def test_the_best_f1_of_thousands_of_cuts_is_on_the_curve() -> None:
    rng = np.random.default_rng(0)
    score = rng.beta(0.5, 2, 3000)
    truth = (rng.random(3000) < score).astype(int)
    data = series([3000], np.where(truth == 1, 1.0, np.inf))
    found = failure.policies(data, np.arange(3000), score)
    order = np.argsort(-score)
    assert len(found["f1"]) <= 121
    assert max(found["f1"]) == (2 * np.cumsum(truth[order]) / (np.arange(1, 3001) + truth.sum())).max()
    assert failure.highest_f1(truth, score) == choose_threshold(found, "max_f1")


@pytest.mark.parametrize("family", GRID)
def test_the_scores_that_set_a_tree_baselines_threshold_are_those_of_as_many_trees_as_are_tested(family: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 4))
    truth = (rng.random(500) < 1 / (1 + np.exp(2 - 2 * x[:, 0]))).astype(int)
    learned, checked = (x[:300], truth[:300], np.ones(300)), (x[300:], truth[300:])
    params, score = choose_trees(family, learned, checked, trees=24, seed=5)
    assert params in GRID[family]
    whole = fit_trees(family, params, *learned, trees=24, seed=5)
    np.testing.assert_array_equal(score, tree_probability(whole, checked[0]))


def test_the_f1_threshold_lies_half_way_to_the_next_lower_score_and_reaches_the_best_within_the_tolerance() -> None:
    assert failure.highest_f1(np.array([0, 1, 1]), np.array([0.2, 0.6, 0.6])) == pytest.approx(0.4)
    # All rows alarm: a tenth below the lowest score is as good as any.
    assert failure.highest_f1(np.array([1, 1]), np.array([0.5, 0.3])) == pytest.approx(0.285)
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 300)
    score = np.clip(0.4 * truth + 0.6 * rng.random(300), 0, 1)
    reached = f1_score(truth, score >= failure.highest_f1(truth, score))
    assert reached >= (1 - F1_TOLERANCE) * max(f1_score(truth, score >= t) for t in np.unique(score))


def test_a_curve_at_given_thresholds_counts_what_reaches_each() -> None:
    data, ends = two_resources()
    truth = data.label(ends)
    score = np.array([0.1, 0.5, 0.14, 0.8, 0.7, 0.2, 0.4, 0.4, 0.3, 0.9, 0.6, 0.2])
    thresholds = np.array([0.95, 0.9, 0.6, 0.4, 0.15, 0.0])
    found = failure.policies(data, ends, score, thresholds=thresholds)
    assert found["threshold"] == thresholds.tolist()
    for i, threshold in enumerate(thresholds):
        alarm = score >= threshold
        hit, raised = int(truth[alarm].sum()), int(alarm.sum())
        assert found["precision"][i] == pytest.approx(hit / max(raised, 1))
        assert found["recall"][i] == pytest.approx(hit / truth.sum())
        assert found["f1"][i] == pytest.approx(2 * hit / (raised + truth.sum()))
        assert found["missed"][i] == pytest.approx((truth.sum() - hit) / 12)
        assert found["false_alarms"][i] == pytest.approx((raised - hit) / 12)
        seen = failure.events(data, ends, alarm)
        assert found["median_lead_hours"][i] == (seen["median_lead_hours"] or 0.0)
    # What a service would alert is counted on the rows that it is asked at, one a step.
    every = np.arange(24)
    asked = np.where(every % 2 == 0, np.repeat(score, 2), 0.0)
    watched = failure.policies(data, ends, score, watched=(every, asked), thresholds=thresholds)
    for name in ("precision", "recall", "f1", "missed", "false_alarms"):
        assert watched[name] == found[name]
    for i, threshold in enumerate(thresholds):
        seen = failure.events(data, every, asked >= threshold, stride=1)
        for name in ("alerts_per_resource_day", "false_alerts_per_resource_day", "share_caught"):
            assert watched[name][i] == seen[name]


def test_every_incident_ahead_has_one_row_and_the_lead_of_its_first_alarm() -> None:
    data, ends = two_resources()
    row, lead = decision.incident_leads(data, ends, np.isin(ends, [4, 8, 16, 18]))
    # At 8.5, 20 and 21.5: the rows from 6, 16 and 20 on announce them, those at 8, 16 and none raise an alarm.
    assert (row.tolist(), lead.tolist()) == ([6, 16, 20], [0.5, 4.0, -np.inf])
    assert (
        failure.events(data, ends, ends < 0)["resource_days"]
        == 2 * failure.events(data, ends, ends < 0, stride=1)["resource_days"]
    )


def test_an_alert_is_quiet_for_the_horizon_and_never_for_another_resource() -> None:
    data, _ = two_resources()
    for alarms, alerts in (
        ([2, 6, 8, 12, 18, 22], [2, 8, 12, 18]),
        ([10, 11, 12, 13], [10, 12]),
        ([0, 4, 5, 9, 10], [0, 5, 10]),
        ([23], [23]),
        ([], []),
    ):
        assert decision._alerts(data, np.array(alarms, dtype=np.int64)).tolist() == alerts


def test_incidents_after_the_last_row_of_one_resource_and_at_the_first_of_the_next_are_two() -> None:
    # Four rows each and an incident four steps after the last row of every one: places of the next but one resource.
    until = np.tile([7.0, 6.0, 5.0, 4.0], 3)
    data = series([4, 4, 4], until)
    row, lead = decision.incident_leads(data, np.arange(12), np.arange(12) >= 8)
    assert (row.tolist(), lead.tolist()) == ([3, 7, 11], [-np.inf, -np.inf, 4.0])
    # Rows 3 and 4 are followed at once, of two resources: the same place but for the resource.
    near_by = series([4, 4], np.array([9.0, 9, 9, 4, 3, 2, 1, 9]))
    assert decision.incident_leads(near_by, np.arange(8), np.arange(8) == 3)[0].tolist() == [3, 4]


@pytest.mark.parametrize("seed", range(4))
def test_the_likely_f1_is_that_of_right_probabilities_at_every_cut(seed: int) -> None:
    probability = np.random.default_rng(seed).beta(0.6, 2, 40)
    threshold = decision.likely_f1(probability)

    def expected(cut: float) -> float:
        alarm = probability >= cut
        return float(2 * probability[alarm].sum() / (alarm.sum() + probability.sum()))

    assert expected(threshold) == max(expected(cut) for cut in probability)
    # Half way to the next lower score.
    above, below = probability[probability >= threshold].min(), probability[probability < threshold].max()
    assert threshold == pytest.approx((above + below) / 2)
    assert decision.likely_f1(np.array([0.8, 0.8])) == pytest.approx(0.76)
