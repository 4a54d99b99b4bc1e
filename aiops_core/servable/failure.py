"""The failure servable: windows of raw metrics in, calibrated incident probabilities out.

Scaling, missing values, padding and every derived channel live inside the ONNX graph, so training and serving
cannot differ in them. This module adds what needs no graph: the shape of a window, the clock, calibration,
decisions and explanations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core.errors import ServableError
from aiops_core.servable.folder import Driver, Servable
from aiops_core.servable.recalibration import Recalibration

GRAPH = "lstm"
#: Logits of the trees, (n, n_families), in the order of the members after the first.
TREES = "trees"
#: Logits of past incidents, (n,), from places in a table of resources and times of the day; the last member, if any.
RECURRENCE = "recurrence"
#: The share of positive votes is kept this far from 0 and 1 before its log odds are taken.
LEAST_VOTE = 1e-3
#: Windows a call of the graph: keeps memory flat in batch scoring.
CHUNK = 4096
DAY_SECONDS = 86_400
#: Thresholds whose F1 on validation is lower than the best by this share at most count as equally good.
F1_TOLERANCE = 0.02


def fit_to_window(windows: np.ndarray, window: int) -> np.ndarray:
    """Bring histories to the model's length: the last ``window`` steps, short ones padded on the left with NaN.

    Parameters
    ----------
    windows : ndarray, (n, steps, n_features)
        Raw units; the last step is the newest.
    window : int

    Returns
    -------
    ndarray, (n, window, n_features), float32

    Examples
    --------
    >>> fit_to_window(np.ones((1, 1, 1)), 3)[0, :, 0].tolist()
    [nan, nan, 1.0]
    """
    windows = np.asarray(windows, dtype=np.float32)
    steps = windows.shape[1]
    if steps == window:
        return windows
    if steps > window:
        return windows[:, -window:]
    padding = np.full((len(windows), window - steps, windows.shape[2]), np.nan, dtype=np.float32)
    return np.concatenate([padding, windows], axis=1)


def clock_of(last: np.ndarray | None, n: int) -> np.ndarray:
    """Return the time of day of each window's last row as a fraction of the day, NaN when it is not known.

    Parameters
    ----------
    last : ndarray, (n,), datetime64, or None
        UTC; NaT is allowed.
    n : int
        Number of windows.

    Returns
    -------
    ndarray, (n, 1), float32, in [0, 1)
    """
    if last is None:
        return np.full((n, 1), np.nan, dtype=np.float32)
    seconds = np.asarray(last).astype("datetime64[s]")
    fraction = (seconds.astype(np.int64) % DAY_SECONDS) / DAY_SECONDS
    return np.where(np.isnat(seconds), np.nan, fraction).astype(np.float32).reshape(n, 1)


def apply_calibration(logits: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Return ``1 / (1 + exp(-(slope * logit + offset)))``, (n,), float64 (Platt 1999)."""
    return 1.0 / (1.0 + np.exp(-np.clip(slope * np.asarray(logits, dtype=np.float64) + offset, -40.0, 40.0)))


def log_odds(share: np.ndarray, least: float = LEAST_VOTE) -> np.ndarray:
    """Return log odds of probabilities that are kept ``least`` away from 0 and 1, float64."""
    share = np.clip(np.asarray(share, dtype=np.float64), least, 1 - least)
    return np.asarray(np.log(share / (1 - share)))


