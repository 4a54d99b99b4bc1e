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

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from aiops_core import rules, servable
from aiops_core.data import splits, tables
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError
from aiops_core.facts import FACTS
from aiops_core.judge import curves, intervals, metrics
from aiops_core.judge.intervals import Metric
from aiops_core.servable.failure import GRAPH, FailureServable, apply_calibration, choose_threshold, clock_of
from aiops_core.units import unit_of

__all__ = [
    "GATE_METRICS",
    "KIND",
    "MAIN_METRIC",
    "MAX_STEPS",
    "MODE",
    "MODEL",
    "NAME",
    "OBJECTIVE",
    "PROBABILITY_METRICS",
    "SIMPLE_BASELINES",
    "STRONG_BASELINES",
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
    "prepare",
    "score",
    "space",
    "steps",
]

NAME = "failure"
MODEL, KIND = FACTS[NAME].model, FACTS[NAME].kind
MAIN_METRIC = "roc_auc"
OBJECTIVE = "average_precision"
MODE = "max"
#: Epochs of a full trial.
MAX_STEPS = 8
#: What the gate compares; simple baselines by the first one only.
GATE_METRICS = ("roc_auc", "average_precision", "f1")
#: One of these must beat the class prior: a ranking alone is no probability.
PROBABILITY_METRICS = ("brier",)
SIMPLE_BASELINES = ("class_prior", "rules")
STRONG_BASELINES = ("hist_gradient_boosting",)

VALIDATION_FRACTION = 0.2
#: Horizons learned together, as multiples of the horizon, and their weight in the loss.
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
MULTIPLE_WEIGHTS = (0.5, 0.5, 1.0, 0.5, 0.5)
MAIN = MULTIPLES.index(1.0)
#: Least and most rows an epoch, rows scored after an epoch, rows of the gradient-boosted baseline.
EPOCH_ROWS = (6_000, 16_000)
VALIDATION_ROWS = 8_000
BASELINE_ROWS = 15_000
BATCH = 128
CHUNK = 4096
SUMMARY_CHUNK = 16_384
#: Rows that the training of one network may draw from.
POOL_ROWS = 400_000
FOLDS = 4
#: Distinct parameter sets of the search in the final mean.
FINALISTS = 2
#: Share of training windows whose time of day is hidden, so that the model also works without it.
CLOCK_DROPOUT = 0.25
CLOCK_BINS = 48
#: Standard deviations after which a squashed value is cut.
CLIP = 6.0
#: The rules need this many of their metrics to be a fair baseline.
MIN_RULE_METRICS = 3
LEAST_SLOPE = 0.05
#: Rows on which the networks of the final model are brought to one scale.
ALIGN_ROWS = 4_000
GOLDEN_ROWS = 24
CURVE_POINTS = 120
DAY_SECONDS = 86_400

Params = Mapping[str, Any]
Prediction = dict[str, np.ndarray]
Report = Callable[[int, dict[str, float]], None]
_PART = {"train": splits.TRAIN, "validation": splits.VALIDATION, "test": splits.TEST}


@dataclass
class FailureData:
    """Series, labels and parts of one failure data set; windows are cut out when needed.

    Attributes
    ----------
    values : ndarray, (n_rows, n_features), float32
        Metrics on the regular grid, raw units; NaN is missing.
    start : ndarray, (n_rows,), int64
        Position of the first row of the row's resource.
    resource : ndarray, (n_rows,), int32
        Index into ``resources``.
    time : ndarray, (n_rows,), datetime64[s]
        UTC.
    until : ndarray, (n_rows,), float64
        Steps to the start of the next incident, inf when none is known.
    known : ndarray, (n_rows,), float64
        Steps after the row for which incidents are known.
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
        As in the card.
    center, scale : ndarray, (n_features,), float32
        Median and robust standard deviation of training rows.
    oracle : ndarray, (n_test,) or None
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
    oracle: np.ndarray | None
    info: dict[str, Any] = field(default_factory=dict)

    def windows(self, ends: np.ndarray) -> np.ndarray:
        """Cut out the windows that end at the given rows, padded on the left with NaN.

        Returns
        -------
        ndarray, (n, window, n_features), float32
        """
        index = ends[:, None] + np.arange(1 - self.window, 1)
        out = self.values[np.maximum(index, 0)]
        out[index < self.start[ends][:, None]] = np.nan
        return out

    def label(self, ends: np.ndarray) -> np.ndarray:
        """Return 1 where an incident starts within the horizon, (n,), int64."""
        return np.asarray(self.until[ends] <= self.horizon, dtype=np.int64)

    def truth(self, part: str) -> np.ndarray:
        """Return the labels of a part's examples, (n,), int64."""
        return self.label(self.ends[part])

    def keys(self, part: str) -> pd.DataFrame:
        """Return ``resource_id`` and ``timestamp`` of a part's examples."""
        ends = self.ends[part]
        names = np.array(self.resources, dtype=object)[self.resource[ends]]
        return pd.DataFrame({"resource_id": names, "timestamp": pd.DatetimeIndex(self.time[ends]).tz_localize("UTC")})

    def clusters(self, part: str) -> np.ndarray:
        """Return the bootstrap cluster of each example: its resource, or its stretch of window + horizon steps."""
        ends = self.ends[part]
        owner: np.ndarray = self.resource[ends].astype(np.int64)
        if self.by_resource:
            return owner
        block: np.ndarray = (ends - self.start[ends]) // (self.window + self.horizon)
        return np.asarray(owner * (int(block.max(initial=0)) + 1) + block)

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


# Data ----------------------------------------------------------------------------------------------------------


