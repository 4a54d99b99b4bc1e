"""Grow forests: one, or one a fold, step by step, with the scores of the rows they did not see."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from aiops_core.tasks.threat.data import Params, Report, ThreatData
from aiops_core.tasks.threat.decision import calibrate, choose_alpha, fit_calibration
from aiops_core.tasks.threat.evidence import inputs_for
from aiops_core.tasks.threat.rows import Held, class_prior, training_rows

#: Selection is macro-F1 less this share of the log loss after calibration: macro-F1 alone jumps with single rows of
#: rare classes.
LOSS_SHARE = 0.1


def new_forest(params: Params, trees: int, seed: int) -> RandomForestClassifier:
    """Return a forest of a point of the search space, not fitted, that can be grown further."""
    return RandomForestClassifier(
        n_estimators=trees,
        criterion=params["criterion"],
        max_features=float(params["max_features"]),
        min_samples_leaf=int(params["min_samples_leaf"]),
        max_depth=int(params["max_depth"]),
        max_samples=float(params["max_samples"]),
        warm_start=True,
        n_jobs=1,
        random_state=seed,
    )


def grow(
    forest: RandomForestClassifier, Z: np.ndarray, y: np.ndarray, weight: np.ndarray, n_classes: int
) -> RandomForestClassifier:
    """Fit on expanded rows; classes without a row enter with weight 0, so that every forest has the same columns."""
    absent = np.setdiff1d(np.arange(n_classes), y)
    if len(absent):
        Z = np.concatenate([Z, np.repeat(Z[:1], len(absent), axis=0)])
        y, weight = np.r_[y, absent], np.r_[weight, np.zeros(len(absent))]
    return forest.fit(Z, y, sample_weight=weight)


def merge(forests: list[RandomForestClassifier]) -> RandomForestClassifier:
    """Return one forest with the trees of all; they were fitted with the same columns and classes."""
    whole = forests[0]
    whole.estimators_ = [tree for forest in forests for tree in forest.estimators_]
    whole.n_estimators = len(whole.estimators_)
    return whole


def cross_fit(
    params: Params, data: ThreatData, held: Held, *, seed: int, steps: int, report: Report | None = None
) -> tuple[list[RandomForestClassifier], np.ndarray]:
    """Grow the folds' forests together; return them and the votes (n_entries, n_classes) of rows they did not see."""
    n_classes, per_step = len(data.classes), data.effort.trees_per_step
    X_held, truth = data.X[data.rows[held.row]], data.y[data.rows[held.row]]
    forests, training, unseen = [], [], []
    for fold in range(held.folds):
        chosen = (data.group_fold != fold) & (data.row_fold != fold)
        rows, X, weight = training_rows(params, data, chosen, seed)
        inputs, mine = inputs_for(params, data, fold), held.fold == fold
        training.append((inputs.expand(X), data.y[data.rows[rows]], weight))
        unseen.append((mine, inputs.expand(X_held[mine])))
        forests.append(new_forest(params, per_step, seed + 100 * fold))
    total = np.zeros((len(held.row), n_classes))
    for step in range(1, steps + 1):
        for fold, forest in enumerate(forests):
            forest.set_params(n_estimators=per_step * step)
            grow(forest, *training[fold], n_classes)
            mine, Z = unseen[fold]
            for tree in forest.estimators_[per_step * (step - 1) :]:
                total[mine] += tree.predict_proba(Z)
        if report is not None:
            votes = total / (per_step * step)
            report(step, _validation_scores(params, data, truth, held.weight, votes))
    return forests, total / (per_step * steps)


def _validation_scores(
    params: Params, data: ThreatData, truth: np.ndarray, weight: np.ndarray, votes: np.ndarray
) -> dict[str, float]:
    prior = class_prior(data)
    offset = float(params["balance"]) * np.log(prior)
    temperature, floor = fit_calibration(votes, offset, truth, weight, floors=(1e-3,), temperatures=9)
    probability = calibrate(votes, offset, temperature, floor)
    _, macro_f1 = choose_alpha(truth, probability, weight, prior)
    hit = probability.argmax(axis=1) == truth
    losses = -np.log(probability[np.arange(len(truth)), truth])
    log_loss = float(np.average(losses, weights=weight))
    return {
        "selection": macro_f1 - LOSS_SHARE * log_loss,
        "macro_f1": macro_f1,
        "accuracy": float(np.average(hit, weights=weight)),
        "log_loss": log_loss,
    }
