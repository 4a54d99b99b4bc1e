"""A task of a few milliseconds a trial, with the interface of the real ones: searches are tested on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from aiops_core.judge.units import Units, of_rows

NAME = "toy"
OBJECTIVE = MAIN_METRIC = "score"
MODE = "max"
MAX_STEPS = 4


def space(data: Any) -> dict[str, Any]:
    return {"x": optuna.distributions.FloatDistribution(-1.0, 1.0)}


def defaults(data: Any) -> list[dict[str, Any]]:
    return [{"x": 0.5}]


def fit(params: dict[str, Any], data: dict[str, Any], *, seed: int, report: Callable[..., None] | None = None) -> float:
    with Path(data["journal"]).open("a") as file:
        file.write(f"{params['x']:.6f}\n")
    for step in range(1, MAX_STEPS + 1):
        time.sleep(data["pause"])
        if data["fail_below"] is not None and params["x"] < data["fail_below"]:
            raise ValueError("the toy broke")
        if report:
            report(step, {"score": -((params["x"] - 0.3) ** 2) * step / MAX_STEPS})
    return float(params["x"])


def validated(model: float, data: dict[str, Any]) -> tuple[Callable[..., dict[str, float]], Units]:
    """Score 40 blocks of one row; ``noise`` differs from block to block, point to point and ``draw`` to draw."""
    noise = np.random.default_rng([int(1e6 * abs(model)), data.get("draw", 0)]).normal(0, data.get("noise", 0.0), 40)
    rows = noise - (model - 0.3) ** 2
    return lambda weight: {"score": float(np.average(rows, weights=weight))}, of_rows(40)


def steps(data: Any) -> int:
    return MAX_STEPS
