"""Whether a search has found anything: its best points against the default, on blocks of validation rows.

The best of many trials looks better than it is: it was chosen by the noise of the same rows. So the first default point
stays unless another is better by more than noise, after both were fitted again with a seed that chose nothing, and more
is asked the more trials were ranked. Rows that ranked nothing would have to be taken from training or from calibration.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from types import ModuleType
from typing import Any

import ray
from optuna.distributions import BaseDistribution
from ray.exceptions import RayTaskError

from aiops_core.judge import intervals, metrics
from aiops_core.search.connection import ONE_THREAD, cluster
from aiops_core.search.result import Choice, SearchResult
from aiops_core.search.space import checked_space, first_points

__all__ = ["chosen"]

#: Trials that are compared with the default, and the chance that one of all ranked is taken though none is better.
CONTENDERS, RISK = 3, 0.2
#: Resamples of blocks: enough for an end at a few per cent.
DRAWS = 1_000
#: The fits are repeated with a seed that no trial had.
OTHER_SEED = 1_000


def chosen(
    task: ModuleType,
    data: Any,
    result: SearchResult,
    *,
    space: Mapping[str, BaseDistribution] | None = None,
    start: Mapping[str, Any] | None = None,
    seed: int,
) -> SearchResult:
    """Put the default point, or where the search started from, first among the ranked ones, unless another is better by more than noise.

    Parameters
    ----------
    task, data, space, start, seed
        As of the search.
    result : SearchResult

    Returns
    -------
    SearchResult
        With ``choice``, and ``ranked`` beginning with what was chosen.
    """
    default = first_points(task, data, checked_space(task, data, space), start)[0]
    if result.ranked[0] == default:
        return replace(result, choice=Choice("default", "no trial scored better than the default point", {}))
    trials = [params for params in result.ranked if params != default]
    contenders = trials[:CONTENDERS]
    gains = _gains(task, _fits(task, data, [default, *contenders], seed + OTHER_SEED), seed + OTHER_SEED)
    # The same rows picked the contenders from all trials: each of these has a part of the risk (Bonferroni).
    reach = NormalDist().inv_cdf(1 - RISK / len(trials)) / NormalDist().inv_cdf(0.975)
    lower = {i: gain["value"] - reach * (gain["value"] - gain["low"]) for i, gain in gains.items()}
    better = {i: gains[i]["value"] for i in lower if lower[i] > 0}
    best = max(better or gains, key=lambda i: gains[i]["value"], default=None)
    if best is None:
        return replace(result, choice=Choice("trial", "could not be fitted again, so the best trial stands", {}))
    gain = {"metric": task.MAIN_METRIC, **gains[best], "lower_end": lower[best]}
    first, what = (contenders[best], "trial") if better else (default, "default")
    words = (
        f"on blocks of the validation rows that ranked them, fitted again with another seed, the best of {len(gains)} trials "
        f"{_difference(gain)} than the default point in {metrics.WORDS.get(task.MAIN_METRIC, task.MAIN_METRIC)}"
    )
    why = f"{words}; that is {'more' if better else 'not more'} than noise, and the {what} is used"
    return replace(
        result,
        ranked=[first, *(params for params in result.ranked if params != first)],
        choice=Choice(what, why, gain),
    )


def _difference(gain: Mapping[str, Any]) -> str:
    """Return by how much one is better, as the middle of a sentence."""
    if not math.isfinite(gain["lower_end"]):
        return (
            f"is {abs(gain['value']):.3g} {'better' if gain['value'] > 0 else 'worse'} (too few blocks for an interval)"
        )
    sign = "better" if gain["value"] > 0 else "worse"
    return f"is {abs(gain['value']):.3g} {sign} (lower end of the gain {gain['lower_end']:.3g})"


def _fits(task: ModuleType, data: Any, points: list[dict[str, Any]], seed: int) -> list[Any]:
    """Fit every point in a worker and return what the task's ``validated`` says of it, None where a fit fails."""
    with cluster():
        shared = ray.put(data)
        work = ray.remote(num_cpus=1)(_validated_in_worker)
        waiting = [work.remote(task.__name__, params, shared, seed) for params in points]
        found: list[Any] = []
        for one in waiting:
            try:
                found.append(ray.get(one))
            except RayTaskError:
                found.append(None)
    return found


def _gains(task: ModuleType, found: list[Any], seed: int) -> dict[int, intervals.Gain]:
    """Return the gain in the main metric of every point over the first, by its place behind it.

    A point whose fit failed is left out; without the first there is nothing to compare with.
    """
    if found[0] is None:
        return {}
    (default, units), metric = found[0], task.MAIN_METRIC
    gains: dict[int, intervals.Gain] = {}
    for i, one in enumerate(found[1:]):
        if one is not None:
            compared = intervals.paired(
                one[0], {"default": default}, len(units.code), only=(metric,), units=units, seed=seed, n_boot=DRAWS
            )
            gains[i] = compared["default"][metric]
    return gains


def _validated_in_worker(module: str, params: dict[str, Any], data: Any, seed: int) -> Any:
    os.environ.update(ONE_THREAD)
    task = importlib.import_module(module)
    return task.validated(task.fit(params, data, seed=seed), data)
