"""What the failure task is and works on: its names and metrics, the effort, and the labelled, split series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data import splits
from aiops_core.derive import Derived
from aiops_core.facts import FACTS

NAME = "failure"
MODEL, KIND = FACTS[NAME].model, FACTS[NAME].kind
MAIN_METRIC = "average_precision"
OBJECTIVE = "average_precision"
MODE = "max"
#: What the gate compares; simple baselines by the first one only. The first is what the search maximises, F1 that of
#: the decision that is served. ROC AUC is reported and decides nothing: with rare incidents it is about the order of
#: rows far below any threshold that would alarm.
GATE_METRICS = ("average_precision", "f1")
#: One of these must beat the class prior: a ranking alone is no probability.
PROBABILITY_METRICS = ("brier",)
SIMPLE_BASELINES = ("class_prior", "rules")
#: Knows nothing: where the way to the oracle begins.
NAIVE_BASELINES = ("class_prior",)
STRONG_BASELINES = ("hist_gradient_boosting", "random_forest", "extra_trees", "recurrence")
#: What is held out for the test: the last part of the time, or whole resources.
PROTOCOLS = ("time", "resource")
PARTS = {"train": splits.TRAIN, "validation": splits.VALIDATION, "test": splits.TEST}
#: Windows that are computed at a time.
CHUNK = 4096
Params = Mapping[str, Any]
Prediction = dict[str, np.ndarray]
Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Effort:
    """How much work training is given; less makes a quick run of lower quality.

    Attributes
    ----------
    max_steps : int
        Epochs of a full trial.
    epoch_rows : (int, int)
        Least and most rows an epoch.
    validation_rows : int
        Most rows scored after an epoch.
    baseline_rows : int
        Rows that the trees of the baselines learn from; where there are more, negative rows are thinned and weigh more.
    baseline_trees : int
        Rounds of the boosted trees, and trees of a forest.
    pool_rows : int
        Rows that the training of one network may draw from.
    watched_rows : int
        Rows, one a step, that tell how often the service would alert: of each left-out block, and of the test part.
    folds : int
        Blocks of the cross-fitting.
    networks : int
        Networks of the final model that are trained without the same block.
    finalists : int
        Distinct parameter sets of the search in the final mean.
    align_rows : int
        Rows on which the networks of the final model are brought to one scale.
    clock : bool
        Whether a network may read the time of day: where incidents recur daily it may learn little else, which no new
        resource has any use for.
    """

    max_steps: int = 8
    epoch_rows: tuple[int, int] = (6_000, 16_000)
    validation_rows: int = 8_000
    baseline_rows: int = 60_000
    baseline_trees: int = 80
    pool_rows: int = 400_000
    watched_rows: int = 20_000
    folds: int = 3
    networks: int = 1
    finalists: int = 2
    align_rows: int = 4_000
    clock: bool = True


#: What a model for use is given.
FULL_EFFORT = Effort()
#: For a first try of a source or a notebook: every step is taken, none is taken far.
QUICK_EFFORT = Effort(
    max_steps=3,
    epoch_rows=(1_000, 3_000),
    validation_rows=2_000,
    baseline_rows=10_000,
    baseline_trees=25,
    pool_rows=50_000,
    watched_rows=5_000,
    folds=2,
    align_rows=1_000,
)


@dataclass
class FailureData:
    """Series, labels and parts of one failure data set; windows are cut out when needed.

    Attributes
    ----------
    values : ndarray, (n_rows, n_features), float32
        Metrics on the regular grid, raw units, then derived features; NaN is missing.
    start : ndarray, (n_rows,), int64
        Position of the first row of the row's resource.
    resource : ndarray, (n_rows,), int32
        Index into ``resources``.
    time : ndarray, (n_rows,), datetime64[s]
        UTC.
    until : ndarray, (n_rows,), float64
        Steps to the start of the next incident, inf when none is known.
    known : ndarray, (n_rows,), float64
        Steps after the row for which incidents are known, inf where the record ends by failure.
    example : ndarray, (n_rows,), bool
        Rows that have a label.
    part : ndarray, (n_rows,), int8
        Part of the row by time or resource, whether or not it is an example; -1 is embargo.
    ends : dict of str to ndarray
        Positions of the examples of each part, ascending: every ``stride``-th row.
    fold : ndarray, (n_rows,), int8
        Block of the row in the cross-fitting of the final model, -1 for the test part.
    by_resource : bool
        Whole resources are held out, instead of the end of every resource's time.
    incidents : DataFrame
        ``resource`` (index), ``start`` and ``end``, datetime64[s].
    features : list of dict
        The metrics as in the card, then the derived features.
    center, scale : ndarray, (n_features,), float32
        Median and robust standard deviation of training rows.
    oracle : dict of str to ndarray, or None
        The oracle's probabilities by part: ``test`` and, where it knows these rows, ``validation``.
    effort : Effort
    info : dict
    """

    values: np.ndarray
    start: np.ndarray
    resource: np.ndarray
    time: np.ndarray
    until: np.ndarray
    known: np.ndarray
    example: np.ndarray
    part: np.ndarray
    ends: dict[str, np.ndarray]
    fold: np.ndarray
    by_resource: bool
    incidents: pd.DataFrame
    resources: list[str]
    features: list[dict[str, Any]]
    center: np.ndarray
    scale: np.ndarray
    window: int
    horizon: int
    stride: int
    step_seconds: int
    oracle: dict[str, np.ndarray] | None
    effort: Effort = FULL_EFFORT
    info: dict[str, Any] = field(default_factory=dict)
    #: By column, see `tables.column_facts`; goes into the card, and nothing is learned from it.
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    derived: Derived = field(default_factory=Derived)
    #: What `aiops_core.tasks.failure.trees` has fitted: baselines and members of the final model share it.
    trees: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Features that are columns of the table: what a request holds."""
        return self.features[: len(self.features) - len(self.derived)]

    @property
    def served_window(self) -> int:
        """Steps that a request must hold: a window, and what derived features look back on before it."""
        return self.window + self.derived.reach

    def windows(self, ends: np.ndarray) -> np.ndarray:
        """Cut out the windows that end at the given rows, padded on the left with NaN.

        Returns
        -------
        ndarray, (n, window, n_features), float32
        """
        return self._cut(ends, self.window, self.values.shape[1])

    def served_windows(self, ends: np.ndarray) -> np.ndarray:
        """Cut out what a request would hold at the given rows, without derived features.

        Returns
        -------
        ndarray, (n, served_window, n_metrics), float32
        """
        return self._cut(ends, self.served_window, len(self.metrics))

    def _cut(self, ends: np.ndarray, steps: int, columns: int) -> np.ndarray:
        index = ends[:, None] + np.arange(1 - steps, 1)
        out = self.values[np.maximum(index, 0), :columns]
        out[index < self.start[ends][:, None]] = np.nan
        return out

    def label(self, ends: np.ndarray) -> np.ndarray:
        """Return 1 where an incident starts within the horizon, (n,), int64."""
        return np.asarray(self.until[ends] <= self.horizon, dtype=np.int64)

    def truth(self, part: str) -> np.ndarray:
        """Return the labels of a part's examples, (n,), int64."""
        return self.label(self.ends[part])

    def names(self, ends: np.ndarray) -> list[str]:
        """Return the names of the resources of rows."""
        return [self.resources[i] for i in self.resource[ends]]

    def keys(self, part: str) -> pd.DataFrame:
        """Return ``resource_id`` and ``timestamp`` of a part's examples."""
        ends = self.ends[part]
        names = np.array(self.resources, dtype=object)[self.resource[ends]]
        return pd.DataFrame({"resource_id": names, "timestamp": pd.DatetimeIndex(self.time[ends]).tz_localize("UTC")})

    def every_step(self, part: str) -> np.ndarray:
        """Return the positions of all labelled rows of a part, one a step whatever the stride, ascending."""
        return np.flatnonzero((self.part == PARTS[part]) & self.example)

    def summary(self) -> pd.DataFrame:
        """Return examples, positives and incidents by part, for a notebook."""
        rows = {}
        for part, ends in self.ends.items():
            truth = self.label(ends)
            next_start = self.time[ends][truth == 1] + (self.until[ends][truth == 1] * self.step_seconds).astype(
                "timedelta64[s]"
            )
            rows[part] = {
                "examples": len(ends),
                "positive": int(truth.sum()),
                "base_rate": float(truth.mean()) if len(ends) else float("nan"),
                "resources": len(np.unique(self.resource[ends])),
                "incidents": len(set(zip(self.resource[ends][truth == 1].tolist(), next_start.tolist(), strict=True))),
            }
        return pd.DataFrame(rows).T.rename_axis("part")