def choose_threshold(
    curve: dict[str, list[float]],
    rule: str,
    *,
    cost_missed: float = 10.0,
    cost_false_alarm: float = 1.0,
    alerts_per_day: float = 1.0,
) -> float:
    """Choose the alarm threshold by a policy from the validation curve of the card.

    Parameters
    ----------
    curve : dict
        Lists of equal length, thresholds descending: ``threshold, precision, recall, f1, missed, false_alarms,
        alerts_per_resource_day``. ``missed`` and ``false_alarms`` are shares of all rows.
    rule : {"max_f1", "cost", "alert_budget"}
        Highest F1 (see Notes); least ``cost_missed * missed + cost_false_alarm * false_alarms``; the most recall
        with at most ``alerts_per_day`` alerts a resource and day.
    cost_missed, cost_false_alarm : float
        Cost of a missed positive row and of a false alarm row, any common unit.
    alerts_per_day : float
        Budget of one resource.

    Returns
    -------
    float
        An alarm is ``probability >= threshold``.

    Raises
    ------
    ServableError
        For an unknown rule or a cost or budget that is not positive.

    Notes
    -----
    F1 is flat around its top, and where exactly a sample peaks is chance. Of calibrated probabilities the threshold
    of highest F1 is half the F1 that it reaches (Lipton, Elkan and Naryanaswamy 2014): of the thresholds whose F1 is
    within `F1_TOLERANCE` of the best, the nearest to that is taken.
    """
    if min(cost_missed, cost_false_alarm, alerts_per_day) <= 0:
        raise ServableError("decision policy: costs and the alert budget must be positive")
    threshold = np.asarray(curve["threshold"], dtype=float)
    if rule == "max_f1":
        f1 = np.asarray(curve["f1"], dtype=float)
        best = float(f1.max())
        plateau = threshold[f1 >= (1 - F1_TOLERANCE) * best]
        return float(plateau[int(np.argmin(np.abs(plateau - best / 2)))])
    if rule == "cost":
        cost = cost_missed * np.asarray(curve["missed"]) + cost_false_alarm * np.asarray(curve["false_alarms"])
        return float(threshold[int(np.argmin(cost))])
    if rule == "alert_budget":
        # Recall falls with the threshold: among the allowed ones the loosest catches most.
        allowed = np.flatnonzero(np.asarray(curve["alerts_per_resource_day"]) <= alerts_per_day)
        if len(allowed) == 0:
            return 1.0
        return float(threshold[allowed[int(np.argmax(np.asarray(curve["recall"])[allowed]))]])
    raise ServableError(f"decision policy: unknown rule {rule!r}; known: max_f1, cost, alert_budget")


