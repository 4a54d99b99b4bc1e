"""Attack or normal: which threshold validation sets, and what alarms catch in the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiops_core.data.splits import TRAIN
from aiops_core.judge.shares import wilson
from aiops_core.servable.threat import NORMAL
from aiops_core.tasks.threat.data import ThreatData

#: Share of ordinary rows that may alarm, where alarms go to a person.
RARE = 1e-3
#: Shares of attacks among rows that are met in practice; at them most alarms are false (Axelsson 2000).
PREVALENCES = (1e-3, 1e-4)


def rare_threshold(score: np.ndarray, attack: np.ndarray, weight: np.ndarray, rate: float = RARE) -> dict[str, Any]:
    """Return the lowest threshold on P(attack) at which at most a share of the weight of ordinary rows alarms.

    Parameters
    ----------
    score : ndarray, (n,)
        P(attack) of validation rows, out of fold.
    attack : ndarray, (n,), bool
    weight : ndarray, (n,)

    Returns
    -------
    dict
        ``false_positive_rate`` (the limit), ``threshold`` (an alarm is ``score >= threshold``) and ``ordinary_rows``
        that it rests on.
    """
    order = np.argsort(-score[~attack], kind="stable")
    ranked, mass = score[~attack][order], np.cumsum(weight[~attack][order])
    # Scores that may alarm are those before the first one that goes beyond the limit; ties stand together.
    beyond = np.flatnonzero(mass > rate * mass[-1] + 1e-12) if len(mass) else np.zeros(0, dtype=np.int64)
    threshold = float(np.nextafter(ranked[beyond[0]], np.inf)) if len(beyond) else 0.0
    return {"false_positive_rate": rate, "threshold": threshold, "ordinary_rows": len(ranked)}


def rare(attack: np.ndarray, score: np.ndarray, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Score on the test part the threshold that validation sets for rare false alarms.

    Returns
    -------
    dict
        ``threshold``, ``wanted`` (the limit); ``true_positive_rate`` and ``false_positive_rate`` with low and high
        (Wilson), ``attacks``, ``ordinary_rows`` and ``false_alarms`` of the test part; ``validation_rows``, the ordinary
        rows that set the threshold; ``precision``, a list over `PREVALENCES` of ``prevalence``, ``precision`` (None where
        no false alarm was seen), ``low`` and ``high`` (both rates at the worse and better ends of their intervals).
    """
    alarm = score >= chosen["threshold"]
    true, false = caught(alarm[attack]), caught(alarm[~attack])
    return {
        "threshold": chosen["threshold"],
        "wanted": chosen["false_positive_rate"],
        "attacks": true["rows"],
        "ordinary_rows": false["rows"],
        "true_positive_rate": {"value": true["share"], "low": true["low"], "high": true["high"]},
        "false_positive_rate": {"value": false["share"], "low": false["low"], "high": false["high"]},
        "false_alarms": false["caught"],
        "validation_rows": chosen["ordinary_rows"],
        "precision": [
            {
                "prevalence": prevalence,
                # Without a false alarm seen it is not 1: all that is known is the end of its interval.
                "precision": precision_at(true["share"], false["share"], prevalence) if false["caught"] else None,
                "low": precision_at(true["low"], false["high"], prevalence),
                "high": precision_at(true["high"], false["low"], prevalence),
            }
            for prevalence in PREVALENCES
        ],
    }


def precision_at(true_rate: float, false_rate: float, prevalence: float) -> float:
    """Return the share of alarms that are right where a share ``prevalence`` of the rows is attacks; NaN without alarms.

    Examples
    --------
    >>> round(precision_at(1.0, 0.001, 0.001), 2)
    0.5
    """
    right, wrong = true_rate * prevalence, false_rate * (1 - prevalence)
    return right / (right + wrong) if right + wrong > 0 else float("nan")


def rare_words(found: Mapping[str, Any]) -> str:
    """Return `rare` as a sentence."""
    true = found["true_positive_rate"]["value"]
    precisions = ", ".join(
        f"{_precision_words(row)} where 1 row in {1 / row['prevalence']:,.0f} is an attack"
        for row in found["precision"]
    )
    return (
        f"At the threshold that {found['validation_rows']:,} ordinary validation rows set for at most "
        f"{1000 * found['wanted']:g} false alarm in 1,000 ({found['threshold']:.3f}): {true:.0%} of attacks caught, "
        f"{found['false_alarms']:,} false {'alarm' if found['false_alarms'] == 1 else 'alarms'} in {found['ordinary_rows']:,} ordinary rows. "
        f"Alarms that are right: {precisions}."
    )


def _precision_words(row: Mapping[str, Any]) -> str:
    low, high = 100 * row["low"], 100 * row["high"]
    if row["precision"] is None:
        return f"at least {low:.2g} %"
    return f"{100 * row['precision']:.2g} % ({low:.2g} to {high:.2g})"


def first_screen(attack: np.ndarray, alarm: np.ndarray) -> dict[str, Any]:
    """Return what someone who runs servers asks first: attacks caught by the served decision, and false alarms."""
    true = caught(alarm[attack])
    ordinary, false = int((~attack).sum()), int((alarm & ~attack).sum())
    return {
        "attacks": true["rows"],
        "caught": true["caught"],
        "share": true["share"],
        "low": true["low"],
        "high": true["high"],
        "ordinary_rows": ordinary,
        "false_alarms": false,
        "false_alarms_per_1000": 1000 * false / ordinary if ordinary else float("nan"),
    }


def novelty(data: ThreatData, rows: np.ndarray, truth: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    """Return how much of the attacks of known and of novel groups is caught.

    Returns
    -------
    list of dict
        ``attacks`` ("known" or "novel"), ``groups``, ``rows``; ``caught`` (as any attack), ``share``, ``low``, ``high``;
        ``right`` (share of rows given their own class). Kinds without a row are left out.
    """
    assert data.group is not None
    normal = data.classes.index(NORMAL) if NORMAL in data.classes else -1
    known = np.isin(data.group[rows], data.group[data.part == TRAIN])
    out = []
    for name, kind in (("known", known), ("novel", ~known)):
        mine = kind & (truth != normal)
        if mine.any():
            groups = len(np.unique(data.group[rows[mine]]))
            right = float((label[mine] == truth[mine]).mean())
            out.append({"attacks": name, "groups": groups, **caught(label[mine] != normal), "right": right})
    return out


def novelty_words(found: list[dict[str, Any]]) -> str:
    """Return `novelty` as a sentence."""
    parts = [
        f"{row['share']:.0%} ({row['low']:.0%} to {row['high']:.0%}) of the {row['rows']:,} rows of {row['attacks']} "
        f"attacks ({row['groups']} {'group' if row['groups'] == 1 else 'groups'})"
        for row in found
    ]
    return f"Caught as an attack: {', '.join(parts)}."


def caught(alarm: np.ndarray) -> dict[str, Any]:
    """Return ``rows, caught, share, low, high`` of alarms (n,), bool, with the Wilson interval; NaN without rows."""
    n, hits = len(alarm), int(alarm.sum())
    low, high = wilson(hits, n)
    return {"rows": n, "caught": hits, "share": hits / n if n else float("nan"), "low": low, "high": high}


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