def prepare(dataset: Dataset, *, seed: int) -> FailureData:
    """Turn telemetry and incidents into labelled, split series.

    Parameters
    ----------
    dataset : Dataset
        With tables ``telemetry`` and ``incidents``; ``config["failure"]`` may hold ``window, horizon, stride,
        test_fraction``.
    seed : int
        Chooses the held-out resources where whole resources are held out.

    Returns
    -------
    FailureData

    Raises
    ------
    DataError
        If there are fewer rows than a window, or a part has no positive or no negative example.
    """
    config = {**tables.DEFAULT_CONFIG["failure"], **dataset.config.get("failure", {})}
    window, horizon, stride = int(config["window"]), int(config["horizon"]), int(config["stride"])
    frame, incidents = dataset.tables["telemetry"], dataset.tables["incidents"]
    columns = tables.feature_columns("telemetry", frame)
    grid = tables.to_grid(frame, columns)
    n = len(grid.resource)
    starts = np.flatnonzero(np.r_[True, grid.resource[1:] != grid.resource[:-1]])
    lengths = np.diff(np.r_[starts, n])
    start = np.repeat(starts, lengths)
    position = np.arange(n) - start
    if lengths.max() < window:
        raise DataError(
            f"the longest resource has {int(lengths.max())} steps, fewer than a window of {window}", table="telemetry"
        )
    table = _incident_table(incidents, grid)
    until, inside, known = _labels(grid, table, starts, lengths)
    example = grid.present & ~inside & ((until <= horizon) | (known >= horizon))

    official = "split" in frame.columns
    part, by_resource, sentence = _parts(frame, grid, config, position, start, np.random.default_rng([seed, 11]))
    on_stride = (position - (window - 1)) % stride == 0
    ends = {name: np.flatnonzero((part == code) & example & on_stride) for name, code in _PART.items()}
    for name, rows in ends.items():
        positive = int((until[rows] <= horizon).sum())
        if positive == 0 or positive == len(rows):
            lacking = "rows" if len(rows) == 0 else "positive rows" if positive == 0 else "negative rows"
            raise DataError(
                f"the {name} part has no {lacking} (window {window}, horizon {horizon} steps, {len(table)} incidents); "
                "it needs more time, more incidents or other window and horizon",
                table="incidents",
            )
    train = grid.values[(part == splits.TRAIN) & grid.present]
    useful = [i for i in range(len(columns)) if len(np.unique(train[~np.isnan(train[:, i]), i])) > 1]
    if not useful:
        raise DataError("all feature columns are constant or missing in the training part", table="telemetry")
    values, train = np.ascontiguousarray(grid.values[:, useful]), train[:, useful]
    names = [columns[i] for i in useful]
    center, scale = _scaling(train)
    data = FailureData(
        values=values,
        start=start,
        resource=grid.resource,
        time=grid.time,
        until=until,
        known=known,
        example=example,
        part=part,
        ends=ends,
        fold=_folds(part, grid.resource, start, by_resource, np.random.default_rng([seed, 12])),
        by_resource=by_resource,
        incidents=table,
        resources=grid.resources,
        features=[_feature(name, train[:, i]) for i, name in enumerate(names)],
        center=center,
        scale=scale,
        window=window,
        horizon=horizon,
        stride=stride,
        step_seconds=grid.step_seconds,
        oracle=None,
    )
    data.oracle = _oracle_rows(dataset.oracles.get("failure"), data)
    data.info = {
        "rows": sum(len(rows) for rows in ends.values()),
        "train_rows": len(ends["train"]),
        "validation_rows": len(ends["validation"]),
        "test_rows": len(ends["test"]),
        "split": sentence,
        "official_split": official,
        "window": window,
        "horizon": horizon,
        "stride": stride,
        "step_seconds": grid.step_seconds,
        "features": names,
        "resources": len(grid.resources),
        "incidents": len(table),
        "base_rate": float(data.truth("train").mean()),
        "test_base_rate": float(data.truth("test").mean()),
        "unlabelled_rows": int((grid.present & ~inside & ~example).sum()),
        "rows_inside_incidents": int((grid.present & inside).sum()),
        **{f"{part}_incidents": int(count) for part, count in data.summary()["incidents"].items()},
    }
    return data


def _incident_table(incidents: pd.DataFrame, grid: tables.Grid) -> pd.DataFrame:
    code = {name: i for i, name in enumerate(grid.resources)}
    return (
        pd.DataFrame(
            {
                "resource": incidents["resource_id"].map(code).to_numpy(dtype=np.int32),
                "start": _naive(incidents["start"]),
                "end": _naive(incidents["end"]),
            }
        )
        .sort_values(["resource", "start"], kind="stable")
        .reset_index(drop=True)
    )


def _naive(stamps: pd.Series) -> np.ndarray:
    return np.asarray(stamps.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), dtype="datetime64[s]")


