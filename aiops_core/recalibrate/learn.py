"""Learn a correction from the earlier part of the feedback, and keep it only if it is better on the later part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from aiops_core.errors import UsageError
from aiops_core.recalibrate.evidence import Evidence, evidence_of
from aiops_core.servable import Recalibration
from aiops_core.servable.failure import choose_threshold
from aiops_core.servable.recalibration import shifted
from aiops_core.servable.threat import NORMAL

__all__ = ["Learned", "learn"]

#: Of the units with an incident or attack, the share that teaches; the later ones judge.
SHARE = 0.6
#: Units with and without an incident or attack that each part needs.
LEAST_TAUGHT, LEAST_JUDGED = 10, 6
#: Standard deviations of a slope around 1 and an offset around 0 that are believed before anything was seen.
SLOPE_SPREAD, OFFSET_SPREAD = 0.5, 2.0
#: Factors of the decision weight of `normal` that are tried.
FACTORS = np.geomspace(1 / 16, 16, 33)
#: Factors that come this near to the best macro-F1 count as equally good.
TOLERANCE = 0.005
#: Draws of units, and the chance that a gain of nothing passes: smaller than usual, since one may ask again every day.
DRAWS, LEVEL = 2_000, 0.01
DROPPED = "no correction is better beyond chance"


@dataclass(frozen=True)
class Learned:
    """A correction and what came of it.

    Attributes
    ----------
    better : bool
        Whether it may replace what is in effect.
    words : str
        Why, in a sentence.
    record : Recalibration
        Its number is 0: the registry gives it one.
    measured : dict
        By measure ``before``, ``after``, ``low`` and ``high`` of the gain, on the later part; of what is kept.
    dropped : dict
        The same of what was tried and is not kept.
    """

    better: bool
    words: str
    record: Recalibration
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, dict[str, float]] = field(default_factory=dict)


def learn(
    state: Path,
    card: Mapping[str, Any],
    version: int,
    corrections: Sequence[Mapping[str, Any]] = (),
    current: Mapping[str, Any] | None = None,
    *,
    since: Any = None,
    until: Any = None,
) -> Learned:
    """Learn a correction of a version's answers.

    Failure: slope and offset of the log odds, by maximum likelihood with a prior around no change, and the threshold that
    the version's decision rule then asks for; each is kept only if it is better, and without another threshold the alarms
    stay. Threat: the decision weight of `normal`, by macro-F1.

    Parameters
    ----------
    state : Path
        State folder.
    card : mapping
        Of the version, without a correction.
    version : int
    corrections : sequence of mapping
        All that the version ever had, oldest first.
    current : mapping, optional
        The one in effect.
    since, until : datetime or str, optional
        Event time of the feedback.

    Raises
    ------
    UsageError
        If the answers cannot be corrected, or there is too little feedback.
    """
    task = card["task"]
    if task not in ("failure", "threat"):
        raise UsageError(f"the answers of {task} cannot be corrected from feedback: train again")
    if card["decision"].get("costs") is not None:
        raise UsageError("this version decides by costs: change these, in the data set's settings or in a request")
    found = evidence_of(state, task, version, corrections, since=since, until=until)
    normal = list(card["classes"]).index(NORMAL) if task == "threat" else None
    earlier, later = _split(found, normal)
    now = Recalibration.of(current) if current else Recalibration(0)
    if normal is None:
        return _failure(card["decision"], earlier, later, now)
    return _threat(np.asarray(card["decision"]["weights"], dtype=float), normal, earlier, later, now)


def _split(found: Evidence, normal: int | None) -> tuple[Evidence, Evidence]:
    """Cut answers in time, a unit of embargo between: what an answer spoke of must not lie in both parts."""
    bad = found.bad(normal)
    first: dict[int, int] = {}
    for unit, second in zip(found.unit[bad].tolist(), found.second[bad].tolist(), strict=True):
        first.setdefault(unit, second)
    starts = np.sort(list(first.values()))
    cut = starts[int(SHARE * len(starts))] if len(starts) else 0
    halves = found.second < cut - found.length, found.second >= cut
    parts = []
    for rows, least, does in zip(halves, (LEAST_TAUGHT, LEAST_JUDGED), ("teaches", "judges"), strict=True):
        part = found.part(rows)
        told = part.bad(normal)
        counts = part.units(told), part.units(~told & (part.truth >= 0))
        if min(counts) < least:
            what = "incident" if normal is None else "attack"
            raise UsageError(
                f"too little feedback: the part of it that {does} has {counts[0]} independent blocks with an {what} and "
                f"{counts[1]} without, and needs {least} of each"
            )
        parts.append(part.told(normal, does))
    return parts[0], parts[1]


def _failure(decision: Mapping[str, Any], earlier: Evidence, later: Evidence, now: Recalibration) -> Learned:
    """Decide on the calibration and on the alarms apart: what is not shown to be better stays."""
    alarm_at = decision["threshold"] if now.threshold is None else now.threshold
    # On the servable's own scale, on which all thresholds can be compared.
    own = _back(alarm_at, now)
    slope, offset = _stretched(earlier)
    old, new = (shifted(later.probability, *given) for given in ((now.slope, now.offset), (slope, offset)))
    tried = {"log loss": _gain(later, _loss(later, old), _loss(later, new))}
    if tried["log loss"]["low"] <= 0:
        slope, offset = now.slope, now.offset
    wanted = _threshold(decision, earlier, slope, offset)
    threshold = float(shifted(np.array([own]), slope, offset)[0])
    if wanted is not None:
        alarms = later.probability >= own, shifted(later.probability, slope, offset) >= wanted
        gain = _alarms(decision, later, *alarms)
        tried |= gain
        if min(one["low"] for one in gain.values()) > 0:
            threshold = wanted
    return _said(tried, Recalibration(0, slope, offset, threshold), later)


def _said(tried: dict[str, dict[str, float]], record: Recalibration, later: Evidence) -> Learned:
    kept = {name: one for name, one in tried.items() if one["low"] > 0}
    dropped = {name: one for name, one in tried.items() if name not in kept}
    on = f"on {len(later.unit):,} later answers in {len(np.unique(later.unit)):,} independent blocks of time"
    if not kept:
        return Learned(False, f"{DROPPED}: {on}, {_figures(dropped)}", record, {}, dropped)
    words = f"better {on}: {_figures(kept)}"
    return Learned(
        True, words + (f"; tried and dropped: {_figures(dropped)}" if dropped else ""), record, kept, dropped
    )


def _figures(measured: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{name} {m['after']:.3g} instead of {m['before']:.3g} (gain {m['low']:+.3g} to {m['high']:+.3g})"
        for name, m in measured.items()
    )


def _back(threshold: float, record: Recalibration) -> float:
    """Return a corrected threshold on the servable's own scale."""
    return float(shifted(np.array([threshold]), 1 / record.slope, -record.offset / record.slope)[0])


