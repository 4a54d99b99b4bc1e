"""What a fitted model is, and its forecasts: from the native boosters, and through a servable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb

from aiops_core.servable.capacity import CapacityServable
from aiops_core.servable.capacity_features import Rows, assemble, design
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks.capacity.data import CapacityData
from aiops_core.tasks.capacity.pairs import features_of, history_of, others_of


@dataclass(frozen=True)
class CapacityModel:
    """Boosters over a linear backbone.

    Attributes
    ----------
    boosters : tuple of lists of Booster
        For p10, p50 and p90; averaged. Empty band edges coincide with the median.
    shares : tuple of float
        Share of the backbone in p10, p50 and p90.
    linear : ndarray, (P, targets)
    calibration : dict or None
        Conformal offsets, see `aiops_core.servable.capacity_features.assemble`.
    params : dict
    """

    boosters: tuple[list[xgb.Booster], list[xgb.Booster], list[xgb.Booster]]
    shares: tuple[float, float, float]
    linear: np.ndarray
    calibration: dict[str, Any] | None
    params: dict[str, Any]
    layout: Layout


def scaled_quantiles(model: CapacityModel, rows: Rows, target: np.ndarray) -> np.ndarray:
    """Return the quantiles before the conformal offsets, in units of scale around level; (n, k, 3)."""
    n, k, f = rows.x.shape
    x = rows.x.reshape(n * k, f)
    backbone = (design(x, model.layout) @ model.linear)[np.arange(n * k), np.repeat(target, k)]
    matrix = xgb.DMatrix(x, nthread=1)
    out = np.empty((n * k, 3))
    for column, (boosters, share) in enumerate(zip(model.boosters, model.shares, strict=True)):
        out[:, column] = share * backbone + np.mean([b.predict(matrix) for b in boosters or model.boosters[1]], axis=0)
    return out.reshape(n, k, 3)


def predict(model: CapacityModel, data: CapacityData, part: str) -> dict[str, np.ndarray]:
    """Predict the scored rows of a part with the native boosters.

    Returns
    -------
    dict of str to ndarray
        ``p10, p50, p90``: (rows,), in units of the target, rows as in ``data.parts[part].known``.
    """
    pairs = data.parts[part]
    out = np.empty((*pairs.steps.shape, 3))
    for chunk, rows in features_of(data, pairs):
        target, steps = pairs.target[chunk], pairs.steps[chunk]
        out[chunk] = assemble(
            scaled_quantiles(model, rows, target), rows, steps, target, model.layout, model.calibration
        )
    return _named(out[pairs.known])


def score(loaded: CapacityServable, data: CapacityData, part: str) -> dict[str, np.ndarray]:
    """Predict the scored rows of a part through a loaded servable; the same keys as `predict`."""
    pairs = data.parts[part]
    out = np.empty((*pairs.steps.shape, 3))
    length = data.layout.context
    size = max(1, min(2_000_000 // length, 60_000 // pairs.steps.shape[1] + 1))
    for start in range(0, len(pairs.origin), size):
        chunk = slice(start, start + size)
        r, t, o = pairs.resource[chunk], pairs.target[chunk], pairs.origin[chunk]
        out[chunk] = loaded.forecast_rows(
            history_of(data, r, t, o, length), data.time(r, o), pairs.steps[chunk], t, others_of(data, r, t, o)
        )
    return _named(out[pairs.known])


def _named(forecast: np.ndarray) -> dict[str, np.ndarray]:
    return {"p10": forecast[:, 0], "p50": forecast[:, 1], "p90": forecast[:, 2]}
