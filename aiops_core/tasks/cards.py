"""What the cards of all tasks say alike: the head, and numeric features with their reference statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from aiops_core.facts import FACTS
from aiops_core.units import unit_of

STATISTICS = ("median", "p01", "p99", "min", "max", "mean", "std")


def head(task: str) -> dict[str, str]:
    """Return the first entries of a card: task, model, kind and the time, UTC."""
    facts = FACTS[task]
    created = pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds")
    return {"task": task, "model": facts.model, "kind": facts.kind, "created": created}


def reference(values: np.ndarray) -> dict[str, float]:
    """Return ``median, p01, p99, min, max, mean, std`` of the values (n,) that are not NaN; zeros where all are."""
    seen = values[~np.isnan(values)].astype(np.float64)
    if len(seen) == 0:
        return dict.fromkeys(STATISTICS, 0.0)
    low, median, high = np.percentile(seen, [1, 50, 99])
    found = (median, low, high, seen.min(), seen.max(), seen.mean(), seen.std())
    return dict(zip(STATISTICS, map(float, found), strict=True))


def numeric_feature(name: str, values: np.ndarray) -> dict[str, Any]:
    """Return the card's entry of a numeric feature from its training values (n,)."""
    found = reference(values)
    return {"name": name, "unit": unit_of(name, found["max"]), "dtype": "number", "reference": found}
