"""Capacity forecasting: usage some steps ahead, with an 80 % band, for every resource at once.

Direct multi-horizon gradient boosting (XGBoost): the step ahead is a feature, so one model serves every horizon. Four
ideas make it hold on series it has not seen:

- *Every series in its own units* (`aiops_core.servable.capacity_features.normalise`): resources of any size train one model.
  Validation rows weigh as much as their spread, so the measure is still the absolute error in units of the target;
  training rows weigh its square root.
- *A linear backbone*, fitted to the absolute error, with coefficients that fade along the horizon. It extrapolates,
  which trees cannot. The search tries trees on it and trees alone; the final median is the mean of both.
- *Truncated histories, missing columns and missing clocks are training conditions*, because requests look like that.
- *Conformal offsets* by target, steps ahead and restlessness of the series, from origins that chose nothing else
  (Romano, Patterson and Candes 2019, "Conformalized quantile regression"), each edge of the band on its own.
"""

from aiops_core.tasks.capacity.baselines import baselines
from aiops_core.tasks.capacity.data import (
    FULL_EFFORT,
    GATE_METRICS,
    KIND,
    MAIN_METRIC,
    MODE,
    MODEL,
    NAIVE_BASELINES,
    NAME,
    OBJECTIVE,
    PROBABILITY_METRICS,
    QUICK_EFFORT,
    SIMPLE_BASELINES,
    STRONG_BASELINES,
    CapacityData,
    Effort,
    steps,
)
from aiops_core.tasks.capacity.evaluation import compare, details, evaluate, oracle, predictions, share
from aiops_core.tasks.capacity.export import export
from aiops_core.tasks.capacity.model import defaults, finish, fit, space
from aiops_core.tasks.capacity.prediction import CapacityModel, predict, score
from aiops_core.tasks.capacity.prepare import prepare
from aiops_core.tasks.capacity.seen import seen, too_few, unseen
from aiops_core.tasks.capacity.units import units
from aiops_core.tasks.capacity.validated import validated

__all__ = [
    "FULL_EFFORT",
    "QUICK_EFFORT",
    "GATE_METRICS",
    "KIND",
    "MAIN_METRIC",
    "MODE",
    "MODEL",
    "NAIVE_BASELINES",
    "NAME",
    "OBJECTIVE",
    "PROBABILITY_METRICS",
    "SIMPLE_BASELINES",
    "STRONG_BASELINES",
    "CapacityData",
    "CapacityModel",
    "Effort",
    "baselines",
    "compare",
    "defaults",
    "details",
    "evaluate",
    "export",
    "finish",
    "fit",
    "oracle",
    "predict",
    "predictions",
    "prepare",
    "score",
    "seen",
    "share",
    "space",
    "steps",
    "too_few",
    "units",
    "unseen",
    "validated",
]
