"""What the report shows of a test prediction: incidents, alerts, curves, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.judge import curves, metrics
from aiops_core.judge.shares import wilson
from aiops_core.servable.failure import choose_threshold
from aiops_core.tasks.failure.data import FailureData, Prediction
from aiops_core.tasks.failure.decision import Watched, events, incident_leads, policies

#: Alerts a resource and day that sentences of the report speak of.
BUDGETS = (0.05, 0.25, 1.0, 2.0)
#: Parts of the test time that a metric is shown for.
TIMES = 10


def details(
    data: FailureData,
    prediction: Prediction,
    *,
    curve: Mapping[str, list[float]] | None = None,
    watched: Watched | None = None,
    others: Mapping[str, Prediction] | None = None,
    importance: list[dict[str, Any]] | None = None,
    members: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return curves, events, costs and the worst resources of a test prediction, for the report.

    Parameters
    ----------
    curve : mapping, optional
        The policy curve of the card, from validation: its thresholds are scored on the test part, and it alone says
        which threshold a budget or a price would choose. Without it nothing is said of such choices.
    watched : (ndarray, ndarray), optional
        What `watch` returns: incidents caught and alerts are counted at every step. By default at the examples.
    others : mapping of str to prediction, optional
        Predictions of the test part whose precision-recall curves are shown beside.
    importance : list of dict, optional
        What `aiops_core.tasks.failure.importance` returns, shown as ``importance`` (by ``mean_abs_contribution``).
    members : list of dict, optional
        What `aiops_core.tasks.failure.members_alone` returns, kept as ``members`` and printed as a table.

    Returns
    -------
    dict
        ``first_screen`` (incidents, caught, median_hours_ahead, false_alarms_per_day of the whole fleet, resources),
        ``precision_recall`` and ``precision_recall_others`` (by name), ``served`` (threshold, precision, recall),
        ``reliability`` (with low and high of each bin), ``brier_skill`` (against the training base rate),
        ``confusion`` ([[tn, fp], [fn, tp]]), ``events``, ``policies`` (test values at the thresholds of ``curve``,
        with the validation values under ``validation``), ``sentence``, ``by_resource`` (list, worst first), ``by_kind``
        (incidents caught by kind), ``by_lead`` (recall by steps before the incident), ``over_time``, ``worst`` (the
        surest mistakes), ``histogram`` of probabilities by class, and what is printed as it is: ``sentences`` (list of
        str) and ``tables`` (title to rows).
    """
    truth = data.truth("test")
    probability, alarm = prediction["probability"], np.asarray(prediction["alarm"])
    threshold = _threshold(probability, alarm)
    rows, score, stride = (data.ends["test"], probability, data.stride) if watched is None else (*watched, 1)
    raised = alarm if watched is None else score >= threshold
    seen = events(data, rows, raised, stride=stride)
    seen["share_low"], seen["share_high"] = wilson(seen["caught"], seen["incidents"])
    by_resource, worst, by_kind = _by_resource(data, probability, alarm), _worst(data, probability, alarm), []
    if (data.incidents["kind"] != "").any():
        by_kind = _by_kind(data, rows, raised)
    hit = int((alarm & (truth == 1)).sum())
    found: dict[str, Any] = {
        "first_screen": _first_screen(data, seen),
        "precision_recall": curves.precision_recall_curve(truth, probability),
        "precision_recall_others": {
            name: curves.precision_recall_curve(truth, other["probability"]) for name, other in (others or {}).items()
        },
        "served": {
            "threshold": threshold,
            "precision": hit / max(int(alarm.sum()), 1),
            "recall": hit / max(int(truth.sum()), 1),
        },
        "reliability": _reliability(truth, probability),
        "brier_skill": _brier_skill(data, truth, probability),
        "confusion": np.bincount(2 * truth + alarm, minlength=4).reshape(2, 2).tolist(),
        "events": seen,
        "sentence": _sentence(seen),
        "by_resource": by_resource,
        "by_kind": by_kind,
        "by_lead": _by_lead(data, probability, alarm),
        "over_time": _over_time(data, probability, alarm),
        "worst": worst,
        "histogram": _histogram(truth, probability),
        "sentences": [f"At the chosen threshold: {_sentence(seen)}."],
        "tables": {"Resources with the largest errors": by_resource[:8], "The surest mistakes": worst[:8]},
    }
    if importance is not None:
        found["importance"] = [{"feature": r["feature"], "importance": r["mean_abs_contribution"]} for r in importance]
    if members is not None:
        found["members"] = members
        found["tables"] = {"The members of the model, each alone": members} | found["tables"]
    if by_kind:
        found["tables"] = {"Incidents by kind": by_kind} | found["tables"]
    thresholds = None if curve is None else np.asarray(curve["threshold"], dtype=float)
    scored = policies(data, data.ends["test"], probability, watched=watched, thresholds=thresholds)
    found["policies"] = dict(scored)
    if curve is not None:
        found["policies"]["validation"] = {name: list(values) for name, values in curve.items()}
        found["sentences"] += _budget_sentences(data, curve, (rows, score), stride)
    return found


