from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiops_core.judge import gate, intervals, metrics
from aiops_core.judge.units import Units
from aiops_core.study.words import verdict_words
from aiops_core.tasks import capacity, failure, threat

N = 600
METRICS = ("roc_auc", "average_precision", "f1", "brier")


def compare(
    data: np.ndarray, prediction: dict[str, Any], others: Mapping[str, dict[str, Any]], *, seed: int = 0
) -> dict[str, dict[str, intervals.Gain]]:
    def values(p: dict[str, Any]) -> intervals.Weighted:
        return metrics.failure_values(data, p["probability"], p["probability"] > 0.5)

    found = {name: values(other) for name, other in others.items()}
    return intervals.paired(values(prediction), found, len(data), only=METRICS, seed=seed, n_boot=1000)


TASK: Any = SimpleNamespace(
    GATE_METRICS=failure.GATE_METRICS,
    PROBABILITY_METRICS=("brier",),
    SIMPLE_BASELINES=("class_prior",),
    STRONG_BASELINES=("trees",),
    compare=compare,
)


def prediction(truth: np.ndarray, strength: float, seed: int = 1) -> dict[str, Any]:
    noise = np.random.default_rng(seed).random(len(truth))
    return {"probability": strength * truth + (1 - strength) * noise}


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, N)


PRIOR = {"probability": np.full(N, 0.5)}


