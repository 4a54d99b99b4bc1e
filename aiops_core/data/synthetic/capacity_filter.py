"""The oracle of capacity: a Kalman filter over what the use is made of, which sees the history alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.capacity_parts import (
    LEAD,
    ORDERS_DECAY,
    ORDERS_MEAN,
    ORDERS_SPREAD,
    PARTS,
    USAGE_START,
    USAGE_TARGETS,
    WALK,
    calendar,
)
from aiops_core.data.synthetic.draws import HOUR
from aiops_core.errors import UsageError

__all__ = ["UsageOracle"]

_N = len(PARTS["cpu_usage"].mean) + 1  # coefficients, and the slow noise


@dataclass
class UsageOracle:
    """Median forecast given the history of a resource up to the origin: the best one under absolute error.

    A Kalman filter a (resource, target) over the coefficients of calendar and orders, the level and the slow noise, with
    the story's parameters known and a resource's own unknown. An hour that a shift of the level explains better than
    noise makes the level uncertain again. Saturation leaves a median where it is, but for the bounds.

    Attributes
    ----------
    resources : list of str
    values : ndarray, (targets, resources, hours), float32
        Observed use, NaN where missing.
    orders : ndarray, (resources, hours), float32
        Observed log transactions.
    latent : tuple of ndarray
        Coefficients (targets, resources, 11), level shifts and slow noise (targets, resources, hours).
    signal, drift : float
    """

    resources: list[str]
    values: np.ndarray
    orders: np.ndarray
    latent: tuple[np.ndarray, np.ndarray, np.ndarray]
    signal: float
    drift: float

    def __call__(self, keys: pd.DataFrame) -> np.ndarray:
        """Predict from the history up to each origin.

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
        resource, target, hour, step = self._places(keys)
        origins, at = np.unique(hour, return_inverse=True)
        means = self._filter(origins)
        return self._forecast(means[at, target, resource], target, resource, hour, step)

    def knowing(self, keys: pd.DataFrame) -> np.ndarray:
        """As calling it, but with the latent state at the origin known: what no history tells."""
        resource, target, hour, step = self._places(keys)
        coefficients, level, slow = self.latent
        state = np.empty((len(keys), _N))
        state[:, :-1] = coefficients[target, resource]
        state[:, 0] += level[target, resource, hour]
        state[:, -1] = slow[target, resource, hour]
        return self._forecast(state, target, resource, hour, step)

    def _places(self, keys: pd.DataFrame) -> tuple[np.ndarray, ...]:
        resource = pd.Index(self.resources).get_indexer(pd.Index(keys["resource_id"].astype(str)))
        target = pd.Index(USAGE_TARGETS).get_indexer(pd.Index(keys["target"].astype(str)))
        origin = pd.DatetimeIndex(keys["origin"])
        naive = origin.tz_convert("UTC").tz_localize(None) if origin.tz is not None else origin
        hour = (naive.to_numpy().astype("datetime64[s]") - USAGE_START) // HOUR
        step = keys["step"].to_numpy(dtype=np.int64)
        if (resource < 0).any() or (target < 0).any():
            raise UsageError("the oracle knows neither this resource nor this target")
        if (hour < 0).any() or (step < 1).any() or (hour + step >= self.values.shape[2]).any():
            raise UsageError("the oracle was asked about an hour outside the record")
        return resource, target, hour, step

    def _forecast(
        self, state: np.ndarray, target: np.ndarray, resource: np.ndarray, hour: np.ndarray, step: np.ndarray
    ) -> np.ndarray:
        decay = np.array([PARTS[name].decay for name in USAGE_TARGETS])[target]
        row = np.concatenate([calendar(hour + step), self._orders_at(resource, hour, step)[:, None]], axis=1)
        return np.asarray(np.clip((state[:, :-1] * row).sum(axis=1) + decay**step * state[:, -1], 0.0, 100.0))

    def _orders_at(self, resource: np.ndarray, hour: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Orders that act on the hour asked for, above the mean: seen already, or expected from the last ones."""
        orders, usual = self._orders
        last = orders[resource, np.maximum(np.minimum(hour, hour + step - LEAD), 0)]
        ahead = np.maximum(step - LEAD, 0)
        return np.asarray(usual[resource, hour] + ORDERS_DECAY**ahead * (last - usual[resource, hour]))

    @cached_property
    def _orders(self) -> tuple[np.ndarray, np.ndarray]:
        """Orders carried over gaps, and what is usual for the resource as far as known by each hour; above the mean."""
        seen = ~np.isnan(self.orders)
        last = np.maximum.accumulate(np.where(seen, np.arange(seen.shape[1]), 0), axis=1)
        filled = np.nan_to_num(np.take_along_axis(self.orders, last, axis=1) - ORDERS_MEAN).astype(np.float64)
        hours = np.arange(1, filled.shape[1] + 1)
        # Hours that follow each other tell nearly the same: so many independent ones have been seen.
        independent = hours * (1 - ORDERS_DECAY) / (1 + ORDERS_DECAY) + 1
        total = np.cumsum(filled, axis=1) / hours * independent
        return filled, total / (independent + 1 / ORDERS_SPREAD**2)

    def _filter(self, origins: np.ndarray) -> np.ndarray:
        """Return the filter's state at the origins (ascending), (origins, targets, resources, 12)."""
        shape = self.values.shape[:2]
        parts = [PARTS[name] for name in USAGE_TARGETS]

        def by_target(values: list[float]) -> np.ndarray:
            return np.repeat(np.asarray(values), shape[1])

        state = np.repeat([(*part.mean, 0.0) for part in parts], shape[1], axis=0)
        state[:, 1:] *= self.signal
        sd = np.repeat([(*part.spread, part.slow) for part in parts], shape[1], axis=0)
        sd[:, 1:] *= self.signal
        cover = np.einsum("ni,ij->nij", sd**2, np.eye(_N))
        decay = by_target([part.decay for part in parts])
        slow = by_target([(part.slow * self.signal) ** 2 * (1 - part.decay**2) for part in parts])
        fast = by_target([(part.fast * self.signal) ** 2 + 1e-3 for part in parts])
        shifting = by_target([part.shift_rate * self.signal * self.drift for part in parts])
        shift = by_target([part.shift**2 for part in parts])
        values = self.values.reshape(-1, self.values.shape[2]).astype(np.float64)
        orders = np.tile(self._orders[0], (shape[0], 1))
        rows = calendar(np.arange(values.shape[1]))
        out = np.empty((len(origins), *shape, _N))
        h = np.ones((len(values), _N))
        for t in range(int(origins[-1]) + 1):
            state[:, -1] *= decay
            cover[:, -1] *= decay[:, None]
            cover[:, :, -1] *= decay[:, None]
            cover[:, -1, -1] += slow
            cover[:, 0, 0] += ((1 - self.signal) * WALK) ** 2
            h[:, :-2], h[:, -2] = rows[t], orders[:, max(t - LEAD, 0)]
            gap = values[:, t] - (h * state).sum(axis=1)
            seen = ~np.isnan(gap)
            gap = np.where(seen, gap, 0.0)
            # Nothing is learned from a saturated hour.
            seen &= (values[:, t] > 0) & (values[:, t] < 100)
            spread = np.einsum("nij,nj->ni", cover, h)
            total = (spread * h).sum(axis=1) + fast
            odds = np.log(shifting + 1e-12) - 0.5 * np.log1p(shift / total)
            odds = odds + 0.5 * gap**2 * (1 / total - 1 / (total + shift))
            jumped = np.where(seen, 1 / (1 + np.exp(-np.clip(odds, -50, 50))), shifting) * shift
            cover[:, 0, 0] += jumped
            spread[:, 0] += jumped
            gain = np.where(seen[:, None], spread / (total + jumped)[:, None], 0.0)
            state += gain * gap[:, None]
            cover -= gain[:, :, None] * spread[:, None, :]
            at = np.searchsorted(origins, t)
            if origins[at] == t:
                out[at] = state.reshape(*shape, _N)
        return out
