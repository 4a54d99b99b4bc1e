"""Conformal offsets of the band, by step and target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aiops_core.tasks.capacity.data import CapacityData
from aiops_core.tasks.capacity.pairs import features_of
from aiops_core.tasks.capacity.prediction import CapacityModel, scaled_quantiles

#: Buckets of steps with an own conformal offset, and rows of one below which it joins the next.
BUCKETS, MIN_BUCKET = 6, 60


def conformal(model: CapacityModel, data: CapacityData) -> dict[str, Any]:
    """Return the offsets, in units of scale, that make each band edge miss one validation row in ten, by step and target."""
    pairs = data.parts["validation"]
    edges = bucket_edges(data.score_steps)
    low = np.zeros((len(data.layout.targets), len(edges)))
    high = np.zeros_like(low)
    scaled, truth = [], []
    for part, rows in features_of(data, pairs):
        prediction = scaled_quantiles(model, rows, pairs.target[part])
        scaled.append(prediction[pairs.known[part]])
        truth.append(((pairs.truth[part] - rows.level[:, None]) / rows.scale[:, None])[pairs.known[part]])
    p, y = np.concatenate(scaled), np.concatenate(truth)
    target, step = pairs.flat(pairs.target), pairs.steps[pairs.known]
    bucket = np.minimum(np.searchsorted(edges, step, side="left"), len(edges) - 1)
    for j in range(len(low)):
        for b in range(len(edges)):
            rows_in = (target == j) & (bucket == b)
            for wider in (target == j, np.ones(len(y), dtype=bool)):
                rows_in = rows_in if np.count_nonzero(rows_in) >= MIN_BUCKET else wider
            low[j, b] = upper_quantile(p[rows_in, 0] - y[rows_in])
            high[j, b] = upper_quantile(y[rows_in] - p[rows_in, 2])
    return {"edges": edges.tolist(), "low": low.tolist(), "high": high.tolist()}


def bucket_edges(score_steps: np.ndarray) -> np.ndarray:
    """Return the last step of each bucket."""
    if len(score_steps) <= BUCKETS:
        # Boundaries half way, on a log scale, between the scored steps.
        middle = np.sqrt(score_steps[:-1] * score_steps[1:]).astype(np.int64)
        return np.unique(np.r_[np.maximum(middle, score_steps[:-1]), score_steps[-1]])
    last = np.geomspace(1, len(score_steps), BUCKETS).round().astype(np.int64)
    return np.unique(score_steps[last - 1])


def upper_quantile(score: np.ndarray) -> float:
    """Return the finite-sample 90 % quantile of conformity scores."""
    if len(score) == 0:
        return 0.0
    rank = min(len(score), math.ceil(0.9 * (len(score) + 1)))
    return float(np.sort(score)[rank - 1])
