"""Promotion rules: which candidate may serve, in words.

A candidate is compared with every baseline, and with the current champion, on the same test rows by a paired
bootstrap of their independent units; with the champion only on rows that neither was trained on:

1. it must beat every simple baseline (class prior, rules, last value, seasonal naive, …) beyond chance, by at
   least `MIN_GAIN` of the task's first gate metric: else it is *refused*;
2. it must not be inferior to any strong baseline (gradient-boosted trees), nor to the current champion, in any gate
   metric: the lower end of the paired difference must lie above minus the `margin` of that metric, so that a wide
   interval is no pass: else *challenger*;
3. its probabilities must beat the class prior's beyond chance (Brier score or log loss): else *challenger*;
4. nothing else may speak against it, such as a champion that was trained on more: else *challenger*.

The margins are those of a non-inferiority trial: the largest loss that would still be accepted for another advantage.
Where only the width of an interval decides, the verdict says how much larger a test would settle it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from aiops_core.judge import metrics
from aiops_core.judge.intervals import Gain
from aiops_core.judge.sizes import how_many_more
from aiops_core.judge.units import Units
from aiops_core.markup import html_table

__all__ = ["MIN_GAIN", "Verdict", "comparable", "decide", "lesser", "margin", "opponent_words"]

#: Lower end of the gain over a simple baseline that is worth operating a model for; of an error, as a share.
MIN_GAIN = 0.01
#: Margins in units of the metric. Of log loss: the probability of what happens may be 5 % lower, in the geometric mean.
ABSOLUTE_MARGIN = {"roc_auc": 0.02, "macro_f1": 0.02, "log_loss": 0.05}
#: Margins of all others, as a share of the opponent's value: half an average precision of 0.04 is not "0.02 less".
#: Errors are known more sharply than rankings of rare incidents.
RELATIVE_MARGIN = 0.1
ERROR_MARGIN = dict.fromkeys(("mae", "nmae", "mase"), 0.05)
SYNTHETIC = "synthetic"
#: Parts of a card that must agree before two models can be scored on the same rows.
SCHEMA_KEYS = ("window", "horizon", "step_seconds", "classes", "targets", "season")
_OPPONENTS = {
    "hist_gradient_boosting": "boosted trees (hist_gradient_boosting)",
    "random_forest": "a random forest (random_forest)",
    "extra_trees": "extremely randomised trees (extra_trees)",
    "logistic_regression": "logistic regression (logistic_regression)",
    "recurrence": "the times of past incidents (recurrence)",
    "theta": "the Theta method (theta)",
    "scaled_booster": "XGBoost on scaled lags (scaled_booster)",
}


@dataclass(frozen=True)
class Verdict:
    """Decision of the gate.

    Attributes
    ----------
    decision : {"champion", "challenger", "refused"}
    reasons : list of str
        One sentence a comparison, the deciding ones first.
    advice : str
        What to do about it; empty for a champion.
    gains : dict of str to dict of str to Gain
        By opponent and metric; positive means that the candidate is better.
    """

    decision: str
    reasons: list[str]
    advice: str = ""
    gains: dict[str, dict[str, Gain]] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        return html_table(f"Gate: {self.decision}", {"it": list(self.reasons), "advice": self.advice or "none"})

    def as_dict(self) -> dict[str, Any]:
        """Return the ``gate`` section of ``report.json``."""
        return {"decision": self.decision, "reasons": self.reasons, "advice": self.advice, "gains": self.gains}


def comparable(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> str | None:
    """Tell why two cards cannot be scored on the same rows; None when they can."""
    ours, theirs = ([f["name"] for f in card["features"]] for card in (candidate, champion))
    if ours != theirs:
        return "it reads other features"
    for key in SCHEMA_KEYS:
        if candidate.get(key) != champion.get(key):
            return f"its {key} is {champion.get(key)!r} instead of {candidate.get(key)!r}"
    return None


def lesser(candidate: Mapping[str, Any], champion: Mapping[str, Any], name: str) -> list[str]:
    """Tell in what a candidate's training was less than the champion's, from the ``lineage`` of both cards.

    Synthetic data never replace real ones, and a smoke run replaces nothing: what it says of the test rows may be
    true, but fewer trials and rows were never meant for production.

    Parameters
    ----------
    candidate, champion : mapping
        ``source``, ``trials`` (with ``trials``) and ``train_rows``; what a card does not say is not compared, but a
        champion of unknown source counts as trained on real data.
    name : str
        The champion's, for the sentence.

    Returns
    -------
    list of str
        Ends of a sentence that begins with "it".
    """
    found = []
    if candidate.get("source") == SYNTHETIC and champion.get("source") != SYNTHETIC:
        found.append(f"was trained on synthetic data, {name} on '{champion.get('source', 'unknown data')}'")
    for what, ours, theirs in (
        ("trials", *((card.get("trials") or {}).get("trials") for card in (candidate, champion))),
        ("training rows", candidate.get("train_rows"), champion.get("train_rows")),
    ):
        if ours is not None and theirs is not None and ours < theirs:
            found.append(f"had {ours:,} {what}, fewer than the {theirs:,} of {name}")
    return found


def margin(metric: str, other: float) -> float:
    """Return the non-inferiority margin of a metric against an opponent that reaches ``other``.

    Examples
    --------
    >>> margin("roc_auc", 0.9), margin("average_precision", 0.5)
    (0.02, 0.05)
    """
    return ABSOLUTE_MARGIN.get(metric, ERROR_MARGIN.get(metric, RELATIVE_MARGIN) * abs(other))


def opponent_words(name: str) -> str:
    """Return a baseline's name for a reader, with the name that tables use."""
    return _OPPONENTS.get(name, name)


