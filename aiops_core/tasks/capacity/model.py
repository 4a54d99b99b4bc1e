"""Boosters over the backbone: the search space, one trial, and the final model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xgboost as xgb
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from threadpoolctl import threadpool_limits

from aiops_core.judge import metrics
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks.capacity.backbone import CUT, backbone_of, fit_backbone
from aiops_core.tasks.capacity.band import conformal
from aiops_core.tasks.capacity.data import OBJECTIVE, Block, CapacityData, Effort
from aiops_core.tasks.capacity.pairs import block_of, sample
from aiops_core.tasks.capacity.prediction import CapacityModel

#: The boosters of the band edges: few, shallow trees, since the conformal offsets do the rest.
EDGE = {"max_depth": 4, "learning_rate": 0.1, "min_child_weight": 40.0, "subsample": 0.7, "colsample": 0.5, "l2": 5.0}
Report = Callable[[int, dict[str, float]], None]


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


def fit(params: Mapping[str, Any], data: CapacityData, *, seed: int, report: Report | None = None) -> CapacityModel:
    """Fit the median booster of one trial.

    Parameters
    ----------
    params : mapping
        A point of `space`.
    report : callable, optional
        Called every ``effort.rounds`` rounds with the step (1 to ``effort.max_steps``) and ``nmae``: the validation MAE, every target in
        units of its mean spread, so that targets of different units count alike.

    Returns
    -------
    CapacityModel
        Without a band; `finish` adds it.
    """
    checked = _part_of(data.checked, data.effort.scored_rows, seed)
    share = float(params["backbone"])
    median = _boost(
        params,
        data.search,
        share * backbone_of(data.search, data.linear, data.layout),
        checked,
        share * backbone_of(checked, data.linear, data.layout),
        effort=data.effort,
        seed=seed,
        report=report,
    )
    return CapacityModel(([], [median], []), (share,) * 3, data.linear, None, dict(params), data.layout)


def finish(ranked: list[dict[str, Any]], data: CapacityData, *, seed: int) -> CapacityModel:
    """Fit the final model: rounds and conformal offsets from a first pass, then again on all rows before the test.

    The median is the mean of two: the best parameter set, and the best one of the other kind (with or without the
    backbone). Which of them is better changes from set to set and from month to month; their mean is as good as the
    better one (``reports/ablation-capacity.md``). The first pass trains on rows before the validation origins, which fix
    the number of rounds. How far the band then misses is measured on the calibration origins. The second pass adds both
    periods, the most recent knowledge of every series, and keeps rounds and offsets.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets, best first.

    Returns
    -------
    CapacityModel
    """
    rng = np.random.default_rng([seed, 1])
    best, flipped = ranked[0], 1 - ranked[0]["backbone"]
    other = next((p for p in ranked if p["backbone"] == flipped), {**best, "backbone": flipped})
    edge = {"backbone": best["backbone"], **EDGE}
    jobs = [(0.5, best), (0.5, other), (0.1, edge), (0.9, edge)]
    with threadpool_limits(1):
        train = block_of(data, sample(data, data.limits["train"], data.effort.final_rows, rng), rng)
        first = _boost_all(jobs, train, data.linear, data, seed=seed)
        calibration = conformal(_assembled(jobs, first, data.linear, None, data.layout), data)
        again = block_of(data, sample(data, data.limits["validation"], data.effort.final_rows, rng), rng)
        _, linear = fit_backbone(again, None, data.layout, data.ridge, rows=data.effort.linear_rows)
        rounds = [booster.num_boosted_rounds() for booster in first]
        second = _boost_all(jobs, again, linear, data, seed=seed, rounds=rounds)
    return _assembled(jobs, second, linear, calibration, data.layout)


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
    backbone = backbone_of(train, linear, data.layout)
    checked = None if rounds is not None else _part_of(data.checked, data.effort.scored_rows, seed)
    checked_backbone = None if checked is None else backbone_of(checked, linear, data.layout)
    # Band edges need less: conformal offsets correct them.
    few = slice(0, data.effort.edge_rows)
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
            effort=data.effort,
            quantile=quantile,
            rounds=None if rounds is None else rounds[i],
            seed=seed + i,
        )

    # XGBoost releases the interpreter lock; one thread each keeps the result independent of the machine.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(len(jobs))))


def _boost(
    params: Mapping[str, Any],
    train: Block,
    backbone: np.ndarray,
    checked: Block | None,
    checked_backbone: np.ndarray | None,
    *,
    effort: Effort,
    quantile: float = 0.5,
    rounds: int | None = None,
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
        for i in range(rounds or effort.max_steps * effort.rounds):
            booster.update(matrix, i)
        return booster
    check = xgb.DMatrix(checked.x, nthread=1)
    scaled = checked_backbone.copy()
    best, best_step = np.inf, 0
    steps = effort.max_steps if quantile == 0.5 else effort.edge_steps
    for step in range(1, steps + 1):
        for i in range((step - 1) * effort.rounds, step * effort.rounds):
            booster.update(matrix, i)
        # Trees add up (base score 0), so only the new ones are evaluated.
        scaled += booster.predict(check, iteration_range=((step - 1) * effort.rounds, step * effort.rounds))
        loss = float(np.average(metrics.pinball(checked.y, scaled, quantile), weights=checked.weight))
        if report is not None:
            squared = np.average((checked.y - scaled) ** 2, weights=checked.weight**2)
            report(step, {OBJECTIVE: 2 * loss, "nrmse": float(np.sqrt(squared))})
        if loss < best:
            best, best_step = loss, step
        elif step - best_step >= effort.patience:
            break
    return booster[: best_step * effort.rounds]


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


def _part_of(block: Block, rows: int, seed: int) -> Block:
    if len(block.y) <= rows:
        return block
    chosen = np.sort(np.random.default_rng(seed).choice(len(block.y), rows, replace=False))
    return Block(block.x[chosen], block.y[chosen], block.weight[chosen], block.target[chosen])


def _assembled(
    jobs: list[tuple[float, Any]],
    boosters: list[xgb.Booster],
    linear: np.ndarray,
    calibration: dict[str, Any] | None,
    layout: Layout,
) -> CapacityModel:
    of = {q: [i for i, (quantile, _) in enumerate(jobs) if quantile == q] for q in (0.1, 0.5, 0.9)}
    low, middle, high = ([boosters[i] for i in of[q]] for q in of)
    shares = [float(np.mean([jobs[i][1]["backbone"] for i in of[q]])) for q in of]
    params = dict(jobs[of[0.5][0]][1])
    return CapacityModel((low, middle, high), (shares[0], shares[1], shares[2]), linear, calibration, params, layout)
