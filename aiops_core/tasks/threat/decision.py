"""Calibrated probabilities from votes, and the decision weights that macro-F1 asks for."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from aiops_core.judge import curves, metrics

#: Selection is macro-F1 less this share of the log loss after calibration: macro-F1 alone jumps with single rows of
#: rare classes.
LOSS_SHARE = 0.1
#: Least and largest temperature: few rows, all told apart, would ask for none.
TEMPERATURES = (0.3, 3.0)


def calibrate(votes: np.ndarray, temperature: float, floor: float) -> np.ndarray:
    """Return probabilities (n, n_classes) from mean votes (n, n_classes), as `ThreatModel` describes."""
    return curves.apply_temperature(np.log(votes + floor), temperature)


def fit_calibration(
    votes: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
    floors: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2),
) -> tuple[float, float]:
    """Return temperature, in [0.3, 3], and floor of least weighted log loss on out-of-fold votes."""
    rows = np.arange(len(truth))
    found = []
    for floor in floors:
        logits = np.log(votes + floor)

        def loss(log_temperature: float, logits: np.ndarray = logits) -> float:
            probability = curves.apply_temperature(logits, float(np.exp(log_temperature)))[rows, truth]
            return float(np.average(-np.log(np.maximum(probability, 1e-12)), weights=weight))

        best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 5e-3})
        found.append((float(best.fun), float(np.exp(best.x)), floor))
    return min(found)[1:]


def decision_weights(prior: np.ndarray, alpha: float) -> np.ndarray:
    """Return ``prior ** -alpha`` scaled to mean 1, (n_classes,): the cost of missing each class."""
    weights = prior**-alpha
    return np.asarray(weights / weights.mean())


def _weighted_macro_f1(truth: np.ndarray, label: np.ndarray, weight: np.ndarray, n_classes: int) -> float:
    cells = np.bincount(truth * n_classes + label, weights=weight, minlength=n_classes**2)
    f1 = metrics.f1_by_class(cells.reshape(n_classes, n_classes))
    return float(np.mean(f1[~np.isnan(f1)]))


#: Exponents that reach the best macro-F1 but for this are as good: which of them is best, a few rows of rare classes say.
AS_GOOD = 0.01


def choose_alpha(
    truth: np.ndarray, probability: np.ndarray, weight: np.ndarray, prior: np.ndarray
) -> tuple[float, float]:
    """Return the exponent of the prior in the decision weights, in [0, 1], and the best macro-F1 of any.

    The curve is smoothed over neighbouring exponents, because a single point of it is noisy where classes are rare; the
    exponent is the mean of all that are `AS_GOOD` as the best.
    """
    alphas = np.linspace(0.0, 1.0, 21)
    scores = np.array(
        [
            _weighted_macro_f1(truth, (probability * decision_weights(prior, a)).argmax(axis=1), weight, len(prior))
            for a in alphas
        ]
    )
    padded = np.pad(scores, 2, mode="edge")
    smooth = np.convolve(padded, np.full(5, 0.2), mode="valid")
    best = float(smooth.max())
    return float(alphas[smooth >= best - AS_GOOD].mean()), best


#: A weight that is not worth this much macro-F1 in validation follows its noise, and makes the test worse.
LEAST_GAIN = 0.003


def best_weights(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return one decision weight a class, (n_classes,), mean 1, of highest macro-F1: one class at a time.

    For exact probabilities. A class keeps its weight of 1 unless another one gains at least `LEAST_GAIN`.
    """
    n, even = probability.shape[1], np.ones(len(truth))
    logs = np.zeros(n)
    best = _weighted_macro_f1(truth, probability.argmax(axis=1), even, n)
    for step in (0.4, 0.2):
        for c in range(n):
            for change in (-step, step):
                tried = logs.copy()
                tried[c] += change
                score = _weighted_macro_f1(truth, (probability * np.exp(tried)).argmax(axis=1), even, n)
                if score > best + LEAST_GAIN:
                    best, logs = score, tried
    weights = np.exp(logs)
    return np.asarray(weights / weights.mean())


def selection(votes: np.ndarray, truth: np.ndarray, weight: np.ndarray, prior: np.ndarray) -> dict[str, float]:
    """Return what a choice on validation rows goes by: ``selection, macro_f1, accuracy, log_loss``, weighted."""
    temperature, floor = fit_calibration(votes, truth, weight, floors=(1e-3,))
    probability = calibrate(votes, temperature, floor)
    _, macro_f1 = choose_alpha(truth, probability, weight, prior)
    hit = probability.argmax(axis=1) == truth
    losses = -np.log(probability[np.arange(len(truth)), truth])
    log_loss = float(np.average(losses, weights=weight))
    return {
        "selection": macro_f1 - LOSS_SHARE * log_loss,
        "macro_f1": macro_f1,
        "accuracy": float(np.average(hit, weights=weight)),
        "log_loss": log_loss,
    }
