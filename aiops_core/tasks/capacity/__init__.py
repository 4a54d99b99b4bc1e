"""Capacity forecasting: usage some steps ahead, with an 80 % band, for every resource at once.

Direct multi-horizon gradient boosting (XGBoost): the step ahead is a feature, so one model serves every horizon. Four
ideas make it hold on series it has not seen:

- *Every series in its own units* (`aiops_core.servable.capacity.normalise`): resources of any size train one model.
  Validation rows weigh as much as their spread, so the measure is still the absolute error in units of the target;
  training rows weigh its square root.
- *A linear backbone*, fitted to the absolute error, with coefficients that fade along the horizon. It extrapolates,
  which trees cannot. The search tries trees on it and trees alone; the final median is one of them or their mean.
- *Truncated histories, missing columns and missing clocks are training conditions*, because requests look like that.
- *Conformal offsets* by step and target, from validation origins (Romano, Patterson and Candes 2019,
  "Conformalized quantile regression"), each edge of the band on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from threadpoolctl import threadpool_limits

from aiops_core import servable
from aiops_core.data import tables
from aiops_core.data.splits import rolling_origins
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError
from aiops_core.facts import FACTS
from aiops_core.judge import intervals, metrics
from aiops_core.servable.capacity import (
    LINEAR,
    CapacityServable,
    Layout,
    Rows,
    assemble,
    design,
    feature_names,
    features,
)
from aiops_core.units import unit_of

NAME = "capacity"
MODEL, KIND = FACTS[NAME].model, FACTS[NAME].kind
MAIN_METRIC = "r2"
OBJECTIVE = "nmae"
MODE = "min"
MAX_STEPS = 16
#: What the gate compares; simple baselines by the first one only.
GATE_METRICS: tuple[str, ...] = ("mase",)
#: There is no probability to compare.
PROBABILITY_METRICS: tuple[str, ...] = ()
SIMPLE_BASELINES: tuple[str, ...] = ("last_value", "seasonal_naive")
STRONG_BASELINES: tuple[str, ...] = ("xgboost_lags",)

#: Boosting rounds between two reports of a trial.
ROUNDS = 10
#: A trial stops after this many reports without a better one.
PATIENCE = 4
#: Rows of a trial, of the final fit, of its band edges, of the linear fit of one target, and of a trial's validation.
SEARCH_ROWS = 40_000
FINAL_ROWS = 80_000
EDGE_ROWS = 40_000
LINEAR_ROWS = 20_000
SCORED_ROWS = 20_000
#: Steps ahead that one sampled (series, origin) pair contributes.
STEPS_PER_PAIR = 4
#: Shares of the training pairs with a cut history, without other columns, without a clock.
TRUNCATED, WITHOUT_OTHERS, WITHOUT_CLOCK = 0.15, 0.15, 0.10
#: Other columns that a forecast may use.
MAX_EXOGENOUS = 8
#: Strength of the ridge penalty tried for the linear backbone, relative to the mean curvature.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
#: Scaled residuals beyond this are cut in training: they carry no more information on a median.
CUT = 15.0
#: Relative change of the error below which the linear fit is settled.
SETTLED = 1e-3
#: Buckets of steps with an own conformal offset, and rows of one below which it joins the next.
BUCKETS, MIN_BUCKET = 6, 60
#: The boosters of the band edges: few, shallow trees, since the conformal offsets do the rest.
EDGE = {"max_depth": 4, "learning_rate": 0.1, "min_child_weight": 40.0, "subsample": 0.7, "colsample": 0.5, "l2": 5.0}
EDGE_STEPS = 8

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Pairs:
    """(series, origin) pairs with the steps that are asked of each.

    Attributes
    ----------
    resource, target, origin : ndarray, (n,), int
        ``origin`` is a position on the common axis, at whose end every resource's last row lies.
    steps : ndarray, (n, k), int
    truth : ndarray, (n, k), float64
        Value at ``origin + step``; NaN where unknown: such rows are not scored.
    """

    resource: np.ndarray
    target: np.ndarray
    origin: np.ndarray
    steps: np.ndarray
    truth: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(n, k), bool: where there is a truth to compare with."""
        known: np.ndarray = ~np.isnan(self.truth)
        return known

    def flat(self, values: np.ndarray) -> np.ndarray:
        """Repeat a value per pair for its rows that are scored; (rows,)."""
        repeated: np.ndarray = np.broadcast_to(values.reshape(len(values), -1), self.steps.shape)[self.known]
        return repeated


