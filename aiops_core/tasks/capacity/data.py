"""The capacity task's facts, its effort, and the arrays that everything after `prepare` works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.derive import Derived
from aiops_core.facts import FACTS
from aiops_core.servable.capacity_layout import Layout

NAME = "capacity"
MODEL, KIND = FACTS[NAME].model, FACTS[NAME].kind
#: Every series in units of its own naive error; R² would reward knowing the level of each resource.
MAIN_METRIC = "mase"
OBJECTIVE = "nmae"
MODE = "min"
#: What the gate compares; simple baselines by the first one only.
#: The second is what the search minimises: large series count more.
GATE_METRICS: tuple[str, ...] = ("mase", "nmae")
#: There is no probability to compare.
PROBABILITY_METRICS: tuple[str, ...] = ()
SIMPLE_BASELINES: tuple[str, ...] = ("last_value", "seasonal_naive", "median_of_three")
#: Know nothing but the past value: the better one is where the way to the oracle begins.
NAIVE_BASELINES: tuple[str, ...] = ("last_value", "seasonal_naive")
STRONG_BASELINES: tuple[str, ...] = ("theta", "scaled_booster")


@dataclass(frozen=True)
class Effort:
    """How much work a search, a final model and the strong baseline may do.

    Attributes
    ----------
    search_rows, final_rows : int
        Training rows of a trial (and of the strong baseline), and of the final model.
    edge_rows : int
        Training rows of a band edge of the final model.
    linear_rows : int
        Rows of the linear backbone of one target.
    scored_rows : int
        Validation rows that boosting is stopped by.
    steps_per_pair : int
        Steps ahead that one sampled (series, origin) pair contributes.
    rounds : int
        Boosting rounds between two reports of a trial.
    max_steps, edge_steps : int
        Most reports of a median booster, and of a band edge.
    patience : int
        Boosting stops after this many reports without a better one.
    baseline_rounds : int
        Boosting rounds of the strong baseline.
    """

    search_rows: int = 40_000
    final_rows: int = 80_000
    edge_rows: int = 40_000
    linear_rows: int = 20_000
    scored_rows: int = 20_000
    steps_per_pair: int = 4
    rounds: int = 10
    max_steps: int = 16
    edge_steps: int = 8
    patience: int = 4
    baseline_rounds: int = 150


#: What a model for use is given.
FULL_EFFORT = Effort()
#: For a first try of a source or a notebook: every step is taken, none is taken far.
QUICK_EFFORT = Effort(
    search_rows=8_000,
    final_rows=16_000,
    edge_rows=8_000,
    linear_rows=5_000,
    scored_rows=5_000,
    max_steps=6,
    edge_steps=3,
    patience=2,
    baseline_rounds=50,
)


@dataclass(frozen=True)
class Pairs:
    """(series, origin) pairs with the steps that are asked of each.

    Attributes
    ----------
    resource, target, origin : ndarray, (n,), int
        ``origin`` is a position on the common axis.
    steps : ndarray, (n, k), int
    truth : ndarray, (n, k), float64
        Value at ``origin + step``; NaN where unknown: such rows are not scored.
    """

    resource: np.ndarray
    target: np.ndarray
    origin: np.ndarray
    steps: np.ndarray
    truth: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(n, k), bool: where there is a truth to compare with."""
        known: np.ndarray = ~np.isnan(self.truth)
        return known

    def flat(self, values: np.ndarray) -> np.ndarray:
        """Repeat a value per pair for its rows that are scored; (rows,)."""
        repeated: np.ndarray = np.broadcast_to(values.reshape(len(values), -1), self.steps.shape)[self.known]
        return repeated


@dataclass(frozen=True)
class Block:
    """Training or validation rows ready for a booster.

    Attributes
    ----------
    x : ndarray, (rows, F), float32
    y : ndarray, (rows,), float64
        Scaled truth.
    weight : ndarray, (rows,)
        Scale of the row relative to the mean scale of its target.
    target : ndarray, (rows,), int
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Usage:
    """Usage of every resource on one axis, and what fixes the features.

    Attributes
    ----------
    values : ndarray, (resources, columns, time), float32
        Targets, other columns and derived features, on one axis; see `split.aligned`.
    columns : list of str
    resources : list of str
    end : ndarray, (resources,), datetime64[s]
        Time of the last position.
    first, last : ndarray, (resources,), int
        Positions of the first and the last row.
    fitted : ndarray, (resources,), bool
        Which a fit may see; with the protocol "resource" the others only test.
    layout : Layout
    score_steps : ndarray, int
    effort : Effort
        Given to `prepare`; what is fitted on these data works as hard.
    derived : Derived
        Features that are used like other columns.
    """

    values: np.ndarray
    columns: list[str]
    resources: list[str]
    end: np.ndarray
    first: np.ndarray
    last: np.ndarray
    fitted: np.ndarray
    layout: Layout
    score_steps: np.ndarray
    effort: Effort
    derived: Derived

    @property
    def raw(self) -> list[str]:
        """Columns of the table: what a request holds."""
        return [name for name in self.columns if name not in self.derived.names]

    def time(self, resource: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return UTC times of positions, datetime64[s]."""
        behind = (self.values.shape[2] - 1 - position) * self.layout.step_seconds
        out: np.ndarray = self.end[resource] - behind.astype("timedelta64[s]")
        return out


@dataclass(frozen=True)
class CapacityData(Usage):
    """Everything the task needs, as arrays: the usage, what is scored, and what a trial is fitted on.

    Attributes
    ----------
    parts : dict of str to Pairs
        What is scored, by part: "train", a sample; "validation", which chooses; "calibration", which moves the edges
        of the band and chooses nothing; "test".
    limits : dict of str to int
        Last position whose value may be seen: "train" by what validation chooses from, "calibration" by choices,
        "validation" by the final fit, which ends where the test begins.
    search, checked : Block
        Rows of a trial, and validation rows.
    linear : ndarray, (P, targets)
        Backbone fitted on the rows before validation.
    ridge : float
    naive_error : ndarray, (resources, targets)
        Seasonal-naive MAE of each series on rows before the calibration origins: how much it moves.
    oracle : ndarray or None
        Expected value of every scored test row; None for real data.
    info : dict
        What the report says about the data.
    """

    parts: dict[str, Pairs]
    limits: dict[str, int]
    search: Block
    checked: Block
    linear: np.ndarray
    ridge: float
    naive_error: np.ndarray
    oracle: np.ndarray | None
    info: dict[str, Any]
    #: By column, see `tables.column_facts`; goes into the card, and nothing is learned from it.
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def summary(self) -> pd.DataFrame:
        """Return what was prepared, one line a part."""
        lines = []
        for name, pairs in self.parts.items():
            times = self.time(pairs.resource, pairs.origin)
            lines.append(
                {
                    "part": name,
                    "rows": int(pairs.known.sum()),
                    "origins": len(np.unique(pairs.origin)),
                    "resources": len(np.unique(pairs.resource)),
                    "first origin": pd.Timestamp(times.min(), tz="UTC"),
                    "last origin": pd.Timestamp(times.max(), tz="UTC"),
                    "mean": float(np.nanmean(pairs.truth)),
                }
            )
        return pd.DataFrame(lines).set_index("part")


def steps(data: CapacityData) -> int:
    """Return the most steps that `fit` reports: what a full trial has."""
    return data.effort.max_steps
