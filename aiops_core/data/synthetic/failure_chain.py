"""Episodes of a resource as a finite Markov chain: faults that end in incidents, and benign ones that end well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiops_core.data.synthetic.draws import WEEK

__all__ = [
    "BENIGN",
    "FLEET_EVENT",
    "INCIDENT_HOURS",
    "KINDS",
    "LATE_FROM",
    "LATE_KINDS",
    "PHASES",
    "TELEMETRY_HOURS",
    "TELEMETRY_START",
    "Chain",
    "episode_chain",
    "walk",
]

#: Faults, by the name that ``incidents.kind`` carries; the code of each is its position, starting at 1 (0 is healthy).
KINDS = (
    "memory_leak",
    "worker_loss",
    "disk_saturation",
    "dependency_loss",
    "network_flapping",
    "overload",
    "lock_contention",
    "packet_storm",
)
#: Faults that no resource has before `LATE_FROM`.
LATE_KINDS = ("lock_contention", "packet_storm")
#: Episodes that look like a fault in every single metric and end without an incident; their codes follow the faults'.
BENIGN = (
    "cache_warm_up",
    "compaction",
    "prefetch",
    "slow_clients",
    "retry_wave",
    "off_peak_work",
    "bulk_import",
    "traffic_shift",
    "fleet_event",
)
FLEET_EVENT = len(KINDS) + len(BENIGN)
TELEMETRY_START = np.datetime64("2025-03-03T00:00:00", "s")  # a Monday
TELEMETRY_HOURS = 8 * WEEK
#: Hours after `TELEMETRY_START`: past every training and validation row, whether cut by position or by calendar.
LATE_FROM = 7 * WEEK
#: Every episode passes through this many phases; the hours in each are geometric, so its length is no calendar.
PHASES = 6
FAULT_HOURS = 7.0  # mean hours in a phase: 30 to 65 from onset to incident
BENIGN_HOURS = 10.0  # 30 to 100 hours
FLEET_HOURS = 2.7
FAULT_ONSET = 0.0058  # per healthy hour, all kinds together
BENIGN_ONSET = 0.0035
LATE_SHARE = 0.12  # of the onsets once late kinds exist
FLEET_EVENTS = 10  # in the whole record
FLEET_REACH = 0.6  # share of the healthy resources that takes part in one
RIPEN = 0.95  # a fault that reaches its end becomes an incident
RECOVERY = 0.0015  # per hour of a fault: somebody saw it in time
SUDDEN = 0.0001  # per hour, in any state: incidents without warning
FLAT_HAZARD = 0.0032  # per hour, in any state, without signal
INCIDENT_HOURS = (2, 8)  # shortest and longest incident


@dataclass(frozen=True)
class Chain:
    """Healthy, or in a phase of an episode; state 0 is healthy.

    Attributes (one value a state)
    ----------
    kind : ndarray of int8
        0 healthy, else a code of `KINDS`, then `BENIGN`.
    phase : ndarray of int8
        1 to `PHASES`, 0 when healthy.
    step : ndarray of float64
        Probability per hour that the phase ends.
    ripen : ndarray of float64
        Probability that the end of the phase is an incident; else the next phase follows, or health after the last.
    recovery : ndarray of float64
        Probability per hour that the episode ends early and well.
    onset : ndarray, (2, states)
        Probability per healthy hour that an episode starts in the state: before and after `LATE_FROM`.
    sudden : float
        Probability per hour of an incident without warning, in any state.
    """

    kind: np.ndarray
    phase: np.ndarray
    step: np.ndarray
    ripen: np.ndarray
    recovery: np.ndarray
    onset: np.ndarray
    sudden: float

    @property
    def size(self) -> int:
        """Number of states."""
        return len(self.kind)

    def following(self, p: np.ndarray) -> np.ndarray:
        """Return ``p`` of the state that follows each one when its phase ends without an incident, (states,)."""
        last = (self.phase == PHASES) | (self.phase == 0)
        return np.asarray(np.where(last, p[0], np.r_[p[1:], p[0]]))

    def probability(self, horizon: int, late: bool = False) -> np.ndarray:
        """Exact probability, by state, that an incident starts within the next ``horizon`` hours.

        Backward recursion over the hours left; ``late`` says whether late kinds may set in.
        """
        onset = self.onset[int(late)]
        p = np.zeros(self.size)
        for _ in range(horizon):
            ends = self.step * (self.ripen + (1 - self.ripen) * self.following(p))
            episode = self.recovery * p[0] + (1 - self.recovery) * (ends + (1 - self.step) * p)
            healthy = onset @ p + (1 - onset.sum()) * p[0]
            p = self.sudden + (1 - self.sudden) * np.where(self.kind == 0, healthy, episode)
        return np.asarray(p.round(12))  # equal states stay tied: AUC must not rank rounding errors


def episode_chain(signal: float, drift: float = 1.0) -> Chain:
    """Build the chain; with less ``signal`` fewer faults ripen and more incidents come at a constant rate.

    Without ``drift`` no late kinds appear.
    """
    codes = np.arange(1, FLEET_EVENT + 1)
    kind = np.r_[0, np.repeat(codes, PHASES)]
    phase = np.r_[0, np.tile(np.arange(1, PHASES + 1), len(codes))]
    fault = (kind >= 1) & (kind <= len(KINDS))
    hours = np.where(fault, FAULT_HOURS, np.where(kind == FLEET_EVENT, FLEET_HOURS, BENIGN_HOURS))
    late_codes = [KINDS.index(name) + 1 for name in LATE_KINDS]
    onset = np.zeros((2, len(kind)))
    for regime in (0, 1):
        share = LATE_SHARE if regime and drift > 0 else 0.0
        for code in codes:
            first = np.flatnonzero((kind == code) & (phase == 1))
            if code in late_codes:
                rate = FAULT_ONSET * share / len(late_codes)
            elif code <= len(KINDS):
                rate = FAULT_ONSET * (1 - share) / (len(KINDS) - len(late_codes))
            elif code == FLEET_EVENT:
                rate = FLEET_REACH * FLEET_EVENTS / (TELEMETRY_HOURS + WEEK)
            else:
                rate = BENIGN_ONSET / (len(BENIGN) - 1)
            onset[regime, first] = rate
    return Chain(
        kind=kind.astype(np.int8),
        phase=phase.astype(np.int8),
        step=np.where(kind == 0, 0.0, 1 / hours),
        ripen=np.where(fault & (phase == PHASES), RIPEN * signal, 0.0),
        recovery=np.where(fault, RECOVERY, 0.0),
        onset=onset,
        sudden=signal * SUDDEN + (1 - signal) * FLAT_HAZARD,
    )


def walk(
    rng: np.random.Generator, chain: Chain, start: np.ndarray, hours: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk all resources through the chain.

    Parameters
    ----------
    start : ndarray, (resources,), int
        Hour after `TELEMETRY_START` at which each record begins.

    Returns
    -------
    state : ndarray, (hours, resources), int16
        State of the chain. During an incident: the state it broke out of.
    outage : ndarray, (hours, resources), int8
        0 outside incidents, else the hour of the incident counted from 1.
    cause : ndarray, (hours, resources), int8
        Code of the fault that broke out, 0 for a sudden incident; meaningful where ``outage`` is 1.
    """
    burn_in = 400
    resources = len(start)
    state = np.zeros((hours, resources), dtype=np.int16)
    outage = np.zeros((hours, resources), dtype=np.int8)
    cause = np.zeros((hours, resources), dtype=np.int8)
    now = np.zeros(resources, dtype=np.int64)
    left = np.zeros(resources, dtype=np.int64)  # hours the incident still lasts
    since = np.zeros(resources, dtype=np.int8)
    fleet = rng.choice(TELEMETRY_HOURS + WEEK, FLEET_EVENTS, replace=False)
    first_fleet = chain.size - PHASES
    steps = np.cumsum(np.where(chain.kind == FLEET_EVENT, 0.0, chain.onset), axis=1)
    for t in range(-burn_in, hours):
        draw = rng.random((4, resources))
        clock = start + t
        running, ended = left > 0, left == 1
        left[running] -= 1
        sudden = ~running & (draw[0] < chain.sudden)
        turn = ~running & ~sudden
        recovers = turn & (draw[1] < chain.recovery[now])
        moves = turn & ~recovers & (draw[2] < chain.step[now])
        ripe = moves & (draw[3] < chain.ripen[now])
        begun = turn & (now == 0)
        picked = np.where(clock >= LATE_FROM, np.searchsorted(steps[1], draw[1]), np.searchsorted(steps[0], draw[1]))
        code = np.where(ripe, chain.kind[now], 0)
        last = chain.phase[now] == PHASES
        now = np.where(moves & ~ripe, np.where(last, 0, now + 1), now)
        now = np.where(begun & (picked < chain.size), picked % chain.size, now)
        now = np.where(begun & (now == 0) & np.isin(clock, fleet) & (draw[3] < FLEET_REACH), first_fleet, now)
        now = np.where(recovers | ended, 0, now)
        length = INCIDENT_HOURS[0] + (draw[1] * (INCIDENT_HOURS[1] - INCIDENT_HOURS[0] + 1)).astype(np.int64)
        left = np.where(sudden | ripe, length, left)
        since = np.where(left > 0, since + 1, 0).astype(np.int8)
        if t == -1:  # no incident runs when the record begins
            now, left, since = np.where(left > 0, 0, now), np.zeros_like(left), np.zeros_like(since)
        if t >= 0:
            state[t], outage[t], cause[t] = now, since, code
    return state, outage, cause
