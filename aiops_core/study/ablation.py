"""What each derived feature brought: the validation score with all of them, and without each in turn."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from aiops_core import search
from aiops_core.data.tables import Dataset
from aiops_core.study.origin import protocol_of
from aiops_core.study.words import METRIC_WORDS

__all__ = ["MOST", "derived_features", "with_table"]

#: Features that are left out in turn: each costs one fit.
MOST = 5


def derived_features(task: ModuleType, dataset: Dataset, data: Any, *, seed: int) -> list[dict[str, Any]]:
    """Refit at default parameters without each of the first derived features; nothing is chosen by it.

    Without a feature that looks back furthest, the embargo between the parts is shorter by as many steps.

    Returns
    -------
    list of dict
        A row each: ``feature``, ``expression``, the objective on validation rows ``with_all`` and ``without_it``, and
        ``gain``, positive where it helps; None beyond the first `MOST`. Empty without derived features.
    """
    if not dataset.config.get(task.NAME, {}).get("derive"):
        return []
    # Over columns only: then each can go and the others stay.
    over_columns = data.derived.over_columns()
    tried = list(over_columns)[:MOST]
    versions = [data] if tried else []
    for name in tried:
        others = {other: text for other, text in over_columns.items() if other != name}
        without = dataset.configured(task.NAME, derive=others)
        versions.append(task.prepare(without, seed=seed, effort=data.effort, protocol=protocol_of(data)))
    scores = search.default_scores(task, versions, seed=seed)
    sign = 1 if task.MODE == "max" else -1
    rows = []
    for entry in data.derived.entries():
        score = scores[1 + tried.index(entry["name"])] if entry["name"] in tried else None
        gain = None if score is None else sign * (scores[0] - score)
        rows.append({"feature": entry["name"], **_row(entry["expression"], scores[0], score, gain)})
    left_out = data.info["derived_left_out"].items()
    return rows + [{"feature": name, **_row(f"left out: {reason}")} for name, reason in left_out]


def _row(
    expression: str, whole: float | None = None, without: float | None = None, gain: float | None = None
) -> dict[str, Any]:
    return {"expression": expression, "with_all": whole, "without_it": without, "gain": gain}


def with_table(details: dict[str, Any], rows: list[dict[str, Any]], objective: str) -> dict[str, Any]:
    """Return the details of a report with the table of derived features, where there are any."""
    if not rows:
        return details
    words = METRIC_WORDS.get(objective, objective)
    title = f"Derived features: {words} on validation rows at default parameters, one fit each"
    return {**details, "tables": {**details.get("tables", {}), title: rows}}
