"""What becomes of the version that a retraining put into the shadow: the verdict on live traffic, and the policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from aiops_core import settings, tracking
from aiops_core.facts import MODELS
from aiops_core.judge import sequence
from aiops_core.live.verdict import compare
from aiops_core.retrain import page
from aiops_core.retrain.state import alone, last, remember

__all__ = ["settle"]


def settle(task: str, *, state: Path | None = None) -> dict[str, Any]:
    """Judge the version of the last retraining, and promote it or end its shadow where the policy says so.

    A version that is no longer in the shadow is left alone: somebody has decided otherwise.

    Parameters
    ----------
    task : str
    state : Path, optional
        State folder; by default that of the settings.

    Returns
    -------
    dict
        ``verdict``, ``words``, ``promoted`` (bool) and ``at``; empty where there is nothing to judge.

    Raises
    ------
    UsageError
        While a retraining runs.
    TrackingError
        If the registry refuses.
    """
    state = state or settings.load().state_dir
    name = MODELS[task]
    with alone(state):
        content = last(state, task)
        champion, shadow = tracking.champions().get(name), tracking.companions().get(name, {}).get("shadow")
        version = content.get("version")
        if champion is None or shadow is None or content.get("state") != "succeeded" or shadow.version != version:
            return {}
        found = compare(state, task, champion.version, shadow.version)
        act = content["options"]["policy"] == "better"
        settled = {"verdict": found.verdict, "words": found.words, "promoted": False, "at": time.time()}
        if act and found.verdict == sequence.BETTER:
            tracking.promote(name, shadow.version)
            settled["promoted"] = True
        elif act and found.verdict == sequence.WORSE:
            tracking.remove_companion(name, "shadow", shadow.version)
        content["settled"] = settled
        remember(state, task, content)
        if Path(content["report"]).is_dir():
            page.write(Path(content["report"]), content)
    return settled
