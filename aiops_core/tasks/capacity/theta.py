"""The Theta method for many series at once (Assimakopoulos and Nikolopoulos 2000)."""

from __future__ import annotations

import numpy as np

from aiops_core.tasks.capacity.data import Pairs, Usage
from aiops_core.tasks.capacity.pairs import history_of

#: Smoothing weights that are tried for every series.
ALPHAS = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.99])
#: Pairs at a time.
CHUNK = 1000


def theta_forecasts(data: Usage, pairs: Pairs, season: int) -> np.ndarray:
    """Forecast the scored rows of pairs by the Theta method with a season of ``season`` steps; (rows,)."""
    out = np.empty(pairs.steps.shape)
    for start in range(0, len(pairs.origin), CHUNK):
        part = slice(start, start + CHUNK)
        r, t, o = pairs.resource[part], pairs.target[part], pairs.origin[part]
        out[part] = theta(history_of(data, r, t, o, data.layout.context), pairs.steps[part], season)
    found: np.ndarray = out[pairs.known]
    return found


def theta(history: np.ndarray, steps: np.ndarray, season: int) -> np.ndarray:
    """Forecast series by simple exponential smoothing with half the trend, on values without their season.

    This is what the Theta method comes to (Hyndman and Billah 2003, "Unmasking the Theta method"). The season is
    additive, and shrunk by how much of it the noise explains.

    Parameters
    ----------
    history : ndarray, (n, L)
        Up to the origin, oldest first; NaN where unknown.
    steps : ndarray, (n, k)
        Steps ahead, ``>= 1``.
    season : int
        In steps; without effect where the history has less than two.

    Returns
    -------
    ndarray, (n, k)
    """
    n, length = history.shape
    slope = _slope(history)
    # A trend would look like a season that rises and falls back.
    pattern = _pattern(history - slope[:, None] * np.arange(length), season)
    ago = np.arange(length - 1, -1, -1)
    plain = history - pattern[:, -ago % season]
    known = ~np.isnan(plain)
    level, alpha = _smoothed(np.where(known, plain, 0.0), known)
    ahead = slope[:, None] / 2 * (steps - 1 + 1 / alpha[:, None])
    found: np.ndarray = level[:, None] + ahead + pattern[np.arange(n)[:, None], steps % season]
    return found


def _pattern(history: np.ndarray, season: int) -> np.ndarray:
    """Return what each phase adds, (n, season); phase 0 is the origin's. Zeros where two seasons are not known."""
    n, length = history.shape
    whole = length // season
    if whole < 2:
        return np.zeros((n, season))
    folded = history[:, length - whole * season :].reshape(n, whole, season)
    known = ~np.isnan(folded)
    # Differences from the mean of the own season: a trend is left out, a missing season counts for nothing.
    size = np.maximum(known.sum(axis=2, keepdims=True), 1)
    gap = np.where(known, folded - np.where(known, folded, 0.0).sum(axis=2, keepdims=True) / size, 0.0)
    count = known.sum(axis=1)
    mean = gap.sum(axis=1) / np.maximum(count, 1)
    mean = np.where(count >= 2, mean - mean.mean(axis=1, keepdims=True), 0.0)
    noise = (
        (np.where(known, gap - mean[:, None], 0.0) ** 2).sum(axis=1) / np.maximum(count - 1, 1) / np.maximum(count, 1)
    )
    seen = (mean**2).mean(axis=1)
    kept = np.clip(1 - noise.mean(axis=1) / np.maximum(seen, 1e-300), 0.0, 1.0)
    # The last column is the origin's phase; rolled to the front, phases count steps ahead.
    return np.roll(mean * kept[:, None], 1, axis=1)


def _slope(history: np.ndarray) -> np.ndarray:
    """Return the least-squares slope of the known values per step, (n,)."""
    known = ~np.isnan(history)
    size = np.maximum(known.sum(axis=1), 1)
    at = np.where(known, np.arange(history.shape[1]), 0.0)
    at = np.where(known, at - (at.sum(axis=1) / size)[:, None], 0.0)
    slope: np.ndarray = (at * np.where(known, history, 0.0)).sum(axis=1) / np.maximum((at**2).sum(axis=1), 1e-300)
    return slope


def _smoothed(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smoothed level at the origin, and the weight of `ALPHAS` with the smallest one-step error; (n,) each."""
    n, length = values.shape
    first = np.argmax(known, axis=1)
    level = np.repeat(values[np.arange(n), first][:, None], len(ALPHAS), axis=1)
    error = np.zeros_like(level)
    for i in range(length):
        gap = np.where(known[:, i, None], values[:, i, None] - level, 0.0)
        error += np.abs(gap)
        level += ALPHAS * gap
    best = np.argmin(error, axis=1)
    return level[np.arange(n), best], ALPHAS[best]
