"""Failure prediction: whether an incident of a resource starts within the next ``horizon`` steps.

A Keras LSTM reads the last ``window`` steps of a resource's metrics in raw units. Scaling, missing values, patch
statistics and deviations from the window's own level are part of its graph, so the exported ONNX model is the whole
feature code. It learns several horizons at once (a quarter of the horizon up to four times it): how far an incident is
away says more than a yes or no, and only the answer for the horizon itself is used. The final model is the mean of
several networks, each trained without one block of the training data; the predictions for the left-out blocks
calibrate the mean and choose the alarm threshold, so that no data is lost to validation.

Rows and labels
---------------
A row is an example if the table holds it and no incident is going on. It is positive when an incident starts in
``(t, t + horizon]``, also one that starts after the resource's last row. A row whose horizon reaches past everything
that is known of its resource (its last row and its last incident) has no label and is left out.
"""

from aiops_core.tasks.failure.baselines import baselines
from aiops_core.tasks.failure.data import (
    GATE_METRICS,
    KIND,
    MAIN_METRIC,
    MODE,
    MODEL,
    NAIVE_BASELINES,
    NAME,
    OBJECTIVE,
    PROBABILITY_METRICS,
    SIMPLE_BASELINES,
    STRONG_BASELINES,
    Effort,
    FailureData,
)
from aiops_core.tasks.failure.decision import events, highest_f1, policies
from aiops_core.tasks.failure.evaluation import compare, details, evaluate, importance, oracle, predictions, share
from aiops_core.tasks.failure.export import export, score
from aiops_core.tasks.failure.model import FailureModel, defaults, finish, fit, predict, space, steps
from aiops_core.tasks.failure.prepare import prepare
from aiops_core.tasks.failure.seen import seen, too_few, unseen
from aiops_core.tasks.failure.units import units
from aiops_core.tasks.failure.validated import validated

__all__ = [
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
    "Effort",
    "FailureData",
    "FailureModel",
    "baselines",
    "compare",
    "defaults",
    "details",
    "evaluate",
    "events",
    "export",
    "finish",
    "fit",
    "highest_f1",
    "importance",
    "oracle",
    "policies",
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
