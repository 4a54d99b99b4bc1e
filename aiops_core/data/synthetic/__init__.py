"""Seeded synthetic contract tables with a written generative story and the oracle of each task.

An oracle is what a perfect model could reach: it knows the story, its parameters and (failure, capacity) the latent
state. Reports state every metric beside it, so that a reader sees how much of the achievable was reached.

======== =============================== ==================================== ==========================
task     one sample                      story                                oracle
======== =============================== ==================================== ==========================
failure  labelled window of a resource   finite Markov chain of degradations  exact incident probability
threat   one observed source             exponential-family class mixture     exact posterior
capacity (resource, forecast origin)     season + trend + AR + level shifts   exact conditional mean
======== =============================== ==================================== ==========================

Every generator is vectorised and draws from its own child of ``numpy.random.SeedSequence(seed)``, so a task's table
does not depend on which other tasks are generated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.tables import TASKS, Dataset
from aiops_core.errors import UsageError

__all__ = [
    "ACTIVITY_FEATURES",
    "CLASSES",
    "CONFIG",
    "TELEMETRY_METRICS",
    "UNITS",
    "USAGE_EXOGENOUS",
    "USAGE_TARGETS",
    "Feature",
    "Telemetry",
    "UsageOracle",
    "activity",
    "activity_posterior",
    "dataset",
    "telemetry",
    "unit_of",
    "usage",
]

HOUR = np.timedelta64(3600, "s")
DAY = 24
WEEK = 168


@dataclass(frozen=True)
class Feature:
    """Unit and range of one feature, for cards, OpenAPI and warnings.

    Attributes
    ----------
    unit : str
    low, high : float
        Hard bounds of the quantity; ``inf`` where there is none.
    typical : tuple of float
        Roughly the 1st and 99th percentile in the default synthetic data.
    description : str
    """

    unit: str
    low: float
    high: float
    typical: tuple[float, float]
    description: str


_INF = math.inf
#: Unit and range by feature name, of all three tasks.
UNITS: dict[str, Feature] = {
    "cpu_usage": Feature("%", 0.0, 100.0, (0.0, 98.0), "processor time in use"),
    "memory_usage": Feature("%", 0.0, 100.0, (14.0, 96.0), "memory in use"),
    "disk_io": Feature("ops/s", 0.0, _INF, (80.0, 4000.0), "disk operations"),
    "network_traffic": Feature("MB/s", 0.0, _INF, (3.0, 220.0), "bytes in and out"),
    "network_errors": Feature("1/min", 0.0, _INF, (0.0, 20.0), "dropped or damaged packets"),
    "error_rate": Feature("1/min", 0.0, _INF, (0.0, 45.0), "errors the application logged"),
    "response_time": Feature("ms", 0.0, _INF, (20.0, 1450.0), "mean time to answer a request"),
    "request_rate": Feature("1/s", 0.0, _INF, (4.0, 46000.0), "requests received"),
    "storage_usage": Feature("%", 0.0, 100.0, (1.0, 94.0), "storage in use"),
    "user_count": Feature("users", 0.0, _INF, (15.0, 7300.0), "users active in the hour"),
    "transaction_count": Feature("1/h", 0.0, _INF, (600.0, 260000.0), "transactions completed in the hour"),
    "failed_auth_count": Feature("1/h", 0.0, _INF, (0.0, 550.0), "failed logins of the source"),
    "unique_ips": Feature("addresses", 1.0, _INF, (1.0, 600.0), "distinct addresses behind the source"),
    "avg_payload_size": Feature("bytes", 0.0, _INF, (110.0, 15000.0), "mean size of a request body"),
    "port_scan_score": Feature("score", 0.0, 1.0, (0.0, 0.85), "share of probed ports that were closed"),
    "sql_injection_score": Feature("score", 0.0, 1.0, (0.0, 0.99), "similarity of parameters to SQL injection"),
    "xss_score": Feature("score", 0.0, 1.0, (0.0, 0.99), "similarity of parameters to script injection"),
    "geographic_entropy": Feature("bits", 0.0, _INF, (0.1, 7.0), "entropy of the countries of origin"),
    "time_anomaly_score": Feature("score", 0.0, 1.0, (0.0, 0.99), "how unusual the time of day is for the source"),
    "file_access_rate": Feature("1/min", 0.0, _INF, (0.2, 520.0), "files opened"),
    "privilege_escalation_score": Feature("score", 0.0, 1.0, (0.0, 0.9), "similarity of calls to privilege changes"),
    "data_transfer_rate": Feature("MB/s", 0.0, _INF, (0.1, 600.0), "bytes sent out"),
}


def unit_of(name: str, largest: float) -> str:
    """Return the unit of a feature known by name, "" for others or when the largest value cannot have that unit."""
    known = UNITS.get(name)
    return known.unit if known is not None and largest <= known.high else ""


#: Settings of the default data set, see `aiops_core.data.tables.CONFIG`.
CONFIG: dict[str, dict[str, Any]] = {
    # One label a day: windows of a resource do not overlap, so every sample is a new one.
    "failure": {"window": 24, "horizon": 24, "stride": 24, "test_fraction": 0.25},
    "threat": {"test_fraction": 0.25},
    # 25 h between origins: every hour of the day and, with eight of them, every day of the week is tested.
    "capacity": {
        "target": ["cpu_usage", "memory_usage", "storage_usage"],
        "season": 24,
        "horizon": 720,
        "origins": 8,
        "origin_step": 25,
        "score_steps": [1, 24, 168],
    },
}


def dataset(n_samples: int = 8000, *, seed: int = 0, signal: float = 1.0, tasks: Sequence[str] = TASKS) -> Dataset:
    """Generate the default data set.

    Parameters
    ----------
    n_samples : int
        Examples of each task: labelled windows (about), activity rows (exactly), (resource, origin) pairs (about;
        at least as many).
    seed : int
        Non-negative. Equal seeds give equal tables, whatever ``tasks`` is.
    signal : float
        1 is the default story, 0 makes the labels independent of the features. From 0 to 1.
    tasks : sequence of str
        Any of ``failure``, ``threat``, ``capacity``.

    Returns
    -------
    Dataset
        With settings and oracles of the chosen tasks.

    Raises
    ------
    UsageError
        If an argument is out of range or a task unknown.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise UsageError(f"unknown task '{unknown[0]}'; known: {', '.join(TASKS)}")
    tables: dict[str, pd.DataFrame] = {}
    oracles: dict[str, Any] = {}
    if "failure" in tasks:
        story = telemetry(n_samples, seed=seed, signal=signal)
        tables |= {"telemetry": story.telemetry, "incidents": story.incidents}
        oracles["failure"] = story.oracle
    if "threat" in tasks:
        tables["activity"], oracles["threat"] = activity(n_samples, seed=seed, signal=signal)
    if "capacity" in tasks:
        tables["usage"], oracles["capacity"] = usage(n_samples, seed=seed, signal=signal)
    config = {task: dict(CONFIG[task]) for task in TASKS if task in tasks}
    strength = "" if signal == 1.0 else f", signal {signal:g}"
    title = f"Synthetic telemetry, {n_samples:,} samples a task, seed {seed}{strength}"
    return Dataset("synthetic", title, "generated, no licence needed", tables, config, oracles)


