"""The failure task: labels, splits, networks, servable, decisions and explanations."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from threadpoolctl import threadpool_limits

from aiops_core import servable
from aiops_core.data import splits
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError, ServableError, UsageError
from aiops_core.servable.failure import FailureServable, apply_calibration, choose_threshold, clock_of, fit_to_window
from aiops_core.tasks import failure
from aiops_core.tasks.failure.data import PARTS
from aiops_core.tasks.failure.network import MULTIPLES, summarise_patches
from aiops_core.tasks.failure.recurrence import recurrence
from aiops_core.tasks.failure.split import near, on_one_calendar, steps_to_next, stretches
from aiops_core.tasks.failure.stack import platt, stack_of
from aiops_core.tasks.failure.training import draw_epoch, patch_ends, patch_summaries, targets, train_network
from aiops_core.tasks.failure.trees import fit_trees, learning_rows, tree_probability
from aiops_core.tasks.failure.window_statistics import window_statistics

START = pd.Timestamp("2026-01-01", tz="UTC")
PARAMS = {
    "units": 8, "patch": 2, "local": 1, "clock": 1, "dense": 8, "dropout": 0.0, "input_dropout": 0.0,
    "learning_rate": 1e-2, "weight_decay": 1e-4,
}  # fmt: skip


def telemetry(
    resources: int = 6, hours: int = 400, seed: int = 0, every: int = 60
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A ramp of ``signal`` announces every incident; ``noise`` means nothing; two metrics are of the rules."""
    rng = np.random.default_rng(seed)
    rows, incidents = [], []
    for r in range(resources):
        starts = np.arange(every + rng.integers(0, every), hours, every)
        until = np.array([min([s - t for s in starts if s > t], default=999) for t in range(hours)])
        ramp = np.clip(12 - until, 0, 12) * 0.5
        rows.append(
            pd.DataFrame(
                {
                    "resource_id": f"host-{r}",
                    "timestamp": START + pd.to_timedelta(np.arange(hours), unit="h"),
                    "signal": ramp + rng.normal(0, 0.3, hours),
                    "noise": rng.normal(5, 2, hours),
                    "flat": 1.0,
                }
            )
        )
        for s in starts:
            begin = START + pd.Timedelta(hours=int(s))
            incidents.append({"resource_id": f"host-{r}", "start": begin, "end": begin + pd.Timedelta(hours=3)})
    return pd.concat(rows, ignore_index=True), pd.DataFrame(incidents)


def dataset(frame: pd.DataFrame, incidents: pd.DataFrame, **config: object) -> Dataset:
    settings = {"window": 12, "horizon": 6, "stride": 1, "test_fraction": 0.3, **config}
    return Dataset("toy", "toy", "none", {"telemetry": frame, "incidents": incidents}, {"failure": settings})


@pytest.fixture(scope="module")
def data() -> failure.FailureData:
    return failure.prepare(dataset(*telemetry()), seed=0)


def one_resource(hours: int = 60, starts: tuple[float, ...] = (30,), length: float = 4) -> Dataset:
    """Two resources: the labels of ``a`` are looked at, ``b`` makes every part complete."""
    frame, incidents = telemetry(resources=2, hours=400)
    mine = pd.DataFrame(
        {
            "resource_id": "a",
            "timestamp": START + pd.to_timedelta(np.arange(hours), unit="h"),
            "signal": np.arange(hours) * 1.0,
            "noise": 1.0,
            "flat": 1.0,
        }
    )
    events = pd.DataFrame({"resource_id": "a", "start": [START + pd.Timedelta(hours=s) for s in starts]})
    events["end"] = events["start"] + pd.Timedelta(hours=length)
    return dataset(pd.concat([mine, frame], ignore_index=True), pd.concat([events, incidents], ignore_index=True))


def test_a_row_is_positive_when_an_incident_starts_after_it_and_within_the_horizon() -> None:
    prepared = failure.prepare(one_resource(), seed=0)
    labels = prepared.label(np.arange(30))
    assert labels[24:30].tolist() == [1] * 6
    assert labels[:24].sum() == 0


def test_labels_and_examples_are_those_of_counting_by_hand() -> None:
    rng = np.random.default_rng(5)
    frame, incidents = telemetry(resources=5)
    # On the grid and off it, overlaps, one resource without an incident, one whose last comes after its rows.
    for column in ("start", "end"):
        seconds = rng.integers(-5400, 5400, len(incidents)) * rng.integers(0, 2, len(incidents))
        incidents[column] += pd.to_timedelta(seconds, unit="s")
    after = {"resource_id": "host-4", "start": START + pd.Timedelta("402.5h"), "end": START + pd.Timedelta("404h")}
    more = incidents.assign(start=incidents["start"] + pd.Timedelta("30min")).iloc[::3]
    incidents = pd.concat([incidents, more, pd.DataFrame([after])], ignore_index=True)
    incidents = incidents[incidents["resource_id"] != "host-3"]
    prepared = failure.prepare(dataset(frame, incidents), seed=0)
    hour = pd.Timedelta("1h")
    for code, name in enumerate(prepared.resources):
        mine = incidents[incidents["resource_id"] == name]
        end = START + 399 * hour
        failed = len(mine) and mine["start"].max() >= end
        for row in np.flatnonzero(prepared.resource == code):
            now = pd.Timestamp(prepared.time[row], tz="UTC")
            soon = bool(((mine["start"] > now) & (mine["start"] <= now + prepared.horizon * hour)).any())
            inside = bool(((mine["start"] <= now) & (mine["end"] > now)).any())
            assert prepared.label(np.array([row]))[0] == soon
            assert prepared.example[row] == (not inside and (failed or end >= now + prepared.horizon * hour))
    # An incident that is known to come is inside the record: whatever lies before it has a label.
    coming = np.isfinite(prepared.until)
    assert (prepared.known[coming] >= prepared.until[coming]).all()


def test_rows_inside_an_incident_are_no_examples_and_its_end_is_open() -> None:
    prepared = failure.prepare(one_resource(), seed=0)
    assert prepared.example[28:36].tolist() == [True, True, False, False, False, False, True, True]


