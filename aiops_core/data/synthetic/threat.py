"""The story of threat: campaigns of nine classes, and the exact posterior of a row's class."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.draws import chunks, task_seed
from aiops_core.data.synthetic.threat_tactics import (
    CLASSES,
    INTENSITY,
    INTENSITY_WEIGHTS,
    LAWS,
    STYLE,
    TACTICS,
    WILD,
    Law,
    locations,
)

__all__ = ["ACTIVITY_FEATURES", "CAMPAIGN_ROWS", "activity", "activity_posterior"]

ACTIVITY_FEATURES = tuple(LAWS)
#: Mean rows of a campaign.
CAMPAIGN_ROWS = 15
#: The class of each tactic.
_CLASS = np.array([list(CLASSES).index(tactic.of) for tactic in TACTICS])


def activity(
    n_samples: int, *, seed: int, signal: float = 1.0, drift: float = 1.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate observed activity of sources, each of one of nine classes.

    The story. A row belongs to a campaign (of an attacker, or of ordinary users), which has a class (`CLASSES`), one
    of the class's tactics (`TACTICS`) and a style of its own; the row has an intensity, one of four levels from
    stealthy to blatant. Given all these its features are independent: log-normal rates, logit-normal scores and
    negative-binomial counts. The shared intensity correlates them; some rows scatter wider, so tails are heavy.

    Classes overlap through combinations: sources that guess passwords, inject code, take data, flood or raise their
    privileges share the features that give them away, and which class it is shows in whether two other features go
    together or apart. Ordinary sources look like each of them: an expired password, the own scanner, a backup, a crowd
    of customers, a load test, night maintenance, a help desk.

    Sensors fail: single values are missing (4 %), a sensor's whole group of features is missing (2 % each), and of
    some sources (2 %) only a handful of features was observed at all.

    Parameters
    ----------
    n_samples : int
        Rows.
    seed : int
        Non-negative.
    signal : float
        Scales the tactics. At 0 all classes look like ordinary activity.
    drift : float
        Scales how far the style of campaigns differs; 1 by default.

    Returns
    -------
    activity : DataFrame, (n_samples, 14)
        The twelve features of DESIGN (float64, NaN where missing), ``threat_type`` and ``group``, the campaign.
    oracle : DataFrame, (n_samples, 9)
        Exact posterior of each class given the row alone, aligned by row; macro-F1 about 0.92.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    rng = np.random.default_rng(task_seed("threat", n_samples, seed, signal, drift))
    label = rng.choice(len(CLASSES), n_samples, p=list(CLASSES.values()))
    campaign, owner = _campaigns(rng, label)
    tactic = _tactics(rng, owner)[campaign]
    style = rng.standard_normal((len(owner), len(LAWS))) * STYLE * drift
    level = rng.choice(len(INTENSITY), n_samples, p=INTENSITY_WEIGHTS)
    wild = np.where(rng.random(n_samples) < WILD[0], WILD[1], 1.0)
    eta = locations(signal)
    values = np.empty((n_samples, len(LAWS)))
    for j, law in enumerate(LAWS.values()):
        values[:, j] = _draw(rng, law, eta[tactic, level, j], style[campaign, j], wild)
    values[~_observed(rng, n_samples)] = np.nan
    frame = pd.DataFrame(values, columns=list(LAWS))
    frame["threat_type"] = pd.Series(np.asarray(list(CLASSES), dtype=object)[label], dtype="str")
    names = np.array([f"campaign-{i + 1:0{len(str(len(owner)))}d}" for i in range(len(owner))], dtype=object)
    frame["group"] = pd.Series(names[campaign], dtype="str")
    return frame, activity_posterior(frame, signal=signal, drift=drift)


def _campaigns(rng: np.random.Generator, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deal the rows of each class out to campaigns of unequal size.

    Returns
    -------
    campaign : ndarray, (n,), int
    owner : ndarray, (campaigns,), int
        Class of each campaign.
    """
    rows = np.bincount(label, minlength=len(CLASSES))
    count = np.maximum(1, np.round(rows / CAMPAIGN_ROWS).astype(int))
    first = np.cumsum(count) - count
    # Squaring a uniform draw makes the first campaigns of a class larger than the last ones.
    place = (rng.random(len(label)) ** 1.5 * count[label]).astype(int)
    used, campaign = np.unique(first[label] + place, return_inverse=True)
    order = rng.permutation(len(used))  # a campaign's number says nothing of its class
    owner = np.empty(len(used), dtype=np.int64)
    owner[order] = np.searchsorted(first, used, side="right") - 1
    return order[campaign], owner


def _tactics(rng: np.random.Generator, owner: np.ndarray) -> np.ndarray:
    """Draw a tactic of its class for each campaign."""
    out = np.empty(len(owner), dtype=np.int64)
    for c in range(len(CLASSES)):
        mine, known = np.flatnonzero(owner == c), np.flatnonzero(_CLASS == c)
        out[mine] = rng.choice(known, len(mine), p=[TACTICS[i].weight for i in known])
    return out