def _threshold(probability: np.ndarray, alarm: np.ndarray) -> float:
    """Return a threshold between alarms and the others: a prediction says which rows alarm, not at which threshold."""
    above = float(probability[alarm].min()) if alarm.any() else 1.0 + 1e-9
    below = float(probability[~alarm].max()) if (~alarm).any() else 0.0
    return (above + min(below, above)) / 2


def _first_screen(data: FailureData, seen: Mapping[str, Any]) -> dict[str, Any]:
    resources = len(np.unique(data.resource[data.ends["test"]]))
    return {
        "incidents": seen["incidents"],
        "caught": seen["caught"],
        "median_hours_ahead": seen["median_lead_hours"],
        "false_alarms_per_day": seen["false_alerts_per_resource_day"] * resources,
        "resources": resources,
    }


def _reliability(truth: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    curve = curves.reliability_curve(truth, probability)
    hits = np.round(np.array(curve["observed"]) * np.array(curve["count"]))
    ends = [wilson(int(h), int(n)) for h, n in zip(hits, curve["count"], strict=True)]
    return {**curve, "low": [low for low, _ in ends], "high": [high for _, high in ends]}


def _brier_skill(data: FailureData, truth: np.ndarray, probability: np.ndarray) -> float:
    """Return by which share the Brier score is lower than that of the training base rate; 1 is perfect, 0 no better."""
    base = float(np.mean((data.truth("train").mean() - truth) ** 2))
    return float(1 - np.mean((probability - truth) ** 2) / max(base, 1e-12))


def _histogram(truth: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    edges = np.linspace(0, 1, 21)
    return {
        "edges": edges.tolist(),
        "negative": np.histogram(probability[truth == 0], edges)[0].tolist(),
        "positive": np.histogram(probability[truth == 1], edges)[0].tolist(),
    }


def _sentence(seen: Mapping[str, Any]) -> str:
    if not seen["caught"]:
        rate = seen["alerts_per_resource_day"]
        return f"{rate:.2g} alerts a resource a day, none of {seen['incidents']} incidents caught"
    return (
        f"{seen['alerts_per_resource_day']:.2g} alerts a resource a day "
        f"({seen['false_alerts_per_resource_day']:.2g} of them false): catches {seen['share_caught']:.0%} of "
        f"{seen['incidents']} incidents, median {seen['median_lead_hours']:.3g} h ahead"
    )


def _budget_sentences(data: FailureData, curve: Mapping[str, list[float]], watched: Watched, stride: int) -> list[str]:
    """Say for some budgets of alerts what the threshold that validation sets for each does in the test."""
    sentences = []
    most = max(curve["alerts_per_resource_day"])
    for budget in BUDGETS:
        # A budget that alarming always would keep is none.
        threshold = choose_threshold(dict(curve), "alert_budget", alerts_per_day=budget)
        if budget >= most or threshold >= 1.0:
            continue
        seen = events(data, watched[0], watched[1] >= threshold, stride=stride)
        lead = "" if not seen["caught"] else f", median {seen['median_lead_hours']:.3g} h ahead"
        sentences.append(
            f"With the threshold that validation sets for at most {budget:g} alerts a day a resource "
            f"({threshold:.3f}): {seen['alerts_per_resource_day']:.2g} alerts a day, {seen['caught']} of "
            f"{seen['incidents']} incidents caught{lead}."
        )
    return sentences


def _by_kind(data: FailureData, rows: np.ndarray, alarm: np.ndarray) -> list[dict[str, Any]]:
    """Return incidents caught by kind, the most frequent kinds first."""
    row, lead = incident_leads(data, rows, alarm)
    ahead = np.round(data.until[row] * data.step_seconds).astype("timedelta64[s]")
    found = pd.DataFrame({"resource": data.resource[row], "start": data.time[row] + ahead, "lead": lead})
    table = data.incidents.drop_duplicates(["resource", "start"])
    kinds = found.merge(table, on=["resource", "start"], how="left")["kind"].fillna("").replace("", "not said")
    out = []
    for kind, group in found.groupby(kinds.to_numpy(), sort=True):
        caught = group["lead"][np.isfinite(group["lead"])]
        low, high = wilson(len(caught), len(group))
        hours = float(caught.median() * data.step_seconds / 3600) if len(caught) else None
        out.append(
            {
                "kind": str(kind),
                "incidents": len(group),
                "caught": len(caught),
                "share_caught": len(caught) / len(group),
                "low": low,
                "high": high,
                "median_lead_hours": hours,
            }
        )
    return sorted(out, key=lambda r: -r["incidents"])


def _over_time(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> dict[str, list[Any]]:
    """Return how good the prediction is in each tenth of the test time; None where a tenth holds one class only."""
    time, truth = data.time[data.ends["test"]], data.truth("test")
    edges = np.linspace(time.min().astype(np.int64), time.max().astype(np.int64) + 1, TIMES + 1)
    place = np.searchsorted(edges, time.astype(np.int64), side="right") - 1
    out: dict[str, list[Any]] = {name: [] for name in ("from", "rows", "positive", "average_precision", "recall")}
    for k in range(TIMES):
        mine = place == k
        if not mine.any():
            continue
        found = metrics.failure_values(truth[mine], probability[mine], alarm[mine])(np.ones(int(mine.sum())))
        some = 0 < truth[mine].sum() < mine.sum()
        out["from"].append(f"{np.datetime64(int(edges[k]), 's')}Z")
        out["rows"].append(int(mine.sum()))
        out["positive"].append(int(truth[mine].sum()))
        out["average_precision"].append(found["average_precision"] if some else None)
        out["recall"].append(found["recall"] if some else None)
    return out


def _by_resource(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> list[dict[str, Any]]:
    """Return errors by resource, those that add most log loss first."""
    ends, truth = data.ends["test"], data.truth("test")
    loss = -np.log(np.clip(np.where(truth == 1, probability, 1 - probability), 1e-7, 1.0))
    frame = pd.DataFrame(
        {
            "resource_id": np.array(data.resources, dtype=object)[data.resource[ends]],
            "loss": loss,
            "positive": truth,
            "missed": (truth == 1) & ~alarm,
            "false_alarms": (truth == 0) & alarm,
        }
    )
    grouped = frame.groupby("resource_id", sort=True)
    out = grouped[["positive", "missed", "false_alarms"]].sum()
    out.insert(0, "rows", grouped.size())
    out["log_loss"] = grouped["loss"].mean()
    out["total_loss"] = grouped["loss"].sum()
    out = out.sort_values("total_loss", ascending=False, kind="stable").drop(columns="total_loss").reset_index()
    return [{str(k): v for k, v in row.items()} for row in out.to_dict("records")]


def _by_lead(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> dict[str, list[float]]:
    """Return recall and mean probability of positive rows by their distance to the incident."""
    ends = data.ends["test"]
    until = data.until[ends]
    edges = np.unique(np.linspace(0, data.horizon, min(data.horizon, 10) + 1))
    out: dict[str, list[float]] = {"from_steps": [], "to_steps": [], "rows": [], "recall": [], "probability": []}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = (until > low) & (until <= high)
        if chosen.any():
            values = (low, high, chosen.sum(), alarm[chosen].mean(), probability[chosen].mean())
            for name, value in zip(out, values, strict=True):
                out[name].append(float(value))
    return out


def _worst(data: FailureData, probability: np.ndarray, alarm: np.ndarray, count: int = 10) -> list[dict[str, Any]]:
    """Return the surest mistakes, at most one a resource and kind; a row that was decided rightly is none."""
    ends, truth = data.ends["test"], data.truth("test")
    wrong = np.where(alarm == (truth == 1), -1.0, np.abs(truth - probability))
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for i in np.argsort(-wrong, kind="stable"):
        mark = (int(data.resource[ends[i]]), int(truth[i]))
        if wrong[i] < 0 or mark in seen:
            continue
        seen.add(mark)
        until = float(data.until[ends[i]])
        rows.append(
            {
                "resource_id": data.resources[mark[0]],
                "timestamp": f"{np.datetime_as_string(data.time[ends[i]], unit='s')}Z",
                "probability": float(probability[i]),
                "truth": mark[1],
                "steps_to_incident": until if np.isfinite(until) else None,
            }
        )
        if len(rows) == count:
            break
    return rows
