"""Pure metrics: truth and prediction in, plain dicts out, each value with a 95 % bootstrap interval.

Intervals come from a cluster bootstrap: whole clusters (a resource's day, a resource, a row) are drawn with
replacement, because neighbouring windows share most of their content and drawing single rows would make every
interval too narrow. A replicate is a vector of row weights, so no data is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypedDict

import numpy as np

__all__ = [
    "LOWER_IS_BETTER",
    "WORDS",
    "Gain",
    "Metric",
    "apply_temperature",
    "brier",
    "capacity",
    "capacity_values",
    "ece",
    "f1_threshold",
    "failure",
    "failure_values",
    "interval",
    "paired",
    "pinball",
    "precision_recall_curve",
    "reliability_curve",
    "threat",
    "threat_values",
]

N_BOOT = 300
#: Draws of a paired comparison: with 300, the lower end that decides a promotion would itself vary from seed to seed.
N_PAIRED = 5_000
BINS = 15
EPS = 1e-12

#: Metrics for a reader.
WORDS = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "log_loss": "log loss",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "mase": "MASE",
    "wape": "WAPE",
    "pinball": "pinball loss",
    "coverage_80": "coverage of the 80 % band",
}
LOWER_IS_BETTER = frozenset({"brier", "ece", "log_loss", "mae", "rmse", "mase", "wape", "pinball"})


class Metric(TypedDict):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Gain(Metric):
    """How much better one prediction is than another on the same rows: positive means better, whatever the metric.

    ``own`` and ``other`` are the metric's values of the two.
    """

    own: float
    other: float


Values = dict[str, float]
Weighted = Callable[[np.ndarray], Values]


def interval(value: float, replicates: np.ndarray) -> Metric:
    """Return a value with the 2.5 and 97.5 percentiles of its bootstrap replicates; non-finite ones are left out.

    Resampling adds to a calibration error, so that all replicates can lie above it: the interval reaches to the value.
    """
    finite = replicates[np.isfinite(replicates)]
    if len(finite) == 0 or not np.isfinite(value):
        return {"value": float(value), "low": float("nan"), "high": float("nan")}
    low, high = np.percentile(finite, [2.5, 97.5])
    return {"value": float(value), "low": min(float(low), float(value)), "high": max(float(high), float(value))}


def _replicates(n: int, clusters: np.ndarray | None, seed: int, n_boot: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, 20251])
    if clusters is None:
        index, size = np.arange(n), n
    else:
        _, index = np.unique(clusters, return_inverse=True)
        size = int(index.max()) + 1 if n else 0
    return [rng.multinomial(size, np.full(size, 1.0 / size)).astype(float)[index] for _ in range(n_boot)]


def _bootstrap(values: Weighted, n: int, clusters: np.ndarray | None, seed: int, n_boot: int) -> dict[str, Metric]:
    point = values(np.ones(n))
    draws = [values(weight) for weight in _replicates(n, clusters, seed, n_boot)]
    return {name: interval(value, np.array([draw[name] for draw in draws])) for name, value in point.items()}


# Failure: two classes ------------------------------------------------------------------------------------------


def failure_values(truth: np.ndarray, probability: np.ndarray, alarm: np.ndarray) -> Weighted:
    """Return a function of row weights giving the failure metrics.

    Parameters
    ----------
    truth : ndarray, (n,), 0 or 1
    probability : ndarray, (n,), in [0, 1]
        Higher means that a failure is more likely.
    alarm : ndarray, (n,), bool
        The decision taken.

    Returns
    -------
    callable
        Weights (n,) to ``roc_auc, average_precision, f1, precision, recall, brier, ece``.
    """
    truth = np.asarray(truth).astype(float)
    probability = np.asarray(probability, dtype=float)
    alarm = np.asarray(alarm).astype(float)
    order = np.argsort(-probability, kind="stable")
    sorted_truth = truth[order]
    sorted_score = probability[order]
    # Rows with equal scores share one threshold: only the last row of a tie is a cut.
    cut = np.r_[np.diff(sorted_score) != 0, True] if len(order) else np.zeros(0, dtype=bool)
    bins = _mass_bins(probability)
    squared = (probability - truth) ** 2

    def values(weight: np.ndarray) -> Values:
        w = weight[order]
        tp = np.cumsum(w * sorted_truth)[cut]
        fp = np.cumsum(w * (1 - sorted_truth))[cut]
        positives, negatives = (tp[-1], fp[-1]) if len(tp) else (0.0, 0.0)
        tpr, fpr = np.r_[0.0, tp] / max(positives, EPS), np.r_[0.0, fp] / max(negatives, EPS)
        auc = float(np.trapezoid(tpr, fpr)) if positives > 0 and negatives > 0 else float("nan")
        precisions = tp / np.maximum(tp + fp, EPS)
        average = float(np.sum(np.diff(tpr) * precisions)) if positives > 0 else float("nan")
        hit = float(np.sum(weight * alarm * truth))
        raised = float(np.sum(weight * alarm))
        precision = hit / raised if raised > 0 else 0.0
        recall = hit / positives if positives > 0 else float("nan")
        f1 = 2 * hit / (raised + positives) if raised + positives > 0 else 0.0
        return {
            "roc_auc": auc,
            "average_precision": average,
            "f1": float(f1),
            "precision": float(precision),
            "recall": float(recall),
            "brier": float(np.sum(weight * squared) / max(np.sum(weight), EPS)),
            "ece": _binned_error(bins, probability, truth, weight),
        }

    return values


def failure(
    truth: np.ndarray,
    probability: np.ndarray,
    alarm: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
) -> dict[str, Metric]:
    """Score failure probabilities and alarms, with intervals.

    Examples
    --------
    >>> import numpy as np
    >>> score = failure(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, False, True]))
    >>> score["roc_auc"]["value"], score["precision"]["value"]
    (0.75, 1.0)
    """
    return _bootstrap(failure_values(truth, probability, alarm), len(truth), clusters, seed, n_boot)


# Threat: several classes ---------------------------------------------------------------------------------------


def threat_values(truth: np.ndarray, probability: np.ndarray, label: np.ndarray, classes: list[str]) -> Weighted:
    """Return a function of row weights giving ``accuracy, macro_f1, log_loss, ece`` and ``f1_<class>``.

    Parameters
    ----------
    truth, label : ndarray, (n,), int
        Index of the true and of the decided class.
    probability : ndarray, (n, n_classes), rows sum to 1
    classes : list of str

    Notes
    -----
    Macro-F1 averages the classes that occur in truth or decision of the rows, as scikit-learn does.
    """
    truth = np.asarray(truth, dtype=np.int64)
    label = np.asarray(label, dtype=np.int64)
    n, k = len(truth), len(classes)
    loss = -np.log(np.clip(probability[np.arange(n), truth], 1e-7, 1.0))
    top = probability.max(axis=1)
    top_hit = (probability.argmax(axis=1) == truth).astype(float)
    bins = _mass_bins(top)
    cell = truth * k + label

    def values(weight: np.ndarray) -> Values:
        total = max(float(weight.sum()), EPS)
        confusion = np.bincount(cell, weights=weight, minlength=k * k).reshape(k, k)
        hit = np.diag(confusion)
        size = confusion.sum(axis=0) + confusion.sum(axis=1)
        f1 = np.where(size > 0, 2 * hit / np.maximum(size, EPS), np.nan)
        out = {
            "accuracy": float(hit.sum() / total),
            "macro_f1": float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan"),
            "log_loss": float(np.sum(weight * loss) / total),
            "ece": _binned_error(bins, top, top_hit, weight),
        }
        out.update({f"f1_{name}": float(f1[i]) for i, name in enumerate(classes)})
        return out

    return values


def threat(
    truth: np.ndarray,
    probability: np.ndarray,
    label: np.ndarray,
    *,
    classes: list[str],
    clusters: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
) -> dict[str, Metric]:
    """Score class probabilities and decisions, with intervals; see `threat_values`."""
    return _bootstrap(threat_values(truth, probability, label, classes), len(truth), clusters, seed, n_boot)


# Capacity: forecasts -------------------------------------------------------------------------------------------


def pinball(truth: np.ndarray, prediction: np.ndarray, quantile: float) -> np.ndarray:
    """Return the pinball loss of every row; lower is better (Koenker and Bassett 1978)."""
    error = np.asarray(truth, dtype=float) - np.asarray(prediction, dtype=float)
    return np.asarray(np.maximum(quantile * error, (quantile - 1) * error))


def capacity_values(
    truth: np.ndarray,
    p50: np.ndarray,
    p10: np.ndarray | None,
    p90: np.ndarray | None,
    *,
    scale: np.ndarray,
    target: np.ndarray,
) -> Weighted:
    """Return a function of row weights giving ``mae, rmse, r2, mase, wape`` and, with a band, ``pinball, coverage_80``.

    Parameters
    ----------
    truth, p10, p50, p90 : ndarray, (n,), in units of the target
    scale : ndarray, (n,)
        In-sample seasonal-naive MAE of the row's series (Hyndman and Koehler 2006); rows with 0 are left out of mase.
    target : ndarray, (n,), int
        Which target a row belongs to: R² is taken per target, then averaged, because targets differ in unit.

    Notes
    -----
    ``pinball`` is the mean over the quantiles 0.1, 0.5 and 0.9; ``coverage_80`` the share of rows inside [p10, p90].
    """
    truth = np.asarray(truth, dtype=float)
    p50 = np.asarray(p50, dtype=float)
    target = np.asarray(target, dtype=np.int64)
    error = np.abs(truth - p50)
    squared = error**2
    usable = scale > 0
    scaled = np.where(usable, error / np.where(usable, scale, 1.0), 0.0)
    band = p10 is not None and p90 is not None
    if p10 is not None and p90 is not None:
        loss = (pinball(truth, p10, 0.1) + pinball(truth, p50, 0.5) + pinball(truth, p90, 0.9)) / 3
        inside = ((truth >= p10) & (truth <= p90)).astype(float)
    k = int(target.max()) + 1 if len(target) else 1

    def values(weight: np.ndarray) -> Values:
        total = max(float(weight.sum()), EPS)
        size = np.bincount(target, weights=weight, minlength=k)
        mean = np.bincount(target, weights=weight * truth, minlength=k) / np.maximum(size, EPS)
        spread = np.bincount(target, weights=weight * (truth - mean[target]) ** 2, minlength=k)
        residual = np.bincount(target, weights=weight * squared, minlength=k)
        some = spread > EPS
        out = {
            "mae": float(np.sum(weight * error) / total),
            "rmse": float(np.sqrt(np.sum(weight * squared) / total)),
            "r2": float(np.mean(1 - residual[some] / spread[some])) if some.any() else float("nan"),
            "mase": float(np.sum(weight * scaled) / max(float(np.sum(weight * usable)), EPS)),
            "wape": float(np.sum(weight * error) / max(float(np.sum(weight * np.abs(truth))), EPS)),
        }
        if band:
            out["pinball"] = float(np.sum(weight * loss) / total)
            out["coverage_80"] = float(np.sum(weight * inside) / total)
        return out

    return values


def capacity(
    truth: np.ndarray,
    p50: np.ndarray,
    p10: np.ndarray | None = None,
    p90: np.ndarray | None = None,
    *,
    scale: np.ndarray,
    target: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
) -> dict[str, Metric]:
    """Score forecasts, with intervals; see `capacity_values`."""
    values = capacity_values(truth, p50, p10, p90, scale=scale, target=target)
    return _bootstrap(values, len(truth), clusters, seed, n_boot)


# Comparison ----------------------------------------------------------------------------------------------------


def paired(
    own: Weighted,
    others: Mapping[str, Weighted],
    n: int,
    *,
    only: tuple[str, ...],
    clusters: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = N_PAIRED,
) -> dict[str, dict[str, Gain]]:
    """Compare a prediction with others of the same rows, on the same resamples for all.

    Parameters
    ----------
    own : callable
        As returned by `failure_values`, `threat_values` or `capacity_values`.
    others : mapping of str to callable
        By name.
    n : int
        Number of rows.
    only : tuple of str
        Metrics to compare.
    clusters : ndarray, (n,), optional
        Units that are drawn whole.

    Returns
    -------
    dict of str to dict of str to Gain
        By opponent and metric. An interval above 0: ``own`` is better beyond chance; below 0: the other one is.
    """
    everyone = {"": own, **others}
    ones = np.ones(n)
    point = {name: values(ones) for name, values in everyone.items()}
    draws = {name: np.empty((n_boot, len(only))) for name in everyone}
    for i, weight in enumerate(_resamples(n, clusters, seed, n_boot)):
        for name, values in everyone.items():
            found = values(weight)
            draws[name][i] = [found[metric] for metric in only]
    gains: dict[str, dict[str, Gain]] = {}
    for name in others:
        gains[name] = {}
        for j, metric in enumerate(only):
            sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
            mine, theirs = point[""][metric], point[name][metric]
            found_interval = interval(sign * (mine - theirs), sign * (draws[""][:, j] - draws[name][:, j]))
            gains[name][metric] = {**found_interval, "own": float(mine), "other": float(theirs)}
    return gains


def _resamples(n: int, clusters: np.ndarray | None, seed: int, n_boot: int) -> Iterator[np.ndarray]:
    """Yield row weights like `_replicates`, one at a time and drawn the faster way."""
    rng = np.random.default_rng([seed, 20262])
    index = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    size = int(index.max()) + 1 if n else 0
    for _ in range(n_boot):
        yield np.bincount(rng.integers(0, size, size), minlength=size).astype(float)[index]


# Calibration and thresholds ------------------------------------------------------------------------------------


def _mass_bins(score: np.ndarray, bins: int = BINS) -> np.ndarray:
    if len(score) == 0:
        return np.zeros(0, dtype=np.int64)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, score, side="right")


def _binned_error(bins: np.ndarray, score: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    gap = np.bincount(bins, weights=weight * (score - truth), minlength=1)
    return float(np.abs(gap).sum() / max(float(weight.sum()), EPS))


def ece(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equal mass; lower is better (Naeini et al. 2015).

    Parameters
    ----------
    truth : ndarray, (n,)
        0 or 1; for several classes whether the most probable class was right, or the class index.
    probability : ndarray, (n,) or (n, n_classes)
        With two dimensions the error of the most probable class is measured.
    """
    probability = np.asarray(probability, dtype=float)
    truth = np.asarray(truth)
    if probability.ndim == 2:
        truth = (probability.argmax(axis=1) == truth).astype(float)
        probability = probability.max(axis=1)
    return _binned_error(_mass_bins(probability, bins), probability, truth.astype(float), np.ones(len(truth)))


