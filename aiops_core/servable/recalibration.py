"""A correction of calibration and threshold that was learned from feedback, beside a servable whose files never change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

__all__ = ["Recalibration", "shifted"]

#: Probabilities are kept this far from 0 and 1 before their log odds are taken.
LEAST = 1e-9


@dataclass(frozen=True)
class Recalibration:
    """What feedback corrected.

    Attributes
    ----------
    number : int
        Of the corrections of a version, from 1.
    slope, offset : float
        Failure: of the log odds of an incident (Platt 1999); the slope is above 0, so that the ranking stays.
    threshold : float or None
        Failure: an alarm is a corrected probability of at least this.
    normal_weight : float
        Threat: factor of the cost of missing what is normal; above 1 fewer rows are called an attack.
    """

    number: int
    slope: float = 1.0
    offset: float = 0.0
    threshold: float | None = None
    normal_weight: float = 1.0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Recalibration:
        """Return the correction that a registry or a pointer file holds; what else stands there is not looked at."""
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def of_card(self, card: Mapping[str, Any], normal: str) -> dict[str, Any]:
        """Return a card that says what corrected answers are like: decision, policy curve and what is watched.

        Parameters
        ----------
        card : mapping
        normal : str
            The benign class.
        """
        found = copy.deepcopy(dict(card))
        found["recalibration"] = self.as_dict()
        decision = found["decision"]
        if card["task"] == "threat":
            place = list(card["classes"]).index(normal)
            decision["weights"][place] *= self.normal_weight
            if decision.get("costs") is not None:
                decision["costs"][place] = [self.normal_weight * cost for cost in decision["costs"][place]]
            return found
        if self.threshold is not None:
            decision["threshold"] = self.threshold
        decision["curve"]["threshold"] = self._moved(decision["curve"]["threshold"])
        watch = found.get("watch") or {}
        for kept in (watch.get("score"), watch.get("calibration")):
            if kept:
                kept["edges"] = self._moved(kept["edges"])
        if "calibration" in watch:
            # What came true at training is what feedback has corrected: now the corrected probability is believed.
            watch["calibration"]["mean"] = self._moved(watch["calibration"]["mean"])
            watch["calibration"]["rate"] = list(watch["calibration"]["mean"])
        return found

    def _moved(self, values: Any) -> list[float]:
        given = np.asarray(values, dtype=float)
        inner = (given > 0) & (given < 1)
        return [float(x) for x in np.where(inner, shifted(given, self.slope, self.offset), given)]


def shifted(probability: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Return ``1 / (1 + exp(-(slope * log odds + offset)))`` of probabilities, float64.

    Examples
    --------
    >>> shifted(np.array([0.5, 0.9]), 1.0, 0.0).round(3).tolist()
    [0.5, 0.9]
    """
    kept = np.clip(np.asarray(probability, dtype=float), LEAST, 1 - LEAST)
    logits = slope * np.log(kept / (1 - kept)) + offset
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -40.0, 40.0))))
