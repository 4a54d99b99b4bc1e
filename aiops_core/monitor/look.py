"""Everything that is found of one task, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.monitor.alerts import alerts, worst_resources
from aiops_core.monitor.drift import drift
from aiops_core.monitor.estimate import estimate
from aiops_core.monitor.quality import quality
from aiops_core.monitor.sensors import broken, inputs
from aiops_core.monitor.traffic import Traffic, traffic_of
from aiops_core.monitor.verdict import nothing, verdict
from aiops_core.tasks.cards import bin_of

#: Answers without which nothing is judged.
LEAST = 30


def look(
    frame: pd.DataFrame, card: Mapping[str, Any] | None, *, task: str, version: int | None, budget: float | None = None
) -> dict[str, Any]:
    """Judge the records of a task.

    Parameters
    ----------
    frame : DataFrame
        Records of one version, with ``truth`` where it is known; see `aiops_core.journal.labelled`.
    card : mapping or None
        Of that version.
    task : str
    version : int or None
    budget : float, optional
        Alerts a day that are acceptable.

    Returns
    -------
    dict
        ``task, version, answers, verdict`` always; and, where the model can be monitored, ``from, until, days, latency_ms,
        inputs, broken, drift, score, estimate, quality, alerts, worst``.
    """
    head = {"task": task, "version": version, "answers": len(frame)}
    if card is None or "watch" not in card:
        which = "No version of this task has answered" if version is None else f"Version {version} cannot be monitored"
        why = f"{which}: its card does not keep how the training data looked." if version is not None else f"{which}."
        todo = "Train once more with aiops report: cards keep it now." if version is not None else "Send requests."
        return head | {"verdict": nothing(why, todo)}
    if len(frame) < LEAST:
        words = f"{len(frame)} answers are too few to judge; {LEAST} are needed."
        return head | {"verdict": nothing(words, "Wait for more requests, or look further back with --since.")}
    traffic = traffic_of(frame, card)
    latency = frame["latency_ms"].to_numpy(dtype=np.float64)
    return head | {"latency_ms": _latency(latency), **look_at(traffic, budget)}


def look_at(traffic: Traffic, budget: float | None = None, *, by_day: bool = True) -> dict[str, Any]:
    """Judge `Traffic`; see `look` for what is returned. Without ``by_day`` only the newest day is told."""
    found: dict[str, Any] = {
        "from": str(traffic.time.min()),
        "until": str(traffic.time.max()),
        "days": np.bincount(traffic.day).tolist(),
        "resources": len(traffic.names) if traffic.named else 0,
        "inputs": inputs(traffic),
        "broken": broken(traffic),
        "drift": drift(traffic, by_day=by_day),
        "score": _score(traffic),
        "estimate": estimate(traffic, by_day=by_day),
        "quality": quality(traffic, by_day=by_day),
        "alerts": alerts(traffic, budget),
        "worst": worst_resources(traffic),
    }
    return found | {"verdict": verdict(found)}


def _latency(latency: np.ndarray) -> dict[str, float] | None:
    known = latency[~np.isnan(latency)]
    if not len(known):
        return None
    middle, late = np.quantile(known, [0.5, 0.99])
    return {"p50": float(middle), "p99": float(late)}


def _score(traffic: Traffic) -> dict[str, list[float]]:
    """Return the score histogram of the card and of the last day, as shares."""
    kept = traffic.card["watch"]["score"]
    code = bin_of(traffic.score[traffic.day == 0], kept["edges"])
    counts = np.bincount(code[code >= 0], minlength=len(kept["counts"]))
    usual = np.asarray(kept["counts"], dtype=float)
    return {
        "edges": list(kept["edges"]),
        "card": (usual / max(usual.sum(), 1e-9)).tolist(),
        "now": (counts / max(counts.sum(), 1)).tolist(),
    }
