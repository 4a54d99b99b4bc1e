"""Degradations of a resource as a finite Markov chain: when incidents come, and how probable they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiops_core.data.synthetic.draws import WEEK

__all__ = [
    "INCIDENT_HOURS",
    "KINDS",
    "ONSET",
    "TELEMETRY_HOURS",
    "TELEMETRY_START",
    "Chain",
    "degradation_chain",
    "walk",
]

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
INCIDENT_HOURS = (2, 8)  # shortest and longest incident


@dataclass(frozen=True)
class Chain:
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


def degradation_chain(signal: float) -> Chain:
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
    return Chain(
        kind=np.asarray(kind, dtype=np.int8),
        severity=level.astype(np.float32),
        following=np.asarray(following, dtype=np.int32),
        hazard=hazard,
        recovery=np.full(len(kind), RECOVERY),
        onset=np.asarray(onset, dtype=np.int32),
        onset_weight=np.asarray(weight),
    )


def walk(rng: np.random.Generator, chain: Chain, resources: int, hours: int) -> tuple[np.ndarray, np.ndarray]:
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
