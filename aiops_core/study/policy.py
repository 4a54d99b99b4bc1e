"""The decision policy of a data set's settings: checked before anything is trained for it, then followed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable
from aiops_core.errors import UsageError
from aiops_core.servable.failure import choose_threshold

DECISION_KEYS = ("rule", "cost_missed", "cost_false_alarm", "alerts_per_day")


def check_policy(policy: Mapping[str, Any]) -> None:
    """Refuse a decision policy with unknown keys.

    Raises
    ------
    UsageError
    """
    unknown = set(policy) - set(DECISION_KEYS)
    if unknown:
        raise UsageError(f"decision has no key '{min(unknown)}'; known: {', '.join(DECISION_KEYS)}")


def follow_policy(folder: Path, policy: Mapping[str, Any] | None) -> None:
    """Choose the threshold of a servable by a policy, on the curve of its card; without one it stays."""
    if policy:
        chosen = choose_threshold(servable.load(folder, verify=False).card["decision"]["curve"], **policy)
        servable.update_card(folder, decision={"rule": "max_f1", **policy, "threshold": chosen})
