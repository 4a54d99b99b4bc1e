"""Series of a request: the times of their rows, checked for order, gaps and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aiops_core.servable.series import steps_back
from serve_app.wire.problems import invalid
from serve_app.wire.times import iso, parse_stamp
from serve_app.wire.wording import span

__all__ = ["check_order", "check_resource", "row_times", "step_notes"]

#: A series whose usual gap differs from the model's step by more than this factor has another step.
OTHER_STEP = 1.5


def check_order(seconds: Sequence[float], path: str, field: str = ".timestamp") -> None:
    """Refuse a series that goes back in time, naming the first row that does.

    Raises
    ------
    Problem
    """
    for k in range(1, len(seconds)):
        if seconds[k] < seconds[k - 1]:
            rule = f"goes back behind the row before it ({iso(seconds[k - 1])}): give rows oldest first"
            raise invalid(f"{path}[{k}]{field}", rule)


def check_resource(row: Mapping[str, Any], resource_id: str, path: str) -> None:
    """Refuse a row that names another resource than its request.

    Raises
    ------
    Problem
    """
    named = row.get("resource_id")
    if named is None or named == resource_id:
        return
    if isinstance(named, float) and named.is_integer() and str(int(named)) == resource_id:
        return
    raise invalid(f"{path}.resource_id", f"{str(named)[:64]!r} is another resource than {resource_id[:64]!r}")


def row_times(rows: Sequence[Mapping[str, Any]], path: str) -> np.ndarray | None:
    """Return the times of the rows of a table, or None where no row carries one.

    Returns
    -------
    ndarray, (n,), int64, or None
        Whole seconds since 1970, ascending.

    Raises
    ------
    Problem
        If only some rows carry a time, or a time breaks a rule or goes back.
    """
    given = [row.get("timestamp") for row in rows]
    without = [k for k, value in enumerate(given) if value is None]
    if len(without) == len(given):
        return None
    if without:
        raise invalid(f"{path}[{without[0]}].timestamp", "is missing: either every row has a timestamp or none")
    seconds = [parse_stamp(value, f"{path}[{k}].timestamp") for k, value in enumerate(given) if value is not None]
    check_order(seconds, path)
    return np.array(seconds).astype(np.int64)


def step_notes(seconds: np.ndarray, step: int, within: str) -> list[str]:
    """Return warnings about rows that do not come one a step.

    Parameters
    ----------
    seconds : ndarray, (n,), int64
        Ascending.
    step : int
        Of the model, in seconds.
    within : str
        What is used of several rows in a step, such as "the last one".
    """
    if len(seconds) < 2:
        return []
    usual = float(np.median(np.diff(seconds)))
    if usual * OTHER_STEP < step:
        return [
            f"rows come every {span(usual)}, the model's step is {span(step)}: of rows within a step {within} is used"
        ]
    if usual > OTHER_STEP * step:
        return [f"rows come every {span(usual)}, the model's step is {span(step)}: the steps between are not observed"]
    taken = np.unique(steps_back(seconds, int(seconds[-1]), step))
    notes = []
    close = len(seconds) - len(taken)
    if close:
        notes.append(f"{close} rows come sooner than the model's step of {span(step)}: within a step {within} is used")
    gaps = int(taken[-1]) + 1 - len(taken)
    if gaps:
        notes.append(f"{gaps} steps of {span(step)} are missing between the rows: they count as not observed")
    return notes
