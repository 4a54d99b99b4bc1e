from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiops_core import gate, metrics

N = 600


def compare(data: np.ndarray, a: dict[str, Any], b: dict[str, Any], seed: int = 0) -> metrics.Metric:
    first, second = (metrics.failure_values(data, p["probability"], p["probability"] > 0.5) for p in (a, b))
    return metrics.paired(first, second, "roc_auc", len(data), seed=seed)


TASK: Any = SimpleNamespace(
    MAIN_METRIC="roc_auc", SIMPLE_BASELINES=("class_prior",), STRONG_BASELINES=("trees",), compare=compare
)


def prediction(truth: np.ndarray, strength: float, seed: int = 1) -> dict[str, Any]:
    noise = np.random.default_rng(seed).random(len(truth))
    return {"probability": strength * truth + (1 - strength) * noise}


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, N)


PRIOR = {"probability": np.full(N, 0.5)}


def test_a_model_that_beats_all_becomes_champion(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK, truth, prediction(truth, 0.5), {"class_prior": PRIOR, "trees": prediction(truth, 0.3, 2)}
    )
    assert verdict.decision == "champion"
    assert any("beats trees" in reason for reason in verdict.reasons)


def test_a_model_that_trees_beat_is_a_challenger(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK, truth, prediction(truth, 0.3), {"class_prior": PRIOR, "trees": prediction(truth, 0.6, 2)}
    )
    assert verdict.decision == "challenger"
    assert "beaten by the strong baseline trees" in verdict.reasons[0]


def test_a_model_no_better_than_the_prior_is_refused(truth: np.ndarray) -> None:
    verdict = gate.decide(TASK, truth, prediction(truth, 0.0), {"class_prior": PRIOR, "trees": PRIOR})
    assert verdict.decision == "refused"
    assert "does not beat the simple baseline class_prior" in verdict.reasons[0]


@pytest.mark.parametrize("seed", range(10))
def test_a_model_of_shuffled_labels_is_refused(seed: int, truth: np.ndarray) -> None:
    shuffled = np.random.default_rng(100 + seed).permutation(truth)
    verdict = gate.decide(TASK, truth, prediction(shuffled, 0.9, seed), {"class_prior": PRIOR}, seed=seed)
    assert verdict.decision == "refused"


def test_a_model_worse_than_the_champion_waits(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK,
        truth,
        prediction(truth, 0.3),
        {"class_prior": PRIOR},
        champion=prediction(truth, 0.6, 3),
        champion_name="version 4",
    )
    assert verdict.decision == "challenger"
    assert "worse than version 4" in verdict.reasons[0]


def test_a_champion_that_cannot_be_compared_is_not_replaced(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK, truth, prediction(truth, 0.6), {"class_prior": PRIOR}, obstacle="it reads other features"
    )
    assert verdict.decision == "challenger"
    assert "it reads other features" in verdict.reasons[0]


def test_an_undefined_gain_refuses() -> None:
    nothing = np.zeros(N, dtype=int)
    verdict = gate.decide(TASK, nothing, prediction(nothing, 0.5), {"class_prior": PRIOR})
    assert verdict.decision == "refused"


def test_cards_are_comparable_only_with_the_same_schema() -> None:
    card = {"features": [{"name": "a"}], "window": 24}
    assert gate.comparable(card, {"features": [{"name": "a"}], "window": 24}) is None
    assert gate.comparable(card, {"features": [{"name": "b"}], "window": 24}) == "it reads other features"
    assert "window is 12" in str(gate.comparable(card, {"features": [{"name": "a"}], "window": 12}))
