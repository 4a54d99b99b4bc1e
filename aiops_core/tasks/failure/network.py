"""One network and what it is made of: patch statistics, the time of day, and a logit for each of several horizons."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiops_core.tasks.failure.data import FailureData, Params

#: Horizons learned together, as multiples of the horizon, and their weight in the loss.
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
MAIN = MULTIPLES.index(1.0)
CLOCK_BINS = 48
#: Standard deviations after which a squashed value is cut.
CLIP = 6.0


def import_tensorflow() -> tuple[Any, Any]:
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


def summarise_patches(x: Any, steps: int, patch: int, data: FailureData) -> Any:
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


def build_network(params: Params, data: FailureData) -> Any:
    """Build one network: patches (n, count, 3 * n_features + 1) and clock (n, 1) to logits (n, number of horizons)."""
    _, keras = import_tensorflow()
    from keras import layers, ops

    features, patch = len(data.features), patch_size(params, data)
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


def patch_size(params: Params, data: FailureData) -> int:
    """Return the steps of a patch, at most a window."""
    return min(int(params["patch"]), data.window)


def _clock_bins(clock: Any) -> Any:
    """Return weights (n, CLOCK_BINS) of overlapping half hours; all 0 when the time of day is not known."""
    from keras import ops

    known = ops.cast(ops.equal(clock, clock), "float32")
    place = ops.where(ops.isnan(clock), ops.zeros_like(clock), clock) * CLOCK_BINS
    apart = ops.abs(place - np.arange(CLOCK_BINS, dtype=np.float32)[None])
    return ops.maximum(1.0 - ops.minimum(apart, CLOCK_BINS - apart), 0.0) * known