@dataclass(frozen=True)
class Block:
    """Training or validation rows ready for a booster.

    Attributes
    ----------
    x : ndarray, (rows, F), float32
    y : ndarray, (rows,), float64
        Scaled truth.
    weight : ndarray, (rows,)
        Scale of the row relative to the mean scale of its target.
    target : ndarray, (rows,), int
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class CapacityData:
    """Everything the task needs, as arrays.

    Attributes
    ----------
    values : ndarray, (resources, columns, time), float32
        Targets, then other columns; right-aligned: the last position is each resource's last row.
    columns : list of str
    resources : list of str
    end : ndarray, (resources,), datetime64[s]
        Time of the last row.
    first : ndarray, (resources,), int
        Position of the first row.
    layout : Layout
    score_steps : ndarray, int
    parts : dict of str to Pairs
        What is scored, by part; "train" is a sample.
    limits : dict of str to int
        Last position whose value a fit may see: before validation, before test.
    search, checked : Block
        Rows of a trial, and validation rows.
    linear : ndarray, (P, targets)
        Backbone fitted on the rows before validation.
    ridge : float
    naive_error : ndarray, (resources, targets)
        In-sample seasonal-naive MAE on training rows.
    """

    values: np.ndarray
    columns: list[str]
    resources: list[str]
    end: np.ndarray
    first: np.ndarray
    layout: Layout
    score_steps: np.ndarray
    parts: dict[str, Pairs]
    limits: dict[str, int]
    search: Block
    checked: Block
    linear: np.ndarray
    ridge: float
    naive_error: np.ndarray
    oracle: np.ndarray | None
    info: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> pd.DataFrame:
        """Return what was prepared, one line a part."""
        lines = []
        for name, pairs in self.parts.items():
            times = self.time(pairs.resource, pairs.origin)
            lines.append(
                {
                    "part": name,
                    "rows": int(pairs.known.sum()),
                    "origins": len(np.unique(pairs.origin)),
                    "resources": len(np.unique(pairs.resource)),
                    "first origin": pd.Timestamp(times.min(), tz="UTC"),
                    "last origin": pd.Timestamp(times.max(), tz="UTC"),
                    "mean": float(np.nanmean(pairs.truth)),
                }
            )
        return pd.DataFrame(lines).set_index("part")

    def time(self, resource: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return UTC times of positions, datetime64[s]."""
        behind = (self.values.shape[2] - 1 - position) * self.layout.step_seconds
        out: np.ndarray = self.end[resource] - behind.astype("timedelta64[s]")
        return out


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
        Conformal offsets, see `aiops_core.servable.capacity.assemble`.
    params : dict
    """

    boosters: tuple[list[xgb.Booster], list[xgb.Booster], list[xgb.Booster]]
    shares: tuple[float, float, float]
    linear: np.ndarray
    calibration: dict[str, Any] | None
    params: dict[str, Any]
    layout: Layout


# Preparing -----------------------------------------------------------------------------------------------------------


def prepare(dataset: Dataset, *, seed: int) -> CapacityData:
    """Cut a usage table into rolling origins and build the training rows.

    Test are the last ``origins`` origins of every resource, ``origin_step`` apart; the longest scored forecast of the
    last one ends at the resource's last row. As many validation origins lie before them, their forecasts ending at
    the first test origin; training targets end at the first validation origin. With a short record there are fewer
    origins.

    Parameters
    ----------
    dataset : Dataset
        With a ``usage`` table.
    seed : int
        Fixes which training pairs are sampled.

    Returns
    -------
    CapacityData

    Raises
    ------
    DataError
        If a target is missing or never varies, or the record is too short.

    Notes
    -----
    Positions count from a resource's own end, so records of different periods can train together.
    """
    frame = dataset.tables["usage"]
    config = {**tables.DEFAULT_CONFIG["capacity"], **dataset.config.get("capacity", {})}
    numeric = tables.feature_columns("usage", frame)
    targets = _targets(config.get("target"), numeric, frame)
    others = [c for c in numeric if c not in targets]
    if len(others) + len(targets) <= MAX_EXOGENOUS and len(targets) > 1:
        others += targets
    others = others[:MAX_EXOGENOUS]
    columns = targets + [c for c in others if c not in targets]
    grid = tables.to_grid(frame, columns)
    values, first, end = _right_aligned(grid)
    score_steps = np.array(sorted(set(config.get("score_steps") or range(1, config["horizon"] + 1))), dtype=np.int64)
    if score_steps[0] < 1 or score_steps[-1] > config["horizon"]:
        raise DataError(f"score_steps must lie within 1 and the horizon of {config['horizon']} steps", table="usage")
    test, validation = _origins(values.shape[2], config, int(score_steps[-1]))
    limits = {"train": int(validation[0]), "validation": int(test[0])}
    known = values[:, : len(targets), : limits["train"] + 1].astype(np.float64)
    for j, name in enumerate(targets):
        spread = known[:, j][~np.isnan(known[:, j])]
        if len(spread) == 0 or spread.min() == spread.max():
            raise DataError("the target never varies before the validation origins", table="usage", column=name)
    layout = _layout(known, targets, others, config, grid.step_seconds)
    rng = np.random.default_rng(seed)
    data = CapacityData(
        values,
        columns,
        grid.resources,
        end,
        first,
        layout,
        score_steps,
        {},
        limits,
        *(None,) * 4,  # type: ignore[arg-type]
        _naive_error(known, layout.season),
        None,
    )
    data.parts["train"] = _sample(data, limits["train"], SEARCH_ROWS, rng)
    data.parts["validation"] = _grid_of(data, validation)
    data.parts["test"] = _grid_of(data, test)
    for name, pairs in data.parts.items():
        if not pairs.known.any():
            raise DataError(f"no {name} origin has a known target value", table="usage")
    search = _block(data, data.parts["train"], rng)
    checked = _block(data, data.parts["validation"], None)
    with threadpool_limits(1):  # small matrices: more threads only get into each other's way
        ridge, linear = _backbone(search, checked, layout)
    oracle = dataset.oracles.get("capacity")
    expected = None if oracle is None else np.asarray(oracle(_keys(data, "test")), dtype=np.float64)
    data = replace(data, search=search, checked=checked, ridge=ridge, linear=linear, oracle=expected)
    rows = {name: int(pairs.known.sum()) for name, pairs in data.parts.items()}
    data.info.update(
        rows=len(frame),
        train_rows=rows["train"],
        validation_rows=rows["validation"],
        test_rows=rows["test"],
        split=(
            f"rolling origins: test = the last {len(test)} origins, {config['origin_step']} steps apart, of each of "
            f"{len(grid.resources)} resources; validation = {len(validation)} origins before them; "
            "training targets end at the first validation origin"
        ),
        targets=targets,
        features=others,
        season=layout.season,
        horizon=layout.horizon,
        origins=len(test),
        score_steps=[int(s) for s in score_steps] if len(score_steps) <= 12 else f"1 to {int(score_steps[-1])}",
        resources=len(grid.resources),
        step_seconds=layout.step_seconds,
    )
    return data


def _targets(target: Any, numeric: list[str], frame: pd.DataFrame) -> list[str]:
    wanted = numeric if target is None else [target] if isinstance(target, str) else [str(t) for t in target]
    if not wanted:
        raise DataError("there is no numeric column to forecast", table="usage")
    for name in wanted:
        if name not in numeric:
            hint = tables.suggestion(name, numeric)
            raise DataError(f"the target '{name}' is not a column{hint}", table="usage", column=name)
    return list(dict.fromkeys(wanted))


def _right_aligned(grid: tables.Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(grid.resources)
    sizes = np.bincount(grid.resource, minlength=n)
    length = int(sizes.max())
    stops = np.cumsum(sizes)
    within = np.arange(len(grid.resource)) - np.repeat(stops - sizes, sizes)
    values = np.full((n, len(grid.columns), length), np.nan, dtype=np.float32)
    values[grid.resource, :, within + np.repeat(length - sizes, sizes)] = grid.values
    values[~np.isfinite(values)] = np.nan
    return values, length - sizes, grid.time[stops - 1]


def _origins(length: int, config: Mapping[str, Any], reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of test and validation origins; fewer than asked for when they would take most of the record."""
    for origins in range(int(config["origins"]), 0, -1):
        test = rolling_origins(length - 1, origins=origins, origin_step=int(config["origin_step"]), reach=reach)
        validation = rolling_origins(int(test[0]), origins=origins, origin_step=int(config["origin_step"]), reach=reach)
        if validation[0] >= 0.4 * length:
            break
    if validation[0] < max(8, config["season"] // 2) + min(reach, int(config["season"])):
        raise DataError(
            f"the longest record has {length} steps, too few to train, validate and test forecasts {reach} steps ahead",
            table="usage",
        )
    return test, validation


def _layout(
    known: np.ndarray, targets: list[str], others: list[str], config: Mapping[str, Any], step_seconds: int
) -> Layout:
    relative, reference, lower, upper = [], [], [], []
    for j in range(len(targets)):
        rows = known[:, j][~np.isnan(known[:, j]).all(axis=1)]
        level = np.abs(np.nanmean(rows, axis=1))
        spread = np.nanmean(np.abs(rows - np.nanmean(rows, axis=1, keepdims=True)), axis=1)
        relative.append(float(np.clip(np.median(spread / np.maximum(level, 1e-9)), 0.01, 2.0)))
        reference.append(float(np.median(level)))
        low, high = float(np.nanmin(rows)), float(np.nanmax(rows))
        lower.append(0.0 if low >= 0 else None)
        # A share or percentage that was seen saturating cannot go further.
        upper.append(100.0 if 99.5 <= high <= 100 and low >= 0 else None)
    return Layout(
        tuple(targets),
        tuple(others),
        int(config["season"]),
        int(config["horizon"]),
        step_seconds,
        tuple(relative),
        tuple(reference),
        tuple(lower),
        tuple(upper),
    )


def _naive_error(known: np.ndarray, season: int) -> np.ndarray:
    lag = season if known.shape[2] > season else 1
    gap = np.abs(known[:, :, lag:] - known[:, :, :-lag])
    count = (~np.isnan(gap)).sum(axis=2)
    return np.where(count > 0, np.nan_to_num(gap).sum(axis=2) / np.maximum(count, 1), 0.0)


# Pairs and rows ------------------------------------------------------------------------------------------------------


def _grid_of(data: CapacityData, origins: np.ndarray) -> Pairs:
    """Every series at every origin that lies inside its record, at the scored steps."""
    r, t, o = np.meshgrid(np.arange(len(data.resources)), np.arange(len(data.layout.targets)), origins, indexing="ij")
    inside = o >= data.first[r]
    return _pairs(data, r[inside], t[inside], o[inside], np.tile(data.score_steps, (int(inside.sum()), 1)))


def _pairs(data: CapacityData, r: np.ndarray, t: np.ndarray, o: np.ndarray, steps: np.ndarray) -> Pairs:
    position = o[:, None] + steps
    last = data.values.shape[2] - 1
    truth = data.values[r[:, None], t[:, None], np.clip(position, 0, last)].astype(np.float64)
    # A pair without a single known value before its origin has nothing to forecast from.
    history = np.cumsum(~np.isnan(data.values[:, : len(data.layout.targets)]), axis=2)[r, t, np.maximum(o, 0)]
    truth[(position > last) | (history == 0)[:, None]] = np.nan
    return Pairs(r, t, o, steps, truth)


def _sample(data: CapacityData, limit: int, rows: int, rng: np.random.Generator) -> Pairs:
    """Draw random pairs whose targets do not pass ``limit``."""
    scored, horizon = data.score_steps, data.layout.horizon
    reach = max(1, min(horizon, limit - int(data.first.min()) - min(data.layout.season, limit // 3)))
    k = min(STEPS_PER_PAIR, max(reach, 1))
    n = -(-rows // k)
    steps = rng.integers(1, min(int(scored[-1]), reach) + 1, (n, k))
    if len(scored) < min(int(scored[-1]), reach):
        # Half the rows at the scored steps, half spread over the horizon on a log scale.
        steps = np.exp(rng.uniform(0, np.log(reach + 1), (n, k))).astype(np.int64)
        near = scored[scored <= reach]
        if len(near):
            steps[:, : max(1, k // 2)] = rng.choice(near, (n, max(1, k // 2)))
    steps = np.clip(steps, 1, reach)
    r = rng.integers(0, len(data.resources), n)
    t = rng.integers(0, len(data.layout.targets), n)
    low = data.first[r]
    # Most origins have a season of history; the truncation covers the rest.
    low = np.minimum(low + data.layout.season - 1, np.maximum(low, limit - steps.max(axis=1)))
    o = low + (rng.random(n) * np.maximum(limit - steps.max(axis=1) - low + 1, 1)).astype(np.int64)
    pairs = _pairs(data, r, t, o, steps)
    pairs.truth[o[:, None] + steps > limit] = np.nan
    keep = pairs.known.any(axis=1)
    return Pairs(r[keep], t[keep], o[keep], steps[keep], pairs.truth[keep])


def _features(data: CapacityData, pairs: Pairs, rng: np.random.Generator | None = None) -> list[tuple[slice, Rows]]:
    """Features of pairs in chunks; with ``rng`` histories are cut and other columns and clocks withheld at random."""
    n, k = pairs.steps.shape
    context = data.layout.context
    size = max(1, min(2_000_000 // context, 60_000 // k + 1))
    keep = np.full(n, context)
    clock, columns = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    if rng is not None:
        short = np.flatnonzero(rng.random(n) < TRUNCATED)
        keep[short] = np.exp(rng.uniform(0, np.log(context), len(short))).astype(np.int64)
        clock[rng.random(n) < WITHOUT_CLOCK] = False
        columns[rng.random(n) < WITHOUT_OTHERS] = False
    out = []
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        r, t, o = pairs.resource[part], pairs.target[part], pairs.origin[part]
        history = _history(data, r, t, o, context)
        # At least the last known value stays, or there would be nothing to forecast from.
        last_known = context - 1 - np.argmax(~np.isnan(history[:, ::-1]), axis=1)
        history[np.arange(context) < np.minimum(context - keep[part], last_known)[:, None]] = np.nan
        time = data.time(r, o)
        time[~clock[part]] = np.datetime64("NaT")
        exogenous = _others(data, r, t, o)
        if exogenous is not None:
            exogenous[~columns[part]] = np.nan
        out.append((part, features(history, time, pairs.steps[part], t, data.layout, exogenous)))
    return out


def _history(data: CapacityData, r: np.ndarray, column: np.ndarray, o: np.ndarray, length: int) -> np.ndarray:
    """Values up to the origins, NaN before the record; (n, length), float64."""
    position = o[:, None] + np.arange(1 - length, 1)
    found = data.values[r[:, None], column[:, None], np.maximum(position, 0)].astype(np.float64)
    return np.where(position >= 0, found, np.nan)


def _others(data: CapacityData, r: np.ndarray, t: np.ndarray, o: np.ndarray) -> np.ndarray | None:
    layout = data.layout
    if not layout.exogenous:
        return None
    out = np.empty((len(r), len(layout.exogenous), 7 * layout.season))
    for i, name in enumerate(layout.exogenous):
        column = data.columns.index(name)
        out[:, i] = _history(data, r, np.full(len(r), column), o, out.shape[2])
        if name in layout.targets:
            out[t == column, i] = np.nan
    return out


def _block(data: CapacityData, pairs: Pairs, rng: np.random.Generator | None) -> Block:
    x, y, weight, target = [], [], [], []
    for part, rows in _features(data, pairs, rng):
        known = pairs.known[part]
        scaled = (pairs.truth[part] - rows.level[:, None]) / rows.scale[:, None]
        x.append(rows.x[known])
        y.append(scaled[known])
        weight.append(np.broadcast_to(rows.scale[:, None], known.shape)[known])
        target.append(np.broadcast_to(pairs.target[part][:, None], known.shape)[known])
    w, t = np.concatenate(weight), np.concatenate(target)
    size = np.bincount(t, minlength=len(data.layout.targets))
    mean = np.bincount(t, weights=w, minlength=len(size)) / np.maximum(size, 1)
    return Block(np.concatenate(x), np.concatenate(y), w / mean[t], t)


def _keys(data: CapacityData, part: str) -> pd.DataFrame:
    pairs = data.parts[part]
    r = pairs.flat(pairs.resource)
    origin = data.time(r, pairs.flat(pairs.origin))
    return pd.DataFrame(
        {
            "resource_id": np.asarray(data.resources, dtype=object)[r],
            "origin": pd.DatetimeIndex(origin).tz_localize("UTC"),
            "target": np.asarray(data.layout.targets, dtype=object)[pairs.flat(pairs.target)],
            "step": pairs.steps[pairs.known],
        }
    )


# The linear backbone -------------------------------------------------------------------------------------------------


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


def _backbone(
    train: Block, checked: Block | None, layout: Layout, ridge: float | None = None
) -> tuple[float, np.ndarray]:
    """Fit one linear model a target; the ridge penalty is the one with the smallest validation error."""
    strengths = RIDGES if ridge is None else (ridge,)
    columns: dict[float, list[np.ndarray]] = {s: [] for s in strengths}
    for j in range(len(layout.targets)):
        rows = np.flatnonzero(train.target == j)[:LINEAR_ROWS]
        a = design(train.x[rows], layout)
        y = np.clip(train.y[rows], -CUT, CUT)
        found: np.ndarray | None = None
        for strength in strengths:
            # Penalties in turn start from each other's solution.
            found = _least_absolute(a, y, train.weight[rows], strength, found) if len(rows) else np.zeros(a.shape[1])
            columns[strength].append(found)
    fits = {s: np.stack(c, axis=1) for s, c in columns.items()}
    if checked is None or len(fits) == 1:
        best = next(iter(fits))
        return best, fits[best]
    error = {s: _error(checked, _linear(checked, w, layout)) for s, w in fits.items()}
    best = min(error, key=lambda s: error[s])
    return best, fits[best]


def _linear(block: Block, linear: np.ndarray, layout: Layout) -> np.ndarray:
    out = np.empty(len(block.y))
    for start in range(0, len(out), 50_000):
        part = slice(start, start + 50_000)
        a = design(block.x[part], layout)
        out[part] = (a @ linear)[np.arange(len(a)), block.target[part]]
    return out


def _error(block: Block, scaled: np.ndarray) -> float:
    """Weighted absolute error in units of the scale: proportional to the MAE within a target, equal between them."""
    return float(np.average(np.abs(block.y - scaled), weights=block.weight))


# Fitting -------------------------------------------------------------------------------------------------------------


def space(data: CapacityData) -> dict[str, BaseDistribution]:
    """Return the search space of the median booster."""
    return {
        "backbone": IntDistribution(0, 1),
        "max_depth": IntDistribution(3, 8),
        "learning_rate": FloatDistribution(0.02, 0.2, log=True),
        "min_child_weight": FloatDistribution(5.0, 200.0, log=True),
        "subsample": FloatDistribution(0.4, 1.0),
        "colsample": FloatDistribution(0.2, 0.9),
        "l2": FloatDistribution(0.5, 50.0, log=True),
    }


def defaults(data: CapacityData) -> list[dict[str, Any]]:
    """Return the points that every search tries first."""
    point = {"max_depth": 6, "learning_rate": 0.06, "min_child_weight": 40.0}
    point |= {"subsample": 0.7, "colsample": 0.4, "l2": 5.0}
    return [{"backbone": 0, **point}, {"backbone": 1, **point}]


def _settings(params: Mapping[str, Any], objective: str, seed: int) -> dict[str, Any]:
    return {
        "objective": objective,
        "tree_method": "hist",
        "max_bin": 64,
        "base_score": 0.0,
        "max_depth": int(params["max_depth"]),
        "eta": params["learning_rate"],
        "min_child_weight": params["min_child_weight"],
        "subsample": params["subsample"],
        "colsample_bynode": params["colsample"],
        "lambda": params["l2"],
        "nthread": 1,
        "seed": seed,
        "verbosity": 0,
    }


def _boost(
    params: Mapping[str, Any],
    train: Block,
    backbone: np.ndarray,
    checked: Block | None,
    checked_backbone: np.ndarray | None,
    *,
    quantile: float = 0.5,
    rounds: int | None = None,
    steps: int = MAX_STEPS,
    seed: int = 0,
    report: Report | None = None,
) -> xgb.Booster:
    """Boost the residual of the backbone; with validation rows, keep the rounds with the smallest pinball loss."""
    settings = _settings(params, "reg:absoluteerror" if quantile == 0.5 else "reg:quantileerror", seed)
    if quantile != 0.5:
        settings["quantile_alpha"] = quantile
    label = np.clip(train.y - backbone, -CUT, CUT)
    # The square root: with the full weight a few wild series would draw most of the trees.
    matrix = xgb.QuantileDMatrix(train.x, label, weight=np.sqrt(train.weight), max_bin=64, nthread=1)
    booster = xgb.Booster(settings, [matrix])
    if checked is None or checked_backbone is None:
        for i in range(rounds or MAX_STEPS * ROUNDS):
            booster.update(matrix, i)
        return booster
    check = xgb.DMatrix(checked.x, nthread=1)
    scaled = checked_backbone.copy()
    best, best_step = np.inf, 0
    for step in range(1, steps + 1):
        for i in range((step - 1) * ROUNDS, step * ROUNDS):
            booster.update(matrix, i)
        # Trees add up (base score 0), so only the new ones are evaluated.
        scaled += booster.predict(check, iteration_range=((step - 1) * ROUNDS, step * ROUNDS))
        loss = float(np.average(metrics.pinball(checked.y, scaled, quantile), weights=checked.weight))
        if report is not None:
            squared = np.average((checked.y - scaled) ** 2, weights=checked.weight**2)
            report(step, {OBJECTIVE: 2 * loss, "nrmse": float(np.sqrt(squared))})
        if loss < best:
            best, best_step = loss, step
        elif step - best_step >= PATIENCE:
            break
    return booster[: best_step * ROUNDS]


def _part_of(block: Block, rows: int, seed: int) -> Block:
    if len(block.y) <= rows:
        return block
    chosen = np.sort(np.random.default_rng(seed).choice(len(block.y), rows, replace=False))
    return Block(block.x[chosen], block.y[chosen], block.weight[chosen], block.target[chosen])


def fit(params: Mapping[str, Any], data: CapacityData, *, seed: int, report: Report | None = None) -> CapacityModel:
    """Fit the median booster of one trial.

    Parameters
    ----------
    params : mapping
        A point of `space`.
    report : callable, optional
        Called every `ROUNDS` rounds with the step (1..`MAX_STEPS`) and ``nmae``: the validation MAE, every target in
        units of its mean spread, so that targets of different units count alike.

    Returns
    -------
    CapacityModel
        Without a band; `finish` adds it.
    """
    checked = _part_of(data.checked, SCORED_ROWS, seed)
    share = float(params["backbone"])
    median = _boost(
        params,
        data.search,
        share * _linear(data.search, data.linear, data.layout),
        checked,
        share * _linear(checked, data.linear, data.layout),
        seed=seed,
        report=report,
    )
    return CapacityModel(([], [median], []), (share,) * 3, data.linear, None, dict(params), data.layout)


def finish(ranked: list[dict[str, Any]], data: CapacityData, *, seed: int) -> CapacityModel:
    """Fit the final model: rounds and conformal offsets before the validation origins, then again with them.

    The first pass trains on rows before the validation origins. It fixes the number of rounds; chooses the median
    among the best parameter set, the best one of the other kind (with or without the backbone) and their mean; and
    measures how far the band misses. The second pass adds the validation period, the most recent knowledge of every
    series, and keeps these choices.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets, best first.

    Returns
    -------
    CapacityModel
    """
    rng = np.random.default_rng([seed, 1])
    other = next((p for p in ranked if p["backbone"] != ranked[0]["backbone"]), None)
    medians = [ranked[0]] if other is None else [ranked[0], other]
    edge = {"backbone": ranked[0]["backbone"], **EDGE}
    jobs = [(0.5, p) for p in medians] + [(0.1, edge), (0.9, edge)]
    with threadpool_limits(1):
        train = _block(data, _sample(data, data.limits["train"], FINAL_ROWS, rng), rng)
        first = _boost_all(jobs, train, data.linear, data, seed=seed)
        kept = _choose(jobs, first, data)
        model = _assembled(jobs, first, kept, data.linear, None, ranked[0], data.layout)
        calibration = _conformal(model, data)
        again = _block(data, _sample(data, data.limits["validation"], FINAL_ROWS, rng), rng)
        _, linear = _backbone(again, None, data.layout, data.ridge)
        jobs = [jobs[i] for i in kept]
        rounds = [first[i].num_boosted_rounds() for i in kept]
        second = _boost_all(jobs, again, linear, data, seed=seed, rounds=rounds)
    return _assembled(jobs, second, list(range(len(jobs))), linear, calibration, ranked[0], data.layout)


def _boost_all(
    jobs: list[tuple[float, Any]],
    train: Block,
    linear: np.ndarray,
    data: CapacityData,
    *,
    seed: int,
    rounds: list[int] | None = None,
) -> list[xgb.Booster]:
    """Fit several boosters, two at a time; without ``rounds`` validation chooses their number."""
    backbone = _linear(train, linear, data.layout)
    checked = None if rounds is not None else _part_of(data.checked, SCORED_ROWS, seed)
    checked_backbone = None if checked is None else _linear(checked, linear, data.layout)
    # Band edges need less: conformal offsets correct them.
    few = slice(0, EDGE_ROWS)
    edges = Block(train.x[few], train.y[few], train.weight[few], train.target[few])

    def one(i: int) -> xgb.Booster:
        quantile, params = jobs[i]
        block, base = (train, backbone) if quantile == 0.5 else (edges, backbone[few])
        share = params["backbone"]
        return _boost(
            params,
            block,
            share * base,
            checked,
            None if checked_backbone is None else share * checked_backbone,
            quantile=quantile,
            steps=MAX_STEPS if quantile == 0.5 else EDGE_STEPS,
            rounds=None if rounds is None else rounds[i],
            seed=seed + i,
        )

    # XGBoost releases the interpreter lock; one thread each keeps the result independent of the machine.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(len(jobs))))


def _choose(jobs: list[tuple[float, Any]], boosters: list[xgb.Booster], data: CapacityData) -> list[int]:
    """Return which boosters to keep: the medians whose mean has the smallest validation error, and the band edges."""
    medians = [i for i, (q, _) in enumerate(jobs) if q == 0.5]
    matrix = xgb.DMatrix(data.checked.x)
    backbone = _linear(data.checked, data.linear, data.layout)
    scaled = {i: jobs[i][1]["backbone"] * backbone + boosters[i].predict(matrix) for i in medians}
    options = [[i] for i in medians] + ([medians] if len(medians) > 1 else [])
    best = min(options, key=lambda o: _error(data.checked, np.mean([scaled[i] for i in o], axis=0)))
    return best + [i for i, (q, _) in enumerate(jobs) if q != 0.5]


def _assembled(
    jobs: list[tuple[float, Any]],
    boosters: list[xgb.Booster],
    kept: list[int],
    linear: np.ndarray,
    calibration: dict[str, Any] | None,
    params: Mapping[str, Any],
    layout: Layout,
) -> CapacityModel:
    of = {q: [i for i in kept if jobs[i][0] == q] for q in (0.1, 0.5, 0.9)}
    low, middle, high = ([boosters[i] for i in of[q]] for q in of)
    shares = [float(np.mean([jobs[i][1]["backbone"] for i in of[q]])) for q in of]
    return CapacityModel(
        (low, middle, high), (shares[0], shares[1], shares[2]), linear, calibration, dict(params), layout
    )


def _conformal(model: CapacityModel, data: CapacityData) -> dict[str, Any]:
    """Offsets, in units of scale, that make each band edge miss one validation row in ten, by step and target."""
    pairs = data.parts["validation"]
    edges = _edges(data.score_steps)
    low = np.zeros((len(data.layout.targets), len(edges)))
    high = np.zeros_like(low)
    scaled, truth = [], []
    for part, rows in _features(data, pairs):
        prediction = _scaled(model, rows, pairs.target[part])
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
            low[j, b] = _upper_quantile(p[rows_in, 0] - y[rows_in])
            high[j, b] = _upper_quantile(y[rows_in] - p[rows_in, 2])
    return {"edges": edges.tolist(), "low": low.tolist(), "high": high.tolist()}


def _edges(score_steps: np.ndarray) -> np.ndarray:
    """Last step of each bucket."""
    if len(score_steps) <= BUCKETS:
        # Boundaries half way, on a log scale, between the scored steps.
        middle = np.sqrt(score_steps[:-1] * score_steps[1:]).astype(np.int64)
        return np.unique(np.r_[np.maximum(middle, score_steps[:-1]), score_steps[-1]])
    last = np.geomspace(1, len(score_steps), BUCKETS).round().astype(np.int64)
    return np.unique(score_steps[last - 1])


def _upper_quantile(score: np.ndarray) -> float:
    """Finite-sample 90 % quantile of conformity scores."""
    if len(score) == 0:
        return 0.0
    rank = min(len(score), math.ceil(0.9 * (len(score) + 1)))
    return float(np.sort(score)[rank - 1])


# Prediction ----------------------------------------------------------------------------------------------------------


def _scaled(model: CapacityModel, rows: Rows, target: np.ndarray) -> np.ndarray:
    """Quantiles before the conformal offsets, in units of scale around level; (n, k, 3)."""
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
    for chunk, rows in _features(data, pairs):
        target, steps = pairs.target[chunk], pairs.steps[chunk]
        out[chunk] = assemble(_scaled(model, rows, target), rows, steps, target, model.layout, model.calibration)
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
            _history(data, r, t, o, length), data.time(r, o), pairs.steps[chunk], t, _others(data, r, t, o)
        )
    return _named(out[pairs.known])


def _named(forecast: np.ndarray) -> dict[str, np.ndarray]:
    return {"p10": forecast[:, 0], "p50": forecast[:, 1], "p90": forecast[:, 2]}


# Export --------------------------------------------------------------------------------------------------------------


def export(model: CapacityModel, data: CapacityData, folder: str | Path) -> None:
    """Write the servable: one graph a booster, one for the backbone, the card, and golden examples.

    The golden outputs come from the native boosters, so a conversion that changes a prediction is refused on loading.
    """
    layout = model.layout
    graphs = {LINEAR: _linear_graph(model.linear)}
    names: list[list[str]] = []
    for label, boosters in zip(("p10", "p50", "p90"), model.boosters, strict=True):
        if not boosters:
            names.append([])
            continue
        names.append([f"{label}_{i}" for i in range(len(boosters))])
        width = len(feature_names(layout)[0])
        graphs.update({name: _tree_graph(b, width) for name, b in zip(names[-1], boosters, strict=True)})
    card = {
        "task": NAME,
        "model": MODEL,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "features": _schema(data),
        "targets": list(layout.targets),
        "exogenous": list(layout.exogenous),
        "season": layout.season,
        "horizon": layout.horizon,
        "step_seconds": layout.step_seconds,
        "context": layout.context,
        "quantiles": [0.1, 0.5, 0.9],
        "scored_steps": data.info["score_steps"],
        "layout": layout.as_dict(),
        "graphs": [n or names[1] for n in names],
        "backbone_shares": list(model.shares),
        "decision": {"rule": "none: a forecast is a band, thresholds are the user's"},
        "calibration": {
            "method": "conformal offsets of both band edges by target and step, in units of the series' spread"
            if model.calibration
            else "none",
            "parameters": model.calibration,
        },
        "metrics": {},
        "baselines": {},
        "oracle": None,
        "params": model.params,
    }
    servable.write(folder, card, graphs, _golden(model, data))


def _schema(data: CapacityData) -> list[dict[str, Any]]:
    """Feature schema of the card; reference statistics come from values before the validation origins."""
    out = []
    for j, name in enumerate(data.columns):
        x = data.values[:, j, : data.limits["train"] + 1]
        x = x[~np.isnan(x)].astype(np.float64)
        low, middle, high = np.percentile(x, [1, 50, 99]) if len(x) else (0.0, 0.0, 0.0)
        reference = {
            "median": float(middle),
            "p01": float(low),
            "p99": float(high),
            "min": float(x.min()) if len(x) else 0.0,
            "max": float(x.max()) if len(x) else 0.0,
            "mean": float(x.mean()) if len(x) else 0.0,
            "std": float(x.std()) if len(x) else 0.0,
        }
        unit = unit_of(name, reference["max"])
        out.append({"name": name, "unit": unit, "dtype": "number", "reference": reference})
    return out


def _linear_graph(weights: np.ndarray) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["scaled"])],
        "backbone",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, weights.shape[0]])],
        [helper.make_tensor_value_info("scaled", TensorProto.DOUBLE, [None, weights.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(weights, dtype=np.float64), "W")],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    return bytes(built.SerializeToString())


def _tree_graph(booster: xgb.Booster, width: int) -> bytes:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    plain = booster.copy()
    plain.feature_names = None
    built = convert_xgboost(plain, initial_types=[("X", FloatTensorType([None, width]))])
    return bytes(built.SerializeToString())


def _golden(model: CapacityModel, data: CapacityData, n: int = 24) -> dict[str, np.ndarray]:
    """Histories of validation origins: whole, cut short, with gaps, without a clock and without other columns."""
    pairs = data.parts["validation"]
    rng = np.random.default_rng(0)
    usable = np.flatnonzero(pairs.known.any(axis=1))
    chosen = np.sort(rng.choice(usable, min(n, len(usable)), replace=False))
    r, t, o = pairs.resource[chosen], pairs.target[chosen], pairs.origin[chosen]
    length = min(data.layout.context, 8 * data.layout.season + 1)
    history = _history(data, r, t, o, length).astype(np.float32)
    for i in range(len(chosen)):
        kept = (length, 1, 5, data.layout.season, length)[i % 5]
        history[i, : max(0, length - kept)] = np.nan
        if i % 3 == 1:
            history[i, rng.random(length) < 0.2] = np.nan
        if np.isnan(history[i]).all():
            history[i, -1] = data.layout.reference_level[t[i]]
    last = data.time(r, o)
    last[::4] = np.datetime64("NaT")
    horizon = data.layout.horizon
    steps = np.unique(np.geomspace(1, horizon, 5).round().astype(np.int64))
    arrays: dict[str, np.ndarray] = {
        "history": history,
        "last": last.astype("datetime64[s]").astype(np.int64),
        "target": t,
        "steps": np.tile(steps, (len(chosen), 1)),
    }
    exogenous = _others(data, r, t, o)
    if exogenous is not None:
        exogenous[::2] = np.nan
        arrays["exogenous"] = exogenous = exogenous.astype(np.float32)
    rows = features(history, last, arrays["steps"], t, data.layout, exogenous)
    scaled = _scaled(model, rows, t)
    arrays["expected_forecast"] = assemble(scaled, rows, arrays["steps"], t, model.layout, model.calibration)
    return arrays


# Evaluation ----------------------------------------------------------------------------------------------------------


def baselines(data: CapacityData, *, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Predict the test rows with the last value, the value one season ago, and XGBoost on plain lags.

    The latter is what an engineer would try first: raw lags, calendar and step, squared error, no scaling; trained on
    everything before the first test origin.
    """
    pairs = data.parts["test"]
    last, season = _plain_forecasts(data, pairs)
    rng = np.random.default_rng([seed, 2])
    train = _sample(data, data.limits["validation"], SEARCH_ROWS, rng)
    settings = {
        "objective": "reg:squarederror", "tree_method": "hist", "max_depth": 6, "eta": 0.08, "subsample": 0.8,
        "nthread": 2, "seed": seed, "verbosity": 0,
    }  # fmt: skip
    matrix = xgb.DMatrix(_plain_lags(data, train), train.truth[train.known])
    booster = xgb.train(settings, matrix, 150)
    strong = booster.predict(xgb.DMatrix(_plain_lags(data, pairs))).astype(np.float64)
    return {"last_value": {"p50": last}, "seasonal_naive": {"p50": season}, "xgboost_lags": {"p50": strong}}


def _plain_forecasts(data: CapacityData, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    season, length = data.layout.season, data.layout.context
    last = np.empty(pairs.steps.shape)
    same = np.empty(pairs.steps.shape)
    for start in range(0, len(pairs.origin), 500):
        part = slice(start, start + 500)
        history = _history(data, pairs.resource[part], pairs.target[part], pairs.origin[part], length)
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
        history = _history(data, r, t, o, 7 * season + 1)
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


def oracle(data: CapacityData) -> dict[str, np.ndarray] | None:
    """Return the expected value of every test row given the latent state at its origin; None for real data."""
    return None if data.oracle is None else {"p50": data.oracle}


def _context(data: CapacityData, part: str) -> dict[str, np.ndarray]:
    """Truth and what the metrics need beside a prediction, by scored row."""
    pairs = data.parts[part]
    r, t = pairs.flat(pairs.resource), pairs.flat(pairs.target)
    # Few resources: origins of a resource are the next best units that hardly depend on each other.
    clusters = r if len(np.unique(r)) >= 10 else r * data.values.shape[2] + pairs.flat(pairs.origin)
    return {
        "truth": pairs.truth[pairs.known],
        "scale": data.naive_error[r, t],
        "target": t,
        "clusters": np.unique(clusters, return_inverse=True)[1],
    }


def evaluate(
    data: CapacityData, prediction: Mapping[str, np.ndarray], part: str = "test", seed: int = 0
) -> dict[str, intervals.Metric]:
    """Score a prediction of a part; ``pinball`` and ``coverage_80`` only when it has a band.

    Returns
    -------
    dict of str to Metric
        ``mae, rmse, r2, mase, wape, pinball, coverage_80``.
    """
    context = _context(data, part)
    return metrics.capacity(
        context["truth"],
        prediction["p50"],
        prediction.get("p10"),
        prediction.get("p90"),
        scale=context["scale"],
        target=context["target"],
        clusters=context["clusters"],
        seed=seed,
    )


def compare(
    data: CapacityData,
    prediction: Mapping[str, np.ndarray],
    others: Mapping[str, Mapping[str, np.ndarray]],
    *,
    seed: int = 0,
    n_boot: int = intervals.N_PAIRED,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS`."""
    context = _context(data, "test")

    def values(p: Mapping[str, np.ndarray]) -> intervals.Weighted:
        return metrics.capacity_values(
            context["truth"], p["p50"], None, None, scale=context["scale"], target=context["target"]
        )

    return intervals.paired(
        values(prediction),
        {name: values(other) for name, other in others.items()},
        len(context["truth"]),
        only=(*GATE_METRICS, *PROBABILITY_METRICS),
        clusters=context["clusters"],
        seed=seed,
        n_boot=n_boot,
    )


def details(data: CapacityData, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what a report shows of a test prediction: errors and coverage by target, step and resource, examples.

    Returns
    -------
    dict
        ``by_target``, ``by_step``, ``by_resource``, ``worst_resources``: lists of dicts with ``rows, mae, mase,
        coverage_80``; ``examples``: forecasts with their band, recent history and truth; ``error_by_target``.
    """
    pairs = data.parts["test"]
    context = _context(data, "test")
    truth, p50 = context["truth"], prediction["p50"]
    error = np.abs(truth - p50)
    band = "p10" in prediction and "p90" in prediction
    inside = (truth >= prediction["p10"]) & (truth <= prediction["p90"]) if band else None
    r, t, step = pairs.flat(pairs.resource), pairs.flat(pairs.target), pairs.steps[pairs.known]
    scaled = np.where(context["scale"] > 0, error / np.maximum(context["scale"], 1e-12), np.nan)

    def group(label: str, value: Any, mask: np.ndarray) -> dict[str, Any]:
        out = {label: value, "rows": int(mask.sum()), "mae": float(error[mask].mean())}
        usable = scaled[mask & ~np.isnan(scaled)]
        out["mase"] = float(usable.mean()) if len(usable) else None
        out["coverage_80"] = float(inside[mask].mean()) if inside is not None else None
        return out

    edges = _edges(data.score_steps)
    bucket = np.minimum(np.searchsorted(edges, step, side="left"), len(edges) - 1)
    names = data.layout.targets
    by_step = []
    for j, name in enumerate(names):
        for b in range(len(edges)):
            mask = (bucket == b) & (t == j)
            if mask.any():
                low, high = int(step[mask].min()), int(step[mask].max())
                by_step.append({"target": name, **group("step", f"{low}–{high}" if low < high else str(low), mask)})
    by_resource = [group("resource_id", data.resources[i], r == i) for i in np.unique(r)]
    order = sorted(by_resource, key=lambda g: -(g["mase"] if g["mase"] is not None else -1.0))
    return {
        "by_target": [group("target", name, t == j) for j, name in enumerate(names) if (t == j).any()],
        "by_step": by_step,
        "by_resource": by_resource,
        "worst_resources": order[:10],
        "examples": _examples(data, prediction, scaled),
    }


def _examples(data: CapacityData, prediction: Mapping[str, np.ndarray], scaled: np.ndarray) -> list[dict[str, Any]]:
    """One ordinary and one bad (resource, target), each with history, truth and the band of its forecasts."""
    pairs = data.parts["test"]
    r, t, o = (pairs.flat(v) for v in (pairs.resource, pairs.target, pairs.origin))
    step = pairs.steps[pairs.known]
    out = []
    for j, name in enumerate(data.layout.targets[:3]):
        ids = np.unique(r[t == j])
        if len(ids) == 0:
            continue
        errors = np.array([np.nan_to_num(scaled[(t == j) & (r == i)]).mean() for i in ids])
        order = np.argsort(errors, kind="stable")
        for kind, i in (("ordinary", ids[order[len(ids) // 2]]), ("worst", ids[order[-1]])):
            if kind == "worst" and len(ids) == 1:
                continue
            mine = (t == j) & (r == i)
            few = len(data.score_steps) < 12
            # With few scored steps a picture needs all origins; else the middle origin is one curve.
            if not few:
                starts = np.unique(o[mine])
                mine &= o == starts[len(starts) // 2]
            position = (o + step)[mine]
            first = max(int(data.first[i]), int(o[mine].min()) - 4 * data.layout.season)
            past = np.arange(first, int(position.max()) + 1)
            stamps = data.time(np.full(len(past), i), past)
            shown = {
                "kind": kind,
                "resource_id": data.resources[i],
                "target": name,
                "history": {
                    "timestamp": [str(s) + "Z" for s in stamps],
                    "value": [None if np.isnan(v) else float(v) for v in data.values[i, j, past]],
                },
                "origin": [str(s) + "Z" for s in data.time(np.full(int(mine.sum()), i), o[mine])],
                "timestamp": [str(s) + "Z" for s in data.time(np.full(int(mine.sum()), i), position)],
                "step": step[mine].tolist(),
                "truth": pairs.truth[pairs.known][mine].tolist(),
            }
            shown.update({q: prediction[q][mine].tolist() for q in ("p10", "p50", "p90") if q in prediction})
            out.append(shown)
    return out


def steps(data: Any) -> int:
    """Return the most steps that `fit` reports: what a full trial has."""
    return MAX_STEPS