def activity_posterior(rows: pd.DataFrame, *, signal: float = 1.0, drift: float = 1.0) -> pd.DataFrame:
    """Exact posterior of the class of each row, given the features that were observed and no other row.

    ``P(c | x) ~ sum_k P(k) * prod_j p(x_j | k)`` over observed features ``j`` and the combinations ``k`` of the class's
    tactics, intensities and scatter. The style of an unknown campaign widens the scatter. Because features are
    independent given ``k``, a missing one drops out; because their log-densities are linear in statistics of the
    value, the sum is one matrix product.

    Parameters
    ----------
    rows : DataFrame, (n, any)
        Any subset of the activity features; NaN or an absent column means not observed.
    signal, drift : float
        As given to `activity`.

    Returns
    -------
    DataFrame, (n, 9)
        Probabilities, rows sum to 1; index of ``rows``.
    """
    values = rows.reindex(columns=list(LAWS)).to_numpy(dtype=np.float64, na_value=np.nan)
    coefficients, constants = _log_density_terms(signal, drift)
    scatter = np.array([1 - WILD[0], WILD[0]])
    share = np.array([CLASSES[t.of] * t.weight for t in TACTICS])
    prior = np.log(np.einsum("t,l,w->tlw", share, INTENSITY_WEIGHTS, scatter)).ravel()
    out = np.zeros((len(values), len(CLASSES)))
    owner = np.repeat(_CLASS, len(INTENSITY) * 2)
    edges = np.flatnonzero(np.r_[True, np.diff(owner) != 0])
    for part in chunks(len(values), 50_000):
        seen = ~np.isnan(values[part])
        statistics = np.where(np.repeat(seen, 2, axis=1), _statistics(values[part]), 0.0)
        joint = prior + statistics @ coefficients + seen @ constants
        joint = np.exp(joint - joint.max(axis=1, keepdims=True))
        by_class = np.add.reduceat(joint, edges, axis=1)
        out[part, owner[edges]] = by_class / by_class.sum(axis=1, keepdims=True)
    return pd.DataFrame(out, columns=list(CLASSES), index=rows.index)


def _draw(rng: np.random.Generator, law: Law, eta: np.ndarray, style: np.ndarray, wild: np.ndarray) -> np.ndarray:
    if law.family == "count":
        offset = 1.0 if law is LAWS["unique_ips"] else 0.0
        size = law.dispersion
        return np.asarray(offset + rng.negative_binomial(size, size / (size + np.exp(eta))))
    value = eta + law.dispersion * (style + wild * rng.standard_normal(len(eta)))
    return np.exp(value) if law.family == "lognormal" else 1 / (1 + np.exp(-value))


def _statistics(values: np.ndarray) -> np.ndarray:
    """Two sufficient statistics of each feature, (n, 2 * features), for `_log_density_terms`."""
    out = np.zeros((len(values), len(LAWS), 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        for j, (name, law) in enumerate(LAWS.items()):
            x = values[:, j]
            if law.family == "count":
                out[:, j, 0] = x - 1.0 if name == "unique_ips" else x
                continue
            z = np.log(np.maximum(x, 1e-12))
            if law.family == "logit":
                z = z - np.log(np.maximum(1.0 - x, 1e-12))
            out[:, j, 0], out[:, j, 1] = z, z**2
    return out.reshape(len(values), -1)


def _log_density_terms(signal: float, drift: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the statistics, (2 * features, combinations), and constants, (features, combinations).

    Combinations run over tactics, intensities and scatter. Terms of the density that are equal for all of them are
    left out: they cancel in the posterior.
    """
    eta = np.repeat(locations(signal).reshape(-1, len(LAWS)), 2, axis=0)
    wild = np.tile([1.0, WILD[1]], len(eta) // 2)
    slope = np.zeros((len(LAWS), 2, len(eta)))
    constant = np.zeros((len(LAWS), len(eta)))
    for j, law in enumerate(LAWS.values()):
        location = eta[:, j]
        if law.family == "count":
            size, mean = law.dispersion, np.exp(location)
            slope[j, 0] = np.log(mean / (mean + size))
            constant[j] = size * np.log(size / (mean + size))
        else:
            variance = law.dispersion**2 * (wild**2 + (STYLE * drift) ** 2)
            slope[j, 0], slope[j, 1] = location / variance, -0.5 / variance
            constant[j] = -0.5 * (location**2 / variance + np.log(2 * math.pi * variance))
    return slope.reshape(-1, len(eta)), constant


def _observed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Which features of a row were observed; never depends on class or value. At least one is. (n, features), bool."""
    seen = rng.random((n, len(LAWS))) >= 0.04
    groups = [law.group for law in LAWS.values()]
    for group in dict.fromkeys(groups):
        members = np.array([name == group for name in groups])
        seen[(rng.random(n) < 0.02)[:, None] & members] = False
    sparse = np.flatnonzero(rng.random(n) < 0.02)
    seen[sparse] = rng.random((len(sparse), len(LAWS))) < 0.4
    empty = np.flatnonzero(~seen.any(axis=1))
    seen[empty, rng.integers(0, len(LAWS), len(empty))] = True
    return seen
