"""Learning curves: the test metric of the default parameters against the share of the training data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from plan import ROOT, argument_of

CURVE = ROOT / "reports" / "learning-curve.json"
#: Source, metric and shares of the training data of the curves: the sources whose targets are hardest.
CURVES = {"azure-v1": "mae", "smd": "roc_auc", "cmapss": "f1", "nsl-kdd": "macro_f1"}
SHARES = (0.1, 0.25, 0.5, 1.0)


def learning_curve(source: str, seed: int) -> list[dict[str, Any]]:
    """Return the test error of the default parameters against the share of the training data: would more data help?"""
    from aiops_core.data.sources import load
    from aiops_core.tasks import capacity, failure, threat

    dataset = load(argument_of(source), seed=seed)
    task: Any = next(t for t in (capacity, failure, threat) if dataset.has(t.NAME))
    data = task.prepare(dataset, seed=seed)
    rows = []
    for share in SHARES:
        part = _less(dataset, data, share, seed)
        model = task.finish(task.defaults(part), part, seed=seed)
        # Every part keeps the test rows; but forecasts are for all machines, and categories are coded by the part.
        tested = part if task is threat else data
        score = task.evaluate(tested, task.predict(model, tested, "test"), seed=seed)[CURVES[source]]
        rows.append({"source": source, "metric": CURVES[source], "share": share, **score})
        print(rows[-1], flush=True)
    return rows


def _less(dataset: Any, data: Any, share: float, seed: int) -> Any:
    """Return what is learned from: fewer machines, engines or rows, or the most recent part of each one's past."""
    from aiops_core.data import splits
    from aiops_core.tasks import capacity, threat

    if share == 1:
        return data
    rng = np.random.default_rng(seed)
    if isinstance(data, capacity.CapacityData):
        usage = dataset.tables["usage"]
        names = rng.permutation(data.resources)[: round(share * len(data.resources))]
        fewer = replace(dataset, tables={**dataset.tables, "usage": usage[usage["resource_id"].isin(names)]})
        return capacity.prepare(fewer, seed=seed)
    if isinstance(data, threat.ThreatData):
        activity = dataset.tables["activity"]
        kept = (activity["split"] == "test") | (rng.random(len(activity)) < share)
        return threat.prepare(replace(dataset, tables={"activity": activity[kept].reset_index(drop=True)}), seed=seed)
    learned = data.fold >= 0
    if data.by_resource:
        names = rng.permutation(np.unique(data.resource[learned]))
        learned &= np.isin(data.resource, names[: max(data.effort.folds, round(share * len(names)))])
        fold = np.where(learned, data.fold, -1).astype(np.int8)
    else:
        position = np.arange(len(data.fold)) - data.start
        length = np.zeros(int(data.resource.max()) + 1, dtype=np.int64)
        np.maximum.at(length, data.resource[learned], position[learned] + 1)
        whole = length[data.resource]
        oldest = (whole * (1 - share)).astype(np.int64)
        learned &= position >= oldest
        fold = np.where(learned, (position - oldest) * data.effort.folds // np.maximum(whole - oldest, 1), -1).astype(
            np.int8
        )
    ends = {name: rows if name == "test" else rows[learned[rows]] for name, rows in data.ends.items()}
    part = np.where(learned | (data.part == splits.TEST), data.part, splits.NONE)
    return replace(data, fold=fold, part=part, ends=ends)