class FailureServable(Servable):
    """Probability that an incident starts within the horizon, from the last ``window`` steps of a resource.

    Attributes
    ----------
    window, horizon : int
        Steps.
    step_seconds : int
    threshold : float
        An alarm is ``probability >= threshold``; see `choose_threshold`.
    """

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        super().__init__(folder, card)
        self.window = int(card["window"])
        self.horizon = int(card["horizon"])
        self.step_seconds = int(card["step_seconds"])
        self.threshold = float(card["decision"]["threshold"])
        parameters = card["calibration"]["parameters"]
        self._slope, self._offset = float(parameters["slope"]), float(parameters["offset"])
        members = card.get("members") or [{"name": GRAPH, "weight": 1.0, "slope": 1.0, "offset": 0.0}]
        self.members: list[str] = [member["name"] for member in members]
        weight = np.array([member["weight"] for member in members])
        self._counts = weight * [member["slope"] for member in members]
        self._level = float(weight @ [member["offset"] for member in members])
        self._scales = np.array([[member["slope"], member["offset"]] for member in members])
        known = card.get("recurrence") or {}
        self._resources = {name: i for i, name in enumerate(known.get("resources", []))}
        self._bins = int(known.get("bins", 0))
        self._clocked = bool(card.get("uses_time_of_day", False))
        self._reference = np.array([f["reference"]["median"] for f in card["features"]], dtype=np.float32)

    def predict(
        self, windows: np.ndarray, last: np.ndarray | None = None, resources: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return calibrated probabilities.

        Parameters
        ----------
        windows : ndarray, (n, steps, n_features)
            Raw units in the order of `features`; NaN is missing. Shorter than ``window`` is padded on the left,
            of longer ones the last ``window`` steps count.
        last : ndarray, (n,), datetime64, optional
            UTC time of each window's last row. Without it the model does without the time of day.
        resources : sequence of str, optional
            Whose window each is. Of one that was never seen, or without it, the habits of the whole fleet are taken.

        Returns
        -------
        ndarray, (n,), float64, in [0, 1]

        Raises
        ------
        ServableError
            If the shape is wrong.
        """
        windows = np.asarray(windows)
        if windows.ndim != 3 or windows.shape[2] != len(self.features):
            raise ServableError(
                f"failure windows have shape {windows.shape}; expected (n, up to {self.window}, {len(self.features)})"
            )
        clock = clock_of(last, len(windows))
        return self._probability(fit_to_window(windows, self.window), clock, self._places(resources, clock))

    def recalibrated(self, record: Recalibration) -> FailureServable:
        """See `Servable`."""
        found = FailureServable(self.folder, record.of_card(self.card, ""))
        found._sessions = self._sessions
        found._slope, found._offset = record.slope * self._slope, record.slope * self._offset + record.offset
        return found

    def decide(self, probability: np.ndarray) -> np.ndarray:
        """Return the alarms (n,), bool: ``probability >= threshold``."""
        return np.asarray(probability) >= self.threshold

    def explain(
        self, window: np.ndarray, top: int = 3, last: np.ndarray | None = None, resource: str | None = None
    ) -> list[Driver]:
        """Name the metrics behind one prediction, by occlusion in one batch.

        Parameters
        ----------
        window : ndarray, (steps, n_features)
        top : int, default 3
        last : datetime64 scalar or (1,), optional
            As in `predict`.
        resource : str, optional

        Returns
        -------
        list of Driver
            Sorted by size of contribution. ``contribution`` is the change of the probability that the metric's
            observed course makes against its training median; ``value`` the newest observation, None if there is none.
        """
        values = fit_to_window(np.asarray(window)[None], self.window)[0]
        n = len(self.features)
        observed = ~np.isnan(values)
        rows = observed.any(axis=1)
        batch = np.repeat(values[None], n + 1, axis=0)
        # A padded row stays padding: only rows that exist get the reference.
        for i in range(n):
            batch[i + 1, rows, i] = self._reference[i]
        clock = clock_of(None if last is None else np.asarray(last).reshape(1), 1)
        places = self._places(None if resource is None else [resource], clock)
        probability = self._probability(batch, np.repeat(clock, n + 1, axis=0), np.repeat(places, n + 1, axis=0))
        change = probability[0] - probability[1:]
        order = np.argsort(-np.abs(change), kind="stable")[:top]
        drivers: list[Driver] = []
        for i in order:
            seen = np.flatnonzero(observed[:, i])
            newest = float(values[seen[-1], i]) if len(seen) else None
            drivers.append({"feature": self.features[i], "value": newest, "contribution": float(change[i])})
        return drivers

    def golden(self, inputs: Any) -> dict[str, np.ndarray]:
        """Replay the golden windows."""
        last = inputs["last"].astype("datetime64[s]")
        resources = inputs["resources"].tolist() if "resources" in inputs else None
        return {"probability": self.predict(inputs["windows"], last, resources)}

    def alone(
        self, windows: np.ndarray, last: np.ndarray | None = None, resources: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return what each member says by itself, (n, n_members), float64, in [0, 1]; arguments as in `predict`."""
        windows = np.asarray(windows)
        clock = clock_of(last, len(windows))
        logits = self._logits(fit_to_window(windows, self.window), clock, self._places(resources, clock))
        return np.asarray(apply_calibration(logits * self._scales[:, 0] + self._scales[:, 1], 1.0, 0.0))

    def _places(self, resources: Sequence[str] | None, clock: np.ndarray) -> np.ndarray:
        """Return row and column of each window in the table of past incidents, (n, 2), int64."""
        places = np.empty((len(clock), 2), dtype=np.int64)
        fleet = len(self._resources)
        places[:, 0] = fleet if resources is None else [self._resources.get(name, fleet) for name in resources]
        known = ~np.isnan(clock[:, 0])
        places[:, 1] = np.where(known, np.nan_to_num(clock[:, 0]) * self._bins, self._bins)
        return places

    def _probability(self, windows: np.ndarray, clock: np.ndarray, places: np.ndarray) -> np.ndarray:
        logits = self._logits(windows, clock, places) @ self._counts + self._level
        return apply_calibration(logits, self._slope, self._offset)

    def _logits(self, windows: np.ndarray, clock: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the logits of the members, (n, n_members), float64."""
        logits = np.empty((len(windows), len(self.members)))
        trees = len(self.members) - (self._bins > 0)
        if self._bins:
            logits[:, -1] = self.session(RECURRENCE).run(None, {"place": places})[0]
        for at in range(0, len(windows), CHUNK):
            part = slice(at, at + CHUNK)
            feed = {"window": np.ascontiguousarray(windows[part])}
            if trees > 1:
                logits[part, 1:trees] = self.session(TREES).run(None, feed)[0]
            if self._clocked:
                feed["clock"] = clock[part]
            logits[part, 0] = self.session(GRAPH).run(None, feed)[0].reshape(-1)
        return logits
