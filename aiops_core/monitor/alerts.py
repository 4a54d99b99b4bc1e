"""How much the alarms ask of people: alerts a day against the budget, and the resources that stand out."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiops_core.monitor.traffic import Traffic

#: Resources that are listed.
MOST = 10


def alerts(traffic: Traffic, budget: float | None = None) -> dict[str, Any] | None:
    """Count alerts by day.

    An alert of failure is an alarm that does not lie within the horizon of an earlier alert of its resource; of threat,
    every alarm.

    Parameters
    ----------
    traffic : Traffic
    budget : float, optional
        Alerts a day that are acceptable; by default those that validation promised for as many resources or answers.

    Returns
    -------
    dict or None
        ``per_day`` (list, newest day first), ``budget``, ``promised`` (whether the budget is validation's) and ``over``,
        whether the last day had more than its budget and chance explain. None for capacity.
    """
    if traffic.task == "capacity" or not len(traffic.time):
        return None
    raised = _raised(traffic)
    per_day = np.bincount(traffic.day[raised], minlength=traffic.days)
    limit, promised = (budget, False) if budget is not None else (_promised(traffic), True)
    over = limit is not None and per_day[0] > limit + 3 * np.sqrt(max(limit, 1.0))
    return {"per_day": per_day.tolist(), "budget": limit, "promised": promised, "over": bool(over)}


def _raised(traffic: Traffic) -> np.ndarray:
    """Return the positions of alarms that are alerts."""
    found = np.flatnonzero(traffic.alarm)
    if traffic.task == "threat":
        return found
    quiet = np.timedelta64(int(traffic.card["horizon"]) * int(traffic.card["step_seconds"]), "s")
    last: dict[int, np.datetime64] = {}
    kept = []
    for i in found:
        resource = int(traffic.resource[i])
        if resource not in last or traffic.time[i] > last[resource] + quiet:
            last[resource] = traffic.time[i]
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def _promised(traffic: Traffic) -> float | None:
    """Return the alerts a day that validation promised for this many resources (failure) or answers (threat)."""
    if traffic.task == "threat":
        if "alarm_rate" not in traffic.card["watch"]:
            return None
        return float(traffic.card["watch"]["alarm_rate"] * len(traffic.time) / traffic.days)
    curve, threshold = traffic.card["decision"]["curve"], traffic.card["decision"]["threshold"]
    if not curve.get("threshold"):
        return None
    place = int(np.argmin(np.abs(np.asarray(curve["threshold"]) - threshold)))
    resources = len(np.unique(traffic.resource))
    return float(curve["alerts_per_resource_day"][place] * resources)


def worst_resources(traffic: Traffic) -> list[dict[str, Any]]:
    """Return the resources with most alarms, or the largest errors of forecasts.

    Returns
    -------
    list of dict
        ``resource, answers, alarms, mean_score, missing``, and where truth is known ``wrong``: answers that were, or for
        capacity the error as a multiple of validation's.
    """
    count = len(traffic.names)
    if not traffic.named:
        return []
    answers = np.bincount(traffic.resource, minlength=count)
    alarms = np.bincount(traffic.resource, weights=traffic.alarm, minlength=count)
    score = np.bincount(traffic.resource, weights=np.nan_to_num(traffic.score), minlength=count) / np.maximum(
        answers, 1
    )
    absent = np.isnan(traffic.features).mean(axis=1)
    rows = np.maximum(np.bincount(traffic.row_resource, minlength=count), 1)
    gone = np.bincount(traffic.row_resource, weights=absent, minlength=count) / rows
    wrong = _wrong(traffic, count)
    rank = np.nan_to_num(wrong) if traffic.task == "capacity" else alarms + score
    out = []
    for r in np.argsort(-rank, kind="stable")[:MOST]:
        out.append(
            {
                "resource": traffic.names[r],
                "answers": int(answers[r]),
                "alarms": int(alarms[r]),
                "mean_score": float(score[r]),
                "missing": float(gone[r]),
                "wrong": None if np.isnan(wrong[r]) else float(wrong[r]),
            }
        )
    return out


def _wrong(traffic: Traffic, count: int) -> np.ndarray:
    """Return of each resource the wrong answers, or the error relative to validation's; NaN where nothing is known."""
    if not traffic.truth:
        return np.full(count, np.nan)
    known = traffic.truth["known"]
    place = traffic.resource[known]
    seen = np.bincount(place, minlength=count).astype(float)
    if traffic.task == "capacity":
        top = np.bincount(place, weights=traffic.truth["error"][known], minlength=count)
        below = np.bincount(place, weights=traffic.truth["expected"][known], minlength=count)
        return np.where(seen > 0, top / np.maximum(below, 1e-9), np.nan)
    if traffic.task == "failure":
        wrong = traffic.alarm[known] != traffic.truth["incident"][known]
    else:
        wrong = ~traffic.truth["right"][known]
    return np.where(seen > 0, np.bincount(place, weights=wrong, minlength=count), np.nan)
