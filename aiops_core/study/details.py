"""What a report prints below the figures of a task: sentences and tables from the task's details."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["with_words"]


def with_words(task: str, details: dict[str, Any]) -> dict[str, Any]:
    """Add to a task's details the sentences and the tables that a report prints, unless it brings its own.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    details : dict
        What the task's ``details`` returned.
    """
    if "sentences" in details and "tables" in details:
        return details
    sentences: list[str] = []
    tables: dict[str, Any] = {}
    if task == "failure":
        sentences.append(f"At the chosen threshold: {details['sentence']}.")
        curve = details["policies"]
        for budget in (0.25, 1.0, 2.0):
            within = [i for i, alerts in enumerate(curve["alerts_per_resource_day"]) if alerts <= budget]
            if within:
                best = max(within, key=lambda i: curve["share_caught"][i])
                sentences.append(
                    f"At most {budget:g} alerts a day a resource: catches {curve['share_caught'][best]:.0%} of incidents, "
                    f"median {curve['median_lead_hours'][best]:.3g} h ahead (threshold {curve['threshold'][best]:.3f})."
                )
        tables["Resources with the largest errors"] = details["by_resource"][:8]
        tables["The surest mistakes"] = details["worst"][:8]
    elif task == "threat":
        details = {**details, "confusion_matrix": {"classes": details["classes"], "confusion": details["confusion"]}}
        if "attack_cost" in details:
            sentences.append(f"Attack or normal: {details['attack_cost']['words']}.")
        sentences.append(f"Weakest classes: {', '.join(details['worst_classes'])}.")
        tables["The surest mistakes"] = [
            {**{k: v for k, v in row.items() if k not in ("values", "group")}, "unusual values": _pairs(row["values"])}
            for row in details["worst_cases"][:8]
        ]
        tables["Groups found least"] = details.get("groups", [])[:10]
    else:
        tables["By target"] = details["by_target"]
        tables["Errors and coverage by steps ahead"] = details["by_step"][:16]
        tables["Resources with the largest errors"] = details["worst_resources"][:8]
    return {**details, "sentences": sentences, "tables": tables}


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
