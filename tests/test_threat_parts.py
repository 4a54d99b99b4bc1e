"""Split, folds, sample and calibration of the threat task, on arrays small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aiops_core.judge import curves
from aiops_core.tasks.threat.decision import AS_GOOD, calibrate, choose_alpha, decision_weights, fit_calibration
from aiops_core.tasks.threat.split import deal_folds, divisible, groups_by_class, hold_out, sample

SEEDS = range(5)


def groups_of(*sizes: int) -> np.ndarray:
    """Return the group of every row, groups in order."""
    return np.repeat(np.arange(len(sizes)), sizes)


def held_groups(held: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return which groups are held out; none may be cut."""
    share = np.bincount(group, weights=held) / np.bincount(group)
    assert set(share) <= {0.0, 1.0}
    return share == 1


# Test part -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_share_of_every_class_is_held_out_in_whole_groups(seed: int) -> None:
    group = groups_of(*[7] * 10, *[3] * 20)
    y = (group >= 10).astype(np.int64)
    held = held_groups(hold_out(y, group, 0.3, np.random.default_rng(seed)), group)
    assert (held[:10].sum(), held[10:].sum()) == (3, 6)


@pytest.mark.parametrize(("fraction", "count"), [(0.2, 1), (0.35, 1), (0.375, 2), (0.4, 2), (0.99, 3)])
def test_the_nearest_number_of_groups_is_held_out_and_one_stays(fraction: float, count: int) -> None:
    group = groups_of(10, 10, 10, 10, 5, 5)
    y = (group >= 4).astype(np.int64)
    held = held_groups(hold_out(y, group, fraction, np.random.default_rng(0)), group)
    # Of two groups one is tested and the other learned, whatever the share.
    assert (held[:4].sum(), held[4:].sum()) == (count, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_class_whose_only_group_holds_other_classes_is_learned(seed: int) -> None:
    group = groups_of(6, 6, 6)
    y = np.r_[np.zeros(6), [0, 0, 0, 0, 2, 2], np.ones(6)].astype(np.int64)
    held = hold_out(y, group, 0.5, np.random.default_rng(seed))
    assert not held[:12].any()
    # The last class has one group, of its own: it is divided by rows.
    assert held[12:].sum() == 3


def test_without_groups_rows_are_held_out_and_a_class_of_one_row_is_learned() -> None:
    y = np.repeat([0, 1, 2, 3], [10, 3, 2, 1])
    for fraction, counts in ((0.3, [3, 1, 1, 0]), (0.04, [1, 1, 1, 0]), (0.99, [9, 2, 1, 0])):
        held = hold_out(y, None, fraction, np.random.default_rng(0))
        assert np.bincount(y[held], minlength=4).tolist() == counts


def test_only_a_pure_group_that_is_all_of_its_class_may_be_divided() -> None:
    y = np.array([0, 0, 1, 1, 2, 3, 2])
    group = np.array([0, 0, 1, 2, 3, 3, 3])
    assert divisible(y, group).tolist() == [True] * 2 + [False] * 5
    # The order of classes and of groups is another one here.
    assert divisible(y[::-1], 3 - group[::-1]).tolist() == [False] * 5 + [True] * 2


def test_a_group_of_several_classes_belongs_to_the_rarest() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1])
    group = np.array([0, 1, 1, 2, 2, 3, 3, 4, 4])
    assert {label: names.tolist() for label, names in groups_by_class(y, group).items()} == {
        0: [0, 1], 1: [2, 4], 2: [3],
    }  # fmt: skip
    turned = groups_by_class(y[::-1], 4 - group[::-1])
    assert {label: names.tolist() for label, names in turned.items()} == {0: [3, 4], 1: [0, 2], 2: [1]}


# Folds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_and_rows_are_dealt_out_evenly(seed: int) -> None:
    # Six groups of a class, one group of two classes, one pure group of a class of its own, two groups of a class.
    group = groups_of(4, 4, 4, 4, 4, 4, 8, 12, 2, 2)
    y = np.r_[np.zeros(24), np.ones(4), np.full(4, 2), np.full(12, 3), np.full(4, 4)].astype(np.int64)
    group_fold, row_fold = deal_folds(y, group, 3, np.random.default_rng(seed))
    fold_of = np.array([np.unique(group_fold[group == g]) for g in range(10)])
    assert fold_of.shape == (10, 1)
    assert np.bincount(fold_of[:6, 0]).tolist() == [2, 2, 2]
    assert fold_of[6:8, 0].tolist() == [-1, -1]
    assert fold_of[8, 0] != fold_of[9, 0] and fold_of[8:].min() >= 0
    assert np.bincount(row_fold[y == 0]).tolist() == [4] * 6
    assert np.bincount(row_fold[y == 3]).tolist() == [2] * 6


@pytest.mark.parametrize("grouped", [False, True], ids=["no groups", "groups that may be divided"])
def test_without_groups_to_leave_out_rows_are_dealt_to_the_folds_alone(grouped: bool) -> None:
    y = np.repeat([0, 1], [12, 9])
    group_fold, row_fold = deal_folds(y, y if grouped else None, 3, np.random.default_rng(0))
    assert set(group_fold) == {-1}
    assert np.bincount(row_fold[y == 0]).tolist() == [4] * 3
    assert np.bincount(row_fold[y == 1]).tolist() == [3] * 3