def _generator(task: str, n_samples: int, seed: int, signal: float) -> np.random.SeedSequence:
    """Check the arguments all generators share and return the task's own seed."""
    if n_samples < 1:
        raise UsageError(f"n_samples must be at least 1, not {n_samples}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, not {seed}")
    if not 0.0 <= signal <= 1.0:
        raise UsageError(f"signal must lie between 0 and 1, not {signal:g}")
    return np.random.SeedSequence(seed).spawn(len(TASKS))[TASKS.index(task)]


def _ids(prefix: str, count: int) -> list[str]:
    """Resource ids whose alphabetical order is their numerical one."""
    width = max(3, len(str(count)))
    return [f"{prefix}-{i + 1:0{width}d}" for i in range(count)]


def _stamp(start: np.ndarray | np.datetime64) -> pd.DatetimeIndex:
    """Timezone-aware UTC stamps, microseconds, of naive ones."""
    return pd.DatetimeIndex(np.asarray(start).astype("datetime64[us]")).tz_localize("UTC")


def _chunks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _ar1(rng: np.random.Generator, shape: tuple[int, int], decay: float, sd: float) -> np.ndarray:
    """Stationary first-order autoregression along the last axis, (resources, hours), float32.

    ``x[t] = decay * x[t-1] + e[t]`` with the innovations scaled so that the standard deviation of ``x`` is ``sd``.
    """
    noise = rng.standard_normal((shape[1], shape[0]), dtype=np.float32)
    gain = math.sqrt(1 - decay**2)
    for t in range(1, shape[1]):
        noise[t] = decay * noise[t - 1] + gain * noise[t]
    return np.ascontiguousarray(sd * noise.T)


