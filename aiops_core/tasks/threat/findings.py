"""What a report shows of a test prediction: what it catches, curves, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiops_core.data.splits import TRAIN
from aiops_core.judge import curves, metrics
from aiops_core.judge.shares import wilson
from aiops_core.servable.threat import NORMAL
from aiops_core.tasks.threat.alarms import attack_cost, first_screen, novelty, novelty_words, rare, rare_words
from aiops_core.tasks.threat.data import Prediction, ThreatData

#: Share of training rows up to which a category counts as unusual.
RARE_CATEGORY = 0.05


def details(data: ThreatData, prediction: Prediction, *, card: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a report shows of the test part, as plain lists and dicts.

    Parameters
    ----------
    card : mapping, optional
        The served card: its ``attack`` holds the threshold that validation sets for rare false alarms, its features
        their importance. Without it neither is shown: no threshold is chosen on the test part.

    Returns
    -------
    dict
        ``classes``; ``confusion`` (true by decided, counts); ``per_class`` (precision, recall, f1, support);
        ``precision_recall`` by class; ``reliability`` of the most probable class, with low and high; ``abstain``
        (accuracy against answered share); ``worst_classes``; ``worst_cases``; ``confusion_matrix`` (classes and counts,
        for the picture); ``importance`` (list, largest first); ``sentences`` and ``tables`` (rows by title).
        Where there is a class normal: ``first_screen`` (attacks, caught, share, low, high, ordinary_rows, false_alarms,
        false_alarms_per_1000), ``attack_cost`` (missed attacks, false alarms and cost against the threshold on
        P(attack)), ``reliability_attack`` and ``rare`` (see `alarms.rare`).
        Where groups are named: ``groups`` (recall by group, whether training knew it) and ``novelty`` (see
        `alarms.novelty`).
    """
    rows = data.index("test")
    truth, n = data.y[rows], len(data.classes)
    probability, label = prediction["probability"], prediction["label"]
    confusion = np.bincount(truth * n + label, minlength=n * n).reshape(n, n)
    support = confusion.sum(axis=1)
    per_class = _per_class(confusion, data.classes)
    weakest = sorted((name for name in data.classes if per_class[name]["support"]), key=lambda c: per_class[c]["f1"])
    out: dict[str, Any] = {
        "classes": data.classes,
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "precision_recall": {
            name: curves.precision_recall_curve(truth == i, probability[:, i])
            for i, name in enumerate(data.classes)
            if support[i]
        },
        "reliability": _reliability(probability.argmax(axis=1) == truth, probability.max(axis=1)),
        "abstain": _abstain_curve(truth, probability, label),
        # All of three classes would be no finding.
        "worst_classes": weakest[: min(3, len(weakest) // 2)],
        "worst_cases": _worst_cases(data, rows, truth, probability, label),
    }
    if NORMAL in data.classes:
        out |= _attack(data.classes.index(NORMAL), truth, probability, label, card)
    if data.group is not None:
        out["groups"] = _group_recall(data, rows, truth, label)
        out["novelty"] = novelty(data, rows, truth, label)
    if card is not None:
        found = [{"feature": f["name"], "importance": float(f["importance"])} for f in card["features"]]
        out["importance"] = sorted(found, key=lambda row: -row["importance"])
    out["confusion_matrix"] = {"classes": out["classes"], "confusion": out["confusion"]}
    return {**out, "sentences": _sentences(out), "tables": _tables(out)}


def _attack(
    normal: int, truth: np.ndarray, probability: np.ndarray, label: np.ndarray, card: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what is said of attack or normal."""
    attack, score = truth != normal, 1.0 - probability[:, normal]
    out = {
        "first_screen": first_screen(attack, label != normal),
        "attack_cost": attack_cost(attack, score),
        "reliability_attack": _reliability(attack, score),
    }
    if card is not None and card.get("attack"):
        out["rare"] = rare(attack, score, card["attack"])
    return out


def _reliability(truth: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    curve = curves.reliability_curve(truth, probability)
    ends = [wilson(p * n, n) for p, n in zip(curve["observed"], curve["count"], strict=True)]
    return {**curve, "low": [low for low, _ in ends], "high": [high for _, high in ends]}


def _sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what a report says below the figures."""
    said = [f"Attack or normal: {found['attack_cost']['words']}."] if "attack_cost" in found else []
    said += [rare_words(found["rare"])] if "rare" in found else []
    said += [novelty_words(found["novelty"])] if found.get("novelty") else []
    weak = [f"{name} (F1 {found['per_class'][name]['f1']:.2f})" for name in found["worst_classes"]]
    return [*said, f"Weakest {'class' if len(weak) == 1 else 'classes'}: {', '.join(weak)}."] if weak else said


def _tables(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that a report prints, rows by title."""
    mistakes = [
        {**{k: v for k, v in row.items() if k not in ("values", "group")}, "unusual values": _pairs(row["values"])}
        for row in found["worst_cases"][:8]
    ]
    tables = {"The surest mistakes": mistakes, "Groups found least": found.get("groups", [])[:10]}
    return tables | ({"Known and novel attacks": found["novelty"]} if found.get("novelty") else {})


def _per_class(confusion: np.ndarray, classes: list[str]) -> dict[str, dict[str, Any]]:
    hit, support, decided = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = np.nan_to_num(metrics.f1_by_class(confusion))
    return {
        name: {
            "precision": float(hit[i] / max(decided[i], 1)),
            "recall": float(hit[i] / max(support[i], 1)),
            "f1": float(f1[i]),
            "support": int(support[i]),
            "taken_for": classes[int(np.where(np.arange(len(classes)) == i, -1, confusion[i]).argmax())],
        }
        for i, name in enumerate(classes)
    }


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def _abstain_curve(truth: np.ndarray, probability: np.ndarray, label: np.ndarray) -> dict[str, list[float]]:
    """Accuracy over the rows that are answered, when the least certain ones are not."""
    order = np.argsort(-probability[np.arange(len(label)), label], kind="stable")
    right = np.cumsum((label == truth)[order])
    count = np.unique(np.linspace(max(1, len(truth) // 20), len(truth), 20).astype(int))
    certainty = probability[np.arange(len(label)), label][order]
    return {
        "answered": (count / len(truth)).tolist(),
        "accuracy": (right[count - 1] / count).tolist(),
        "certainty": certainty[count - 1].tolist(),
    }


def _group_recall(data: ThreatData, rows: np.ndarray, truth: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    assert data.group is not None
    known = np.unique(data.group[data.part == TRAIN])
    out = []
    for name in np.unique(data.group[rows]):
        mine = data.group[rows] == name
        out.append(
            {
                "group": data.info["group_names"][name],
                "class": data.classes[int(np.bincount(truth[mine]).argmax())],
                "rows": int(mine.sum()),
                "known": bool(name in known),
                "recall": float((label[mine] == truth[mine]).mean()),
            }
        )
    return sorted(out, key=lambda row: row["recall"])


def _worst_cases(
    data: ThreatData, rows: np.ndarray, truth: np.ndarray, probability: np.ndarray, label: np.ndarray, count: int = 12
) -> list[dict[str, Any]]:
    """Return the mistakes that held the true class least probable, at most three of each kind."""
    wrong = np.flatnonzero(label != truth)
    order = wrong[np.argsort(probability[wrong, truth[wrong]], kind="stable")]
    seen: dict[tuple[int, int], int] = {}
    out: list[dict[str, Any]] = []
    for i in order:
        kind = (int(truth[i]), int(label[i]))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] > 3:
            continue
        values = data.X[rows[i]]
        out.append(
            {
                "row": int(rows[i]),
                "truth": data.classes[kind[0]],
                "decided": data.classes[kind[1]],
                "p_truth": float(probability[i, kind[0]]),
                "p_decided": float(probability[i, kind[1]]),
                "group": None if data.group is None else data.info["group_names"][data.group[rows[i]]],
                "values": _unusual(data, values),
            }
        )
        if len(out) == count:
            break
    return out


def _unusual(data: ThreatData, values: np.ndarray, count: int = 4) -> dict[str, float | str]:
    """Return the features of a row that are furthest from ordinary; of categories only those that are rare."""
    ordinary = np.array([f["reference"]["ordinary"] for f in data.features])
    spread = np.array([f["reference"]["spread"] for f in data.features])
    gap = np.nan_to_num(np.abs(values - ordinary) / spread, nan=-1.0)
    known = data.X[data.part == TRAIN]
    for j, feature in enumerate(data.features):
        if feature["dtype"] == "category" and np.mean(known[:, j] == values[j]) > RARE_CATEGORY:
            gap[j] = -1.0
    out: dict[str, float | str] = {}
    for j in np.argsort(-gap, kind="stable")[:count]:
        if gap[j] > 0:
            feature, value = data.features[j], float(values[j])
            out[feature["name"]] = feature["categories"][int(value)] if feature["dtype"] == "category" else value
    return out
