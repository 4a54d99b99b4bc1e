"""Promotion rules: which candidate may serve, in words.

A candidate is compared with every baseline, and with the current champion, on the same test rows by a paired
bootstrap:

1. it must beat every simple baseline (class prior, rules, last value, seasonal naive, …) beyond chance, by at
   least `MIN_GAIN` of the task's first gate metric: else it is *refused*;
2. it must not be inferior to any strong baseline (gradient-boosted trees), nor to the current champion, in any gate
   metric: the lower end of the paired difference must lie above minus the `margin` of that metric, so that a wide
   interval is no pass: else *challenger*;
3. its probabilities must beat the class prior's beyond chance (Brier score or log loss): else *challenger*;
4. nothing else may speak against it, such as a champion that was trained on more: else *challenger*.

The margins are those of a non-inferiority trial: the largest loss that would still be accepted for another advantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from aiops_core.judge import metrics
from aiops_core.judge.intervals import Gain
from aiops_core.markup import html_table

__all__ = ["MIN_GAIN", "Verdict", "comparable", "decide", "lesser", "margin", "opponent_words"]

#: Lower end of the gain over a simple baseline that is worth operating a model for; of a scaled error, as a share.
MIN_GAIN = 0.01
#: Margins of metrics that have a scale of their own, in units of the metric.
ABSOLUTE_MARGIN = {"roc_auc": 0.02, "macro_f1": 0.02}
#: Margin of all others, as a share of the opponent's value: half an average precision of 0.04 is not "0.02 less".
RELATIVE_MARGIN = 0.1
SYNTHETIC = "synthetic"
#: Parts of a card that must agree before two models can be scored on the same rows.
SCHEMA_KEYS = ("window", "horizon", "step_seconds", "classes", "targets", "season")
_OPPONENTS = {
    "hist_gradient_boosting": "boosted trees (hist_gradient_boosting)",
    "xgboost_lags": "XGBoost on plain lags (xgboost_lags)",
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
    return ABSOLUTE_MARGIN.get(metric, RELATIVE_MARGIN * abs(other))


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
    obstacles: Sequence[str] = (),
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
    obstacles : sequence of str
        What else speaks against a promotion, as ends of a sentence that begins with "it"; each makes the candidate a
        challenger.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    Verdict
    """
    opponents = dict(baselines) if champion is None else {**baselines, champion_name: champion}
    gains = task.compare(data, candidate, opponents, seed=seed)
    first = task.GATE_METRICS[0]
    refusing, passing = [], []
    for name in (n for n in task.SIMPLE_BASELINES if n in gains):
        gain = gains[name][first]
        wanted = MIN_GAIN if first in ABSOLUTE_MARGIN else MIN_GAIN * abs(gain["other"])
        # Written so that an undefined (NaN) gain refuses.
        if not gain["low"] > wanted:
            refusing.append(f"does not beat the simple baseline {name} beyond chance: {_words(first, gain)}")
        else:
            passing.append(f"beats {name}: {_words(first, gain)}")
    worse, unsure = [], []
    for name in [n for n in (*task.STRONG_BASELINES, champion_name) if n in gains]:
        failed = {m: gains[name][m] for m in task.GATE_METRICS if not _not_inferior(m, gains[name][m])}
        shown = opponent_words(name)
        behind = {m: g for m, g in failed.items() if not g["value"] > -margin(m, g["other"])}
        if behind:
            worse.append(f"is inferior to {shown}: {_list(behind)}")
        elif failed:
            unsure.append(f"is not shown to be as good as {shown}, the test is too small: {_list(failed, limits=True)}")
        else:
            passing.append(f"is not inferior to {shown}: {_list({m: gains[name][m] for m in task.GATE_METRICS})}")
    guesses = [gains["class_prior"][m] for m in task.PROBABILITY_METRICS] if "class_prior" in gains else []
    if guesses and not any(gain["low"] > 0 for gain in guesses):
        found = {m: gains["class_prior"][m] for m in task.PROBABILITY_METRICS}
        unsure.append(f"has probabilities that are not shown to be better than the base rate: {_list(found)}")
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


def _not_inferior(metric: str, gain: Gain) -> bool:
    # An undefined (NaN) end is no pass.
    return gain["low"] > -margin(metric, gain["other"])


def _list(gains: Mapping[str, Gain], *, limits: bool = False) -> str:
    return "; ".join(_words(m, g, limit=margin(m, g["other"]) if limits else None) for m, g in gains.items())


def _words(metric: str, gain: Gain, limit: float | None = None) -> str:
    end = "" if limit is None else f", which must not reach below {-limit:+.3f}"
    return (
        f"{metrics.WORDS.get(metric, metric)} {gain['own']:.3f} against {gain['other']:.3f} "
        f"(gain {gain['value']:+.3f}, {gain['low']:+.3f} to {gain['high']:+.3f}{end})"
    )
