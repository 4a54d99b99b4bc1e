"""Threat detection: which of several classes a row of activity belongs to.

A scikit-learn random forest over raw features. Five ideas make it hold on activity it has not seen:

- *New attacks are the norm.* Where the data name campaigns (``group``), validation leaves whole groups out, beside
  rows of known groups, in equal parts. Groups count by the square root of their size, in training and validation:
  the next month will not repeat the mix of the last.
- *Half of the trees cut at random thresholds*, as extremely randomised trees do, all without pruning: the two kinds err
  on different rows.
- *Missing features are a training condition.* A share of the training rows is repeated with random features masked,
  so a request that names three features of twelve gets an honest answer.
- *Probabilities are calibrated* (temperature, on out-of-fold rows), inside the exported graph.
- *Decisions follow costs.* A class weighs ``prior ** -alpha``; alpha is the middle of the exponents that do well on
  out-of-fold rows. A cost matrix replaces that, in the settings or at run time.
"""

from __future__ import annotations

from aiops_core.tasks.threat.baselines import baselines, oracle
from aiops_core.tasks.threat.data import (
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
    Effort,
    ThreatData,
    steps,
)
from aiops_core.tasks.threat.evaluation import compare, evaluate, predictions, share
from aiops_core.tasks.threat.export import export, score
from aiops_core.tasks.threat.findings import details
from aiops_core.tasks.threat.model import ThreatModel, defaults, finish, fit, predict, space
from aiops_core.tasks.threat.prepare import prepare
from aiops_core.tasks.threat.seen import seen, too_few, unseen
from aiops_core.tasks.threat.units import units
from aiops_core.tasks.threat.validated import validated

__all__ = [
    "FULL_EFFORT",
    "QUICK_EFFORT",
    "Effort",
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
    "ThreatData",
    "ThreatModel",
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
