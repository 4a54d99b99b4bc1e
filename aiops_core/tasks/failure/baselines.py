"""What a model must beat: the class prior, the untrained rules, and gradient-boosted trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from aiops_core import rules
from aiops_core.tasks.failure.data import CHUNK, FailureData, Prediction
from aiops_core.tasks.failure.decision import highest_f1
from aiops_core.tasks.failure.split import thin_rows

#: The rules need this many of their metrics to be a fair baseline.
MIN_RULE_METRICS = 3


def baselines(data: FailureData, *, seed: int) -> dict[str, Prediction]:
    """Return the predictions of the baselines on the test part; thresholds of highest F1 on validation.

    ``class_prior`` predicts the training base rate; ``rules`` is the legacy rule set, where the data set has the
    metrics it needs; ``hist_gradient_boosting`` learns statistics of the same windows.
    """
    out: dict[str, Prediction] = {}
    prior = float(data.truth("train").mean())
    n = len(data.ends["test"])
    out["class_prior"] = {"probability": np.full(n, prior), "alarm": np.ones(n, dtype=bool)}
    ruled = _rules(data)
    if ruled is not None:
        out["rules"] = ruled
    out["hist_gradient_boosting"] = _boosting(data, seed)
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


def _boosting(data: FailureData, seed: int) -> Prediction:
    from sklearn.ensemble import HistGradientBoostingClassifier

    def learn(rows: np.ndarray) -> Any:
        model = HistGradientBoostingClassifier(
            max_iter=150,
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=20,
            early_stopping=False,
            random_state=seed,
        )
        return model.fit(_statistics(data, rows), data.label(rows))

    def probability(model: Any, rows: np.ndarray) -> np.ndarray:
        parts = [model.predict_proba(_statistics(data, rows[i : i + CHUNK]))[:, 1] for i in range(0, len(rows), CHUNK)]
        return np.concatenate(parts)

    train, validation = (data.ends[p] for p in ("train", "validation"))
    check = thin_rows(validation, data.effort.baseline_rows)
    both = thin_rows(np.sort(np.concatenate([train, validation])), data.effort.baseline_rows)
    # One thread: several wait for each other as soon as another process keeps a core busy.
    with threadpool_limits(1):
        first = probability(learn(thin_rows(train, data.effort.baseline_rows)), check)
        found = probability(learn(both), data.ends["test"])
    threshold = highest_f1(data.label(check), first)
    return {"probability": found, "alarm": found >= threshold}


def _statistics(data: FailureData, ends: np.ndarray) -> np.ndarray:
    """Return window statistics (n, 7 * n_features): last, mean, spread, least, greatest, recent change and trend."""
    import warnings

    windows = data.windows(ends)
    recent = max(1, data.window // 4)
    with warnings.catch_warnings():
        # A window without one value of a metric has no statistics: NaN is what the trees expect.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(windows, axis=1)
        late = np.nanmean(windows[:, -recent:], axis=1)
        columns = [
            windows[:, -1],
            mean,
            np.nanstd(windows, axis=1),
            np.nanmin(windows, axis=1),
            np.nanmax(windows, axis=1),
            late,
            late - np.nanmean(windows[:, :-recent], axis=1),
        ]
    return np.concatenate(columns, axis=1)
