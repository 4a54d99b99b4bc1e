"""The oracle of failure: a filter that sees the telemetry alone, with the story's parameters known."""

from __future__ import annotations

import numpy as np

from aiops_core.data.synthetic import failure_effects as fx
from aiops_core.data.synthetic.failure_chain import INCIDENT_HOURS, LATE_FROM, PHASES, Chain
from aiops_core.data.synthetic.failure_effects import Effects
from aiops_core.data.synthetic.failure_metrics import to_story, trailing_mean

__all__ = ["filtered_probability"]

_BURSTING = [fx.LEVELLED.index(name) for name in ("network_errors", "error_rate")]
_SHIFTING = [k for k in range(len(fx.LEVELLED)) if k not in _BURSTING]
_OUTLIER = np.log([1 - fx.OUTLIER_RATE, fx.OUTLIER_RATE]).astype(np.float32)
_WIDER = fx.OUTLIER_SCALE**2 - 1
_LEAVE = 2 / sum(INCIDENT_HOURS)  # probability per hour that an incident ends


def filtered_probability(
    values: np.ndarray, clock: np.ndarray, chain: Chain, effects: Effects, drift: float, horizon: int
) -> np.ndarray:
    """Return the probability of an incident within the horizon given the metrics so far, outside incidents.

    An interacting multiple model filter over the chain's states: each resource has a belief over the states, and under
    each state a Gaussian one over the unknown level of every metric that episodes shift. It is exact but for keeping
    one Gaussian a state, and it knows neither states nor a resource's parameters nor other resources.

    Parameters
    ----------
    values : ndarray, (metrics, resources, hours), float32
        NaN where missing.
    clock : ndarray, (resources,), int
        Hours after `TELEMETRY_START` of the first one.
    horizon : int
        Hours.

    Returns
    -------
    ndarray, (hours, resources), float32
    """
    story = to_story(values)
    load = _filled(story[-1])
    above = load - trailing_mean(load)
    bursting = _Bursts(effects, len(clock), (drift * fx.LEVEL_DRIFT) ** 2)
    model = _Levels(chain, effects, len(clock), (drift * fx.LEVEL_DRIFT) ** 2)
    ahead = np.stack([chain.probability(horizon, late) for late in (False, True)])
    out = np.empty(load.shape[::-1], dtype=np.float32)
    for t in range(load.shape[1]):
        late = (clock + t >= LATE_FROM).astype(int)
        y = story[:-1, :, t].T - fx.LOAD_SHARE * above[:, t, None]
        model.advance(late)
        gain = bursting.learn(model.belief, y[:, _BURSTING])
        model.learn(y[:, _SHIFTING], above[:, t], gain)
        calm = model.belief[:, :-1]
        out[t] = (calm * ahead[late]).sum(axis=1) / np.maximum(calm.sum(axis=1), 1e-12)
    return out


def _filled(load: np.ndarray) -> np.ndarray:
    """Carry the last known load forward; (resources, hours)."""
    seen = ~np.isnan(load)
    last = np.maximum.accumulate(np.where(seen, np.arange(load.shape[1]), -1), axis=1)
    filled = np.take_along_axis(load, np.maximum(last, 0), axis=1)
    return np.where(np.isnan(filled), np.float32(fx.LOAD_LEVEL), filled)