# ---------------------------------------------------------------------------------------------------------------------
# failure: telemetry and incidents
# ---------------------------------------------------------------------------------------------------------------------

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
#: Latent degradation processes; the code of each is its position, starting at 1 (0 is healthy).
KINDS = ("memory_leak", "disk_saturation", "error_storm", "network_flapping", "overload")

TELEMETRY_START = np.datetime64("2025-03-03T00:00:00", "s")  # a Monday
TELEMETRY_HOURS = 8 * WEEK
#: Hours from onset to full severity, and how probable each ramp is.
RAMPS = (30, 42, 60)
RAMP_WEIGHTS = (0.35, 0.40, 0.25)
ONSET = 1 / 190  # per healthy hour
RECOVERY = 0.006  # per degraded hour: somebody fixed it in time
BASE_HAZARD = 0.00012  # per hour, healthy or not: incidents without warning
PEAK_HAZARD = 0.15  # per hour at full severity
HAZARD_POWER = 4.0  # the hazard stays low for most of the ramp
VISIBLE_POWER = 0.7  # the signature shows earlier than the hazard rises
INCIDENT_HOURS = (2, 8)  # shortest and longest incident


@dataclass(frozen=True)
class Telemetry:
    """What `telemetry` returns.

    Attributes
    ----------
    telemetry : DataFrame
        ``resource_id``, ``timestamp`` (UTC, hourly), the eight `TELEMETRY_METRICS` (float32, NaN where missing).
    incidents : DataFrame
        ``resource_id``, ``start``, ``end`` (UTC, half-open), ``kind``.
    oracle : DataFrame
        ``resource_id``, ``timestamp``, ``probability``: of an incident starting within the horizon, for every hour
        outside incidents, also for hours whose row is missing from ``telemetry``.
    """

    telemetry: pd.DataFrame
    incidents: pd.DataFrame
    oracle: pd.DataFrame


@dataclass(frozen=True)
class _Chain:
    """The degradation process as a finite Markov chain; state 0 is healthy.

    Attributes (one value a state)
    ----------
    kind : ndarray of int8
        0 healthy, else position in `KINDS` plus 1.
    severity : ndarray of float32
        0 healthy to 1 fully developed.
    following : ndarray of int32
        State one hour later if nothing happens; full severity stays.
    hazard, recovery : ndarray of float64
        Probability per hour that an incident starts, and that a degradation ends without one.
    onset : ndarray of int32, (n_kinds * n_ramps,)
        First state of each (kind, ramp).
    onset_weight : ndarray of float64
        Probability of each, given an onset.
    """

    kind: np.ndarray
    severity: np.ndarray
    following: np.ndarray
    hazard: np.ndarray
    recovery: np.ndarray
    onset: np.ndarray
    onset_weight: np.ndarray

    def probability(self, horizon: int) -> np.ndarray:
        """Exact probability, by state, that an incident starts within the next ``horizon`` hours.

        Backward recursion over the hours left: in every hour the incident comes first, then the recovery, then the
        onset, else the degradation grows one hour older.
        """
        p = np.zeros(len(self.hazard))
        for _ in range(horizon):
            stay = np.where(self.kind == 0, 1 - ONSET, 1 - self.recovery) * p[self.following]
            leave = np.where(self.kind == 0, ONSET * (self.onset_weight @ p[self.onset]), self.recovery * p[0])
            p = self.hazard + (1 - self.hazard) * (stay + leave)
        return p.round(12)  # equal states stay tied: AUC must not rank rounding errors


def _chain(signal: float) -> _Chain:
    """Build the chain; ``signal`` mixes the hazard of the state with a constant one of about the same rate."""
    kind, severity, following, onset, weight = [0], [0.0], [0], [], []
    for code in range(1, len(KINDS) + 1):
        for ramp, share in zip(RAMPS, RAMP_WEIGHTS, strict=True):
            onset.append(len(kind))
            weight.append(share / len(KINDS))
            for age in range(1, ramp + 1):
                following.append(min(len(kind) + 1, onset[-1] + ramp - 1))
                kind.append(code)
                severity.append(age / ramp)
    level = np.asarray(severity)
    hazard = signal * (BASE_HAZARD + PEAK_HAZARD * level**HAZARD_POWER) + (1 - signal) * 0.0042
    return _Chain(
        kind=np.asarray(kind, dtype=np.int8),
        severity=level.astype(np.float32),
        following=np.asarray(following, dtype=np.int32),
        hazard=hazard,
        recovery=np.full(len(kind), RECOVERY),
        onset=np.asarray(onset, dtype=np.int32),
        onset_weight=np.asarray(weight),
    )


