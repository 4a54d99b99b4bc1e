"""What parameter sets are compared by: the validation examples of one trial, and their independent units."""

from __future__ import annotations

from aiops_core.judge import intervals, metrics
from aiops_core.judge.units import Units
from aiops_core.tasks.failure.data import FailureData
from aiops_core.tasks.failure.model import FailureModel, predict
from aiops_core.tasks.failure.units import units

__all__ = ["validated"]


def validated(model: FailureModel, data: FailureData) -> tuple[intervals.Weighted, Units]:
    """Return the metrics of what `fit` returned on the validation examples, as a function of row weights, and the units."""
    found = predict(model, data, "validation")
    values = metrics.failure_values(data.truth("validation"), found["probability"], found["alarm"])
    return values, units(data, "validation")