def rare() -> tuple[np.ndarray, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return 20 positives in 2,000 rows, and two models of equal AUC: one finds some surely, the other none.

    Trees rank ten positives first and ten in the middle; the candidate ranks all twenty behind a hundred false alarms.
    """
    truth = np.zeros(2000, dtype=int)
    truth[:20] = 1
    rest = np.linspace(0, 1, 1980)
    trees = np.r_[np.full(10, 2.0), np.full(10, 0.885), rest]
    candidate = np.r_[np.full(20, 0.9425), rest]
    prior = np.full(2000, 0.01)
    return truth, {"probability": candidate / 2}, {"probability": trees / 2}, {"probability": prior}


def test_equal_auc_and_a_wide_interval_do_not_hide_half_the_average_precision() -> None:
    truth, candidate, trees, prior = rare()
    gains = compare(truth, candidate, {"trees": trees})["trees"]
    assert abs(gains["roc_auc"]["value"]) < 0.002
    assert gains["roc_auc"]["low"] < -0.02 < 0.02 < gains["roc_auc"]["high"]
    assert gains["average_precision"]["own"] < gains["average_precision"]["other"] / 2
    assert gains["f1"]["own"] < gains["f1"]["other"] / 2
    verdict = gate.decide(TASK, truth, candidate, {"class_prior": prior, "trees": trees})
    assert verdict.decision == "challenger"
    assert "is inferior to trees: " in verdict.reasons[0] and "average precision" in verdict.reasons[0]
    assert verdict.advice


def test_a_wide_interval_is_no_pass(truth: np.ndarray) -> None:
    few = np.r_[np.arange(12), np.arange(300, 340)]
    one, other = prediction(truth[few], 0.15, 1), prediction(truth[few], 0.15, 10)
    gain = compare(truth[few], one, {"trees": other})["trees"]["average_precision"]
    assert gain["low"] < -0.1 < 0 < gain["high"]
    units = Units(np.arange(len(few)), "", 24, "incidents")
    verdict = gate.decide(TASK, truth[few], one, {"trees": other}, units=units)
    assert verdict.decision == "challenger"
    assert "is not shown to be as good as trees, the test is too small" in verdict.reasons[0]
    assert "which must not reach below" in verdict.reasons[0]
    assert re.search(r"; about [\d,]+ more incidents \([\d,]+ instead of 24\) would settle it", verdict.reasons[0])


def test_what_the_gate_compares_first_is_what_the_search_works_for() -> None:
    assert (failure.OBJECTIVE, failure.MAIN_METRIC) == (failure.GATE_METRICS[0],) * 2
    assert capacity.OBJECTIVE in capacity.GATE_METRICS and capacity.MAIN_METRIC == capacity.GATE_METRICS[0] == "mase"
    # The search of threats works for macro-F1 less a share of the log loss.
    assert threat.GATE_METRICS == ("macro_f1", "log_loss") and threat.MAIN_METRIC == "macro_f1"


def test_a_model_that_cannot_be_told_apart_is_called_so(truth: np.ndarray) -> None:
    one = prediction(truth, 0.8)
    verdict = gate.decide(TASK, truth, one, {"class_prior": PRIOR, "trees": one})
    assert verdict.decision == "champion"
    assert any("is not inferior to trees and not distinguishable from it: " in reason for reason in verdict.reasons)


def test_a_champion_is_judged_on_the_rows_that_are_new_to_it(truth: np.ndarray) -> None:
    new = np.arange(N) >= 300
    champion = {"probability": np.where(new, prediction(truth, 0.1, 5)["probability"], truth)}
    asked: list[np.ndarray | None] = []

    def on_rows(data: Any, own: Any, others: Any, *, rows: np.ndarray | None = None, seed: int = 0) -> Any:
        asked.append(rows)
        some = slice(None) if rows is None else rows
        cut = {name: {"probability": other["probability"][some]} for name, other in others.items()}
        return compare(data[some], {"probability": own["probability"][some]}, cut, seed=seed)

    units = SimpleNamespace(compare=on_rows, units=lambda data, part, rows: Units(np.arange(300), "", 300, "rows"))
    task: Any = SimpleNamespace(**{**vars(TASK), **vars(units)})
    known = gate.decide(task, truth, prediction(truth, 0.3), {"class_prior": PRIOR}, champion=champion)
    assert known.decision == "challenger"
    fair = gate.decide(
        task, truth, prediction(truth, 0.3), {"class_prior": PRIOR}, champion=champion, champion_rows=new
    )
    assert fair.decision == "champion"
    assert any("the champion on the 300 of 600 test rows new to both" in reason for reason in fair.reasons)
    assert asked[-1] is new


def test_the_first_words_of_a_report_name_the_better_baseline_and_what_to_do() -> None:
    truth, candidate, trees, prior = rare()
    verdict = gate.decide(TASK, truth, candidate, {"class_prior": prior, "trees": trees})
    section = {
        "status": "trained", "main_metric": "roc_auc", "metrics": {"roc_auc": {"value": 0.9, "low": 0.8, "high": 1.0}},
        "baselines": {"trees": {"roc_auc": {"value": 0.9, "low": 0.8, "high": 1.0}}}, "oracle": None,
        "gate": verdict.as_dict(), "model": "failure_predictor", "model_version": 3,
    }  # fmt: skip
    words = verdict_words(section)
    assert words.startswith("Registered as challenger, not served: it is inferior to trees")
    assert "search again" in words
    assert "aiops models promote failure_predictor 3" in words


def test_a_comparison_takes_five_thousand_draws() -> None:
    assert intervals.N_BOOT >= 5_000


def test_a_model_that_beats_all_becomes_champion(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK, truth, prediction(truth, 0.5), {"class_prior": PRIOR, "trees": prediction(truth, 0.3, 2)}
    )
    assert verdict.decision == "champion"
    assert any("is better than trees" in reason for reason in verdict.reasons)


def test_a_model_that_trees_beat_is_a_challenger(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK, truth, prediction(truth, 0.3), {"class_prior": PRIOR, "trees": prediction(truth, 0.6, 2)}
    )
    assert verdict.decision == "challenger"
    assert "is inferior to trees" in verdict.reasons[0]


def test_a_model_no_better_than_the_prior_is_refused(truth: np.ndarray) -> None:
    verdict = gate.decide(TASK, truth, prediction(truth, 0.0), {"class_prior": PRIOR, "trees": PRIOR})
    assert verdict.decision == "refused"
    assert "does not beat the simple baseline class_prior" in verdict.reasons[0]


@pytest.mark.parametrize("seed", range(10))
def test_a_model_of_shuffled_labels_is_refused(seed: int, truth: np.ndarray) -> None:
    shuffled = np.random.default_rng(100 + seed).permutation(truth)
    verdict = gate.decide(TASK, truth, prediction(shuffled, 0.9, seed), {"class_prior": PRIOR}, seed=seed)
    assert verdict.decision == "refused"


def test_a_ranking_whose_probabilities_are_worse_than_the_base_rate_waits(truth: np.ndarray) -> None:
    ranks = {"probability": 0.49 * prediction(truth, 0.5)["probability"] ** 8}
    verdict = gate.decide(TASK, truth, ranks, {"class_prior": PRIOR})
    assert verdict.decision == "challenger"
    assert "not shown to be better than the base rate: Brier score" in verdict.reasons[0]


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
    assert "is inferior to version 4" in verdict.reasons[0]


def test_what_speaks_against_a_promotion_holds_a_model_back(truth: np.ndarray) -> None:
    verdict = gate.decide(
        TASK, truth, prediction(truth, 0.6), {"class_prior": PRIOR}, obstacles=["reads other features"]
    )
    assert verdict.decision == "challenger"
    assert verdict.reasons[0] == "reads other features"


REAL = {"source": "smd", "trials": {"trials": 20}, "train_rows": 5000}


@pytest.mark.parametrize(
    ("lineage", "words"),
    [
        ({**REAL, "source": "synthetic"}, "was trained on synthetic data, version 4 on 'smd'"),
        ({**REAL, "trials": {"trials": 3}}, "had 3 trials, fewer than the 20 of version 4"),
        ({**REAL, "train_rows": 800}, "had 800 training rows, fewer than the 5,000 of version 4"),
    ],
)
def test_synthetic_data_and_smoke_runs_replace_no_real_champion(lineage: dict[str, Any], words: str) -> None:
    assert gate.lesser(lineage, REAL, "version 4") == [words]


def test_more_training_on_other_real_data_speaks_against_nothing() -> None:
    assert gate.lesser({"source": "own", "trials": {"trials": 30}, "train_rows": 6000}, REAL, "version 4") == []
    assert gate.lesser(REAL, {**REAL, "source": "synthetic"}, "version 4") == []


def test_an_undefined_gain_refuses() -> None:
    nothing = np.zeros(N, dtype=int)
    verdict = gate.decide(TASK, nothing, prediction(nothing, 0.5), {"class_prior": PRIOR})
    assert verdict.decision == "refused"


def test_cards_are_comparable_only_with_the_same_schema() -> None:
    card = {"features": [{"name": "a"}], "window": 24}
    assert gate.comparable(card, {"features": [{"name": "a"}], "window": 24}) is None
    assert gate.comparable(card, {"features": [{"name": "b"}], "window": 24}) == "it reads other features"
    assert "window is 12" in str(gate.comparable(card, {"features": [{"name": "a"}], "window": 12}))


@pytest.mark.parametrize("key", ["window", "horizon", "step_seconds", "classes", "targets", "season"])
def test_cards_that_differ_in_one_part_of_the_schema_are_not_comparable(key: str) -> None:
    card = {"features": [{"name": "a"}], key: 1}
    assert gate.comparable(card, card) is None
    assert gate.comparable(card, {**card, key: 2}) == f"its {key} is 2 instead of 1"


def test_margins_are_two_hundredths_a_tenth_of_the_others_value_or_of_an_error_a_twentieth() -> None:
    names = ("roc_auc", "macro_f1", "log_loss", "f1", "average_precision", "mase", "nmae", "mae")
    assert [gate.margin(name, 0.5) for name in names] == [0.02, 0.02, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025]
    assert gate.margin("r2", -0.5) == 0.05


def test_the_seed_of_the_gate_is_that_of_the_bootstrap_and_one_better_probability_metric_is_enough() -> None:
    seeds: list[int] = []

    def compared(*args: Any, seed: int) -> dict[str, Any]:
        seeds.append(seed)
        return {"class_prior": {"roc_auc": WELL, "brier": gain(0.0, -0.1), "log_loss": WELL}}

    task: Any = SimpleNamespace(
        GATE_METRICS=("roc_auc",), PROBABILITY_METRICS=("brier", "log_loss"), SIMPLE_BASELINES=("class_prior",),
        STRONG_BASELINES=(), compare=compared,
    )  # fmt: skip
    assert gate.decide(task, None, {}, {"class_prior": {}}, seed=5).decision == "champion"
    assert seeds == [5]


# At the limits -------------------------------------------------------------------------------------------------------

WELL = {"value": 0.2, "low": 0.1, "high": 0.3, "own": 0.9, "other": 0.5}


def decided(
    *, simple: dict[str, Any] | None = None, strong: dict[str, Any] | None = None, first: str = "roc_auc"
) -> gate.Verdict:
    """Judge gains as they are given: by metric, over the class prior and over trees."""
    gains = {
        "class_prior": {first: WELL, "brier": WELL, **(simple or {})},
        "trees": {first: WELL, "average_precision": WELL, **(strong or {})},
    }
    task: Any = SimpleNamespace(
        GATE_METRICS=(first, "average_precision"),
        PROBABILITY_METRICS=("brier",),
        SIMPLE_BASELINES=("class_prior", "not run"),
        STRONG_BASELINES=("trees",),
        compare=lambda *args, **settings: gains,
    )
    return gate.decide(task, None, {}, {"class_prior": {}, "trees": {}})


def gain(value: float, low: float, other: float = 0.5) -> dict[str, float]:
    return {"value": value, "low": low, "high": value + 0.1, "own": other + value, "other": other}


@pytest.mark.parametrize(("low", "decision"), [(0.0101, "champion"), (0.01, "refused"), (float("nan"), "refused")])
def test_a_simple_baseline_must_be_beaten_by_a_hundredth(low: float, decision: str) -> None:
    assert decided(simple={"roc_auc": gain(0.05, low)}).decision == decision


@pytest.mark.parametrize(("low", "decision"), [(0.0201, "champion"), (0.0199, "refused")])
def test_for_a_scaled_error_the_hundredth_is_a_share_of_the_baseline(low: float, decision: str) -> None:
    assert decided(simple={"mase": gain(0.05, low, other=2.0)}, first="mase").decision == decision


@pytest.mark.parametrize(
    ("metric", "value", "low", "decision", "words"),
    [
        ("roc_auc", -0.01, -0.0199, "champion", "is not inferior to trees"),
        ("roc_auc", -0.01, -0.02, "challenger", "the test is too small"),
        ("roc_auc", -0.0201, -0.05, "challenger", "is inferior to trees"),
        ("average_precision", 0.0, -0.0499, "champion", "is not inferior to trees"),
        ("average_precision", 0.0, -0.0501, "challenger", "which must not reach below -0.050"),
        ("average_precision", -0.05, -0.1, "challenger", "is inferior to trees"),
        ("average_precision", 0.0, float("nan"), "challenger", "the test is too small"),
        ("average_precision", float("nan"), float("nan"), "challenger", "the test is too small"),
    ],
)
def test_the_margin_of_non_inferiority_is_kept_to_the_digit(
    metric: str, value: float, low: float, decision: str, words: str
) -> None:
    verdict = decided(strong={metric: gain(value, low)})
    assert verdict.decision == decision
    assert any(words in reason for reason in verdict.reasons)
    assert bool(verdict.advice) == (decision != "champion")


def test_of_two_models_that_reach_nothing_neither_is_called_inferior() -> None:
    verdict = decided(strong={"average_precision": gain(0.0, 0.0, other=0.0)})
    assert verdict.decision == "challenger"
    assert verdict.reasons[0].startswith("is not shown to be as good as trees")


@pytest.mark.parametrize(("low", "decision"), [(1e-9, "champion"), (0.0, "challenger")])
def test_probabilities_must_be_better_than_the_base_rate_beyond_chance(low: float, decision: str) -> None:
    assert decided(simple={"brier": gain(0.05, low)}).decision == decision


def test_what_decides_is_said_first_and_what_passed_last() -> None:
    bad = decided(simple={"roc_auc": gain(0.0, -0.1), "brier": gain(0.0, -0.1)}, strong={"roc_auc": gain(-0.1, -0.2)})
    starts = ["does not beat the simple baseline", "is inferior to", "has probabilities"]
    assert [reason.startswith(start) for reason, start in zip(bad.reasons, starts, strict=True)] == [True] * 3
    assert bad.advice.startswith("Nothing is registered")
    assert bad.as_dict() == {
        "decision": "refused", "reasons": bad.reasons, "advice": bad.advice, "gains": bad.gains,
    }  # fmt: skip
    good = decided()
    assert [reason.split(":")[0] for reason in good.reasons] == ["beats class_prior", "is better than trees"]
    assert good.reasons[0].endswith("ROC AUC 0.900 against 0.500 (gain +0.200, +0.100 to +0.300)")


def test_a_lineage_that_says_nothing_is_not_compared() -> None:
    assert gate.lesser({}, REAL, "version 4") == []
    assert gate.lesser(REAL, {}, "version 4") == []
    assert gate.lesser({"source": "synthetic"}, {}, "version 4") == [
        "was trained on synthetic data, version 4 on 'unknown data'"
    ]
    assert gate.lesser(REAL, REAL, "version 4") == []


def test_simple_baselines_and_the_base_rate_are_compared_only_where_they_were_run() -> None:
    task: Any = SimpleNamespace(
        GATE_METRICS=("roc_auc",), PROBABILITY_METRICS=("log_loss",), SIMPLE_BASELINES=("class_prior", "rules"),
        STRONG_BASELINES=("trees", "theta"), compare=lambda *args, **settings: {"rules": {"roc_auc": WELL}},
    )  # fmt: skip
    verdict = gate.decide(task, None, {}, {"rules": {}})
    assert (verdict.decision, verdict.advice) == ("champion", "")
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["beats rules"]


def test_what_else_speaks_against_a_promotion_stands_between_what_is_open_and_what_passed() -> None:
    gains = {
        "class_prior": {"roc_auc": WELL, "brier": WELL},
        "hist_gradient_boosting": {"roc_auc": gain(-0.1, -0.2)},
        "theta": {"roc_auc": gain(0.0, -0.06)},
        "version 3": {"roc_auc": gain(0.015, -0.01)},
    }
    asked: list[Any] = []

    def compare_all(data: Any, own: Any, others: Any, **settings: Any) -> Any:
        asked.append(list(others))
        return {name: gains[name] for name in others}

    task: Any = SimpleNamespace(
        GATE_METRICS=("roc_auc",), PROBABILITY_METRICS=("brier",), SIMPLE_BASELINES=("class_prior",),
        STRONG_BASELINES=("hist_gradient_boosting", "theta"), compare=compare_all,
    )  # fmt: skip

    def judged(*names: str, **settings: Any) -> gate.Verdict:
        some: dict[str, Any] = {name: {} for name in names if name != "version 3"}
        if "version 3" in names:
            settings |= {"champion": {}, "champion_name": "version 3", "champion_rows": np.ones(5, dtype=bool)}
        return gate.decide(task, None, {}, some, **settings)

    units = Units(np.arange(9), "", 10, "incidents")
    verdict = judged("class_prior", "hist_gradient_boosting", "theta", "version 3", obstacles=["is a toy"], units=units)
    # All test rows are new to the champion: it is compared together with the baselines.
    assert asked[-1] == ["class_prior", "hist_gradient_boosting", "theta", "version 3"]
    assert verdict.decision == "challenger" and verdict.advice.startswith("Bring more data")
    assert verdict.reasons == [
        "is inferior to boosted trees (hist_gradient_boosting): ROC AUC 0.400 against 0.500 (gain -0.100, -0.200 to +0.000)",
        "is not shown to be as good as the Theta method (theta), the test is too small: ROC AUC 0.500 against 0.500 "
        "(gain +0.000, -0.060 to +0.100, which must not reach below -0.020); about 80 more incidents (90 instead of 10) "
        "would settle it if the difference stays",
        "is a toy",
        "beats class_prior: ROC AUC 0.900 against 0.500 (gain +0.200, +0.100 to +0.300)",
        "is not inferior to version 3 and not distinguishable from it: "
        "ROC AUC 0.515 against 0.500 (gain +0.015, -0.010 to +0.115)",
    ]  # fmt: skip
    assert verdict.gains == gains
    assert judged("class_prior", "theta").advice.startswith("A longer record")
    held = judged("class_prior", obstacles=["is a toy"])
    assert (held.decision, held.reasons[0], held.advice) == (
        "challenger", "is a toy", "It passed all comparisons of the test.",
    )  # fmt: skip
    # A lower end of exactly 0 is not better, and an upper end of exactly 0 can still be told apart from nothing.
    for low, high, words in ((0.0, 0.1, True), (-0.01, 0.0, True), (-0.015, -0.001, False)):
        gains["theta"] = {"roc_auc": {"value": -0.001, "low": low, "high": high, "own": 0.5, "other": 0.5}}
        told = judged("class_prior", "theta")
        assert told.decision == "champion"
        assert any("not distinguishable" in reason for reason in told.reasons) == words


def test_a_refusal_says_how_large_a_test_would_have_to_be() -> None:
    gains = {"class_prior": {"roc_auc": gain(0.03, -0.01), "brier": WELL}}
    task: Any = SimpleNamespace(
        GATE_METRICS=("roc_auc",), PROBABILITY_METRICS=("brier",), SIMPLE_BASELINES=("class_prior",),
        STRONG_BASELINES=(), compare=lambda *args, **settings: gains,
    )  # fmt: skip
    verdict = gate.decide(task, None, {}, {"class_prior": {}}, units=Units(np.arange(9), "", 20, "days"))
    assert verdict.decision == "refused"
    assert verdict.reasons[0].endswith(
        "; about 60 more days (80 instead of 20) would settle it if the difference stays"
    )


def test_a_verdict_is_shown_with_its_reasons_and_its_advice() -> None:
    shown = gate.Verdict("challenger", ["is <b>", "was late"], "Wait.")._repr_html_()
    assert all(words in shown for words in ("Gate: challenger", "is &lt;b&gt;", "was late", "Wait."))
    assert "none" in gate.Verdict("champion", ["beats all"])._repr_html_()
    assert [gate.opponent_words(name) for name in ("extra_trees", "my_own")] == [
        "extremely randomised trees (extra_trees)", "my_own",
    ]  # fmt: skip
