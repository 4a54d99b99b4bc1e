"""What a version says to the inputs of journal records, whichever version they were recorded for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core import journal
from aiops_core.servable import Servable
from aiops_core.servable.capacity import CapacityServable
from aiops_core.servable.failure import FailureServable, fit_to_window
from aiops_core.servable.threat import NORMAL, ThreatServable

__all__ = ["answers", "usable"]

#: Records that are answered at a time.
CHUNK = 4096
#: A category that the recording version did not know.
UNKNOWN = "(unknown)"
#: In % of capacity, as the service warns.
LIMIT = 85.0


def usable(frame: pd.DataFrame, known: Mapping[int, Mapping[str, Any]]) -> pd.Series:
    """Return which records can be replayed, by their index: answered by a trained version, with inputs that were kept."""
    trained = frame["version"].isin([version for version in known if version > 0])
    return trained & frame["inputs"].notna() & frame["steps"].gt(0)


def answers(
    loaded: Servable, frame: pd.DataFrame, known: Mapping[int, Mapping[str, Any]], *, limit: float = LIMIT
) -> pd.DataFrame:
    """Let a version answer records.

    Parameters
    ----------
    loaded : Servable
    frame : DataFrame
        Records of the journal that are `usable`.
    known : mapping of int to mapping
        What the inputs of each recorded version mean, `aiops_core.journal.versions`.
    limit : float, default 85
        Of a forecast, in its units: one that reaches it is an alarm.

    Returns
    -------
    DataFrame
        By the index of ``frame``: ``score`` (probability of an incident, of any attack, or the highest median of a
        forecast), ``alarm`` (bool) and ``said``; of forecasts also ``forecast``, a list. Features that the recording version
        did not keep are missing; a target that the version does not forecast has no score.
    """
    say = {FailureServable: _failure, ThreatServable: _threat, CapacityServable: _capacity}[type(loaded)]
    parts = []
    for version, rows in frame.groupby("version", sort=False):
        meaning = known[int(str(version))]
        for at in range(0, len(rows), CHUNK):
            parts.append(say(loaded, rows.iloc[at : at + CHUNK], meaning, limit))
    columns = ["score", "alarm", "said"]
    return pd.concat(parts).reindex(frame.index) if parts else pd.DataFrame(columns=columns, index=frame.index)


def _columns(rows: pd.DataFrame, meaning: Mapping[str, Any]) -> tuple[list[np.ndarray], list[str]]:
    names = [str(feature["name"]) for feature in meaning["features"]]
    return journal.inputs_of(rows, len(names)), names


def _times(rows: pd.DataFrame) -> np.ndarray:
    """Return the newest time that the model saw, (n,), datetime64[s]; NaT where the request had none."""
    naive = rows["event_time"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    return np.asarray(naive.astype("datetime64[s]"))


def _failure(loaded: Any, rows: pd.DataFrame, meaning: Mapping[str, Any], limit: float) -> pd.DataFrame:
    arrays, names = _columns(rows, meaning)
    windows = np.full((len(rows), loaded.window, len(loaded.features)), np.nan, dtype=np.float32)
    here = [(i, names.index(name)) for i, name in enumerate(loaded.features) if name in names]
    for row, values in enumerate(arrays):
        fitted = fit_to_window(values[None], loaded.window)[0]
        for i, j in here:
            windows[row, :, i] = fitted[:, j]
    # Resources without a name are of no fleet that the model knows.
    score = loaded.predict(windows, _times(rows), rows["resource_id"].fillna("").tolist())
    alarm = loaded.decide(score)
    return pd.DataFrame({"score": score, "alarm": alarm, "said": np.where(alarm, "alarm", "quiet")}, index=rows.index)


def _threat(loaded: Any, rows: pd.DataFrame, meaning: Mapping[str, Any], limit: float) -> pd.DataFrame:
    arrays, names = _columns(rows, meaning)
    table = pd.DataFrame(np.concatenate(arrays), columns=names).astype(object)
    table = table.where(table.notna(), None)
    for feature in meaning["features"]:
        if "categories" in feature:
            table[feature["name"]] = [_category(code, feature["categories"]) for code in table[feature["name"]]]
    records = table[[name for name in loaded.features if name in names]].to_dict("records")
    probability = loaded.predict(loaded.encode(records))
    said = np.array(loaded.classes, dtype=object)[loaded.decide(probability)]
    normal = probability[:, loaded.classes.index(NORMAL)] if NORMAL in loaded.classes else np.zeros(len(probability))
    return pd.DataFrame({"score": 1 - normal, "alarm": said != NORMAL, "said": said}, index=rows.index)


def _category(code: Any, categories: list[str]) -> str | None:
    if code is None:
        return None
    return categories[int(code)] if 0 <= code < len(categories) else UNKNOWN


def _capacity(loaded: Any, rows: pd.DataFrame, meaning: Mapping[str, Any], limit: float) -> pd.DataFrame:
    arrays, names = _columns(rows, meaning)
    steps = np.arange(1, loaded.horizon + 1)
    found: list[dict[str, Any]] = []
    for values, target, last in zip(arrays, rows["target"], _times(rows), strict=True):
        if target not in loaded.targets or target not in names:
            found.append({"score": np.nan, "alarm": False, "said": "not forecast", "forecast": None})
            continue
        history = {name: values[None, :, j] for j, name in enumerate(names)}
        others = {name: history[name] for name in loaded.exogenous if name != target and name in history}
        median = loaded.forecast(history[target], np.array([last]), steps, target, others or None)[0, :, 1]
        over = np.flatnonzero(median >= limit)
        said = f"reaches {limit:g} in {over[0] + 1} steps" if len(over) else "stays below"
        found.append(
            {"score": float(median.max()), "alarm": bool(len(over)), "said": said, "forecast": median.tolist()}
        )
    return pd.DataFrame(found, index=rows.index)
