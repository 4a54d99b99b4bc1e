"""Train one network: its rows of each epoch, its weighted horizons, and the mean of its last weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from aiops_core.judge import metrics
from aiops_core.servable.failure import apply_calibration, clock_of
from aiops_core.tasks.failure.data import CHUNK, FailureData, Params, Report
from aiops_core.tasks.failure.network import (
    MAIN,
    MULTIPLES,
    build_network,
    import_tensorflow,
    patch_size,
    summarise_patches,
)

__all__ = [
    "BATCH",
    "CLOCK_DROPOUT",
    "MULTIPLE_WEIGHTS",
    "SUMMARY_CHUNK",
    "draw_epoch",
    "patch_ends",
    "patch_summaries",
    "targets",
    "train_network",
]

MULTIPLE_WEIGHTS = (0.5, 0.5, 1.0, 0.5, 0.5)
BATCH = 128
SUMMARY_CHUNK = 16_384
#: Share of training windows whose time of day is hidden, so that the model also works without it.
CLOCK_DROPOUT = 0.25


def train_network(
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
        Positions of rows that are predicted, and choose nothing: the rate falls to nearly 0 in a fixed number of epochs,
        and the weights are averaged over about the last one.
    report : callable, optional
        Gets the numbers of ``check`` after every epoch.

    Returns
    -------
    network, logits : Keras model and ndarray, (len(check),)
    """
    tf, keras = import_tensorflow()
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng([seed, 13])
    rows = _pool(data, rows, rng)
    network = build_network(params, data)
    target, weight = targets(data, rows, bound)
    rate = np.clip((target * weight).sum(0) / np.maximum(weight.sum(0), 1e-9), 1e-3, 1 - 1e-3)
    network.get_layer("horizons").bias.assign(np.log(rate / (1 - rate)))

    clocked = bool(params["clock"])
    patch = patch_size(params, data)
    places = patch_ends(data, patch)
    store, slot = patch_summaries(data, patch, [places(rows), places(check)])
    table = tf.constant(store)
    clock = clock_of(data.time, len(data.time))

    def inputs(ends: np.ndarray) -> tuple[Any, Any]:
        return tf.constant(slot[places(ends) + 1]), tf.constant(clock[ends])

    def feed(index: Any, clock: Any) -> dict[str, Any]:
        patches = {"patches": tf.gather(table, index)}
        return {**patches, "clock": clock} if clocked else patches

    per_epoch = math.ceil(int(np.clip(len(np.unique(rows // data.stride)), *data.effort.epoch_rows)) / BATCH)
    optimizer = _optimizer(params, network, per_epoch, data.effort.max_steps)
    step, forward = _passes(network, optimizer, feed)

    def logits_of(ends: np.ndarray) -> np.ndarray:
        parts = [forward(*inputs(ends[i : i + CHUNK])).numpy() for i in range(0, len(ends), CHUNK)]
        return np.concatenate(parts).astype(np.float64)

    truth = data.label(check)
    for epoch in range(1, data.effort.max_steps + 1):
        chosen = draw_epoch(rows, data.stride, per_epoch * BATCH, rng)
        hidden = rng.random(len(chosen)) < CLOCK_DROPOUT
        loss = _learn(step, inputs, rows[chosen], hidden, target[chosen], weight[chosen])
        if report is not None:
            own = network.get_weights()
            optimizer.finalize_variable_values(network.trainable_variables)
            report(epoch, {**_numbers(truth, logits_of(check)), "train_loss": loss})
            network.set_weights(own)
    optimizer.finalize_variable_values(network.trainable_variables)
    return network, logits_of(check)


def _learn(
    step: Any,
    inputs: Callable[[np.ndarray], tuple[Any, Any]],
    ends: np.ndarray,
    hidden: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
) -> float:
    """Learn the rows of one epoch in batches, the clock of the hidden ones unknown; return the mean loss."""
    tf, _ = import_tensorflow()
    starts, loss = range(0, len(ends), BATCH), 0.0
    for i in starts:
        part = slice(i, i + BATCH)
        index, hour = inputs(ends[part])
        hour = tf.where(hidden[part, None], tf.constant(np.nan, tf.float32), hour)
        loss += float(step(index, hour, target[part], weight[part])) / len(starts)
    return loss


def _optimizer(params: Params, network: Any, per_epoch: int, epochs: int) -> Any:
    """Return AdamW for the network: its rate falls along a cosine, and it keeps a mean of the weights of an epoch."""
    _, keras = import_tensorflow()
    rate = keras.optimizers.schedules.CosineDecay(params["learning_rate"], per_epoch * epochs, alpha=0.02)
    mean = {"use_ema": True, "ema_momentum": 1 - 1 / (per_epoch + 1)}
    optimizer = keras.optimizers.AdamW(rate, weight_decay=params["weight_decay"], clipnorm=1.0, **mean)
    optimizer.build(network.trainable_variables)
    return optimizer


def targets(data: FailureData, rows: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether an incident starts within each horizon, and the weight in the loss: 0 where that is not known.

    Returns
    -------
    target, weight : ndarray, (len(rows), number of horizons), float32
    """
    horizons = np.array(MULTIPLES) * data.horizon
    soon = data.until[rows, None] <= horizons
    # Without full follow-up a row has no label, whatever is known: only incidents could be.
    labelled = np.minimum(bound, data.known)[rows, None] >= horizons
    weight = labelled * np.array(MULTIPLE_WEIGHTS)
    return soon.astype(np.float32), weight.astype(np.float32)


def _passes(network: Any, optimizer: Any, feed: Callable[[Any, Any], dict[str, Any]]) -> tuple[Any, Any]:
    """Return the compiled passes: one that learns from a batch and returns its loss, one that returns logits (n,)."""
    tf, _ = import_tensorflow()

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

    return step, forward


def _pool(data: FailureData, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep at most about ``pool_rows`` rows, in whole stretches of time, so that memory is bounded on any data set."""
    if len(rows) <= data.effort.pool_rows:
        return rows
    length = 20 * data.window
    stretch = data.resource[rows].astype(np.int64) * (len(data.time) // length + 2) + rows // length
    _, index, counts = np.unique(stretch, return_inverse=True, return_counts=True)
    order = rng.permutation(len(counts))
    kept = np.zeros(len(counts), dtype=bool)
    kept[order[np.cumsum(counts[order]) <= data.effort.pool_rows]] = True
    return rows[kept[index]]


def patch_ends(data: FailureData, patch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of window ends (n,): the rows at which their patches end, (n, count), -1 is padding."""
    back = np.arange(data.window // patch - 1, -1, -1) * patch

    def places(ends: np.ndarray) -> np.ndarray:
        index = ends[:, None] - back
        return np.where(index >= data.start[ends][:, None], index, -1)

    return places


def patch_summaries(data: FailureData, patch: int, wanted: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the patches that end at the wanted rows, once for all epochs, by the graph that is served.

    Returns
    -------
    store : ndarray, (1 + number of wanted rows, 3 * n_features + 1), float32
        The first one is padding.
    slot : ndarray, (n_rows + 1,), int32
        Place of row ``i`` in ``store`` at ``i + 1``; ``slot[0]`` is padding.
    """
    tf, keras = import_tensorflow()
    needed = np.zeros(len(data.time) + 1, dtype=bool)
    for index in wanted:
        needed[index.reshape(-1) + 1] = True
    needed[0] = True
    slot = (np.cumsum(needed) - 1).astype(np.int32)
    rows = np.flatnonzero(needed)[1:] - 1
    width = data.values.shape[1]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, patch, width), tf.float32)])  # type: ignore[untyped-decorator]
    def summarise(windows: Any) -> Any:
        return summarise_patches(windows, patch, patch, data)[:, 0]

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


def draw_epoch(rows: np.ndarray, stride: int, size: int, rng: np.random.Generator) -> np.ndarray:
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
