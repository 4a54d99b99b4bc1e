"""Metrics of the three tasks: truth and prediction in, plain dicts out, each value with a 95 % bootstrap interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aiops_core.judge.curves import EPS, mass_bins
from aiops_core.judge.intervals import N_BOOT, Metric, bootstrap
from aiops_core.judge.summed import Summed, per_row
from aiops_core.judge.units import Units

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
    "nmae": "MAE in units of the target's usual error",
    "rmse": "RMSE",
    "r2": "R²",
    "mase": "MASE",
    "wape": "WAPE",
    "pinball": "pinball loss",
    "coverage_80": "coverage of the 80 % band",
}
#: Scores of positives that a resample tells apart.
MOST_CUTS = 400


def failure_values(truth: np.ndarray, probability: np.ndarray, alarm: np.ndarray) -> Summed:
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
    cut, tied, cuts = _positive_cuts(truth, probability)
    exact = _failure_sums(truth, probability, alarm, cut, tied, cuts)
    if cuts <= MOST_CUTS:
        return exact
    merged = np.minimum(cut, cuts - 1) * MOST_CUTS // cuts
    # Within a merged cut all rows count as tied; rows behind the last cut stay behind it.
    behind = cut == cuts
    coarse = _failure_sums(
        truth, probability, alarm, np.where(behind, MOST_CUTS, merged), ~behind & (truth == 0), MOST_CUTS
    )
    return replace(exact, coarse=coarse)


def _positive_cuts(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the place of each row among the scores that positives have, from the highest, and how many there are.

    Returns
    -------
    cut : ndarray, (n,), int
        Number of those scores that lie above the row's.
    tied : ndarray, (n,), bool
        Negative rows that have one of those scores.
    cuts : int
    """
    scores = np.unique(probability[truth == 1])
    above = np.searchsorted(scores, probability, side="right")
    cut = len(scores) - above
    equal = (above > 0) & (scores[above - 1] == probability) if len(scores) else np.zeros(len(truth), dtype=bool)
    return cut, equal & (truth == 0), len(scores)


