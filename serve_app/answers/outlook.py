"""What a forecast means for its threshold: chance and time of a crossing, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from serve_app.answers.envelope import close
from serve_app.wire.features import feature_range, feature_unit
from serve_app.wire.times import iso

__all__ = ["DEFAULT_THRESHOLD", "LIKELY", "Outlook", "default_threshold", "exceedance", "recommend", "warn"]

#: What counts as full of a metric in %, when the request names no threshold.
DEFAULT_THRESHOLD = 85.0
#: A resource whose upper band stays below this share of the threshold is too large.
IDLE_SHARE = 0.4
#: Chance of a crossing from which it is predicted, and from which planning for it is recommended.
LIKELY, PLAN_FROM = 0.5, 0.1
_Z90 = NormalDist().inv_cdf(0.9)


def exceedance(bands: np.ndarray, threshold: float) -> np.ndarray:
    """Return the probability that each step exceeds a threshold, from its band.

    A normal distribution is laid through p50 and the edge of the band on the side of the threshold.

    Parameters
    ----------
    bands : ndarray, (k, 3)
        p10, p50, p90.
    threshold : float
        Same unit.

    Returns
    -------
    ndarray, (k,)
        0.5 where p50 is the threshold, 0.1 where p90 is, 0.9 where p10 is.
    """
    p10, p50, p90 = bands[:, 0], bands[:, 1], bands[:, 2]
    spread = np.where(threshold >= p50, p90 - p50, p50 - p10) / _Z90
    z = (p50 - threshold) / np.maximum(spread, 1e-9)
    return np.array([0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in np.clip(z, -38, 38).tolist()])


def default_threshold(feature: Mapping[str, Any]) -> float | None:
    """Return what counts as full where that is known: of a share in %, but of no other unit."""
    percent = feature_unit(feature) == "%" and feature_range(feature) == (0.0, 100.0)
    return DEFAULT_THRESHOLD if percent else None


class Outlook:
    """One metric against its threshold.

    Parameters
    ----------
    bands : ndarray, (k, 3)
        p10, p50, p90 of the steps ahead.
    threshold, latest : float
        In the metric's unit; `latest` is the newest value observed.
    last : int
        Time of that value, seconds since 1970.
    step : int
        Seconds.

    Attributes
    ----------
    chance : float
        The largest, over the steps ahead, of the chance that the step lies above the threshold; at least `LIKELY`
        exactly where the median forecast crosses it.
    hours : float or None
        Until the median forecast crosses, 0 if the latest value is there already.
    peak : float
        Largest 90th percentile, as a share of the threshold.
    """

    def __init__(self, bands: np.ndarray, threshold: float, latest: float, last: int, step: int) -> None:
        self.threshold, self.latest = threshold, latest
        self.chance = float(exceedance(bands, threshold).max())
        self.peak = float(bands[:, 2].max()) / threshold if threshold > 0 else math.inf
        self.above = latest >= threshold
        self._last, self._step = last, step
        crossing, early = ((bands[:, column] >= threshold) for column in (1, 2))
        self._steps = None if not crossing.any() else 0 if self.above else int(np.argmax(crossing)) + 1
        self._early = 0 if self.above else int(np.argmax(early)) + 1 if early.any() else None
        self.hours = None if self._steps is None else self._steps * step / 3600

    def reach(self) -> dict[str, Any]:
        """Return the metric's entry in ``time_to_threshold``."""
        return {
            "threshold": self.threshold,
            "timestamp": None if self._steps is None else iso(self._last + self._steps * self._step),
            "hours": None if self.hours is None else round(self.hours, 3),
            "earliest_hours": None if self._early is None else round(self._early * self._step / 3600, 3),
        }

    def say(self) -> str:
        """Return what the latest value and the median forecast do at the threshold, for a sentence."""
        now = f"the latest value {self.latest:g} is at or above the threshold of {self.threshold:g}"
        if self._steps is None:
            return f"{now}, the median forecast stays below it" if self.above else ""
        if self.above:
            return f"{now}, and so is the median forecast"
        return f"the threshold of {self.threshold:g} is reached in {self.hours:g} h by the median forecast"


def warn(outlooks: Mapping[str, Outlook], without: Sequence[str]) -> list[str]:
    """Return warnings: metrics without a threshold, and those close to theirs or above it that will not cross.

    Parameters
    ----------
    outlooks : mapping of str to Outlook
        By metric.
    without : sequence of str
        Metrics without a threshold.
    """
    found = []
    if without:
        found.append(f"no threshold known for {', '.join(without)}: name one in thresholds")
    for metric, outlook in outlooks.items():
        if outlook.chance < LIKELY:
            if outlook.above:
                found.append(f"{metric}: {outlook.say()}")
            elif 2 * outlook.chance >= LIKELY:
                found.append(f"{metric}: {close('probability', outlook.chance, LIKELY)}")
    return found


def recommend(outlooks: Mapping[str, Outlook], within: str) -> dict[str, Any]:
    """Return action, metric and reason.

    Parameters
    ----------
    outlooks : mapping of str to Outlook
        By metric; may be empty.
    within : str
        Time that the forecast spans, for the reason.
    """
    if not outlooks:
        reason = "no threshold is known, so there is nothing to recommend"
        return {"action": "maintain", "metric": None, "reason": reason}
    metric, worst = max(outlooks.items(), key=lambda item: item[1].chance)
    if worst.chance >= LIKELY:
        return {"action": "scale_up", "metric": metric, "reason": f"{metric}: {worst.say()}"}
    if worst.chance < PLAN_FROM:
        metric, worst = next(((m, o) for m, o in outlooks.items() if o.above), (metric, worst))
    if worst.chance >= PLAN_FROM or worst.above:
        at = worst.say() or f"the threshold of {worst.threshold:g} is within the 80 % band"
        reason = f"{metric}: {at}; probability {worst.chance:.0%} within {within}"
        return {"action": "plan_capacity", "metric": metric, "reason": reason}
    metric, busiest = max(outlooks.items(), key=lambda item: item[1].peak)
    if busiest.peak < IDLE_SHARE:
        reason = (
            f"even the 90th percentile stays below {IDLE_SHARE:.0%} of every threshold "
            f"(most: {metric}, {busiest.peak:.0%})"
        )
        return {"action": "scale_down", "metric": metric, "reason": reason}
    return {"action": "maintain", "metric": None, "reason": f"no threshold comes into reach within {within}"}
