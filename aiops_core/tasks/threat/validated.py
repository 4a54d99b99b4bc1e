"""What parameter sets are compared by: the out-of-fold rows of one trial, and their independent units."""

from __future__ import annotations

from dataclasses import replace

from scipy import sparse

from aiops_core.judge import intervals, metrics
from aiops_core.judge.units import Units
from aiops_core.tasks.threat.data import ThreatData
from aiops_core.tasks.threat.model import ThreatModel
from aiops_core.tasks.threat.units import units_at

__all__ = ["validated"]


def validated(model: ThreatModel, data: ThreatData) -> tuple[intervals.Weighted, Units]:
    """Return the metrics of what `fit` returned on its out-of-fold rows, as a function of row weights, and the units.

    A row counts as in the search: groups by the square root of their size.
    """
    held = model.validation
    values = metrics.threat_values(data.y[held["row"]], held["probability"], held["label"], data.classes)
    weighted = replace(values, rows=sparse.csr_array(sparse.diags_array(held["weight"]) @ values.rows), coarse=None)
    return weighted, units_at(data, held["row"])
