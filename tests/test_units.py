"""What is drawn for an interval: resources, days, attack names within their class, blocks of origins."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import sources
from aiops_core.data.tables import Dataset
from aiops_core.errors import UsageError
from aiops_core.judge import intervals, metrics, seeds, shares, sizes
from aiops_core.judge.summed import Summed, per_row
from aiops_core.judge.units import Units, of_labels, of_rows
from aiops_core.tasks import capacity, failure, threat

RNG = np.random.default_rng(0)


@cache
def telemetry() -> Any:
    return failure.prepare(sources.load("synthetic", n_samples=1500, seed=7, tasks=["failure"]), seed=7)


@cache
def usage() -> Any:
    least = capacity.Effort(search_rows=200, linear_rows=100, scored_rows=100)
    return capacity.prepare(sources.load("synthetic", n_samples=300, seed=7, tasks=["capacity"]), seed=7, effort=least)


def attacks() -> Any:
    """Return prepared rows of ordinary traffic (one group) and of two classes of 12 attack names."""
    rng = np.random.default_rng(1)
    kind = np.repeat(["normal", "dos", "probe"], [300, 240, 240])
    name = np.r_[np.repeat("normal", 300), [f"{k}-{i % 12}" for k in ("dos", "probe") for i in range(240)]]
    frame = pd.DataFrame({"a": rng.normal(size=780), "b": rng.normal(size=780), "threat_type": kind, "group": name})
    found = Dataset(name="x", title="x", licence="x", tables={"activity": frame}, config={})
    return threat.prepare(found, seed=1, effort=threat.Effort(max_rows=100))


# Drawing -------------------------------------------------------------------------------------------------------------


def test_units_are_drawn_within_their_stratum_as_often_as_it_has_units() -> None:
    units = Units(np.arange(7), "", 7, "x", strata=np.array([0, 0, 0, 1, 1, 2, 2]))
    drawn = np.concatenate(list(units.draws(3, 2_500)))
    assert drawn.shape == (2_500, 7)
    assert (drawn[:, :3].sum(1) == 3).all() and (drawn[:, 3:5].sum(1) == 2).all() and (drawn[:, 5:].sum(1) == 2).all()
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.1)


def test_crossed_units_count_as_often_as_both_their_levels_were_drawn() -> None:
    axes = np.array([[r, b] for r in range(4) for b in range(3)])
    units = Units(np.arange(12), "", 12, "x", crossed=axes)
    for weight in np.concatenate(list(units.draws(0, 50))):
        table = weight.reshape(4, 3)
        assert table.sum() == 12
        assert np.linalg.matrix_rank(table) == 1


def test_a_shock_that_all_resources_share_widens_a_crossed_interval_and_not_one_of_resources() -> None:
    resource, block = (a.ravel() for a in np.meshgrid(np.arange(50), np.arange(6), indexing="ij"))
    truth = np.zeros(300)
    guess = np.array([0.2, 3.0, 0.1, 2.0, 0.5, 1.0])[block] + 0.01 * RNG.random(300)
    settings: dict[str, Any] = {"scale": np.ones(300), "target": np.zeros(300, dtype=int)}
    crossed = Units(np.arange(300), "", 6, "origins", crossed=np.c_[resource, block])
    wide = metrics.capacity(truth, guess, units=crossed, **settings)["mae"]
    narrow = metrics.capacity(truth, guess, units=of_labels(resource), **settings)["mae"]
    assert wide["high"] - wide["low"] > 20 * (narrow["high"] - narrow["low"])


def test_metrics_of_resamples_equal_those_of_repeated_rows() -> None:
    truth, score = RNG.integers(0, 2, 120), np.round(RNG.random(120), 2)
    kind, P = RNG.integers(0, 3, 120), RNG.dirichlet(np.ones(3), 120)
    units = of_labels(RNG.integers(0, 9, 120))
    for values in (
        metrics.failure_values(truth, score, score > 0.4),
        metrics.threat_values(kind, P, P.argmax(1), list("abc")),
        metrics.capacity_values(score, P[:, 0], None, None, scale=1 + P[:, 1], target=kind),
    ):
        sums = values.by_unit(units.code, units.size)
        for weight in np.concatenate(list(units.draws(1, 5))):
            fast = values.of((weight @ sums)[None])
            slow = values(weight[units.code])
            assert {name: found[0] for name, found in fast.items()} == pytest.approx(slow, nan_ok=True)


def test_many_positives_are_ranked_coarsely_in_resamples_and_exactly_in_the_value() -> None:
    truth = RNG.integers(0, 2, 4_000)
    score = 0.3 * truth + RNG.random(4_000)
    values = metrics.failure_values(truth, score, score > 0.6)
    assert values.coarse is not None
    ones = np.ones(4_000)
    exact, rough = values(ones), values.coarse(ones)
    assert rough == pytest.approx(exact, abs=0.005)
    found = metrics.failure(truth, score, score > 0.6, n_boot=400)
    assert found["average_precision"]["value"] == exact["average_precision"]
    assert found["average_precision"]["low"] < exact["average_precision"] < found["average_precision"]["high"]


@pytest.mark.parametrize(("units", "wider"), [(0, 1.0), (1_000, 1.0), (25, 1.07), (6, 1.43)])
def test_an_interval_of_few_units_is_wider_as_students_is(units: int, wider: float) -> None:
    replicates = np.random.default_rng(0).normal(size=200_000)
    plain, found = intervals.interval(0.0, replicates), intervals.interval(0.0, replicates, units)
    assert found["high"] / plain["high"] == pytest.approx(wider, abs=0.02)
    assert np.isnan(intervals.interval(0.0, replicates, 1)["low"])


def test_a_resample_is_yielded_in_chunks_that_fit_into_memory_and_is_that_of_its_seed() -> None:
    many = of_rows(40_000)
    chunks = list(many.draws(0, 130))
    assert [len(chunk) for chunk in chunks] == [100, 30]
    assert all(chunk.dtype == np.float64 and (chunk.sum(1) == 40_000).all() for chunk in chunks)
    assert [len(chunk) for chunk in of_rows(3).draws(0, 2_500)] == [1_000, 1_000, 500]
    few = of_rows(5)
    one, same, other = (next(few.draws(seed, 9)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (of_rows(0).size, next(of_rows(0).draws(0, 4)).shape) == (0, (4, 0))


def test_units_are_numbered_by_their_label_and_say_what_they_are() -> None:
    rows = of_rows(1_234)
    assert (rows.words, rows.count, rows.counted, rows.size) == ("1,234 rows", 1_234, "rows", 1_234)
    plain = of_labels(np.array([7, 3, 7, 9]))
    assert plain.code.tolist() == [1, 0, 1, 2]
    assert (plain.words, plain.count, plain.counted, plain.effective) == ("3 units", 3, "units", 0)
    told = of_labels(np.array([7, 3]), "two hosts", 0, "incidents", 1)
    assert (told.words, told.count, told.counted, told.effective) == ("two hosts", 0, "incidents", 1)


def test_what_rows_add_to_sums_is_put_side_by_side_and_added_up_by_unit() -> None:
    value = np.array([5.0, 0.0, 7.0])
    rows = per_row(3, [(np.array([1, 0, -1]), np.array([2.0, 3.0, 4.0]), 2), (0, value, 1), (np.zeros(3), value, 1)])
    assert rows.toarray().tolist() == [[0, 2, 5, 5], [3, 0, 0, 0], [0, 0, 7, 7]]
    found = Summed(rows, lambda sums: {"first": sums[:, 0], "last": sums[:, 3]})
    assert found(np.array([1.0, 2.0, 3.0])) == {"first": 6.0, "last": 26.0}
    # A unit that no row belongs to adds nothing.
    assert found.by_unit(np.array([1, 1, 0]), 3).toarray().tolist() == [[0, 0, 7, 7], [3, 2, 5, 5], [0, 0, 0, 0]]


def mean_of(x: np.ndarray, shift: float = 0.0) -> Summed:
    rows = per_row(len(x), [(0, x, 1), (0, np.ones(len(x)), 1)])
    return Summed(rows, lambda sums: {"mae": sums[:, 0] / sums[:, 1] + shift})


def test_what_coarse_sums_are_off_by_is_taken_from_every_resample() -> None:
    x = RNG.random(30)
    exact, other = mean_of(x), mean_of(x**2)
    coarse = Summed(exact.rows, exact.of, coarse=mean_of(x, 10.0))
    one, same = (intervals.bootstrap(values, 30, None, 1, 400)["mae"] for values in (exact, coarse))
    assert one == pytest.approx(same)
    gains = [intervals.paired(values, {"b": other}, 30, only=("mae",), n_boot=400) for values in (exact, coarse)]
    assert gains[0]["b"]["mae"] == pytest.approx(gains[1]["b"]["mae"])


def test_sums_and_functions_of_weights_give_the_same_interval() -> None:
    x, units = RNG.random(40), of_labels(RNG.integers(0, 12, 40))
    fast = mean_of(x)
    for some in (None, units):
        assert intervals.bootstrap(fast, 40, some, 2, 300) == {
            "mae": pytest.approx(intervals.bootstrap(lambda w: fast(w), 40, some, 2, 300)["mae"])
        }


@pytest.mark.parametrize("n", [2, 5, 30])
def test_the_ends_are_percentiles_moved_out_by_the_factor_between_student_and_normal(n: int) -> None:
    from scipy import stats

    replicates = np.random.default_rng(n).normal(size=999)
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    found = intervals.interval(0.0, replicates, n)
    expected = np.quantile(replicates, [tail, 1 - tail])
    assert [found["low"], found["high"]] == pytest.approx(expected)
    # Every path widens alike, by the units that a figure hangs on.
    x = np.random.default_rng(n).random(60)
    units = of_labels(np.arange(60) % 20, effective=n)
    draws = np.concatenate([w[:, units.code] @ x / w[:, units.code].sum(1) for w in units.draws(3, 500)])
    expected = np.quantile(draws, [tail, 1 - tail])
    one = intervals.bootstrap(mean_of(x), 60, units, 3, 500)["mae"]
    assert [one["low"], one["high"]] == pytest.approx(expected)
    zero = mean_of(np.zeros(60))
    gain = intervals.paired(mean_of(x), {"zero": zero}, 60, only=("mae",), units=units, seed=3, n_boot=500)["zero"]
    assert [gain["mae"]["high"], gain["mae"]["low"]] == pytest.approx(-expected)
    way = intervals.share(
        mean_of(x), mean_of(np.ones(60)), zero, 60, metric="mae", units=units, seed=3, n_boot=500
    )  # fmt: skip
    assert [way["high"], way["low"]] == pytest.approx(1 - expected)


def test_a_users_metric_is_computed_on_whole_units_and_gets_the_interval_of_its_resamples() -> None:
    truth, guess, units = RNG.random(24), RNG.random(24), of_labels(np.arange(24) // 4)
    calls: list[np.ndarray] = []

    def bias(some: np.ndarray, prediction: Any) -> float:
        calls.append(np.sort(some))
        return float((prediction["p50"] - some).mean())

    known: Any = {"mae": {"value": 1.0, "low": 0.0, "high": 2.0}}
    prediction = {"p50": guess}
    found = intervals.with_extra(known, {"bias": bias}, truth, prediction, units, 4, n_boot=50)
    assert found["mae"] is known["mae"] and len(calls) == 51
    np.testing.assert_array_equal(calls[0], np.sort(truth))
    draws = []
    for call, weight in zip(calls[1:], np.concatenate(list(units.draws(4, 50))), strict=True):
        np.testing.assert_array_equal(call, np.sort(np.repeat(truth, weight[units.code].astype(int))))
        draws.append(float(weight[units.code] @ (guess - truth)) / 24)
    assert found["bias"] == pytest.approx(intervals.interval(float((guess - truth).mean()), np.array(draws), 6))
    assert intervals.with_extra(known, None, truth, prediction, units, 4) is known
    assert intervals.with_extra({}, {"bias": bias}, truth, prediction, None, 4, n_boot=2)["bias"]["value"] == (
        pytest.approx(found["bias"]["value"])
    )
    with pytest.raises(UsageError, match="'mae' has the name of a metric that is always measured"):
        intervals.with_extra(known, {"mae": bias}, truth, prediction, units, 4)
    with pytest.raises(UsageError, match="'bias' reads 'p50', but a prediction holds p90;"):
        intervals.with_extra(known, {"bias": bias}, truth, {"p90": guess}, units, 4)


# Of the tasks --------------------------------------------------------------------------------------------------------


def test_failure_draws_resources_where_enough_have_an_incident_else_days_of_them() -> None:
    data = telemetry()
    owner = data.resource[data.ends["test"]]
    with_incident = np.unique(owner[data.truth("test") == 1])
    assert len(with_incident) >= 8
    found = failure.units(data)
    assert found.words == f"{len(np.unique(owner))} resources, {len(with_incident)} of them with an incident"
    assert (found.count, found.counted) == (data.info["test_incidents"], "incidents")
    few = failure.units(data, "test", np.isin(owner, with_incident[:3]))
    assert "stretches of 2 days of 3 resources" in few.words
    time = data.time[data.ends["test"]][np.isin(owner, with_incident[:3])]
    for unit in range(few.size):
        mine = time[few.code == unit]
        assert mine.max() - mine.min() < np.timedelta64(2, "D")


def test_threat_draws_attack_names_within_their_class_and_rows_of_what_is_one_group() -> None:
    data = attacks()
    rows, found = data.index("test"), threat.units(data)
    assert data.group is not None and found.strata is not None
    normal = data.y[rows] == data.classes.index("normal")
    assert len(np.unique(found.code[normal])) == normal.sum()
    for unit in np.unique(found.code[~normal]):
        assert len(np.unique(data.group[rows][found.code == unit])) == 1
    assert found.size == normal.sum() + len(np.unique(data.group[rows][~normal]))
    assert all(len(np.unique(found.strata[found.code[data.y[rows] == k]])) == 1 for k in range(3))
    assert found.words == f"{found.count} groups within their class, and the rows of normal"
    without = threat.units(threat_without_groups(data))
    assert (without.size, without.counted) == (len(rows), "rows")


def threat_without_groups(data: Any) -> Any:
    import dataclasses

    return dataclasses.replace(data, group=None)


def test_origins_whose_forecasts_overlap_are_one_unit() -> None:
    data = usage()
    pairs = data.parts["test"]
    found, origin = capacity.units(data), pairs.flat(pairs.origin)
    # 168 steps ahead from origins 25 steps apart: seven in a row share their future.
    assert found.counted in ("origins", "resources")
    for unit in range(found.size):
        assert len(np.unique(origin[found.code == unit])) <= 7 or found.counted == "resources"


def test_a_crossed_interval_is_as_wide_as_the_axis_with_fewer_levels_asks_for() -> None:
    hours, names = 400, [f"host-{i}" for i in range(12)]
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "resource_id": np.repeat(names, hours),
            "timestamp": np.tile(pd.date_range("2026-01-01", periods=hours, freq="h", tz="UTC"), len(names)),
            "x": 50 + rng.normal(size=hours * len(names)),
        }
    )
    config = {"capacity": {"season": 24, "horizon": 12, "origins": 5, "origin_step": 12}}
    found = Dataset(name="x", title="x", licence="x", tables={"usage": frame}, config=config)
    data = capacity.prepare(found, seed=1, effort=capacity.Effort(search_rows=100, linear_rows=100, scored_rows=100))
    units = capacity.units(data)
    assert units.words == "12 resources crossed with 5 origins" and units.crossed is not None
    assert units.effective == 5


def test_an_interval_of_few_shared_blocks_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    axes = np.array([(resource, block) for resource in range(30) for block in range(5)])
    units = Units(np.arange(150), "", 5, "origins", crossed=axes, effective=5)
    for seed in range(200):
        x = rng.normal(size=30)[axes[:, 0]] + 2 * rng.normal(size=5)[axes[:, 1]] + rng.normal(size=150)
        found = intervals.bootstrap(mean_of(x), 150, units, seed, 300)["mae"]
        covered += found["low"] <= 0 <= found["high"]
    assert covered >= 180


# How much more -------------------------------------------------------------------------------------------------------


def gain(value: float, low: float) -> Any:
    return {"value": value, "low": low, "high": value + 0.1, "own": 0.5, "other": 0.5}


def test_a_verdict_held_back_by_width_says_how_much_larger_a_test_would_settle_it() -> None:
    assert sizes.times_larger(gain(0.0, -0.1), -0.05) == 4
    assert sizes.times_larger(gain(0.0, -0.01), -0.05) == 1
    assert sizes.times_larger(gain(-0.06, -0.1), -0.05) == np.inf
    assert np.isnan(sizes.times_larger(gain(0.0, float("nan")), -0.05))
    units = Units(np.arange(9), "", 30, "incidents")
    words = sizes.how_many_more([(gain(0.0, -0.1), -0.05), (gain(0.0, -0.06), -0.05)], units)
    assert words == "; about 90 more incidents (120 instead of 30) would settle it if the difference stays"
    for never in (gain(-0.06, -0.1), gain(0.0, float("nan"))):
        assert sizes.how_many_more([(never, -0.05)], units) == ""
    assert sizes.how_many_more([(gain(0.0, -0.1), -0.05)], None) == ""


@pytest.mark.parametrize(
    ("count", "low", "words"),
    [
        # A test of (low / 0.05)² the size: the extra rounded up to two digits.
        (30, -0.05, "; about 1 more rows (31 instead of 30) would"),
        (4, -0.06, "; about 2 more rows (6 instead of 4) would"),
        (100, -0.0525, "; about 11 more rows (111 instead of 100) would"),
        (1_000, -0.075, "; about 1,300 more rows (2,300 instead of 1,000) would"),
        (1_000, -0.1, "; about 3,000 more rows (4,000 instead of 1,000) would"),
        (123, -0.0707107, "; about 130 more rows (253 instead of 123) would"),
    ],
)
def test_the_size_of_a_larger_test_is_rounded_up_to_two_digits(count: int, low: float, words: str) -> None:
    assert sizes.how_many_more([(gain(0.0, low), -0.05)], Units(np.arange(9), "", count, "rows")).startswith(words)


def test_nothing_is_said_where_no_size_would_settle_it() -> None:
    units = Units(np.arange(9), "", 30, "rows")
    assert sizes.how_many_more([], units) == ""
    assert sizes.how_many_more([(gain(0.0, -0.1), -0.05)], Units(np.arange(9), "", 0, "rows")) == ""
    assert sizes.how_many_more([(gain(0.0, -0.1), -0.05), (gain(-0.06, -0.1), -0.05)], units) == ""
    assert sizes.times_larger(gain(-0.05, -0.1), -0.05) == np.inf
    assert np.isnan(sizes.times_larger(gain(float("nan"), -0.1), -0.05))
    assert sizes.times_larger(gain(0.25, -0.5), 0.0) == 9


# Shares and seeds ----------------------------------------------------------------------------------------------------


def test_the_way_to_the_oracle_is_measured_from_naive_and_not_from_nothing() -> None:
    n = 400
    truth, settings = RNG.normal(size=n), {"scale": np.ones(n), "target": np.zeros(n, dtype=int)}
    error = np.abs(RNG.normal(size=n)) + 0.1
    own, naive, oracle = (
        metrics.capacity_values(truth, truth + k * error, None, None, **settings)  # type: ignore[arg-type]
        for k in (1.5, 2.0, 1.0)
    )
    found = intervals.share(own, naive, oracle, n, metric="mae", units=of_rows(n))
    # Paired: what a resample does to one it does to all, so that nothing is left of the noise.
    assert [found[k] for k in ("value", "low", "high")] == pytest.approx([0.5] * 3)  # type: ignore[literal-required]
    assert np.isnan(intervals.share(own, oracle, naive, n, metric="mae")["value"])


def test_the_way_to_the_oracle_of_a_score_goes_up() -> None:
    def fixed(value: float) -> intervals.Weighted:
        return lambda weight: {"f1": value}

    own, naive, oracle = fixed(0.7), fixed(0.5), fixed(0.9)
    assert intervals.share(own, naive, oracle, 3, metric="f1", n_boot=5)["value"] == pytest.approx(0.5)
    for lower in (oracle, naive):
        # An oracle no better than naive, or worse, leaves no way to go.
        assert np.isnan(intervals.share(own, oracle, lower, 3, metric="f1", n_boot=5)["value"])


@pytest.mark.parametrize(("hits", "n"), [(0, 8), (3, 8), (8, 8), (90, 1_000)])
def test_the_interval_of_a_share_is_wilsons_and_of_nothing_there_is_none(hits: int, n: int) -> None:
    z, p = 1.959964, hits / n
    middle, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)]
    assert shares.wilson(hits, n) == pytest.approx(expected, abs=1e-6)
    assert shares.wilson(float(hits), float(n)) == shares.wilson(hits, n)
    low, high = shares.wilson(0, 0)
    assert np.isnan(low) and np.isnan(high)
    assert 0 <= shares.wilson(1, 1)[0] < 1


def test_seeds_give_mean_spread_and_students_interval() -> None:
    found = seeds.over_seeds([0.70, 0.72, 0.74, 0.71, 0.73])
    assert (found["mean"], found["spread"]) == (pytest.approx(0.72), pytest.approx(0.0158114))
    assert found["high"] - found["mean"] == pytest.approx(2.776445 * 0.0158114 / 5**0.5, rel=1e-5)
    assert found["mean"] - found["low"] == pytest.approx(found["high"] - found["mean"]) and found["seeds"] == 5
    one = seeds.over_seeds([0.7, float("nan"), float("inf")])
    assert one["mean"] == 0.7
    assert one["seeds"] == 1 and np.isnan([one["spread"], one["low"], one["high"]]).all()
    with pytest.raises(UsageError, match="no value of any seed"):
        seeds.over_seeds([])
