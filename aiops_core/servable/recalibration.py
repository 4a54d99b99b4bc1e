"""A correction of calibration and threshold that was learned from feedback, beside a servable whose files never change."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from aiops_core.errors import ServableError

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
        Threat: factor of the decision weight of `normal`; above 1 fewer rows are called an attack.
    """

    number: int
    slope: float = 1.0
    offset: float = 0.0
    threshold: float | None = None
    normal_weight: float = 1.0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Recalibration:
        """Return the correction that a registry or a pointer file holds; what else stands there is not looked at.

        Raises
        ------
        ServableError
            If it is damaged, or holds a value that no correction has.
        """
        if "damaged" in content:
            raise ServableError(f"the correction from feedback cannot be read: {content['damaged']}")
        try:
            found = cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})
            limit = 0.5 if found.threshold is None else found.threshold
            good = found.slope > 0 and 0 < limit <= 1 and found.normal_weight > 0
            good = good and all(math.isfinite(x) for x in (found.slope, found.offset, found.normal_weight))
        except TypeError as error:
            raise ServableError(f"the correction from feedback cannot be read: {error}") from error
        if not good:
            raise ServableError(
                f"the correction from feedback holds a value out of range: slope {found.slope}, offset {found.offset}, "
                f"threshold {found.threshold}, normal_weight {found.normal_weight}"
            )
        return found

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
        decision, watch = found["decision"], found.get("watch") or {}
        if card["task"] == "threat":
            decision["weights"][list(card["classes"]).index(normal)] *= self.normal_weight
            # Of other decisions, training says neither how often an alarm is raised nor which class is how frequent.
            for name in ("alarm_rate", "classes"):
                watch.pop(name, None)
            return found
        if self.threshold is not None:
            decision["threshold"] = self.threshold
        if "curve" in decision:
            decision["curve"]["threshold"] = self._moved(decision["curve"]["threshold"])
        if "score" in watch:
            watch["score"]["edges"] = self._moved(watch["score"]["edges"])
        if "calibration" in watch:
            watch["calibration"] = self._calibration(watch["calibration"])
        return found

    def _moved(self, values: Any) -> list[float]:
        given = np.asarray(values, dtype=float)
        inner = (given > 0) & (given < 1)
        return [float(x) for x in np.where(inner, shifted(given, self.slope, self.offset), given)]

    def _calibration(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Return calibration bins of corrected probabilities, with an edge at the threshold, as those of a card have."""
        edges, mean = self._moved(kept["edges"]), self._moved(kept["mean"])
        # What came true at training is what feedback has corrected: then the corrected probability is believed.
        rate = list(kept["rate"]) if (self.slope, self.offset) == (1.0, 0.0) else list(mean)
        counts = list(kept["counts"])
        place = int(np.searchsorted(edges, self.threshold or 0.0)) - 1
        if self.threshold is not None and 0 <= place < len(counts) and self.threshold not in edges:
            low, high = edges[place], edges[place + 1]
            below = (self.threshold - low) / (high - low)
            edges.insert(place + 1, self.threshold)
            counts[place : place + 1] = [below * counts[place], (1 - below) * counts[place]]
            believed = rate[place] == mean[place]
            mean[place : place + 1] = [(low + self.threshold) / 2, (self.threshold + high) / 2]
            rate[place : place + 1] = mean[place : place + 2] if believed else [rate[place]] * 2
        return {**kept, "edges": edges, "counts": counts, "mean": mean, "rate": rate}


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
