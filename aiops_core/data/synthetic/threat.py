"""The story of threat: activity of nine classes, and the exact posterior of the class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aiops_core.data.synthetic.draws import chunks, task_seed

__all__ = ["ACTIVITY_FEATURES", "CLASSES", "INTENSITY_WEIGHTS", "LAWS", "activity", "activity_posterior", "locations"]

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
    rng = np.random.default_rng(task_seed("threat", n_samples, seed, signal))
    label = rng.choice(len(CLASSES), n_samples, p=list(CLASSES.values()))
    level = rng.choice(len(INTENSITY), n_samples, p=INTENSITY_WEIGHTS)
    eta = locations(signal)
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
    for part in chunks(len(values), 50_000):
        seen = ~np.isnan(values[part])
        statistics = np.where(np.repeat(seen, 2, axis=1), _statistics(values[part]), 0.0)
        joint = prior + statistics @ coefficients + seen @ constants  # (n, classes * levels)
        joint = np.exp(joint - joint.max(axis=1, keepdims=True))
        by_class = joint.reshape(len(joint), len(CLASSES), len(INTENSITY)).sum(axis=2)
        out[part] = by_class / by_class.sum(axis=1, keepdims=True)
    return pd.DataFrame(out, columns=list(CLASSES), index=rows.index)


def locations(signal: float) -> np.ndarray:
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
    eta = locations(signal).reshape(-1, len(LAWS))  # (classes * levels, features)
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
