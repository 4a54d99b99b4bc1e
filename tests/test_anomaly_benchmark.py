"""The measure of the benchmark of anomalies, on cases made by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiops_core.errors import DataError


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent / "benchmarks"))
    yield importlib.import_module("anomaly")
    sys.modules.pop("anomaly")


def truth_of(n: int, *windows: tuple[int, int]) -> np.ndarray:
    truth = np.zeros(n, dtype=bool)
    for first, end in windows:
        truth[first:end] = True
    return truth


def test_vus_pr_is_one_for_a_perfect_score_and_the_base_rate_for_a_constant_one(bench: Any) -> None:
    truth = truth_of(100, (20, 30), (60, 70))
    assert bench.vus_pr(truth, truth + np.linspace(0, 0.1, 100), 0) == pytest.approx(1.0)
    assert bench.vus_pr(truth, np.zeros(100), 0) == pytest.approx(0.2)


def test_vus_pr_rewards_an_alarm_beside_the_window_as_far_as_the_buffer_reaches(bench: Any) -> None:
    beside = np.sqrt(1 / 2)
    recall = beside / (1 + beside / 2)
    wide = recall * beside + (1 - recall) * (1 + 2 * beside) / 4
    found = bench.vus_pr(truth_of(4, (2, 3)), np.array([0.0, 1.0, 0.0, 0.0]), 2)
    assert found == pytest.approx((0.25 + 0.25 + wide) / 3)


def test_vus_pr_asks_for_an_alarm_in_every_window(bench: Any) -> None:
    truth = truth_of(100, (20, 30), (60, 70))
    score = np.linspace(0, 0.1, 100)
    both, one = score.copy(), score.copy()
    both[[25, 65]] = 1.0
    one[[25, 26]] = 1.0
    assert bench.vus_pr(truth, both, 0) > bench.vus_pr(truth, one, 0)


def test_vus_pr_gives_what_the_authors_program_gives(bench: Any) -> None:
    truth, score = truth_of(64, (10, 15), (38, 44)), np.linspace(0.02, 0.18, 64)
    score[9:16] = [0.25, 0.55, 0.72, 0.91, 0.84, 0.63, 0.31]
    score[37:45] = [0.22, 0.48, 0.68, 0.93, 0.87, 0.79, 0.56, 0.29]
    score[53] = 0.62
    assert bench.vus_pr(truth, score, 11) == pytest.approx(0.9750688705234158, abs=1e-12)


def test_the_buffer_is_twice_the_season_of_the_series(bench: Any) -> None:
    assert bench.buffer_of(np.sin(np.arange(2000) * 2 * np.pi / 48)) == 96
    assert bench.buffer_of(np.arange(100.0)) == 250


def test_constants_of_the_detector_are_as_before_after_an_ablation(bench: Any) -> None:
    before = bench.past.WIDTHS
    with pytest.raises(KeyError), bench.changed(WIDTHS=()):
        assert bench.past.WIDTHS == ()
        raise KeyError
    assert before == bench.past.WIDTHS


def test_a_folder_without_labels_is_refused(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="combined_windows.json is missing"):
        bench.load(tmp_path, "realKnownCause")


def test_labels_and_series_of_nab_are_read(bench: Any, real_data: Path) -> None:
    series = bench.load(real_data / "nab", "realAWSCloudwatch")
    assert len(series) == 16
    assert all(0.08 < truth.mean() < 0.11 for _, _, truth in series.values())
