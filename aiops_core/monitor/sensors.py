"""Does every sensor live? Missing values, values out of range, sensors that went silent or froze."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiops_core.monitor.traffic import LEAST, Traffic
from aiops_core.tasks.cards import bin_of

#: A feature with more of one value in training, or with more missing, may stand still, or be silent, by nature.
USUAL_VALUE, USUALLY_MISSING, USUALLY_FROZEN = 0.25, 0.5, 0.01
#: Of the rows of a day, that hold one and the same value: a sensor that is stuck.
STUCK = 0.2
#: More of the rows hold that value than all values of its bin had in training; rows without which nothing is said.
OFTENER, LEAST_ROWS = 0.15, 30


def inputs(traffic: Traffic) -> list[dict[str, Any]]:
    """Return of each feature the shares of the last day that are missing, or out of the range of training.

    Returns
    -------
    list of dict
        ``feature, rows, missing, usually_missing, below, above``.
    """
    today = traffic.features[(traffic.row_day == 0) & ~np.isnan(traffic.features).all(axis=1)]
    out = []
    for name, column in zip(traffic.columns, today.T, strict=True):
        kept = traffic.card["watch"]["features"][name]
        known = column[~np.isnan(column)]
        low, high = (kept["edges"][0], kept["edges"][-1]) if "edges" in kept else (0, len(kept["categories"]) - 1)
        out.append(
            {
                "feature": name,
                "rows": len(column),
                "missing": float(np.isnan(column).mean()) if len(column) else 0.0,
                "usually_missing": kept["missing"],
                "below": float((known < low).mean()) if len(known) else 0.0,
                "above": float((known > high).mean()) if len(known) else 0.0,
            }
        )
    return out


def broken(traffic: Traffic) -> list[dict[str, str]]:
    """Return sensors that say nothing, or always the same.

    Returns
    -------
    list of dict
        ``feature``, ``resource`` ("" for all) and ``fault``: ``silent``, ``frozen`` or ``stuck``.
    """
    if not len(traffic.time):
        return []
    out = []
    for i, name in enumerate(traffic.columns):
        kept = traffic.card["watch"]["features"][name]
        common = max(kept["counts"], default=0) / max(sum(kept["counts"]), 1)
        moves = common < USUAL_VALUE and traffic.card["watch"].get("windows", {}).get(name, {}).get("frozen", 0) < (
            USUALLY_FROZEN
        )
        if traffic.recent is not None:
            out += _by_resource(traffic, i, name, kept, speaks=kept["missing"] < USUALLY_MISSING, moves=moves)
        elif "edges" in kept:
            today = traffic.features[traffic.row_day == 0, i]
            known = today[~np.isnan(today)]
            value, often = np.unique(known, return_counts=True)
            if len(known) < LEAST_ROWS:
                continue
            place = bin_of(value[[int(often.argmax())]], kept["edges"])[0]
            usual = kept["counts"][place] / max(sum(kept["counts"]), 1)
            if often.max() / len(known) > max(STUCK, usual + OFTENER):
                out.append({"feature": name, "resource": "", "fault": "stuck"})
    return out


def _by_resource(
    traffic: Traffic, i: int, name: str, kept: Mapping[str, Any], *, speaks: bool, moves: bool
) -> list[dict[str, str]]:
    assert traffic.recent is not None
    lately = np.zeros(len(traffic.names), dtype=bool)
    lately[traffic.resource[traffic.day == 0]] = True
    column = traffic.recent[:, :, i]
    known = ~np.isnan(column)
    rows = ~np.isnan(traffic.recent).all(axis=2)
    silent = lately & speaks & (rows[:, -LEAST:].sum(axis=1) >= LEAST) & ~known[:, -LEAST:].any(axis=1)
    last = np.where(known, column, np.inf)[:, -LEAST - 2 :].min(axis=1)
    most = np.where(known, column, -np.inf)[:, -LEAST - 2 :].max(axis=1)
    # What stands still at the end of its range is full, or idle.
    low, high = kept["edges"][0], np.nextafter(kept["edges"][-1], -np.inf)
    frozen = (
        lately & moves & (known[:, -LEAST - 2 :].sum(axis=1) >= LEAST) & (last == most) & (last > low) & (last < high)
    )
    found = [("silent", r) for r in np.flatnonzero(silent)] + [("frozen", r) for r in np.flatnonzero(frozen)]
    return [{"feature": name, "resource": traffic.names[r], "fault": fault} for fault, r in found]
