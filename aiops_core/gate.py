"""Promotion rules: which candidate may serve, in words.

A candidate is compared with every baseline, and with the current champion, on the same test rows by a paired
bootstrap of the task's main metric:

1. it must beat every simple baseline (class prior, rules, last value, seasonal naive, …) beyond chance, by at
   least `MIN_GAIN`: else it is *refused*;
2. it must not be beaten beyond chance by the strong baseline (gradient-boosted trees): else *challenger*;
3. it must not be worse beyond chance than the current champion: else *challenger*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from aiops_core.metrics import Metric

__all__ = ["MIN_GAIN", "Verdict", "comparable", "decide"]

#: Lower end of the gain over a simple baseline, in units of the main metric, that is worth operating a model for.
MIN_GAIN = 0.01
#: Parts of a card that must agree before two models can be scored on the same rows.
SCHEMA_KEYS = ("window", "horizon", "step_seconds", "classes", "targets", "season")


@dataclass(frozen=True)
class Verdict:
    """Decision of the gate.

    Attributes
    ----------
    decision : {"champion", "challenger", "refused"}
    reasons : list of str
        One sentence a comparison, the deciding ones first.
    gains : dict of str to Metric
        Candidate minus opponent, oriented so that positive means the candidate is better.
    """

    decision: str
    reasons: list[str]
    gains: dict[str, Metric] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the ``gate`` section of ``report.json``."""
        return {"decision": self.decision, "reasons": self.reasons, "gains": self.gains}


def comparable(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> str | None:
    """Tell why two cards cannot be scored on the same rows; None when they can."""
    ours, theirs = ([f["name"] for f in card["features"]] for card in (candidate, champion))
    if ours != theirs:
        return "it reads other features"
    for key in SCHEMA_KEYS:
        if candidate.get(key) != champion.get(key):
            return f"its {key} is {champion.get(key)!r} instead of {candidate.get(key)!r}"
    return None


def decide(
    task: ModuleType,
    data: Any,
    candidate: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    *,
    champion: Mapping[str, Any] | None = None,
    champion_name: str = "the champion",
    obstacle: str | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate on the test rows.

    Parameters
    ----------
    task : module
        Brings ``compare``, ``MAIN_METRIC``, ``SIMPLE_BASELINES`` and ``STRONG_BASELINES``.
    data : object
        What the task's ``prepare`` returned.
    candidate, champion : prediction
        Predictions on the test part; no champion when there is none, or none that can be compared.
    baselines : dict of str to prediction
    champion_name : str
        For the reasons, such as ``version 3``.
    obstacle : str, optional
        Why an existing champion cannot be compared; the candidate is then a challenger, because nothing shows that
        it is not worse.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    Verdict
    """
    metric = task.MAIN_METRIC
    gains = {name: task.compare(data, candidate, other, seed=seed) for name, other in baselines.items()}
    refusing, holding, passing = [], [], []
    for name in task.SIMPLE_BASELINES:
        if name not in gains:
            continue
        gain = gains[name]
        # Written so that an undefined (NaN) gain refuses.
        if not gain["low"] > MIN_GAIN:
            refusing.append(f"does not beat the simple baseline {name} beyond chance: {_words(metric, gain)}")
        else:
            passing.append(f"beats {name}: {_words(metric, gain)}")
    for name in task.STRONG_BASELINES:
        if name not in gains:
            continue
        gain = gains[name]
        if gain["high"] < 0:
            holding.append(f"is beaten by the strong baseline {name} beyond chance: {_words(metric, gain)}")
        elif gain["low"] > 0:
            passing.append(f"beats {name}: {_words(metric, gain)}")
        else:
            passing.append(f"equals {name} within chance: {_words(metric, gain)}")
    if champion is not None:
        gain = gains["champion"] = task.compare(data, candidate, champion, seed=seed)
        if gain["high"] < 0:
            holding.append(f"is worse than {champion_name} beyond chance: {_words(metric, gain)}")
        else:
            passing.append(f"is not worse than {champion_name}: {_words(metric, gain)}")
    elif obstacle:
        holding.append(f"cannot be compared with {champion_name}: {obstacle}; promote by hand if it shall replace it")
    if refusing:
        return Verdict("refused", refusing + passing, gains)
    if holding:
        return Verdict("challenger", holding + passing, gains)
    return Verdict("champion", passing, gains)


def _words(metric: str, gain: Metric) -> str:
    return f"{metric} {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
