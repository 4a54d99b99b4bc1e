"""The story of capacity: hourly use of processor, memory and storage, and its exact conditional mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from aiops_core.data.synthetic.draws import CONFIG, DAY, HOUR, ar1, chunks, resource_ids, task_seed, utc_stamps
from aiops_core.errors import UsageError

__all__ = [
    "DYNAMICS",
    "HOLIDAYS",
    "USAGE_EXOGENOUS",
    "USAGE_HOURS",
    "USAGE_START",
    "USAGE_TARGETS",
    "USAGE_WARM_UP",
    "UsageOracle",
    "relative_demand",
    "usage",
]

USAGE_TARGETS = ("cpu_usage", "memory_usage", "storage_usage")
USAGE_EXOGENOUS = ("request_rate", "user_count", "transaction_count")
USAGE_START = np.datetime64("2025-04-07T00:00:00", "s")  # a Monday
USAGE_HOURS = 120 * DAY
#: History before the first forecast origin that is counted as a sample.
USAGE_WARM_UP = 14 * DAY
#: Public holidays in the record: demand is that of a Sunday.
HOLIDAYS = ("2025-04-21", "2025-05-01", "2025-05-26", "2025-06-19", "2025-07-04")
#: By target: decay of the autoregression per hour, its standard deviation, that of white noise, level shifts per
#: hour, and the standard deviation of a shift; all in % of capacity.
DYNAMICS: dict[str, tuple[float, float, float, float, float]] = {
    "cpu_usage": (0.85, 6.0, 4.0, 1 / 1200, 11.0),
    "memory_usage": (0.92, 6.0, 2.2, 1 / 1200, 11.0),
    "storage_usage": (0.95, 5.5, 1.5, 1 / 1000, 11.0),
}
#: Sd per hour of the random walk that replaces season, trend, shifts and noise as the signal goes to 0.
WALK = 0.3


def usage(n_samples: int, *, seed: int, signal: float = 1.0) -> tuple[pd.DataFrame, UsageOracle]:
    """Generate hourly use of processor, memory and storage of many resources.

    The story. Users come by the hour of the day and the day of the week - in offices by day, at home in the evening,
    or evenly - and stay away on holidays; their number trends up or down. Requests and transactions follow them. The
    processor follows demand; memory follows the demand of the past hours and drifts; storage grows steadily, with a
    weekly rhythm. On top, each has slow autoregressive noise, fast noise, and level shifts that nobody can foresee: a
    migration, a new version, a clean-up. What would lie above 100 % or below 0 % saturates. Resources differ in base
    level, in how strongly demand moves them, and in size.

    Parameters
    ----------
    n_samples : int
        (resource, origin) pairs, at least: origins every 25 h, from two weeks after the start of the record to 30 days
        before its end, 74 a resource.
    seed : int
        Non-negative.
    signal : float
        Scales season, trend and noise. At 0 every target is a random walk, whose best forecast is its
        last value.

    Returns
    -------
    usage : DataFrame
        ``resource_id``, ``timestamp`` (UTC, hourly, no gaps), the three targets in % and the three exogenous columns,
        float32; 1 % of the values missing.
    oracle : UsageOracle
        Exact conditional mean given the latent state at the origin; R² about 0.90.

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
    latent = np.empty((3, len(USAGE_TARGETS), resources, USAGE_HOURS), dtype=np.float32)
    for part, child in zip(chunks(resources, size), seeds, strict=True):
        merged[:, part], latent[:, :, part] = _usage_chunk(np.random.default_rng(child), part.stop - part.start, signal)
    ids = pd.Series(resource_ids("host", resources), dtype="str")
    table = {
        "resource_id": ids.take(np.repeat(np.arange(resources), USAGE_HOURS)).reset_index(drop=True),
        "timestamp": utc_stamps(np.tile(USAGE_START + np.arange(USAGE_HOURS) * HOUR, resources)),
    }
    names = (*USAGE_TARGETS, *USAGE_EXOGENOUS)
    frame = pd.DataFrame(table | dict(zip(names, merged.reshape(len(names), -1), strict=True)))
    mean, level, auto = latent
    return frame, UsageOracle(list(ids), mean, level, auto, signal)


