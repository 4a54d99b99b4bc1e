"""Learn a correction from the earlier part of the feedback, and keep it only if it is better on the later part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from aiops_core.errors import UsageError
from aiops_core.recalibrate.evidence import Evidence, evidence_of
from aiops_core.servable import Recalibration, Servable
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
#: Factors of the cost of missing what is normal that are tried.
FACTORS = np.geomspace(1 / 16, 16, 33)
DRAWS = 2_000
#: Factors that come this near to the best macro-F1 count as equally good.
TOLERANCE = 0.005
DROPPED = "a correction is not better beyond chance, and is dropped"


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
        By measure ``before``, ``after``, ``low`` and ``high`` of the gain, on the later part.
    """

    better: bool
    words: str
    record: Recalibration
    measured: dict[str, dict[str, float]] = field(default_factory=dict)


def learn(
    state: Path,
    loaded: Servable,
    version: int,
    current: Recalibration | None = None,
    *,
    since: Any = None,
    until: Any = None,
) -> Learned:
    """Learn a correction of a version's answers.

    Failure: slope and offset of the log odds, by maximum likelihood with a prior around no change, and the threshold that
    the version's decision rule then asks for; each is kept only if it is better, and without another threshold the alarms
    stay. Threat: the weight of what is normal, by macro-F1.

    Parameters
    ----------
    state : Path
        State folder.
    loaded : Servable
        Without a correction.
    version : int
    current : Recalibration, optional
        In effect now.
    since, until : datetime or str, optional
        Event time of the feedback.

    Raises
    ------
    UsageError
        If the task's answers cannot be corrected, or there is too little feedback.
    """
    if loaded.task not in ("failure", "threat"):
        raise UsageError(f"the answers of {loaded.task} cannot be corrected from feedback: train again")
    found = evidence_of(state, loaded, version, since=since, until=until)
    normal = list(loaded.card["classes"]).index(NORMAL) if loaded.task == "threat" else None
    earlier, later = _split(found, normal)
    now = current or Recalibration(0)
    if normal is None:
        return _failure(loaded, earlier, later, now)
    return _threat(np.asarray(loaded.card["decision"]["weights"], dtype=float), normal, earlier, later, now)


def _split(found: Evidence, normal: int | None) -> tuple[Evidence, Evidence]:
    """Cut feedback in time, a unit of embargo between: what an answer spoke of must not lie in both parts."""
    bad = found.bad(normal)
    first: dict[int, int] = {}
    for unit, second in zip(found.unit[bad].tolist(), found.second[bad].tolist(), strict=True):
        first.setdefault(unit, second)
    starts = np.sort(list(first.values()))
    cut = starts[int(SHARE * len(starts))] if len(starts) else 0
    earlier = found.part(found.second < cut - found.length)
    later = found.part(found.second >= cut)
    for part, least, does in ((earlier, LEAST_TAUGHT, "teaches"), (later, LEAST_JUDGED, "judges")):
        told = part.bad(normal)
        counts = part.units(told), part.units(~told)
        if min(counts) < least:
            what = "incident" if normal is None else "attack"
            raise UsageError(
                f"too little feedback: the part of it that {does} has {counts[0]} independent stretches with an {what} and "
                f"{counts[1]} without, and needs {least} of each"
            )
    return earlier, later


def _failure(loaded: Servable, earlier: Evidence, later: Evidence, now: Recalibration) -> Learned:
    """Decide on the calibration and on the alarms apart: what is not shown to be better stays."""
    decision = loaded.card["decision"]
    alarm_at = decision["threshold"] if now.threshold is None else now.threshold
    # On the servable's own scale, on which all thresholds can be compared.
    own = _back(alarm_at, now)
    slope, offset = _stretched(earlier)
    old, new = (shifted(later.probability, *given) for given in ((now.slope, now.offset), (slope, offset)))
    measured = {"log loss": _gain(later, _loss(later, old), _loss(later, new))}
    calibrated = measured["log loss"]["low"] > 0
    if not calibrated:
        slope, offset = now.slope, now.offset
    wanted = _threshold(decision, earlier, slope, offset)
    if wanted is not None:
        alarms = later.probability >= own, shifted(later.probability, slope, offset) >= wanted
        measured |= _alarms(decision, later, *alarms)
        if list(measured.values())[-1]["low"] <= 0:
            wanted = None
    threshold = float(shifted(np.array([own]), slope, offset)[0]) if wanted is None else wanted
    record = Recalibration(0, slope, offset, threshold)
    better = calibrated or wanted is not None
    what = {
        (True, True): "calibration and threshold are better corrected",
        (True, False): "the calibration is better corrected, the alarms stay as they are",
        (False, True): "the threshold is better corrected, the calibration stays as it is",
        (False, False): DROPPED,
    }[calibrated, wanted is not None]
    return Learned(better, _words(what, measured, later), record, measured)


