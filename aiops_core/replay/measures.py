"""Quality of replayed answers where it is known what was true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from aiops_core.servable.threat import NORMAL

__all__ = ["measured"]


def measured(
    task: str, kept: pd.DataFrame, said: pd.DataFrame, *, cost_missed: float, cost_false_alarm: float
) -> dict[str, Any]:
    """Return how good a version's answers are on records with a truth.

    Parameters
    ----------
    task : str
    kept : DataFrame
        Labelled records.
    said : DataFrame
        From `aiops_core.replay.answers.answers`.
    cost_missed, cost_false_alarm : float
        Of a row of attack taken for normal, and of the reverse; failures are counted by incident instead.

    Returns
    -------
    dict
        ``labelled`` (records), and where there are some: failure ``brier, precision, recall``; threat ``accuracy,
        false_alarms, missed, cost``; capacity ``mean_absolute_error`` in units of the targets.
    """
    if task == "capacity":
        return _capacity(kept, said)
    if task == "threat":
        return _threat(kept, said, cost_missed, cost_false_alarm)
    known = kept["truth"].notna()
    if not known.any():
        return {"labelled": 0}
    truth = kept.loc[known, "truth"].to_numpy(dtype=float)
    score = said.loc[known, "score"].to_numpy(dtype=float)
    alarm = said.loc[known, "alarm"].to_numpy(dtype=bool)
    hits = float((truth[alarm] == 1).sum())
    return {
        "labelled": len(truth),
        "positive": int(truth.sum()),
        "brier": float(np.mean((score - truth) ** 2)),
        "precision": hits / alarm.sum() if alarm.any() else None,
        "recall": hits / truth.sum() if truth.any() else None,
    }


def _threat(kept: pd.DataFrame, said: pd.DataFrame, cost_missed: float, cost_false_alarm: float) -> dict[str, Any]:
    known = kept["truth"].notna()
    if not known.any():
        return {"labelled": 0}
    truth = kept.loc[known, "truth"].to_numpy(dtype=object)
    mine = said.loc[known, "said"].to_numpy(dtype=object)
    false = int(((truth == NORMAL) & (mine != NORMAL)).sum())
    missed = int(((truth != NORMAL) & (mine == NORMAL)).sum())
    return {
        "labelled": len(truth),
        "accuracy": float((truth == mine).mean()),
        "false_alarms": false,
        "missed": missed,
        "cost": cost_missed * missed + cost_false_alarm * false,
    }


def _capacity(kept: pd.DataFrame, said: pd.DataFrame) -> dict[str, Any]:
    errors = []
    for truth, forecast in zip(kept["truth"], said["forecast"], strict=True):
        if forecast is not None and truth is not None:
            steps = min(len(truth), len(forecast))
            errors.append(np.abs(np.asarray(truth[:steps], dtype=float) - np.asarray(forecast[:steps])))
    error = np.concatenate(errors) if errors else np.empty(0)
    error = error[np.isfinite(error)]
    return {"labelled": len(error), "mean_absolute_error": float(error.mean())} if len(error) else {"labelled": 0}