@dataclass(frozen=True)
class UsageOracle:
    """Expected use given the latent state at the origin: the best forecast under squared error.

    ``E[clip(m + w, 0, 100)]`` where ``m`` is the known part (season, trend, holidays, level reached at the origin,
    decayed autoregression) and ``w`` what happens after the origin: normal noise, and level shifts whose number is
    Poisson distributed. Exact but for the cut at eight shifts.

    Attributes
    ----------
    resources : list of str
    mean : ndarray, (targets, resources, hours), float32
        Season, trend and demand, before saturation.
    level, auto : ndarray, (targets, resources, hours), float32
        Sum of the level shifts (and of the random walk) so far; state of the autoregression.
    signal : float
    """

    resources: list[str]
    mean: np.ndarray
    level: np.ndarray
    auto: np.ndarray
    signal: float

    def __call__(self, keys: pd.DataFrame) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        keys : DataFrame, (n, >=4)
            ``resource_id``; ``origin``, UTC time of the last known row; ``target``; ``step``, hours ahead, >= 1.

        Returns
        -------
        ndarray, (n,), float64
            In % of capacity.

        Raises
        ------
        UsageError
            If a key names an unknown resource or target, or an hour outside the record.
        """
        resource = pd.Index(self.resources).get_indexer(pd.Index(keys["resource_id"].astype(str)))
        target = pd.Index(USAGE_TARGETS).get_indexer(pd.Index(keys["target"].astype(str)))
        origin = pd.DatetimeIndex(keys["origin"])
        naive = origin.tz_convert("UTC").tz_localize(None) if origin.tz is not None else origin
        hour = (naive.to_numpy().astype("datetime64[s]") - USAGE_START) // HOUR
        step = keys["step"].to_numpy(dtype=np.int64)
        if (resource < 0).any() or (target < 0).any():
            raise UsageError("the oracle knows neither this resource nor this target")
        if (hour < 0).any() or (step < 1).any() or (hour + step >= self.mean.shape[2]).any():
            raise UsageError("the oracle was asked about an hour outside the record")
        dynamics = np.asarray([DYNAMICS[t] for t in USAGE_TARGETS])[target]
        return self._expectation(dynamics, target, resource, hour, step)

    def _expectation(
        self, dynamics: np.ndarray, target: np.ndarray, resource: np.ndarray, hour: np.ndarray, step: np.ndarray
    ) -> np.ndarray:
        decay, sd, white, rate, shift = dynamics.T
        kept = decay**step
        known = self.mean[target, resource, hour + step].astype(np.float64)
        known += self.level[target, resource, hour] + kept * self.auto[target, resource, hour]
        variance = self.signal**2 * (sd**2 * (1 - kept**2) + white**2) + ((1 - self.signal) * WALK) ** 2 * step
        expected = rate * step * self.signal
        out = np.zeros(len(step))
        weight = np.exp(-expected)
        for count in range(9):
            out += weight * _clipped_mean(known, np.sqrt(variance + count * shift**2))
            weight = weight * expected / (count + 1)
        return out


def _clipped_mean(mean: np.ndarray, sd: np.ndarray, low: float = 0.0, high: float = 100.0) -> np.ndarray:
    """Mean of a normal variable clipped to ``[low, high]``; (n,)."""
    a, b = (low - mean) / sd, (high - mean) / sd
    below, above = ndtr(a), ndtr(b)
    density = (np.exp(-(a**2) / 2) - np.exp(-(b**2) / 2)) / math.sqrt(2 * math.pi)
    return np.asarray(low * below + high * (1 - above) + mean * (above - below) + sd * density)


def _usage_chunk(rng: np.random.Generator, n: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the usage of ``n`` resources, float32.

    Returns
    -------
    values : ndarray, (columns, resources, hours)
    latent : ndarray, (3, targets, resources, hours)
        ``mean``, ``level`` and ``auto`` of `UsageOracle`.
    """
    shape = (n, USAGE_HOURS)
    demand = relative_demand(rng, shape)  # deterministic part, mean about 1
    mean = np.stack(_usage_means(rng, demand)).astype(np.float32)
    base = mean.mean(axis=2, keepdims=True)
    mean = base + np.float32(signal) * (mean - base)
    level, auto, observed = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for j, (decay, sd, white, rate, shift) in enumerate(DYNAMICS.values()):
        jumps = (rng.random(shape) < rate * signal) * rng.normal(0, shift, shape)
        walk = rng.standard_normal(shape) * WALK * (1 - signal)
        level[j] = np.cumsum(jumps + walk, axis=1)
        auto[j] = ar1(rng, shape, decay, sd * signal)
        observed[j] = np.clip(mean[j] + level[j] + auto[j] + rng.normal(0, white * signal, shape), 0.0, 100.0)
    values = np.concatenate([observed, _exogenous(rng, demand, auto[0], signal)])
    values[rng.random(values.shape, dtype=np.float32) < 0.01] = np.nan
    return values, np.stack([mean, level, auto])


