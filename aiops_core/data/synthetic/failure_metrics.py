"""The metrics of a resource given its episodes, on top of ordinary life, with gaps and late stamps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.synthetic import failure_effects as fx
from aiops_core.data.synthetic.draws import DAY, HOUR, ar1, chunks, utc_stamps
from aiops_core.data.synthetic.failure_chain import TELEMETRY_START
from aiops_core.data.synthetic.failure_effects import TELEMETRY_METRICS, Effects

__all__ = ["telemetry_table", "to_story", "trailing_mean"]


def telemetry_table(
    seed: np.random.SeedSequence,
    effects: Effects,
    state: np.ndarray,
    outage: np.ndarray,
    start: np.ndarray,
    ids: pd.Series,
    drift: float,
) -> pd.DataFrame:
    """Emit the metrics, in chunks of resources so that memory stays at the size of the result."""
    hours, resources = state.shape
    size = 256
    seeds = seed.spawn(math.ceil(resources / size))
    names, stamps, columns = [], [], []
    for part, child in zip(chunks(resources, size), seeds, strict=True):
        rng = np.random.default_rng(child)
        clock = (start[part] - TELEMETRY_START)[:, None] // HOUR + np.arange(hours)
        values = _metrics(rng, effects, state[:, part].T, outage[:, part].T > 0, clock, drift)
        keep, late = _gaps(rng, values)
        resource, hour = np.nonzero(keep)
        names.append(resource + part.start)
        stamps.append(start[part][resource] + hour * HOUR + late[keep].astype("timedelta64[s]"))
        columns.append(values[:, keep])
    resource = np.concatenate(names)
    merged = np.concatenate(columns, axis=1)
    table = {"resource_id": ids.take(resource).reset_index(drop=True), "timestamp": utc_stamps(np.concatenate(stamps))}
    return pd.DataFrame(table | dict(zip(TELEMETRY_METRICS, merged, strict=True)))


def to_story(values: np.ndarray) -> np.ndarray:
    """Return metrics on the scale the story is told in: log odds of the percentages, logs of the rest; (metrics, ...)."""
    out = np.log(np.maximum(values, 1e-6))
    out[:2] -= np.log(np.maximum(100.0 - values[:2], 1e-6))
    return np.asarray(out)


def trailing_mean(values: np.ndarray, width: int = DAY) -> np.ndarray:
    """Mean of the last ``width`` values, of fewer at the start; along the last axis."""
    total = np.cumsum(values, axis=-1, dtype=np.float64)
    total[..., width:] = total[..., width:] - total[..., :-width]
    counts = np.minimum(np.arange(1, values.shape[-1] + 1), width)
    mean: np.ndarray = (total / counts).astype(np.float32)
    return mean


def _gaps(rng: np.random.Generator, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blank values in place, and choose missing rows and late stamps.

    Returns
    -------
    keep : ndarray, (resources, hours), bool
    late : ndarray, (resources, hours), int64
        Seconds after the full hour.
    """
    shape = values.shape[1:]
    values[rng.random(values.shape, dtype=np.float32) < 0.02] = np.nan
    keep = np.ones(shape, dtype=bool)
    resource, hour = np.nonzero(rng.random(shape) < 1 / 400)
    length = rng.integers(2, 7, len(hour))
    for k in range(6):
        gone = (k < length) & (hour + k < shape[1])
        keep[resource[gone], hour[gone] + k] = False
    keep[:, 0] = True
    late = np.where(rng.random(shape) < 0.005, rng.integers(60, 1200, shape), 0)
    late[:, 0] = 0  # the first row anchors the grid
    return keep, late


def _load(rng: np.random.Generator, clock: np.ndarray) -> np.ndarray:
    """Log of the load: daily wave with its own peak hour, weekend, slow noise. (resources, hours)."""
    n = len(clock)
    peak = rng.normal(14, 2.5, (n, 1))
    depth = rng.uniform(0.25, 0.65, (n, 1))
    weekend = rng.uniform(0.45, 1.05, (n, 1))
    hour, day = clock % DAY, (clock // DAY) % 7
    wave = 1 + depth * np.cos(2 * np.pi * (hour - peak) / DAY) + 0.25 * depth * np.cos(4 * np.pi * (hour - peak) / DAY)
    return np.asarray(np.log(wave * np.where(day >= 5, weekend, 1.0)) + ar1(rng, clock.shape, 0.85, 0.12))


def _bursts(rng: np.random.Generator, effects: Effects, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hours with a burst of network errors, and of application errors; (resources, hours), bool."""
    lead = effects.network_first[state], effects.errors_first[state]
    first = [rng.random(state.shape, dtype=np.float32) < fx.BURST_RATE + more for more in lead]
    echoes = []
    for more, one in zip(lead, first, strict=True):
        before = np.pad(one, ((0, 0), (fx.BURST_LAG, 0)))[:, : -fx.BURST_LAG]
        echoes.append((more > 0) & before & (rng.random(state.shape, dtype=np.float32) < fx.BURST_ECHO))
    return first[0] | echoes[1], first[1] | echoes[0]


def _metrics(
    rng: np.random.Generator, effects: Effects, state: np.ndarray, down: np.ndarray, clock: np.ndarray, drift: float
) -> np.ndarray:
    """Metrics of a chunk of resources from their latent states, (metrics, resources, hours), float32."""
    shape, n = state.shape, len(state)
    state = np.where(down, len(effects.shift) - 1, state)
    load = _load(rng, clock)
    above = load - trailing_mean(load)
    bursts: dict[str, Any] = dict(zip(("network_errors", "error_rate"), _bursts(rng, effects, state), strict=True))
    out = np.empty((len(TELEMETRY_METRICS), *shape), dtype=np.float32)
    for k, name in enumerate(fx.LEVELLED):
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise[rng.random(shape, dtype=np.float32) < fx.OUTLIER_RATE] *= fx.OUTLIER_SCALE
        level = fx.TYPICAL[k] + fx.LEVEL_SPREAD[k] * rng.standard_normal((n, 1))
        level = level + ar1(rng, shape, fx.LEVEL_DECAY, drift * fx.LEVEL_DRIFT)
        story = level + effects.shift[state, k] + (fx.LOAD_SHARE[k] + effects.coupling[state, k]) * above
        story += fx.NOISE[k] * noise + fx.BURST * bursts.get(name, 0.0)
        out[k] = 100 / (1 + np.exp(-story)) if k < 2 else np.exp(story)
    out[-1] = np.exp(rng.normal(fx.LOAD_LEVEL, 0.8, (n, 1)) + load)
    return out
