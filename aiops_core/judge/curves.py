"""Calibration, curves and thresholds of scores."""

from __future__ import annotations

import numpy as np

__all__ = [
    "EPS",
    "apply_temperature",
    "descending",
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


def descending(score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort scores from the highest to the lowest.

    Returns
    -------
    order : ndarray, (n,), int
        Rows in descending order; equal scores keep theirs.
    ranked : ndarray, (n,), float64
        The scores in that order.
    last : ndarray, (n,), bool
        Where a threshold can cut: rows with equal scores share one, so only the last row of a tie is a cut.
    """
    score = np.asarray(score, dtype=float)
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    return order, ranked, np.r_[ranked[1:] != ranked[:-1], [True] * (len(ranked) > 0)].astype(bool)


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
    order, ranked, last = descending(score)
    hit = np.cumsum(np.asarray(truth)[order].astype(float))
    cut = np.flatnonzero(last)
    if len(cut) > points:
        cut = cut[np.unique(np.linspace(0, len(cut) - 1, points).astype(int))]
    total = max(hit[-1] if len(hit) else 0.0, EPS)
    return {
        "threshold": ranked[cut].tolist(),
        "precision": (hit[cut] / (cut + 1)).tolist(),
        "recall": (hit[cut] / total).tolist(),
    }


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return ``softmax(logits / temperature)``, (n, n_classes); a temperature above 1 makes predictions less sure."""
    scaled = np.asarray(logits, dtype=float) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    odds = np.exp(scaled)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
