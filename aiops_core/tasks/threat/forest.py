"""Grow forests: one, or one a fold, step by step, with the scores of the rows they did not see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from aiops_core.tasks.threat.data import Params, Report, ThreatData
from aiops_core.tasks.threat.decision import selection
from aiops_core.tasks.threat.rows import Held, class_prior, fold_inputs, training_rows

#: How trees cut a feature, in equal shares: at its best threshold, or at a random one (Geurts 2006). Where one kind errs
#: on attacks that it has not seen, the other often does not.
SPLITTERS = ("best", "random")


def new_forest(params: Params, seed: int) -> RandomForestClassifier:
    """Return a forest of a point of the search space without trees: `grow` it."""
    return RandomForestClassifier(
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
    forest: RandomForestClassifier, trees: int, Z: np.ndarray, y: np.ndarray, weight: np.ndarray, n_classes: int
) -> RandomForestClassifier:
    """Grow a forest of `new_forest` to so many trees on expanded rows, as many of each of `SPLITTERS`.

    Classes without a row enter with weight 0, so that every forest has the same columns.
    """
    absent = np.setdiff1d(np.arange(n_classes), y)
    if len(absent):
        Z = np.concatenate([Z, np.repeat(Z[:1], len(absent), axis=0)])
        y, weight = np.r_[y, absent], np.r_[weight, np.zeros(len(absent))]
    grown = len(getattr(forest, "estimators_", []))
    for splitter, part in zip(SPLITTERS, np.array_split(np.arange(grown, trees), len(SPLITTERS)), strict=True):
        if len(part):
            forest.estimator.set_params(splitter=splitter)
            forest.set_params(n_estimators=int(part[-1]) + 1).fit(Z, y, sample_weight=weight)
    return forest


def merge(forests: list[RandomForestClassifier]) -> RandomForestClassifier:
    """Return one forest with the trees of all; they were fitted with the same columns and classes."""
    whole = forests[0]
    whole.estimators_ = [tree for forest in forests for tree in forest.estimators_]
    whole.n_estimators = len(whole.estimators_)
    return whole


def cross_fit(
    params: Params, data: ThreatData, held: Held, *, seed: int, sizes: Sequence[int], report: Report | None = None
) -> tuple[list[RandomForestClassifier], np.ndarray]:
    """Grow the folds' forests together, to each of ``sizes`` trees in turn.

    Returns
    -------
    forests : list of RandomForestClassifier
        One a fold.
    votes : ndarray, (n_entries, n_classes)
        Mean votes of the whole forests for rows they did not see.
    """
    n_classes = len(data.classes)
    X_held, truth = data.X[data.rows[held.row]], data.y[data.rows[held.row]]
    forests, training, unseen = [], [], []
    for fold in range(held.folds):
        chosen = (data.group_fold != fold) & (data.row_fold != fold)
        rows, X, weight = training_rows(params, data, chosen, seed)
        inputs, mine = fold_inputs(data, chosen), held.fold == fold
        training.append((inputs.expand(X), data.y[data.rows[rows]], weight))
        unseen.append((mine, inputs.expand(X_held[mine])))
        forests.append(new_forest(params, seed + 100 * fold))
    total = np.zeros((len(held.row), n_classes))
    for step, (grown, size) in enumerate(pairwise([0, *sizes]), start=1):
        for fold, forest in enumerate(forests):
            grow(forest, size, *training[fold], n_classes)
            mine, Z = unseen[fold]
            for tree in forest.estimators_[grown:]:
                total[mine] += tree.predict_proba(Z)
        if report is not None:
            report(step, selection(total / size, truth, held.weight, class_prior(data)))
    return forests, total / sizes[-1]