def _alarms(decision: Mapping[str, Any], later: Evidence, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return what other alarms gain, in what the decision rule asks for."""
    if decision.get("rule", "max_f1") != "cost":
        return {"F1": _gain_of_f1(later, before, after)}
    false, missed = _costs(decision)

    def cost(alarm: np.ndarray) -> np.ndarray:
        return np.where(later.truth == 1, np.where(alarm, 0.0, missed), np.where(alarm, false, 0.0))

    return {"mean cost": _gain(later, cost(before), cost(after))}


def _costs(decision: Mapping[str, Any]) -> tuple[float, float]:
    return float(decision.get("cost_false_alarm", 1.0)), float(decision.get("cost_missed", 10.0))


def _stretched(earlier: Evidence) -> tuple[float, float]:
    """Return slope and offset of the log odds; answers of one unit count as one."""
    p = np.clip(earlier.probability, 1e-9, 1 - 1e-9)
    logits, truth = np.log(p / (1 - p)), earlier.truth
    weight = earlier.weight / earlier.weight.sum() * len(np.unique(earlier.unit))

    def loss(given: np.ndarray) -> float:
        slope, offset = np.exp(given[0]), given[1]
        moved = slope * logits + offset
        likely = weight @ (np.logaddexp(0.0, moved) - truth * moved)
        return float(likely + 0.5 * (given[0] / SLOPE_SPREAD) ** 2 + 0.5 * (offset / OFFSET_SPREAD) ** 2)

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-8, "maxiter": 2_000})
    return float(np.exp(found.x[0])), float(found.x[1])


def _threshold(decision: Mapping[str, Any], earlier: Evidence, slope: float, offset: float) -> float | None:
    """Return the threshold that a decision rule asks for among corrected probabilities; None where it says nothing of them."""
    rule = decision.get("rule", "max_f1")
    if rule == "cost":
        # Of probabilities that are right.
        false, missed = _costs(decision)
        return false / (false + missed)
    if rule != "max_f1":
        # A budget of alerts is a share of the ranking, which stays.
        return None
    score = shifted(earlier.probability, slope, offset)
    order = np.argsort(-score, kind="stable")
    weight, truth = earlier.weight[order], earlier.truth[order]
    hit, raised = np.cumsum(weight * truth), np.cumsum(weight)
    last = np.flatnonzero(np.r_[np.diff(score[order]) < 0, True])
    f1 = 2 * hit[last] / (raised[last] + weight @ truth)
    return choose_threshold({"threshold": score[order][last].tolist(), "f1": f1.tolist()}, "max_f1")


def _loss(part: Evidence, probability: np.ndarray) -> np.ndarray:
    p = np.clip(np.where(part.truth == 1, probability, 1 - probability), 1e-6, 1.0)
    return np.asarray(-np.log(p))


def _draws(part: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit of each answer, and how often each unit is drawn, (draws, units)."""
    _, unit = np.unique(part.unit, return_inverse=True)
    count = int(unit.max()) + 1
    rng = np.random.default_rng(11)
    return unit, rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float32)


