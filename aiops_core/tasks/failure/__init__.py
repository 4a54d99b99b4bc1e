"""Failure prediction: whether an incident of a resource starts within the next ``horizon`` steps.

A Keras LSTM reads the last ``window`` steps of a resource's metrics in raw units. Scaling, missing values, patch
statistics and deviations from the window's own level are part of its graph, so the exported ONNX model is the whole
feature code. It learns several horizons at once (a quarter of the horizon up to four times it): how far an incident is
away says more than a yes or no, and only the answer for the horizon itself is used. The final model is a
stack. Its members are networks, each trained for a fixed number of epochs without one block of the training data; a random
forest, extremely randomised trees and boosted trees on statistics of the same windows; and, where a time of day can say
anything, the table of a resource's past incidents. No member alone is safe on all data. What members that have not seen
a block say of it tells what each of them counts, calibrates their sum and sets the alarm threshold; these rows choose
nothing else but the point of a grid and of the search, and no data is lost to validation.

Rows and labels
---------------
A row is an example if the table holds it and no incident is going on. It is positive when an incident starts in
``(t, t + horizon]``. A row whose horizon reaches past the last row of its resource has no full follow-up: it has no
label and is left out, also where an incident is known to follow. Only where a record ends by failure (its last incident
starts at or after its last row) all of its rows have a label.

Parts
-----
Under the protocol ``time`` the last part of the time tests. Records on one calendar are cut at the same time, with an
embargo of window + horizon; a resource that begins after the cut is tested unseen. Records with calendars of their own
(no two overlap) are cut each by itself. Under the protocol ``resource``, and with an official split of resources, whole
resources test with all their time. What is said of alerts is counted at every step, as the service is asked.
"""

from aiops_core.tasks.failure.baselines import baselines
from aiops_core.tasks.failure.data import (
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
    PROTOCOLS,
    QUICK_EFFORT,
    SIMPLE_BASELINES,
    STRONG_BASELINES,
    Effort,
    FailureData,
)
from aiops_core.tasks.failure.decision import events, highest_f1, policies
from aiops_core.tasks.failure.evaluation import compare, evaluate, importance, members_alone, oracle, predictions, share
from aiops_core.tasks.failure.export import export, score, watch
from aiops_core.tasks.failure.findings import details
from aiops_core.tasks.failure.model import FailureModel, defaults, finish, fit, follow, predict, space, steps
from aiops_core.tasks.failure.prepare import prepare
from aiops_core.tasks.failure.seen import seen, too_few, unseen
from aiops_core.tasks.failure.units import units
from aiops_core.tasks.failure.validated import validated

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
    "PROTOCOLS",
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
    "follow",
    "finish",
    "fit",
    "highest_f1",
    "importance",
    "members_alone",
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
    "watch",
]
