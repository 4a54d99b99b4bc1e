"""Seeded synthetic contract tables with a written generative story and the oracle of each task.

An oracle is what the best possible model could reach: it knows the story and its parameters, and sees what a model can
see - not the latent state. Reports state every metric beside it, so that a reader sees how much of the achievable was
reached; `reports/difficulty.md` shows how far simple methods get.

======== =============================== ==================================== ==========================
task     one sample                      story                                oracle
======== =============================== ==================================== ==========================
failure  labelled window of a resource   faults and benign look-alikes        filter over hidden phases
threat   one observed source             campaigns with tactics and styles    exact posterior of the row
capacity (resource, forecast origin)     season + regimes + leading demand    filter, median forecast
======== =============================== ==================================== ==========================

Every generator is vectorised and draws from its own child of ``numpy.random.SeedSequence(seed)``, so a task's table
does not depend on which other tasks are generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from aiops_core.data.synthetic.capacity import usage
from aiops_core.data.synthetic.capacity_filter import UsageOracle
from aiops_core.data.synthetic.capacity_parts import USAGE_EXOGENOUS, USAGE_TARGETS
from aiops_core.data.synthetic.draws import CONFIG
from aiops_core.data.synthetic.failure import Telemetry, telemetry
from aiops_core.data.synthetic.failure_effects import TELEMETRY_METRICS
from aiops_core.data.synthetic.threat import ACTIVITY_FEATURES, activity, activity_posterior
from aiops_core.data.synthetic.threat_tactics import CLASSES
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


def dataset(
    n_samples: int = 8000, *, seed: int = 0, signal: float = 1.0, drift: float = 1.0, tasks: Sequence[str] = TASKS
) -> Dataset:
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
    drift : float
        How far levels, styles and regimes move with time and between campaigns, from 0 to 3; 1 is the default story.
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
        story = telemetry(n_samples, seed=seed, signal=signal, drift=drift)
        tables |= {"telemetry": story.telemetry, "incidents": story.incidents}
        oracles["failure"] = story.predict
    if "threat" in tasks:
        tables["activity"], oracles["threat"] = activity(n_samples, seed=seed, signal=signal, drift=drift)
    if "capacity" in tasks:
        tables["usage"], oracles["capacity"] = usage(n_samples, seed=seed, signal=signal, drift=drift)
    config = {task: dict(CONFIG[task]) for task in TASKS if task in tasks}
    strength = "" if signal == 1.0 else f", signal {signal:g}"
    strength += "" if drift == 1.0 else f", drift {drift:g}"
    title = f"Synthetic telemetry, {n_samples:,} samples a task, seed {seed}{strength}"
    return Dataset("synthetic", title, "generated, no licence needed", tables, config, oracles)
