"""What capacity is judged against: naive forecasts counted by hand, Theta on series whose answer is known, the booster."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import folder, tables
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks import capacity
from aiops_core.tasks.capacity.naive import best_season, plain_forecasts, repeated, seasons
from aiops_core.tasks.capacity.theta import theta

LESS = capacity.Effort(search_rows=3000, final_rows=3000, edge_rows=3000, linear_rows=2000, baseline_rounds=50)
CONFIG = {"season": 24, "horizon": 24, "origins": 3, "origin_step": 12, "target": "cpu"}


def prepared(values: dict[str, np.ndarray], **config: object) -> capacity.CapacityData:
    """One resource per entry, hourly, ending together."""
    frame = pd.concat(
        pd.DataFrame(
            {
                "resource_id": name,
                "timestamp": pd.date_range("2025-01-06", periods=len(x), freq="h", tz="UTC"),
                "cpu": x,
            }
        )
        for name, x in values.items()
    )
    made = tables.Dataset("small", "small", "", {"usage": frame}, {"capacity": {**CONFIG, **config}})
    return capacity.prepare(made, seed=0, effort=LESS)


def test_naive_forecasts_are_those_counted_by_hand() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(50, 5, 24 * 30).round(1)
    data = prepared({"a": x, "b": x + 100})
    pairs = data.parts["test"]
    found = plain_forecasts(data, pairs)
    truths, expected = [], []
    for r, o in zip(pairs.resource, pairs.origin, strict=True):
        y = data.values[r, 0].astype(float)
        for step in range(1, 25):
            three = [y[o + step - 24], np.median(y[o - 2 : o + 1]), np.median(y[o - 23 : o + 1])]
            expected.append([y[o], three[0], np.median(three)])
            truths.append(y[o + step])
    np.testing.assert_allclose(pairs.truth[pairs.known], truths)
    names = ("last_value", "seasonal_naive", "median_of_three")
    np.testing.assert_allclose(np.stack([found[n] for n in names], axis=1), expected)


def test_a_missing_value_is_replaced_by_that_of_an_earlier_season() -> None:
    history = np.arange(12.0)[None]
    history[0, 8] = np.nan
    np.testing.assert_array_equal(repeated(history, np.array([[1, 2, 4, 5]]), 4), [[4, 9, 11, 4]])
    assert np.isnan(repeated(np.full((1, 12), np.nan), np.array([[1]]), 4)).all()


def test_the_season_that_is_repeated_is_the_week_where_only_the_week_repeats() -> None:
    rng = np.random.default_rng(1)
    weekly, daily = np.tile(rng.normal(50, 10, 168), 8), np.tile(rng.normal(50, 10, 24), 56)
    noise = rng.normal(0, 1, len(weekly))
    assert best_season(prepared({"a": weekly + noise, "b": weekly - noise})) == 168
    # Of a day that repeats exactly a week tells no more, and a walk tells less a week ago.
    walk = rng.normal(0, 1, len(daily)).cumsum()
    assert best_season(prepared({"a": daily + walk, "b": daily - walk})) == 24


def test_seasons_reach_no_further_than_the_history() -> None:
    def layout(season: int, step_seconds: int) -> Layout:
        return Layout(("x",), (), season, season, step_seconds, (0.1,), (1.0,), (None,), (None,))

    assert seasons(layout(24, 3600)) == [24, 168]
    assert seasons(layout(12, 3600)) == [12, 84, 168]
    assert seasons(layout(7, 86_400)) == [7, 49]
    assert seasons(layout(2000, 60)) == [2000]


def test_theta_repeats_a_season_follows_half_a_trend_and_settles_on_the_mean_of_noise() -> None:
    t = np.arange(24 * 14)
    ahead = np.arange(1, 49)
    wave = 10 * np.sin(2 * np.pi * t / 24)
    season = theta(wave[None], ahead[None], 24)[0]
    np.testing.assert_allclose(season, 10 * np.sin(2 * np.pi * (t[-1] + ahead) / 24), atol=0.2)
    trend = theta((0.5 * t)[None], ahead[None], 24)[0]
    assert np.diff(trend) == pytest.approx(0.25, abs=0.01)
    noise = np.random.default_rng(0).normal(7, 1, (20, len(t)))
    assert (
        np.abs(theta(noise, np.tile(ahead, (20, 1)), 24) - 7).mean() < 0.2
    )  # repeating the last value would err by 0.8


def test_theta_takes_gaps_short_histories_and_constants() -> None:
    ahead = np.arange(1, 4)[None]
    wave = 50 + 10 * np.sin(2 * np.pi * np.arange(24 * 14) / 24)
    holes = wave.copy()
    holes[np.random.default_rng(0).random(len(wave)) < 0.3] = np.nan
    np.testing.assert_allclose(theta(holes[None], ahead, 24), theta(wave[None], ahead, 24), atol=1.5)
    short = np.r_[np.full(330, np.nan), [3.0, 5.0, 4.0]]
    assert np.isfinite(theta(short[None], ahead, 24)).all()
    np.testing.assert_allclose(theta(np.full((1, 400), 3.0), ahead, 24), 3.0)


def test_the_scaled_booster_learns_across_resources_of_any_size() -> None:
    rng = np.random.default_rng(2)
    t = np.arange(24 * 40)
    values = {}
    for i in range(6):
        # What follows a high hour is low: no naive forecast knows that.
        x = np.zeros(len(t))
        for k in range(1, len(t)):
            x[k] = -0.9 * x[k - 1] + rng.normal()
        values[f"host-{i}"] = 10.0**i * (20 + x)
    data = prepared(values, horizon=1)
    mase = {name: capacity.evaluate(data, p)["mase"]["value"] for name, p in capacity.baselines(data, seed=0).items()}
    others = [mase[name] for name in capacity.SIMPLE_BASELINES]
    assert mase["scaled_booster"] < 0.8 * min(others)


def test_no_baseline_sees_what_comes_after_the_first_test_origin() -> None:
    rng = np.random.default_rng(3)
    x = 50 + rng.normal(0, 5, 24 * 30)
    data = prepared({"a": x, "b": 2 * x}, origins=1)
    later = x.copy()
    later[data.limits["validation"] + 1 :] += 40
    other = prepared({"a": later, "b": 2 * later}, origins=1)
    for name, found in capacity.baselines(other, seed=0).items():
        np.testing.assert_array_equal(found["p50"], capacity.baselines(data, seed=0)[name]["p50"], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "season", "floors"),
    [
        ("azure-v1", 24, {"seasonal_naive": 2.289, "median_of_three": 1.828}),
        ("bizitobs-l2c", 24, {"last_value": 11.61, "seasonal_naive": 13.86}),
        ("bizitobs-l2c", 168, {"seasonal_naive": 5.52}),
    ],
)
def test_the_floors_of_real_data_are_reproduced(name: str, season: int, floors: dict[str, float]) -> None:
    root = Path(os.environ.get("AIOPS_DATASETS_DIR") or Path(__file__).parents[2] / "shared" / "datasets")
    if not (root / name).is_dir():
        pytest.skip(f"the folder {name} is not here")
    data = capacity.prepare(folder.load_folder(root / name), seed=0, effort=LESS)
    found = plain_forecasts(data, data.parts["test"], season)
    for baseline, mae in floors.items():
        assert capacity.evaluate(data, {"p50": found[baseline]})["mae"]["value"] == pytest.approx(mae, abs=0.006)