def telemetry(n_samples: int, *, seed: int, signal: float = 1.0) -> Telemetry:
    """Generate hourly telemetry with incidents.

    The story. A resource is healthy until one of five degradations sets in: a memory leak, a saturating disk, an
    error storm, a flapping network, an overload. It ripens over 30 to 60 hours; the hazard of an incident grows with
    the fourth power of its severity. Some degradations are repaired in time, and some incidents come without any
    warning. An incident lasts 2 to 8 hours; then the resource is healthy again.

    What the metrics show lies on top of ordinary life: resources differ tenfold in size and base level, load follows
    the hour and the weekday, and benign events look alike - batch jobs (CPU and disk near their limits), load spikes
    (requests and CPU), deploys (a burst of errors, slow answers, a step in memory). A high value is therefore no
    evidence; a trend, a growing variance or two metrics that move together over the window are:

    ================  ========================================================================================
    memory_leak       memory climbs steadily against the resource's own level; late: slow answers, some CPU
    disk_saturation   disk operations swing ever wider, response time follows the disk
    error_storm       bursts of errors come more and more often
    network_flapping  hours of lost traffic alternate with normal ones; packets are damaged in those hours
    overload          requests creep up and response time grows faster than they do
    ================  ========================================================================================

    Values are missing at random (2 %), rows are missing in outages of the agent (1 %), and late points (0.5 %) carry
    a stamp up to 20 minutes after the hour.

    Parameters
    ----------
    n_samples : int
        Labelled windows (window 24 h, one every 24 h, horizon 24 h), reached to within those of one resource.
    seed : int
        Non-negative.
    signal : float
        Share of the hazard that depends on the degradation. At 0 incidents come at a constant rate.

    Returns
    -------
    Telemetry
        The oracle is the exact probability given the latent state (see `_Chain.probability`), ROC AUC about 0.95.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    latent_seed, metric_seed = _generator("failure", n_samples, seed, signal).spawn(2)
    config = CONFIG["failure"]
    per_resource = (TELEMETRY_HOURS - config["window"] - config["horizon"]) // config["stride"] + 1
    # 2 % of the windows end inside an incident and carry no label.
    resources = max(1, round(n_samples / (0.98 * per_resource)))
    chain = _chain(signal)
    rng = np.random.default_rng(latent_seed)
    state, outage = _walk(rng, chain, resources, TELEMETRY_HOURS)
    # Records begin at different hours, as agents are installed: windows a day apart still end at every hour.
    start = TELEMETRY_START + rng.integers(0, WEEK, resources) * HOUR
    ids = pd.Series(_ids("server", resources), dtype="str")
    table = _telemetry_table(metric_seed, chain, state, outage, start, ids)
    incidents = _incident_table(chain, state, outage, start, ids)
    return Telemetry(table, incidents, _failure_oracle(chain, state, outage, start, ids))


def _walk(rng: np.random.Generator, chain: _Chain, resources: int, hours: int) -> tuple[np.ndarray, np.ndarray]:
    """Walk all resources through the chain.

    Returns
    -------
    state : ndarray, (hours, resources), int16
        State of the chain. During an incident: the state it broke out of.
    outage : ndarray, (hours, resources), int8
        0 outside incidents, else the hour of the incident counted from 1.
    """
    burn_in = 300
    state = np.zeros((hours, resources), dtype=np.int16)
    outage = np.zeros((hours, resources), dtype=np.int8)
    now = np.zeros(resources, dtype=np.int64)
    left = np.zeros(resources, dtype=np.int64)  # hours the incident still lasts
    since = np.zeros(resources, dtype=np.int8)
    steps = np.cumsum(chain.onset_weight)
    for t in range(-burn_in, hours):
        draw = rng.random((3, resources))
        running = left > 0
        ended = running & (left == 1)
        left[running] -= 1
        breaks = ~running & (draw[0] < chain.hazard[now])
        turn = ~running & ~breaks
        healthy = now == 0
        begins = turn & healthy & (draw[1] < ONSET)
        recovers = turn & ~healthy & (draw[1] < chain.recovery[now])
        ages = turn & ~recovers & ~healthy
        picked = np.minimum(np.searchsorted(steps, draw[2]), len(steps) - 1)
        now = np.where(ages, chain.following[now], now)
        now = np.where(begins, chain.onset[picked], now)
        now = np.where(recovers | ended, 0, now)
        length = INCIDENT_HOURS[0] + (draw[2] * (INCIDENT_HOURS[1] - INCIDENT_HOURS[0] + 1)).astype(np.int64)
        left = np.where(breaks, length, left)
        since = np.where(left > 0, since + 1, 0).astype(np.int8)
        if t == -1:  # no incident runs when the record begins
            now, left, since = np.where(left > 0, 0, now), np.zeros_like(left), np.zeros_like(since)
        if t >= 0:
            state[t], outage[t] = now, since
    return state, outage


def _incident_table(
    chain: _Chain, state: np.ndarray, outage: np.ndarray, start: np.ndarray, ids: pd.Series
) -> pd.DataFrame:
    resource, hour = np.nonzero(outage.T == 1)
    last = np.where(outage > 0, np.arange(len(outage))[:, None], -1)
    # The end is the first hour after the start that is not a continuation.
    length = np.ones(len(hour), dtype=np.int64)
    for k in range(1, INCIDENT_HOURS[1]):
        inside = hour + k < len(outage)
        length += (
            inside
            & (last[np.minimum(hour + k, len(outage) - 1), resource] == hour + k)
            & (outage[np.minimum(hour + k, len(outage) - 1), resource] == k + 1)
        )
    names = np.asarray(["sudden", *KINDS], dtype=object)
    begin = start[resource] + hour * HOUR
    return pd.DataFrame(
        {
            "resource_id": ids.take(resource).reset_index(drop=True),
            "start": _stamp(begin),
            "end": _stamp(begin + length * HOUR),
            "kind": pd.Series(names[chain.kind[state[hour, resource]]], dtype="str"),
        }
    )


def _failure_oracle(
    chain: _Chain, state: np.ndarray, outage: np.ndarray, start: np.ndarray, ids: pd.Series
) -> pd.DataFrame:
    probability = chain.probability(CONFIG["failure"]["horizon"])
    resource, hour = np.nonzero(outage.T == 0)
    return pd.DataFrame(
        {
            "resource_id": ids.take(resource).reset_index(drop=True),
            "timestamp": _stamp(start[resource] + hour * HOUR),
            "probability": probability[state[hour, resource]],
        }
    )


def _telemetry_table(
    seed: np.random.SeedSequence,
    chain: _Chain,
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
    for part, child in zip(_chunks(resources, size), seeds, strict=True):
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
    table = {"resource_id": ids.take(resource).reset_index(drop=True), "timestamp": _stamp(np.concatenate(stamps))}
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
    load = wave * np.where(day >= 5, weekend, 1.0) * np.exp(_ar1(rng, clock.shape, 0.85, 0.10))
    return np.asarray(load, dtype=np.float32)


def _metrics(
    rng: np.random.Generator, chain: _Chain, state: np.ndarray, down: np.ndarray, clock: np.ndarray
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

    memory = per(rng.uniform(22, 66, n)) + 4 * (load - 1) + _memory_steps(rng, deploy) + _ar1(rng, shape, 0.9, 1.0)
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


# ---------------------------------------------------------------------------------------------------------------------
# threat: activity
# ---------------------------------------------------------------------------------------------------------------------

#: Classes with their share; ``normal`` first.
CLASSES: dict[str, float] = {
    "normal": 0.56,
    "unauthorized_access": 0.06,
    "ddos_attack": 0.07,
    "data_exfiltration": 0.05,
    "privilege_escalation": 0.03,
    "malware_activity": 0.05,
    "brute_force": 0.08,
    "sql_injection": 0.05,
    "xss_attack": 0.05,
}


@dataclass(frozen=True)
class _Law:
    """Distribution of one activity feature given class and intensity.

    All families are exponential with a fixed dispersion and a location ``eta`` (log of the mean or median, logit of the
    mean for scores), so the log-density is linear in statistics of the value.
    """

    family: str  # "lognormal" | "negative_binomial" | "gamma" | "beta"
    base: float  # eta of normal activity
    dispersion: float  # sd of the log | size r | shape | mean-precision a + b
    loading: float  # how far eta moves with the intensity, in any class
    group: str  # features of a group are observed by the same sensor


LAWS: dict[str, _Law] = {
    "request_rate": _Law("lognormal", math.log(60.0), 1.0, 0.55, "network"),
    "failed_auth_count": _Law("negative_binomial", math.log(1.2), 1.2, 0.35, "identity"),
    "unique_ips": _Law("negative_binomial", math.log(4.0), 1.5, 0.45, "network"),
    "avg_payload_size": _Law("lognormal", math.log(1200.0), 0.8, 0.10, "application"),
    "port_scan_score": _Law("beta", -2.6, 8.0, 0.20, "network"),
    "sql_injection_score": _Law("beta", -2.6, 8.0, 0.15, "application"),
    "xss_score": _Law("beta", -2.6, 8.0, 0.15, "application"),
    "geographic_entropy": _Law("gamma", math.log(0.9), 2.5, 0.25, "network"),
    "time_anomaly_score": _Law("beta", -1.6, 4.0, 0.10, "identity"),
    "file_access_rate": _Law("gamma", math.log(8.0), 1.2, 0.45, "host"),
    "privilege_escalation_score": _Law("beta", -2.8, 8.0, 0.15, "host"),
    "data_transfer_rate": _Law("lognormal", math.log(1.5), 1.1, 0.50, "host"),
}
ACTIVITY_FEATURES = tuple(LAWS)

#: How far each class moves the location of a feature; features not named stay as in normal activity.
SIGNATURES: dict[str, dict[str, float]] = {
    "normal": {},
    "unauthorized_access": {
        "failed_auth_count": 1.4,
        "geographic_entropy": 1.0,
        "time_anomaly_score": 3.4,
        "file_access_rate": 1.8,
        "privilege_escalation_score": 1.3,
    },
    "ddos_attack": {
        "request_rate": 4.8,
        "unique_ips": 3.7,
        "avg_payload_size": -1.4,
        "geographic_entropy": 1.3,
        "port_scan_score": 0.7,
    },
    "data_exfiltration": {
        "data_transfer_rate": 4.4,
        "file_access_rate": 2.8,
        "avg_payload_size": 1.7,
        "time_anomaly_score": 2.2,
    },
    "privilege_escalation": {
        "privilege_escalation_score": 4.4,
        "file_access_rate": 1.3,
        "time_anomaly_score": 1.1,
        "failed_auth_count": 0.7,
    },
    "malware_activity": {
        "port_scan_score": 3.2,
        "file_access_rate": 2.9,
        "data_transfer_rate": 1.7,
        "unique_ips": 1.4,
        "privilege_escalation_score": 1.4,
    },
    "brute_force": {
        "failed_auth_count": 4.7,
        "request_rate": 1.7,
        "time_anomaly_score": 1.1,
        "unique_ips": 0.9,
    },
    "sql_injection": {"sql_injection_score": 4.6, "avg_payload_size": 0.9, "request_rate": 0.7, "xss_score": 0.9},
    "xss_attack": {"xss_score": 4.6, "avg_payload_size": 0.6, "sql_injection_score": 0.9},
}
#: Intensity levels, from stealthy to blatant (for normal activity: from quiet to busy), and their weights.
INTENSITY = (-1.3, -0.4, 0.4, 1.3)
INTENSITY_WEIGHTS = (0.2, 0.3, 0.3, 0.2)
#: Part of the signature that grows with the intensity.
STEALTH = 0.22


def activity(n_samples: int, *, seed: int, signal: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate observed activity of sources, each of one of nine classes.

    The story. A source belongs to a class (`CLASSES`) and has an intensity, one of four levels from stealthy to
    blatant. Given both, its features are independent: log-normal and gamma rates, negative-binomial counts, beta
    scores, whose location is that of normal activity, moved by the class's signature (`SIGNATURES`; the more intense,
    the further) and by the intensity itself. The shared intensity correlates the features and makes their tails heavy;
    stealthy attacks look like busy normal sources and like each other. Sensors fail: single values are missing (4 %),
    a sensor's whole group of features is missing (4 % each), and of some sources (4 %) only a handful of features was
    observed at all.

    Parameters
    ----------
    n_samples : int
        Rows.
    seed : int
        Non-negative.
    signal : float
        Scales the signatures. At 0 all classes look like normal activity.

    Returns
    -------
    activity : DataFrame, (n_samples, 13)
        The twelve features of DESIGN (float64, NaN where missing) and ``threat_type``.
    oracle : DataFrame, (n_samples, 9)
        Exact posterior of each class, aligned by row; macro-F1 of its largest class about 0.92.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    rng = np.random.default_rng(_generator("threat", n_samples, seed, signal))
    label = rng.choice(len(CLASSES), n_samples, p=list(CLASSES.values()))
    level = rng.choice(len(INTENSITY), n_samples, p=INTENSITY_WEIGHTS)
    eta = _locations(signal)
    values = np.empty((n_samples, len(LAWS)))
    for j, law in enumerate(LAWS.values()):
        values[:, j] = _draw(rng, law, eta[label, level, j])
    values[~_observed(rng, n_samples)] = np.nan
    frame = pd.DataFrame(values, columns=list(LAWS))
    frame["threat_type"] = pd.Series(np.asarray(list(CLASSES), dtype=object)[label], dtype="str")
    return frame, activity_posterior(frame, signal=signal)


def activity_posterior(rows: pd.DataFrame, *, signal: float = 1.0) -> pd.DataFrame:
    """Exact posterior of the class of each row, given the features that were observed.

    ``P(c | x) ~ P(c) * sum_k P(k) * prod_j p(x_j | c, k)`` over observed features ``j``. Because features are
    independent given class and intensity, a missing one simply drops out; because the families are exponential, the
    sum of log-densities is one matrix product.

    Parameters
    ----------
    rows : DataFrame, (n, any)
        Any subset of the activity features; NaN or an absent column means not observed.
    signal : float
        As given to `activity`.

    Returns
    -------
    DataFrame, (n, 9)
        Probabilities, rows sum to 1; index of ``rows``.
    """
    values = rows.reindex(columns=list(LAWS)).to_numpy(dtype=np.float64, na_value=np.nan)
    coefficients, constants = _log_density_terms(signal)
    prior = np.log(np.outer(list(CLASSES.values()), INTENSITY_WEIGHTS)).ravel()
    out = np.empty((len(values), len(CLASSES)))
    for part in _chunks(len(values), 50_000):
        seen = ~np.isnan(values[part])
        statistics = np.where(np.repeat(seen, 2, axis=1), _statistics(values[part]), 0.0)
        joint = prior + statistics @ coefficients + seen @ constants  # (n, classes * levels)
        joint = np.exp(joint - joint.max(axis=1, keepdims=True))
        by_class = joint.reshape(len(joint), len(CLASSES), len(INTENSITY)).sum(axis=2)
        out[part] = by_class / by_class.sum(axis=1, keepdims=True)
    return pd.DataFrame(out, columns=list(CLASSES), index=rows.index)


def _locations(signal: float) -> np.ndarray:
    """Location of each feature by class and intensity, (classes, levels, features)."""
    base = np.array([law.base for law in LAWS.values()])
    loading = np.array([law.loading for law in LAWS.values()])
    shift = np.array([[SIGNATURES[c].get(f, 0.0) for f in LAWS] for c in CLASSES])
    z = np.asarray(INTENSITY)[None, :, None]
    return np.asarray(base + loading * z + signal * shift[:, None, :] * (1 + STEALTH * z))


def _draw(rng: np.random.Generator, law: _Law, eta: np.ndarray) -> np.ndarray:
    if law.family == "lognormal":
        return np.exp(eta + law.dispersion * rng.standard_normal(len(eta)))
    if law.family == "gamma":
        return np.asarray(rng.gamma(law.dispersion, np.exp(eta) / law.dispersion))
    if law.family == "negative_binomial":
        mean = np.exp(eta)
        offset = 1.0 if law is LAWS["unique_ips"] else 0.0
        return np.asarray(offset + rng.negative_binomial(law.dispersion, law.dispersion / (law.dispersion + mean)))
    mean = 1 / (1 + np.exp(-eta))
    score = rng.beta(mean * law.dispersion, (1 - mean) * law.dispersion)
    return np.asarray(np.clip(score, 1e-12, 1 - 1e-12))


def _statistics(values: np.ndarray) -> np.ndarray:
    """Two sufficient statistics of each feature, (n, 2 * features), for `_log_density_terms`."""
    out = np.zeros((len(values), len(LAWS), 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        for j, (name, law) in enumerate(LAWS.items()):
            x = values[:, j]
            if law.family == "negative_binomial":
                out[:, j, 0] = x - 1.0 if name == "unique_ips" else x
            elif law.family == "gamma":
                out[:, j, 0] = x
            elif law.family == "lognormal":
                out[:, j, 0] = np.log(np.maximum(x, 1e-12))
            else:
                inside = np.clip(x, 1e-12, 1 - 1e-12)
                out[:, j, 0], out[:, j, 1] = np.log(inside), np.log1p(-inside)
    return out.reshape(len(values), -1)


def _log_density_terms(signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the statistics, (2 * features, classes * levels), and constants, (features, classes * levels).

    Terms of the density that are equal for every class and intensity are left out: they cancel in the posterior.
    """
    eta = _locations(signal).reshape(-1, len(LAWS))  # (classes * levels, features)
    slope = np.zeros((len(LAWS), 2, len(eta)))
    constant = np.zeros((len(LAWS), len(eta)))
    for j, law in enumerate(LAWS.values()):
        location = eta[:, j]
        if law.family == "lognormal":
            slope[j, 0] = location / law.dispersion**2
            constant[j] = -(location**2) / (2 * law.dispersion**2)
        elif law.family == "gamma":
            slope[j, 0] = -law.dispersion * np.exp(-location)
            constant[j] = -law.dispersion * location
        elif law.family == "negative_binomial":
            mean = np.exp(location)
            slope[j, 0] = np.log(mean / (mean + law.dispersion))
            constant[j] = law.dispersion * np.log(law.dispersion / (mean + law.dispersion))
        else:
            mean = 1 / (1 + np.exp(-location))
            a, b = mean * law.dispersion, (1 - mean) * law.dispersion
            slope[j, 0], slope[j, 1] = a, b
            constant[j] = [-math.lgamma(p) - math.lgamma(q) for p, q in zip(a, b, strict=True)]
    return slope.reshape(-1, len(eta)), constant


