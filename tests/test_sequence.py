"""The judgement that may be looked at any time: how often it is wrong, how many labels it takes, what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiops_core.judge import sequence

RUNS, MARGIN = 200, 0.005


@pytest.fixture(scope="module")
def bench() -> Any:
    """The benchmark's module: it makes the pairs."""
    path = Path(__file__).parent / "benchmarks" / "sequence.py"
    spec = importlib.util.spec_from_file_location("sequence_bench", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_looking_after_every_label_finds_no_difference_where_there_is_none(bench: Any) -> None:
    wrong, by_t_test, verdicts = bench.wrong(RUNS, lambda rng: bench.differences(rng, 3_000, 0.5, 0.5))
    assert wrong <= 0.05 * RUNS
    assert by_t_test > 0.2 * RUNS, "looked at like this, a t-test is wrong far more often"
    assert verdicts["equivalent"] > 0.9 * RUNS


def test_a_better_candidate_is_found_and_a_worse_one_named(bench: Any) -> None:
    def verdicts(champion: float, candidate: float) -> list[str]:
        draws = (bench.differences(np.random.default_rng(seed), 3_000, champion, candidate) for seed in range(40))
        return [sequence.settled(found, MARGIN)[0] for found in draws]

    assert verdicts(1.5, 0.5).count("better") == 40
    assert verdicts(0.5, 1.5).count("worse") == 40


def test_the_interval_holds_the_true_difference_and_the_verdict_stays(bench: Any) -> None:
    truth = float(bench.differences(np.random.default_rng(0), 1_000_000, 1.0, 0.5).mean())
    missed = 0
    for seed in range(RUNS):
        found = bench.differences(np.random.default_rng(seed), 2_000, 1.0, 0.5)
        judged = sequence.judge(found, MARGIN)
        missed += not judged.low <= truth <= judged.high
        assert (judged.verdict, judged.settled) == sequence.settled(found, MARGIN)
        if judged.settled is not None and seed < 20:
            assert sequence.judge(found[: judged.settled], MARGIN).verdict == judged.verdict
            assert sequence.judge(found[: judged.settled - 1], MARGIN).verdict == "go on collecting"
    assert missed <= 0.05 * RUNS


def test_a_difference_that_turns_round_is_called_changed() -> None:
    found = np.concatenate([np.full(300, 0.4), np.full(3_000, -0.4)])
    judged = sequence.judge(found, MARGIN)
    assert judged.verdict == "changed" and np.isnan(judged.low)


def test_no_labels_say_go_on_collecting() -> None:
    judged = sequence.judge([], MARGIN)
    assert judged.verdict == "go on collecting" and judged.units == 0 and (judged.low, judged.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("found", "margin", "word"),
    [
        ([1.5], 0.01, "larger than 1"),
        ([float("nan")], 0.01, "not finite"),
        ([0.1], 0.0, "margin"),
        ([0.1], 2.0, "margin"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_sentence(found: list[float], margin: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        sequence.judge(found, margin)
