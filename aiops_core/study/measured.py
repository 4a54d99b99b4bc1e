"""What was measured, as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from aiops_core import servable


def metric_table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row a prediction and one column a metric, as ``value (low to high)``; those of single classes left out."""
    cells = {
        name: {metric: shown(value) for metric, value in values.items() if not metric.startswith("f1_")}
        for name, values in rows.items()
    }
    return pd.DataFrame(cells).T.fillna("")


def shown(metric: Mapping[str, float]) -> str:
    """Return a metric as ``value (low to high)``."""
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def largest_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Return how far two predictions of the same rows are apart at most, decisions aside; NaN if nothing is comparable."""
    gaps = [
        float(np.max(np.abs(np.asarray(a[k], dtype=float) - np.asarray(b[k], dtype=float)), initial=0.0))
        for k in a
        if k in b and k not in ("alarm", "label") and np.shape(a[k]) == np.shape(b[k])
    ]
    return max(gaps, default=math.nan)


def way_to_oracle(
    task: ModuleType,
    data: Any,
    prediction: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    oracle: Mapping[str, Any] | None,
    seed: int,
) -> dict[str, Any] | None:
    """Return how much of the way from the best naive baseline to the oracle a prediction goes, in the main metric.

    Returns
    -------
    dict or None
        ``value, low, high`` and ``naive``, the baseline's name; None where there is no oracle, or no naive baseline.
    """
    naive = {name: baselines[name] for name in task.NAIVE_BASELINES if name in baselines}
    if oracle is None or not naive:
        return None
    # The better of two naive ones is that which leaves the shorter way.
    found = {name: task.share(data, prediction, other, oracle, seed=seed) for name, other in naive.items()}
    name = min(found, key=lambda n: (math.isnan(found[n]["value"]), found[n]["value"]))
    return {**found[name], "naive": name}


def details_of(study: Any, prediction: Mapping[str, Any], baselines: Mapping[str, Any], best: Any) -> dict[str, Any]:
    """Return the details of a prediction, from the task of a study.

    Those of failure also want what validation knows (the policy curve of the card), the answers at every step, how much
    each metric moves the prediction, and the predictions that stand beside: strong baselines, and the oracle's ``best``
    where there is one. Those of threats read
    thresholds and importance from the card.
    """
    more: dict[str, Any] = {}
    if study.name == "threat":
        more = {"card": servable.load(study.servable, verify=False).card}
    if study.name == "failure":
        served = servable.load(study.servable, verify=False)
        others = {name: baselines[name] for name in study.task.STRONG_BASELINES if name in baselines}
        more = {
            "curve": served.card["decision"]["curve"],
            "watched": study.task.watch(served, study.data),
            "importance": study.task.importance(served, study.data),
            "members": study.task.members_alone(served, study.data) or None,
            "others": others if best is None else {**others, "oracle": best},
        }
    found: dict[str, Any] = study.task.details(study.data, prediction, **more)
    return found
