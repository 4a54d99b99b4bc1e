"""What one version of a model was asked and answered, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.journal import inputs_of
from aiops_core.tasks.cards import window_statistics

#: Steps of the newest input of a resource in which a sensor's life is looked for, and those that must be known.
RECENT, LEAST = 24, 10
DAY = 86_400
#: What a resource is called whose name a request did not give.
UNNAMED = "answer "


@dataclass(frozen=True)
class Traffic:
    """Answers of one version, sorted by time.

    Attributes
    ----------
    task : str
    card : mapping
        Of the version that answered.
    time : ndarray, (n,), datetime64[s]
        UTC, of the newest row that the model saw.
    day : ndarray, (n,), int
        Days before the newest answer: 0 are the last 24 hours.
    resource : ndarray, (n,), int
        Index into ``names``; where a request named none, its own.
    names : list of str
    features : ndarray, (rows, n_features), float64
        What was measured, NaN where missing: the newest row of each input; of a history, those of its last day.
    row_resource, row_day : ndarray, (rows,), int
        As ``resource`` and ``day``, of these rows.
    score : ndarray, (n,)
        Probability of an incident; of the class that was answered; width of the band in deviations of the target.
    alarm : ndarray, (n,), bool
    mean, spread : ndarray, (n, n_features), or None
        Of the windows; failure only.
    recent : ndarray, (resources, steps, n_features)
        The newest input of each resource, its last steps.
    truth : dict of str to ndarray
        ``known`` (n,) bool and ``right`` or, for failure, ``incident``; for capacity ``error`` and ``expected``, the mean
        error over known steps and that of validation at these steps, and ``inside``, the share of these in the band.
    label : ndarray, (n,), or None
        Class that was answered, an index into the card's; threat only.
    """

    task: str
    card: Mapping[str, Any]
    time: np.ndarray
    day: np.ndarray
    resource: np.ndarray
    names: list[str]
    features: np.ndarray
    row_resource: np.ndarray
    row_day: np.ndarray
    score: np.ndarray
    alarm: np.ndarray
    mean: np.ndarray | None = None
    spread: np.ndarray | None = None
    recent: np.ndarray | None = None
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    label: np.ndarray | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the features, as in the card."""
        return [feature["name"] for feature in self.card["features"]]

    @property
    def named(self) -> bool:
        """Whether requests said whose rows they were."""
        return bool(self.names) and not all(name.startswith(UNNAMED) for name in self.names)

    @property
    def days(self) -> int:
        """Days that the answers reach back."""
        return int(self.day.max()) + 1 if len(self.day) else 0


