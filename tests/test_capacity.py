from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core import servable
from aiops_core.data import tables
from aiops_core.errors import DataError, ServableError
from aiops_core.servable import capacity as served
from aiops_core.servable.capacity_features import features
from aiops_core.servable.capacity_layout import Layout, feature_names
from aiops_core.tasks import capacity
from aiops_core.tasks.capacity.band import BUCKETS, bucket_edges, conformal, upper_quantile
from aiops_core.tasks.capacity.pairs import features_of

SEASON, DAYS = 24, 40
CONFIG = {"season": SEASON, "horizon": 48, "origins": 4, "origin_step": 13, "score_steps": [1, 6, 24]}


def usage(resources: int = 6, *, days: int = DAYS, seed: int = 0, prefix: str = "host") -> pd.DataFrame:
    """Two targets of very different units, one other column that runs three hours ahead of the first target."""
    rng = np.random.default_rng(seed)
    clock = np.arange(days * 24)
    frames = []
    for i in range(resources):
        size = 10 ** rng.uniform(-1, 2)
        driver = rng.normal(0, 1, len(clock) + 3).cumsum() * 0.03
        wave = 1 + 0.5 * np.sin(2 * np.pi * (clock - 3 * i) / 24) + 0.2 * ((clock // 24) % 7 > 4)
        cpu = size * (3 + wave + 0.5 * driver[:-3] + rng.normal(0, 0.08, len(clock)))
        disk = 5e5 * size * (1 + clock / 600 + rng.normal(0, 0.01, len(clock)))
        frames.append(
            pd.DataFrame(
                {
                    "resource_id": f"{prefix}-{i}",
                    "timestamp": pd.date_range("2025-01-06", periods=len(clock), freq="h", tz="UTC"),
                    "cpu": cpu,
                    "disk": disk,
                    "requests": driver[3:],
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame.loc[rng.random(len(frame)) < 0.01, "cpu"] = np.nan
    return frame[rng.random(len(frame)) > 0.01].reset_index(drop=True)


def dataset(frame: pd.DataFrame, **config: object) -> tables.Dataset:
    return tables.Dataset(
        "small", "small", "", {"usage": frame}, {"capacity": {**CONFIG, "target": ["cpu", "disk"], **config}}
    )


#: Enough to forecast sensibly, little enough to fit in seconds.
LESS = capacity.Effort(search_rows=4000, final_rows=6000, edge_rows=4000, linear_rows=3000)


@pytest.fixture(scope="module")
def data() -> capacity.CapacityData:
    return capacity.prepare(dataset(usage()), seed=0, effort=LESS)


@pytest.fixture(scope="module")
def model(data: capacity.CapacityData) -> capacity.CapacityModel:
    return capacity.finish(capacity.defaults(data), data, seed=0)


@pytest.fixture(scope="module")
def loaded(
    model: capacity.CapacityModel, data: capacity.CapacityData, tmp_path_factory: pytest.TempPathFactory
) -> served.CapacityServable:
    folder = tmp_path_factory.mktemp("servable") / "capacity"
    capacity.export(model, data, folder)
    found = servable.load(folder)
    assert isinstance(found, served.CapacityServable)
    return found


def history_of(data: capacity.CapacityData, n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    return data.values[:n, 0, -400:].astype(float), data.end[:n]


# Preparing -----------------------------------------------------------------------------------------------------------


def test_the_last_forecast_of_the_test_ends_at_the_last_row(data: capacity.CapacityData) -> None:
    test = data.parts["test"]
    assert (test.origin.max() + data.score_steps[-1]) == data.values.shape[2] - 1
    assert len(np.unique(test.origin)) == CONFIG["origins"]
    assert set(np.diff(np.unique(test.origin))) == {CONFIG["origin_step"]}


def test_no_fitted_value_lies_after_the_origins_of_a_later_part(data: capacity.CapacityData) -> None:
    def reach(part: str) -> int:
        pairs = data.parts[part]
        return int((pairs.origin[:, None] + pairs.steps)[pairs.known].max())

    assert reach("train") <= data.parts["validation"].origin.min()
    assert reach("validation") <= data.parts["calibration"].origin.min()
    assert reach("calibration") <= data.parts["test"].origin.min()


def test_changing_what_comes_after_the_first_test_origin_changes_no_fitted_number(data: capacity.CapacityData) -> None:
    frame = usage()
    first = pd.Timestamp(data.time(np.array([0]), data.parts["test"].origin[:1])[0], tz="UTC")
    frame.loc[frame["timestamp"] > first, ["cpu", "disk", "requests"]] *= 7
    other = capacity.prepare(dataset(frame), seed=0, effort=LESS)
    np.testing.assert_array_equal(data.search.x, other.search.x)
    np.testing.assert_array_equal(data.checked.y, other.checked.y)
    np.testing.assert_array_equal(data.linear, other.linear)
    assert data.layout == other.layout


def test_changing_values_after_the_origin_changes_no_feature(data: capacity.CapacityData) -> None:
    pairs = data.parts["validation"]
    values = data.values.copy()
    values[:, :, pairs.origin.max() + 1 :] *= -3
    before = features_of(data, pairs)
    after = features_of(replace(data, values=values), pairs)
    for (_, a), (_, b) in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.x, b.x)


def test_a_short_record_gets_fewer_origins_and_a_shorter_one_a_sentence() -> None:
    short = capacity.prepare(dataset(usage(2, days=8)), seed=0, effort=LESS)
    assert 1 <= short.info["origins"] < CONFIG["origins"]
    with pytest.raises(DataError, match="too few"):
        capacity.prepare(dataset(usage(2, days=2)), seed=0, effort=LESS)


def test_an_unknown_target_and_a_constant_one_are_named() -> None:
    frame = usage(2, days=20)
    with pytest.raises(DataError, match="cpus"):
        capacity.prepare(dataset(frame, target="cpus"), seed=0, effort=LESS)
    frame["disk"] = 1.0
    with pytest.raises(DataError, match=r"'disk'.*never varies"):
        capacity.prepare(dataset(frame, target="disk"), seed=0, effort=LESS)


def test_records_of_different_periods_train_together() -> None:
    late = usage(2, seed=1, prefix="late")
    late["timestamp"] += pd.Timedelta(days=200)
    both = capacity.prepare(dataset(pd.concat([usage(2), late], ignore_index=True)), seed=0, effort=LESS)
    assert len(np.unique(both.parts["test"].resource)) == 4
    assert "of each" in both.info["split"]


def test_resources_that_end_at_different_times_are_cut_at_the_same_time() -> None:
    frame = usage(6)
    stop = frame["timestamp"].max() - pd.Timedelta(days=1)
    frame = frame[~((frame["resource_id"] == "host-0") & (frame["timestamp"] > stop))]
    made = capacity.prepare(dataset(frame), seed=0, effort=LESS)
    assert "at the same time for all" in made.info["split"]

    def times(part: str, ahead: bool) -> np.ndarray:
        pairs = made.parts[part]
        position = (pairs.origin[:, None] + pairs.steps * ahead)[pairs.known]
        return made.time(pairs.flat(pairs.resource), position)

    assert times("train", ahead=True).max() <= times("validation", ahead=False).min()
    assert times("validation", ahead=True).max() <= times("calibration", ahead=False).min()
    assert times("calibration", ahead=True).max() <= times("test", ahead=False).min()
    assert made.parts["train"].known[made.parts["train"].resource == 0].any()
    ended = made.parts["test"].resource == 0
    assert not made.parts["test"].known[ended].all()


def test_left_out_resources_teach_nothing_and_are_all_that_tests() -> None:
    frame = usage(7)
    made = capacity.prepare(dataset(frame), seed=0, effort=LESS, protocol="resource")
    left_out = set(np.flatnonzero(~made.fitted))
    assert len(left_out) == 2
    assert set(made.parts["test"].resource) == left_out
    for part in ("train", "validation", "calibration"):
        assert not set(made.parts[part].resource) & left_out
    assert made.info["protocol"] == "resource"
    assert "2 of 7 resources, on which nothing is fitted" in made.info["split"]
    # Whatever happens to them moves nothing that is fitted, and their own history is what they are forecast from.
    names = [made.resources[i] for i in left_out]
    wild = frame.copy()
    wild.loc[wild["resource_id"].isin(names), ["cpu", "disk"]] *= 50
    other = capacity.prepare(dataset(wild), seed=0, effort=LESS, protocol="resource")
    for name in ("search", "checked"):
        np.testing.assert_array_equal(getattr(made, name).x, getattr(other, name).x)
    np.testing.assert_array_equal(made.linear, other.linear)
    assert made.layout == other.layout
    one, two = (capacity.finish(capacity.defaults(d), d, seed=0) for d in (made, other))
    assert one.calibration == two.calibration
    mine, theirs = capacity.predict(one, made, "test"), capacity.predict(two, other, "test")
    assert np.median(theirs["p50"] / mine["p50"]) > 10
    assert set(capacity.baselines(made, seed=0)) == {*capacity.SIMPLE_BASELINES, *capacity.STRONG_BASELINES}


# Features ------------------------------------------------------------------------------------------------------------


def test_features_do_not_depend_on_the_unit(data: capacity.CapacityData) -> None:
    history, last = history_of(data)
    steps, target = np.tile([1, 5, 30], (len(history), 1)), np.zeros(len(history), dtype=int)
    names, _ = feature_names(data.layout)
    one = features(history, last, steps, target, data.layout)
    two = features(history * 1000, last, steps, target, data.layout)
    unscaled = [i for i, name in enumerate(names) if name != "height"]
    np.testing.assert_allclose(one.x[..., unscaled], two.x[..., unscaled], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(two.scale, one.scale * 1000)


def test_the_lag_features_are_the_values_at_the_same_hour(data: capacity.CapacityData) -> None:
    history = np.arange(400.0)[None]
    steps = np.array([[1, 24, 25, 48]])
    rows = features(history, np.array(["NaT"], "datetime64[s]"), steps, np.zeros(1, int), data.layout)
    names, _ = feature_names(data.layout)
    value = rows.level[0] + rows.scale[0] * rows.x[0]
    at = {name: value[:, names.index(name)] for name in ("lag0", "lag1", "week0", "same7", "smooth0")}
    np.testing.assert_allclose(at["lag0"], [376, 399, 376, 399], atol=0.01)
    np.testing.assert_allclose(at["lag1"], [352, 375, 352, 375], atol=0.01)
    np.testing.assert_allclose(at["week0"], 399 + steps[0] - 168, atol=0.01)
    np.testing.assert_allclose(at["same7"], at["lag0"] - 72, atol=0.01)
    # The neighbour after the origin is unknown and must not enter.
    np.testing.assert_allclose(at["smooth0"], [376, 398.5, 376, 398.5], atol=0.01)


def test_shifting_all_timestamps_by_a_week_changes_nothing(
    loaded: served.CapacityServable, data: capacity.CapacityData
) -> None:
    history, last = history_of(data)
    week = np.timedelta64(7 * 86_400, "s")
    one, two = (loaded.forecast(history, t, [1, 24, 48], "cpu") for t in (last, last + 5 * week))
    np.testing.assert_array_equal(one, two)


def test_renaming_resources_changes_nothing(data: capacity.CapacityData) -> None:
    other = capacity.prepare(dataset(usage(prefix="vm")), seed=0, effort=LESS)
    np.testing.assert_array_equal(data.search.x, other.search.x)
    np.testing.assert_array_equal(data.linear, other.linear)


# The model -----------------------------------------------------------------------------------------------------------


def test_a_trial_reports_its_validation_error_and_is_deterministic(data: capacity.CapacityData) -> None:
    seen: list[list[tuple[int, float]]] = [[], []]
    for log in seen:
        capacity.fit(
            capacity.defaults(data)[0],
            data,
            seed=3,
            report=lambda s, m, log=log: log.append((s, m[capacity.OBJECTIVE])),
        )
    assert seen[0] == seen[1]
    assert [s for s, _ in seen[0]] == list(range(1, len(seen[0]) + 1))
    assert len(seen[0]) <= capacity.steps(data)
    assert min(v for _, v in seen[0]) < 1.0


def test_a_trial_works_as_hard_as_the_effort_says(data: capacity.CapacityData) -> None:
    less = replace(data, effort=replace(LESS, max_steps=2, rounds=3))
    seen: list[int] = []
    model = capacity.fit(capacity.defaults(less)[0], less, seed=0, report=lambda step, _: seen.append(step))
    assert seen == [1, 2]
    assert capacity.steps(less) == 2
    assert model.boosters[1][0].num_boosted_rounds() in (3, 6)


def test_defaults_lie_in_the_space(data: capacity.CapacityData) -> None:
    for point in capacity.defaults(data):
        assert set(point) == set(capacity.space(data))
        for name, distribution in capacity.space(data).items():
            assert distribution._contains(distribution.to_internal_repr(point[name]))


def test_the_forecast_beats_the_simple_baselines(loaded: served.CapacityServable, data: capacity.CapacityData) -> None:
    forecast = capacity.score(loaded, data, "test")
    found = capacity.evaluate(data, forecast)
    assert set(found) == {"mae", "nmae", "rmse", "r2", "mase", "wape", "pinball", "coverage_80"}
    others = capacity.baselines(data, seed=0)
    assert set(others) == {*capacity.SIMPLE_BASELINES, *capacity.STRONG_BASELINES}
    for name in capacity.SIMPLE_BASELINES:
        assert found["mase"]["value"] < capacity.evaluate(data, others[name])["mase"]["value"]
    worse = {**forecast, "p50": forecast["p50"] * 1.5}
    gains = capacity.compare(data, forecast, {"same": forecast, "worse": worse}, n_boot=300)
    same = gains["same"]["mase"]
    assert same["value"] == same["low"] == same["high"] == 0
    # A scaled error that is lower is a gain.
    assert gains["worse"]["mase"]["low"] > 0


def test_the_band_covers_what_it_promises_on_held_out_origins(
    loaded: served.CapacityServable, data: capacity.CapacityData
) -> None:
    found = capacity.evaluate(data, capacity.score(loaded, data, "test"))
    assert 0.65 < found["coverage_80"]["value"] < 0.95


def test_conformal_offsets_repair_a_band_that_is_far_too_narrow(
    model: capacity.CapacityModel, data: capacity.CapacityData
) -> None:
    narrow = replace(model, boosters=([], model.boosters[1], []), shares=(model.shares[1],) * 3, calibration=None)
    before = capacity.evaluate(data, capacity.predict(narrow, data, "calibration"), "calibration")
    repaired = replace(narrow, calibration=conformal(narrow, data))
    after = capacity.evaluate(data, capacity.predict(repaired, data, "calibration"), "calibration")
    assert before["coverage_80"]["value"] < 0.05
    assert after["coverage_80"]["value"] == pytest.approx(0.8, abs=0.07)  # finite samples err on the wide side


@pytest.mark.parametrize("ranked", [slice(0, 2), slice(0, 1), slice(1, 2)])
def test_the_median_is_the_mean_of_trees_alone_and_trees_on_the_backbone(
    data: capacity.CapacityData, ranked: slice
) -> None:
    quick = replace(data, effort=replace(data.effort, final_rows=800, edge_rows=400, max_steps=1, edge_steps=1))
    found = capacity.finish(capacity.defaults(data)[ranked], quick, seed=0)
    assert len(found.boosters[1]) == 2
    assert found.shares[1] == 0.5


def test_the_origins_that_choose_a_model_do_not_move_its_band_nor_do_those_of_the_band_choose(
    model: capacity.CapacityModel, data: capacity.CapacityData
) -> None:
    assert "calibration" in data.parts
    assert not set(data.parts["validation"].origin) & set(data.parts["calibration"].origin)

    def with_other_truth(part: str) -> capacity.CapacityData:
        pairs = data.parts[part]
        return replace(data, parts={**data.parts, part: replace(pairs, truth=1.3 * pairs.truth)})

    known = conformal(model, data)
    assert conformal(model, with_other_truth("validation")) == known
    assert conformal(model, with_other_truth("calibration")) != known
    again = capacity.finish(capacity.defaults(data), with_other_truth("calibration"), seed=0)
    assert again.calibration != model.calibration
    np.testing.assert_array_equal(
        capacity.predict(again, data, "test")["p50"], capacity.predict(model, data, "test")["p50"]
    )


def test_restless_and_quiet_series_get_offsets_of_their_own(data: capacity.CapacityData, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    frame = usage(9, seed=5, days=60)
    quiet = frame["resource_id"].isin([f"host-{i}" for i in range(3)])
    wild = frame["resource_id"].isin([f"host-{i}" for i in range(3, 6)])
    level = frame.groupby("resource_id")["cpu"].transform("median")
    # The spread of the quiet ones is noise, that of the wild ones a season: in units of the spread they err differently.
    frame["cpu"] = np.where(quiet, level * (1 + rng.normal(0, 0.02, len(frame))), frame["cpu"])
    clock = frame["timestamp"].dt.hour.to_numpy()
    frame["cpu"] = np.where(wild, level * (3 + 2 * np.sin(clock / 24 * 2 * np.pi)), frame["cpu"])
    all_steps = {"target": "cpu", "score_steps": list(range(1, 25)), "origins": 6}
    made = capacity.prepare(dataset(frame, **all_steps), seed=0, effort=LESS)
    fitted = capacity.finish(capacity.defaults(made), made, seed=0)
    assert fitted.calibration is not None
    capacity.export(fitted, made, tmp_path / "servable")
    card = servable.load(tmp_path / "servable").card
    assert card["scored_steps"] == list(range(1, 25))
    assert np.diff(fitted.calibration["swing"]).min() > 0
    found = capacity.details(made, capacity.predict(fitted, made, "test"))["by_resource"]
    coverage = {row["resource_id"]: row["coverage_80"] for row in found}
    for some in (range(3), range(3, 6)):
        assert 0.6 < np.mean([coverage[f"host-{i}"] for i in some]) < 0.98
    low = np.array(fitted.calibration["low"])
    assert np.ptp(low, axis=1).max() > 0.1


def test_conformal_offsets_are_the_finite_sample_quantile() -> None:
    assert upper_quantile(np.arange(1.0, 100.0)) == 90.0
    assert upper_quantile(np.arange(5.0)) == 4.0
    assert upper_quantile(np.zeros(0)) == 0.0


def test_every_scored_step_falls_into_a_bucket() -> None:
    for steps in ([1], [1, 24, 168], list(range(1, 25)), list(range(1, 289))):
        edges = bucket_edges(np.array(steps))
        assert edges[-1] == steps[-1]
        assert len(edges) <= BUCKETS
        assert (np.diff(edges) > 0).all()


def test_details_hold_errors_by_step_and_resource_and_examples_with_bands(
    loaded: served.CapacityServable, data: capacity.CapacityData
) -> None:
    found = capacity.details(data, capacity.score(loaded, data, "test"))
    json.dumps(found, allow_nan=False)
    assert sum(g["rows"] for g in found["by_step"]) == data.info["test_rows"]
    assert sum(g["rows"] for g in found["by_resource"]) == data.info["test_rows"]
    assert found["worst_resources"][0]["mase"] == max(g["mase"] for g in found["by_resource"])
    example = found["examples"][0]
    assert len(example["p10"]) == len(example["truth"]) == len(example["timestamp"])
    assert {"sentences", "tables"} <= set(found)
    tables = found["tables"]
    assert list(tables) == [
        "By target",
        "Errors and coverage by steps ahead",
        "Errors and coverage over the test time",
        "Errors and coverage by how much a series moves",
        "Resources with the largest errors",
    ]
    assert tables["By target"] == found["by_target"]
    assert tables["Resources with the largest errors"][0] == found["worst_resources"][0]
    assert (
        sum(g["rows"] for g in found["by_time"]) == sum(g["rows"] for g in found["by_size"]) == data.info["test_rows"]
    )
    assert [g["origins_from"] for g in found["by_time"]] == sorted(g["origins_from"] for g in found["by_time"])
    assert len(found["by_time"]) == CONFIG["origins"]
    assert found["sentences"][0].startswith("Half of the forecasts of cpu are off by less than ")


def test_misses_bias_and_the_first_screen_are_counted_on_the_test_rows(data: capacity.CapacityData) -> None:
    pairs = data.parts["test"]
    truth = pairs.truth[pairs.known]
    k = np.arange(len(truth)) % 10
    width = 0.1 * truth
    # One in ten below the band, two above, and every forecast too high by a hundredth.
    p50 = truth * 1.01
    low = np.where(k == 0, truth * 1.005, p50 - width)
    high = np.where((k == 1) | (k == 2), truth * 0.99, p50 + width)
    found = capacity.details(data, {"p10": low, "p50": p50, "p90": high})
    rows = len(truth)
    for name, share in (("below_p10", (k == 0).mean()), ("above_p90", ((k == 1) | (k == 2)).mean())):
        assert sum(g[name] * g["rows"] for g in found["by_target"]) / rows == pytest.approx(share)
    cpu = pairs.flat(pairs.target) == 0
    assert found["by_target"][0]["bias"] == pytest.approx(0.01 * truth[cpu].mean())
    screen = found["first_screen"]
    assert screen["inside_band"] == pytest.approx((k > 2).mean())
    typical = screen["typical_error"][0]
    assert typical["target"] == "cpu"
    assert typical["half_below"] == pytest.approx(np.median(0.01 * truth[cpu]))
    assert screen["resources"] == 6
    assert screen["worst_resources"] == [g["resource_id"] for g in found["worst_resources"][:3]]
    assert f"holds {screen['inside_band']:.1%} of the values" in " ".join(found["sentences"])


def test_the_chance_of_passing_a_limit_is_compared_with_how_often_it_was_passed(data: capacity.CapacityData) -> None:
    bounded = replace(data, layout=replace(data.layout, upper=(100.0, None)))
    pairs = data.parts["test"]
    cpu = pairs.flat(pairs.target) == 0
    rng = np.random.default_rng(0)
    p50 = rng.uniform(60, 110, pairs.known.shape)
    truth = np.where(pairs.known, p50 + 10 * rng.normal(0, 1, p50.shape), np.nan)
    bounded = replace(bounded, parts={**data.parts, "test": replace(pairs, truth=truth)})
    middle = p50[pairs.known]
    forecast = {"p50": middle, "p10": middle - 12.82, "p90": middle + 12.82}
    found = capacity.details(bounded, forecast)["exceedance"]
    assert {(row["target"], row["limit"]) for row in found} == {("cpu", 90.0)}
    assert sum(row["rows"] for row in found) == int(cpu.sum())
    seen = sum(row["seen"] * row["rows"] for row in found) / cpu.sum()
    assert seen == pytest.approx((truth[pairs.known][cpu] > 90).mean())
    expected = sum(row["forecast"] * row["rows"] for row in found) / cpu.sum()
    assert expected == pytest.approx(seen, abs=0.1)
    assert found[0]["forecast"] < 0.05 and found[-1]["forecast"] > 0.8
    assert "Chance of passing 90 % of the upper bound" in capacity.details(bounded, forecast)["tables"]


# Serving -------------------------------------------------------------------------------------------------------------


def test_the_servable_repeats_the_native_forecast_missing_values_included(
    loaded: served.CapacityServable, model: capacity.CapacityModel, data: capacity.CapacityData
) -> None:
    native, onnx = capacity.predict(model, data, "test"), capacity.score(loaded, data, "test")
    scale = np.abs(native["p50"])
    for name in native:
        np.testing.assert_allclose(onnx[name] / scale, native[name] / scale, atol=1e-5)
    pairs = data.parts["test"]
    assert np.isnan(features_of(data, pairs)[0][1].x).any()


@pytest.mark.parametrize("length", [1, 2, 5, 23, 24, 25, 100, 168, 700, 2000])
def test_a_history_of_any_length_gives_an_ordered_finite_band(loaded: served.CapacityServable, length: int) -> None:
    rng = np.random.default_rng(length)
    history = 50 + 10 * np.sin(np.arange(length) / 24 * 2 * np.pi) + rng.normal(0, 1, length)
    if length > 4:
        history[rng.random(length) < 0.3] = np.nan
    out = loaded.forecast(history, None, np.arange(1, 49), "cpu")
    assert out.shape == (1, 48, 3)
    assert np.isfinite(out).all()
    assert (np.diff(out, axis=2) >= 0).all()
    assert 0 <= out.min() and out.max() < 500


def test_degenerate_histories_give_finite_forecasts(loaded: served.CapacityServable) -> None:
    for history in (np.zeros(50), np.full(50, 7.0), np.full(50, np.nan), np.r_[np.zeros(49), 1e6]):
        assert np.isfinite(loaded.forecast(history, None, [1, 24], "disk")).all()
    flat = loaded.forecast(np.full(400, 7.0), None, [1, 24], "disk")
    np.testing.assert_allclose(flat[..., 1], 7.0, rtol=0.05)


def test_old_history_beyond_the_context_changes_nothing(
    loaded: served.CapacityServable, data: capacity.CapacityData
) -> None:
    history = data.values[:2, 0].astype(float)
    last = data.end[:2]
    whole = loaded.forecast(history, last, [1, 24], "cpu")
    longer = np.concatenate([np.full((2, 300), 1e9), history[:, -loaded.context :]], axis=1)
    np.testing.assert_array_equal(whole, loaded.forecast(longer, last, [1, 24], "cpu"))


def test_a_batch_equals_its_rows(loaded: served.CapacityServable, data: capacity.CapacityData) -> None:
    history, last = history_of(data)
    other = {"requests": data.values[:6, 2, -400:]}
    batch = loaded.forecast(history, last, [1, 6, 48], "cpu", other)
    for i in range(len(history)):
        single = loaded.forecast(history[i], last[i : i + 1], [1, 6, 48], "cpu", {"requests": other["requests"][i]})
        np.testing.assert_allclose(batch[i], single[0], rtol=1e-6)


def test_other_columns_may_be_given_or_missing(loaded: served.CapacityServable, data: capacity.CapacityData) -> None:
    history, last = history_of(data)
    without = loaded.forecast(history, last, [1, 2, 3], "cpu")
    given = loaded.forecast(history, last, [1, 2, 3], "cpu", {"requests": data.values[:6, 2, -400:], "moon": history})
    assert np.isfinite(without).all()
    assert not np.array_equal(without, given)


def test_bad_arguments_are_named(loaded: served.CapacityServable) -> None:
    with pytest.raises(ServableError, match="target 'gpu' is unknown"):
        loaded.forecast(np.ones(5), None, [1], "gpu")
    with pytest.raises(ServableError, match="within 1 and 48"):
        loaded.forecast(np.ones(5), None, [49], "cpu")
    with pytest.raises(ServableError, match="is empty"):
        loaded.forecast(np.ones((1, 0)), None, [1], "cpu")


def test_a_changed_golden_example_is_refused(
    model: capacity.CapacityModel, data: capacity.CapacityData, tmp_path: Path
) -> None:
    capacity.export(model, data, tmp_path / "s")
    with np.load(tmp_path / "s" / "golden.npz") as stored:
        arrays = dict(stored)
    assert np.isnan(arrays["history"]).any()
    arrays["expected_forecast"] = arrays["expected_forecast"] * 1.01
    np.savez_compressed(tmp_path / "s" / "golden.npz", **arrays)
    with pytest.raises(ServableError, match="golden output 'forecast' differs"):
        servable.load(tmp_path / "s")


def test_a_trial_model_without_a_band_can_be_exported(data: capacity.CapacityData, tmp_path: Path) -> None:
    trial = capacity.fit(capacity.defaults(data)[1], data, seed=0)
    capacity.export(trial, data, tmp_path / "s")
    found = capacity.score(servable.load(tmp_path / "s"), data, "test")  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["p10"], found["p90"])


def test_an_explanation_names_what_moves_the_forecast(
    loaded: served.CapacityServable, data: capacity.CapacityData
) -> None:
    history, last = history_of(data, 1)
    drivers = loaded.explain(history, last, 6, "cpu", top=10)
    sizes = [abs(d["contribution"]) for d in drivers]
    assert sizes == sorted(sizes, reverse=True)
    assert drivers and drivers[0]["contribution"] != 0
    # A column that was not given cannot have contributed.
    assert "requests" not in {d["feature"] for d in drivers}
    # The daily pattern is what moves a forecast half a day ahead of a series that follows the clock.
    half_day = loaded.explain(history, last, 12, "cpu", top=2)
    assert "daily pattern" in {d["feature"] for d in half_day}


def stub_of(name: str, layout: Layout) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a model whose every quantile is one feature."""
    only = feature_names(layout)[0].index(name)

    def stub(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.repeat(x[:, only : only + 1].astype(float), 3, axis=1)

    return stub


def test_the_pattern_of_seven_seasons_is_shown_as_a_usage_when_a_season_is_not_a_day(
    loaded: served.CapacityServable, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = replace(loaded.layout, season=12)
    monkeypatch.setattr(loaded, "layout", layout)
    monkeypatch.setattr(loaded, "_predict", stub_of("week_mean", layout))
    # 84 steps are seven seasons: every value six steps after the origin was 70, all others lie around 50.
    history = 50 + np.random.default_rng(0).normal(0, 1, 336)
    history[5::84] = 70
    (driver,) = loaded.explain(history, None, 6, "cpu")
    assert driver["feature"] == "pattern of seven seasons"
    assert driver["value"] == pytest.approx(70, abs=0.01)


def test_a_column_named_like_a_group_of_features_shows_its_last_value(
    loaded: served.CapacityServable, data: capacity.CapacityData, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, last = history_of(data, 1)
    layout = replace(loaded.layout, exogenous=("trend",))
    monkeypatch.setattr(loaded, "layout", layout)
    monkeypatch.setattr(loaded, "exogenous", ["trend"])
    monkeypatch.setattr(loaded, "_predict", stub_of("trend:last", layout))
    (driver,) = loaded.explain(history, last, 6, "cpu", exogenous={"trend": np.r_[np.arange(100.0), 300]})
    assert (driver["feature"], driver["value"]) == ("trend", 300)


def test_a_feature_that_no_tree_uses_gets_no_contribution(
    loaded: served.CapacityServable, data: capacity.CapacityData, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, last = history_of(data, 1)
    monkeypatch.setattr(loaded, "_predict", stub_of("lag0", data.layout))
    assert [d["feature"] for d in loaded.explain(history, last, 6, "cpu")] == ["daily pattern"]