def relative_demand(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw the demand relative to its mean: profile by hour and weekday, holidays, trend. (resources, hours)."""
    n, hours = shape
    clock = np.arange(hours)
    hour, day = clock % DAY, (clock // DAY) % 7
    first = USAGE_START.astype("datetime64[D]")
    for holiday in HOLIDAYS:
        index = int((np.datetime64(holiday) - first).astype(int))
        day[index * DAY : (index + 1) * DAY] = 6
    profile = rng.integers(0, 3, (n, 1))  # office, evening, even
    peak = np.choose(profile, [13.0, 20.0, 15.0]) + rng.normal(0, 1.0, (n, 1))
    depth = np.choose(profile, [0.75, 0.55, 0.15]) * rng.uniform(0.8, 1.2, (n, 1))
    angle = 2 * np.pi * (hour - peak) / DAY
    wave = 1 + depth * np.cos(angle) + 0.2 * depth * np.cos(2 * angle)
    weekend = np.choose(profile, [0.45, 1.25, 0.95]) * rng.uniform(0.9, 1.1, (n, 1))
    weekday = rng.normal(1.0, 0.05, (n, 7))
    weekday[:, 5:] *= weekend
    trend = 1 + rng.normal(0.0, 0.15, (n, 1)) * clock / hours
    return wave * weekday[:, day] * trend


def _usage_means(rng: np.random.Generator, demand: np.ndarray) -> list[np.ndarray]:
    """Draw the known part of cpu, memory and storage, before noise and shifts: each (resources, hours), in %."""
    n, hours = demand.shape
    clock = np.arange(hours)

    def per(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1))

    cpu = per(8, 26) + per(10, 36) * demand
    # Caches fill within a day and empty slowly: memory follows the mean demand of the last 12 hours.
    padded = np.cumsum(np.pad(demand, ((0, 0), (12, 0)), mode="edge"), axis=1)
    recent = (padded[:, 12:] - padded[:, :-12]) / 12
    memory = per(25, 50) + per(6, 26) * recent + rng.normal(0, 4, (n, 1)) * clock / hours
    storage = per(25, 55) + rng.gamma(2.0, 5.0, (n, 1)) * clock / hours + per(2, 12) * (recent - 1)
    return [cpu, memory, storage]


def _exogenous(rng: np.random.Generator, demand: np.ndarray, auto: np.ndarray, signal: float) -> np.ndarray:
    """Draw requests, users and transactions, (3, resources, hours); independent of demand at signal 0."""
    n = len(demand)
    users = rng.lognormal(6.0, 1.2, (n, 1)) * (1 + signal * (demand - 1))
    pull = np.exp(0.02 * auto)  # what moves the processor also shows in the demand
    rates = []
    for per_user, spread in ((0.25, 0.08), (1.0, 0.05), (40.0, 0.10)):
        ratio = per_user * rng.lognormal(0.0, 0.3, (n, 1))
        rates.append(ratio * users * pull * np.exp(rng.normal(0, spread, demand.shape)))
    rates[1] = np.round(rates[1])
    rates[2] = np.round(rates[2])
    return np.stack(rates).astype(np.float32)
