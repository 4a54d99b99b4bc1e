"""Why did one request get its answer? What the model saw, what drove it, what it resembles, what other versions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aiops_core import journal, settings, tracking
from aiops_core.errors import UsageError
from aiops_core.facts import MODELS, TASKS
from aiops_core.markup import html_table
from aiops_core.replay.answers import answers
from aiops_core.replay.run import answering_version
from aiops_core.servable import GOLDEN, Servable

__all__ = ["Record", "drivers", "find", "neighbours", "newest", "others", "said_of", "seen", "tell"]

#: Nearest examples that are shown.
NEAREST = 5


@dataclass(frozen=True)
class Record:
    """One answer of the journal and the version that gave it.

    Attributes
    ----------
    task : str
    answer : Series
        Columns of the journal and ``truth``.
    model : Servable
    meaning : mapping
        What the inputs mean, from `aiops_core.journal.versions`.
    state : Path
    """

    task: str
    answer: pd.Series
    model: Servable
    meaning: Mapping[str, Any]
    state: Path

    @property
    def values(self) -> np.ndarray:
        """What the model saw, (steps, n_features), float32, raw units."""
        return journal.inputs_of(self.answer.to_frame().T, len(self.names))[0]

    @property
    def names(self) -> list[str]:
        """Names of the features, in the order of `values`."""
        return [str(feature["name"]) for feature in self.meaning["features"]]

    def _repr_html_(self) -> str:
        hidden = ("inputs", "probabilities", "shadow_probabilities", "forecast", "low", "high", "shadow_forecast")
        rows = {k: v for k, v in self.answer.items() if k not in hidden and not _nothing(v)}
        return html_table(
            f"{MODELS[self.task]}: answer {self.answer['request_id']}", {str(k): v for k, v in rows.items()}
        )


def _nothing(value: Any) -> bool:
    return value is None or (np.ndim(value) == 0 and bool(pd.isna(value))) or np.ndim(value) > 0


def find(request_id: str, row: int = 0, *, target: str | None = None, state: Path | None = None) -> Record:
    """Find an answer in the journal, whichever task it is of.

    Parameters
    ----------
    request_id : str
    row : int, default 0
        Place in a batch.
    target : str, optional
        Of a forecast; by default the first.
    state : Path, optional
        State folder; by default that of the settings.

    Raises
    ------
    UsageError
        If there is none, a rule gave it, or its inputs were not kept.
    """
    state = state or settings.load().state_dir
    for task in TASKS:
        frame = journal.labelled(state, task)
        mine = frame[(frame["request_id"] == request_id) & (frame["row"].eq(row) | (task == "capacity"))]
        if target is not None and task == "capacity":
            mine = mine[mine["target"] == target]
        if len(mine):
            break
    else:
        raise UsageError(f"the journal holds no answer '{request_id}' with row {row}")
    answer = mine.iloc[0]
    meaning = journal.versions(state, task).get(int(answer["version"]))
    if int(answer["version"]) == 0 or meaning is None:
        raise UsageError(
            f"answer '{request_id}' was given by rules, which look at one snapshot: there is no model to ask"
        )
    if not isinstance(answer["inputs"], bytes) or not answer["steps"]:
        raise UsageError(f"the inputs of answer '{request_id}' were not kept (AIOPS_JOURNAL_DROP)")
    return Record(task, answer, answering_version(task, int(answer["version"])), meaning, state)


def newest(state: Path | None = None) -> str:
    """Return the ``request_id`` of the newest answer of a trained model.

    Raises
    ------
    UsageError
        If the journal holds none.
    """
    state = state or settings.load().state_dir
    found = []
    for task in TASKS:
        frame = journal.read(state, task, columns=["request_id", "arrival_time", "version"])
        found += [(row.arrival_time, row.request_id) for row in frame[frame["version"] > 0].tail(1).itertuples()]
    if not found:
        raise UsageError(f"the journal of {state} holds no answer of a trained model yet")
    return str(max(found)[1])


def seen(record: Record) -> pd.DataFrame:
    """Return what the model saw: a window or history with its newest row last, or one row of features beside what is usual.

    Categories are shown by their words.
    """
    if record.task == "threat":
        facts = {f["name"]: f.get("reference", {}) for f in record.model.card["features"]}
        rows = []
        for feature, code in zip(record.meaning["features"], record.values[0], strict=True):
            words = feature.get("categories")
            usual = facts.get(feature["name"], {})
            ordinary = usual.get("ordinary")
            if words is not None:
                ordinary = None if ordinary is None else words[int(ordinary)]
                code = words[int(code)] if code == code and 0 <= code < len(words) else None
            rows.append(
                {"feature": feature["name"], "value": code, "ordinary": ordinary, "p01": usual.get("p01"), "p99": usual.get("p99")}
            )  # fmt: skip
        return pd.DataFrame(rows).set_index("feature")
    step = pd.Timedelta(seconds=int(record.meaning.get("step_seconds") or 1))
    last = record.answer["event_time"]
    count = len(record.values)
    index = range(1 - count, 1) if last is pd.NaT else [last - step * (count - 1 - i) for i in range(count)]
    return pd.DataFrame(record.values, columns=record.names, index=pd.Index(index, name="step"))


def drivers(record: Record, top: int = 5) -> pd.DataFrame:
    """Return what moved the answer, strongest first: each feature's contribution against its reference."""
    model: Any = record.model
    last = None if pd.isna(record.answer["event_time"]) else np.array([_naive(record.answer["event_time"])])
    if record.task == "failure":
        found = model.explain(record.values, top=top, last=last, resource=record.answer["resource_id"])
    elif record.task == "threat":
        found = model.explain(record.values[0], top=top)
    else:
        target = str(record.answer["target"])
        history = {name: record.values[:, j] for j, name in enumerate(record.names)}
        beside = {name: values for name, values in history.items() if name in model.exogenous and name != target}
        step = min(model.horizon, int(record.meaning.get("season") or 1))
        found = model.explain(history[target], last, step, target, top=top, exogenous=beside or None)
    return pd.DataFrame(list(found), columns=["feature", "value", "contribution"])


