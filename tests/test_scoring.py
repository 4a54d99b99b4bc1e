"""Timed rows on a model's steps: one rule for a whole table and for a single window, and what a card says of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from aiops_core import tracking
from aiops_core.data import tables
from aiops_core.servable.series import means_by_step, window_of, windows_ending_at
from aiops_core.tracking.store import open_client


def test_a_tables_windows_are_those_of_each_row_by_itself() -> None:
    rng = np.random.default_rng(0)
    seconds, first, start = [], [], 0
    for size in (1, 40, 130):
        gaps = rng.choice([60, 60, 60, 55, 70, 5, 200, 4000], size)
        seconds.append(np.cumsum(gaps) + 1_767_225_600)
        first += [start] * size
        start += size
    when, values = np.concatenate(seconds), rng.random((start, 3)).astype(np.float32)
    ends = rng.permutation(start)
    found = windows_ending_at(ends, when, values, np.array(first), 7, 60)
    for end, window in zip(ends, found, strict=True):
        mine = slice(first[end], end + 1)
        assert np.array_equal(window, window_of(when[mine], values[mine], 7, 60), equal_nan=True)


def test_rows_jitter_gaps_stay_gaps_and_the_latest_row_of_a_step_counts() -> None:
    seconds = np.array([0, 50, 125, 300, 302])
    values = np.arange(5, dtype=np.float32)[:, None]
    window = window_of(seconds, values, 6, 60)[:, 0]
    assert np.array_equal(window, np.array([0, 1, 2, np.nan, np.nan, 4], dtype=np.float32), equal_nan=True)
    assert means_by_step(seconds, values[:, 0], 302, 60, 6).tolist()[-1] == 3.5


def test_a_card_lists_unused_columns_with_the_reason_and_what_the_whole_table_holds() -> None:
    frame = pd.DataFrame({"threat_type": ["a", "b"], "group": ["x", "y"], "k": [1, 1], "v": [2, 300]})
    ignored = tables.ignored_columns("activity", frame, ["v"], {"k": "constant in training"})
    assert ignored == {
        "threat_type": "the class to predict",
        "group": "keeps campaigns on one side of the split",
        "k": "constant in training",
    }
    assert tables.column_facts(frame["v"]) == {"seen": [2.0, 300.0]}
    assert tables.column_facts(frame["v"] > 2) == {"seen": [0.0, 1.0], "boolean": True}


def test_numbers_of_classes_called_anything_are_logged_under_names_that_mlflow_takes(
    tmp_path: Path, store: Path
) -> None:
    log = tracking.open_search("threat", tmp_path / "search", name="x", params={}, tags={})
    values = {
        'test_f1_Web "Attack" (XSS)': 0.5,
        "test_f1_Web 'Attack' <XSS>": 0.25,
        "test_f1_../a": 0.125,
        "test_f1_ü/x": 1.0,
    }
    tracking.log_results(log.run_id, metrics=values, params={"best_a(b)": 1}, folders={}, tags={})
    with open_client() as client:
        stored = client.get_run(log.run_id).data
    assert sorted(stored.metrics.values()) == [0.125, 0.25, 0.5, 1.0]
    assert stored.params == {"best_a_b_": "1"}
