"""The failure task: labels, splits, networks, servable, decisions and explanations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core import servable
from aiops_core.data import splits
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError, ServableError
from aiops_core.servable.failure import FailureServable, apply_calibration, choose_threshold, clock_of, fit_to_window
from aiops_core.tasks import failure
from aiops_core.tasks.failure.model import platt
from aiops_core.tasks.failure.network import summarise_patches
from aiops_core.tasks.failure.split import near, steps_to_next
from aiops_core.tasks.failure.training import draw_epoch, patch_ends, patch_summaries

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
        last = max(START + 399 * hour, mine["start"].max() if len(mine) else START)
        for row in np.flatnonzero(prepared.resource == code):
            now = pd.Timestamp(prepared.time[row], tz="UTC")
            soon = bool(((mine["start"] > now) & (mine["start"] <= now + prepared.horizon * hour)).any())
            inside = bool(((mine["start"] <= now) & (mine["end"] > now)).any())
            assert prepared.label(np.array([row]))[0] == soon
            assert prepared.example[row] == (not inside and (soon or last >= now + prepared.horizon * hour))
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
        if len(seen) == failure.Effort().folds:
            raise Enough
        return None, np.zeros(len(check))

    monkeypatch.setattr("aiops_core.tasks.failure.model.train_network", look)
    with pytest.raises(Enough):
        failure.finish([PARAMS], data, seed=0)
    for fold, (rows, bound, check) in enumerate(seen):
        assert len(rows) and set(data.fold[check]) == {fold}
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


def test_baselines_are_scored_on_the_test_rows_and_trees_beat_the_prior(data: failure.FailureData) -> None:
    found = failure.baselines(data, seed=0)
    assert set(found) == {"class_prior", "hist_gradient_boosting"}
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


def test_details_bring_the_sentences_and_tables_of_the_report(data: failure.FailureData) -> None:
    truth = data.truth("test").astype(float)
    probability = 0.1 + 0.8 * truth
    shown = failure.details(data, {"probability": probability, "alarm": truth > 0.5})
    assert shown["sentences"][0] == f"At the chosen threshold: {shown['sentence']}."
    assert [s.split(" alerts")[0] for s in shown["sentences"][1:]] == ["At most 1", "At most 2"]
    assert "catches 100% of incidents, median 6 h ahead (threshold 0.500)" in shown["sentences"][1]
    assert shown["tables"] == {
        "Resources with the largest errors": shown["by_resource"][:8],
        "The surest mistakes": shown["worst"][:8],
    }


def test_calibration_recovers_a_distorted_probability() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 2, 20_000)
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(int)
    slope, offset = platt(logit * 3 + 1, truth)
    assert slope == pytest.approx(1 / 3, abs=0.02)
    assert offset == pytest.approx(-1 / 3, abs=0.05)
    assert platt(-logit, truth)[0] > 0


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
    assert len(model.networks) == 2
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
    drivers = loaded.explain(window, top=2, last=last)
    assert drivers[0]["feature"] == "signal"
    assert drivers[0]["value"] == pytest.approx(float(window[-1, 0]))
    without = window.copy()
    without[:, 0] = loaded.card["features"][0]["reference"]["median"]
    both = loaded.predict(np.stack([window, without]), np.array([last, last]))
    assert drivers[0]["contribution"] == pytest.approx(both[0] - both[1], abs=1e-6)
    assert drivers[0]["contribution"] > 5 * abs(drivers[1]["contribution"])
    overall = failure.importance(loaded, data, rows=40)
    assert [row["feature"] for row in overall] == ["signal", "noise"]


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
    graphs = {"lstm": (folder / "lstm.onnx").read_bytes()}
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