def _naive(time: Any) -> np.datetime64:
    return np.datetime64(pd.Timestamp(time).tz_convert("UTC").tz_localize(None), "s")


def neighbours(record: Record, n: int = NEAREST) -> pd.DataFrame:
    """Return the examples that travel with the model which the record resembles most, and what is expected of them.

    The training rows themselves are not kept; a servable carries some dozens of them as golden examples. The distance is the
    mean difference of features in units of their spread in training, of the newest row and of the mean of a window.
    """
    with np.load(record.model.folder / GOLDEN, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = {"failure": "windows", "threat": "X", "capacity": "history"}[record.task]
    examples = arrays[name]
    if record.task == "capacity":
        own = record.values[:, record.names.index(str(record.answer["target"]))]
        have, mine = (_shape(values) for values in (examples, own[None]))
        spread = np.ones(1)
    else:
        have, mine = (
            _features(values) for values in (examples, record.values[None] if examples.ndim == 3 else record.values)
        )
        spread = np.tile(_spread(record.model), have.shape[1] // len(record.model.features))
    gap = np.abs(have - mine) / spread
    known = np.isfinite(gap)
    # With nothing in common to compare, an example is as far away as can be.
    distance = np.where(
        known.any(axis=1), np.where(known, gap, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.inf
    )
    order = np.argsort(distance, kind="stable")[:n]
    frame = pd.DataFrame({"example": order, "distance": distance[order]})
    expected = arrays["expected_forecast" if record.task == "capacity" else "expected_probability"][order]
    if record.task == "threat":
        model: Any = record.model
        frame["said"] = np.array(model.classes, dtype=object)[model.decide(expected)]
        frame["probability"] = expected.max(axis=1)
    elif record.task == "failure":
        frame["probability"] = expected.reshape(len(order), -1)[:, 0]
    else:
        frame["forecast"] = expected.reshape(len(order), -1, 3)[:, -1, 1]
    return frame.set_index("example")


def _features(values: np.ndarray) -> np.ndarray:
    """Return one row an example: its features, of a window the newest ones and their means."""
    if values.ndim == 2:
        return np.asarray(values, dtype=float)
    with np.errstate(all="ignore"):
        count = np.maximum((~np.isnan(values)).sum(axis=1), 1)
        return np.concatenate([values[:, -1], np.nansum(values, axis=1) / count], axis=1).astype(float)


def _shape(histories: np.ndarray, steps: int = 24) -> np.ndarray:
    """Return the last steps of histories, each in units of its own spread."""
    last = np.full((len(histories), steps), np.nan)
    width = min(steps, histories.shape[1])
    last[:, -width:] = histories[:, -width:]
    level = np.nanmean(last, axis=1, keepdims=True)
    return np.asarray((last - level) / np.maximum(np.nanstd(last, axis=1, keepdims=True), 1e-9))


def _spread(model: Servable) -> np.ndarray:
    """Return the spread of each feature in training, between its first and last hundredth where that is known."""
    found = []
    for feature in model.card["features"]:
        reference = feature.get("reference") or {}
        wide = (reference.get("p99") or 0) - (reference.get("p01") or 0)
        found.append(max(float(wide) or float(reference.get("std") or 0), 1e-9))
    return np.array(found)


def others(record: Record, versions: Sequence[int] = ()) -> pd.DataFrame:
    """Return what versions say to the same inputs; by default all that are registered."""
    name = MODELS[record.task]
    wanted = list(versions) or [v.version for v in tracking.list_models() if v.name == name]
    frame = record.answer.to_frame().T.astype({"version": int, "steps": int})
    frame["event_time"] = pd.to_datetime(frame["event_time"], utc=True)
    rows = []
    for version in wanted:
        found = answers(answering_version(record.task, version), frame, {int(record.answer["version"]): record.meaning})
        rows.append({"version": version, **found.iloc[0][["said", "score", "alarm"]].to_dict()})
    return pd.DataFrame(rows).set_index("version")


def said_of(record: Record) -> pd.DataFrame:
    """Return what has been said of the answer so far."""
    said = journal.feedback(record.state, record.task)
    mine = said[said["request_id"] == record.answer["request_id"]]
    shown: pd.DataFrame = mine[["kind", "verdict", "label", "who", "at"]].reset_index(drop=True)
    return shown


def tell(record: Record, verdict: str = "", *, label: str = "", who: str = "notebook") -> pd.DataFrame:
    """Say what is true of the answer, a verdict or a class; returns what is said of it now.

    Raises
    ------
    DataError
        If the verdict is unknown.
    """
    about = {"request_id": record.answer["request_id"], "row": int(record.answer["row"])}
    entries: list[dict[str, Any]] = []
    if verdict:
        entries.append({"kind": "verdict", **about, "verdict": verdict, "task": record.task})
    if label:
        entries.append({"kind": "class", **about, "label": label})
    if entries:
        journal.add_feedback(record.state, entries, who=who)
    return said_of(record)