def test_an_incident_after_the_last_row_labels_the_rows_before_it() -> None:
    prepared = failure.prepare(one_resource(hours=60, starts=(63,)), seed=0)
    assert prepared.label(np.arange(60))[54:].tolist() == [0, 0, 0, 1, 1, 1]
    assert prepared.example[:60].all()


def test_rows_whose_future_is_not_known_have_no_label() -> None:
    prepared = failure.prepare(one_resource(hours=60, starts=(20,)), seed=0)
    assert prepared.example[53]
    assert not prepared.example[54:60].any()


def test_rows_at_a_records_end_do_not_stay_because_an_incident_follows_them() -> None:
    # Of rows without full follow-up, those before the incident at 58 would stay and their quiet neighbours would go.
    prepared = failure.prepare(one_resource(hours=60, starts=(58,), length=1), seed=0)
    assert prepared.label(np.arange(60))[54:58].tolist() == [1, 1, 1, 1]
    assert prepared.example[:54].all() and not prepared.example[54:60].any()
    # A record that ends by failure has nothing after it: every row of it is known.
    ended = failure.prepare(one_resource(hours=60, starts=(59,), length=1), seed=0)
    assert ended.example[:59].all() and np.isinf(ended.known[:60]).all()


def test_overlapping_incidents_keep_all_their_rows_out() -> None:
    source = one_resource(starts=(30, 31), length=4)
    prepared = failure.prepare(source, seed=0)
    assert np.flatnonzero(~prepared.example[:50]).tolist() == [30, 31, 32, 33, 34]


def test_short_histories_are_padded_on_the_left_and_never_with_another_resource(data: failure.FailureData) -> None:
    first = int(np.flatnonzero(data.resource == 1)[0])
    window = data.windows(np.array([first + 2]))[0]
    assert np.isnan(window[:-3]).all()
    np.testing.assert_array_equal(window[-3:], data.values[first : first + 3])


def test_missing_rows_stay_missing_and_are_no_examples() -> None:
    frame, incidents = telemetry()
    prepared = failure.prepare(dataset(frame.drop(index=[5, 6]), incidents), seed=0)
    assert not prepared.example[5:7].any()
    assert np.isnan(prepared.values[5:7]).all()


def test_no_window_and_no_label_reaches_from_one_part_into_another(data: failure.FailureData) -> None:
    for earlier, later in (("train", "validation"), ("validation", "test")):
        for r in range(len(data.resources)):
            a = data.ends[earlier][data.resource[data.ends[earlier]] == r]
            b = data.ends[later][data.resource[data.ends[later]] == r]
            assert b.min() - a.max() > data.window + data.horizon - 1


def test_left_out_blocks_of_the_final_model_are_embargoed(data: failure.FailureData) -> None:
    block = data.fold == 1
    embargoed = near(data, block, 18)
    inside = np.flatnonzero(block & (data.resource == 2))
    expected = (data.resource == 2) & (
        np.abs(np.arange(len(block)) - np.clip(np.arange(len(block)), inside.min(), inside.max())) <= 18
    )
    assert (embargoed[data.resource == 2] == expected[data.resource == 2]).all()
    assert (data.fold[data.part == splits.TEST] == -1).all()


class Enough(Exception):
    """All blocks were seen."""


