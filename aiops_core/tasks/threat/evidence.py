"""Fit the inputs of a forest: fill values, tamed scales and the evidence regression."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from aiops_core.tasks.threat.data import Params, ThreatData
from aiops_core.tasks.threat.inputs import EVIDENCE_FLOOR, Inputs
from aiops_core.tasks.threat.rows import training_rows

#: Inverse regularisation of the evidence regression by the name of the choice; "none" leaves evidence out.
EVIDENCE: dict[str, float] = {"smooth": 0.001, "sharp": 0.1}


def fit_inputs(data: ThreatData, chosen: np.ndarray, strength: float, seed: int) -> Inputs:
    """Fit the inputs of the forest on the chosen rows."""
    n_features, n_classes = len(data.features), len(data.classes)
    rows, X, weight = training_rows({"mask_share": 0.5, "balance": 0.0}, data, chosen, seed)
    if len(rows) > data.effort.evidence_rows:
        some = np.random.default_rng([seed, 23]).permutation(len(rows))[: data.effort.evidence_rows]
        rows, X, weight = rows[some], X[some], weight[some]
    y = data.y[data.rows[rows]]
    fill = np.array([feature["reference"]["median"] for feature in data.features], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        gap = np.abs(X - fill)
    scale = np.array([_typical(gap[:, j]) for j in range(n_features)], dtype=np.float32)
    tamed = np.arcsinh((X - fill) / scale)
    inputs = Inputs(
        fill=fill,
        flagged=np.flatnonzero(np.isnan(data.X[data.rows]).any(axis=0)),
        scale=scale,
        mean=np.array([_finite_mean(tamed[:, j]) for j in range(n_features)], dtype=np.float32),
        std=np.array([_typical_std(tamed[:, j]) for j in range(n_features)], dtype=np.float32),
        coefficients=np.zeros((3 * n_features, n_classes), dtype=np.float32),
        intercept=np.zeros(n_classes, dtype=np.float32),
    )
    missing = np.isnan(X)
    hints = inputs.hints(np.where(missing, fill, X), missing.astype(np.float32))
    with warnings.catch_warnings():
        # Stopping early is wanted here: it regularises, and the forest corrects what is left.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression = LogisticRegression(C=strength, max_iter=60, tol=1e-3).fit(hints, y, sample_weight=weight)
    coefficients, intercept = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:
        coefficients, intercept = np.r_[-coefficients, coefficients] / 2, np.r_[-intercept, intercept] / 2
    inputs.coefficients[:, regression.classes_] = coefficients.T
    inputs.intercept[:] = EVIDENCE_FLOOR
    inputs.intercept[regression.classes_] = intercept
    return inputs


def inputs_for(params: Params, data: ThreatData, fold: int) -> Inputs:
    """Return the inputs of a fold (-1: all rows), with evidence columns if the parameters ask for them."""
    if params["evidence"] == "none":
        return next(iter(data.inputs.values()))[fold].without_evidence()
    return data.inputs[params["evidence"]][fold]


def _typical(gap: np.ndarray) -> float:
    """Return the median of known positive gaps, 1 if there is none."""
    known = gap[gap > 0]
    return float(np.median(known)) if len(known) else 1.0


def _finite_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _typical_std(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return max(float(known.std()), 1e-3) if len(known) else 1.0
