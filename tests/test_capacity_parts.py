"""Origins, common axis and buckets of the capacity task, on arrays small enough to count by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import tables
from aiops_core.errors import DataError, UsageError
from aiops_core.servable.capacity_features import Rows, assemble
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks import capacity
from aiops_core.tasks.capacity import band
from aiops_core.tasks.capacity.band import bucket_edges, upper_quantile
from aiops_core.tasks.capacity.data import Pairs
from aiops_core.tasks.capacity.scale import naive_scale
from aiops_core.tasks.capacity.split import aligned, fitted_resources, split_origins


def frame_of(*records: tuple[str, str, list[float]]) -> pd.DataFrame:
    """Hourly records: name, start, values."""
    return pd.concat(
        pd.DataFrame(
            {"resource_id": name, "timestamp": pd.date_range(start, periods=len(x), freq="h", tz="UTC"), "x": x}
        )
        for name, start, x in records
    )


def test_records_of_different_periods_end_together_and_what_is_not_finite_is_missing() -> None:
    frame = frame_of(("a", "2026-01-01", [1.0, np.inf, 3.0]), ("b", "2026-02-01", [4.0, 5.0, -np.inf, 7.0, 8.0]))
    axis = aligned(tables.to_grid(frame, ["x"]))
    expected = [[np.nan, np.nan, 1.0, np.nan, 3.0], [4.0, 5.0, np.nan, 7.0, 8.0]]
    np.testing.assert_array_equal(axis.values[:, 0], np.array(expected, dtype=np.float32))
    assert axis.first.tolist() == [2, 0]
    assert axis.last.tolist() == [4, 4]
    assert axis.end.astype(str).tolist() == ["2026-01-01T02:00:00", "2026-02-01T04:00:00"]
    assert not axis.same_time


def test_on_a_shared_calendar_a_position_is_one_time_for_all() -> None:
    nan = np.nan
    frame = frame_of(
        ("early", "2026-01-01 00:00", [1.0, 2, 3, 4]),
        ("late", "2026-01-01 02:00", [5.0, 6, 7, 8]),
        ("long", "2026-01-01 00:00", [1.0] * 6),
        ("straggler", "2026-01-01 03:00", [9.0] * 8),
    )
    axis = aligned(tables.to_grid(frame, ["x"]))
    assert axis.same_time
    # Two hours after the others' end nobody but the straggler goes on: the axis ends with the second last.
    expected = [[1, 2, 3, 4, nan, nan], [nan, nan, 5, 6, 7, 8], [1] * 6, [nan, nan, nan, 9, 9, 9]]
    np.testing.assert_array_equal(axis.values[:, 0], np.array(expected, dtype=np.float32))
    assert axis.first.tolist() == [0, 2, 0, 3]
    assert axis.last.tolist() == [3, 5, 5, 5]
    assert set(axis.end.astype(str)) == {"2026-01-01T05:00:00"}


@pytest.mark.parametrize(
    ("length", "test", "calibration", "validation"),
    [
        (172, [137, 147], [103, 113], [69, 79]),
        (169, [134, 144], [110], [86]),
        (130, [105], [81], [57]),
    ],
)
def test_origins_leave_four_tenths_of_the_record_to_train(
    length: int, test: list[int], calibration: list[int], validation: list[int]
) -> None:
    found = split_origins(length, {"origins": 2, "origin_step": 10, "season": 24}, 24)
    assert {name: origins.tolist() for name, origins in found.items()} == {
        "test": test,
        "calibration": calibration,
        "validation": validation,
    }


@pytest.mark.parametrize(("season", "least"), [(24, 109), (2, 83), (40, 117)])
def test_a_record_must_hold_half_a_season_and_a_forecast_before_the_first_origin(season: int, least: int) -> None:
    config = {"origins": 1, "origin_step": 10, "season": season}
    split_origins(least, config, 24)
    with pytest.raises(DataError, match=f"has {least - 1} steps, too few .* 24 steps ahead"):
        split_origins(least - 1, config, 24)


def test_three_in_ten_resources_are_left_out_and_always_one_is_fitted() -> None:
    assert fitted_resources(10, "time", seed=0).all()
    left_out = {seed: np.flatnonzero(~fitted_resources(10, "resource", seed=seed)).tolist() for seed in range(8)}
    assert all(len(names) == 3 for names in left_out.values())
    assert len({str(names) for names in left_out.values()}) > 4
    assert [int((~fitted_resources(n, "resource", seed=0)).sum()) for n in (2, 3, 5, 100)] == [1, 1, 2, 30]
    with pytest.raises(DataError, match="one resource only"):
        fitted_resources(1, "resource", seed=0)
    with pytest.raises(UsageError, match="'space' is unknown; known: time, resource"):
        fitted_resources(5, "space", seed=0)


@pytest.mark.parametrize(
    ("steps", "edges"),
    [
        ([5], [5]),
        ([3, 4], [3, 4]),
        ([1, 6, 24], [2, 12, 24]),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        (list(range(1, 25)), [1, 2, 4, 7, 13, 24]),
    ],
)
def test_buckets_end_half_way_to_the_next_scored_step_or_grow_by_a_factor(steps: list[int], edges: list[int]) -> None:
    assert bucket_edges(np.array(steps)).tolist() == edges


@pytest.mark.parametrize(("rows", "rank"), [(8, 8), (9, 9), (10, 10), (19, 18), (20, 19), (99, 90)])
def test_the_offset_is_the_score_that_nine_in_ten_and_the_next_row_do_not_exceed(rows: int, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, rows + 1))
    assert upper_quantile(scores) == rank


def test_each_group_of_series_gets_its_own_offsets_and_a_card_without_groups_those_of_all() -> None:
    layout = Layout(("x", "y"), (), 24, 24, 3600, (0.1, 0.1), (1.0, 1.0), (None, None), (None, None))
    rows = Rows(np.zeros((4, 2, 1), dtype=np.float32), np.full(4, 100.0), np.array([1.0, 10.0, 50.0, 10.0]))
    steps, target = np.tile([1, 5], (4, 1)), np.array([0, 0, 0, 1])
    cuts = np.log([[0.05, 0.2], [0.01, 0.02]]).tolist()
    low = [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]]
    high = (10 * np.array(low)).tolist()
    flat = np.zeros((4, 2, 3))
    found = assemble(flat, rows, steps, target, layout, {"edges": [1, 5], "swing": cuts, "low": low, "high": high})
    offsets = np.array([[1, 2], [3, 4], [5, 6], [11, 12]])
    np.testing.assert_allclose((100 - found[..., 0]) / rows.scale[:, None], offsets)
    np.testing.assert_allclose((found[..., 2] - 100) / rows.scale[:, None], 10 * offsets)
    # Cards of earlier versions.
    old = {"edges": [1, 5], "low": [[1, 2], [3, 4]], "high": [[1, 2], [3, 4]]}
    found = assemble(flat, rows, steps, target, layout, old)
    np.testing.assert_allclose((100 - found[..., 0]) / rows.scale[:, None], [[1, 2], [1, 2], [1, 2], [3, 4]])


def test_an_offset_is_of_its_bucket_and_group_where_they_hold_enough_rows_and_else_of_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    # Of the first target 31 series a group, one of each without a truth; of the second only ten series.
    target = np.r_[np.zeros(93, dtype=int), np.ones(10, dtype=int)]
    spread = np.r_[rng.permutation(93), rng.permutation(10)]
    n = len(target)
    rows = Rows(np.zeros((n, 3, 1), dtype=np.float32), rng.choice([-10.0, 10.0], n), np.exp(spread / 20.0))
    truth = rows.level[:, None] + rows.scale[:, None] * rng.normal(size=(n, 3)) * (1 + spread[:, None])
    truth[(target == 0) & np.isin(spread, [7, 40, 80])] = np.nan
    pairs = Pairs(np.arange(n), target, np.zeros(n, dtype=int), np.tile([1, 2, 6], (n, 1)), truth)
    layout = Layout(("x", "y"), (), 24, 24, 3600, (0.1, 0.1), (1.0, 1.0), (None, None), (None, None))
    data: Any = SimpleNamespace(parts={"calibration": pairs}, score_steps=np.array([1, 6]), layout=layout)
    scaled = np.sort(rng.normal(size=(n, 3, 3)), axis=2)
    halves = [slice(0, 50), slice(50, n)]
    monkeypatch.setattr(
        band, "features_of", lambda *_: [(s, Rows(rows.x[s], rows.level[s], rows.scale[s])) for s in halves]
    )
    ready = iter(scaled[s] for s in halves)
    monkeypatch.setattr(band, "scaled_quantiles", lambda *_: next(ready))
    model: Any = None
    found = band.conformal(model, data)
    assert found["edges"] == [2, 6]
    swing = np.log(rows.scale / 10)
    cuts = [[np.quantile(swing[target == j], share) for share in (1 / 3, 2 / 3)] for j in (0, 1)]
    np.testing.assert_allclose(found["swing"], cuts)
    y = (truth - rows.level[:, None]) / rows.scale[:, None]
    group = np.where(target == 0, spread // 31, 0)

    def edge(miss: np.ndarray) -> float:
        known = np.sort(miss[~np.isnan(miss)])
        return float(known[min(len(known), math.ceil(0.9 * (len(known) + 1))) - 1])

    for name, miss in (("low", scaled[..., 0] - y), ("high", y - scaled[..., 2])):
        for g in range(3):
            # 60 rows of the two short steps are enough for a group; 30 of the long one are not, but 90 of all groups.
            assert found[name][0][g][0] == pytest.approx(edge(miss[(target == 0) & (group == g), :2]))
            assert found[name][0][g][1] == pytest.approx(edge(miss[target == 0, 2]))
            assert found[name][1][g] == pytest.approx([edge(miss)] * 2)


def test_groups_of_a_target_without_a_series_part_where_those_of_all_do() -> None:
    restless = np.array([0.0, 1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    found = band._cuts(restless, np.array([0, 0, 0, 0, 2, 2, 2]), 3)
    np.testing.assert_allclose(found, [[1, 2], [2, 10], [10 + 20 / 3, 10 + 40 / 3]])


def waking(*, hosts: int = 12, hours: int = 480, asleep: int = 320) -> tables.Dataset:
    """Hosts that move alike, but for the first: nearly still until ``asleep`` hours, then twice as restless as others."""
    rng = np.random.default_rng(4)
    frame = frame_of(*((f"host-{i:02d}", "2026-01-01", list(20 + rng.normal(0, 2, hours))) for i in range(hosts)))
    first = frame["resource_id"] == "host-00"
    move = np.where(np.arange(hours) < asleep, 0.01, 2.0) * (frame["x"][first] - 20)
    frame.loc[first, "x"] = 20 + move
    config = {"capacity": {"season": 24, "horizon": 12, "origins": 6, "origin_step": 12}}
    return tables.Dataset("x", "x", "x", {"usage": frame}, config)


LEAST = capacity.Effort(search_rows=100, linear_rows=100, scored_rows=100)


def test_an_error_counts_in_units_of_what_was_known_of_its_series_at_its_origin() -> None:
    data = capacity.prepare(waking(), seed=1, effort=LEAST)
    pairs, found = data.parts["test"], naive_scale(data, "test")
    rows = zip(pairs.flat(pairs.resource), pairs.flat(pairs.origin), found, strict=True)
    for resource, origin, scale in list(rows)[::7]:
        x = data.values[resource, 0, : origin + 1].astype(float)
        assert scale == pytest.approx(np.abs(x[24:] - x[:-24]).mean())
    later = replace(data, values=data.values.copy())
    later.values[:, 0, pairs.origin.max() + 1 :] += 100
    np.testing.assert_array_equal(naive_scale(later, "test"), found)


def test_a_series_that_never_moved_counts_in_units_of_a_tenth_of_what_others_move() -> None:
    data = capacity.prepare(waking(asleep=480), seed=1, effort=LEAST)
    data.values[0] = 20.0
    still = replace(data, naive_error=np.r_[[[0.0]], data.naive_error[1:]])
    first = still.parts["test"].flat(still.parts["test"].resource) == 0
    np.testing.assert_allclose(naive_scale(still, "test")[first], 0.1 * np.median(data.naive_error[1:]))


def test_one_series_that_has_begun_to_move_does_not_decide_whether_a_forecast_is_better() -> None:
    data = capacity.prepare(waking(), seed=1, effort=LEAST)
    pairs = data.parts["test"]
    truth, rng = pairs.truth[pairs.known], np.random.default_rng(0)
    # Far better on eleven hosts, and on the first one as good as the other.
    first = pairs.flat(pairs.resource) == 0
    error = rng.normal(0, 2, len(truth))
    own = {"p50": truth + np.where(first, rng.permutation(error), 0.7 * error)}
    gain = capacity.compare(data, own, {"other": {"p50": truth + error}}, seed=0)["other"]["mase"]
    assert gain["low"] > 0.1 * gain["other"]