def days_before(time: np.ndarray, until: np.datetime64 | None = None) -> np.ndarray:
    """Return how many whole days before the newest time, or before ``until``, each lies; (n,), int."""
    if not len(time):
        return np.zeros(0, dtype=np.int64)
    end = time.max() if until is None else until
    return np.asarray((end - time).astype("timedelta64[s]").astype(np.int64) // DAY)


def traffic_of(frame: pd.DataFrame, card: Mapping[str, Any]) -> Traffic:
    """Turn journal records of one version into `Traffic`.

    Parameters
    ----------
    frame : DataFrame
        Records of one task and version, with the columns of the journal and, where known, ``truth``.
    card : mapping

    Returns
    -------
    Traffic
    """
    stamps = frame["event_time"].fillna(frame["arrival_time"])
    order = np.argsort(stamps.to_numpy(), kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    time = stamps.iloc[order].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[s]")
    named = frame["resource_id"].fillna(UNNAMED + pd.Series(np.arange(len(frame)).astype(str))).astype(str)
    resource, names = pd.factorize(named)
    width = len(card["features"])
    inputs = inputs_of(frame, width)
    day = days_before(time)
    measured, row = _measured(inputs, time, day, resource, card)
    score, alarm, extra = _answers(frame, card)
    mean = spread = None
    if card["task"] == "failure" and len(inputs):
        mean, spread = window_statistics(_stacked(inputs, int(card["window"]), width))
    return Traffic(
        task=card["task"],
        card=card,
        time=time,
        day=day,
        resource=resource,
        names=list(names),
        features=measured,
        row_resource=resource[row],
        row_day=day[row],
        score=score,
        alarm=alarm,
        mean=mean,
        spread=spread,
        recent=_recent(inputs, resource, len(names), width) if card["task"] != "threat" else None,
        truth=_truth(frame, card),
        label=extra,
    )


def _measured(
    inputs: list[np.ndarray], time: np.ndarray, day: np.ndarray, resource: np.ndarray, card: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that were measured, each once, and the answer that each belongs to.

    Forecasts may be asked for at the same hour every day: only the last day of a history shows all hours.
    """
    width = len(card["features"])
    if card["task"] == "capacity":
        # The newest answer of each resource and day; the targets of one forecast hold the same history.
        key = resource * (int(day.max(initial=0)) + 1) + day
        row = np.sort(len(key) - 1 - np.unique(key[::-1], return_index=True)[1])
        steps = max(1, DAY // int(card["step_seconds"]))
    else:
        # A question that is asked twice holds the same row.
        again = pd.DataFrame({"r": resource, "t": time}).duplicated().to_numpy()
        row, steps = np.flatnonzero(~again), 1
    # Nothing is left of inputs that must not be stored.
    values = _stacked([inputs[i] for i in row], steps, width).astype(np.float64).reshape(-1, width)
    return values, np.repeat(row, steps)


def _stacked(inputs: list[np.ndarray], steps: int, width: int) -> np.ndarray:
    """Return inputs as windows of one length, padded on the left."""
    out = np.full((len(inputs), steps, width), np.nan, dtype=np.float32)
    for i, x in enumerate(inputs):
        kept = x[-steps:]
        out[i, steps - len(kept) :] = kept  # none: the row stays unknown
    return out


def _recent(inputs: list[np.ndarray], resource: np.ndarray, count: int, width: int) -> np.ndarray:
    last = np.zeros(count, dtype=np.int64)
    last[resource] = np.arange(len(resource))
    return _stacked([inputs[i] for i in last], RECENT, width)


def _answers(frame: pd.DataFrame, card: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return score, alarm and class of the answers."""
    if card["task"] != "capacity":
        score = frame["probability"].to_numpy(dtype=np.float64)
        alarm = frame["alarm"].to_numpy(dtype=bool)
        if card["task"] == "failure":
            return score, alarm, None
        place = {name: i for i, name in enumerate(card["classes"])}
        return score, alarm, frame["threat_type"].map(place).fillna(-1).to_numpy(dtype=np.int64)
    low, high = ([np.asarray(x, dtype=np.float64) for x in frame[name]] for name in ("low", "high"))
    spread = spreads(card)
    score = np.full(len(frame), np.nan)
    for i, target in enumerate(frame["target"]):
        steps = near_steps(card, len(low[i]))
        if len(steps):
            score[i] = (high[i][steps - 1] - low[i][steps - 1]).mean() / spread[target]
    return score, np.zeros(len(frame), dtype=bool), None


def spreads(card: Mapping[str, Any]) -> dict[str, float]:
    """Return the standard deviation of each target in training, above 0."""
    return {f["name"]: max(f["reference"]["std"], 1e-9) for f in card["features"]}


def near_steps(card: Mapping[str, Any], horizon: int) -> np.ndarray:
    """Return the scored steps up to one season that a forecast of this horizon holds, or the first of them."""
    scored = card["scored_steps"]
    # Cards of earlier versions say "1 to 24" where every step was scored.
    steps = np.arange(1, int(scored.split()[-1]) + 1) if isinstance(scored, str) else np.asarray(scored, dtype=np.int64)
    near = steps[(steps <= card["season"]) | (steps == steps.min())]
    return np.asarray(near[near <= horizon])


def _truth(frame: pd.DataFrame, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what became known of the answers."""
    if "truth" not in frame or not len(frame):
        return {}
    if card["task"] == "failure":
        found = frame["truth"].to_numpy(dtype=np.float64)
        return {"known": ~np.isnan(found), "incident": np.nan_to_num(found) > 0}
    if card["task"] == "threat":
        known = frame["truth"].notna().to_numpy()
        return {"known": known, "right": known & (frame["truth"] == frame["threat_type"]).to_numpy(dtype=bool)}
    spread, kept = spreads(card), card["watch"]["steps"]
    steps, usual = np.asarray(kept["step"], dtype=np.int64), np.asarray(kept["error"])
    error, expected, inside = np.full((3, len(frame)), np.nan)
    columns = (frame[name] for name in ("target", "truth", "forecast", "low", "high"))
    for i, (target, truth, forecast, low, high) in enumerate(zip(*columns, strict=True)):
        if truth is None or np.ndim(truth) == 0:
            continue
        y, p50, p10, p90 = (np.asarray(x, dtype=np.float64) for x in (truth, forecast, low, high))
        asked = np.flatnonzero(steps <= min(len(y), len(p50)))
        asked = asked[~np.isnan(y[steps[asked] - 1])]
        if len(asked):
            at = steps[asked] - 1
            error[i] = np.abs(p50[at] - y[at]).mean() / spread[target]
            expected[i] = usual[asked].mean()
            inside[i] = ((y[at] >= p10[at]) & (y[at] <= p90[at])).mean()
    return {"known": ~np.isnan(error), "error": error, "expected": expected, "inside": inside}
