"""From alarms to what somebody on call gets: alerts, incidents that were announced, lead times, cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["alerts", "announced", "outcome"]


def alerts(rows: pd.DataFrame, valid: pd.Timedelta) -> pd.DataFrame:
    """Return the alerts of one version: an alarm that is not within ``valid`` after an earlier alert of its resource.

    Parameters
    ----------
    rows : DataFrame
        ``resource_id``, ``time`` and ``alarm``.
    valid : Timedelta
        How long an alert stands: the horizon of the version.

    Returns
    -------
    DataFrame
        ``resource_id``, ``start`` and ``alarms``, how many it stands for; by time.
    """
    found: list[dict[str, Any]] = []
    alarms = rows[rows["alarm"].astype(bool)].sort_values("time", kind="stable")
    for name, mine in alarms.groupby("resource_id", sort=False):
        start = None
        for time in mine["time"]:
            if start is None or time > start + valid:
                start = time
                found.append({"resource_id": name, "start": time, "alarms": 0})
            found[-1]["alarms"] += 1
    frame = pd.DataFrame(found, columns=["resource_id", "start", "alarms"])
    return frame.sort_values("start", kind="stable").reset_index(drop=True)


def announced(rows: pd.DataFrame, incidents: pd.DataFrame, horizon: pd.Timedelta) -> pd.DataFrame:
    """Return what one version said before each incident.

    Parameters
    ----------
    rows : DataFrame
        ``resource_id``, ``time`` and ``alarm``.
    incidents : DataFrame
        ``resource_id`` and ``start``.
    horizon : Timedelta

    Returns
    -------
    DataFrame
        By the index of ``incidents``: ``asked``, whether any answer was due within the horizon before it; ``caught``; and
        ``lead_hours`` from the earliest alarm within it, NaN where there was none.
    """
    by_resource = dict(list(rows.groupby("resource_id")))
    found = []
    for name, start in zip(incidents["resource_id"], incidents["start"], strict=True):
        mine = by_resource.get(name)
        lead, asked = np.nan, False
        if mine is not None:
            near = mine[(mine["time"] < start) & (mine["time"] >= start - horizon)]
            asked = len(near) > 0
            early = near.loc[near["alarm"].astype(bool), "time"]
            lead = (start - early.min()).total_seconds() / 3600 if len(early) else np.nan
        found.append({"asked": asked, "caught": bool(np.isfinite(lead)), "lead_hours": lead})
    frame = pd.DataFrame(found, index=incidents.index, columns=["asked", "caught", "lead_hours"])
    return frame.astype({"asked": bool, "caught": bool, "lead_hours": float})


def outcome(
    raised: pd.DataFrame,
    said: pd.DataFrame,
    incidents: pd.DataFrame,
    horizon: pd.Timedelta,
    *,
    cost_missed: float,
    cost_false_alarm: float,
) -> dict[str, Any]:
    """Add up alerts and incidents.

    Parameters
    ----------
    raised, said : DataFrame
        From `alerts` and `announced`.
    incidents : DataFrame
    horizon : Timedelta
    cost_missed, cost_false_alarm : float
        Of an incident that nobody announced, and of an alert that no incident follows within the horizon, any unit.

    Returns
    -------
    dict
        ``alerts, false_alerts, incidents`` (those before which somebody asked), ``caught, missed, median_lead_hours, cost``.
    """
    starts = {name: mine["start"].to_numpy() for name, mine in incidents.groupby("resource_id")}
    false = []
    for name, start in zip(raised["resource_id"], raised["start"], strict=True):
        mine = pd.DatetimeIndex(starts.get(name, []))
        false.append(not any(start < begins <= start + horizon for begins in mine))
    raised["false"] = np.array(false, dtype=bool)
    due = said[said["asked"]]
    caught = int(due["caught"].sum())
    missed = len(due) - caught
    leads = due.loc[due["caught"], "lead_hours"]
    return {
        "alerts": len(raised),
        "false_alerts": int(sum(false)),
        "incidents": len(due),
        "caught": caught,
        "missed": missed,
        "median_lead_hours": float(leads.median()) if len(leads) else None,
        "cost": cost_missed * missed + cost_false_alarm * int(sum(false)),
    }
