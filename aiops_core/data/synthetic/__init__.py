"""Seeded synthetic contract tables with a written generative story and the oracle of each task.

An oracle is what a perfect model could reach: it knows the story, its parameters and (failure, capacity) the latent
state. Reports state every metric beside it, so that a reader sees how much of the achievable was reached.

======== =============================== ==================================== ==========================
task     one sample                      story                                oracle
======== =============================== ==================================== ==========================
failure  labelled window of a resource   finite Markov chain of degradations  exact incident probability
threat   one observed source             exponential-family class mixture     exact posterior
capacity (resource, forecast origin)     season + trend + AR + level shifts   exact conditional mean
======== =============================== ==================================== ==========================

Every generator is vectorised and draws from its own child of ``numpy.random.SeedSequence(seed)``, so a task's table
does not depend on which other tasks are generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from aiops_core.data.synthetic.capacity import USAGE_EXOGENOUS, USAGE_TARGETS, UsageOracle, usage
from aiops_core.data.synthetic.draws import CONFIG
from aiops_core.data.synthetic.failure import Telemetry, telemetry
from aiops_core.data.synthetic.failure_metrics import TELEMETRY_METRICS
from aiops_core.data.synthetic.threat import ACTIVITY_FEATURES, CLASSES, activity, activity_posterior
from aiops_core.data.tables import TASKS, Dataset
from aiops_core.errors import UsageError

__all__ = [
    "ACTIVITY_FEATURES",
    "CLASSES",
    "CONFIG",
    "TELEMETRY_METRICS",
    "USAGE_EXOGENOUS",
    "USAGE_TARGETS",
    "Telemetry",
    "UsageOracle",
    "activity",
    "activity_posterior",
    "dataset",
    "telemetry",
    "usage",
]


def dataset(n_samples: int = 8000, *, seed: int = 0, signal: float = 1.0, tasks: Sequence[str] = TASKS) -> Dataset:
    """Generate the default data set.

    Parameters
    ----------
    n_samples : int
        Examples of each task: labelled windows (about), activity rows (exactly), (resource, origin) pairs (about;
        at least as many).
    seed : int
        Non-negative. Equal seeds give equal tables, whatever ``tasks`` is.
    signal : float
        1 is the default story, 0 makes the labels independent of the features. From 0 to 1.
    tasks : sequence of str
        Any of ``failure``, ``threat``, ``capacity``.

    Returns
    -------
    Dataset
        With settings and oracles of the chosen tasks.

    Raises
    ------
    UsageError
        If an argument is out of range or a task unknown.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise UsageError(f"unknown task '{unknown[0]}'; known: {', '.join(TASKS)}")
    tables: dict[str, pd.DataFrame] = {}
    oracles: dict[str, Any] = {}
    if "failure" in tasks:
        story = telemetry(n_samples, seed=seed, signal=signal)
        tables |= {"telemetry": story.telemetry, "incidents": story.incidents}
        oracles["failure"] = story.oracle
    if "threat" in tasks:
        tables["activity"], oracles["threat"] = activity(n_samples, seed=seed, signal=signal)
    if "capacity" in tasks:
        tables["usage"], oracles["capacity"] = usage(n_samples, seed=seed, signal=signal)
    config = {task: dict(CONFIG[task]) for task in TASKS if task in tasks}
    strength = "" if signal == 1.0 else f", signal {signal:g}"
    title = f"Synthetic telemetry, {n_samples:,} samples a task, seed {seed}{strength}"
    return Dataset("synthetic", title, "generated, no licence needed", tables, config, oracles)