def brier(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean squared error of probabilities; lower is better (Brier 1950)."""
    return float(np.mean((np.asarray(probability, dtype=float) - np.asarray(truth, dtype=float)) ** 2))


def reliability_curve(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> dict[str, list[float]]:
    """Return mean prediction, observed frequency and row count of each equal-mass bin, in ascending order."""
    probability = np.asarray(probability, dtype=float)
    index = _mass_bins(probability, bins)
    count = np.bincount(index)
    some = count > 0
    mean = np.bincount(index, weights=probability)[some] / count[some]
    observed = np.bincount(index, weights=np.asarray(truth, dtype=float))[some] / count[some]
    return {"predicted": mean.tolist(), "observed": observed.tolist(), "count": count[some].astype(float).tolist()}


def precision_recall_curve(truth: np.ndarray, score: np.ndarray, points: int = 200) -> dict[str, list[float]]:
    """Return precision and recall at up to ``points`` thresholds, from the strictest to the loosest."""
    order = np.argsort(-np.asarray(score, dtype=float), kind="stable")
    hit = np.cumsum(np.asarray(truth)[order].astype(float))
    ranked = np.asarray(score, dtype=float)[order]
    cut = np.flatnonzero(np.r_[np.diff(ranked) != 0, True])
    if len(cut) > points:
        cut = cut[np.unique(np.linspace(0, len(cut) - 1, points).astype(int))]
    total = max(hit[-1] if len(hit) else 0.0, EPS)
    return {
        "threshold": ranked[cut].tolist(),
        "precision": (hit[cut] / (cut + 1)).tolist(),
        "recall": (hit[cut] / total).tolist(),
    }


def f1_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the threshold of highest F1 (``alarm = probability >= threshold``), 0.5 when there is no positive."""
    truth = np.asarray(truth).astype(float)
    probability = np.asarray(probability, dtype=float)
    if truth.sum() == 0:
        return 0.5
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    hit = np.cumsum(truth[order])
    raised = np.arange(1, len(truth) + 1)
    f1 = 2 * hit / (raised + truth.sum())
    cut = np.r_[np.diff(ranked) != 0, True]
    best = int(np.argmax(np.where(cut, f1, -1.0)))
    # Half way to the next lower score, so that rounding in another runtime does not flip the decision.
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] * 0.9
    return float((ranked[best] + below) / 2)


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return ``softmax(logits / temperature)``, (n, n_classes); a temperature above 1 makes predictions less sure."""
    scaled = np.asarray(logits, dtype=float) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    odds = np.exp(scaled)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
