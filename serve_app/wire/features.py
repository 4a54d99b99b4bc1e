"""The hard bounds of a feature by its unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiops_core.units import UNITS

__all__ = ["MAX_NUMBER", "UNIT_RANGE", "feature_range", "feature_unit"]

#: Any number beyond this is a mistake, and would not survive float32.
MAX_NUMBER = 1e15
#: Hard bounds by unit: what the quantity cannot exceed. Training ranges only warn.
UNIT_RANGE: dict[str, tuple[float, float]] = {
    "%": (0.0, 100.0),
    "score": (0.0, 1.0),
    "ops/s": (0.0, MAX_NUMBER),
    "MB/s": (0.0, MAX_NUMBER),
    "1/s": (0.0, MAX_NUMBER),
    "1/min": (0.0, MAX_NUMBER),
    "1/h": (0.0, MAX_NUMBER),
    "ms": (0.0, MAX_NUMBER),
    "bytes": (0.0, MAX_NUMBER),
    "bits": (0.0, MAX_NUMBER),
    "users": (0.0, MAX_NUMBER),
    "addresses": (0.0, MAX_NUMBER),
}


def feature_unit(feature: Mapping[str, Any]) -> str | None:
    """Return the unit of a card's feature: its own, else that of the default feature of the same name."""
    known = UNITS.get(str(feature.get("name")))
    unit = feature.get("unit") or (known.unit if known else None)
    return None if unit is None else str(unit)


def feature_range(feature: Mapping[str, Any]) -> tuple[float, float]:
    """Return the hard bounds of a card's feature, by its unit.

    A unit whose bounds the table that trained the model breaks is not the unit meant, and bounds nothing.

    Examples
    --------
    >>> feature_range({"name": "cpu_usage", "unit": "%"})
    (0.0, 100.0)
    """
    reference = feature.get("reference") or {}
    least, most = feature.get("seen") or (reference.get("min", 0.0), reference.get("max", 0.0))
    everything = (min(-MAX_NUMBER, least), max(MAX_NUMBER, most))
    low, high = UNIT_RANGE.get(feature_unit(feature) or "", everything)
    return (low, high) if (low <= least and most <= high) else everything
