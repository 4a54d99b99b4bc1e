"""What the metrics of a resource show of its latent state, on top of ordinary life, gaps and late stamps included."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.draws import DAY, HOUR, ar1, chunks, utc_stamps
from aiops_core.data.synthetic.failure_chain import KINDS, TELEMETRY_START, Chain

__all__ = ["TELEMETRY_METRICS", "telemetry_table"]

TELEMETRY_METRICS = (
    "cpu_usage",
    "memory_usage",
    "disk_io",
    "network_traffic",
    "network_errors",
    "error_rate",
    "response_time",
    "request_rate",
)
VISIBLE_POWER = 0.7  # the signature shows earlier than the hazard rises


def telemetry_table(
    seed: np.random.SeedSequence,
    chain: Chain,
    state: np.ndarray,
    outage: np.ndarray,
    start: np.ndarray,
    ids: pd.Series,
) -> pd.DataFrame:
    """Emit the metrics, in chunks of resources so that memory stays at the size of the result."""
    hours, resources = state.shape
    size = 256
    seeds = seed.spawn(math.ceil(resources / size))
    names, stamps, columns = [], [], []
    for part, child in zip(chunks(resources, size), seeds, strict=True):
        rng = np.random.default_rng(child)
        clock = (start[part] - TELEMETRY_START)[:, None] // HOUR + np.arange(hours)
        values = _metrics(rng, chain, state[:, part].T, outage[:, part].T > 0, clock)
        keep, late = _gaps(rng, values)
        resource, hour = np.nonzero(keep)
        names.append(resource + part.start)
        stamps.append(start[part][resource] + hour * HOUR + late[keep].astype("timedelta64[s]"))
        columns.append(values[:, keep])
    resource = np.concatenate(names)
    merged = np.concatenate(columns, axis=1)
    table = {"resource_id": ids.take(resource).reset_index(drop=True), "timestamp": utc_stamps(np.concatenate(stamps))}
    return pd.DataFrame(table | dict(zip(TELEMETRY_METRICS, merged, strict=True)))


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
    gone = _events(rng, shape, rate=1 / 400, lengths=(2, 6)) > 0
    keep = ~gone
    keep[:, 0] = True
    late = np.where(rng.random(shape) < 0.005, rng.integers(60, 1200, shape), 0)
    late[:, 0] = 0  # the first row anchors the grid
    return keep, late


def _events(rng: np.random.Generator, shape: tuple[int, int], *, rate: float, lengths: tuple[int, int]) -> np.ndarray:
    """Random events of random length: their size in 0.5..1.5 while they run, else 0. (resources, hours), float32."""
    resource, hour = np.nonzero(rng.random(shape) < rate)
    length = rng.integers(lengths[0], lengths[1] + 1, len(hour))
    magnitude = rng.uniform(0.5, 1.5, len(hour)).astype(np.float32)
    out = np.zeros(shape, dtype=np.float32)
    for k in range(lengths[1]):
        runs = (k < length) & (hour + k < shape[1])
        out[resource[runs], hour[runs] + k] = magnitude[runs]
    return out


def _load(rng: np.random.Generator, clock: np.ndarray) -> np.ndarray:
    """Relative load, mean about 1: daily wave with its own peak hour, weekend, slow noise. (resources, hours)."""
    n = len(clock)
    peak = rng.normal(14, 2.5, (n, 1))
    depth = rng.uniform(0.15, 0.65, (n, 1))
    weekend = rng.uniform(0.35, 1.05, (n, 1))
    hour, day = clock % DAY, (clock // DAY) % 7
    wave = 1 + depth * np.cos(2 * np.pi * (hour - peak) / DAY) + 0.25 * depth * np.cos(4 * np.pi * (hour - peak) / DAY)
    load = wave * np.where(day >= 5, weekend, 1.0) * np.exp(ar1(rng, clock.shape, 0.85, 0.10))
    return np.asarray(load, dtype=np.float32)


def _metrics(
    rng: np.random.Generator, chain: Chain, state: np.ndarray, down: np.ndarray, clock: np.ndarray
) -> np.ndarray:
    """Metrics of a chunk of resources from their latent states, (metrics, resources, hours), float32."""
    shape = state.shape
    n = shape[0]
    degree = np.where(down, 1.0, chain.severity[state] ** VISIBLE_POWER).astype(np.float32)
    leak, disk, storm, flap, over = (degree * (chain.kind[state] == code) for code in range(1, len(KINDS) + 1))
    load = _load(rng, clock)
    batch = _batch_jobs(rng, clock)
    spike = _events(rng, shape, rate=1 / 200, lengths=(1, 4))
    deploy = _events(rng, shape, rate=1 / 200, lengths=(1, 2))

    def per(draw: Any) -> np.ndarray:
        return np.asarray(draw, dtype=np.float32)[:, None]

    def noise(sd: float) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(sd)

    load = load * (1 + 0.7 * spike)
    traffic_load = load * (1 + 0.6 * over)
    requests = per(rng.lognormal(5.0, 1.0, n)) * traffic_load * np.exp(noise(0.06))

    cpu = per(rng.uniform(8, 45, n)) + per(rng.uniform(8, 32, n)) * traffic_load + 30 * batch + 6 * deploy
    cpu += 8 * leak**2 + 16 * over + noise(3.0)

    memory = per(rng.uniform(22, 66, n)) + 4 * (load - 1) + _memory_steps(rng, deploy) + ar1(rng, shape, 0.9, 1.0)
    memory += 40 * leak + 6 * over + 5 * batch + noise(0.8)

    swing = noise(1.0) * (0.10 + 1.1 * disk)
    disk_io = per(rng.lognormal(6.0, 0.8, n)) * load**0.5 * (1 + 2.0 * batch) * np.exp(swing + 0.6 * disk)

    lost = (rng.random(shape, dtype=np.float32) < 0.85 * flap).astype(np.float32)
    traffic = per(rng.lognormal(3.6, 0.8, n)) * traffic_load * (1 + 0.4 * batch) * np.exp(noise(0.08))
    traffic *= 1 - 0.6 * lost
    damaged = per(rng.gamma(2.0, 0.5, n)) * rng.gamma(0.8, 1.25, shape).astype(np.float32)
    glitch = _events(rng, shape, rate=1 / 160, lengths=(1, 1))
    net_errors = damaged * (1 + 0.4 * load) + (lost + 1.0 * glitch) * rng.gamma(3.0, 5.0, shape).astype(np.float32)

    burst = (rng.random(shape, dtype=np.float32) < 0.012 + 0.85 * storm).astype(np.float32)
    errors = per(rng.gamma(2.0, 0.5, n)) * rng.gamma(0.8, 1.25, shape).astype(np.float32) * load
    errors += (burst + 1.2 * deploy + 3.0 * down) * rng.gamma(3.0, 5.0, shape).astype(np.float32)

    slow = 0.15 * (load - 1) + 0.2 * batch + 0.5 * deploy + 0.3 * spike + 0.9 * down
    # Whatever the cause, answers get slower and their time more erratic; then each cause in its own way.
    slow += 0.85 * degree + 0.15 * leak**2 + 0.25 * lost + 0.1 * burst
    slow += disk * (0.5 + 0.4 * swing) + over * (0.6 + 0.7 * (load - 1))
    response = per(rng.lognormal(4.8, 0.8, n)) * np.exp(slow + noise(1.0) * (0.07 + 0.12 * degree))

    bounded = [np.clip(cpu, 0.5, 100.0), np.clip(memory, 2.0, 99.5)]
    return np.stack([*bounded, disk_io, traffic, net_errors, errors, response, requests]).astype(np.float32)


def _batch_jobs(rng: np.random.Generator, clock: np.ndarray) -> np.ndarray:
    """Batch jobs: nightly on some resources, at odd times on all. Size while running, else 0. (resources, hours)."""
    n = len(clock)
    first = rng.integers(0, 6, (n, 1))
    length = rng.integers(2, 5, (n, 1))
    nightly = rng.uniform(0.4, 1.3, (n, 1)) * (rng.random((n, 1)) < 0.4)
    runs = ((clock % DAY) >= first) & ((clock % DAY) < first + length)
    odd = _events(rng, (n, clock.shape[1]), rate=1 / 60, lengths=(2, 6))
    return np.asarray(np.maximum(np.where(runs, nightly, 0.0), odd).astype(np.float32))


def _memory_steps(rng: np.random.Generator, deploy: np.ndarray) -> np.ndarray:
    """Every deploy moves memory to a new level, in %, that it keeps until the next one. (resources, hours)."""
    starts = (deploy > 0) & (np.pad(deploy, ((0, 0), (1, 0)))[:, :-1] == 0)
    version = np.cumsum(starts, axis=1)
    levels = rng.normal(0, 6, (len(deploy), int(version.max()) + 1)).astype(np.float32)
    return np.take_along_axis(levels, version, axis=1)
