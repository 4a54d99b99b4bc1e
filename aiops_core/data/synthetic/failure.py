"""The story of failure: hourly telemetry, incidents, and how probable the next one is."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.draws import CONFIG, HOUR, WEEK, chunks, resource_ids, task_seed, utc_stamps
from aiops_core.data.synthetic.failure_chain import (
    INCIDENT_HOURS,
    KINDS,
    LATE_FROM,
    TELEMETRY_HOURS,
    TELEMETRY_START,
    Chain,
    episode_chain,
    walk,
)
from aiops_core.data.synthetic.failure_effects import TELEMETRY_METRICS, effects
from aiops_core.data.synthetic.failure_filter import filtered_probability
from aiops_core.data.synthetic.failure_metrics import telemetry_table

__all__ = ["Telemetry", "telemetry"]


@dataclass
class Telemetry:
    """What `telemetry` returns.

    Attributes
    ----------
    telemetry : DataFrame
        ``resource_id``, ``timestamp`` (UTC, hourly), the eight `TELEMETRY_METRICS` (float32, NaN where missing).
    incidents : DataFrame
        ``resource_id``, ``start``, ``end`` (UTC, half-open), ``kind``.
    chain : Chain
    drift : float
    state, outage : ndarray, (hours, resources)
        See `failure_chain.walk`.
    start : ndarray, (resources,), datetime64[s]
        First hour of each record.
    """

    telemetry: pd.DataFrame
    incidents: pd.DataFrame
    chain: Chain = field(repr=False)
    drift: float
    state: np.ndarray = field(repr=False)
    outage: np.ndarray = field(repr=False)
    start: np.ndarray = field(repr=False)

    @cached_property
    def oracle(self) -> pd.DataFrame:
        """``resource_id``, ``timestamp``, ``probability`` of an incident starting within the horizon.

        For every hour outside incidents, also where the row is missing, from the telemetry up to that hour; see
        `failure_filter.filtered_probability`.
        """
        names = self.telemetry["resource_id"]
        code, ids = pd.factorize(names)
        hours, resources = self.state.shape
        stamps = self.telemetry["timestamp"].dt.tz_localize(None).to_numpy().astype("datetime64[s]")
        hour = (stamps - self.start[code]) // HOUR
        clock = (self.start - TELEMETRY_START) // HOUR
        probability = np.empty((hours, resources), dtype=np.float32)
        shown, horizon = effects(self.chain), CONFIG["failure"]["horizon"]
        for part in chunks(resources, 512):
            mine = (code >= part.start) & (code < part.stop)
            values = np.full((len(TELEMETRY_METRICS), part.stop - part.start, hours), np.nan, dtype=np.float32)
            values[:, code[mine] - part.start, hour[mine]] = self.telemetry.loc[mine, list(TELEMETRY_METRICS)].T
            probability[:, part] = filtered_probability(values, clock[part], self.chain, shown, self.drift, horizon)
        return self._outside(probability, pd.Series(ids, dtype="str"))

    @cached_property
    def state_oracle(self) -> pd.DataFrame:
        """As `oracle`, from the latent state: what nobody who sees metrics can reach."""
        horizon = CONFIG["failure"]["horizon"]
        by_state = np.stack([self.chain.probability(horizon, late) for late in (False, True)])
        clock = (self.start - TELEMETRY_START) // HOUR + np.arange(len(self.state))[:, None]
        ids = pd.Series(resource_ids("server", len(self.start)), dtype="str")
        return self._outside(by_state[(clock >= LATE_FROM).astype(int), self.state], ids)

    def predict(self, keys: pd.DataFrame) -> np.ndarray:
        """Return the oracle's probability for ``resource_id`` and ``timestamp`` (the full hour), (n,), NaN elsewhere."""
        found = keys[["resource_id", "timestamp"]].merge(
            self.oracle, on=["resource_id", "timestamp"], how="left", validate="one_to_one"
        )
        return found["probability"].to_numpy(dtype=np.float64)

    def _outside(self, probability: np.ndarray, ids: pd.Series) -> pd.DataFrame:
        resource, hour = np.nonzero(self.outage.T == 0)
        return pd.DataFrame(
            {
                "resource_id": ids.take(resource).reset_index(drop=True),
                "timestamp": utc_stamps(self.start[resource] + hour * HOUR),
                "probability": probability[hour, resource].astype(np.float64),
            }
        )


