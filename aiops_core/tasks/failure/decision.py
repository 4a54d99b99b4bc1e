"""What alarms mean to an on-call engineer: events, alerts, and the policy curve that thresholds are chosen on."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiops_core.judge.curves import descending
from aiops_core.servable.failure import choose_threshold
from aiops_core.tasks.failure.data import FailureData

#: Positions of rows, one a step, and their probabilities.
Watched = tuple[np.ndarray, np.ndarray]

CURVE_POINTS = 120
DAY_SECONDS = 86_400


def events(data: FailureData, ends: np.ndarray, alarm: np.ndarray, *, stride: int | None = None) -> dict[str, Any]:
    """Translate alarms into what an on-call engineer asks.

    An alert is an alarm that is not within ``horizon`` steps after an earlier alert of the same resource: an alert
    is valid for the horizon, and repeats after it. It is false when no incident starts within the horizon.
    An incident counts when at least one example lies within the horizon before it; it is caught when one of these
    is an alarm, and its lead is the time from the earliest one.

    Parameters
    ----------
    ends : ndarray, (n,)
        Positions of the examples, ascending.
    alarm : ndarray, (n,), bool
    stride : int, optional
        Steps that an example stands for, by default those between the examples of the data set.

    Returns
    -------
    dict
        ``incidents, caught, share_caught, leads_hours`` (list), ``median_lead_hours, alerts, false_alerts,
        resource_days, alerts_per_resource_day, false_alerts_per_resource_day``.
    """
    days = len(ends) * (stride or data.stride) * data.step_seconds / DAY_SECONDS
    lead = incident_leads(data, ends, alarm)[1]
    leads = lead[np.isfinite(lead)] * data.step_seconds / 3600
    alerts = _alerts(data, ends[alarm])
    false = int((data.until[alerts] > data.horizon).sum())
    return {
        "incidents": len(lead),
        "caught": len(leads),
        "share_caught": len(leads) / len(lead) if len(lead) else float("nan"),
        "leads_hours": np.sort(leads).tolist(),
        "median_lead_hours": float(np.median(leads)) if len(leads) else None,
        "alerts": len(alerts),
        "false_alerts": false,
        "resource_days": days,
        "alerts_per_resource_day": len(alerts) / days if days else 0.0,
        "false_alerts_per_resource_day": false / days if days else 0.0,
    }


def incident_leads(data: FailureData, ends: np.ndarray, alarm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of every incident that examples announce one of these rows, and the steps from the first alarm to it.

    Returns
    -------
    row : ndarray, (n_incidents,)
        Position of an example within the horizon before the incident.
    lead : ndarray, (n_incidents,)
        Steps, -inf where no alarm was raised.
    """
    rows = ends[data.until[ends] <= data.horizon]
    # An incident is known by the place of its start, which may lie past the last row of its resource: places of two
    # resources are kept more than a horizon apart.
    place = np.round(rows + data.until[rows] + data.resource[rows] * (data.horizon + 1.0), 6)
    names, first, index = np.unique(place, return_index=True, return_inverse=True)
    lead = np.full(len(names), -np.inf)
    hit = alarm[data.until[ends] <= data.horizon]
    np.maximum.at(lead, index[hit], data.until[rows[hit]])
    return rows[first], lead


def _alerts(data: FailureData, alarms: np.ndarray) -> np.ndarray:
    """Return the positions of the alarms that are alerts."""
    chosen, i = [], 0
    # The next alarm that counts lies past the horizon of this one, or in the next resource.
    stop = np.r_[np.flatnonzero(np.diff(data.resource[alarms])) + 1, len(alarms)]
    quiet = np.searchsorted(alarms, alarms + data.horizon, side="right")
    following = np.minimum(quiet, stop[np.searchsorted(stop, np.arange(len(alarms)), side="right")])
    while i < len(alarms):
        chosen.append(alarms[i])
        i = int(following[i])
    return np.array(chosen, dtype=np.int64)