def _log_density(square: np.ndarray, variance: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Log-density at a squared gap from the level, up to a constant: of ordinary noise or of an outlier."""
    total, wide = variance + noise, variance + noise * (1 + _WIDER)
    one = _OUTLIER[0] - np.float32(0.5) * (square / total + np.log(total))
    other = _OUTLIER[1] - np.float32(0.5) * (square / wide + np.log(wide))
    return np.asarray(np.maximum(one, other))


class _Levels:
    """Beliefs over the states, (n, states + 1), and under each the mean levels of the metrics, (metrics, n, states + 1).

    How sure the levels are is taken to be the same under all states, (metrics, n, 1).
    """

    def __init__(self, chain: Chain, effects: Effects, n: int, drift: float) -> None:
        self.chain = chain
        self.shift = effects.shift[:, _SHIFTING].T[:, None].astype(np.float32)
        self.coupled = [k for k in range(len(_SHIFTING)) if effects.coupling[:, _SHIFTING[k]].any()]
        self.coupling = effects.coupling[:, _SHIFTING].T.astype(np.float32)
        self.noise = (fx.NOISE[_SHIFTING] ** 2).astype(np.float32)[:, None, None]
        self.widest = (fx.LEVEL_SPREAD[_SHIFTING] ** 2 + drift).astype(np.float32)[:, None, None]
        self.growth = np.float32(drift * (1 - fx.LEVEL_DECAY**2))
        self.first, self.last = np.flatnonzero(chain.phase == 1), np.flatnonzero(chain.phase == PHASES)
        self.mean = np.empty((len(_SHIFTING), n, chain.size + 1), dtype=np.float32)
        self.mean[:] = fx.TYPICAL[_SHIFTING][:, None, None]
        self.variance = np.repeat(self.widest, n, axis=1)
        self.belief = np.zeros((n, chain.size + 1), dtype=np.float32)
        self.belief[:, 0] = 1.0
        for _ in range(300):  # to the state of a resource that nobody has looked at yet
            self.belief = self._flows(np.zeros(n, dtype=int))[0]

    def _flows(self, late: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the beliefs an hour on, what enters each episode's state, and what turns healthy and breaks down."""
        chain = self.chain
        calm, down = self.belief[:, :-1], self.belief[:, -1]
        kept = calm * np.float32(1 - chain.sudden)
        recovers = kept * chain.recovery.astype(np.float32)
        stays = kept - recovers
        moves = stays * chain.step.astype(np.float32)
        ripe = moves * chain.ripen.astype(np.float32)
        stays, moves = stays - moves, moves - ripe
        onset = chain.onset[late].astype(np.float32) * stays[:, :1]
        stays[:, 0] -= onset.sum(axis=1)
        enters = np.zeros_like(self.belief)
        enters[:, 1:-1] = moves[:, :-1]
        enters[:, self.first] = onset[:, self.first]
        heals = np.concatenate([recovers, np.float32(_LEAVE) * down[:, None]], axis=1)
        heals[:, self.last] += moves[:, self.last]
        heals[:, 0] = stays[:, 0]
        breaks = np.concatenate(
            [ripe + calm * np.float32(chain.sudden), np.float32(1 - _LEAVE) * down[:, None]], axis=1
        )
        belief = np.empty_like(self.belief)
        belief[:, 0], belief[:, -1] = heals.sum(axis=1), breaks.sum(axis=1)
        belief[:, 1:-1] = stays[:, 1:] + enters[:, 1:-1]
        return belief, enters, heals, breaks

    def advance(self, late: np.ndarray) -> None:
        """Move the beliefs one hour on; ``late`` (n,), 1 where late kinds may set in."""
        belief, enters, heals, breaks = self._flows(late)
        mean = self.mean
        pooled = [
            np.einsum("ns,kns->kn", flow / np.maximum(flow.sum(axis=1, keepdims=True), 1e-30), mean)
            for flow in (heals, breaks)
        ]
        apart = np.empty_like(mean)
        np.subtract(mean[..., :-1], mean[..., 1:], out=apart[..., 1:])
        apart[..., self.first] = mean[..., :1] - mean[..., self.first]
        apart[..., 0] = 0.0
        apart *= enters / np.maximum(belief, 1e-30)
        mean += apart
        mean[..., 0], mean[..., -1] = pooled
        self.variance = np.minimum(self.variance + self.growth, self.widest)
        self.belief = belief

    def learn(self, y: np.ndarray, above: np.ndarray, gain: np.ndarray) -> None:
        """Weigh the states by what an hour shows, and follow the levels; ``gain`` (n, states + 1): from the bursts."""
        seen = (~np.isnan(y)).T[..., None].astype(np.float32)
        y = np.nan_to_num(y).T[..., None].astype(np.float32)
        gap = y - self.shift - self.mean
        for k in self.coupled:
            gap[k] -= self.coupling[k] * above[:, None].astype(np.float32)
        total = self.variance + self.noise
        wide = total + self.noise * np.float32(_WIDER)
        square = gap**2
        ordinary = square * (np.float32(-0.5) * seen / total) + seen * (_OUTLIER[0] - np.float32(0.5) * np.log(total))
        outlying = square * (np.float32(-0.5) * seen / wide) + seen * (_OUTLIER[1] - np.float32(0.5) * np.log(wide))
        usual = ordinary >= outlying
        weight = np.maximum(ordinary, outlying).sum(axis=0)
        weight += gain
        weight += np.log(np.maximum(self.belief, 1e-30))
        weight = np.exp(weight - weight.max(axis=1, keepdims=True))
        self.belief = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
        gap *= np.where(usual, seen * self.variance / total, seen * self.variance / wide).astype(np.float32)
        self.mean += gap
        share = (usual * self.belief).sum(axis=2, keepdims=True)
        kept = 1 - seen * self.variance * (share / total + (1 - share) / wide)
        self.variance = (self.variance * kept).astype(np.float32)


class _Bursts:
    """What bursts of errors tell, with one belief over the levels of the two bursting metrics."""

    def __init__(self, effects: Effects, n: int, drift: float) -> None:
        self.noise = fx.NOISE[_BURSTING] ** 2
        self.outage = effects.shift[-1, _BURSTING]
        self.widest = fx.LEVEL_SPREAD[_BURSTING] ** 2 + drift
        self.growth = drift * (1 - fx.LEVEL_DECAY**2)
        self.mean = np.tile(fx.TYPICAL[_BURSTING], (n, 1))
        self.variance = np.tile(self.widest, (n, 1))
        self.leads = [np.flatnonzero(more > 0) for more in (effects.network_first, effects.errors_first)]
        self.more = [effects.network_first[self.leads[0]], effects.errors_first[self.leads[1]]]
        #: How probably there was a burst in each of the last hours, oldest first.
        self.recent = [np.full((n, 2), fx.BURST_RATE)] * fx.BURST_LAG

    def learn(self, belief: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of each state above that of an ordinary hour, (n, states + 1)."""
        seen = ~np.isnan(y)
        gap = np.where(seen, y - self.mean, 0.0)
        plain = _log_density(gap**2, self.variance, self.noise)
        high = np.where(seen, _log_density((gap - fx.BURST) ** 2, self.variance, self.noise) - plain, 0.0)
        down = np.where(seen, _log_density((gap - self.outage) ** 2, self.variance, self.noise) - plain, 0.0)
        base = np.logaddexp(np.log1p(-fx.BURST_RATE), np.log(fx.BURST_RATE) + high)
        gain = np.zeros(belief.shape, dtype=np.float32)
        gain[:, -1] = (down - base).sum(axis=1)
        before, now = self.recent[0], np.empty_like(y)
        for i in (0, 1):
            leads, echoes = self.leads[i], self.leads[1 - i]
            leading = fx.BURST_RATE + self.more[i]
            gain[:, leads] += np.logaddexp(np.log1p(-leading), np.log(leading) + high[:, i, None]) - base[:, i, None]
            echo = 1 - (1 - fx.BURST_RATE) * (1 - fx.BURST_ECHO * before[:, 1 - i])
            gain[:, echoes] += (np.logaddexp(np.log1p(-echo), np.log(echo) + high[:, i]) - base[:, i])[:, None]
            expected = fx.BURST_RATE + belief[:, leads] @ self.more[i]
            expected += belief[:, echoes].sum(axis=1) * (echo - fx.BURST_RATE)
            odds = np.log(expected) - np.log1p(-expected) + high[:, i]
            now[:, i] = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        self.recent = [*self.recent[1:], now]
        self._follow(gap, now, seen, belief[:, -1:])
        return gain

    def _follow(self, gap: np.ndarray, burst: np.ndarray, seen: np.ndarray, down: np.ndarray) -> None:
        off = gap - fx.BURST * burst
        total = self.variance + self.noise
        usual = (off**2 < 9 * total) & seen & (down < 0.5)
        kalman = np.where(usual, self.variance / (total + fx.BURST**2 * burst * (1 - burst)), 0.0)
        self.mean += kalman * off
        self.variance = np.minimum((1 - kalman) * self.variance + self.growth, self.widest)
