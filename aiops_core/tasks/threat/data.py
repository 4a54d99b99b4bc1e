"""The threat task's names, types and effort, and the arrays of one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.splits import TEST, TRAIN
from aiops_core.derive import Derived
from aiops_core.errors import UsageError
from aiops_core.facts import FACTS
from aiops_core.tasks.threat.inputs import Inputs

NAME = "threat"
MODEL, KIND = FACTS[NAME].model, FACTS[NAME].kind
MAIN_METRIC = "macro_f1"
OBJECTIVE = "selection"
MODE = "max"
#: What the gate compares; simple baselines by the first one only. The search maximises the first less a share of the
#: second, see `forest.LOSS_SHARE`.
GATE_METRICS: tuple[str, ...] = ("macro_f1", "log_loss")
#: One of these must beat the class prior.
PROBABILITY_METRICS: tuple[str, ...] = ("log_loss",)
SIMPLE_BASELINES: tuple[str, ...] = ("class_prior", "prior_draw", "rules")
#: Knows nothing: where the way to the oracle begins.
NAIVE_BASELINES: tuple[str, ...] = ("prior_draw",)
STRONG_BASELINES: tuple[str, ...] = ("hist_gradient_boosting", "random_forest", "logistic_regression")
Params = Mapping[str, Any]
Prediction = dict[str, np.ndarray]
Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Effort:
    """How much work goes into a search and a final model; all counts, at least 1.

    Attributes
    ----------
    max_steps : int
        Steps of a full trial.
    trees_per_step : int
        Trees that each fold's forest grows at each step of a trial.
    final_trees : int
        Trees of the final forest: more cost serving time and add little.
    best : int
        A final forest shares its trees between this many of the best parameter sets; at most ``final_trees``.
    max_rows : int
        Cells of (class, group) larger than fits into this many training rows are sampled; the row weights make up
        for it.
    folds : int
        Folds of the out-of-fold validation, at least 2.
    one_fold_above : int
        A search on more rows than this, without groups, scores one fold only.

    Raises
    ------
    UsageError
        If a count is too small.
    """

    max_steps: int = 4
    trees_per_step: int = 20
    final_trees: int = 90
    best: int = 3
    max_rows: int = 20_000
    folds: int = 3
    one_fold_above: int = 3_000

    def __post_init__(self) -> None:
        least = {field.name: 1 for field in fields(self)} | {"folds": 2, "final_trees": self.best}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UsageError(f"Effort.{name} is {getattr(self, name)}; it must be at least {smallest}")


#: What a model for use is given.
FULL_EFFORT = Effort()
#: For a first try of a source or a notebook: every step is taken, none is taken far.
QUICK_EFFORT = Effort(max_steps=2, trees_per_step=8, final_trees=30, best=2, max_rows=4_000, folds=2)


@dataclass
class ThreatData:
    """Arrays of one threat data set; every statistic comes from training rows.

    Attributes
    ----------
    X : ndarray, (n, n_features), float32
        Raw units; categories as codes; NaN is missing. Derived features come last.
    y : ndarray, (n,), int64
        Index into ``classes``.
    part : ndarray, (n,), int8
        `TRAIN` or `TEST`. Validation is out-of-fold over training rows.
    group : ndarray, (n,), int64 or None
    classes : list of str
    features : list of dict
        The columns as in the card, then the derived features.
    rows : ndarray, (n_rows,), int64
        Training rows that are learned from: all, or a sample of the large cells.
    weight : ndarray, (n_rows,), float64
        Weight of each of ``rows``, mean 1.
    group_fold, row_fold : ndarray, (n_rows,), int64
        Fold that leaves out the row's group (-1: its group is never left out), and that leaves out the row alone.
    inputs : Inputs
    costs : ndarray, (n_classes, n_classes) or None
        Cost matrix of the settings.
    oracle : ndarray, (n, n_classes) or None
    info : dict
    effort : Effort
    """

    X: np.ndarray
    y: np.ndarray
    part: np.ndarray
    group: np.ndarray | None
    classes: list[str]
    features: list[dict[str, Any]]
    rows: np.ndarray
    weight: np.ndarray
    group_fold: np.ndarray
    row_fold: np.ndarray
    inputs: Inputs
    costs: np.ndarray | None
    oracle: np.ndarray | None
    info: dict[str, Any]
    effort: Effort
    #: By column, see `tables.column_facts`; goes into the card, and nothing is learned from it.
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Hash of each row by the features read, (n,), uint64: what a model has seen is known by it.
    row_hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    derived: Derived = field(default_factory=Derived)

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Features that are columns of the table: what a request holds."""
        return self.features[: len(self.features) - len(self.derived)]

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as a request holds them, (n, n_columns) float32."""
        return self.X[rows, : len(self.columns)]

    def whole(self, raw: np.ndarray) -> np.ndarray:
        """Return rows of columns with their derived features, (n, n_features) float32."""
        found = self.derived.of_rows(raw, [feature["name"] for feature in self.columns])
        return np.concatenate([raw, found], axis=1)

    def summary(self) -> pd.DataFrame:
        """Return rows and groups of each class by part, for a notebook."""
        out = pd.DataFrame(index=pd.Index(self.classes, name="class"))
        for name, code in (("train", TRAIN), ("test", TEST)):
            chosen = self.part == code
            out[f"{name}_rows"] = np.bincount(self.y[chosen], minlength=len(self.classes))
            if self.group is not None:
                pairs = np.unique(np.c_[self.y[chosen], self.group[chosen]], axis=0)
                out[f"{name}_groups"] = np.bincount(pairs[:, 0], minlength=len(self.classes))
        return out

    def truth(self, part: str) -> np.ndarray:
        """Return the class index of each row of a part; ``validation`` are the training rows learned from."""
        return np.asarray(self.y[self.index(part)])

    def index(self, part: str) -> np.ndarray:
        """Return the row numbers of a part, in the order of its predictions."""
        if part == "test":
            return np.flatnonzero(self.part == TEST)
        return self.rows if part == "validation" else np.flatnonzero(self.part == TRAIN)


def steps(data: ThreatData) -> int:
    """Return the most steps that `fit` reports: what a full trial has."""
    return data.effort.max_steps
