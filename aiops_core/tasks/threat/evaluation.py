"""Metrics with intervals, paired comparisons, and what a report shows of the test part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.splits import TRAIN
from aiops_core.judge import curves, intervals, metrics
from aiops_core.servable.threat import NORMAL
from aiops_core.tasks.threat.data import GATE_METRICS, MAIN_METRIC, PROBABILITY_METRICS, Prediction, ThreatData
from aiops_core.tasks.threat.units import units, units_at


def evaluate(
    data: ThreatData,
    prediction: Prediction,
    part: str = "test",
    seed: int = 0,
    extra_metrics: intervals.ExtraMetrics | None = None,
) -> dict[str, intervals.Metric]:
    """Return ``accuracy, macro_f1, log_loss, ece``, ``f1_<class>`` and metrics of the user's, with 95 % intervals.

    An extra metric gets the true classes (n,), as positions in ``data.classes``, and the prediction.
    """
    rows = prediction["row"] if "row" in prediction else data.index(part)
    truth, drawn = data.y[rows], units_at(data, rows)
    known = metrics.threat(
        truth, prediction["probability"], prediction["label"], classes=data.classes, units=drawn, seed=seed
    )
    return intervals.with_extra(known, extra_metrics, truth, prediction, drawn, seed)


def predictions(data: ThreatData, prediction: Prediction, part: str = "test") -> pd.DataFrame:
    """Return a prediction as a frame, one row an example, to sort and to slice.

    Returns
    -------
    DataFrame
        Indexed by ``row``, the place in the ``activity`` table: ``group`` where the data name one, ``truth`` and
        ``decided`` (classes), ``confidence`` (probability of the decided class), ``error`` (1 minus the probability of
        the true class), the features as the model reads them, and one ``p:<class>`` for every class. A feature with the
        name of another column is called ``feature:<name>``.
    """
    rows = prediction["row"] if "row" in prediction else data.index(part)
    truth, label, probability = data.y[rows], prediction["label"], prediction["probability"]
    classes = np.array(data.classes, dtype=object)
    index = pd.Index(rows, name="row")
    own: dict[str, Any] = {}
    if data.group is not None:
        own["group"] = np.array(data.info["group_names"], dtype=object)[data.group[rows]]
    own |= {"truth": classes[truth], "decided": classes[label]}
    own["confidence"] = probability[np.arange(len(rows)), label]
    own["error"] = 1 - probability[np.arange(len(rows)), truth]
    by_class = pd.DataFrame(probability, index=index, columns=[f"p:{name}" for name in data.classes])
    features = pd.DataFrame(data.X[rows], index=index, columns=[feature["name"] for feature in data.features])
    for feature in data.features:
        if feature["dtype"] == "category":
            features[feature["name"]] = features[feature["name"]].map(dict(enumerate(feature["categories"])))
    features = features.rename(columns={n: f"feature:{n}" for n in features.columns if n in own or n in by_class})
    return pd.concat([pd.DataFrame(own, index=index), features, by_class], axis=1)


def compare(
    data: ThreatData,
    prediction: Prediction,
    others: Mapping[str, Prediction],
    *,
    rows: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = intervals.N_BOOT,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS` and `PROBABILITY_METRICS`.

    Of the test rows only ``rows`` (n,), bool, where given.
    """
    drawn = units(data, "test", rows)
    return intervals.paired(
        _values(data, prediction, rows),
        {name: _values(data, other, rows) for name, other in others.items()},
        len(drawn.code),
        only=tuple(dict.fromkeys((*GATE_METRICS, *PROBABILITY_METRICS))),
        units=drawn,
        seed=seed,
        n_boot=n_boot,
    )


def _values(data: ThreatData, prediction: Prediction, rows: np.ndarray | None = None) -> intervals.Weighted:
    some = slice(None) if rows is None else rows
    truth = data.y[data.index("test")][some]
    return metrics.threat_values(truth, prediction["probability"][some], prediction["label"][some], data.classes)


def share(
    data: ThreatData, prediction: Prediction, naive: Prediction, best: Prediction, *, seed: int = 0
) -> intervals.Metric:
    """Return how much of the way from a naive prediction to the oracle's a prediction goes, in `MAIN_METRIC`."""
    own, low, high = (_values(data, p) for p in (prediction, naive, best))
    drawn = units(data)
    return intervals.share(own, low, high, len(drawn.code), metric=MAIN_METRIC, units=drawn, seed=seed)


