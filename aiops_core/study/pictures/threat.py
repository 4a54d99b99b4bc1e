"""Pictures of the threat detector on the test part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aiops_core.study.pictures.common import BLUE, INK, ORANGE, WIDTH, Picture, canvas, importance, reliability


def _confusion(details: Mapping[str, Any]) -> Picture:
    classes = details["classes"]
    counts = np.array(details["confusion"], dtype=float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.46 * len(classes) + 1.6)
    figure, axes = canvas("Confusion: rows are the truth, shares of a row", width=size + 0.9, height=size)
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*share.shape):
        if counts[i, j]:
            colour = "w" if share[i, j] > 0.5 else INK
            axes.text(j, i, f"{share[i, j]:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("decided")
    return figure


def _precision_recall_classes(curves: Mapping[str, Mapping[str, list[float]]]) -> Picture:
    figure, axes = canvas("Precision and recall by class", width=WIDTH, height=4.6)
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(curve["recall"], curve["precision"], color=f"C{i % 10}", linewidth=1.2, label=name)
    axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")
    return figure


def _attack_cost(cost: Mapping[str, Any]) -> Picture:
    figure, axes = canvas("Cost of the alarm threshold, attack against normal")
    axes.plot(cost["threshold"], cost["cost"], color=BLUE)
    axes.axvline(cost["chosen"], color=ORANGE, linestyle="--", label=f"chosen {cost['chosen']:.2f}")
    axes.set(xlabel="alarm when P(attack) reaches", ylabel=f"cost (a miss costs {cost['miss_cost']:g} false alarms)")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _abstain(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = canvas("Accuracy when the least certain rows are left to a person")
    axes.plot(curve["answered"], curve["accuracy"], "o-", color=BLUE, markersize=3)
    axes.set(xlabel="share of rows answered", ylabel="accuracy of the answers")
    return figure


def _novelty(rows: list[Mapping[str, Any]]) -> Picture:
    figure, axes = canvas("Attacks caught, known to training and novel", height=0.9 + 0.42 * len(rows))
    for i, row in enumerate(rows[::-1]):
        axes.plot([row["low"], row["high"]], [i, i], color=BLUE, linewidth=3, alpha=0.5)
        axes.plot(row["share"], i, "o", color=BLUE)
    axes.set_yticks(range(len(rows)), [f"{row['attacks']}: {row['rows']:,} rows" for row in rows[::-1]])
    axes.set(xlabel="share recognised as an attack, with 95 % interval", xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4))
    return figure


#: Name of a picture to the part of the task's details that it draws, and how.
PICTURES: dict[str, tuple[str, Callable[..., Picture]]] = {
    "confusion": ("confusion_matrix", _confusion),
    "precision_recall": ("precision_recall", _precision_recall_classes),
    "novelty": ("novelty", _novelty),
    "reliability": ("reliability", reliability),
    "attack_cost": ("attack_cost", _attack_cost),
    "abstain": ("abstain", _abstain),
    "importance": ("importance", importance),
}
