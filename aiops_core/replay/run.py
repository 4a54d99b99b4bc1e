"""``aiops replay``: the journal's inputs of a period, answered again by each version."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aiops_core import files, journal, settings, tracking
from aiops_core.errors import DataError, UsageError
from aiops_core.facts import MODELS, TASKS
from aiops_core.replay import alerts, page
from aiops_core.replay.answers import LIMIT, answers, usable
from aiops_core.replay.measures import measured
from aiops_core.servable import Servable, as_answering

__all__ = ["Options", "answering_version", "loaded_version", "replay"]

SCHEMA_VERSION = 1
#: Rows on which versions differ, and alerts, that the report names.
MOST = 200
#: How long an alert of a task without a horizon stands.
ATTACK_HOURS = 1.0


@dataclass(frozen=True)
class Options:
    """What is replayed.

    Attributes
    ----------
    start, end : str
        Event time, ``start <= time < end``.
    versions : tuple of int
        None means the champion and, where there is one, the newest other version.
    task : {"failure", "threat", "capacity"}
    incidents : Path, optional
        CSV with ``resource_id, start, end`` and optional ``kind``, in addition to those that were fed back.
    cost_missed, cost_false_alarm : float
    limit : float
        Of forecasts.
    """

    start: str
    end: str
    versions: tuple[int, ...] = ()
    task: str = "failure"
    incidents: Path | None = None
    cost_missed: float = 10.0
    cost_false_alarm: float = 1.0
    limit: float = LIMIT


def replay(options: Options, out: Path, *, state: Path | None = None) -> dict[str, Any]:
    """Replay a period and write ``report.json`` and ``report.html``.

    Parameters
    ----------
    options : Options
    out : Path
        Folder of the report.
    state : Path, optional
        State folder; by default that of the settings.

    Returns
    -------
    dict
        The content of ``report.json``.

    Raises
    ------
    UsageError
        If an option cannot be used, or the journal holds nothing of the period.
    TrackingError, ServableError
        If a version does not exist or cannot be used.
    """
    state = state or settings.load().state_dir
    task = options.task
    if task not in TASKS:
        raise UsageError(f"--task: unknown task '{task}'; known: {', '.join(TASKS)}")
    if out.exists() and any(out.iterdir()) and not (out / "report.json").is_file():
        raise UsageError(f"--out {out} holds files that are not a report; name another folder")
    since, until = _times(options)
    known = journal.versions(state, task)
    frame = journal.labelled(state, task, since=since, until=until)
    frame = frame.drop_duplicates(["request_id", "row", *(["target"] if task == "capacity" else [])])
    kept = frame[usable(frame, known)].copy()
    if not len(kept):
        raise UsageError(
            f"the journal holds no answer of a trained {task} model with its inputs from {options.start} to {options.end}"
        )
    kept["time"] = kept["event_time"].fillna(kept["arrival_time"])
    kept["resource_id"] = kept["resource_id"].fillna("(not named)")
    kept = kept.sort_values("time", kind="stable").reset_index(drop=True)
    models = {version: answering_version(task, version) for version in _versions(task, options.versions)}
    said = {v: answers(model, kept, known, limit=options.limit) for v, model in models.items()}
    incidents = _incidents(state, options, kept)
    content = {
        "schema_version": SCHEMA_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "options": {**asdict(options), "incidents": str(options.incidents) if options.incidents else None},
        "task": task,
        "from": str(since),
        "to": str(until),
        "records": len(kept),
        "left_out": len(frame) - len(kept),
        "resources": int(kept["resource_id"].nunique()),
        **_compared(options, models, kept, said, incidents),
    }
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "report.json", content)
    page.render(out, kept, said, incidents)
    return content


def loaded_version(task: str, version: int) -> Servable:
    """Return the verified servable of a registered version, from the copy in the state folder if that is whole."""
    name = MODELS[task]
    state = files.private_folder(settings.load().state_dir)
    with files.private_files():
        return tracking.fetch_verified(name, version, state / "servables" / f"{name}-{version}")


def answering_version(task: str, version: int) -> Servable:
    """Return the servable of a registered version as it answers now, with its correction from feedback."""
    return as_answering(loaded_version(task, version), tracking.get_version(MODELS[task], version).recalibration)


def _times(options: Options) -> tuple[pd.Timestamp, pd.Timestamp]:
    found = []
    for name, text in (("START", options.start), ("END", options.end)):
        try:
            stamp = pd.Timestamp(text)
        except ValueError:
            raise UsageError(f"{name} '{text}' is no time; write it like 2026-01-01T00:00Z") from None
        found.append(stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC"))
    if found[0] >= found[1]:
        raise UsageError(f"START {options.start} must lie before END {options.end}")
    return found[0], found[1]


def _versions(task: str, wanted: Sequence[int]) -> list[int]:
    if wanted:
        return list(dict.fromkeys(wanted))
    name = MODELS[task]
    champion = tracking.champions().get(name)
    if champion is None:
        raise UsageError(f"model '{name}' has no champion: name versions, such as --versions 1,2")
    others = [v.version for v in tracking.list_models() if v.name == name and v.version != champion.version]
    return [champion.version, *others[:1]]


def _incidents(state: Path, options: Options, kept: pd.DataFrame) -> pd.DataFrame:
    """Return incidents that were fed back or given, of resources of the journal, that begin near the period."""
    said = journal.feedback(state, "failure")
    parts = [said[said["kind"] == "incident"][["resource_id", "start", "end"]]]
    if options.incidents is not None:
        try:
            given = pd.read_csv(options.incidents)
        except (OSError, ValueError) as error:
            raise UsageError(f"--incidents {options.incidents} cannot be read ({error})") from error
        for column in ("resource_id", "start"):
            if column not in given:
                raise DataError("is missing", table="incidents", column=column)
        if "end" not in given:
            given["end"] = None
        given["resource_id"] = given["resource_id"].astype(str)
        for column in ("start", "end"):
            given[column] = pd.to_datetime(given[column], utc=True, errors="coerce", format="ISO8601")
        if given["start"].isna().any():
            raise DataError("holds what is no time", table="incidents", column="start")
        parts.append(given[["resource_id", "start", "end"]])
    found = pd.concat([part.astype({"resource_id": object}) for part in parts], ignore_index=True)
    found = found.drop_duplicates(["resource_id", "start"])
    mine = found["resource_id"].isin(kept["resource_id"]) & (found["start"] > kept["time"].min())
    near: pd.DataFrame = found[mine].sort_values("start", kind="stable").reset_index(drop=True)
    return near


def _valid(model: Servable) -> pd.Timedelta:
    """Return how long an alert of a version stands."""
    horizon, step = getattr(model, "horizon", None), getattr(model, "step_seconds", None)
    return pd.Timedelta(seconds=horizon * step) if horizon and step else pd.Timedelta(hours=ATTACK_HOURS)


def _compared(
    options: Options,
    models: Mapping[int, Servable],
    kept: pd.DataFrame,
    said: Mapping[int, pd.DataFrame],
    incidents: pd.DataFrame,
) -> dict[str, Any]:
    """Return what each version would have done, and where they differ."""
    costs = {"cost_missed": options.cost_missed, "cost_false_alarm": options.cost_false_alarm}
    days = max((kept["time"].max() - kept["time"].min()).total_seconds() / 86_400, 1e-9)
    versions, raised_by, before = [], [], {}
    for version, model in models.items():
        rows = kept[["resource_id", "time"]].assign(alarm=said[version]["alarm"])
        valid = _valid(model)
        raised = alerts.alerts(rows, valid)
        before[version] = alerts.announced(rows, incidents, valid)
        counted = alerts.outcome(raised, before[version], incidents, valid, **costs)
        if options.task != "failure":
            # Nobody reports attacks or full disks as incidents: rows with a truth tell.
            counted = {"alerts": len(raised)}
        lineage = model.card.get("lineage") or {}
        versions.append(
            {
                "version": version,
                "trained_on": lineage.get("title"),
                "threshold": getattr(model, "threshold", None),
                "alarms": int(said[version]["alarm"].sum()),
                "alerts_per_day": len(raised) / days,
                **counted,
                **measured(options.task, kept, said[version], **costs),
                **_as_answered(options.task, kept, said[version], version),
            }
        )
        shown = raised.head(MOST).assign(start=lambda frame: frame["start"].map(str), version=version)
        raised_by += shown.to_dict("records")
    stories = [
        {
            "resource_id": row["resource_id"],
            "start": str(row["start"]),
            "end": None if row["end"] is pd.NaT else str(row["end"]),
            "lead_hours": {str(v): _number(found["lead_hours"].iloc[i]) for v, found in before.items()},
            "asked": bool(any(found["asked"].iloc[i] for found in before.values())),
        }
        for i, row in enumerate(incidents.to_dict("records"))
    ]
    return {"versions": versions, "incidents": stories, "alerts": raised_by, "differences": _differences(kept, said)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _as_answered(task: str, kept: pd.DataFrame, said: pd.DataFrame, version: int) -> dict[str, Any]:
    """Return how far a replayed answer is from the recorded one of the same version: nothing but rounding."""
    mine = kept["version"] == version
    if task != "failure" or not mine.any():
        return {"answered": int(mine.sum()), "largest_difference": None}
    gap = (said.loc[mine, "score"] - kept.loc[mine, "probability"]).abs().max()
    return {"answered": int(mine.sum()), "largest_difference": float(gap)}


def _differences(kept: pd.DataFrame, said: Mapping[int, pd.DataFrame]) -> dict[str, Any]:
    """Return the records on which versions say different things, those furthest apart first."""
    words = pd.DataFrame({str(v): frame["said"] for v, frame in said.items()})
    scores = pd.DataFrame({str(v): frame["score"] for v, frame in said.items()})
    apart = words.nunique(axis=1) > 1
    spread = (scores.max(axis=1) - scores.min(axis=1))[apart].sort_values(ascending=False, kind="stable")
    rows = []
    for place in spread.index[:MOST]:
        record = kept.loc[place]
        rows.append(
            {
                "request_id": record["request_id"],
                "row": int(record["row"]),
                "resource_id": record["resource_id"],
                "time": str(record["time"]),
                "truth": _truth(record["truth"]),
                "said": words.loc[place].to_dict(),
                "score": {v: _number(float(s)) for v, s in scores.loc[place].items()},
            }
        )
    return {"records": int(apart.sum()), "rows": rows}


def _truth(value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return None
    return None if value is None or value != value else value
