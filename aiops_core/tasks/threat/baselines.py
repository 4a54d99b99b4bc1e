"""What the model has to beat, and what is possible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from aiops_core import rules
from aiops_core.data.splits import TRAIN
from aiops_core.servable.threat import expected_cost_label
from aiops_core.tasks.threat.data import Prediction, ThreatData
from aiops_core.tasks.threat.decision import best_weights, choose_alpha, decision_weights
from aiops_core.tasks.threat.rows import class_prior, held_out


def baselines(data: ThreatData, *, seed: int) -> dict[str, Prediction]:
    """Return test predictions of guesses, of the untrained rules where they apply, and of gradient-boosted trees.

    Returns
    -------
    dict
        ``class_prior`` always answers the most frequent class; ``prior_draw`` draws from the class shares, which is
        the best that macro-F1 allows without looking at the features; ``rules`` only where its features and classes
        occur; ``hist_gradient_boosting`` learns from the same rows and weights as the forest, and its decision
        weights are chosen on the same kind of validation rows (first fold).
    """
    rows = data.index("test")
    share = np.bincount(data.y[data.part == TRAIN], minlength=len(data.classes)).astype(float)
    share /= share.sum()
    guess = np.tile(share, (len(rows), 1))
    drawn = np.random.default_rng([seed, 29]).choice(len(share), len(rows), p=share)
    found: dict[str, Prediction] = {
        "class_prior": {"probability": guess, "label": np.full(len(rows), int(share.argmax()), dtype=np.int64)},
        "prior_draw": {"probability": guess, "label": drawn.astype(np.int64)},
    }
    names = data.info["features"]
    leading = {signature[0][0] for label, signature in rules.THREAT_RULES.items() if label in data.classes}
    numbers = [j for j, feature in enumerate(data.features) if feature["dtype"] == "number"]
    if leading & {names[j] for j in numbers}:
        probability = rules.threat_rules(data.X[rows][:, numbers], [names[j] for j in numbers], data.classes)
        found["rules"] = {"probability": probability, "label": probability.argmax(axis=1)}
    found["hist_gradient_boosting"] = _boosted(data, rows, seed)
    return found


def _boosted(data: ThreatData, rows: np.ndarray, seed: int) -> Prediction:
    categorical = [feature["dtype"] == "category" for feature in data.features]

    def fitted(chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=15,
            min_samples_leaf=5,
            learning_rate=0.1,
            # Without it the leaves of classes with a handful of rows explode, and the baseline is a straw man.
            l2_regularization=5.0,
            early_stopping=False,
            categorical_features=categorical if any(categorical) else None,
            random_state=seed,
        )
        # Several threads that wait for each other stand still on a busy machine.
        with threadpool_limits(1, user_api="openmp"):
            model.fit(data.X[data.rows[chosen]], data.y[data.rows[chosen]], sample_weight=data.weight[chosen])

        def probability(X: np.ndarray) -> np.ndarray:
            out = np.zeros((len(X), len(data.classes)))
            out[:, model.classes_] = model.predict_proba(X)
            return out

        return probability

    held = held_out(data, 1)
    first = fitted((data.group_fold != 0) & (data.row_fold != 0))
    truth = data.y[data.rows[held.row]]
    prior = class_prior(data)
    alpha, _ = choose_alpha(truth, first(data.X[data.rows[held.row]]), held.weight, prior)
    probability = fitted(np.ones(len(data.rows), dtype=bool))(data.X[rows])
    return _decided(probability, prior, alpha, data)


def oracle(data: ThreatData) -> Prediction | None:
    """Return the exact posterior on test rows with the decision a perfect model would take, if it is known."""
    if data.oracle is None:
        return None
    # The best decision for macro-F1 is not the most probable class: its weights are those of highest F1 in validation.
    train = np.flatnonzero(data.part == TRAIN)
    weights = best_weights(data.y[train], data.oracle[train])
    probability = data.oracle[data.index("test")]
    return {
        "probability": probability,
        "label": expected_cost_label(probability, weights=weights, costs=data.costs),
    }


def _decided(probability: np.ndarray, prior: np.ndarray, alpha: float, data: ThreatData) -> Prediction:
    label = expected_cost_label(probability, weights=decision_weights(prior, alpha), costs=data.costs)
    return {"probability": probability, "label": label}
