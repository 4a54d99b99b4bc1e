"""What every prediction carries besides the number: confidence, severity, warnings.

**Confidence** is never a constant. It is the calibrated probability that the stated prediction is right, times the
quality of the input::

    confidence = P(stated prediction) * quality
    quality    = (1 - 0.3 * share of features missing) * (1 - 0.5 * share of observed features outside training range)

With complete input inside the training range it is therefore the calibrated probability itself: of all answers with
confidence 0.8, about 80 % are right. Missing features cost little, since the models are trained to meet them; values
never seen in training cost more, since no calibration covers them. `P(stated prediction)` is p for ``failure`` and
1 - p for ``no_failure``, the probability of the class for a threat, and the probability of the stated side of
the threshold for capacity. The rules of the legacy models are not calibrated: theirs is capped at `UNCALIBRATED`.

A warning says by what it was lowered, see `lowered`.

**Severity** follows the prediction, so that the two and the recommended actions never contradict each other:

============================================  ==========================================================
prediction                                    severity
============================================  ==========================================================
no_failure, normal, within_capacity,          low; a warning says when the threshold is close
forecast_only
an alarm that is more likely false            medium (its threshold lies below one half)
any other alarm                               high
an alarm with the task's critical mark        critical: failure, from half way between the threshold and
                                              certainty; threat, attack probability from 0.9; capacity,
                                              within a day; anomaly, score above twice the threshold
============================================  ==========================================================

Only without an alarm is ``continue_monitoring`` recommended. Capacity plans ahead without one, too: ``plan_capacity``
from a chance of one in ten, ``scale_down`` for what is far too large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve_app.wire.wording import listed

__all__ = [
    "MISSING_COST",
    "OUTSIDE_COST",
    "UNCALIBRATED",
    "Ranges",
    "between",
    "close",
    "lowered",
    "quality",
    "severity",
    "share",
]

#: What happens to features that were not given.
NOT_OBSERVED = "treated as not observed, which the model was trained for"
MISSING_COST = 0.3
OUTSIDE_COST = 0.5
UNCALIBRATED = 0.6


def quality(missing: int, outside: int, total: int) -> float:
    """Return the factor by which incomplete or unfamiliar input lowers the confidence.

    Parameters
    ----------
    missing, outside : int
        Features that were not observed, and observed ones outside the training range.
    total : int
        Features of the model.

    Examples
    --------
    >>> quality(0, 0, 8), quality(4, 0, 8), quality(0, 8, 8)
    (1.0, 0.85, 0.5)
    """
    if total == 0:
        return 1.0
    observed = max(total - missing, 1)
    return (1.0 - MISSING_COST * missing / total) * (1.0 - OUTSIDE_COST * outside / observed)


def severity(alarm: bool, probability: float, critical: bool) -> str:
    """Return low, medium, high or critical.

    Parameters
    ----------
    alarm : bool
        Whether the prediction is the bad event.
    probability : float
        Of the bad event, 0 to 1.
    critical : bool
        Whether it carries the critical mark of its task, see the module's table.

    Examples
    --------
    >>> severity(False, 0.4, False), severity(True, 0.1, False), severity(True, 0.6, False), severity(True, 0.9, True)
    ('low', 'medium', 'high', 'critical')
    """
    if not alarm:
        return "low"
    if critical:
        return "critical"
    return "high" if probability >= 0.5 else "medium"


def close(what: str, value: float, threshold: float) -> str:
    """Return the warning for a value that stays below its threshold, but not by much."""
    return f"close to the threshold: {what} {value:.3g} of {threshold:.3g}"


def lowered(factor: float, *causes: str) -> str:
    """Return the warning that says why the confidence is lower than the probability of the stated prediction.

    Parameters
    ----------
    factor : float
        0 to 1.
    causes : str
        Empty ones are left out.

    Examples
    --------
    >>> lowered(0.775, share("features", 9, 12, "not given"), share("features", 0, 3, "outside the training range"))
    'confidence is 78 % of the probability of the prediction: 9 of 12 features not given'
    """
    named = ", ".join(cause for cause in causes if cause)
    return f"confidence is {100 * factor:.0f} % of the probability of the prediction: {named}"


def share(what: str, part: int, total: int, state: str) -> str:
    """Return a cause for `lowered`, or nothing if no part is concerned."""
    return f"{part} of {total} {what} {state}" if part else ""


def between(low: float, high: float) -> str:
    """Return a range for reading: both ends to four digits of the larger one, without exponents.

    Examples
    --------
    >>> between(5.8194e-09, 4.2034567), between(0.0, 1234567.0), between(-2.5e-6, 1e-6)
    ('0 to 4.203', '0 to 1,234,567', '-0.0000025 to 0.000001')
    """
    largest = max(abs(low), abs(high))
    if not math.isfinite(largest) or largest == 0 or largest >= 1e15:
        return f"{low:g} to {high:g}"
    decimals = max(0, 3 - math.floor(math.log10(largest)))
    return " to ".join(_plain(value, decimals) for value in (low, high))


def _plain(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


class Ranges:
    """Training ranges of a card's numeric features, for warnings.

    Parameters
    ----------
    features : sequence of mappings
        ``features`` of a card.
    """

    def __init__(self, features: Sequence[Mapping[str, Any]]) -> None:
        self.names = [str(f["name"]) for f in features]
        references = [f.get("reference") or {} for f in features]
        numeric = [f.get("dtype", "number") != "category" for f in features]
        self.low = np.array(
            [r.get("min", -np.inf) if n else -np.inf for r, n in zip(references, numeric, strict=True)],
            dtype=np.float32,
        )
        self.high = np.array(
            [r.get("max", np.inf) if n else np.inf for r, n in zip(references, numeric, strict=True)], dtype=np.float32
        )

    def outside(self, row: np.ndarray) -> list[int]:
        """Return the positions of values outside the training range; NaN is not outside.

        Parameters
        ----------
        row : ndarray, (n_features,), float32
        """
        flags = (row < self.low) | (row > self.high)
        return np.flatnonzero(flags).tolist() if flags.any() else []

    def say(self, index: int, value: float) -> str:
        """Return the warning for a value outside the training range."""
        return (
            f"{self.names[index]} = {value:g} is outside the training range "
            f"{between(float(self.low[index]), float(self.high[index]))}: the model extrapolates"
        )


def say_missing(names: Sequence[str], treatment: str = NOT_OBSERVED) -> str:
    """Return the warning for features that were not given."""
    return f"not given: {listed(names)}; {treatment}"
