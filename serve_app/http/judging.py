"""Champion against shadow or canary behind HTTP: the verdict of `aiops_core.live` on what the pointer file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aiops_core.errors import AiopsError
from aiops_core.facts import MODELS, TASKS
from aiops_core.live.verdict import compare
from serve_app.champions.companions import CANARY, SHADOW, slot
from serve_app.champions.node import read_pointer
from serve_app.wire.problems import Problem, invalid
from serve_app.wire.requests import JudgeQuery

__all__ = ["verdicts"]


def verdicts(state: Path, folder: Path, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the verdicts that a query asks for; one is None where nothing is compared.

    Parameters
    ----------
    state, folder : Path
        State folder, and that of the node.
    query : mapping

    Raises
    ------
    Problem
        422 for a parameter that is unknown or wrong, 503 if journal or feedback cannot be read.
    """
    try:
        asked = msgspec.convert(dict(query), JudgeQuery, strict=False)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at ")
        raise invalid(path.strip("`") or "$", rule) from None
    if asked.version is not None and asked.task is None:
        raise invalid("$.version", "name the task whose version it is")
    pointer = read_pointer(folder)
    tasks = TASKS if asked.task is None else (asked.task,)
    return {"verdicts": [_verdict(state, pointer, task, asked) for task in tasks]}


def _verdict(state: Path, pointer: Mapping[str, Any], task: str, asked: JudgeQuery) -> dict[str, Any]:
    name = MODELS[task]
    champion = pointer.get("models", {}).get(name)
    beside = pointer.get("companions", {})
    alias = next((alias for alias in (CANARY, SHADOW) if slot(name, alias) in beside), None)
    candidate = asked.version or (None if alias is None else int(beside[slot(name, alias)]["version"]))
    nothing: dict[str, Any] = {
        "task": task,
        "model": name,
        "champion": None,
        "candidate": None,
        "verdict": None,
        "losses": [],
    }
    if champion is None:
        return {**nothing, "words": f"{name} has no champion."}
    if candidate is None:
        words = f"Nothing answers beside version {champion['version']} of {name}: begin with models/shadow."
        return {**nothing, "champion": int(champion["version"]), "words": words}
    try:
        found = compare(state, task, int(champion["version"]), candidate, since=asked.since)
    except AiopsError as error:
        raise invalid("$.since", str(error)) from None
    except OSError as error:
        raise Problem(503, f"journal or feedback cannot be read: {error}") from error
    return {"model": name, **found.as_dict()}