def details(data: ThreatData, prediction: Prediction) -> dict[str, Any]:
    """Return what a report shows of the test part, as plain lists and dicts.

    Returns
    -------
    dict
        ``classes``; ``confusion`` (true by decided, counts); ``per_class`` (precision, recall, f1, support);
        ``precision_recall`` by class; ``reliability`` of the most probable class; ``attack_cost`` (missed attacks,
        false alarms and cost against the threshold on P(attack)); ``abstain`` (accuracy against answered share);
        ``groups`` (recall by group, whether training knew it); ``worst_classes``; ``worst_cases``;
        ``confusion_matrix`` (classes and counts, for the picture); ``sentences`` and ``tables`` (rows by title).
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
        "reliability": curves.reliability_curve(probability.argmax(axis=1) == truth, probability.max(axis=1)),
        "abstain": _abstain_curve(truth, probability, label),
        "worst_classes": weakest[:3],
        "worst_cases": _worst_cases(data, rows, truth, probability, label),
    }
    if NORMAL in data.classes:
        normal = data.classes.index(NORMAL)
        out["attack_cost"] = attack_cost(truth != normal, 1.0 - probability[:, normal])
        out["reliability_attack"] = curves.reliability_curve(truth != normal, 1.0 - probability[:, normal])
    if data.group is not None:
        out["groups"] = _group_recall(data, rows, truth, label)
    out["confusion_matrix"] = {"classes": out["classes"], "confusion": out["confusion"]}
    return {**out, "sentences": _sentences(out), "tables": _tables(out)}


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


def _sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what a report says below the figures."""
    attack = [f"Attack or normal: {found['attack_cost']['words']}."] if "attack_cost" in found else []
    return [*attack, f"Weakest classes: {', '.join(found['worst_classes'])}."]


def _tables(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that a report prints, rows by title."""
    mistakes = [
        {**{k: v for k, v in row.items() if k not in ("values", "group")}, "unusual values": _pairs(row["values"])}
        for row in found["worst_cases"][:8]
    ]
    return {"The surest mistakes": mistakes, "Groups found least": found.get("groups", [])[:10]}


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


def attack_cost(attack: np.ndarray, score: np.ndarray, miss_cost: float = 10.0) -> dict[str, Any]:
    """Cost of alarms at ``P(attack) >= threshold``: a false alarm costs 1, a missed attack ``miss_cost``."""
    thresholds = np.unique(np.r_[np.linspace(0.01, 0.99, 99), 1 / (1 + miss_cost)])
    attacks, benign = np.sort(score[attack]), np.sort(score[~attack])
    missed = np.searchsorted(attacks, thresholds, side="left")
    false_alarms = len(benign) - np.searchsorted(benign, thresholds, side="left")
    cost = miss_cost * missed + false_alarms
    at = int(np.searchsorted(thresholds, 1 / (1 + miss_cost)))
    caught = 1 - missed[at] / max(len(attacks), 1)
    false_share = false_alarms[at] / max(len(benign), 1)
    return {
        "threshold": thresholds.tolist(),
        "missed": missed.tolist(),
        "false_alarms": false_alarms.tolist(),
        "cost": cost.tolist(),
        "miss_cost": miss_cost,
        "chosen": float(thresholds[at]),
        "words": (
            f"if a missed attack costs {miss_cost:g} false alarms, alarm at P(attack) >= {thresholds[at]:.2f}: "
            f"catches {caught:.0%} of attacks, alarms on {false_share:.1%} of ordinary rows"
        ),
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
    """Return the features of a row that are furthest from ordinary."""
    ordinary = np.array([f["reference"]["ordinary"] for f in data.features])
    spread = np.array([f["reference"]["spread"] for f in data.features])
    gap = np.nan_to_num(np.abs(values - ordinary) / spread, nan=-1.0)
    out: dict[str, float | str] = {}
    for j in np.argsort(-gap, kind="stable")[:count]:
        if gap[j] > 0:
            feature, value = data.features[j], float(values[j])
            out[feature["name"]] = feature["categories"][int(value)] if feature["dtype"] == "category" else value
    return out