def _labels(
    grid: tables.Grid, table: pd.DataFrame, starts: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps to the next start, whether a row is inside an incident, and the steps known after each row."""
    seconds = grid.time.astype(np.int64)
    begin, end = (table[c].to_numpy().astype("datetime64[s]").astype(np.int64) for c in ("start", "end"))
    owner = table["resource"].to_numpy().astype(np.int64)
    low = min(int(seconds.min()), int(begin.min(initial=int(seconds.min()))))
    high = max(int(seconds.max()), int(end.max(initial=int(seconds.max()))), int(begin.max(initial=int(seconds.max()))))
    # One sorted axis for all resources: each owns a span that no time of another can reach.
    span = high - low + 1
    at = grid.resource.astype(np.int64) * span + seconds - low
    begin_at, end_at = owner * span + begin - low, np.sort(owner * span + end - low)
    following = np.searchsorted(begin_at, at, side="right")
    padded = np.r_[begin_at, np.iinfo(np.int64).max]
    same = np.r_[owner, -1][following] == grid.resource
    until = np.where(same, (padded[following] - at) / grid.step_seconds, np.inf)
    inside = following > np.searchsorted(end_at, at, side="right")
    last = seconds[starts + lengths - 1].copy()
    np.maximum.at(last, owner, begin)
    known = (np.repeat(last, lengths) - seconds) / grid.step_seconds
    return until, inside, known


def _parts(
    frame: pd.DataFrame,
    grid: tables.Grid,
    config: Mapping[str, Any],
    position: np.ndarray,
    start: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, bool, str]:
    """Return the part of every row, whether whole resources are held out, and the sentence that says so."""
    embargo = int(config["window"]) + int(config["horizon"])
    if "split" not in frame.columns:
        fraction = float(config["test_fraction"])
        held = VALIDATION_FRACTION * (1 - fraction)
        part = splits.by_time(grid.resource, test_fraction=fraction, validation_fraction=held, embargo=embargo)
        return (
            part,
            False,
            (
                f"by time in every resource: the first {1 - fraction - held:.0%} trains, the next {held:.0%} "
                f"validates, the last {fraction:.0%} tests, {embargo} steps of embargo between"
            ),
        )
    tested = _test_rows(frame, grid, start)
    fresh = tested == (np.bincount(grid.resource, weights=tested) > 0)[grid.resource]
    if fresh.all():
        # Resources of the test part are new ones: validate on whole resources as well.
        part = np.where(tested, splits.TEST, splits.TRAIN).astype(np.int8)
        rows = np.flatnonzero(part == splits.TRAIN)
        if len(np.unique(grid.resource[rows])) >= FOLDS:
            part[rows[splits.by_group(grid.resource[rows], VALIDATION_FRACTION, rng)]] = splits.VALIDATION
            return part, True, "official split; whole resources of its training part validate"
    # Rows before the first test row of a resource can be learned from, less an embargo.
    first = np.full(len(grid.resources), np.iinfo(np.int64).max)
    np.minimum.at(first, grid.resource[tested], position[tested])
    part = np.where(tested, splits.TEST, splits.TRAIN).astype(np.int8)
    part[~tested & (position > first[grid.resource] - 1 - embargo)] = splits.NONE
    rows = np.flatnonzero(part == splits.TRAIN)
    inner = splits.by_time(
        grid.resource[rows], test_fraction=VALIDATION_FRACTION, validation_fraction=0.0, embargo=embargo
    )
    part[rows] = np.where(
        inner == splits.TEST, splits.VALIDATION, np.where(inner == splits.TRAIN, splits.TRAIN, splits.NONE)
    )
    return (
        part,
        False,
        (
            f"official split; the last {VALIDATION_FRACTION:.0%} of each training record validates, "
            f"{embargo} steps of embargo between"
        ),
    )


def _test_rows(frame: pd.DataFrame, grid: tables.Grid, start: np.ndarray) -> np.ndarray:
    """Return the official test mark of every grid row; a missing row takes the mark of the row before it."""
    marks = tables.to_grid(
        frame[["resource_id", "timestamp"]].assign(mark=(frame["split"] == "test").astype(float)),
        ["mark"],
        step_seconds=grid.step_seconds,
    ).values[:, 0]
    filled = np.maximum.accumulate(np.where(np.isnan(marks), start, np.arange(len(marks))))
    return np.asarray(marks[filled] == 1)


def _folds(
    part: np.ndarray, resource: np.ndarray, start: np.ndarray, by_resource: bool, rng: np.random.Generator
) -> np.ndarray:
    """Assign every row that is not test to one of `FOLDS` blocks: whole resources, or stretches of time."""
    fold: np.ndarray = np.full(len(part), -1, dtype=np.int8)
    if by_resource:
        names = np.unique(resource[part != splits.TEST])
        own = np.zeros(int(resource.max()) + 1, dtype=np.int8)
        own[rng.permutation(names)] = np.arange(len(names)) % FOLDS
        fold[:] = own[resource]
        fold[part == splits.TEST] = -1
        return fold
    position = np.arange(len(part)) - start
    learned = np.where((part == splits.TRAIN) | (part == splits.VALIDATION), position, -1)
    last = np.full(int(resource.max()) + 1, -1)
    np.maximum.at(last, resource, learned)
    length = (last + 1)[resource]
    inside = position < length
    fold[inside] = (position[inside] * FOLDS) // length[inside]
    return fold


def _scaling(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and robust standard deviation of each column (n_features,), float32."""
    low, center, high = np.nanpercentile(train, [5, 50, 95], axis=0)
    # The middle 90 % of a normal distribution spans 3.29 standard deviations.
    robust, plain = (high - low) / 3.29, np.nanstd(train.astype(np.float64), axis=0)
    # A column that is nearly always the same has no robust spread.
    scale = np.where(robust > 1e-3 * plain, robust, plain)
    return center.astype(np.float32), np.where(scale > 0, scale, 1.0).astype(np.float32)


def _feature(name: str, values: np.ndarray) -> dict[str, Any]:
    seen = values[~np.isnan(values)].astype(np.float64)
    low, median, high = np.percentile(seen, [1, 50, 99])
    reference = {
        "median": float(median),
        "p01": float(low),
        "p99": float(high),
        "min": float(seen.min()),
        "max": float(seen.max()),
        "mean": float(seen.mean()),
        "std": float(seen.std()),
    }
    return {"name": name, "unit": unit_of(name, reference["max"]), "dtype": "number", "reference": reference}


def _oracle_rows(frame: pd.DataFrame | None, data: FailureData) -> np.ndarray | None:
    if frame is None:
        return None
    found = data.keys("test").merge(frame, on=["resource_id", "timestamp"], how="left", validate="one_to_one")
    return found["probability"].to_numpy(dtype=np.float64)


# Search --------------------------------------------------------------------------------------------------------


def space(data: FailureData) -> dict[str, BaseDistribution]:
    """Return the search space; ``patch`` is the number of steps that one LSTM step summarises."""
    longest = max(1, data.window // 6)
    return {
        "units": CategoricalDistribution([16, 32, 48]),
        "patch": CategoricalDistribution([p for p in (1, 2, 3, 5, 8, 10) if p <= longest]),
        "local": CategoricalDistribution([0, 1]),
        "clock": CategoricalDistribution([0, 1]),
        "dense": CategoricalDistribution([16, 32]),
        "dropout": FloatDistribution(0.0, 0.5),
        "input_dropout": FloatDistribution(0.0, 0.3),
        "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
        "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
    }


def defaults(data: FailureData) -> list[dict[str, Any]]:
    """Return the points that are tried first."""
    patches = [p for p in (1, 2, 3, 5, 8, 10) if p <= max(1, data.window // 10)]
    base: dict[str, Any] = {
        "units": 32,
        "patch": patches[-1],
        "local": 1,
        "clock": 1,
        "dense": 16,
        "dropout": 0.2,
        "input_dropout": 0.0,
        "learning_rate": 6e-3,
        "weight_decay": 1e-4,
    }
    # The second is for few incidents in many metrics, where the first learns the incidents by heart.
    careful = {**base, "local": 0, "dropout": 0.4, "input_dropout": 0.1, "learning_rate": 3e-3, "weight_decay": 1e-2}
    return [base, careful, {**base, "clock": 0}]


# Networks ------------------------------------------------------------------------------------------------------


@dataclass
class FailureModel:
    """Networks whose mean logit is calibrated.

    Attributes
    ----------
    networks : list
        Keras models: ``{"patches", "clock"}`` to logits (n, number of horizons).
    slope, offset : float
        Calibration of the mean logit.
    threshold : float
        Alarm threshold of the rule ``max_f1``.
    curve : dict
        Policy curve on rows no network of the prediction was trained on, see `policies`.
    params : list of dict
        Parameters of each network.
    aligned : list of (float, float)
        Factor and shift that bring each network's logits to a common scale before the mean.
    native : dict
        The combined Keras model under its name.
    """

    networks: list[Any]
    params: list[dict[str, Any]]
    aligned: list[tuple[float, float]]
    slope: float = 1.0
    offset: float = 0.0
    threshold: float = 0.5
    curve: dict[str, list[float]] = field(default_factory=dict)
    native: dict[str, Any] = field(default_factory=dict)


def _tensorflow() -> tuple[Any, Any]:
    """Import TensorFlow and Keras with one thread, deterministic kernels and no logging."""
    import os

    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0"), ("CUDA_VISIBLE_DEVICES", "-1")):
        os.environ.setdefault(name, value)
    import keras
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        # TensorFlow has already run in this process: its threads cannot change any more.
        pass
    tf.config.experimental.enable_op_determinism()
    # Every trial is another network: TensorFlow's advice against new traces does not apply.
    tf.get_logger().setLevel("ERROR")
    return tf, keras


def _patches(x: Any, steps: int, patch: int, data: FailureData) -> Any:
    """Summarise raw windows (n, steps, n_features) in patches of ``patch`` steps.

    Patches are counted from the window's end; its oldest steps that fill no patch are left out.

    Returns
    -------
    tensor, (n, steps // patch, 3 * n_features + 1)
        Mean, whether any value is there, spread, and the share of missing values of all features.
    """
    from keras import ops

    features = len(data.features)
    count = steps // patch
    seen = ops.cast(ops.equal(x, x), "float32")
    # Plain arrays become constants of the ONNX graph; the export turns those of a Normalization layer into inputs.
    scaled = (x - data.center) / data.scale
    scaled = ops.where(ops.isnan(scaled), ops.zeros_like(scaled), scaled)
    # Heavy tails stay ordered but lose their leverage: asinh is linear near 0 and logarithmic far from it.
    scaled = ops.clip(ops.arcsinh(scaled), -CLIP, CLIP)
    scaled, seen = scaled[:, steps - count * patch :], seen[:, steps - count * patch :]
    scaled = ops.reshape(scaled, (-1, count, patch, features))
    seen = ops.reshape(seen, (-1, count, patch, features))
    size = ops.sum(seen, axis=2)
    some = ops.maximum(size, 1.0)
    mean = ops.sum(scaled * seen, axis=2) / some
    spread = ops.sqrt(ops.sum(ops.square((scaled - mean[:, :, None, :]) * seen), axis=2) / some + 1e-6)
    missing = 1.0 - ops.mean(seen, axis=(2, 3))[..., None]
    return ops.concatenate([mean, ops.minimum(size, 1.0), spread, missing], axis=-1)


def _core(params: Params, data: FailureData) -> Any:
    """Build one network: patches (n, count, 3 * n_features + 1) and clock (n, 1) to logits (n, number of horizons)."""
    _, keras = _tensorflow()
    from keras import layers, ops

    features, patch = len(data.features), _patch(params, data)
    inputs = {"patches": layers.Input((data.window // patch, 3 * features + 1), name="patches")}
    x = inputs["patches"]
    mean, some, spread, missing = (
        x[..., :features],
        x[..., features : -features - 1],
        x[..., -features - 1 : -1],
        x[..., -1:],
    )
    channels = [mean, missing]
    if params["local"]:
        level = ops.sum(mean, axis=1, keepdims=True) / ops.maximum(ops.sum(some, axis=1, keepdims=True), 1.0)
        channels.append((mean - level) * some)
    if patch > 1:
        channels.append(spread)
    hidden = ops.concatenate(channels, axis=-1)
    if params["input_dropout"] > 0:
        hidden = layers.SpatialDropout1D(params["input_dropout"])(hidden)
    hidden = layers.LSTM(int(params["units"]))(hidden)
    if params["clock"]:
        inputs["clock"] = layers.Input((1,), name="clock")
        hidden = layers.Concatenate()([hidden, layers.Dense(8, use_bias=False)(_clock_bins(inputs["clock"]))])
    hidden = layers.Dropout(params["dropout"])(hidden)
    hidden = layers.Dense(int(params["dense"]), activation="relu")(hidden)
    logits = layers.Dense(len(MULTIPLES), name="horizons")(hidden)
    return keras.Model(inputs, logits)


def _patch(params: Params, data: FailureData) -> int:
    return min(int(params["patch"]), data.window)


def _clock_bins(clock: Any) -> Any:
    """Return weights (n, CLOCK_BINS) of overlapping half hours; all 0 when the time of day is not known."""
    from keras import ops

    known = ops.cast(ops.equal(clock, clock), "float32")
    place = ops.where(ops.isnan(clock), ops.zeros_like(clock), clock) * CLOCK_BINS
    apart = ops.abs(place - np.arange(CLOCK_BINS, dtype=np.float32)[None])
    return ops.maximum(1.0 - ops.minimum(apart, CLOCK_BINS - apart), 0.0) * known


def _train(
    params: Params,
    data: FailureData,
    rows: np.ndarray,
    bound: np.ndarray,
    check: np.ndarray,
    *,
    seed: int,
    report: Report | None = None,
) -> tuple[Any, np.ndarray]:
    """Train one network.

    Parameters
    ----------
    rows : ndarray
        Positions of the rows to learn from.
    bound : ndarray, (n_rows of data,)
        Steps after each row whose incidents may be looked at.
    check : ndarray
        Positions of rows that choose the epoch; never learned from.

    Returns
    -------
    network, logits : Keras model and ndarray, (len(check),)
    """
    tf, keras = _tensorflow()
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng([seed, 13])
    rows = _pool(data, rows, rng)
    network = _core(params, data)
    horizons = np.array(MULTIPLES) * data.horizon
    soon = data.until[rows, None] <= horizons
    labelled = (soon & (data.until[rows, None] <= bound[rows, None])) | (
        np.minimum(bound, data.known)[rows, None] >= horizons
    )
    weight = labelled * np.array(MULTIPLE_WEIGHTS)
    target, weight = soon.astype(np.float32), weight.astype(np.float32)
    rate = np.clip((target * weight).sum(0) / np.maximum(weight.sum(0), 1e-9), 1e-3, 1 - 1e-3)
    network.get_layer("horizons").bias.assign(np.log(rate / (1 - rate)))

    clocked = bool(params["clock"])
    patch = _patch(params, data)
    places = _places(data, patch)
    store, slot = _summaries(data, patch, [places(rows), places(check)])
    table = tf.constant(store)
    clock = clock_of(data.time, len(data.time))

    def inputs(ends: np.ndarray) -> tuple[Any, Any]:
        return tf.constant(slot[places(ends) + 1]), tf.constant(clock[ends])

    def feed(index: Any, clock: Any) -> dict[str, Any]:
        patches = {"patches": tf.gather(table, index)}
        return {**patches, "clock": clock} if clocked else patches

    per_epoch = math.ceil(int(np.clip(len(np.unique(rows // data.stride)), *EPOCH_ROWS)) / BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(params["learning_rate"], per_epoch * MAX_STEPS, alpha=0.02)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=params["weight_decay"], clipnorm=1.0)
    optimizer.build(network.trainable_variables)

    @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(index: Any, clock: Any, wanted: Any, importance: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = network(feed(index, clock), training=True)
            loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=logits) * importance
            loss = tf.reduce_mean(tf.reduce_sum(loss, axis=1))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return loss

    @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def forward(index: Any, clock: Any) -> Any:
        return network(feed(index, clock), training=False)[:, MAIN]

    def logits_of(ends: np.ndarray) -> np.ndarray:
        parts = [forward(*inputs(ends[i : i + CHUNK])).numpy() for i in range(0, len(ends), CHUNK)]
        return np.concatenate(parts).astype(np.float64)

    truth = data.label(check)
    best, best_score, best_logits = network.get_weights(), -np.inf, np.zeros(len(check))
    for epoch in range(1, MAX_STEPS + 1):
        chosen = _epoch(rows, data.stride, per_epoch * BATCH, rng)
        hidden = rng.random(len(chosen)) < CLOCK_DROPOUT
        loss = 0.0
        for i in range(0, len(chosen), BATCH):
            part = chosen[i : i + BATCH]
            index, hour = inputs(rows[part])
            hour = tf.where(hidden[i : i + BATCH, None], tf.constant(np.nan, tf.float32), hour)
            loss += float(step(index, hour, target[part], weight[part])) / per_epoch
        logits = logits_of(check)
        found = _numbers(truth, logits)
        if found[OBJECTIVE] > best_score:
            best, best_score, best_logits = network.get_weights(), found[OBJECTIVE], logits
        if report is not None:
            report(epoch, {**found, "train_loss": loss})
    network.set_weights(best)
    return network, best_logits


def _pool(data: FailureData, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep at most about `POOL_ROWS` rows, in whole stretches of time, so that memory is bounded on any data set."""
    if len(rows) <= POOL_ROWS:
        return rows
    length = 20 * data.window
    stretch = data.resource[rows].astype(np.int64) * (len(data.time) // length + 2) + rows // length
    _, index, counts = np.unique(stretch, return_inverse=True, return_counts=True)
    order = rng.permutation(len(counts))
    kept = np.zeros(len(counts), dtype=bool)
    kept[order[np.cumsum(counts[order]) <= POOL_ROWS]] = True
    return rows[kept[index]]


def _places(data: FailureData, patch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of window ends (n,): the rows at which their patches end, (n, count), -1 is padding."""
    back = np.arange(data.window // patch - 1, -1, -1) * patch

    def places(ends: np.ndarray) -> np.ndarray:
        index = ends[:, None] - back
        return np.where(index >= data.start[ends][:, None], index, -1)

    return places


def _summaries(data: FailureData, patch: int, wanted: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the patches that end at the wanted rows, once for all epochs, by the graph that is served.

    Returns
    -------
    store : ndarray, (1 + number of wanted rows, 3 * n_features + 1), float32
        The first one is padding.
    slot : ndarray, (n_rows + 1,), int32
        Place of row ``i`` in ``store`` at ``i + 1``; ``slot[0]`` is padding.
    """
    tf, keras = _tensorflow()
    needed = np.zeros(len(data.time) + 1, dtype=bool)
    for index in wanted:
        needed[index.reshape(-1) + 1] = True
    needed[0] = True
    slot = (np.cumsum(needed) - 1).astype(np.int32)
    rows = np.flatnonzero(needed)[1:] - 1
    width = data.values.shape[1]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, patch, width), tf.float32)])  # type: ignore[untyped-decorator]
    def summarise(windows: Any) -> Any:
        return _patches(windows, patch, patch, data)[:, 0]

    back = np.arange(1 - patch, 1)
    store = np.empty((len(rows) + 1, 3 * width + 1), dtype=np.float32)
    store[0] = summarise(np.full((1, patch, width), np.nan, dtype=np.float32)).numpy()
    for i in range(0, len(rows), SUMMARY_CHUNK):
        chosen = rows[i : i + SUMMARY_CHUNK]
        index = chosen[:, None] + back
        windows = data.values[np.maximum(index, 0)]
        windows[index < data.start[chosen][:, None]] = np.nan
        store[1 + i : 1 + i + len(chosen)] = summarise(windows).numpy()
    return store, slot


def _epoch(rows: np.ndarray, stride: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``size`` indices into ``rows``: one row of each stride, all strides before any comes again.

    Between two labelled windows lie others that have a label too: every pass sees another phase of the stride.
    """
    chosen: list[np.ndarray] = []
    while sum(map(len, chosen)) < size:
        order = rng.permutation(len(rows))
        if stride > 1:
            _, first = np.unique((rows // stride)[order], return_index=True)
            order = rng.permutation(order[first])
        chosen.append(order)
    return np.concatenate(chosen)[:size]


def _numbers(truth: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return validation numbers of uncalibrated logits."""
    probability = apply_calibration(logits, 1.0, 0.0)
    found = metrics.failure_values(truth, probability, probability >= 0.5)(np.ones(len(truth)))
    loss = -np.mean(np.log(np.clip(np.where(truth == 1, probability, 1 - probability), 1e-12, 1.0)))
    return {
        "average_precision": _number(found["average_precision"]),
        "roc_auc": _number(found["roc_auc"]),
        "log_loss": float(loss),
    }


def _number(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _bound(data: FailureData, stop: np.ndarray) -> np.ndarray:
    """Return the steps from every row to the next row at which ``stop`` is True, inf if none in its resource."""
    n = len(stop)
    index = np.where(stop, np.arange(n), n)
    following = np.minimum.accumulate(index[::-1])[::-1]
    same = (following < n) & (data.resource[np.minimum(following, n - 1)] == data.resource)
    return np.where(same, following - np.arange(n), np.inf)


def fit(params: Params, data: FailureData, *, seed: int, report: Report | None = None) -> FailureModel:
    """Train one network on the training part; validation chooses its epoch.

    Parameters
    ----------
    params : mapping
        A point of `space`.
    seed : int
    report : callable, optional
        Called after every epoch with validation ``average_precision, roc_auc, log_loss`` and ``train_loss``.

    Returns
    -------
    FailureModel
        Not calibrated; see `finish`.
    """
    rows = np.flatnonzero((data.part == splits.TRAIN) & data.example)
    held = np.isin(data.part, (splits.VALIDATION, splits.TEST))
    check = _spread(data.ends["validation"], VALIDATION_ROWS)
    network, logits = _train(params, data, rows, _bound(data, held), check, seed=seed, report=report)
    model = FailureModel([network], [dict(params)], [(1.0, 0.0)])
    _decide(model, data, check, logits)
    return model


def finish(ranked: list[dict[str, Any]], data: FailureData, *, seed: int) -> FailureModel:
    """Train the final model: `FOLDS` networks, each without one block of the training and validation data.

    The networks take the best `FINALISTS` parameter sets in turn. What each predicts for its left-out block
    calibrates their mean and gives the policy curve.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets of the search, best first.
    """
    distinct = [dict(t) for t in dict.fromkeys(tuple(sorted(p.items())) for p in ranked)][:FINALISTS]
    networks, used, checks, outputs = [], [], [], []
    embargo = data.window + data.horizon
    strided = np.zeros(len(data.part), dtype=bool)
    strided[np.concatenate([data.ends["train"], data.ends["validation"]])] = True
    for k in range(FOLDS):
        block = data.fold == k
        check = np.flatnonzero(block & data.example & strided)
        away = ~block if data.by_resource else ~_near(data, block, embargo)
        rows = np.flatnonzero((data.fold >= 0) & (data.part != splits.TEST) & away & data.example)
        rows = rows[_bound(data, data.part == splits.TEST)[rows] > data.horizon]
        truth = data.label(check)
        if len(rows) == 0 or data.label(rows).sum() == 0 or truth.sum() in (0, len(truth)):
            continue
        params = distinct[k % len(distinct)]
        check = _spread(check, VALIDATION_ROWS)
        bound = _bound(data, block | (data.part == splits.TEST))
        network, logits = _train(params, data, rows, bound, check, seed=seed + k)
        networks.append(network)
        used.append(params)
        checks.append(check)
        outputs.append(logits)
    if not networks:
        return fit(ranked[0], data, seed=seed)
    aligned = _alignment(networks, used, data)
    outputs = [factor * logits + shift for logits, (factor, shift) in zip(outputs, aligned, strict=True)]
    model = FailureModel(networks, used, aligned)
    _decide(model, data, np.concatenate(checks), np.concatenate(outputs))
    return model


def _alignment(networks: list[Any], params: list[dict[str, Any]], data: FailureData) -> list[tuple[float, float]]:
    """Return factor and shift of each network's logits that give all of them one mean and spread on the same rows.

    The surer network would otherwise dominate the mean, and no single calibration would fit all held-out blocks.
    Labels are not looked at.
    """
    rows = _spread(np.flatnonzero((data.fold >= 0) & data.example), ALIGN_ROWS)
    single = [FailureModel([n], [p], [(1.0, 0.0)]) for n, p in zip(networks, params, strict=True)]
    found = [_logits(model, data, rows) for model in single]
    mean, spread = np.array([f.mean() for f in found]), np.array([max(f.std(), 1e-6) for f in found])
    factor = spread.mean() / spread
    return [(float(k), float(mean.mean() - k * m)) for k, m in zip(factor, mean, strict=True)]


def _near(data: FailureData, block: np.ndarray, distance: int) -> np.ndarray:
    """Return the rows of a block and those within ``distance`` steps of it in the same resource."""
    after = _bound(data, block) <= distance
    position = np.arange(len(block))
    last = np.maximum.accumulate(np.where(block, position, -1))
    before = (last >= data.start) & (position - last <= distance)
    return np.asarray(after | before)


def _decide(model: FailureModel, data: FailureData, rows: np.ndarray, logits: np.ndarray) -> None:
    """Calibrate on held-out logits, then set the policy curve and the default threshold."""
    truth = data.label(rows)
    model.slope, model.offset = _platt(logits, truth)
    order = np.argsort(rows, kind="stable")
    probability = apply_calibration(logits, model.slope, model.offset)[order]
    model.curve = policies(data, rows[order], probability)
    model.threshold = choose_threshold(model.curve, "max_f1")


def _platt(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Fit slope and offset of a logistic curve by Newton's method, targets smoothed as Platt (1999) does."""
    positive = float(truth.sum())
    negative = float(len(truth)) - positive
    if positive == 0 or negative == 0:
        return 1.0, 0.0
    target = np.where(truth == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    # Newton's steps are bounded, so the logits are brought to a common scale first.
    middle, spread = float(np.mean(logits)), max(float(np.std(logits)), 1e-9)
    x = np.c_[(logits - middle) / spread, np.ones(len(logits))]
    theta = np.array([0.0, float(np.log(positive / negative))])
    ridge = np.diag([1e-3, 1e-6])
    for _ in range(50):
        p = apply_calibration(x @ theta, 1.0, 0.0)
        gradient = x.T @ (p - target) + ridge @ theta
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        change = np.linalg.solve(hessian, gradient)
        theta = theta - change * min(1.0, 2.0 / max(float(np.abs(change).max()), 1e-12))
        if np.abs(change).max() < 1e-9:
            break
    slope = float(theta[0]) / spread
    # A negative slope would turn the ranking round: held-out data that poor only sets the level.
    if slope < LEAST_SLOPE:
        rate = positive / len(truth)
        return LEAST_SLOPE, float(np.log(rate / (1 - rate)) - LEAST_SLOPE * middle)
    return slope, float(theta[1]) - slope * middle


def predict(model: FailureModel, data: FailureData, part: str) -> Prediction:
    """Predict the examples of a part with the Keras networks.

    Returns
    -------
    dict
        ``probability`` (n,), float64 and ``alarm`` (n,), bool.
    """
    logits = _logits(model, data, data.ends[part])
    probability = apply_calibration(logits, model.slope, model.offset)
    return {"probability": probability, "alarm": probability >= model.threshold}


def _logits(model: FailureModel, data: FailureData, ends: np.ndarray) -> np.ndarray:
    """Return the mean logits (n,), float64, of the windows that end at the given rows."""
    combined = _combined(model, data)
    logits = np.zeros(len(ends))
    for i in range(0, len(ends), CHUNK):
        chosen = ends[i : i + CHUNK]
        feed = {"window": data.windows(chosen), "clock": clock_of(data.time[chosen], len(chosen))}
        logits[i : i + CHUNK] = np.asarray(combined({k: feed[k] for k in combined.input}, training=False))[:, 0]
    return logits


# Servable ------------------------------------------------------------------------------------------------------


def _combined(model: FailureModel, data: FailureData) -> Any:
    """Return one Keras model: raw windows and clock to the mean logit of all networks, (n, 1)."""
    if "keras" not in model.native:
        _, keras = _tensorflow()
        from keras import layers

        inputs = {"window": layers.Input((data.window, len(data.features)), name="window")}
        if any("clock" in network.input for network in model.networks):
            inputs["clock"] = layers.Input((1,), name="clock")
        sizes = [_patch(params, data) for params in model.params]
        patches = {size: _patches(inputs["window"], data.window, size, data) for size in sorted(set(sizes))}
        feeds = [{**inputs, "patches": patches[size]} for size in sizes]
        logits = [n({k: f[k] for k in n.input})[:, MAIN : MAIN + 1] for n, f in zip(model.networks, feeds, strict=True)]
        scaled = [factor * x + shift for x, (factor, shift) in zip(logits, model.aligned, strict=True)]
        mean = scaled[0] if len(scaled) == 1 else layers.Average()(scaled)
        model.native["keras"] = keras.Model(inputs, mean, name=MODEL)
    return model.native["keras"]


def export(model: FailureModel, data: FailureData, folder: Path) -> None:
    """Write the servable: one ONNX graph with all networks, the card and golden examples."""
    combined = _combined(model, data)
    clocked = "clock" in combined.input
    graph = _onnx(combined)
    card = {
        "task": NAME,
        "model": MODEL,
        "kind": KIND,
        "created": pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds"),
        "features": data.features,
        "missing_values": "NaN is learned as missing; rows before the first one are padding",
        "window": data.window,
        "horizon": data.horizon,
        "step_seconds": data.step_seconds,
        "uses_time_of_day": clocked,
        "networks": model.params,
        "decision": {"rule": "max_f1", "threshold": model.threshold, "curve": model.curve},
        "calibration": {"method": "platt", "parameters": {"slope": model.slope, "offset": model.offset}},
    }
    windows, last = _golden(data)
    with tempfile.TemporaryDirectory() as scratch:
        # The golden outputs are what the servable itself computes; parity with Keras is checked beside it.
        path = Path(scratch) / "servable"
        servable.write(path, card, {GRAPH: graph}, {"windows": windows, "last": last.astype(np.int64)})
        found = FailureServable(path, servable._read_card(path)).predict(windows, last)
    feed = {"window": windows, "clock": clock_of(last, len(last))}
    native = np.asarray(combined({k: feed[k] for k in combined.input}, training=False))[:, 0]
    expected = apply_calibration(native, model.slope, model.offset)
    worst = float(np.abs(expected - found).max())
    if worst > 1e-5:
        raise RuntimeError(f"the ONNX graph differs from the Keras model by {worst:.2g} in probability")
    servable.write(
        folder,
        card,
        {GRAPH: graph},
        {"windows": windows, "last": last.astype(np.int64), "expected_probability": expected},
    )


def _onnx(combined: Any) -> bytes:
    import contextlib
    import logging

    _, keras = _tensorflow()
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch) / "model.onnx"
        signature = {k: keras.InputSpec(shape=v.shape, dtype="float32", name=k) for k, v in combined.input.items()}
        combined.export(str(path), format="onnx", verbose=False, input_signature=[signature])
        return path.read_bytes()


def _golden(data: FailureData) -> tuple[np.ndarray, np.ndarray]:
    """Return test windows with the hard cases added: padding, missing values, an unknown time."""
    ends = _spread(data.ends["test"], GOLDEN_ROWS)
    windows, last = data.windows(ends), data.time[ends].copy()
    windows[0, : data.window // 2] = np.nan
    windows[1 % len(windows), :, 0] = np.nan
    windows[2 % len(windows)] = np.nan
    last[3 % len(last)] = np.datetime64("NaT")
    return windows, last


def score(model: FailureServable, data: FailureData, part: str) -> Prediction:
    """Predict the examples of a part through the loaded servable; the keys of `predict`, and ``f1_alarm``."""
    ends = data.ends[part]
    probability = np.empty(len(ends))
    for i in range(0, len(ends), CHUNK):
        chosen = ends[i : i + CHUNK]
        probability[i : i + CHUNK] = model.predict(data.windows(chosen), data.time[chosen])
    of_f1 = choose_threshold(model.card["decision"]["curve"], "max_f1")
    return {"probability": probability, "alarm": model.decide(probability), "f1_alarm": probability >= of_f1}


# Baselines and evaluation --------------------------------------------------------------------------------------


def baselines(data: FailureData, *, seed: int) -> dict[str, Prediction]:
    """Return the predictions of the baselines on the test part; thresholds of highest F1 on validation.

    ``class_prior`` predicts the training base rate; ``rules`` is the legacy rule set, where the data set has the
    metrics it needs; ``hist_gradient_boosting`` learns statistics of the same windows.
    """
    out: dict[str, Prediction] = {}
    prior = float(data.truth("train").mean())
    n = len(data.ends["test"])
    out["class_prior"] = {"probability": np.full(n, prior), "alarm": np.ones(n, dtype=bool)}
    ruled = _rules(data)
    if ruled is not None:
        out["rules"] = ruled
    out["hist_gradient_boosting"] = _boosting(data, seed)
    return out


def _rules(data: FailureData) -> Prediction | None:
    """Return the prediction of the untrained rules from each window's last row, None with too few of their metrics."""
    predictor = rules.RuleBasedFailurePredictor()
    names = [feature["name"] for feature in data.features]
    if len(set(names) & set(predictor.metrics)) < MIN_RULE_METRICS:
        return None
    check = data.ends["validation"]
    threshold = highest_f1(data.label(check), predictor.predict(data.values[check], names))
    found = predictor.predict(data.values[data.ends["test"]], names)
    return {"probability": found, "alarm": found >= threshold}


def _boosting(data: FailureData, seed: int) -> Prediction:
    from sklearn.ensemble import HistGradientBoostingClassifier

    def learn(rows: np.ndarray) -> Any:
        model = HistGradientBoostingClassifier(
            max_iter=150,
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=20,
            early_stopping=False,
            random_state=seed,
        )
        return model.fit(_statistics(data, rows), data.label(rows))

    def probability(model: Any, rows: np.ndarray) -> np.ndarray:
        parts = [model.predict_proba(_statistics(data, rows[i : i + CHUNK]))[:, 1] for i in range(0, len(rows), CHUNK)]
        return np.concatenate(parts)

    train, validation = (data.ends[p] for p in ("train", "validation"))
    check = _spread(validation, BASELINE_ROWS)
    threshold = highest_f1(data.label(check), probability(learn(_spread(train, BASELINE_ROWS)), check))
    both = _spread(np.sort(np.concatenate([train, validation])), BASELINE_ROWS)
    found = probability(learn(both), data.ends["test"])
    return {"probability": found, "alarm": found >= threshold}


def _statistics(data: FailureData, ends: np.ndarray) -> np.ndarray:
    """Return window statistics (n, 7 * n_features): last, mean, spread, least, greatest, recent change and trend."""
    import warnings

    windows = data.windows(ends)
    recent = max(1, data.window // 4)
    with warnings.catch_warnings():
        # A window without one value of a metric has no statistics: NaN is what the trees expect.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(windows, axis=1)
        late = np.nanmean(windows[:, -recent:], axis=1)
        columns = [
            windows[:, -1],
            mean,
            np.nanstd(windows, axis=1),
            np.nanmin(windows, axis=1),
            np.nanmax(windows, axis=1),
            late,
            late - np.nanmean(windows[:, :-recent], axis=1),
        ]
    return np.concatenate(columns, axis=1)


def oracle(data: FailureData) -> Prediction | None:
    """Return the oracle's prediction of the test part; synthetic data only."""
    if data.oracle is None:
        return None
    threshold = curves.f1_threshold(data.truth("test"), data.oracle)
    return {"probability": data.oracle, "alarm": data.oracle >= threshold}


def evaluate(data: FailureData, prediction: Prediction, part: str = "test", seed: int = 0) -> dict[str, Metric]:
    """Return ``roc_auc, average_precision, f1, precision, recall, brier, ece`` with intervals."""
    return metrics.failure(
        data.truth(part), prediction["probability"], prediction["alarm"], clusters=data.clusters(part), seed=seed
    )


def compare(
    data: FailureData,
    prediction: Prediction,
    others: Mapping[str, Prediction],
    *,
    seed: int = 0,
    n_boot: int = intervals.N_PAIRED,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS` and `PROBABILITY_METRICS`.

    F1 is that of ``f1_alarm`` where a prediction has one: the alarm at the threshold that `highest_f1` chooses on the
    model's own validation, whatever policy it serves with.
    """
    truth = data.truth("test")

    def values(p: Prediction) -> intervals.Weighted:
        return metrics.failure_values(truth, p["probability"], p.get("f1_alarm", p["alarm"]))

    return intervals.paired(
        values(prediction),
        {name: values(other) for name, other in others.items()},
        len(truth),
        only=(*GATE_METRICS, *PROBABILITY_METRICS),
        clusters=data.clusters("test"),
        seed=seed,
        n_boot=n_boot,
    )


# Decisions and events ------------------------------------------------------------------------------------------


def events(data: FailureData, ends: np.ndarray, alarm: np.ndarray) -> dict[str, Any]:
    """Translate alarms into what an on-call engineer asks.

    An alert is an alarm that is not within ``horizon`` steps after an earlier alert of the same resource: an alert
    is valid for the horizon, and repeats after it. It is false when no incident starts within the horizon.
    An incident counts when at least one example lies within the horizon before it; it is caught when one of these
    is an alarm, and its lead is the time from the earliest one.

    Parameters
    ----------
    ends : ndarray, (n,)
        Positions of the examples, ascending.
    alarm : ndarray, (n,), bool

    Returns
    -------
    dict
        ``incidents, caught, share_caught, leads_hours`` (list), ``median_lead_hours, alerts, false_alerts,
        resource_days, alerts_per_resource_day, false_alerts_per_resource_day``.
    """
    hours = data.step_seconds / 3600
    days = len(ends) * data.stride * data.step_seconds / DAY_SECONDS
    until = data.until[ends]
    soon = until <= data.horizon
    # An incident is known by the resource and the place of its start.
    key = np.round((ends + until)[soon], 6)
    names = np.unique(key)
    hit = soon & alarm
    lead = np.full(len(names), -np.inf)
    np.maximum.at(lead, np.searchsorted(names, np.round((ends + until)[hit], 6)), until[hit])
    leads = lead[np.isfinite(lead)] * hours
    alerts = _alerts(data, ends[alarm])
    false = int((data.until[alerts] > data.horizon).sum())
    return {
        "incidents": len(names),
        "caught": len(leads),
        "share_caught": len(leads) / len(names) if len(names) else float("nan"),
        "leads_hours": np.sort(leads).tolist(),
        "median_lead_hours": float(np.median(leads)) if len(leads) else None,
        "alerts": len(alerts),
        "false_alerts": false,
        "resource_days": days,
        "alerts_per_resource_day": len(alerts) / days if days else 0.0,
        "false_alerts_per_resource_day": false / days if days else 0.0,
    }


def _alerts(data: FailureData, alarms: np.ndarray) -> np.ndarray:
    """Return the positions of the alarms that are alerts."""
    chosen, i = [], 0
    # The next alarm that counts lies past the horizon of this one, or in the next resource.
    stop = np.r_[np.flatnonzero(np.diff(data.resource[alarms])) + 1, len(alarms)] if len(alarms) else np.zeros(0, int)
    quiet = np.searchsorted(alarms, alarms + data.horizon, side="right")
    following = (
        np.minimum(quiet, stop[np.searchsorted(stop, np.arange(len(alarms)), side="right")]) if len(alarms) else quiet
    )
    while i < len(alarms):
        chosen.append(alarms[i])
        i = int(following[i])
    return np.array(chosen, dtype=np.int64)


def policies(data: FailureData, ends: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """Return what each threshold would mean, as `choose_threshold` and the report need it.

    Parameters
    ----------
    ends : ndarray, (n,)
        Positions of the examples, ascending.
    probability : ndarray, (n,)

    Returns
    -------
    dict of str to list
        ``threshold`` descending, ``precision, recall, f1``, ``missed`` and ``false_alarms`` (shares of all rows),
        ``alerts_per_resource_day, false_alerts_per_resource_day, share_caught, median_lead_hours``.
    """
    truth = data.label(ends)
    cut, threshold, hit = _cuts(truth, probability)
    tp, raised = hit.astype(float), (cut + 1).astype(float)
    out: dict[str, list[float]] = {
        "threshold": threshold.tolist(),
        "precision": (tp / raised).tolist(),
        "recall": (tp / max(truth.sum(), 1)).tolist(),
        "f1": (2 * tp / (raised + truth.sum())).tolist(),
        "missed": ((truth.sum() - tp) / len(truth)).tolist(),
        "false_alarms": ((raised - tp) / len(truth)).tolist(),
    }
    seen = [events(data, ends, probability >= t) for t in threshold]
    for name in ("alerts_per_resource_day", "false_alerts_per_resource_day", "share_caught"):
        out[name] = [float(e[name]) for e in seen]
    out["median_lead_hours"] = [float(e["median_lead_hours"] or 0.0) for e in seen]
    return out


def _cuts(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return up to `CURVE_POINTS` places to cut the ranking, with the threshold and the positives above each."""
    order = np.argsort(-probability, kind="stable")
    ranked, hit = probability[order], np.cumsum(truth[order])
    cut = np.flatnonzero(np.r_[np.diff(ranked) != 0, True])
    f1 = 2 * hit[cut] / (cut + 1 + truth.sum())
    # Denser where few rows alarm: that is where thresholds are chosen. The best F1 is always among them.
    place = np.unique(np.r_[np.geomspace(1, len(cut), CURVE_POINTS).astype(int) - 1, int(np.argmax(f1))])
    cut = cut[place]
    below = np.r_[ranked, ranked[-1] * 0.9][cut + 1]
    # Half way to the next lower score: rounding in another runtime must not flip the decision.
    return cut, (ranked[cut] + below) / 2, hit[cut]


def highest_f1(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the threshold of rule ``max_f1``, as a servable's own is chosen: one rule for models and baselines."""
    cut, threshold, hit = _cuts(truth, probability)
    f1 = 2 * hit / (cut + 1 + truth.sum())
    return choose_threshold({"threshold": threshold.tolist(), "f1": f1.tolist()}, "max_f1")


def details(data: FailureData, prediction: Prediction) -> dict[str, Any]:
    """Return curves, events, costs and the worst resources of a test prediction, for the report.

    Returns
    -------
    dict
        ``precision_recall``, ``reliability``, ``confusion`` ([[tn, fp], [fn, tp]]), ``events``, ``policies``,
        ``sentence``, ``by_resource`` (list, worst first), ``by_lead`` (recall by steps before the incident),
        ``worst`` (the surest mistakes) and ``histogram`` of probabilities by class.
    """
    ends, truth = data.ends["test"], data.truth("test")
    probability, alarm = prediction["probability"], np.asarray(prediction["alarm"])
    seen = events(data, ends, alarm)
    edges = np.linspace(0, 1, 21)
    return {
        "precision_recall": curves.precision_recall_curve(truth, probability),
        "reliability": curves.reliability_curve(truth, probability),
        "confusion": [
            [int((~alarm & (truth == 0)).sum()), int((alarm & (truth == 0)).sum())],
            [int((~alarm & (truth == 1)).sum()), int((alarm & (truth == 1)).sum())],
        ],
        "events": seen,
        "policies": policies(data, ends, probability),
        "sentence": _sentence(seen),
        "by_resource": _by_resource(data, probability, alarm),
        "by_lead": _by_lead(data, probability, alarm),
        "worst": _worst(data, probability),
        "histogram": {
            "edges": edges.tolist(),
            "negative": np.histogram(probability[truth == 0], edges)[0].tolist(),
            "positive": np.histogram(probability[truth == 1], edges)[0].tolist(),
        },
    }


def _sentence(seen: Mapping[str, Any]) -> str:
    if not seen["caught"]:
        rate = seen["alerts_per_resource_day"]
        return f"{rate:.2g} alerts a resource a day, none of {seen['incidents']} incidents caught"
    return (
        f"{seen['alerts_per_resource_day']:.2g} alerts a resource a day "
        f"({seen['false_alerts_per_resource_day']:.2g} of them false): catches {seen['share_caught']:.0%} of "
        f"{seen['incidents']} incidents, median {seen['median_lead_hours']:.3g} h ahead"
    )


def _by_resource(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> list[dict[str, Any]]:
    """Return errors by resource, those that add most log loss first."""
    ends, truth = data.ends["test"], data.truth("test")
    loss = -np.log(np.clip(np.where(truth == 1, probability, 1 - probability), 1e-7, 1.0))
    frame = pd.DataFrame(
        {
            "resource_id": np.array(data.resources, dtype=object)[data.resource[ends]],
            "loss": loss,
            "positive": truth,
            "missed": (truth == 1) & ~alarm,
            "false_alarms": (truth == 0) & alarm,
        }
    )
    grouped = frame.groupby("resource_id", sort=True)
    out = grouped[["positive", "missed", "false_alarms"]].sum()
    out.insert(0, "rows", grouped.size())
    out["log_loss"] = grouped["loss"].mean()
    out["total_loss"] = grouped["loss"].sum()
    out = out.sort_values("total_loss", ascending=False, kind="stable").drop(columns="total_loss").reset_index()
    return [{str(k): v for k, v in row.items()} for row in out.to_dict("records")]


def _by_lead(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> dict[str, list[float]]:
    """Return recall and mean probability of positive rows by their distance to the incident."""
    ends = data.ends["test"]
    until = data.until[ends]
    edges = np.unique(np.linspace(0, data.horizon, min(data.horizon, 10) + 1))
    out: dict[str, list[float]] = {"from_steps": [], "to_steps": [], "rows": [], "recall": [], "probability": []}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = (until > low) & (until <= high)
        if chosen.any():
            values = (low, high, chosen.sum(), alarm[chosen].mean(), probability[chosen].mean())
            for name, value in zip(out, values, strict=True):
                out[name].append(float(value))
    return out


def _worst(data: FailureData, probability: np.ndarray, count: int = 10) -> list[dict[str, Any]]:
    """Return the surest mistakes, at most one a resource and kind."""
    ends, truth = data.ends["test"], data.truth("test")
    wrong = np.abs(truth - probability)
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for i in np.argsort(-wrong, kind="stable"):
        mark = (int(data.resource[ends[i]]), int(truth[i]))
        if mark in seen:
            continue
        seen.add(mark)
        until = float(data.until[ends[i]])
        rows.append(
            {
                "resource_id": data.resources[mark[0]],
                "timestamp": f"{np.datetime_as_string(data.time[ends[i]], unit='s')}Z",
                "probability": float(probability[i]),
                "truth": mark[1],
                "steps_to_incident": until if np.isfinite(until) else None,
            }
        )
        if len(rows) == count:
            break
    return rows


def importance(model: FailureServable, data: FailureData, *, rows: int = 200) -> list[dict[str, float | str]]:
    """Return how much each metric moves the prediction on test windows, most important first.

    Half of the windows are those of highest probability, the others are spread over the rest.

    Returns
    -------
    list of dict
        ``feature``, ``mean_abs_contribution`` and ``mean_contribution``, in probability.
    """
    prediction = score(model, data, "test")["probability"]
    order = np.argsort(-prediction, kind="stable")
    chosen = np.unique(np.r_[order[: rows // 2], _spread(order, rows - rows // 2)])
    totals = {name: np.zeros(2) for name in model.features}
    for end in data.ends["test"][chosen]:
        for driver in model.explain(data.windows(np.array([end]))[0], top=len(model.features), last=data.time[end]):
            totals[driver["feature"]] += [abs(driver["contribution"]), driver["contribution"]]
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    return [
        {
            "feature": n,
            "mean_abs_contribution": float(t[0] / len(chosen)),
            "mean_contribution": float(t[1] / len(chosen)),
        }
        for n, t in ranked
    ]


def steps(data: Any) -> int:
    """Return the most steps that `fit` reports: what a full trial has."""
    return MAX_STEPS
