"""How an episode shows in the metrics: shifts of a metric's own level, coupling to the load, and ordered bursts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiops_core.data.synthetic.failure_chain import BENIGN, KINDS, PHASES, Chain

__all__ = [
    "BURST",
    "BURST_ECHO",
    "BURST_LAG",
    "BURST_RATE",
    "BURST_RISE",
    "LEVELLED",
    "LEVEL_DECAY",
    "LEVEL_DRIFT",
    "LEVEL_SPREAD",
    "LOAD_LEVEL",
    "LOAD_SHARE",
    "NOISE",
    "OUTLIER_RATE",
    "OUTLIER_SCALE",
    "TELEMETRY_METRICS",
    "TYPICAL",
    "Effects",
    "effects",
]

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
#: Metrics with a level of their own; the request rate is the load that the others follow.
LEVELLED = TELEMETRY_METRICS[:-1]
#: On the scale the story is told in: log odds of the two percentages, logs of the others.
TYPICAL = np.array([-0.85, -0.2, 6.0, 3.4, 0.0, 0.0, 4.8])  # mean level of all resources
LEVEL_SPREAD = np.array([0.4, 0.4, 0.5, 0.5, 0.4, 0.4, 0.5])  # sd between resources
NOISE = np.array([0.16, 0.12, 0.18, 0.16, 0.40, 0.40, 0.15])  # sd of an hour
LOAD_SHARE = np.array([0.5, 0.08, 0.4, 0.9, 0.3, 0.4, 0.2])  # per unit of log load above that of the last day
LOAD_LEVEL = 5.0  # mean log of the request rate
LEVEL_DRIFT = 0.30  # stationary sd of a resource's level around its mean, at drift 1
LEVEL_DECAY = 0.995  # per hour
OUTLIER_RATE, OUTLIER_SCALE = 0.03, 4.0
BURST_RATE, BURST_RISE, BURST = 0.04, 0.30, 2.2  # per hour when healthy; more at full growth; height
BURST_LAG, BURST_ECHO = 3, 0.9  # one burst draws another after so many hours, with this probability
GROWTH_POWER = 0.8
#: Shift of the level at the end of an episode. Faults and benign episodes differ only in how two metrics move together.
SHIFTS: dict[str, dict[str, float]] = {
    "memory_leak": {"memory_usage": 1.9, "cpu_usage": 2.0},
    "worker_loss": {"memory_usage": -1.9, "cpu_usage": -2.0},
    "cache_warm_up": {"memory_usage": 1.9, "cpu_usage": -2.0},
    "compaction": {"memory_usage": -1.9, "cpu_usage": 2.0},
    "disk_saturation": {"disk_io": 2.1, "response_time": 2.0},
    "dependency_loss": {"disk_io": -2.1, "response_time": -2.0},
    "prefetch": {"disk_io": 2.1, "response_time": -2.0},
    "slow_clients": {"disk_io": -2.1, "response_time": 2.0},
    "lock_contention": {"network_traffic": -2.1, "cpu_usage": -2.0},
    "packet_storm": {"network_traffic": 2.1, "cpu_usage": 2.0},
    "bulk_import": {"network_traffic": 2.1, "cpu_usage": -2.0},
    "traffic_shift": {"network_traffic": -2.1, "cpu_usage": 2.0},
    "fleet_event": {"network_traffic": -0.8, "response_time": 1.2},
}
#: Response time follows the load, or runs against it, per unit of log load.
COUPLING = {"overload": 2.5, "off_peak_work": -2.5}
#: The first burst is in the network, its echo in the errors; a retry wave has it the other way round.
NETWORK_FIRST, ERRORS_FIRST = "network_flapping", "retry_wave"
OUTAGE = {"error_rate": 2.5, "response_time": 1.2}


@dataclass(frozen=True)
class Effects:
    """Effects of each state, and of an incident as the last one.

    Attributes
    ----------
    shift, coupling : ndarray, (states + 1, metrics)
        Level shift, and what is added per unit of log load, of each of `LEVELLED`.
    network_first, errors_first : ndarray, (states + 1,)
        How much more often a first burst comes per hour; 0 where none draws an echo.
    """

    shift: np.ndarray
    coupling: np.ndarray
    network_first: np.ndarray
    errors_first: np.ndarray


def effects(chain: Chain) -> Effects:
    """Tabulate the effects of the chain's states."""
    shift, coupling = np.zeros((2, chain.size + 1, len(LEVELLED)))
    network_first, errors_first = np.zeros((2, chain.size + 1))
    growth = (chain.phase / PHASES) ** GROWTH_POWER
    for code, name in enumerate((*KINDS, *BENIGN), start=1):
        mine = np.flatnonzero(chain.kind == code)
        for metric, height in SHIFTS.get(name, {}).items():
            shift[mine, LEVELLED.index(metric)] = height * growth[mine]
        coupling[mine, LEVELLED.index("response_time")] = COUPLING.get(name, 0.0) * growth[mine]
        if name == NETWORK_FIRST:
            network_first[mine] = BURST_RISE * growth[mine]
        if name == ERRORS_FIRST:
            errors_first[mine] = BURST_RISE * growth[mine]
    for metric, height in OUTAGE.items():
        shift[-1, LEVELLED.index(metric)] = height
    return Effects(shift, coupling, network_first, errors_first)