def _back(threshold: float, record: Recalibration) -> float:
    """Return a corrected threshold on the servable's own scale."""
    return float(shifted(np.array([threshold]), 1 / record.slope, -record.offset / record.slope)[0])


def _alarms(decision: dict[str, Any], later: Evidence, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return what other alarms gain, in what the decision rule asks for."""
    if decision.get("rule", "max_f1") != "cost":
        return {"F1": _gain_of_f1(later, before, after)}
    false, missed = _costs(decision)

    def cost(alarm: np.ndarray) -> np.ndarray:
        return np.where(later.truth == 1, np.where(alarm, 0.0, missed), np.where(alarm, false, 0.0))

    return {"mean cost": _gain(later, cost(before), cost(after))}


def _costs(decision: dict[str, Any]) -> tuple[float, float]:
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


def _threshold(decision: dict[str, Any], earlier: Evidence, slope: float, offset: float) -> float | None:
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
    return unit, rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)


def _gain(part: Evidence, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return by how much a mean loss falls, with an interval over units."""
    unit, drawn = _draws(part)
    fallen, rows = (np.bincount(unit, part.weight * x) for x in (before - after, np.ones(len(unit))))
    gain = (drawn @ fallen) / (drawn @ rows)
    low, high = np.quantile(gain, [0.025, 0.975])
    total = part.weight.sum()
    return {
        "before": float(part.weight @ before / total),
        "after": float(part.weight @ after / total),
        "low": float(low),
        "high": float(high),
    }


def _gain_of_f1(part: Evidence, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return by how much the F1 of alarms rises, with an interval over units."""
    unit, drawn = _draws(part)

    def f1(alarm: np.ndarray) -> tuple[float, np.ndarray]:
        hit = np.bincount(unit, part.weight * (alarm & (part.truth == 1)))
        both = np.bincount(unit, part.weight * (alarm.astype(float) + (part.truth == 1)))
        return _ratio(2 * hit.sum(), both.sum()), _ratio(2 * (drawn @ hit), drawn @ both)

    return _rise(f1(before), f1(after))


def _threat(weights: np.ndarray, normal: int, earlier: Evidence, later: Evidence, now: Recalibration) -> Learned:
    def said(part: Evidence, factor: float) -> np.ndarray:
        cost = weights.copy()
        cost[normal] *= factor
        return np.asarray((part.probability * cost).argmax(axis=1))

    reached = np.array([_macro_f1(earlier, said(earlier, factor))[0] for factor in FACTORS])
    # The flat top of a curve is chance: of factors that are as good, the one nearest to what the version says itself.
    good = FACTORS[reached >= reached.max() - TOLERANCE]
    record = Recalibration(0, normal_weight=float(good[np.argmin(np.abs(np.log(good)))]))
    measured = {
        "macro-F1": _rise(*(_macro_f1(later, said(later, r.normal_weight)) for r in (now, record))),
    }
    better = measured["macro-F1"]["low"] > 0
    what = "what is normal is better weighed anew" if better else DROPPED
    return Learned(better, _words(what, measured, later), record, measured)


def _macro_f1(part: Evidence, said: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the macro-F1 over the classes that came true, and of each draw of units."""
    unit, drawn = _draws(part)
    values, draws = [], []
    for name in np.unique(part.truth):
        own, called = part.truth == name, said == name
        hit = np.bincount(unit, part.weight * (own & called))
        both = np.bincount(unit, part.weight * (own.astype(float) + called))
        values.append(_ratio(2 * hit.sum(), both.sum()))
        draws.append(_ratio(2 * (drawn @ hit), drawn @ both))
    return float(np.mean(values)), np.mean(draws, axis=0)


def _ratio(part: Any, whole: Any) -> Any:
    return part / np.maximum(whole, 1e-12)


def _rise(before: tuple[float, np.ndarray], after: tuple[float, np.ndarray]) -> dict[str, float]:
    low, high = np.quantile(after[1] - before[1], [0.025, 0.975])
    return {"before": float(before[0]), "after": float(after[0]), "low": float(low), "high": float(high)}


def _words(what: str, measured: dict[str, dict[str, float]], later: Evidence) -> str:
    told = ", ".join(
        f"{name} {m['after']:.3g} instead of {m['before']:.3g} (gain {m['low']:+.3g} to {m['high']:+.3g})"
        for name, m in measured.items()
    )
    on = f"on {len(later.unit):,} later answers in {len(np.unique(later.unit)):,} independent stretches of time"
    return f"{what}: {on}, {told}"
