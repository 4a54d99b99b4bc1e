"""The story of capacity: hourly use of processor, memory and storage, and the demand behind it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.capacity_filter import UsageOracle
from aiops_core.data.synthetic.capacity_parts import (
    LEAD,
    ORDERS_DECAY,
    ORDERS_MEAN,
    ORDERS_SPREAD,
    PARTS,
    USAGE_EXOGENOUS,
    USAGE_HOURS,
    USAGE_START,
    USAGE_TARGETS,
    WALK,
    calendar,
)
from aiops_core.data.synthetic.draws import CONFIG, DAY, HOUR, ar1, chunks, resource_ids, task_seed, utc_stamps

__all__ = ["USAGE_WARM_UP", "usage"]

#: History before the first forecast origin that is counted as a sample.
USAGE_WARM_UP = 14 * DAY


def usage(n_samples: int, *, seed: int, signal: float = 1.0, drift: float = 1.0) -> tuple[pd.DataFrame, UsageOracle]:
    """Generate hourly use of processor, memory and storage of many resources.

    The story. Use follows the hour and the weekday, with a weekend of its own shape; storage fills up during the week
    and is cleaned up on Monday. Each resource has coefficients of its own (`PARTS`). Orders (transactions) rise and
    fall in campaigns of some days; the work they bring reaches all three targets one day later. On top, each target
    has slow and fast noise, a trend, and shifts of its level to a new regime that nobody can foresee: a migration, a
    new version. What would lie above 100 % or below 0 % saturates. Requests and users move with the processor in the
    same hour.

    Parameters
    ----------
    n_samples : int
        (resource, origin) pairs, at least: origins every 25 h, from two weeks after the start of the record to 30 days
        before its end, 74 a resource.
    seed : int
        Non-negative.
    signal : float
        Scales season, trend, orders and noise. At 0 every target is a random walk, whose best forecast is its last
        value.
    drift : float
        Scales how often levels shift; 1 by default.

    Returns
    -------
    usage : DataFrame
        ``resource_id``, ``timestamp`` (UTC, hourly, no gaps), the three targets in % and the three exogenous columns,
        float32; 1 % of the values missing.
    oracle : UsageOracle
        Median forecast from the history alone.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    config = CONFIG["capacity"]
    per_resource = (USAGE_HOURS - config["horizon"] - USAGE_WARM_UP) // config["origin_step"] + 1
    resources = math.ceil(n_samples / per_resource)
    size = 256
    seeds = task_seed("capacity", n_samples, seed, signal, drift).spawn(math.ceil(resources / size))
    merged = np.empty((len(USAGE_TARGETS) + len(USAGE_EXOGENOUS), resources, USAGE_HOURS), dtype=np.float32)
    level, slow = np.empty((2, len(USAGE_TARGETS), resources, USAGE_HOURS), dtype=np.float32)
    coefficients = np.empty((len(USAGE_TARGETS), resources, len(PARTS["cpu_usage"].mean)))
    for part, child in zip(chunks(resources, size), seeds, strict=True):
        rng, n = np.random.default_rng(child), part.stop - part.start
        merged[:, part], coefficients[:, part], level[:, part], slow[:, part] = _usage_chunk(rng, n, signal, drift)
    ids = pd.Series(resource_ids("host", resources), dtype="str")
    table = {
        "resource_id": ids.take(np.repeat(np.arange(resources), USAGE_HOURS)).reset_index(drop=True),
        "timestamp": utc_stamps(np.tile(USAGE_START + np.arange(USAGE_HOURS) * HOUR, resources)),
    }
    names = (*USAGE_TARGETS, *USAGE_EXOGENOUS)
    frame = pd.DataFrame(table | dict(zip(names, merged.reshape(len(names), -1), strict=True)))
    orders = np.log(merged[names.index("transaction_count")])
    latent = coefficients, level, slow
    return frame, UsageOracle(list(ids), merged[: len(USAGE_TARGETS)], orders, latent, signal, drift)


def _usage_chunk(
    rng: np.random.Generator, n: int, signal: float, drift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw the usage of ``n`` resources.

    Returns
    -------
    values : ndarray, (columns, n, hours), float32
    coefficients : ndarray, (targets, n, 11)
    level, slow : ndarray, (targets, n, hours), float32
        Shifts of the level (and the random walk) so far; slow noise.
    """
    shape = (n, USAGE_HOURS)
    usual = rng.normal(0, ORDERS_SPREAD, (n, 1))
    orders = usual + ar1(rng, (n, USAGE_HOURS + LEAD), ORDERS_DECAY, 1.0)
    acting = orders[:, :USAGE_HOURS]
    season = calendar(np.arange(USAGE_HOURS))
    coefficients, levels, slows, observed = [], [], [], []
    for part in PARTS.values():
        own = np.asarray(part.mean) + np.asarray(part.spread) * rng.standard_normal((n, len(part.mean)))
        own[:, 1:] *= signal
        jumps = (rng.random(shape) < part.shift_rate * signal * drift) * rng.normal(0, part.shift, shape)
        walk = rng.standard_normal(shape) * WALK * (1 - signal)
        level = np.cumsum(jumps + walk, axis=1)
        slow = ar1(rng, shape, part.decay, part.slow * signal)
        known = own[:, :-1] @ season.T + own[:, -1:] * acting
        observed.append(np.clip(known + level + slow + rng.normal(0, part.fast * signal, shape), 0.0, 100.0))
        coefficients.append(own)
        levels.append(level)
        slows.append(slow)
    pull = 0.03 * signal * (coefficients[0][:, 2:-1] @ season[:, 2:].T + slows[0])
    exogenous = _exogenous(rng, pull, orders[:, LEAD:])
    values = np.concatenate([np.stack(observed), exogenous]).astype(np.float32)
    values[rng.random(values.shape, dtype=np.float32) < 0.01] = np.nan
    return values, np.stack(coefficients), np.stack(levels), np.stack(slows)


def _exogenous(rng: np.random.Generator, pull: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Draw requests, users and transactions, (3, resources, hours)."""
    n = len(pull)
    rates = []
    for base, spread in ((4.5, 0.08), (6.0, 0.05)):
        rates.append(np.exp(rng.normal(base, 1.0, (n, 1)) + pull + rng.normal(0, spread, pull.shape)))
    rates.append(np.exp(ORDERS_MEAN + orders + rng.normal(0, 0.05, orders.shape)))
    return np.stack([rates[0], np.round(rates[1]), np.maximum(np.round(rates[2]), 1.0)])
