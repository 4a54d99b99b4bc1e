"""The records of the journal that a report looks at: those of the version that answers now, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from aiops_core import files, journal, settings, tracking
from aiops_core.errors import AiopsError, UsageError
from aiops_core.facts import MODELS
from aiops_core.servable import as_answering

_HOURS = {"h": 1, "d": 24, "w": 168}


def since_time(text: str, now: pd.Timestamp | None = None) -> pd.Timestamp:
    """Return the time that ``7d``, ``12h`` or ``2w`` lies before now, or a time that is given itself; UTC.

    Raises
    ------
    UsageError

    Examples
    --------
    >>> since_time("7d", pd.Timestamp("2026-01-08", tz="UTC")).isoformat()
    '2026-01-01T00:00:00+00:00'
    """
    now = pd.Timestamp.now(tz="UTC") if now is None else now
    number, unit = text[:-1], text[-1:]
    if unit in _HOURS and number.isdecimal() and int(number) > 0:
        return now - pd.Timedelta(hours=_HOURS[unit] * int(number))
    try:
        stamp = pd.Timestamp(text)
    except ValueError:
        raise UsageError(f"--since '{text}' is no time: write it like 7d, 12h or 2026-01-01T00:00Z") from None
    if pd.isna(stamp):
        raise UsageError(f"--since '{text}' is no time: write it like 7d, 12h or 2026-01-01T00:00Z")
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def records(task: str, since: str = "7d", state: Path | None = None) -> tuple[pd.DataFrame, dict[str, Any] | None, int]:
    """Return the labelled records of the newest version that answered as champion, and its card.

    Parameters
    ----------
    task : str
    since : str
        How far back: ``7d``, or a time. Counted from the newest record, so that recorded traffic can be looked at too.
    state : Path, optional
        State folder; by default that of the settings.

    Returns
    -------
    frame : DataFrame
    card : dict or None
        None where the registry holds no such version: one without a card cannot be monitored.
    version : int
        0 where none answered.
    """
    folder = state or settings.load().state_dir
    whole = journal.read(folder, task, columns=["event_time", "arrival_time", "version", "role"])
    champions = whole[whole["role"] == "champion"]
    if not len(champions):
        return whole, None, 0
    version = int(champions["version"].iloc[-1])
    # Event time too: replayed traffic ends when it was recorded, not now.
    stamps = champions["event_time"].fillna(champions["arrival_time"])
    frame = journal.labelled(folder, task, since=since_time(since, stamps.max()))
    frame = frame[(frame["version"] == version) & (frame["role"] == "champion")]
    card = _card(task, version, folder)
    number = ((card or {}).get("recalibration") or {}).get("number", 0)
    # What was said with another correction is on another scale than the card is now.
    frame = frame[frame["recalibration"].fillna(0) == number].reset_index(drop=True)
    return frame, card, version


def _card(task: str, version: int, state: Path) -> dict[str, Any] | None:
    name = MODELS[task]
    try:
        with files.private_files():
            loaded = tracking.fetch_verified(name, version, state / "servables" / f"{name}-{version}")
    except AiopsError:
        return None
    try:
        loaded = as_answering(loaded, tracking.get_version(name, version).recalibration)
    except AiopsError:
        # Without the registry nobody knows a correction: what was answered without one is looked at.
        pass
    return dict(loaded.card)
