"""Pictures of the failure predictor on the test part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any

import numpy as np

from aiops_core.study.pictures.common import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SOFT,
    Picture,
    canvas,
    importance,
    over_time,
    reliability,
)


def _precision_recall(
    curve: Mapping[str, list[float]],
    *,
    precision_recall_others: Mapping[str, Mapping[str, list[float]]] | None = None,
    served: Mapping[str, float] | None = None,
) -> Picture:
    figure, axes = canvas("Precision and recall")
    greys: Iterator[Any] = cycle((":", "-.", "--", (0, (6, 3)), (0, (1, 4))))
    for name, other in (precision_recall_others or {}).items():
        colour, line = (GREEN, "-") if name == "oracle" else (SOFT, next(greys))
        axes.plot(other["recall"], other["precision"], color=colour, linestyle=line, linewidth=1.2, label=name)
    axes.plot(curve["recall"], curve["precision"], color=BLUE, linewidth=1.8, label="this model")
    if served:
        where = f"served threshold {served['threshold']:.2f}"
        axes.plot(served["recall"], served["precision"], "o", color=ORANGE, markersize=7, label=where)
    axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    if precision_recall_others or served:
        axes.legend(fontsize=7.5, frameon=False, loc="lower left")
    return figure


def _by_kind(rows: list[Mapping[str, Any]]) -> Picture:
    figure, axes = canvas("Incidents caught by kind, with 95 % intervals", height=0.9 + 0.42 * len(rows))
    for i, row in enumerate(rows[::-1]):
        axes.plot([row["low"], row["high"]], [i, i], color=BLUE, linewidth=3, alpha=0.5)
        axes.plot(row["share_caught"], i, "o", color=BLUE)
    names = [f"{row['kind']}: {row['caught']} of {row['incidents']}" for row in rows[::-1]]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="share of incidents caught", xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4))
    return figure


def _histogram(counts: Mapping[str, list[float]]) -> Picture:
    figure, axes = canvas("Predicted probabilities")
    at, width = counts["edges"][:-1], np.diff(counts["edges"])
    axes.bar(at, counts["negative"], width, align="edge", color=SOFT, alpha=0.8, label="no incident follows")
    axes.bar(at, counts["positive"], width, align="edge", color=RED, alpha=0.7, label="an incident follows")
    axes.set_yscale("symlog", linthresh=10)
    axes.set(xlabel="probability", ylabel="test rows")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _leads(events: Mapping[str, Any]) -> Picture:
    caught, incidents = events["caught"], events["incidents"]
    figure, axes = canvas(f"Lead time: {caught} of {incidents} incidents caught")
    if caught:
        axes.hist(events["leads_hours"], bins=min(24, max(4, caught // 2)), color=GREEN, alpha=0.8)
        median = events["median_lead_hours"]
        axes.axvline(median, color=ORANGE, linestyle="--", label=f"median {median:.3g} h")
        axes.legend(fontsize=8, frameon=False)
    axes.set(xlabel="hours from the first alarm to the incident", ylabel="incidents")
    return figure


def _budget(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = canvas("Incidents caught for a budget of alerts")
    axes.plot(curve["alerts_per_resource_day"], curve["share_caught"], color=BLUE)
    axes.set(xlabel="alerts a resource a day", ylabel="share of incidents caught", ylim=(0, 1.02))
    return figure


def _failure_cost(curve: Mapping[str, Any]) -> Picture:
    figure, axes = canvas("Cost against threshold, for three prices of a missed incident row")
    missed, false = np.array(curve["missed"]), np.array(curve["false_alarms"])
    # What is cheapest on the test rows could not have been known.
    known = curve.get("validation")
    for price, colour in ((3, SOFT), (10, BLUE), (30, ORANGE)):
        cost = price * missed + false
        axes.plot(
            curve["threshold"], cost / max(cost.max(), 1e-12), color=colour, label=f"a miss costs {price} false alarms"
        )
        if known:
            best = int(np.argmin(price * np.array(known["missed"]) + np.array(known["false_alarms"])))
            axes.plot(curve["threshold"][best], cost[best] / max(cost.max(), 1e-12), "o", color=colour)
    axes.set(xlabel="alarm threshold (a dot: cheapest on validation)", ylabel="cost, relative to its largest")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _by_lead(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = canvas("Recall by distance to the incident")
    middle = (np.array(curve["from_steps"]) + np.array(curve["to_steps"])) / 2
    axes.plot(middle, curve["recall"], "o-", color=BLUE, label="recall at the threshold")
    axes.plot(middle, curve["probability"], "o--", color=SOFT, label="mean probability")
    axes.set(xlabel="steps until the incident", ylim=(0, 1.02))
    axes.legend(fontsize=8, frameon=False)
    return figure


#: Name of a picture to the part of the task's details that it draws, and how.
PICTURES: dict[str, tuple[str, Callable[..., Picture]]] = {
    "lead_times": ("events", _leads),
    "by_kind": ("by_kind", _by_kind),
    "precision_recall": ("precision_recall", _precision_recall),
    "over_time": ("over_time", over_time),
    "reliability": ("reliability", reliability),
    "budget": ("policies", _budget),
    "cost": ("policies", _failure_cost),
    "recall_by_distance": ("by_lead", _by_lead),
    "histogram": ("histogram", _histogram),
    "importance": ("importance", importance),
}
#: Other parts of the details that a picture shows where they are there, by its name.
BESIDE: dict[str, tuple[str, ...]] = {
    "precision_recall": ("precision_recall_others", "served"),
    "reliability": ("brier_skill",),
}
