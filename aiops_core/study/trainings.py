"""The final model trained again with other seeds: how much of a figure is luck of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from aiops_core.judge.seeds import over_seeds
from aiops_core.study.words import METRIC_WORDS

__all__ = ["over_trainings", "trainings_words"]


def over_trainings(
    task: ModuleType, data: Any, metrics: Mapping[str, Any], others: Sequence[Mapping[str, Any]], *, seed: int
) -> dict[str, Any] | None:
    """Return mean, spread and interval of every metric over trainings that differ in their seed only.

    Parameters
    ----------
    task : module
    data : object
        What the task's ``prepare`` returned.
    metrics : mapping of str to Metric
        Of the registered model, whose seed is ``seed``.
    others : sequence of prediction
        Of the test rows, by the trainings with the seeds after it.

    Returns
    -------
    dict or None
        ``seeds`` and ``metrics``, by name an `OverSeeds` and its ``values``; None where there was one training.
    """
    if not others:
        return None
    found = [metrics, *(task.evaluate(data, other, seed=seed) for other in others)]
    # A metric of the user's own is measured of the registered model only.
    values = {name: [one[name]["value"] for one in found] for name in metrics if all(name in one for one in found)}
    return {
        "seeds": [seed + i for i in range(len(found))],
        "metrics": {
            name: {**over_seeds(known), "values": known}
            for name, known in values.items()
            if any(math.isfinite(value) for value in known)
        },
    }


def trainings_words(section: Mapping[str, Any]) -> str:
    """Say what the trainings with other seeds found of a section's main metric, in sentences."""
    trained, main = section.get("seeds"), section["main_metric"]
    if not trained or main not in trained["metrics"]:
        return ""
    seeds, found = trained["seeds"], trained["metrics"][main]
    return (
        f"The final model was trained {len(seeds)} times on the same rows, with the seeds {seeds[0]} to {seeds[-1]}: "
        f"{METRIC_WORDS.get(main, main)} {found['mean']:.3f} in the mean (95 % interval {found['low']:.3f} to "
        f"{found['high']:.3f}), and {found['spread']:.3f} is the standard deviation of one training. The model that was "
        f"registered is that of seed {seeds[0]}."
    )
