"""Put together what was answered and what turned out true."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiops_core.journal.feedback import feedback
from aiops_core.journal.reading import read, utc
from aiops_core.journal.usage import capacity_truth
from aiops_core.journal.versions import versions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["labelled"]

#: The benign class of the threat task.
NORMAL = "normal"
#: Verdicts by which a failure alarm, or its absence, was right or wrong.
_FAILED = {"confirmed": 1.0, "missed": 1.0, "false_alarm": 0.0, "expected": 0.0, "new_trend": 0.0}


def labelled(
    folder: Path,
    task: str,
    *,
    since: Any = None,
    until: Any = None,
    known_at: Any = None,
    horizon: int | None = None,
    step_seconds: int | None = None,
) -> pd.DataFrame:
    """Return the records of a task with what turned out true.

    Parameters
    ----------
    folder : Path
        State folder.
    task : {"failure", "threat", "capacity"}
    since, until : datetime or str, optional
        Event time, as in `read`.
    known_at : datetime or str, optional
        Use what was known before that time; by default everything known now.
    horizon, step_seconds : int, optional
        Steps ahead that an answer speaks of, and seconds of a step; by default those of each record's version.

    Returns
    -------
    DataFrame
        As from `read`, and ``truth``: failure 1 or 0, NaN while it is not known; threat the class, None while it is not
        known; capacity a float32 array of the length of the forecast, NaN where it is not known. ``known_at``: since when,
        UTC; of a forecast, since when all that is known of it.

    Notes
    -----
    Failure: a verdict on the answer decides; without one the incidents of the resource do: 1 if one begins within the
    horizon after the event time, 0 once the horizon has passed and incidents of the resource have been reported, or it
    has been said until when they were (``covered``); within an incident nothing is true. Threat: the class that was
    stated, or by a verdict that the answer was right (``confirmed``) or normal (all others but ``missed``). Capacity:
    usage as it was stated, and as the histories of later requests hold it.
    """
    moment = utc("now" if known_at is None else known_at)
    frame = read(folder, task, since=since, until=until)
    said = feedback(folder, task, until=None if known_at is None else moment)
    if task == "capacity":
        truths = capacity_truth(folder, frame, said, moment, step_seconds)
    elif task == "threat":
        truths = _threat(frame, said)
    else:
        truths = _failure(frame, said, moment, _seconds_ahead(folder, frame, horizon, step_seconds))
    return frame.assign(truth=truths[0], known_at=truths[1])


def _seconds_ahead(folder: Path, frame: pd.DataFrame, horizon: int | None, step_seconds: int | None) -> np.ndarray:
    """Return the horizon of each record in seconds, (n,); NaN where nothing tells it."""
    by_version = {}
    for version, found in versions(folder, "failure").items():
        steps = found.get("horizon") if horizon is None else horizon
        seconds = found.get("step_seconds") if step_seconds is None else step_seconds
        if steps and seconds:
            by_version[version] = float(steps) * float(seconds)
    known = float(horizon) * float(step_seconds) if horizon and step_seconds else None
    # The rules stand in for the model: they are judged by the horizon of the newest one.
    rules = by_version[max(by_version)] if by_version else np.nan
    return np.array(
        [known or by_version.get(int(v), rules if v == 0 else np.nan) for v in frame["version"]], dtype=float
    )


def _by_request(said: pd.DataFrame, kinds: tuple[str, ...]) -> dict[tuple[str, int | None], Any]:
    """Return statements on answers by request and, where one names it, row."""
    import pandas as pd

    chosen = said[said["kind"].isin(kinds)]
    return {
        (request_id, None if pd.isna(row) else int(row)): found
        for request_id, row, found in zip(
            chosen["request_id"], chosen["row"], chosen.itertuples(index=False), strict=True
        )
    }


def _on(found: Mapping[tuple[str, int | None], Any], request_id: str, row: int) -> Any:
    """Return what was said of a record: by the id of its answer, or by that of the batch and its row."""
    own = found.get((request_id, None)) or found.get((request_id, row))
    if own is None and request_id.endswith(f"-{row}"):
        own = found.get((request_id.removesuffix(f"-{row}"), row))
    return own


def _times(values: list[Any]) -> pd.Series:
    import pandas as pd

    return pd.Series(pd.to_datetime(pd.Series(values, dtype="object"), utc=True).astype("datetime64[us, UTC]").array)


def _threat(frame: pd.DataFrame, said: pd.DataFrame) -> tuple[Any, Any]:
    classes, verdicts = _by_request(said, ("class",)), _by_request(said, ("verdict",))
    truth: list[str | None] = []
    known: list[Any] = []
    for request_id, row, answer in zip(frame["request_id"], frame["row"], frame["threat_type"], strict=True):
        about = [found for table in (classes, verdicts) if (found := _on(table, request_id, row)) is not None]
        # The one that was said last.
        newest = max(about, key=lambda found: found.at, default=None)
        label = None if newest is None else _class_of(newest, answer)
        truth.append(label)
        known.append(newest.at if newest is not None and label is not None else None)
    import pandas as pd

    return pd.Series(truth, index=frame.index, dtype="object"), _times(known).set_axis(frame.index)


def _class_of(found: Any, answer: str) -> str | None:
    if isinstance(found.label, str):
        return found.label
    if found.verdict == "confirmed":
        return answer
    return None if found.verdict == "missed" else NORMAL


def _failure(frame: pd.DataFrame, said: pd.DataFrame, moment: Any, ahead: np.ndarray) -> tuple[Any, Any]:
    """Label failure answers: from incidents all at once, then verdicts one by one."""
    import pandas as pd

    when = frame["event_time"].fillna(frame["arrival_time"])
    seconds = _micros(when) / 1e6
    truth = np.full(len(frame), np.nan)
    known = np.full(len(frame), np.nan)
    incidents = said[said["kind"] == "incident"]
    covered = said[said["kind"] == "covered"]
    everywhere = _covered(covered[covered["resource_id"].isna()])
    now = moment.timestamp()
    reported: dict[Any, pd.DataFrame] = dict(list(incidents.groupby("resource_id")))
    spoken: dict[Any, pd.DataFrame] = dict(list(covered[covered["resource_id"].notna()].groupby("resource_id")))
    for name, rows in frame.groupby("resource_id").indices.items():
        places = np.asarray(rows)
        mine = reported.get(name)
        until, since = max(everywhere, _covered(spoken.get(name)), key=lambda c: c[0])
        if mine is not None and now > until:
            # Whoever reports some incidents of a resource reports all of them.
            until, since = now, float(_micros(mine["at"]).min()) / 1e6
        found = _from_incidents(seconds[places], ahead[places], mine, until, since)
        truth[places], known[places] = found
    for place, row in enumerate(_verdicts(frame, said)):
        if row is not None:
            truth[place], known[place] = _FAILED[row.verdict], row.at.timestamp()
    stamps = pd.to_datetime(pd.Series(known * 1e6).round().astype("Int64"), unit="us", utc=True)
    return pd.Series(truth, index=frame.index), stamps.astype("datetime64[us, UTC]").set_axis(frame.index)


def _verdicts(frame: pd.DataFrame, said: pd.DataFrame) -> list[Any]:
    verdicts = _by_request(said, ("verdict",))
    if not verdicts:
        return []
    return [_on(verdicts, request_id, row) for request_id, row in zip(frame["request_id"], frame["row"], strict=True)]


def _micros(times: pd.Series) -> np.ndarray:
    """Return microseconds since 1970, (n,), float64, NaN for NaT."""
    stamps = times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64).astype(float))


def _covered(statements: pd.DataFrame | None) -> tuple[float, float]:
    """Return until when incidents have been reported, and since when that is known; seconds."""
    if statements is None or len(statements) == 0:
        return -np.inf, -np.inf
    best = int(np.argmax(_micros(statements["end"])))
    return float(_micros(statements["end"])[best]) / 1e6, float(_micros(statements["at"])[best]) / 1e6


def _from_incidents(
    when: np.ndarray, ahead: np.ndarray, incidents: pd.DataFrame | None, until: float, since: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and since when it is known of the answers of one resource, both (n,)."""
    ends = when + ahead
    quiet = ends <= until
    truth = np.where(quiet, 0.0, np.nan)
    known = np.where(quiet, np.maximum(ends, since), np.nan)
    if incidents is None:
        return truth, known
    order = np.argsort(_micros(incidents["start"]), kind="stable")
    starts, stops, said = ((_micros(incidents[name]) / 1e6)[order] for name in ("start", "end", "at"))
    following = np.searchsorted(starts, when, side="right")
    has = following < len(starts)
    place = np.minimum(following, len(starts) - 1)
    soon = has & (starts[place] <= ends)
    truth[soon], known[soon] = 1.0, said[place][soon]
    # An incident without an end is over at its next, or not yet.
    latest = np.fmax.accumulate(np.where(np.isnan(stops), starts, stops))
    inside = (following > 0) & (when < latest[np.maximum(following - 1, 0)])
    truth[inside], known[inside] = np.nan, np.nan
    return truth, known
