"""Learned baselines: boosted trees, a forest and logistic regression, each tuned over a small fixed grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, QuantileTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from aiops_core.servable.threat import expected_cost_label
from aiops_core.tasks.threat.data import Prediction, ThreatData
from aiops_core.tasks.threat.decision import calibrate, choose_alpha, decision_weights, fit_calibration, selection
from aiops_core.tasks.threat.inputs import Inputs
from aiops_core.tasks.threat.rows import Held, class_prior, fold_inputs, held_out, trial_folds

#: Rows that the logistic regression learns from at most.
LINEAR_ROWS = 12_000

Point = dict[str, Any]


Learner = Callable[[ThreatData, Point, np.ndarray, np.ndarray, np.ndarray, int], ClassifierMixin]


def learned(data: ThreatData, *, seed: int) -> dict[str, Prediction]:
    """Return the test predictions of every learned baseline, by name."""
    return {name: tuned(data, learner, grid, seed=seed) for name, (learner, grid) in LEARNERS.items()}


def tuned(data: ThreatData, learner: Learner, grid: Sequence[Point], *, seed: int) -> Prediction:
    """Choose a point of the grid, calibrate it and weigh its decisions, all out of fold; fit on all training rows.

    Rows, weights, folds, their codes of categories, and the ways to calibrate and to decide are those of the model: the
    point is chosen on the folds that score a trial, and calibration and decision weights come from the rows of all.
    """
    prior, held = class_prior(data), held_out(data, data.effort.folds)
    truth = data.y[data.rows[held.row]]
    tried = held.fold < trial_folds(data)
    found = [_out_of_fold(data, learner, point, held, range(trial_folds(data)), seed) for point in grid]
    values = [selection(scores[tried], truth[tried], held.weight[tried], prior) for scores in found]
    best = int(np.argmax([value["selection"] for value in values]))
    rest = range(trial_folds(data), data.effort.folds)
    scores = found[best] + _out_of_fold(data, learner, grid[best], held, rest, seed)
    temperature, floor = fit_calibration(scores, truth, held.weight)
    alpha, _ = choose_alpha(truth, calibrate(scores, temperature, floor), held.weight, prior)
    final = _fitted(data, learner, grid[best], np.ones(len(data.rows), dtype=bool), data.inputs, seed)
    votes = _columns(final, data.X[data.index("test")], len(prior))
    probability = calibrate(votes, temperature, floor)
    label = expected_cost_label(probability, weights=decision_weights(prior, alpha), costs=data.costs)
    return {"probability": probability, "label": label}


def _out_of_fold(
    data: ThreatData, learner: Learner, point: Point, held: Held, folds: Iterable[int], seed: int
) -> np.ndarray:
    """Return the probabilities of a point for the held rows of some folds, (n_entries, n_classes); 0 for the others."""
    out = np.zeros((len(held.row), len(data.classes)))
    for fold in folds:
        kept, mine = (data.group_fold != fold) & (data.row_fold != fold), held.fold == fold
        inputs = fold_inputs(data, kept)
        fitted = _fitted(data, learner, point, kept, inputs, seed)
        out[mine] = _columns(fitted, inputs.recoded(data.X[data.rows[held.row[mine]]]), len(data.classes))
    return out


def _fitted(
    data: ThreatData, learner: Learner, point: Point, kept: np.ndarray, inputs: Inputs, seed: int
) -> ClassifierMixin:
    rows = data.rows[kept]
    X, y, weight = inputs.recoded(data.X[rows]), data.y[rows], data.weight[kept]
    if (y == y[0]).all():
        # A fold may leave out the only row of a class, and some learners refuse what is left.
        return DummyClassifier().fit(X, y)
    return learner(data, point, X, y, weight, seed)


def _columns(fitted: ClassifierMixin, X: np.ndarray, n_classes: int) -> np.ndarray:
    out = np.zeros((len(X), n_classes))
    out[:, fitted.classes_] = fitted.predict_proba(X)
    return out


def _boosted(
    data: ThreatData, point: Point, X: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int
) -> ClassifierMixin:
    categorical = [feature["dtype"] == "category" for feature in data.features]
    model = HistGradientBoostingClassifier(
        max_leaf_nodes=point["leaves"],
        max_iter=point["rounds"],
        learning_rate=point["rate"],
        min_samples_leaf=5,
        # Without it the leaves of classes with a handful of rows explode, and the baseline is a straw man.
        l2_regularization=5.0,
        early_stopping=False,
        categorical_features=categorical if any(categorical) else None,
        random_state=seed,
    )
    # Several threads that wait for each other stand still on a busy machine.
    with threadpool_limits(1, user_api="openmp"):
        model.fit(X, y, sample_weight=weight)
    return model


def _forest(
    data: ThreatData, point: Point, X: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int
) -> ClassifierMixin:
    forest = RandomForestClassifier(
        n_estimators=100, min_samples_leaf=point["least"], max_features="sqrt", n_jobs=2, random_state=seed
    )
    model = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), forest)
    model.fit(X, y, randomforestclassifier__sample_weight=weight)
    # Threads add up the trees in any order.
    forest.n_jobs = 1
    return model


def _signed_log(X: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(X) * np.log1p(np.abs(X)))


def _linear(
    data: ThreatData, point: Point, X: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int
) -> ClassifierMixin:
    if len(y) > LINEAR_ROWS:
        some = np.random.default_rng([seed, 37]).permutation(len(y))[:LINEAR_ROWS]
        # A class that the sample lost keeps its rows.
        some = np.union1d(some, np.flatnonzero(~np.isin(y, y[some])))
        X, y, weight = X[some], y[some], weight[some]
    category = np.array([feature["dtype"] == "category" for feature in data.features])
    tamed = (
        FunctionTransformer(_signed_log)
        if point["shape"] == "log"
        else QuantileTransformer(n_quantiles=min(200, len(y)), output_distribution="normal", random_state=seed)
    )
    number = make_pipeline(tamed, StandardScaler(), SimpleImputer(strategy="median", add_indicator=True))
    one_hot = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1), OneHotEncoder(handle_unknown="ignore", min_frequency=5)
    )
    columns = ColumnTransformer(
        [("number", number, np.flatnonzero(~category)), ("category", one_hot, np.flatnonzero(category))],
        sparse_threshold=0.0,
    )
    regression = LogisticRegression(C=point["strength"], max_iter=100, tol=1e-3, class_weight=point["balance"])
    model = Pipeline([("columns", columns), ("regression", regression)])
    with warnings.catch_warnings():
        # An iteration more or less does not change what a baseline shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y, regression__sample_weight=weight)
    return model


#: Learner and fixed grid of each learned baseline.
LEARNERS: dict[str, tuple[Learner, list[Point]]] = {
    "hist_gradient_boosting": (
        _boosted,
        [{"leaves": 15, "rounds": 60, "rate": 0.1}, {"leaves": 6, "rounds": 100, "rate": 0.1}],
    ),
    "random_forest": (
        _forest,
        [{"least": 1}, {"least": 3}],
    ),
    "logistic_regression": (
        _linear,
        [
            {"shape": "log", "strength": 1.0, "balance": None},
            {"shape": "log", "strength": 1.0, "balance": "balanced"},
            {"shape": "quantile", "strength": 1.0, "balance": None},
            {"shape": "quantile", "strength": 1.0, "balance": "balanced"},
        ],
    ),
}
