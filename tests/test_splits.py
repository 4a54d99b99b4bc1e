from __future__ import annotations

import numpy as np
import pytest

from aiops_core.data import splits


def test_time_split_keeps_an_embargo_between_parts_of_every_resource() -> None:
    resource = np.repeat([0, 1], [200, 120])
    part = splits.by_time(resource, test_fraction=0.3, validation_fraction=0.2, embargo=10)
    for name in (0, 1):
        mine = part[resource == name]
        train, validation, test = (np.flatnonzero(mine == p) for p in (splits.TRAIN, splits.VALIDATION, splits.TEST))
        assert validation.min() - train.max() == 11
        assert test.min() - validation.max() == 11
        assert test.max() == len(mine) - 1


@pytest.mark.parametrize("rows", [10, 30, 70, 110, 1000])
def test_shares_that_are_whole_rows_are_not_rounded_down(rows: int) -> None:
    part = splits.by_time(np.zeros(rows, dtype=int), test_fraction=0.3, validation_fraction=0.2, embargo=0)
    counts = {code: int((part == code).sum()) for code in (splits.TRAIN, splits.VALIDATION, splits.TEST)}
    assert counts == {splits.TRAIN: rows // 2, splits.VALIDATION: rows // 5, splits.TEST: rows * 3 // 10}


def test_the_last_origin_ends_at_the_last_row() -> None:
    origins = splits.rolling_origins(666, origins=9, origin_step=12, reach=24)
    assert origins[-1] + 24 == 666
    assert np.diff(origins).tolist() == [12] * 8


@pytest.mark.parametrize(("later", "pairs", "all_at_once"), [(0, True, True), (150, True, False), (350, False, False)])
def test_records_share_a_calendar_by_how_many_of_them_most_rows_lie_beside(
    later: int, pairs: bool, all_at_once: bool
) -> None:
    hours = np.timedelta64(3600, "s")
    begin = np.datetime64("2026-01-01", "s") + later * np.arange(6) * hours
    time = (begin[:, None] + np.arange(300) * hours).ravel()
    end = begin + 299 * hours
    assert splits.share_a_calendar(begin, end, time) == pairs
    assert splits.share_a_calendar(begin, end, time, at_least=4) == all_at_once
    assert splits.alive(begin, end, begin).max() == (6 if later == 0 else 2 if pairs else 1)
    assert not splits.share_a_calendar(begin[:1], end[:1], time[:300])
