"""What the model has to beat, and what is possible."""

from __future__ import annotations

import numpy as np

from aiops_core import rules
from aiops_core.data.splits import TRAIN
from aiops_core.servable.threat import expected_cost_label
from aiops_core.tasks.threat.data import Prediction, ThreatData
from aiops_core.tasks.threat.decision import best_weights
from aiops_core.tasks.threat.learners import learned


def baselines(data: ThreatData, *, seed: int) -> dict[str, Prediction]:
    """Return test predictions of guesses, of the untrained rules where they apply, and of tuned learners.

    Returns
    -------
    dict
        ``class_prior`` always answers the most frequent class; ``prior_draw`` draws from the class shares, which is
        the best that macro-F1 allows without looking at the features; ``rules`` only where its features and classes
        occur; ``hist_gradient_boosting``, ``random_forest`` and ``logistic_regression`` are tuned, calibrated and decided
        on the out-of-fold rows of the model's folds, see `learners.tuned`.
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
    numbers = [j for j, feature in enumerate(data.columns) if feature["dtype"] == "number"]
    if leading & {names[j] for j in numbers}:
        probability = rules.threat_rules(data.X[rows][:, numbers], [names[j] for j in numbers], data.classes)
        found["rules"] = {"probability": probability, "label": probability.argmax(axis=1)}
    return found | learned(data, seed=seed)


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
