"""Metrics of the three tasks: truth and prediction in, plain dicts out, each value with a 95 % bootstrap interval."""

from __future__ import annotations

import numpy as np

from aiops_core.judge.curves import EPS, binned_error, descending, mass_bins
from aiops_core.judge.intervals import N_BOOT, Metric, Values, Weighted, bootstrap

__all__ = [
    "WORDS",
    "capacity",
    "capacity_values",
    "f1_by_class",
    "failure",
    "failure_values",
    "pinball",
    "threat",
    "threat_values",
]

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
    order, _, cut = descending(probability)
    sorted_truth = truth[order]
    bins = mass_bins(probability)
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
            "ece": binned_error(bins, probability, truth, weight),
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
    return bootstrap(failure_values(truth, probability, alarm), len(truth), clusters, seed, n_boot)


def f1_by_class(confusion: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, (n_classes,), from counts or weights (true by decided); NaN where a class is in neither."""
    size = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.where(size > 0, 2 * np.diag(confusion) / np.maximum(size, EPS), np.nan)


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
    bins = mass_bins(top)
    cell = truth * k + label

    def values(weight: np.ndarray) -> Values:
        total = max(float(weight.sum()), EPS)
        confusion = np.bincount(cell, weights=weight, minlength=k * k).reshape(k, k)
        f1 = f1_by_class(confusion)
        out = {
            "accuracy": float(np.diag(confusion).sum() / total),
            "macro_f1": float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan"),
            "log_loss": float(np.sum(weight * loss) / total),
            "ece": binned_error(bins, top, top_hit, weight),
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
    return bootstrap(threat_values(truth, probability, label, classes), len(truth), clusters, seed, n_boot)


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
    return bootstrap(values, len(truth), clusters, seed, n_boot)