# Sample --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (1120, [1000, 100, 20]),
        (1119, [999, 100, 20]),
        (300, [180, 100, 20]),
        (299, [179, 100, 20]),
        (62, [21, 21, 20]),
        (2, [1, 1, 1]),
    ],
)
def test_the_rows_to_learn_from_are_as_many_as_allowed(most: int, counts: list[int]) -> None:
    y = np.repeat([0, 1, 2], [1000, 100, 20])
    chosen, weight = sample(y, None, most, np.random.default_rng(0))
    assert np.bincount(y[chosen]).tolist() == counts
    assert (np.diff(chosen) > 0).all()
    assert weight.mean() == pytest.approx(1.0)


def test_a_cell_of_the_sample_is_a_class_in_a_group() -> None:
    group = np.r_[np.zeros(100), np.ones(25), np.full(25, 2), np.zeros(25)].astype(np.int64)
    y = np.r_[np.zeros(150), np.ones(25)].astype(np.int64)
    chosen, weight = sample(y, group, 80, np.random.default_rng(0))
    cell = np.c_[y, group][chosen]
    mass = [weight[(cell == pair).all(axis=1)].sum() for pair in ([0, 0], [0, 1], [0, 2], [1, 0])]
    assert [int((cell == pair).all(axis=1).sum()) for pair in ([0, 0], [0, 1], [0, 2], [1, 0])] == [20] * 4
    np.testing.assert_allclose(np.array(mass) / mass[1], [2.0, 1.0, 1.0, 1.0])


# Calibration and decision --------------------------------------------------------------------------------------


def test_calibrated_votes_are_the_softmax_of_their_logarithm() -> None:
    votes = np.array([[0.6, 0.4, 0.0]])
    scores = np.exp(np.log([0.61, 0.41, 0.01]) / 2)
    np.testing.assert_allclose(calibrate(votes, 2.0, 0.01)[0], scores / scores.sum())


@pytest.mark.parametrize(("blur", "floor"), [(0.0, 3e-4), (0.003, 1e-3), (0.02, 3e-3), (0.2, 1e-2)])
def test_calibration_takes_the_floor_and_the_temperature_of_least_loss(blur: float, floor: float) -> None:
    rng = np.random.default_rng(1)
    votes = rng.dirichlet([0.3, 0.3, 0.3], 4000).round(2)
    weight = rng.uniform(0.1, 3, 4000)
    share = calibrate(votes, 1.0, 1e-9) * (1 - blur) + blur / 3
    truth = (rng.random((4000, 1)) > share.cumsum(axis=1)).sum(axis=1).clip(max=2)
    grid = [(t, f) for f in (3e-4, 1e-3, 3e-3, 1e-2) for t in np.geomspace(0.3, 3.0, 241)]
    loss = [-np.average(np.log(calibrate(votes, t, f)[np.arange(4000), truth]), weights=weight) for t, f in grid]
    best = grid[int(np.argmin(loss))]
    assert best[1] == floor
    assert fit_calibration(votes, truth, weight) == pytest.approx(best, rel=0.02)
    assert fit_calibration(votes, truth, weight, floors=(1e-3,))[1] == 1e-3


def test_rows_that_are_all_told_apart_ask_for_no_temperature_below_the_least() -> None:
    votes = np.repeat(np.eye(2), 10, axis=0)
    temperature, _ = fit_calibration(votes, np.repeat([0, 1], 10), np.ones(20))
    assert temperature == pytest.approx(0.3, rel=0.05)


def test_decision_weights_are_powers_of_the_prior_of_mean_one() -> None:
    np.testing.assert_allclose(decision_weights(np.array([0.8, 0.2]), 1.0), [0.4, 1.6])
    np.testing.assert_allclose(decision_weights(np.array([0.64, 0.36]), 0.5), np.array([0.75, 1.0]) / 0.875)


def test_alpha_is_in_the_middle_where_no_exponent_changes_a_decision() -> None:
    truth, probability = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert choose_alpha(truth, probability, np.ones(3), np.array([0.5, 0.5])) == pytest.approx((0.5, 2 / 3))


def test_alpha_is_the_mean_of_exponents_as_good_as_the_best_of_the_curve_smoothed_over_five() -> None:
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1, 2], [300, 60, 15])
    prior, weight = np.array([0.8, 0.16, 0.04]), rng.uniform(0.2, 2.0, 375)
    logits = 1.5 * rng.normal(size=(375, 3)) + 2.0 * np.eye(3)[truth] + np.log(prior)
    probability = curves.apply_temperature(logits, 1.0)

    def macro_f1(alpha: float) -> float:
        label = (probability * prior**-alpha).argmax(axis=1)
        hit = [weight[(truth == c) & (label == c)].sum() for c in range(3)]
        return float(
            np.mean([2 * h / (weight[truth == c].sum() + weight[label == c].sum()) for c, h in enumerate(hit)])
        )

    scores = [macro_f1(a) for a in np.linspace(0, 1, 21)]
    padded = [scores[0]] * 2 + scores + [scores[-1]] * 2
    smooth = [float(np.mean(padded[i : i + 5])) for i in range(21)]
    alpha, reached = choose_alpha(truth, probability, weight, prior)
    as_good = np.array(smooth) >= max(smooth) - AS_GOOD
    assert alpha == pytest.approx(np.linspace(0, 1, 21)[as_good].mean())
    assert 1 < as_good.sum() < 21 and int(np.argmax(smooth)) != int(np.argmax(scores))
    assert reached == pytest.approx(max(smooth))
