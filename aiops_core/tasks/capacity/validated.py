"""What parameter sets are compared by: the validation forecasts of one trial, and their independent units."""

from __future__ import annotations

from aiops_core.judge import intervals, metrics
from aiops_core.judge.units import Units
from aiops_core.tasks.capacity.data import CapacityData
from aiops_core.tasks.capacity.prediction import CapacityModel, predict
from aiops_core.tasks.capacity.scale import naive_scale
from aiops_core.tasks.capacity.units import units

__all__ = ["validated"]


def validated(model: CapacityModel, data: CapacityData) -> tuple[intervals.Weighted, Units]:
    """Return the metrics of what `fit` returned on the validation rows, as a function of row weights, and the units."""
    pairs = data.parts["validation"]
    middle = predict(model, data, "validation")["p50"]
    truth, scale = pairs.truth[pairs.known], naive_scale(data, "validation")
    values = metrics.capacity_values(truth, middle, None, None, scale=scale, target=pairs.flat(pairs.target))
    return values, units(data, "validation")