def _observed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Which features of a row were observed; never depends on class or value. At least one is. (n, features), bool."""
    seen = rng.random((n, len(LAWS))) >= 0.04
    groups = [law.group for law in LAWS.values()]
    for group in dict.fromkeys(groups):
        members = np.array([name == group for name in groups])
        seen[(rng.random(n) < 0.04)[:, None] & members] = False
    sparse = np.flatnonzero(rng.random(n) < 0.04)
    seen[sparse] = rng.random((len(sparse), len(LAWS))) < 0.4
    empty = np.flatnonzero(~seen.any(axis=1))
    seen[empty, rng.integers(0, len(LAWS), len(empty))] = True
    return seen


# ---------------------------------------------------------------------------------------------------------------------
# capacity: usage
# ---------------------------------------------------------------------------------------------------------------------

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
    seeds = _generator("capacity", n_samples, seed, signal).spawn(math.ceil(resources / size))
    merged = np.empty((len(USAGE_TARGETS) + len(USAGE_EXOGENOUS), resources, USAGE_HOURS), dtype=np.float32)
    latent = np.empty((3, len(USAGE_TARGETS), resources, USAGE_HOURS), dtype=np.float32)
    for part, child in zip(_chunks(resources, size), seeds, strict=True):
        merged[:, part], latent[:, :, part] = _usage_chunk(np.random.default_rng(child), part.stop - part.start, signal)
    ids = pd.Series(_ids("host", resources), dtype="str")
    table = {
        "resource_id": ids.take(np.repeat(np.arange(resources), USAGE_HOURS)).reset_index(drop=True),
        "timestamp": _stamp(np.tile(USAGE_START + np.arange(USAGE_HOURS) * HOUR, resources)),
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
    below, above = _normal_cdf(a), _normal_cdf(b)
    density = (np.exp(-(a**2) / 2) - np.exp(-(b**2) / 2)) / math.sqrt(2 * math.pi)
    return np.asarray(low * below + high * (1 - above) + mean * (above - below) + sd * density)


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    scaled = np.asarray(x / math.sqrt(2))
    return 0.5 * (1 + np.fromiter(map(math.erf, scaled.tolist()), np.float64, len(scaled)))


def _usage_chunk(rng: np.random.Generator, n: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the usage of ``n`` resources, float32.

    Returns
    -------
    values : ndarray, (columns, resources, hours)
    latent : ndarray, (3, targets, resources, hours)
        ``mean``, ``level`` and ``auto`` of `UsageOracle`.
    """
    shape = (n, USAGE_HOURS)
    demand = _demand(rng, shape)  # deterministic part, mean about 1
    mean = np.stack(_usage_means(rng, demand)).astype(np.float32)
    base = mean.mean(axis=2, keepdims=True)
    mean = base + np.float32(signal) * (mean - base)
    level, auto, observed = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for j, (decay, sd, white, rate, shift) in enumerate(DYNAMICS.values()):
        jumps = (rng.random(shape) < rate * signal) * rng.normal(0, shift, shape)
        walk = rng.standard_normal(shape) * WALK * (1 - signal)
        level[j] = np.cumsum(jumps + walk, axis=1)
        auto[j] = _ar1(rng, shape, decay, sd * signal)
        observed[j] = np.clip(mean[j] + level[j] + auto[j] + rng.normal(0, white * signal, shape), 0.0, 100.0)
    values = np.concatenate([observed, _exogenous(rng, demand, auto[0], signal)])
    values[rng.random(values.shape, dtype=np.float32) < 0.01] = np.nan
    return values, np.stack([mean, level, auto])


def _demand(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
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
