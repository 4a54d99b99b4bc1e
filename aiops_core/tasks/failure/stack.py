"""The members of the final model and what each of them counts: the networks, the families of trees."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from aiops_core.servable.failure import apply_calibration

#: Incidents at which a fitted weight counts as much as an equal one. On held-out blocks of four sets 0 and 10 do alike, and
#: better than 30 and more (`reports/ablation-failure.md`); 10 keeps the weights near to equal where incidents are very few.
PRIOR_INCIDENTS = 10.0

#: Of a member's calibration: less would let the noise of a poor one turn rankings round.
LEAST_SLOPE = 0.05


class Member(TypedDict):
    """One member: its logit is scaled by ``slope`` and ``offset``, and counts ``weight``; the weights sum to 1."""

    name: str
    weight: float
    slope: float
    offset: float


ALONE: list[Member] = [{"name": "lstm", "weight": 1.0, "slope": 1.0, "offset": 0.0}]


def stack_of(
    names: list[str], logits: np.ndarray, truth: np.ndarray, incidents: int, *, prior: float = PRIOR_INCIDENTS
) -> list[Member]:
    """Return what each member counts, from logits of rows that none of them has learned.

    Every member is first brought to the scale of log odds (Platt 1999): one that knows nothing says the base rate then,
    and leaves the mean to the others. Of the fitted weights (least log loss, none negative) as much is taken as the
    incidents can tell, the rest is equal (the mean of forecasts is hard to beat: Timmermann 2006).

    Parameters
    ----------
    names : list of str
    logits : ndarray, (n, n_members)
        Held out.
    truth : ndarray, (n,), 0 or 1
    incidents : int
        Different incidents ahead of the positive rows.
    prior : float
        Incidents at which a fitted weight counts as much as an equal one.
    """
    scales = [platt(logits[:, j], truth) for j in range(len(names))]
    scaled = np.stack([a * logits[:, j] + b for j, (a, b) in enumerate(scales)], axis=1)
    trust = incidents / (incidents + prior)
    weight = trust * _fitted(scaled, truth) + (1 - trust) / len(names)
    return [
        {"name": name, "weight": float(w), "slope": a, "offset": b}
        for name, w, (a, b) in zip(names, weight, scales, strict=True)
    ]


def combined(members: list[Member], logits: np.ndarray) -> np.ndarray:
    """Return the weighed sum of the members' logits (n, n_members), each on its scale, (n,), float64."""
    slope, offset, weight = (np.array([m[k] for m in members]) for k in ("slope", "offset", "weight"))
    return np.asarray((np.asarray(logits, dtype=np.float64) * slope + offset) @ weight)


def _fitted(scaled: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the weights, none negative and 1 in sum, of least log loss, (n_members,)."""
    from scipy.optimize import minimize

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        share = weight / weight.sum()
        score = scaled @ share
        value = float(np.mean(np.logaddexp(0.0, score) - truth * score))
        pull = scaled.T @ (apply_calibration(score, 1.0, 0.0) - truth) / len(truth)
        return value, (pull - pull @ share) / weight.sum()

    count = scaled.shape[1]
    found = minimize(loss, np.full(count, 1 / count), jac=True, method="L-BFGS-B", bounds=[(1e-6, 10.0)] * count)
    return np.asarray(found.x / found.x.sum())


def platt(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the logistic curve of logits (Platt 1999)."""
    from sklearn.linear_model import LogisticRegression

    rate = float(np.mean(truth))
    if rate in (0.0, 1.0):
        return 1.0, 0.0
    middle, spread = float(np.mean(logits)), max(float(np.std(logits)), 1e-9)
    # Nearly without penalty: it only keeps the slope finite where the classes are apart.
    found = LogisticRegression(C=1_000.0, tol=1e-8, max_iter=1_000).fit(((logits - middle) / spread)[:, None], truth)
    slope = float(found.coef_[0, 0]) / spread
    # A negative slope would turn the ranking round: held-out data that poor only sets the level.
    if slope < LEAST_SLOPE:
        return LEAST_SLOPE, float(np.log(rate / (1 - rate)) - LEAST_SLOPE * middle)
    return slope, float(found.intercept_[0]) - slope * middle
