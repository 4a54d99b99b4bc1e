"""What a model must beat: the class prior, the untrained rules, recurring incidents, and trees on window statistics."""

from __future__ import annotations

import numpy as np

from aiops_core import rules
from aiops_core.tasks.failure.data import FailureData, Prediction
from aiops_core.tasks.failure.decision import highest_f1
from aiops_core.tasks.failure.recurrence import choose_bandwidth, recurrence
from aiops_core.tasks.failure.split import rows_before_test
from aiops_core.tasks.failure.trees import chosen_trees, final_trees, tree_probability
from aiops_core.tasks.failure.window_statistics import window_statistics

#: The rules need this many of their metrics to be a fair baseline.
MIN_RULE_METRICS = 3


def baselines(data: FailureData, *, seed: int) -> dict[str, Prediction]:
    """Return the predictions of the baselines on the test part.

    ``class_prior`` predicts the training base rate; ``rules`` is the legacy rule set, where the data set has the
    metrics it needs; ``recurrence`` knows the times of day of past incidents, and no telemetry;
    ``hist_gradient_boosting``, ``random_forest`` and ``extra_trees`` learn statistics of the same windows from all
    labelled rows. Validation chooses a point of a small grid and the threshold of highest F1; then training and
    validation rows are learned together.
    """
    n = len(data.ends["test"])
    out: dict[str, Prediction] = {
        "class_prior": {
            "probability": np.full(n, float(data.truth("train").mean())),
            "alarm": np.ones(n, dtype=bool),
        }
    }
    ruled = _rules(data)
    if ruled is not None:
        out["rules"] = ruled
    out["recurrence"] = _recurrence(data, rows_before_test(data))
    return out | _trees(data, seed=seed)


def _trees(data: FailureData, *, seed: int) -> dict[str, Prediction]:
    """Predict the test part by every family of trees; validation chose its point and its threshold."""
    chosen, models = chosen_trees(data, seed=seed), final_trees(data, seed=seed)
    tested, truth, out = window_statistics(data, data.ends["test"]), data.truth("validation"), {}
    for family, model in models.items():
        found = tree_probability(model, tested)
        out[family] = {"probability": found, "alarm": found >= highest_f1(truth, chosen[family][1])}
    return out


def _rules(data: FailureData) -> Prediction | None:
    """Return the prediction of the untrained rules from each window's last row, None with too few of their metrics."""
    predictor = rules.RuleBasedFailurePredictor()
    names = [feature["name"] for feature in data.features]
    if len(set(names) & set(predictor.metrics)) < MIN_RULE_METRICS:
        return None
    check = data.ends["validation"]
    threshold = highest_f1(data.label(check), predictor.predict(data.values[check], names))
    found = predictor.predict(data.values[data.ends["test"]], names)
    return {"probability": found, "alarm": found >= threshold}


def _recurrence(data: FailureData, both: np.ndarray) -> Prediction:
    bandwidth, tried = choose_bandwidth(data)
    found = recurrence(data, both, data.ends["test"], bandwidth)
    return {"probability": found, "alarm": found >= highest_f1(data.truth("validation"), tried)}
