"""Conformal offsets of the band, by target, steps ahead and how restless a series is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aiops_core.servable.capacity_features import swing, swing_group
from aiops_core.tasks.capacity.data import CapacityData
from aiops_core.tasks.capacity.pairs import features_of
from aiops_core.tasks.capacity.prediction import CapacityModel, scaled_quantiles

#: Buckets of steps with an own conformal offset, and rows below which a bucket of a group takes the offset of all
#: groups, then of all steps, then of all targets.
BUCKETS, MIN_BUCKET = 6, 60
#: Groups of equally many series, from quiet to restless: one offset for all would be too wide for some, too narrow
#: for others.
GROUPS = 3


def conformal(model: CapacityModel, data: CapacityData) -> dict[str, Any]:
    """Return the offsets, in units of scale, that make each band edge miss one calibration row in ten.

    The calibration origins have chosen nothing: neither the boosters' rounds nor the backbone nor the parameters.

    Returns
    -------
    dict
        As `aiops_core.servable.capacity_features.assemble` takes it.
    """
    pairs = data.parts["calibration"]
    edges = bucket_edges(data.score_steps)
    scaled, truth, restless = [], [], np.empty(len(pairs.origin))
    for part, rows in features_of(data, pairs):
        prediction = scaled_quantiles(model, rows, pairs.target[part])
        scaled.append(prediction[pairs.known[part]])
        truth.append(((pairs.truth[part] - rows.level[:, None]) / rows.scale[:, None])[pairs.known[part]])
        restless[part] = swing(rows.level, rows.scale, pairs.target[part], data.layout)
    p, y = np.concatenate(scaled), np.concatenate(truth)
    cuts = _cuts(restless, pairs.target, len(data.layout.targets))
    target, step = pairs.flat(pairs.target), pairs.steps[pairs.known]
    group = pairs.flat(swing_group(restless, pairs.target, cuts))
    bucket = np.minimum(np.searchsorted(edges, step, side="left"), len(edges) - 1)
    low = np.zeros((len(cuts), GROUPS, len(edges)))
    high = np.zeros_like(low)
    for j, g, b in np.ndindex(*low.shape):
        rows_in = (target == j) & (bucket == b) & (group == g)
        for wider in ((target == j) & (bucket == b), target == j, np.ones(len(y), dtype=bool)):
            rows_in = rows_in if np.count_nonzero(rows_in) >= MIN_BUCKET else wider
        low[j, g, b] = upper_quantile(p[rows_in, 0] - y[rows_in])
        high[j, g, b] = upper_quantile(y[rows_in] - p[rows_in, 2])
    return {"edges": edges.tolist(), "swing": cuts.tolist(), "low": low.tolist(), "high": high.tolist()}


def _cuts(restless: np.ndarray, target: np.ndarray, targets: int) -> np.ndarray:
    """Return where the groups of each target's series part; (targets, groups - 1)."""
    shares = np.arange(1, GROUPS) / GROUPS
    of = [restless[target == j] for j in range(targets)]
    return np.stack([np.quantile(x if len(x) else restless, shares) for x in of])


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