def decide(
    task: ModuleType,
    data: Any,
    candidate: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    *,
    champion: Mapping[str, Any] | None = None,
    champion_name: str = "the champion",
    champion_rows: np.ndarray | None = None,
    obstacles: Sequence[str] = (),
    units: Units | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate on the test rows.

    Parameters
    ----------
    task : module
        Brings ``compare``, ``GATE_METRICS``, ``PROBABILITY_METRICS``, ``SIMPLE_BASELINES`` and ``STRONG_BASELINES``.
    data : object
        What the task's ``prepare`` returned.
    candidate, champion : prediction
        Predictions on the test part; no champion when there is none, or none that can be compared.
    baselines : dict of str to prediction
    champion_name : str
        For the reasons, such as ``version 3``.
    champion_rows : ndarray, (n,), bool, optional
        The test rows that the champion has not seen; all by default.
    obstacles : sequence of str
        What else speaks against a promotion, as ends of a sentence that begins with "it"; each makes the candidate a
        challenger.
    units : Units, optional
        Those of the test rows, to say how many more would settle what is open.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    Verdict
    """
    apart = champion is not None and champion_rows is not None and not champion_rows.all()
    opponents = dict(baselines) if champion is None or apart else {**baselines, champion_name: champion}
    gains = task.compare(data, candidate, opponents, seed=seed)
    units_of = dict.fromkeys(gains, units)
    names = {champion_name: champion_name}
    if apart and champion_rows is not None:
        gains |= task.compare(data, candidate, {champion_name: champion}, rows=champion_rows, seed=seed)
        units_of[champion_name] = task.units(data, "test", champion_rows)
        names[champion_name] += f" on the {champion_rows.sum():,} of {len(champion_rows):,} test rows new to both"
    refusing, passing = _against_simple(task, gains, units)
    worse: list[str] = []
    unsure: list[str] = []
    for name in [n for n in (*task.STRONG_BASELINES, champion_name) if n in gains]:
        shown = names.get(name, opponent_words(name))
        kind, words = _against_strong(task.GATE_METRICS, gains[name], shown, units_of[name])
        {"worse": worse, "unsure": unsure, "passing": passing}[kind].append(words)
    unsure += _against_prior(task.PROBABILITY_METRICS, gains.get("class_prior", {}))
    if refusing:
        advice = "Nothing is registered. Look at the data: other features, a longer record, or more labels."
        return Verdict("refused", refusing + worse + unsure + passing, advice, gains)
    if worse:
        advice = "Bring more data or other features, and search again."
    elif unsure:
        advice = "A longer record with more labels would settle it; then search again."
    else:
        advice = "It passed all comparisons of the test."
    if worse or unsure or obstacles:
        return Verdict("challenger", [*worse, *unsure, *obstacles, *passing], advice, gains)
    return Verdict("champion", passing, "", gains)


def _against_simple(
    task: ModuleType, gains: Mapping[str, Mapping[str, Gain]], units: Units | None
) -> tuple[list[str], list[str]]:
    """Return what refuses a candidate and what it passed, of the simple baselines."""
    first = task.GATE_METRICS[0]
    refusing, passing = [], []
    for name in (n for n in task.SIMPLE_BASELINES if n in gains):
        gain = gains[name][first]
        wanted = MIN_GAIN * abs(gain["other"]) if first in ERROR_MARGIN else MIN_GAIN
        # Written so that an undefined (NaN) gain refuses.
        if not gain["low"] > wanted:
            more = how_many_more([(gain, wanted)], units)
            refusing.append(f"does not beat the simple baseline {name} beyond chance: {_words(first, gain)}{more}")
        else:
            passing.append(f"beats {name}: {_words(first, gain)}")
    return refusing, passing


def _against_strong(
    names: Sequence[str], gains: Mapping[str, Gain], shown: str, units: Units | None
) -> tuple[str, str]:
    """Return "worse", "unsure" or "passing", and the sentence that says so."""
    found = {m: gains[m] for m in names}
    # An undefined (NaN) end is no pass, and no proof of being worse; nor are two that reach nothing, without a margin.
    failed = {m: g for m, g in found.items() if not g["low"] > -margin(m, g["other"])}
    behind = {m: g for m, g in failed.items() if g["value"] <= -margin(m, g["other"]) and g["value"] < 0}
    if behind:
        return "worse", f"is inferior to {shown}: {_list(behind)}"
    if failed:
        more = how_many_more([(g, -margin(m, g["other"])) for m, g in failed.items()], units)
        return "unsure", (
            f"is not shown to be as good as {shown}, the test is too small: {_list(failed, limits=True)}{more}"
        )
    if all(g["low"] > 0 for g in found.values()):
        return "passing", f"is better than {shown}: {_list(found)}"
    same = all(g["low"] <= 0 <= g["high"] for g in found.values())
    distinct = " and not distinguishable from it" if same else ""
    return "passing", f"is not inferior to {shown}{distinct}: {_list(found)}"


def _against_prior(names: Sequence[str], gains: Mapping[str, Gain]) -> list[str]:
    found = {m: gains[m] for m in names if m in gains}
    if not found or any(gain["low"] > 0 for gain in found.values()):
        return []
    return [f"has probabilities that are not shown to be better than the base rate: {_list(found)}"]


def _list(gains: Mapping[str, Gain], *, limits: bool = False) -> str:
    return "; ".join(_words(m, g, limit=margin(m, g["other"]) if limits else None) for m, g in gains.items())


def _words(metric: str, gain: Gain, limit: float | None = None) -> str:
    end = "" if limit is None else f", which must not reach below {-limit:+.3f}"
    return (
        f"{metrics.WORDS.get(metric, metric)} {gain['own']:.3f} against {gain['other']:.3f} "
        f"(gain {gain['value']:+.3f}, {gain['low']:+.3f} to {gain['high']:+.3f}{end})"
    )
