"""Calibration, curves and thresholds of scores."""

from __future__ import annotations

import numpy as np

__all__ = [
    "EPS",
    "apply_temperature",
    "binned_error",
    "brier",
    "ece",
    "f1_threshold",
    "mass_bins",
    "precision_recall_curve",
    "reliability_curve",
]

BINS = 15
EPS = 1e-12


def mass_bins(score: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the equal-mass bin of each score, (n,), from 0; equal scores share a bin."""
    if len(score) == 0:
        return np.zeros(0, dtype=np.int64)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, score, side="right")


def binned_error(bins: np.ndarray, score: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Return the calibration error: |mean score - frequency| of each bin, weighted by the mass of the bin."""
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
    return binned_error(mass_bins(probability, bins), probability, truth.astype(float), np.ones(len(truth)))


def brier(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean squared error of probabilities; lower is better (Brier 1950)."""
    return float(np.mean((np.asarray(probability, dtype=float) - np.asarray(truth, dtype=float)) ** 2))


def reliability_curve(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> dict[str, list[float]]:
    """Return mean prediction, observed frequency and row count of each equal-mass bin, in ascending order."""
    probability = np.asarray(probability, dtype=float)
    index = mass_bins(probability, bins)
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