def telemetry(n_samples: int, *, seed: int, signal: float = 1.0, drift: float = 1.0) -> Telemetry:
    """Generate hourly telemetry with incidents.

    The story. A resource is healthy until an episode sets in. Faults (`KINDS`) ripen over 25 to 65 hours into an
    incident of 2 to 8 hours, unless somebody sees them in time; benign episodes (`BENIGN`) last 30 to 100 hours and
    end well; a few incidents come without any warning. Episodes pass through phases of random length, so that neither
    the clock nor the calendar tells when an incident is due. Two kinds of fault appear in the last week only.

    Every metric has a level of its own that drifts; the load follows the hour and the weekday and moves the others. On
    top, each episode shifts two metrics, couples one to the load, or brings bursts. **No single metric tells a fault
    from a benign episode**; how two of them go together does:

    ========================================  ==========================================
    fault                                     the benign episode that looks like it
    ========================================  ==========================================
    memory_leak: memory and CPU rise          cache_warm_up: memory rises, CPU falls
    worker_loss: memory and CPU fall          compaction: memory falls, CPU rises
    disk_saturation: disk and answers up      prefetch: disk up, answers faster
    dependency_loss: both down, failing fast  slow_clients: disk down, answers slower
    network_flapping: network, then errors    retry_wave: errors first, then the network
    overload: answers slow with the load      off_peak_work: answers slow without load
    lock_contention (late): traffic, CPU down traffic_shift: traffic down, CPU up
    packet_storm (late): traffic and CPU up   bulk_import: traffic up, CPU down
    ========================================  ==========================================

    Most faults leave the answers as fast as they were. Events of the whole fleet slow the answers of many resources
    at once and end well. Values are missing at random (2 %), rows are missing in outages of the agent (1 %), and late
    points (0.5 %) carry a stamp up to 20 minutes after the hour.

    Parameters
    ----------
    n_samples : int
        Labelled windows (window 24 h, one every 24 h, horizon 24 h), reached to within those of one resource.
    seed : int
        Non-negative.
    signal : float
        Share of the faults that ripen. At 0 none does, and incidents come at a constant rate.
    drift : float
        How far levels drift; 1 by default. At 0 they stay, and the late kinds of fault never come.

    Returns
    -------
    Telemetry
        The oracle is a filter that sees the telemetry so far, ROC AUC about 0.95; computed when first read.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    latent_seed, metric_seed = task_seed("failure", n_samples, seed, signal, drift).spawn(2)
    config = CONFIG["failure"]
    per_resource = (TELEMETRY_HOURS - config["window"] - config["horizon"]) // config["stride"] + 1
    # 2 % of the windows end inside an incident and carry no label.
    resources = max(1, round(n_samples / (0.98 * per_resource)))
    chain = episode_chain(signal, drift)
    rng = np.random.default_rng(latent_seed)
    # Records begin at different hours, as agents are installed: windows a day apart still end at every hour.
    begin = rng.integers(0, WEEK, resources)
    state, outage, cause = walk(rng, chain, begin, TELEMETRY_HOURS)
    start = TELEMETRY_START + begin * HOUR
    ids = pd.Series(resource_ids("server", resources), dtype="str")
    table = telemetry_table(metric_seed, effects(chain), state, outage, start, ids, drift)
    incidents = _incident_table(outage, cause, start, ids)
    return Telemetry(table, incidents, chain, drift, state, outage, start)


def _incident_table(outage: np.ndarray, cause: np.ndarray, start: np.ndarray, ids: pd.Series) -> pd.DataFrame:
    resource, hour = np.nonzero(outage.T == 1)
    # The end is the first hour after the start that is not a continuation.
    length = np.ones(len(hour), dtype=np.int64)
    for k in range(1, INCIDENT_HOURS[1]):
        at = np.minimum(hour + k, len(outage) - 1)
        length += (hour + k < len(outage)) & (outage[at, resource] == k + 1)
    names = np.asarray(["sudden", *KINDS], dtype=object)
    begin = start[resource] + hour * HOUR
    return pd.DataFrame(
        {
            "resource_id": ids.take(resource).reset_index(drop=True),
            "start": utc_stamps(begin),
            "end": utc_stamps(begin + length * HOUR),
            "kind": pd.Series(names[cause[hour, resource]], dtype="str"),
        }
    )
