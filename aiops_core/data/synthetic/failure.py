"""The story of failure: hourly telemetry, incidents and the exact probability of the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.draws import CONFIG, HOUR, WEEK, resource_ids, task_seed, utc_stamps
from aiops_core.data.synthetic.failure_chain import (
    INCIDENT_HOURS,
    KINDS,
    TELEMETRY_HOURS,
    TELEMETRY_START,
    Chain,
    degradation_chain,
    walk,
)
from aiops_core.data.synthetic.failure_metrics import telemetry_table

__all__ = ["Telemetry", "telemetry"]


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
        The oracle is the exact probability given the latent state (see `Chain.probability`), ROC AUC about 0.95.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    latent_seed, metric_seed = task_seed("failure", n_samples, seed, signal).spawn(2)
    config = CONFIG["failure"]
    per_resource = (TELEMETRY_HOURS - config["window"] - config["horizon"]) // config["stride"] + 1
    # 2 % of the windows end inside an incident and carry no label.
    resources = max(1, round(n_samples / (0.98 * per_resource)))
    chain = degradation_chain(signal)
    rng = np.random.default_rng(latent_seed)
    state, outage = walk(rng, chain, resources, TELEMETRY_HOURS)
    # Records begin at different hours, as agents are installed: windows a day apart still end at every hour.
    start = TELEMETRY_START + rng.integers(0, WEEK, resources) * HOUR
    ids = pd.Series(resource_ids("server", resources), dtype="str")
    table = telemetry_table(metric_seed, chain, state, outage, start, ids)
    incidents = _incident_table(chain, state, outage, start, ids)
    return Telemetry(table, incidents, _failure_oracle(chain, state, outage, start, ids))


def _incident_table(
    chain: Chain, state: np.ndarray, outage: np.ndarray, start: np.ndarray, ids: pd.Series
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
            "start": utc_stamps(begin),
            "end": utc_stamps(begin + length * HOUR),
            "kind": pd.Series(names[chain.kind[state[hour, resource]]], dtype="str"),
        }
    )


def _failure_oracle(
    chain: Chain, state: np.ndarray, outage: np.ndarray, start: np.ndarray, ids: pd.Series
) -> pd.DataFrame:
    probability = chain.probability(CONFIG["failure"]["horizon"])
    resource, hour = np.nonzero(outage.T == 0)
    return pd.DataFrame(
        {
            "resource_id": ids.take(resource).reset_index(drop=True),
            "timestamp": utc_stamps(start[resource] + hour * HOUR),
            "probability": probability[state[hour, resource]],
        }
    )
