"""The linear backbone under the trees: fitted to the absolute error, one model a target."""

from __future__ import annotations

import numpy as np

from aiops_core.servable.capacity_features import design
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks.capacity.data import Block

#: Strength of the ridge penalty tried for the linear backbone, relative to the mean curvature.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
#: Scaled residuals beyond this are cut in training: they carry no more information on a median.
CUT = 15.0
#: Relative change of the error below which the linear fit is settled.
SETTLED = 1e-3


def _least_absolute(
    a: np.ndarray, y: np.ndarray, weight: np.ndarray, ridge: float, start: np.ndarray | None = None, rounds: int = 12
) -> np.ndarray:
    """Minimise the weighted absolute error by iteratively reweighted least squares (Schlossmacher 1973)."""
    # Single precision is ample for the weights of a design that is scaled; the small system is solved in double.
    a, y, weight = a.astype(np.float32), y.astype(np.float32), weight.astype(np.float32)
    solution = np.zeros(a.shape[1]) if start is None else start
    last = 0.0
    for _ in range(rounds):
        residual = y - a @ solution.astype(np.float32)
        error = float(np.average(np.abs(residual), weights=weight))
        if abs(error - last) <= SETTLED * last:
            break
        last = error
        w = weight / np.maximum(np.abs(residual), 0.03)
        weighted = a * w[:, None]
        gram = (weighted.T @ a).astype(np.float64)
        gram[np.diag_indices_from(gram)] += ridge * float(w.sum())
        solution = np.linalg.solve(gram, (weighted.T @ y).astype(np.float64))
    return solution


def fit_backbone(
    train: Block, checked: Block | None, layout: Layout, ridge: float | None = None, *, rows: int
) -> tuple[float, np.ndarray]:
    """Fit one linear model a target; the ridge penalty is the one with the smallest validation error."""
    strengths = RIDGES if ridge is None else (ridge,)
    columns: dict[float, list[np.ndarray]] = {s: [] for s in strengths}
    for j in range(len(layout.targets)):
        used = np.flatnonzero(train.target == j)[:rows]
        a = design(train.x[used], layout)
        y = np.clip(train.y[used], -CUT, CUT)
        found: np.ndarray | None = None
        for strength in strengths:
            # Penalties in turn start from each other's solution.
            found = _least_absolute(a, y, train.weight[used], strength, found) if len(used) else np.zeros(a.shape[1])
            columns[strength].append(found)
    fits = {s: np.stack(c, axis=1) for s, c in columns.items()}
    if checked is None or len(fits) == 1:
        best = next(iter(fits))
        return best, fits[best]
    error = {s: _block_error(checked, backbone_of(checked, w, layout)) for s, w in fits.items()}
    best = min(error, key=lambda s: error[s])
    return best, fits[best]


def backbone_of(block: Block, linear: np.ndarray, layout: Layout) -> np.ndarray:
    """Return what the backbone forecasts for the rows of a block, in units of scale around level; (rows,)."""
    out = np.empty(len(block.y))
    for start in range(0, len(out), 50_000):
        part = slice(start, start + 50_000)
        a = design(block.x[part], layout)
        out[part] = (a @ linear)[np.arange(len(a)), block.target[part]]
    return out


def _block_error(block: Block, scaled: np.ndarray) -> float:
    """Return the weighted absolute error in units of the scale: proportional to the MAE within a target, equal between them."""
    return float(np.average(np.abs(block.y - scaled), weights=block.weight))
