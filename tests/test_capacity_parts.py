"""Origins, common axis and buckets of the capacity task, on arrays small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import tables
from aiops_core.errors import DataError
from aiops_core.tasks.capacity.band import bucket_edges, upper_quantile
from aiops_core.tasks.capacity.split import right_aligned, split_origins


def test_all_resources_end_together_and_what_is_not_finite_is_missing() -> None:
    frame = pd.concat(
        pd.DataFrame({"resource_id": name, "timestamp": pd.date_range(start, periods=n, freq="h", tz="UTC"), "x": x})
        for name, start, n, x in (
            ("a", "2026-01-01", 3, [1.0, np.inf, 3.0]),
            ("b", "2026-02-01", 5, [4.0, 5.0, -np.inf, 7.0, 8.0]),
        )
    )
    values, first, end = right_aligned(tables.to_grid(frame, ["x"]))
    expected = [[np.nan, np.nan, 1.0, np.nan, 3.0], [4.0, 5.0, np.nan, 7.0, 8.0]]
    np.testing.assert_array_equal(values[:, 0], np.array(expected, dtype=np.float32))
    assert first.tolist() == [2, 0]
    assert end.astype(str).tolist() == ["2026-01-01T02:00:00", "2026-02-01T04:00:00"]


@pytest.mark.parametrize(
    ("length", "test", "validation"), [(115, [80, 90], [46, 56]), (114, [89], [65]), (85, [60], [36])]
)
def test_origins_leave_four_tenths_of_the_record_to_train(length: int, test: list[int], validation: list[int]) -> None:
    found = split_origins(length, {"origins": 2, "origin_step": 10, "season": 24}, 24)
    assert [origins.tolist() for origins in found] == [test, validation]


@pytest.mark.parametrize(("season", "least"), [(24, 85), (2, 59), (40, 93)])
def test_a_record_must_hold_half_a_season_and_a_forecast_before_the_first_origin(season: int, least: int) -> None:
    config = {"origins": 1, "origin_step": 10, "season": season}
    split_origins(least, config, 24)
    with pytest.raises(DataError, match=f"has {least - 1} steps, too few .* 24 steps ahead"):
        split_origins(least - 1, config, 24)


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