def policies(
    data: FailureData,
    ends: np.ndarray,
    probability: np.ndarray,
    *,
    watched: Watched | None = None,
    thresholds: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """Return what each threshold would mean, as `choose_threshold` and the report need it.

    Parameters
    ----------
    ends : ndarray, (n,)
        Positions of the examples, ascending.
    probability : ndarray, (n,)
    watched : (ndarray, ndarray), optional
        Positions, one a step, and their probabilities: a service is asked at every step, and what it would alert is
        counted there. By default the examples.
    thresholds : ndarray, optional
        Descending; by default those where the ranking of the examples can be cut.

    Returns
    -------
    dict of str to list
        ``threshold`` descending, ``precision, recall, f1``, ``missed`` and ``false_alarms`` (shares of all rows),
        ``alerts_per_resource_day, false_alerts_per_resource_day, share_caught, median_lead_hours``.
    """
    truth = data.label(ends)
    if thresholds is None:
        cut, threshold, hit = _cuts(truth, probability)
        tp, raised = hit.astype(float), (cut + 1).astype(float)
    else:
        threshold = np.asarray(thresholds, dtype=float)
        order = np.argsort(probability, kind="stable")
        above = np.searchsorted(probability[order], threshold, side="left")
        raised = (len(truth) - above).astype(float)
        tp = (truth.sum() - np.r_[0, np.cumsum(truth[order])][above]).astype(float)
    out: dict[str, list[float]] = {
        "threshold": threshold.tolist(),
        "precision": (tp / np.maximum(raised, 1)).tolist(),
        "recall": (tp / max(truth.sum(), 1)).tolist(),
        "f1": (2 * tp / np.maximum(raised + truth.sum(), 1)).tolist(),
        "missed": ((truth.sum() - tp) / len(truth)).tolist(),
        "false_alarms": ((raised - tp) / len(truth)).tolist(),
    }
    rows, score, stride = (ends, probability, data.stride) if watched is None else (*watched, 1)
    seen = [events(data, rows, score >= t, stride=stride) for t in threshold]
    for name in ("alerts_per_resource_day", "false_alerts_per_resource_day", "share_caught"):
        out[name] = [float(e[name]) for e in seen]
    out["median_lead_hours"] = [float(e["median_lead_hours"] or 0.0) for e in seen]
    return out


def _cuts(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return up to `CURVE_POINTS` places to cut the ranking, with the threshold and the positives above each."""
    order, ranked, last = descending(probability)
    hit, cut = np.cumsum(truth[order]), np.flatnonzero(last)
    f1 = 2 * hit[cut] / (cut + 1 + truth.sum())
    # Denser where few rows alarm: that is where thresholds are chosen. The best F1 is always among them.
    place = np.unique(np.r_[np.geomspace(1, len(cut), CURVE_POINTS).astype(int) - 1, int(np.argmax(f1))])
    cut = cut[place]
    below = np.r_[ranked, ranked[-1] * 0.9][cut + 1]
    # Half way to the next lower score: rounding in another runtime must not flip the decision.
    return cut, (ranked[cut] + below) / 2, hit[cut]


def highest_f1(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the threshold of rule ``max_f1``, as a servable's own is chosen: one rule for models and baselines."""
    cut, threshold, hit = _cuts(truth, probability)
    f1 = 2 * hit / (cut + 1 + truth.sum())
    return choose_threshold({"threshold": threshold.tolist(), "f1": f1.tolist()}, "max_f1")


def likely_f1(probability: np.ndarray) -> float:
    """Return the threshold of highest expected F1 of probabilities that are right, without looking at a label."""
    ranked = np.sort(probability)[::-1]
    expected = 2 * np.cumsum(ranked) / (np.arange(1, len(ranked) + 1) + ranked.sum())
    best = int(np.argmax(expected))
    return float((ranked[best] + np.r_[ranked, ranked[-1] * 0.9][best + 1]) / 2)
