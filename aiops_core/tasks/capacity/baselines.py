"""What a good engineer would try first: last value, seasonal naive, XGBoost on plain lags."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost as xgb

from aiops_core.tasks.capacity.data import CapacityData, Pairs
from aiops_core.tasks.capacity.pairs import history_of, sample


def baselines(data: CapacityData, *, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Predict the test rows with the last value, the value one season ago, and XGBoost on plain lags.

    The latter is what an engineer would try first: raw lags, calendar and step, squared error, no scaling; trained on
    everything before the first test origin.
    """
    pairs = data.parts["test"]
    last, season = plain_forecasts(data, pairs)
    rng = np.random.default_rng([seed, 2])
    train = sample(data, data.limits["validation"], data.effort.search_rows, rng)
    settings = {
        "objective": "reg:squarederror", "tree_method": "hist", "max_depth": 6, "eta": 0.08, "subsample": 0.8,
        "nthread": 2, "seed": seed, "verbosity": 0,
    }  # fmt: skip
    matrix = xgb.DMatrix(_plain_lags(data, train), train.truth[train.known])
    booster = xgb.train(settings, matrix, data.effort.baseline_rounds)
    strong = booster.predict(xgb.DMatrix(_plain_lags(data, pairs))).astype(np.float64)
    return {"last_value": {"p50": last}, "seasonal_naive": {"p50": season}, "xgboost_lags": {"p50": strong}}


def plain_forecasts(data: CapacityData, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the last value and the value one season ago for the scored rows of pairs; (rows,) each."""
    season, length = data.layout.season, data.layout.context
    last = np.empty(pairs.steps.shape)
    same = np.empty(pairs.steps.shape)
    for start in range(0, len(pairs.origin), 500):
        part = slice(start, start + 500)
        history = history_of(data, pairs.resource[part], pairs.target[part], pairs.origin[part], length)
        known = ~np.isnan(history)
        # Position of the last known value at or before each position of the history.
        newest = np.maximum.accumulate(np.where(known, np.arange(length), -1), axis=1)
        row = np.arange(len(history))[:, None]
        last[part] = history[row, np.maximum(newest[:, -1:], 0)]
        steps = pairs.steps[part]
        position = length - 1 + steps - season * -(-steps // season)
        found = history[row, np.clip(position, 0, length - 1)]
        for _ in range(6):  # a missing value: one season earlier
            position = np.where(np.isnan(found), position - season, position)
            earlier = history[row, np.clip(position, 0, length - 1)]
            found = np.where(np.isnan(found) & (position >= 0), earlier, found)
        same[part] = np.where(np.isnan(found), last[part], found)
    return last[pairs.known], same[pairs.known]


def _plain_lags(data: CapacityData, pairs: Pairs) -> np.ndarray:
    season = data.layout.season
    out = []
    for start in range(0, len(pairs.origin), 2000):
        part = slice(start, start + 2000)
        r, t, o, steps = pairs.resource[part], pairs.target[part], pairs.origin[part], pairs.steps[part]
        history = history_of(data, r, t, o, 7 * season + 1)
        row = np.arange(len(r))[:, None]

        def lag(period: int, history: np.ndarray = history, row: np.ndarray = row, steps: np.ndarray = steps) -> Any:
            return history[row, history.shape[1] - 1 + steps - period * -(-steps // period)]

        def wide(x: np.ndarray, steps: np.ndarray = steps) -> np.ndarray:
            return np.broadcast_to(x[:, None], steps.shape)

        columns = [wide(history[:, -i]) for i in (1, 2, 3)] + [lag(season), lag(7 * season)]
        known = ~np.isnan(history[:, -season:])
        columns.append(wide(np.nan_to_num(history[:, -season:]).sum(1) / np.maximum(known.sum(1), 1)))
        seconds = data.time(r, o).astype(np.int64)[:, None] + steps * data.layout.step_seconds
        columns += [seconds % 86_400, (seconds // 86_400 + 3) % 7, steps, wide(t)]
        out.append(np.stack(columns, axis=-1).astype(np.float32)[pairs.known[part]])
    return np.concatenate(out)