def _gain(part: Evidence, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return by how much a mean loss falls, with an interval over units."""
    unit, drawn = _draws(part)
    fallen, rows = (np.bincount(unit, part.weight * x) for x in (before - after, np.ones(len(unit))))
    gain = (drawn @ fallen) / (drawn @ rows)
    low, high = np.quantile(gain, [LEVEL / 2, 1 - LEVEL / 2])
    total = part.weight.sum()
    return {
        "before": float(part.weight @ before / total),
        "after": float(part.weight @ after / total),
        "low": float(low),
        "high": float(high),
    }


def _gain_of_f1(part: Evidence, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return by how much the F1 of alarms rises, with an interval over units."""
    return _rise(part, *((_counts(part, alarm, (part.truth == 1)),) for alarm in (before, after)))


def _threat(weights: np.ndarray, normal: int, earlier: Evidence, later: Evidence, now: Recalibration) -> Learned:
    def counts(part: Evidence, factor: float) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        cost = weights.copy()
        cost[normal] *= factor
        said = (part.probability * cost).argmax(axis=1)
        return tuple(_counts(part, said == name, part.truth == name) for name in np.unique(part.truth))

    reached = np.array([_mean_f1(counts(earlier, factor)) for factor in FACTORS])
    # The flat top of a curve is chance: of factors that are as good, the one nearest to what the version says itself.
    good = FACTORS[reached >= reached.max() - TOLERANCE]
    record = Recalibration(0, normal_weight=float(good[np.argmin(np.abs(np.log(good)))]))
    gain = _rise(later, counts(later, now.normal_weight), counts(later, record.normal_weight))
    return _said({"macro-F1": gain}, record, later)


def _counts(part: Evidence, called: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of a class, by unit, the answers that are rightly called so, and those called so or being so, both counted."""
    _, unit = np.unique(part.unit, return_inverse=True)
    both = called.astype(float) + own
    return np.bincount(unit, part.weight * (own & called)), np.bincount(unit, part.weight * both)


def _mean_f1(counts: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([_ratio(2 * hit.sum(), both.sum()) for hit, both in counts]))


def _ratio(part: Any, whole: Any) -> Any:
    return part / np.maximum(whole, 1e-12)


def _rise(
    part: Evidence, before: Sequence[tuple[np.ndarray, np.ndarray]], after: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """Return by how much the mean F1 of classes rises, with an interval over units."""
    _, drawn = _draws(part)
    b, a = (
        np.mean([_ratio(2 * (drawn @ hit), drawn @ both) for hit, both in counts], axis=0) for counts in (before, after)
    )
    low, high = np.quantile(a - b, [LEVEL / 2, 1 - LEVEL / 2])
    return {"before": _mean_f1(before), "after": _mean_f1(after), "low": float(low), "high": float(high)}
