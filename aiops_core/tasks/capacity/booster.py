"""A booster on scaled lags, trained on the absolute error: what a good engineer would build in a day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost as xgb

from aiops_core.tasks.capacity.data import CapacityData, Pairs
from aiops_core.tasks.capacity.naive import median, seasons
from aiops_core.tasks.capacity.pairs import history_of, sample

#: Depths that are tried; the rounds are the best of every `CHECK_EVERY`.
DEPTHS = (4, 6)
CHECK_EVERY = 25
CHUNK = 2000


@dataclass(frozen=True)
class Lags:
    """Scaled lags of scored rows.

    Attributes
    ----------
    x : ndarray, (rows, F), float32
    level, scale : ndarray, (rows,)
        ``value = level + scale * scaled``.
    """

    x: np.ndarray
    level: np.ndarray
    scale: np.ndarray


def booster_forecasts(data: CapacityData, *, seed: int) -> np.ndarray:
    """Forecast the scored test rows; depth and rounds are those with the smallest validation error; (rows,).

    Fitted before the validation origins to choose, then again on everything before the test origins.
    """
    rng = np.random.default_rng([seed, 2])
    checked = data.parts["validation"]
    truth, target = checked.truth[checked.known], checked.flat(checked.target)
    rows = lags(data, checked)
    matrix = xgb.DMatrix(rows.x, nthread=1)
    weight = 1 / np.maximum(np.bincount(target, rows.scale) / np.maximum(np.bincount(target), 1), 1e-12)[target]
    train = sample(data, data.limits["train"], data.effort.search_rows, rng)
    most = max(CHECK_EVERY, data.effort.baseline_rounds)
    errors: dict[tuple[int, int], float] = {}
    for depth in DEPTHS:
        booster = _fit(data, train, depth, most, seed)
        scaled = np.zeros(len(truth))
        for last in range(CHECK_EVERY, most + 1, CHECK_EVERY):
            scaled += booster.predict(matrix, iteration_range=(last - CHECK_EVERY, last))
            errors[depth, last] = float(np.average(np.abs(truth - rows.level - rows.scale * scaled), weights=weight))
    depth, rounds = min(errors, key=lambda point: errors[point])
    again = sample(data, data.limits["validation"], data.effort.search_rows, rng)
    booster = _fit(data, again, depth, rounds, seed)
    test = lags(data, data.parts["test"])
    found: np.ndarray = test.level + test.scale * booster.predict(xgb.DMatrix(test.x, nthread=1))
    return found


def _fit(data: CapacityData, pairs: Pairs, depth: int, rounds: int, seed: int) -> xgb.Booster:
    rows = lags(data, pairs)
    target = pairs.flat(pairs.target)
    mean = np.bincount(target, rows.scale) / np.maximum(np.bincount(target), 1)
    label = np.clip((pairs.truth[pairs.known] - rows.level) / rows.scale, -15, 15)
    # The square root: with the whole spread as weight a few large series would draw most of the trees.
    weight = np.sqrt(rows.scale / np.maximum(mean[target], 1e-12))
    settings = {
        "objective": "reg:absoluteerror", "tree_method": "hist", "max_depth": depth, "eta": 0.08, "subsample": 0.7,
        "colsample_bynode": 0.6, "min_child_weight": 20, "max_bin": 64, "base_score": 0.0, "nthread": 1, "seed": seed,
        "verbosity": 0,
    }  # fmt: skip
    return xgb.train(settings, xgb.QuantileDMatrix(rows.x, label, weight=weight, max_bin=64, nthread=1), rounds)


def lags(data: CapacityData, pairs: Pairs) -> Lags:
    """Return lags, means and the clock of the scored rows of pairs, every series in units of its own recent spread."""
    season = data.layout.season
    used = seasons(data.layout)
    length = max(*used, 7 * season) + 1
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(pairs.origin), CHUNK):
        part = slice(start, start + CHUNK)
        r, t, o, steps = pairs.resource[part], pairs.target[part], pairs.origin[part], pairs.steps[part]
        history = history_of(data, r, t, o, length)
        level, scale = _level_and_scale(history, data.naive_error[r, t], season)
        z = (history - level[:, None]) / scale[:, None]
        row, skipped = np.arange(len(r))[:, None], -(-steps // season)
        position = length - 1 + steps - season * skipped
        same = np.stack([_at(z, row, position - season * i) for i in range(7)])
        lagged = [same[0], same[1], _mean(same)]
        lagged += [_at(z, row, length - 1 + steps - s * -(-steps // s)) for s in used if s != season]
        wide = [z[:, -1], z[:, -2], z[:, -3]]
        wide += [_mean(z[:, -w:].T) for w in (3, max(4, season // 4), season, 7 * season)]
        wide += [median(z[:, -season:]), np.log(scale / np.maximum(np.abs(level), 1e-9)), t]
        seconds = data.time(r, o).astype(np.int64)[:, None] + steps * data.layout.step_seconds
        clock = [seconds % 86_400, (seconds // 86_400 + 3) % 7, steps]
        lagged += [
            np.median([same[0], *(np.broadcast_to(x[:, None], steps.shape) for x in (wide[3], wide[-3]))], axis=0)
        ]
        columns = [np.broadcast_to(x[:, None], steps.shape) for x in wide] + lagged + clock
        known = pairs.known[part]
        parts.append(
            (
                np.stack(columns, axis=-1).astype(np.float32)[known],
                np.broadcast_to(level[:, None], known.shape)[known],
                np.broadcast_to(scale[:, None], known.shape)[known],
            )
        )
    x, level, scale = (np.concatenate(found) for found in zip(*parts, strict=True))
    return Lags(x, level, scale)


def _level_and_scale(history: np.ndarray, usual: np.ndarray, season: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the last three values, and the mean deviation from the mean of the last seven seasons."""
    back = np.argmax(~np.isnan(history[:, ::-1]), axis=1)
    newest = history[np.arange(len(history)), history.shape[1] - 1 - back]
    level = median(history[:, -3:])
    level = np.nan_to_num(np.where(np.isnan(level), newest, level))
    recent = history[:, -7 * season :]
    spread = np.nan_to_num(_mean(np.abs(recent - _mean(recent.T)[:, None]).T))
    # A series that has hardly moved is not measured in units of nothing.
    return level, np.maximum(spread, np.maximum(0.05 * usual, 1e-3 * np.abs(level) + 1e-9))


def _at(z: np.ndarray, row: np.ndarray, position: np.ndarray) -> np.ndarray:
    return np.where(position >= 0, z[row, np.maximum(position, 0)], np.nan)


def _mean(x: np.ndarray) -> np.ndarray:
    """Mean of the known values over the first axis; NaN where there are none."""
    known = ~np.isnan(x)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, x, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