@pytest.mark.parametrize("by_resource", [False, True], ids=["by time", "by resource"])
def test_a_network_of_the_final_model_learns_nothing_near_its_left_out_block(
    by_resource: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, incidents = telemetry(resources=12 if by_resource else 6)
    if by_resource:
        frame["split"] = np.where(frame["resource_id"].isin(["host-10", "host-11"]), "test", "train")
    data = failure.prepare(dataset(frame, incidents), seed=0)
    assert data.by_resource == by_resource
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def look(params: object, data: object, rows: np.ndarray, bound: np.ndarray, check: np.ndarray, seed: int) -> object:
        seen.append((rows, bound, check))
        if len(seen) == failure.Effort().folds * failure.Effort().networks:
            raise Enough
        return None, np.zeros(len(check))

    monkeypatch.setattr("aiops_core.tasks.failure.model.train_network", look)
    with pytest.raises(Enough):
        failure.finish([PARAMS], data, seed=0)
    for i, (rows, bound, check) in enumerate(seen):
        fold = i // failure.Effort().networks
        left_out = np.concatenate([data.ends["train"], data.ends["validation"]])
        assert len(rows) and set(left_out[data.fold[left_out] == fold]) <= set(check)
        assert data.example[rows].all() and (data.part[rows] != splits.TEST).all()
        for r in np.unique(data.resource[rows]):
            mine, block = rows[data.resource[rows] == r], np.flatnonzero((data.fold == fold) & (data.resource == r))
            if len(block):
                assert np.abs(mine[:, None] - block).min() > data.window + data.horizon
            closed = np.flatnonzero(((data.fold == fold) | (data.part == splits.TEST)) & (data.resource == r))
            following = [min(closed[closed > row] - row, default=np.inf) for row in mine]
            np.testing.assert_array_equal(bound[mine], following)
            tested = np.flatnonzero((data.part == splits.TEST) & (data.resource == r))
            assert len(tested) == 0 or tested.min() - mine.max() > data.horizon


def test_longer_horizons_do_not_look_past_the_boundary_of_a_part(data: failure.FailureData) -> None:
    held = np.isin(data.part, (splits.VALIDATION, splits.TEST))
    bound = steps_to_next(data, held)
    train = np.flatnonzero((data.part == splits.TRAIN) & (data.resource == 0))
    first_held = np.flatnonzero(held & (data.resource == 0))[0]
    np.testing.assert_array_equal(bound[train], first_held - train)


def test_the_effort_sets_the_blocks_and_the_epochs_of_a_trial() -> None:
    effort = failure.Effort(folds=2, max_steps=5)
    prepared = failure.prepare(dataset(*telemetry()), seed=0, effort=effort)
    assert prepared.effort == effort
    assert set(prepared.fold[prepared.fold >= 0].tolist()) == {0, 1}
    assert failure.steps(prepared) == 5
    assert failure.steps(failure.prepare(dataset(*telemetry()), seed=0)) == failure.Effort().max_steps


def test_an_official_split_holds_out_whole_resources_for_validation() -> None:
    frame, incidents = telemetry(resources=12)
    frame["split"] = np.where(frame["resource_id"].isin(["host-10", "host-11", "host-9"]), "test", "train")
    prepared = failure.prepare(dataset(frame, incidents), seed=0)
    parts = {name: set(prepared.resource[ends].tolist()) for name, ends in prepared.ends.items()}
    assert {prepared.resources[i] for i in parts["test"]} == {"host-10", "host-11", "host-9"}
    assert not parts["train"] & parts["validation"]
    assert all(len(set(prepared.fold[prepared.resource == r])) == 1 for r in parts["train"])


def staggered() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six resources on one calendar whose records begin at different times; the last begins late."""
    frame, incidents = telemetry(resources=6, hours=600)
    begin = {f"host-{r}": START + pd.Timedelta(hours=h) for r, h in enumerate((0, 0, 100, 150, 200, 500))}
    frame = frame[frame["timestamp"] >= frame["resource_id"].map(begin)]
    return frame.reset_index(drop=True), incidents


def test_records_on_one_calendar_are_cut_at_the_same_time_and_a_new_one_is_tested_unseen() -> None:
    data = failure.prepare(dataset(*staggered()), seed=0)
    latest = {part: data.time[data.part == code].max() for part, code in PARTS.items()}
    first = {part: data.time[data.part == code].min() for part, code in PARTS.items()}
    gap = np.timedelta64(data.window + data.horizon, "h")
    assert latest["train"] + gap < first["validation"] and latest["validation"] + gap < first["test"]
    late = data.resources.index("host-5")
    assert set(data.part[data.resource == late].tolist()) <= {splits.TEST, splits.NONE}
    assert late in data.resource[data.ends["test"]]
    assert "at the same time for all resources" in data.info["split"]
    # The blocks of the cross-fitting are the same stretches of time for all resources too.
    for k in range(data.effort.folds - 1):
        assert data.time[data.fold == k].max() < data.time[data.fold == k + 1].min()


def test_records_with_calendars_of_their_own_are_cut_each_by_itself() -> None:
    frame, incidents = telemetry()
    for table, columns in ((frame, ["timestamp"]), (incidents, ["start", "end"])):
        shift = pd.to_timedelta(table["resource_id"].str[-1].astype(int) * 365, unit="D")
        for column in columns:
            table[column] += shift
    data = failure.prepare(dataset(frame, incidents), seed=0)
    assert not on_one_calendar(data.resource, data.time)
    assert all(set(data.part[data.resource == r].tolist()) == {0, 1, 2, -1} for r in range(6))
    assert "in every resource" in data.info["split"]


def test_under_the_protocol_of_resources_whole_ones_are_held_out_with_all_their_time() -> None:
    source = dataset(*telemetry(resources=12))
    data = failure.prepare(source, seed=0, protocol="resource")
    sets = {part: set(data.resource[ends].tolist()) for part, ends in data.ends.items()}
    assert not sets["train"] & sets["test"] and not sets["train"] & sets["validation"]
    assert sum(map(len, sets.values())) == 12 and len(sets["test"]) == 4
    assert data.by_resource and data.info["protocol"] == "resource" and "by resource" in data.info["split"]
    for r in sets["test"]:
        assert (data.part[data.resource == r] == splits.TEST).all()
    assert (data.fold[data.part == splits.TEST] == -1).all()
    assert all(len(set(data.fold[data.resource == r].tolist())) == 1 for r in range(12))
    assert failure.prepare(source, seed=1, protocol="resource").info["test_rows"] > 0
    with pytest.raises(UsageError, match="protocol 'random' is unknown; known: time, resource"):
        failure.prepare(source, seed=0, protocol="random")
    with pytest.raises(DataError, match="one resource only"):
        failure.prepare(dataset(*telemetry(resources=1)), seed=0, protocol="resource")


def test_resources_are_dealt_out_with_about_the_same_share_of_positive_rows() -> None:
    frame, incidents = telemetry(resources=24)
    # Half of the resources have no incident: by lot, a share could have none at all.
    quiet = {f"host-{r}" for r in range(24) if r % 2}
    data = failure.prepare(
        dataset(frame, incidents[~incidents["resource_id"].isin(quiet)]), seed=3, protocol="resource"
    )
    rates = [data.truth(part).mean() for part in data.ends]
    rates += [data.label(np.flatnonzero((data.fold == k) & data.example)).mean() for k in range(data.effort.folds)]
    assert max(rates) < 1.6 * min(rates)


def test_without_the_clock_no_point_of_the_search_reads_the_time_of_day() -> None:
    data = failure.prepare(dataset(*telemetry()), seed=0, effort=failure.Effort(clock=False))
    assert not any(point["clock"] for point in failure.defaults(data))
    assert list(failure.space(data)["clock"].choices) == [0]  # type: ignore[attr-defined]
    assert len(failure.defaults(data)) == 2


def test_a_sample_of_rows_to_watch_keeps_whole_stretches_of_time(data: failure.FailureData) -> None:
    rows = data.every_step("train")
    kept = stretches(data, rows, len(rows) // 3)
    assert 0 < len(kept) <= len(rows) // 3 and set(kept) <= set(rows)
    assert np.mean(np.diff(kept) == 1) > 0.9
    assert stretches(data, rows, len(rows)) is rows


def test_statistics_and_features_come_from_training_rows_only() -> None:
    frame, incidents = telemetry()
    before = failure.prepare(dataset(frame, incidents), seed=0)
    late = frame["timestamp"] > START + pd.Timedelta(hours=250)
    frame.loc[late, "signal"] *= 100
    frame.loc[late, "flat"] = np.arange(int(late.sum()))
    after = failure.prepare(dataset(frame, incidents), seed=0)
    assert before.features == after.features
    assert [f["name"] for f in after.features] == ["signal", "noise"]
    np.testing.assert_array_equal(before.scale, after.scale)


def test_a_stride_thins_the_examples_but_not_the_rows_to_learn_from() -> None:
    prepared = failure.prepare(dataset(*telemetry(), stride=12), seed=0)
    position = prepared.ends["train"] - prepared.start[prepared.ends["train"]]
    assert set(position % 12) == {11}
    rows = np.flatnonzero((prepared.part == splits.TRAIN) & prepared.example)
    chosen = draw_epoch(rows, 12, 100, np.random.default_rng(0))
    assert len(np.unique(rows[chosen][:50] // 12)) == 50
    assert len(np.unique(rows[chosen] % 12)) > 6


def test_too_little_data_is_refused_in_words() -> None:
    frame, incidents = telemetry(resources=1, hours=300)
    with pytest.raises(DataError, match="fewer than a window of 500"):
        failure.prepare(dataset(frame, incidents, window=500), seed=0)
    with pytest.raises(DataError, match="part has no positive rows"):
        failure.prepare(dataset(frame, incidents.iloc[:0]), seed=0)


def test_renaming_a_resource_changes_no_input_of_the_model() -> None:
    frame, incidents = telemetry()
    before = failure.prepare(dataset(frame, incidents), seed=0)
    for table in (frame, incidents):
        table["resource_id"] = table["resource_id"].str.replace("host", "renamed")
    after = failure.prepare(dataset(frame, incidents), seed=0)
    for part, ends in before.ends.items():
        np.testing.assert_array_equal(before.windows(ends), after.windows(after.ends[part]))
        np.testing.assert_array_equal(before.truth(part), after.truth(part))


def test_the_oracle_is_aligned_with_the_test_rows() -> None:
    frame, incidents = telemetry()
    source = dataset(frame, incidents)
    keys = frame[["resource_id", "timestamp"]].sample(frac=1.0, random_state=0)
    keys["probability"] = keys["timestamp"].dt.hour / 24
    source.oracles["failure"] = keys
    prepared = failure.prepare(source, seed=0)
    expected = prepared.keys("test")["timestamp"].dt.hour / 24
    np.testing.assert_allclose(failure.oracle(prepared)["probability"], expected)


def test_the_oracles_threshold_comes_from_validation_and_never_from_test_labels(data: failure.FailureData) -> None:
    test, check = data.ends["test"], data.ends["validation"]
    known = {"test": noisy(data, test), "validation": noisy(data, check)}
    turned = data.until.copy()
    turned[test] = np.where(data.label(test) == 1, np.inf, 1.0)
    for oracle in (known, {"test": known["test"]}):
        alarms = [failure.oracle(replace(data, until=until, oracle=oracle))["alarm"] for until in (data.until, turned)]
        assert (alarms[0] == alarms[1]).all() and 0 < alarms[0].mean() < 1
    expected = failure.highest_f1(data.truth("validation"), known["validation"])
    alarm = failure.oracle(replace(data, oracle=known))["alarm"]
    assert (alarm == (known["test"] >= expected)).all()


def test_baselines_are_scored_on_the_test_rows_and_trees_beat_the_prior(data: failure.FailureData) -> None:
    found = failure.baselines(data, seed=0)
    assert set(found) == {"class_prior", *failure.STRONG_BASELINES}
    assert all(len(p["probability"]) == data.info["test_rows"] for p in found.values())
    better = failure.compare(data, found["hist_gradient_boosting"], {"prior": found["class_prior"]}, n_boot=300)
    assert set(better["prior"]) == {"average_precision", "f1", "brier"}
    assert better["prior"]["average_precision"]["low"] > 0.2


def test_f1_is_compared_at_thresholds_that_one_rule_chose_on_validation(data: failure.FailureData) -> None:
    # A prediction that serves with another policy still brings the alarm of that rule.
    truth = data.truth("test").astype(float)
    quiet = {"probability": truth, "alarm": truth > 2, "f1_alarm": truth > 0.5}
    gains = failure.compare(data, quiet, {"same": {**quiet, "alarm": truth > 0.5}}, n_boot=100)
    assert gains["same"]["f1"]["own"] == gains["same"]["f1"]["other"] == 1.0
    check = data.ends["validation"]
    score = np.linspace(0, 1, len(check))
    curve = failure.policies(data, check, score)
    assert failure.highest_f1(data.label(check), score) == choose_threshold(curve, "max_f1")
    trees = failure.baselines(data, seed=0)["hist_gradient_boosting"]
    assert 0 < trees["alarm"].sum() < len(trees["alarm"])


def test_window_statistics_are_those_of_the_cut_windows() -> None:
    frame, incidents = telemetry(resources=3)
    rng = np.random.default_rng(2)
    frame.loc[rng.random(len(frame)) < 0.1, "signal"] = np.nan
    frame.loc[100:130, "noise"] = np.nan
    frame["noise"] += np.where(frame["resource_id"] == "host-1", 1e5, 0)
    data = failure.prepare(dataset(frame, incidents), seed=0)
    ends = np.arange(len(data.time))
    found = window_statistics(data, ends)
    windows = data.windows(ends).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        late = np.nanmean(windows[:, -3:], axis=1)
        expected = [
            windows[:, -1],
            np.nanmean(windows, axis=1),
            np.nanstd(windows, axis=1),
            np.nanmin(windows, axis=1),
            np.nanmax(windows, axis=1),
            late,
            late - np.nanmean(windows[:, :-3], axis=1),
        ]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-4)


def test_trees_learn_all_rows_and_where_negative_ones_are_thinned_the_rest_weigh_more(
    data: failure.FailureData,
) -> None:
    rows = np.flatnonzero((data.part == splits.TRAIN) & data.example)
    kept, weight = learning_rows(data, rows, len(rows))
    assert kept is rows and (weight == 1).all()
    kept, weight = learning_rows(data, rows, 700)
    truth = data.label(kept)
    assert set(rows[data.label(rows) == 1]) <= set(kept) and len(kept) <= 700
    assert weight[truth == 1].tolist() == [1.0] * int(truth.sum())
    assert weight[truth == 0].sum() == pytest.approx((data.label(rows) == 0).sum())


def test_forests_answer_the_same_whatever_the_number_of_threads(data: failure.FailureData) -> None:
    rows = data.ends["train"]
    x, truth = window_statistics(data, rows), data.label(rows)
    found = []
    for threads in (1, 3):
        with parallel_config(n_jobs=threads), threadpool_limits(threads):
            model = fit_trees("extra_trees", {"min_samples_leaf": 3}, x, truth, np.ones(len(x)), trees=20, seed=1)
        found.append(tree_probability(model, window_statistics(data, data.ends["test"])))
    assert (found[0] == found[1]).all()


def test_incidents_that_recur_daily_are_foretold_without_telemetry_and_new_resources_get_the_fleets_habits() -> None:
    hours, rows, incidents = 24 * 40, [], []
    for r in range(4):
        stamps = START + pd.to_timedelta(np.arange(hours), unit="h")
        noise = np.random.default_rng(r).normal(size=hours)
        rows.append(pd.DataFrame({"resource_id": f"host-{r}", "timestamp": stamps, "noise": noise}))
        for day in range(40):
            begin = START + pd.Timedelta(days=day, hours=5 if r % 2 else 17)
            incidents.append({"resource_id": f"host-{r}", "start": begin, "end": begin + pd.Timedelta(hours=1)})
    data = failure.prepare(dataset(pd.concat(rows, ignore_index=True), pd.DataFrame(incidents), horizon=3), seed=0)
    test, learned = data.ends["test"], data.ends["train"]
    own = recurrence(data, learned, test, 1 / 6)
    assert own[data.truth("test") == 1].min() > 0.35 > 0.05 > np.quantile(own[data.truth("test") == 0], 0.8)
    # The habits of two resources that were never seen: half of the incidents of the others fall on each time of day.
    unseen = recurrence(data, learned[data.resource[learned] < 2], test, 1 / 6)
    fleet = data.resource[test] >= 2
    clock = data.time[test].astype("datetime64[h]").astype(int) % 24
    for hour in (3, 4, 15, 16):
        assert unseen[fleet & (clock == hour)] == pytest.approx(0.39, abs=0.1)


def test_rules_are_a_baseline_where_their_metrics_exist() -> None:
    frame, incidents = telemetry()
    frame = frame.rename(columns={"signal": "cpu_usage", "noise": "memory_usage"})
    frame["cpu_usage"] = 60 + 5 * frame["cpu_usage"]
    frame["response_time"] = 100 + 50 * np.random.default_rng(0).random(len(frame))
    found = failure.baselines(failure.prepare(dataset(frame, incidents), seed=0), seed=0)
    assert (
        0.5
        < failure.evaluate(failure.prepare(dataset(frame, incidents), seed=0), found["rules"])["roc_auc"]["value"]
        < 1
    )


# Decisions -----------------------------------------------------------------------------------------------------


def curve() -> dict[str, list[float]]:
    return {
        "threshold": [0.9, 0.6, 0.3, 0.1],
        "precision": [1.0, 0.9, 0.6, 0.2],
        "recall": [0.2, 0.7, 0.9, 1.0],
        "f1": [0.33, 0.79, 0.72, 0.33],
        "missed": [0.08, 0.03, 0.01, 0.0],
        "false_alarms": [0.0, 0.01, 0.06, 0.4],
        "alerts_per_resource_day": [0.1, 0.4, 1.0, 3.0],
    }


def test_a_costlier_miss_lowers_the_threshold() -> None:
    cheap = choose_threshold(curve(), "cost", cost_missed=1, cost_false_alarm=10)
    dear = choose_threshold(curve(), "cost", cost_missed=100, cost_false_alarm=1)
    assert (cheap, dear) == (0.9, 0.1)


def test_an_alert_budget_is_kept_and_used() -> None:
    assert choose_threshold(curve(), "alert_budget", alerts_per_day=0.5) == 0.6
    assert choose_threshold(curve(), "alert_budget", alerts_per_day=2.0) == 0.3
    assert choose_threshold(curve(), "alert_budget", alerts_per_day=0.01) == 1.0


def test_the_default_takes_the_best_f1_and_on_its_plateau_half_of_it() -> None:
    assert choose_threshold(curve(), "max_f1") == 0.6
    flat = {**curve(), "f1": [0.789, 0.79, 0.788, 0.33]}
    assert choose_threshold(flat, "max_f1") == 0.3


@pytest.mark.parametrize(
    ("rule", "settings"), [("best", {}), ("cost", {"cost_missed": 0.0}), ("alert_budget", {"alerts_per_day": -1.0})]
)
def test_a_policy_that_makes_no_sense_is_refused(rule: str, settings: dict[str, float]) -> None:
    with pytest.raises(ServableError, match="decision policy"):
        choose_threshold(curve(), rule, **settings)


def test_events_count_incidents_leads_and_alerts(data: failure.FailureData) -> None:
    ends = data.ends["test"]
    truth = data.truth("test").astype(bool)
    perfect = failure.events(data, ends, truth)
    assert perfect["share_caught"] == 1.0
    assert perfect["false_alerts"] == 0
    assert perfect["median_lead_hours"] == data.horizon
    assert perfect["alerts"] == perfect["incidents"]
    silent = failure.events(data, ends, np.zeros(len(ends), dtype=bool))
    assert (silent["caught"], silent["alerts"], silent["median_lead_hours"]) == (0, 0, None)
    always = failure.events(data, ends, np.ones(len(ends), dtype=bool))
    assert always["false_alerts"] > 0
    # One alert holds for the horizon: never more than one in 6 hours and the hour it is raised.
    assert always["alerts_per_resource_day"] <= 24 / 6


def test_policies_agree_with_counting_by_hand(data: failure.FailureData) -> None:
    ends, truth = data.ends["test"], data.truth("test")
    probability = np.round(np.random.default_rng(0).random(len(ends)) * 0.5 + 0.4 * truth, 3)
    found = failure.policies(data, ends, probability)
    assert np.all(np.diff(found["threshold"]) < 0)
    for i in range(0, len(found["threshold"]), 17):
        alarm = probability >= found["threshold"][i]
        assert found["recall"][i] == pytest.approx(alarm[truth == 1].mean())
        assert found["precision"][i] == pytest.approx(truth[alarm].mean())
        assert found["missed"][i] == pytest.approx(((truth == 1) & ~alarm).mean())


def test_the_surest_mistakes_are_rows_that_were_decided_wrongly(data: failure.FailureData) -> None:
    truth = data.truth("test")
    probability = 0.4 + 0.2 * truth
    right = failure.details(data, {"probability": probability, "alarm": truth == 1})
    assert right["worst"] == [] and right["tables"]["The surest mistakes"] == []
    alarm = truth == 1
    alarm[np.flatnonzero(alarm)[0]] = False
    (only,) = failure.details(data, {"probability": probability, "alarm": alarm})["worst"]
    assert only["truth"] == 1 and only["probability"] == pytest.approx(0.6)


def test_details_bring_the_sentences_and_tables_of_the_report(data: failure.FailureData) -> None:
    truth = data.truth("test").astype(float)
    probability = 0.1 + 0.8 * truth
    shown = failure.details(data, {"probability": probability, "alarm": truth > 0.5})
    assert shown["sentences"][0] == f"At the chosen threshold: {shown['sentence']}."
    assert len(shown["sentences"]) == 1 and "validation" not in shown["policies"]
    assert shown["tables"] == {
        "Resources with the largest errors": shown["by_resource"][:8],
        "The surest mistakes": shown["worst"][:8],
    }


def noisy(data: failure.FailureData, rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """A score of rows that knows something."""
    return np.clip(np.random.default_rng(seed).random(len(rows)) * 0.6 + 0.35 * data.label(rows), 0, 1)


def test_thresholds_of_sentences_and_pictures_come_from_validation_and_are_scored_on_the_test_rows(
    data: failure.FailureData,
) -> None:
    test, check = data.ends["test"], data.ends["validation"]
    curve = failure.policies(data, check, noisy(data, check))
    sentences = []
    for labels in (data.until, np.where(np.isin(np.arange(len(data.until)), test), np.inf, data.until)):
        # The second time no test row is positive: what is chosen stays, what is said of the test changes.
        changed = replace(data, until=labels)
        probability = noisy(data, test, 1)
        prediction = {"probability": probability, "alarm": probability >= 0.5}
        shown = failure.details(changed, prediction, curve=curve)
        assert shown["policies"]["threshold"] == curve["threshold"]
        assert shown["policies"]["validation"]["missed"] == curve["missed"]
        i = len(curve["threshold"]) // 3
        alarm = probability >= curve["threshold"][i]
        assert shown["policies"]["false_alarms"][i] == pytest.approx((alarm & (changed.label(test) == 0)).mean())
        sentences.append(shown["sentences"][1:])
    assert sentences[0] and sentences[0] != sentences[1]
    chosen = [[re.search(r"\((\d\.\d+)\)", s)[1] for s in found] for found in sentences]  # type: ignore[index]
    assert chosen[0] == chosen[1]
    # Always alarming keeps any budget of an alert a horizon: that is no choice.
    assert not [s for s in sentences[0] if "100 alerts" in s]
    least = min(curve["threshold"])
    assert all(float(c) > least for c in chosen[0])


def test_alerts_are_counted_at_every_step_and_not_at_the_stride_of_the_examples() -> None:
    prepared = failure.prepare(dataset(*telemetry(), stride=12), seed=0)
    test = prepared.ends["test"]
    alarm = noisy(prepared, test) >= 0.5
    prediction = {"probability": alarm.astype(float), "alarm": alarm}
    rows = prepared.every_step("test")
    assert len(rows) > 8 * len(test) and set(test) <= set(rows)
    busy = failure.details(prepared, prediction, watched=(rows, np.ones(len(rows))))["events"]
    calm = failure.details(prepared, prediction, watched=(rows, np.zeros(len(rows))))["events"]
    assert busy["alerts_per_resource_day"] == pytest.approx(24 / 7, rel=0.1) and calm["alerts"] == 0
    assert busy["resource_days"] == pytest.approx(len(rows) / 24)
    assert busy["caught"] == busy["incidents"] >= prepared.info["test_incidents"]


def test_incidents_past_the_end_of_a_record_are_not_mixed_up_with_those_of_the_next_one() -> None:
    frame, incidents = telemetry(resources=3)
    mine = [
        {"resource_id": "host-0", "start": START + pd.Timedelta(hours=402), "end": START + pd.Timedelta(hours=403)},
        {"resource_id": "host-1", "start": START + pd.Timedelta(hours=2), "end": START + pd.Timedelta(hours=3)},
    ]
    prepared = failure.prepare(dataset(frame, pd.concat([incidents, pd.DataFrame(mine)], ignore_index=True)), seed=0)
    rows = np.array([398, 399, 400, 401])
    assert prepared.until[rows].tolist() == [4, 3, 2, 1]
    assert failure.events(prepared, rows, np.ones(4, dtype=bool))["incidents"] == 2


def test_the_report_counts_incidents_by_kind_with_intervals_and_shows_the_test_time_in_parts() -> None:
    frame, incidents = telemetry()
    incidents["kind"] = np.where(np.arange(len(incidents)) % 2, "odd", "even")
    prepared = failure.prepare(dataset(frame, incidents), seed=0)
    truth = prepared.truth("test").astype(float)
    shown = failure.details(prepared, {"probability": 0.1 + 0.8 * truth, "alarm": truth > 0.5})
    kinds = {row["kind"]: row for row in shown["by_kind"]}
    assert set(kinds) == {"odd", "even"}
    assert sum(row["incidents"] for row in kinds.values()) == shown["events"]["incidents"]
    assert all(row["share_caught"] == 1 and 0.4 < row["low"] < row["high"] == 1 for row in kinds.values())
    assert sum(shown["over_time"]["rows"]) == len(truth)
    assert shown["first_screen"] == {
        "incidents": shown["events"]["incidents"],
        "caught": shown["events"]["incidents"],
        "median_hours_ahead": 6.0,
        "false_alarms_per_day": 0.0,
        "resources": 6,
    }
    assert shown["served"] == {"threshold": pytest.approx(0.5), "precision": 1.0, "recall": 1.0}
    assert 0.5 < shown["brier_skill"] < 1
    reliability = shown["reliability"]
    for low, seen, high in zip(reliability["low"], reliability["observed"], reliability["high"], strict=True):
        assert low - 1e-9 <= seen <= high + 1e-9


def test_calibration_recovers_a_distorted_probability() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 2, 20_000)
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(int)
    slope, offset = platt(logit * 3 + 1, truth)
    assert slope == pytest.approx(1 / 3, abs=0.02)
    assert offset == pytest.approx(-1 / 3, abs=0.05)
    assert platt(-logit, truth)[0] > 0


def test_the_final_mean_is_calibrated_by_means_of_networks_that_did_not_see_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = dataset(*telemetry(), stride=4)
    data = failure.prepare(source, seed=0, effort=failure.Effort(folds=3, networks=2))
    signal = np.random.default_rng(0).normal(2.0 * (data.until <= data.horizon) - 2, 1.0)
    blur = np.random.default_rng(1).normal(0, 3.0, len(signal))
    calls: list[int] = []

    def train(*found: object, seed: int) -> tuple[None, np.ndarray]:
        # The two networks of a block err in opposite directions, as far as a mean can tell.
        calls.append(seed)
        check = np.asarray(found[4])
        return None, signal[check] + (1 if len(calls) % 2 else -1) * blur[check]

    monkeypatch.setattr("aiops_core.tasks.failure.model.train_network", train)

    def networks_only(names: list[str], *found: Any) -> list[dict[str, Any]]:
        return [{**m, "weight": float(m["name"] == "lstm")} for m in stack_of(names, *found)]

    monkeypatch.setattr("aiops_core.tasks.failure.model._alignment", lambda found: [(1.0, 0.0)] * len(found))
    monkeypatch.setattr("aiops_core.tasks.failure.model.stack_of", networks_only)
    model = failure.finish([PARAMS], data, seed=0)
    assert len(calls) == len(set(calls)) == 6
    rows = np.concatenate([data.ends["train"], data.ends["validation"]])
    slope, offset = platt(signal[rows], data.label(rows))
    own = model.members[0]
    assert (own["slope"], own["offset"]) == pytest.approx((slope, offset), rel=1e-3)
    # On this scale there is nothing left to calibrate.
    assert (model.slope, model.offset) == pytest.approx((1.0, 0.0), abs=0.01)
    assert own["slope"] > 2 * platt(signal[rows] + blur[rows], data.label(rows))[0]
    # One row a step decides what would be alerted, and the card's curve knows it.
    steps = np.flatnonzero((data.fold >= 0) & (data.part != -1) & data.example)
    probability = apply_calibration(own["slope"] * signal[steps] + own["offset"], model.slope, model.offset)
    alarms = failure.events(data, steps, probability >= model.curve["threshold"][-1], stride=1)
    assert model.curve["alerts_per_resource_day"][-1] == pytest.approx(alarms["alerts_per_resource_day"], rel=1e-6)


# Servable ------------------------------------------------------------------------------------------------------


def test_histories_are_cut_and_padded_to_the_window() -> None:
    long = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    assert fit_to_window(long, 2)[0, :, 0].tolist() == [4, 6]
    assert np.isnan(fit_to_window(long, 6)[0, :2]).all()


def test_the_clock_is_a_fraction_of_the_day_and_unknown_is_nan() -> None:
    stamps = np.array(["2026-01-01T06:00", "1969-12-31T12:00", "NaT"], dtype="datetime64[s]")
    np.testing.assert_allclose(clock_of(stamps, 3)[:, 0], [0.25, 0.5, np.nan])
    assert np.isnan(clock_of(None, 2)).all()


def test_extreme_logits_stay_probabilities() -> None:
    assert apply_calibration(np.array([-1e9, 1e9]), 1.0, 0.0).tolist() == pytest.approx([0.0, 1.0])


@pytest.fixture(scope="module")
def trained(
    data: failure.FailureData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[failure.FailureModel, FailureServable]:
    effort = failure.Effort(folds=2, max_steps=4, epoch_rows=(1_000, 1_500))
    prepared = failure.prepare(dataset(*telemetry()), seed=0, effort=effort)
    model = failure.finish(
        [PARAMS, {**PARAMS, "patch": 5, "clock": 0, "local": 0, "input_dropout": 0.1}], prepared, seed=0
    )
    folder = tmp_path_factory.mktemp("failure") / "servable"
    failure.export(model, data, folder)
    loaded = servable.load(folder)
    assert isinstance(loaded, FailureServable)
    return model, loaded


@pytest.mark.slow
def test_the_servable_equals_the_keras_model_also_with_padding_and_missing_values(
    data: failure.FailureData, trained: tuple[failure.FailureModel, FailureServable]
) -> None:
    model, loaded = trained
    assert [p["patch"] for p in model.params] == [2, 5]
    assert loaded.members == ["lstm", "hist_gradient_boosting", "random_forest", "extra_trees", "recurrence"]
    for part in ("test", "train"):
        native, served = failure.predict(model, data, part), failure.score(loaded, data, part)
        np.testing.assert_allclose(native["probability"], served["probability"], atol=1e-5)
    assert np.isfinite(loaded.predict(np.full((1, 12, 2), np.nan), None)).all()
    assert loaded.predict(np.zeros((0, 12, 2))).shape == (0,)


@pytest.mark.slow
def test_the_trained_model_finds_the_signal_and_is_calibrated(
    data: failure.FailureData, trained: tuple[failure.FailureModel, FailureServable]
) -> None:
    prediction = failure.score(trained[1], data, "test")
    found = failure.evaluate(data, prediction)
    assert found["roc_auc"]["value"] > 0.95
    assert found["ece"]["value"] < 0.06
    shown = failure.details(data, prediction)
    assert shown["events"]["share_caught"] > 0.7
    assert "incidents" in shown["sentence"]
    assert sum(map(sum, shown["confusion"])) == data.info["test_rows"]


@pytest.mark.slow
def test_training_sees_the_same_channels_as_serving(
    data: failure.FailureData, trained: tuple[failure.FailureModel, FailureServable]
) -> None:
    model, _ = trained
    ends = data.ends["train"][[0, 3, 200]]
    for network, params in zip(model.networks, model.params, strict=True):
        places = patch_ends(data, params["patch"])(ends)
        store, slot = patch_summaries(data, params["patch"], [places])
        seen = np.asarray(summarise_patches(data.windows(ends), data.window, params["patch"], data))
        np.testing.assert_allclose(store[slot[places + 1]], seen, atol=1e-6)
        assert network.input["patches"].shape[1:] == seen.shape[1:]


@pytest.mark.slow
def test_an_explanation_names_the_driver_and_removing_it_moves_the_score(
    data: failure.FailureData, trained: tuple[failure.FailureModel, FailureServable]
) -> None:
    loaded = trained[1]
    prediction = failure.score(loaded, data, "test")["probability"]
    end = data.ends["test"][int(np.argmax(prediction))]
    window, last = data.windows(np.array([end]))[0], data.time[end]
    owner = data.names(data.ends["test"])[int(np.argmax(prediction))]
    drivers = loaded.explain(window, top=2, last=last, resource=owner)
    assert drivers[0]["feature"] == "signal"
    assert drivers[0]["value"] == pytest.approx(float(window[-1, 0]))
    without = window.copy()
    without[:, 0] = loaded.card["features"][0]["reference"]["median"]
    both = loaded.predict(np.stack([window, without]), np.array([last, last]), [owner, owner])
    assert drivers[0]["contribution"] == pytest.approx(both[0] - both[1], abs=1e-6)
    assert drivers[0]["contribution"] > 5 * abs(drivers[1]["contribution"])
    overall = failure.importance(loaded, data, rows=40)
    assert [row["feature"] for row in overall] == ["signal", "noise"]
    drawn = failure.details(data, failure.score(loaded, data, "test"), importance=overall)["importance"]
    assert [row["importance"] for row in drawn] == [row["mean_abs_contribution"] for row in overall]


@pytest.mark.slow
def test_the_curve_of_a_loaded_servable_gives_the_threshold_of_another_policy(
    data: failure.FailureData, trained: tuple[failure.FailureModel, FailureServable]
) -> None:
    loaded = servable.load(trained[1].folder)
    assert isinstance(loaded, FailureServable)
    assert loaded.threshold == pytest.approx(trained[0].threshold)
    curve = loaded.card["decision"]["curve"]
    strict = choose_threshold(curve, "cost", cost_missed=1, cost_false_alarm=100)
    loose = choose_threshold(curve, "cost", cost_missed=100, cost_false_alarm=1)
    assert loose < strict
    assert loaded.decide(np.array([loaded.threshold])).all()


@pytest.mark.slow
def test_the_golden_examples_refuse_another_graph(
    trained: tuple[failure.FailureModel, FailureServable], tmp_path: Path
) -> None:
    folder = trained[1].folder
    card = servable.update_card(folder)
    graphs = {name: (folder / f"{name}.onnx").read_bytes() for name in ("lstm", "trees", "recurrence")}
    with np.load(folder / "golden.npz") as stored:
        golden = {name: stored[name] for name in stored.files}
    golden["expected_probability"] = golden["expected_probability"] + 0.01
    servable.write(tmp_path / "bad", card, graphs, golden)
    with pytest.raises(ServableError, match="golden"):
        servable.load(tmp_path / "bad")


@pytest.mark.slow
def test_wrong_window_shapes_are_refused(trained: tuple[failure.FailureModel, FailureServable]) -> None:
    with pytest.raises(ServableError, match="shape"):
        trained[1].predict(np.zeros((1, 12, 3)))


@pytest.mark.slow
def test_training_repeats_exactly_and_reports_every_epoch(data: failure.FailureData) -> None:
    data = replace(data, effort=failure.Effort(max_steps=2, epoch_rows=(300, 400)))
    reports: list[list[tuple[int, dict[str, float]]]] = [[], []]
    for log in reports:
        failure.fit(PARAMS, data, seed=3, report=lambda step, found, log=log: log.append((step, found)))
    assert reports[0] == reports[1]
    assert [step for step, _ in reports[0]] == [1, 2]
    assert failure.OBJECTIVE in reports[0][0][1]


@pytest.mark.slow
def test_rows_that_only_calibrate_choose_no_epoch(data: failure.FailureData) -> None:
    data = replace(data, effort=failure.Effort(max_steps=3, epoch_rows=(600, 600)))
    rows = np.flatnonzero((data.part == splits.TRAIN) & data.example)
    check, bound = data.ends["validation"], np.full(len(data.time), np.inf)
    # With the labels of these rows turned round, another epoch would look best.
    turned = data.until.copy()
    turned[check] = np.where(data.label(check) == 1, np.inf, 1.0)
    networks = [
        train_network(PARAMS, replace(data, until=until), rows, bound, check, seed=0)[0]
        for until in (data.until, turned)
    ]
    for one, other in zip(networks[0].get_weights(), networks[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_longer_horizon_has_no_label_without_full_follow_up(data: failure.FailureData) -> None:
    rows = np.flatnonzero((data.part == splits.TRAIN) & data.example)
    bound = steps_to_next(data, np.isin(data.part, (splits.VALIDATION, splits.TEST)))
    _, weight = targets(data, rows, bound)
    horizons = np.array(MULTIPLES) * data.horizon
    np.testing.assert_array_equal(weight > 0, np.minimum(bound, data.known)[rows, None] >= horizons)
