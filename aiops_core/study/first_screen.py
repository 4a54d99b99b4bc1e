"""What a report says first: what a model would have done for someone who runs servers, without a metric's name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

__all__ = ["first_screen"]

#: Targets whose typical error is said.
MOST_TARGETS = 3


def first_screen(task: str, details: Mapping[str, Any]) -> list[str]:
    """Return sentences on what a task's model did in the test, from the ``first_screen`` of its details.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    details : mapping
        What the task's ``details`` returned; a report of an older version lacks some facts, which are not spoken of.

    Returns
    -------
    list of str
        Most important first; empty where nothing is known.
    """
    facts = details.get("first_screen") or {}
    say = {"failure": _failure, "threat": _threat, "capacity": _capacity}[task]
    return [sentence for sentence in say(facts) if sentence]


def _failure(facts: Mapping[str, Any]) -> list[str]:
    incidents, caught = facts.get("incidents"), facts.get("caught")
    said = []
    if incidents == 0:
        said.append("No incident happened in the test.")
    elif incidents is not None and not caught:
        said.append(f"None of the {incidents:,} incidents in the test was announced.")
    elif incidents is not None and caught is not None:
        hours = facts.get("median_hours_ahead")
        ahead = f", half of them {_hours(hours)} or more ahead" if _known(hours) else ""
        said.append(f"{caught:,} of {incidents:,} incidents in the test were announced{ahead}.")
    rate, resources = facts.get("false_alarms_per_day"), facts.get("resources")
    if _known(rate):
        over = f" over all {resources:,} resources" if resources else ""
        said.append(f"{_rate(rate)}{over}.")
    return said


def _threat(facts: Mapping[str, Any]) -> list[str]:
    attacks, caught = facts.get("attacks"), facts.get("caught")
    said = []
    if attacks == 0:
        said.append("No attack is among the rows of the test.")
    elif attacks is not None and caught is not None:
        said.append(f"{caught:,} of {attacks:,} attacks in the test were recognised as an attack{_interval(facts)}.")
    false, ordinary = facts.get("false_alarms"), facts.get("ordinary_rows")
    rate = facts.get("false_alarms_per_1000")
    if ordinary and _known(rate):
        counted = f" ({false:,} of {ordinary:,})" if false is not None else ""
        said.append(f"{_brief(rate)} of 1,000 ordinary rows raised a false alarm{counted}.")
    return said


def _capacity(facts: Mapping[str, Any]) -> list[str]:
    said = []
    errors = [row for row in facts.get("typical_error") or [] if _known(row.get("half_below"))]
    if errors:
        parts = [f"{_digits(row['half_below'])} for {row['target']}{_of(row.get('typical_value'))}" for row in errors]
        more = f", and {len(errors) - MOST_TARGETS} more below" if len(errors) > MOST_TARGETS else ""
        said.append(f"Half of the forecasts are off by less than {', '.join(parts[:MOST_TARGETS])}{more}.")
    share = facts.get("inside_band")
    if _known(share):
        said.append(f"{share:.0%} of the values fell inside the band that should hold 80%.")
    return said


def _interval(facts: Mapping[str, Any]) -> str:
    share, low, high = (facts.get(name) for name in ("share", "low", "high"))
    if not _known(share):
        return ""
    return f": {share:.0%}" + (f" ({low:.0%} to {high:.0%})" if _known(low) and _known(high) else "")


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.3g} {'hour' if hours == 1 else 'hours'}"


def _rate(a_day: float) -> str:
    """Return false alarms a day as one counts them: below one a day, the days between two."""
    if a_day <= 0:
        return "No false alarm was raised"
    if a_day < 0.95:
        return f"One false alarm every {_brief(1 / a_day)} days"
    return f"{_brief(a_day)} false {'alarm' if _brief(a_day) == '1' else 'alarms'} a day"


def _brief(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _of(typical: Any) -> str:
    return f" (usually around {_digits(typical)})" if _known(typical) else ""


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _known(value: Any) -> TypeGuard[float]:
    """Whether a fact is a number: undefined ones are NaN, or null once they were written."""
    return isinstance(value, (int, float)) and not math.isnan(value)