def _failure_sums(
    truth: np.ndarray, probability: np.ndarray, alarm: np.ndarray, cut: np.ndarray, tied: np.ndarray, cuts: int
) -> Summed:
    bins = mass_bins(probability)
    n, width = len(truth), int(bins.max(initial=0)) + 1
    ones = np.ones(n)
    rows = per_row(
        n,
        [
            (np.where(truth == 1, cut, -1), ones, cuts),
            (np.where(truth == 0, cut, -1), ones, cuts + 1),
            (np.where(tied, cut, -1), ones, cuts),
            (bins, probability - truth, width),
            (0, alarm * truth, 1),
            (0, alarm, 1),
            (0, (probability - truth) ** 2, 1),
        ],
    )

    def of(sums: np.ndarray) -> dict[str, np.ndarray]:
        found, passed, ties, gap, rest = np.split(sums, np.cumsum([cuts, cuts + 1, cuts, width]), axis=1)
        hit, raised, squared = rest.T
        positives, negatives = found.sum(axis=1), passed.sum(axis=1)
        tp, fp = np.cumsum(found, axis=1), np.cumsum(passed[:, :cuts], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            # A cut that no drawn row reaches adds nothing.
            average = np.sum(found * tp / np.maximum(tp + fp, EPS), axis=1) / positives
            auc = np.sum(found * (negatives[:, None] - fp + ties / 2), axis=1) / (positives * negatives)
            recall = hit / positives
        return {
            "roc_auc": np.where(positives * negatives > 0, auc, np.nan),
            "average_precision": np.where(positives > 0, average, np.nan),
            "f1": 2 * hit / np.maximum(raised + positives, EPS),
            "precision": hit / np.maximum(raised, EPS),
            "recall": np.where(positives > 0, recall, np.nan),
            "brier": squared / np.maximum(positives + negatives, EPS),
            "ece": np.abs(gap).sum(axis=1) / np.maximum(positives + negatives, EPS),
        }

    return Summed(rows, of)


def failure(
    truth: np.ndarray,
    probability: np.ndarray,
    alarm: np.ndarray,
    *,
    units: Units | None = None,
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
    return bootstrap(failure_values(truth, probability, alarm), len(truth), units, seed, n_boot)


def f1_by_class(confusion: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, (..., n_classes), from counts or weights (..., true, decided); NaN where it is in neither."""
    size = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.where(size > 0, 2 * right / np.maximum(size, EPS), np.nan)


def threat_values(truth: np.ndarray, probability: np.ndarray, label: np.ndarray, classes: list[str]) -> Summed:
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
    width = int(bins.max(initial=0)) + 1
    ones = np.ones(n)
    rows = per_row(n, [(truth * k + label, ones, k * k), (bins, top - top_hit, width), (0, loss, 1)])

    def of(sums: np.ndarray) -> dict[str, np.ndarray]:
        cells, gap, losses = np.split(sums, [k * k, k * k + width], axis=1)
        total = np.maximum(cells.sum(axis=1), EPS)
        confusion = cells.reshape(-1, k, k)
        f1 = f1_by_class(confusion)
        known = np.isfinite(f1)
        with np.errstate(invalid="ignore"):
            macro = np.where(known, f1, 0.0).sum(axis=1) / known.sum(axis=1)
        return {
            "accuracy": np.trace(confusion, axis1=1, axis2=2) / total,
            "macro_f1": macro,
            "log_loss": losses[:, 0] / total,
            "ece": np.abs(gap).sum(axis=1) / total,
            **{f"f1_{name}": f1[:, i] for i, name in enumerate(classes)},
        }

    return Summed(rows, of)


def threat(
    truth: np.ndarray,
    probability: np.ndarray,
    label: np.ndarray,
    *,
    classes: list[str],
    units: Units | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
) -> dict[str, Metric]:
    """Score class probabilities and decisions, with intervals; see `threat_values`."""
    return bootstrap(threat_values(truth, probability, label, classes), len(truth), units, seed, n_boot)


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
) -> Summed:
    """Return a function of row weights giving ``mae, nmae, rmse, r2, mase, wape`` and, with a band, ``pinball, coverage_80``.

    Parameters
    ----------
    truth, p10, p50, p90 : ndarray, (n,), in units of the target
    scale : ndarray, (n,)
        In-sample seasonal-naive MAE of the row's series (Hyndman and Koehler 2006); rows with 0 are left out of mase.
    target : ndarray, (n,), int
        Which target a row belongs to: R² is taken per target, then averaged, because targets differ in unit.

    Notes
    -----
    ``nmae`` is the absolute error in units of the mean ``scale`` of the row's target: what a search minimises. ``mase``
    counts every series alike, ``nmae`` the large ones of a target more. ``pinball`` is the mean over the quantiles 0.1,
    0.5 and 0.9; ``coverage_80`` the share of rows inside [p10, p90].
    """
    truth = np.asarray(truth, dtype=float)
    p50 = np.asarray(p50, dtype=float)
    target = np.asarray(target, dtype=np.int64)
    error = np.abs(truth - p50)
    n, k = len(truth), int(target.max(initial=0)) + 1
    usable = scale > 0
    count = np.maximum(np.bincount(target, minlength=k), 1)
    typical = (np.bincount(target, weights=scale, minlength=k) / count)[target]
    # Around the mean of its target, so that the spread of R² is no difference of two large sums.
    centred = truth - (np.bincount(target, weights=truth, minlength=k) / count)[target]
    ones = np.ones(n)
    band = p10 is not None and p90 is not None
    single = [
        error,
        np.divide(error, scale, out=np.zeros(n), where=usable),
        usable.astype(float),
        np.divide(error, typical, out=np.zeros(n), where=typical > 0),
        np.abs(truth),
    ]
    if p10 is not None and p90 is not None:
        single.append((pinball(truth, p10, 0.1) + pinball(truth, p50, 0.5) + pinball(truth, p90, 0.9)) / 3)
        single.append(((truth >= p10) & (truth <= p90)).astype(float))
    by_target = [ones, centred, centred**2, error**2]
    rows = per_row(n, [(target, v, k) for v in by_target] + [(0, v, 1) for v in single])

    def of(sums: np.ndarray) -> dict[str, np.ndarray]:
        size, first, second, residual, rest = np.split(sums, k * np.arange(1, 5), axis=1)
        total = np.maximum(size.sum(axis=1), EPS)
        spread = second - first**2 / np.maximum(size, EPS)
        some = spread > EPS
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(some, 1 - residual / spread, 0.0).sum(axis=1) / some.sum(axis=1)
            # Without any series that has moved, an error in its units is undefined: 0 would be perfect.
            mase = np.where(rest[:, 2] > 0, rest[:, 1] / rest[:, 2], np.nan)
            wape = np.where(rest[:, 4] > 0, rest[:, 0] / rest[:, 4], np.nan)
        out = {
            "mae": rest[:, 0] / total,
            "nmae": rest[:, 3] / total,
            "rmse": np.sqrt(residual.sum(axis=1) / total),
            "r2": np.where(some.any(axis=1), r2, np.nan),
            "mase": mase,
            "wape": wape,
        }
        if band:
            out |= {"pinball": rest[:, 5] / total, "coverage_80": rest[:, 6] / total}
        return out

    return Summed(rows, of)


def capacity(
    truth: np.ndarray,
    p50: np.ndarray,
    p10: np.ndarray | None = None,
    p90: np.ndarray | None = None,
    *,
    scale: np.ndarray,
    target: np.ndarray,
    units: Units | None = None,
    seed: int = 0,
    n_boot: int = N_BOOT,
) -> dict[str, Metric]:
    """Score forecasts, with intervals; see `capacity_values`."""
    values = capacity_values(truth, p50, p10, p90, scale=scale, target=target)
    return bootstrap(values, len(truth), units, seed, n_boot)
