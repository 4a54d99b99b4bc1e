"""One verdict a task, in plain words: fine, watch or act, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"f1": "F1", "accuracy": "accuracy", "error": "error of the forecast"}
FAULTS = {
    "silent": "says nothing any more",
    "frozen": "does not move any more",
    "stuck": "says the same again and again",
}
KINDS = {
    "value": "{}",
    "mean": "mean of {} over the window",
    "spread": "spread of {} over the window",
    "missing": "missing values of {}",
    "score": "the score",
    "class": "the shares of the answers",
}


def verdict(found: Mapping[str, Any]) -> dict[str, Any]:
    """Judge what was found of a task.

    Parameters
    ----------
    found : mapping
        ``drift``, ``broken``, ``estimate``, ``quality`` and ``alerts``, as the functions of this package return them.

    Returns
    -------
    dict
        ``state``: ``act`` if a sensor is broken, if inputs drift *and* estimated or labelled quality has fallen, or if
        labelled quality alone has fallen for certain; ``watch`` if only one of the milder signs is there; else ``fine``.
        ``why`` and ``todo``, lists of sentences.
    """
    moved = [d for d in found["drift"] if d["drifted"] and d["kind"] != "missing"]
    absent = [d["feature"] for d in found["drift"] if d["drifted"] and d["kind"] == "missing"]
    guess, measured, broken = found["estimate"], found["quality"], list(found["broken"])
    feared, certain = bool(guess and guess["fallen"]), bool(measured and measured["fallen"])
    why: list[str] = []
    todo: list[str] = []
    if broken or absent:
        why += _broken_words(broken, absent)
        todo.append("Repair the sensor, or leave its column out of requests: the model can do without.")
    if moved:
        why.append(f"Moved away from the training data: {_names(moved)}.")
    # One doubt is not enough, two are.
    certain = certain or bool(moved and measured and measured["likely_fallen"])
    if certain and measured:
        why.append(f"Labelled quality has fallen: {_against(_worse(measured))}.")
    if feared and guess:
        why.append(f"The quality to expect has fallen: {_against(guess)}.")
    state = "act" if broken or absent or certain or (moved and feared) else "fine"
    if state == "act" and (certain or (moved and feared)):
        todo.append(
            "Look at the worst resources and features below; if the change is there to stay, train on newer data."
        )
    likely = bool(measured and measured["likely_fallen"])
    if likely and not certain and measured:
        why.append(f"Labelled quality may have fallen: {_against(_worse(measured))}.")
    if state == "fine" and (moved or feared or likely or (found["alerts"] and found["alerts"]["over"])):
        state = "watch"
        todo += _waiting(moved, feared, likely, measured)
    if found["alerts"] and found["alerts"]["over"]:
        count, budget = found["alerts"]["per_day"][0], found["alerts"]["budget"]
        why.append(f"{count} alerts on the last day, {budget:.0f} were to be expected.")
        todo.append("Raise the threshold, or widen the budget, until a person can look at every alert.")
    if state == "fine":
        why.append("Inputs, scores and quality are as the training data promise.")
        todo.append("Nothing.")
    return {"state": state, "why": why, "todo": todo}


def nothing(reason: str, todo: str) -> dict[str, Any]:
    """Return the verdict of a task that cannot be monitored, state ``unknown``."""
    return {"state": "unknown", "why": [reason], "todo": [todo]}


def _broken_words(broken: Sequence[Mapping[str, str]], absent: Sequence[str]) -> list[str]:
    words = []
    for fault in dict.fromkeys((one["feature"], one["fault"]) for one in broken):
        where = [one["resource"] for one in broken if (one["feature"], one["fault"]) == fault and one["resource"]]
        place = f" on {_list(where, 3)}" if where else ""
        words.append(f"The sensor {fault[0]} {FAULTS[fault[1]]}{place}.")
    if absent:
        words.append(f"Far more values of {_list(absent, 4)} are missing than in training.")
    return words


def _against(found: Mapping[str, Any]) -> str:
    name = NAMES[found["metric"]]
    return f"{name} {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}) where {found['promised']:.2f} was promised"


def _worse(measured: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the newest days if they are what has fallen, else all."""
    newest = measured.get("newest")
    return {**newest, "metric": measured["metric"]} if newest and newest["likely_fallen"] else measured


def _names(moved: Sequence[Mapping[str, Any]]) -> str:
    ranked = sorted(moved, key=lambda d: -d["days"][0]["psi"])
    return _list([KINDS[d["kind"]].format(d["feature"]) for d in ranked], 4)


def _list(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _waiting(moved: Sequence[Any], feared: bool, likely: bool, measured: Mapping[str, Any] | None) -> list[str]:
    if likely:
        return [
            "Give more feedback, on answers of the last days: it tells whether this is chance. Look again tomorrow."
        ]
    if moved and measured:
        return ["Nothing yet: the answers that have labels are as good as promised. Look again tomorrow."]
    if moved or feared:
        return [
            "Give feedback on some answers of the last day: it tells whether the model still holds. Look again tomorrow."
        ]
    return []
