from __future__ import annotations

import numpy as np
import pytest

from aiops_core.data import splits
from aiops_core.errors import DataError


def test_time_split_keeps_an_embargo_between_parts_of_every_resource() -> None:
    resource = np.repeat([0, 1], [200, 120])
    part = splits.by_time(resource, test_fraction=0.3, validation_fraction=0.2, embargo=10)
    for name in (0, 1):
        mine = part[resource == name]
        train, validation, test = (np.flatnonzero(mine == p) for p in (splits.TRAIN, splits.VALIDATION, splits.TEST))
        assert validation.min() - train.max() == 11
        assert test.min() - validation.max() == 11
        assert test.max() == len(mine) - 1


def test_a_group_is_never_on_both_sides() -> None:
    groups = np.repeat(np.arange(30), np.arange(1, 31))
    held = splits.by_group(groups, 0.3, np.random.default_rng(1))
    assert not set(groups[held]) & set(groups[~held])
    assert 0.2 < held.mean() < 0.5


def test_two_groups_are_split_into_one_and_one() -> None:
    groups = np.repeat(["large", "small"], [90, 10])
    for seed in range(10):
        held = splits.by_group(groups, 0.3, np.random.default_rng(seed))
        assert len(set(groups[held])) == len(set(groups[~held])) == 1


def test_no_more_groups_are_held_out_than_reach_the_share() -> None:
    held = splits.by_group(np.repeat(np.arange(10), 7), 0.3, np.random.default_rng(0))
    assert held.sum() == 21


@pytest.mark.parametrize("rows", [10, 30, 70, 110, 1000])
def test_shares_that_are_whole_rows_are_not_rounded_down(rows: int) -> None:
    part = splits.by_time(np.zeros(rows, dtype=int), test_fraction=0.3, validation_fraction=0.2, embargo=0)
    counts = {code: int((part == code).sum()) for code in (splits.TRAIN, splits.VALIDATION, splits.TEST)}
    assert counts == {splits.TRAIN: rows // 2, splits.VALIDATION: rows // 5, splits.TEST: rows * 3 // 10}


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one group only"):
        splits.by_group(np.zeros(5), 0.3, np.random.default_rng(1))


def test_the_last_origin_ends_at_the_last_row() -> None:
    origins = splits.rolling_origins(666, origins=9, origin_step=12, reach=24)
    assert origins[-1] + 24 == 666
    assert np.diff(origins).tolist() == [12] * 8
