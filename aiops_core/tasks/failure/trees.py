"""Trees on window statistics: the rows they learn from, the small grid they are chosen from, and their probabilities.

A fitted model knows nothing of baselines: what `fit_trees` returns predicts the statistics of any windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from aiops_core.data import splits
from aiops_core.servable.failure import log_odds
from aiops_core.tasks.failure.data import FailureData
from aiops_core.tasks.failure.split import rows_before_test, thin_rows
from aiops_core.tasks.failure.window_statistics import window_statistics

#: By family, the points that validation chooses from: one that fits closely, one for few incidents in many metrics.
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "hist_gradient_boosting": (
        {"learning_rate": 0.08, "min_samples_leaf": 20},
        {"learning_rate": 0.05, "min_samples_leaf": 100, "l2_regularization": 10.0, "max_features": 0.2},
    ),
    "random_forest": (
        {"min_samples_leaf": 5, "max_features": "log2"},
        {"min_samples_leaf": 20, "max_features": "log2"},
    ),
    "extra_trees": ({"min_samples_leaf": 3}, {"min_samples_leaf": 20}),
}
#: Rows that one tree of a forest draws: the trees see all rows together, and differ more.
TREE_ROWS = 9_000
#: Rounds and trees while choosing, as a share of the final ones.
TRIAL_SHARE = 0.25


def learning_rows(data: FailureData, rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to learn from and their weights: all, or all positive ones and evenly thinned negative ones.

    Returns
    -------
    rows : ndarray, (n,)
        About ``most`` of them at most, ascending.
    weight : ndarray, (n,), float64
        1, and of thinned rows the number that each stands for.
    """
    if len(rows) <= most:
        return rows, np.ones(len(rows))
    truth = data.label(rows)
    positive, negative = rows[truth == 1], rows[truth == 0]
    positive_kept = thin_rows(positive, most // 2)
    kept = thin_rows(negative, most - len(positive_kept))
    found = np.sort(np.r_[positive_kept, kept])
    share = np.where(data.label(found) == 1, len(positive) / max(len(positive_kept), 1), len(negative) / len(kept))
    return found, share


def fit_trees(
    family: str,
    params: Mapping[str, Any],
    x: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
    *,
    trees: int,
    seed: int,
) -> Any:
    """Fit one model of a family of `GRID`.

    Parameters
    ----------
    x : ndarray, (n, 7 * n_features)
        See `window_statistics`.
    truth : ndarray, (n,), 0 or 1
    weight : ndarray, (n,)
    trees : int
        Rounds of boosting, or trees of the forest.

    Returns
    -------
    object
        A scikit-learn classifier; equal for any number of threads.
    """
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier

    if family == "hist_gradient_boosting":
        boosted = HistGradientBoostingClassifier(
            max_iter=trees, max_leaf_nodes=15, max_bins=63, early_stopping=False, random_state=seed, **params
        )
        # One thread: several wait for each other as soon as another process keeps a core busy.
        with threadpool_limits(1):
            return boosted.fit(x, truth, sample_weight=weight)
    kind = {"random_forest": RandomForestClassifier, "extra_trees": ExtraTreesClassifier}[family]
    drawn = {"bootstrap": True, "max_samples": min(TREE_ROWS, len(x))}
    forest = kind(trees, n_jobs=2, random_state=seed, **drawn, **params)
    return forest.fit(x, truth, sample_weight=weight)


def tree_probability(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the probabilities that a fitted model gives to rows of `window_statistics`, (n,), float64."""
    if hasattr(model, "n_jobs"):
        # Threads add up the trees in the order in which they end: the sum would differ in its last digits.
        model.n_jobs = 1
    with threadpool_limits(1):
        return np.asarray(model.predict_proba(x)[:, 1])


def choose_trees(
    family: str,
    learned: tuple[np.ndarray, np.ndarray, np.ndarray],
    checked: tuple[np.ndarray, np.ndarray],
    *,
    trees: int,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray]:
    """Choose a point of the grid by average precision on validation rows.

    Parameters
    ----------
    learned : (ndarray, ndarray, ndarray)
        Statistics, truth and weight of training rows.
    checked : (ndarray, ndarray)
        Statistics and truth of validation rows.
    trees : int
        Of the final model: while choosing, a share of them does.

    Returns
    -------
    params : dict
    probability : ndarray, (n_checked,)
        Of the chosen point with all its trees, which did not learn from the validation rows.
    """
    from sklearn.metrics import average_precision_score

    def scored(params: dict[str, Any], count: int) -> np.ndarray:
        return tree_probability(fit_trees(family, params, *learned, trees=count, seed=seed), checked[0])

    few = max(1, round(TRIAL_SHARE * trees))
    reached = [average_precision_score(checked[1], scored(params, few)) for params in GRID[family]]
    chosen = GRID[family][int(np.argmax(reached))]
    # A threshold belongs to one scale of scores: boosting of few rounds stays nearer to the base rate than of all.
    return chosen, scored(chosen, trees)


def chosen_trees(data: FailureData, *, seed: int) -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    """Return by family the point that validation chooses, and its probabilities there; made once for a data set.

    Whoever asks first, a baseline or the final model, makes the choice, and its seed is that of the asker.
    """
    if "chosen" not in data.trees:
        train = np.flatnonzero((data.part == splits.TRAIN) & data.example)
        learned = _learned(data, train)
        checked = window_statistics(data, data.ends["validation"]), data.truth("validation")
        count = data.effort.baseline_trees
        data.trees["chosen"] = {
            family: choose_trees(family, learned, checked, trees=count, seed=seed) for family in GRID
        }
    return data.trees["chosen"]  # type: ignore[no-any-return]


def final_trees(data: FailureData, *, seed: int) -> dict[str, Any]:
    """Return by family the trees that have learned all rows before the test; made once for a data set and seed.

    The baselines and the members of the final model are the same fits.
    """
    if seed not in data.trees:
        chosen = chosen_trees(data, seed=seed)
        data.trees[seed] = trees_of(
            data, rows_before_test(data), {family: params for family, (params, _) in chosen.items()}, seed=seed
        )
    return data.trees[seed]  # type: ignore[no-any-return]


def trees_of(
    data: FailureData, rows: np.ndarray, params: Mapping[str, Mapping[str, Any]], *, seed: int
) -> dict[str, Any]:
    """Fit every family on rows."""
    learned, count = _learned(data, rows), data.effort.baseline_trees
    return {family: fit_trees(family, params[family], *learned, trees=count, seed=seed) for family in params}


def tree_logits(models: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Return the log odds that fitted models give to rows of `window_statistics`, (n, n_models), float64."""
    return log_odds(np.stack([tree_probability(model, x) for model in models.values()], axis=1))


def _learned(data: FailureData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept, weight = learning_rows(data, rows, data.effort.baseline_rows)
    return window_statistics(data, kept), data.label(kept), weight
