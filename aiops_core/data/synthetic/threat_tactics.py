"""What sources of each class do: laws of the features, and the tactics that move them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = [
    "CLASSES",
    "INTENSITY",
    "INTENSITY_WEIGHTS",
    "LAWS",
    "STYLE",
    "TACTICS",
    "WILD",
    "Law",
    "Tactic",
    "locations",
]

#: Classes with their share; ``normal`` first.
CLASSES: dict[str, float] = {
    "normal": 0.56,
    "unauthorized_access": 0.06,
    "ddos_attack": 0.07,
    "data_exfiltration": 0.05,
    "privilege_escalation": 0.04,
    "malware_activity": 0.05,
    "brute_force": 0.07,
    "sql_injection": 0.05,
    "xss_attack": 0.05,
}


@dataclass(frozen=True)
class Law:
    """Distribution of one activity feature given its location ``eta``.

    ``lognormal``: log of the value is normal around eta; ``logit``: its log odds are; ``count``: a negative binomial
    of mean exp(eta).
    """

    family: str
    base: float  # eta of ordinary activity
    dispersion: float  # sd around eta | size of the negative binomial
    loading: float  # how far eta moves with the intensity, in any class
    group: str  # features of a group are observed by the same sensor


LAWS: dict[str, Law] = {
    "request_rate": Law("lognormal", math.log(60.0), 0.62, 0.45, "network"),
    "failed_auth_count": Law("count", math.log(1.2), 3.0, 0.30, "identity"),
    "unique_ips": Law("count", math.log(6.0), 5.0, 0.25, "network"),
    "avg_payload_size": Law("lognormal", math.log(1200.0), 0.54, 0.10, "application"),
    "port_scan_score": Law("logit", -3.0, 0.75, 0.20, "network"),
    "sql_injection_score": Law("logit", -3.0, 0.75, 0.15, "application"),
    "xss_score": Law("logit", -3.0, 0.75, 0.15, "application"),
    "geographic_entropy": Law("lognormal", math.log(0.8), 0.42, 0.20, "network"),
    "time_anomaly_score": Law("logit", -1.4, 0.75, 0.10, "identity"),
    "file_access_rate": Law("lognormal", math.log(8.0), 0.66, 0.40, "host"),
    "privilege_escalation_score": Law("logit", -3.2, 0.75, 0.15, "host"),
    "data_transfer_rate": Law("lognormal", math.log(1.5), 0.70, 0.45, "host"),
}
#: Sd of a campaign's own style, in units of the feature's dispersion; counts have none.
STYLE = 0.35
#: Share of rows whose features scatter wider, and by how much.
WILD = (0.05, 2.0)
#: Intensity levels, from stealthy to blatant (for normal activity: from quiet to busy), and their weights.
INTENSITY = (-1.3, -0.4, 0.4, 1.3)
INTENSITY_WEIGHTS = (0.2, 0.3, 0.3, 0.2)
#: Part of a tactic that grows with the intensity.
STEALTH = 0.15


@dataclass(frozen=True)
class Tactic:
    """One way of being of a class: its weight among the class's, and how far it moves the features' locations."""

    of: str
    weight: float
    shift: dict[str, float]


_GUESSING = {"failed_auth_count": 2.9, "time_anomaly_score": 1.2}
_INJECTING = {"sql_injection_score": 3.5, "xss_score": 3.5}
_TAKING = {"data_transfer_rate": 2.9, "file_access_rate": 2.3}
_FLOODING = {"request_rate": 3.1, "unique_ips": 2.6}
_RISING = {"privilege_escalation_score": 3.6, "file_access_rate": 0.8}
# Classes that share their leading features are told apart by how two others go together: both high or both low is one
# class, one high and one low the other. No feature alone, and no weighted sum of them, tells.
TACTICS: tuple[Tactic, ...] = (
    Tactic("normal", 0.69, {}),
    Tactic("normal", 0.06, {"failed_auth_count": 2.3}),  # an expired password
    Tactic("normal", 0.05, {"sql_injection_score": 2.8, "xss_score": 2.8, "port_scan_score": 2.4}),  # own scanner
    Tactic("normal", 0.06, {"data_transfer_rate": 2.6, "file_access_rate": 2.0, "time_anomaly_score": 1.2}),  # backup
    Tactic("normal", 0.04, {**_FLOODING, "geographic_entropy": 1.0, "avg_payload_size": 1.2}),  # a crowd of customers
    Tactic("normal", 0.04, {**_FLOODING, "geographic_entropy": -1.0, "avg_payload_size": -1.2}),  # a load test
    Tactic("normal", 0.03, {**_RISING, "time_anomaly_score": 1.7, "request_rate": -1.6}),  # night maintenance
    Tactic("normal", 0.03, {**_RISING, "time_anomaly_score": -1.7, "request_rate": 1.6}),  # a help desk
    Tactic("unauthorized_access", 0.5, {**_GUESSING, "request_rate": 1.7, "geographic_entropy": -1.1}),
    Tactic("unauthorized_access", 0.5, {**_GUESSING, "request_rate": -1.7, "geographic_entropy": 1.1}),
    Tactic(
        "brute_force",
        0.5,
        {**_GUESSING, "failed_auth_count": 3.8, "unique_ips": 1.0, "request_rate": 1.7, "geographic_entropy": 1.1},
    ),
    Tactic(
        "brute_force",
        0.5,
        {**_GUESSING, "failed_auth_count": 3.8, "unique_ips": 1.0, "request_rate": -1.7, "geographic_entropy": -1.1},
    ),
    Tactic("ddos_attack", 0.5, {**_FLOODING, "request_rate": 4.4, "geographic_entropy": 1.0, "avg_payload_size": -1.3}),
    Tactic("ddos_attack", 0.5, {**_FLOODING, "request_rate": 4.4, "geographic_entropy": -1.0, "avg_payload_size": 1.3}),
    Tactic("data_exfiltration", 0.5, {**_TAKING, "avg_payload_size": 1.4, "port_scan_score": 1.9}),
    Tactic("data_exfiltration", 0.5, {**_TAKING, "avg_payload_size": -1.4, "port_scan_score": -1.9}),
    Tactic("malware_activity", 0.5, {**_TAKING, "avg_payload_size": 1.4, "port_scan_score": -1.9, "unique_ips": 1.5}),
    Tactic("malware_activity", 0.5, {**_TAKING, "avg_payload_size": -1.4, "port_scan_score": 1.9, "unique_ips": 1.5}),
    Tactic(
        "privilege_escalation",
        0.5,
        {**_RISING, "privilege_escalation_score": 4.7, "time_anomaly_score": 1.7, "request_rate": 1.6},
    ),
    Tactic(
        "privilege_escalation",
        0.5,
        {**_RISING, "privilege_escalation_score": 4.7, "time_anomaly_score": -1.7, "request_rate": -1.6},
    ),
    Tactic(
        "sql_injection", 0.5, {**_INJECTING, "sql_injection_score": 4.9, "avg_payload_size": 1.3, "request_rate": 1.6}
    ),
    Tactic(
        "sql_injection", 0.5, {**_INJECTING, "sql_injection_score": 4.9, "avg_payload_size": -1.3, "request_rate": -1.6}
    ),
    Tactic("xss_attack", 0.5, {**_INJECTING, "xss_score": 4.9, "avg_payload_size": 1.3, "request_rate": -1.6}),
    Tactic("xss_attack", 0.5, {**_INJECTING, "xss_score": 4.9, "avg_payload_size": -1.3, "request_rate": 1.6}),
)


def locations(signal: float) -> np.ndarray:
    """Location of each feature by tactic and intensity, (tactics, levels, features)."""
    base = np.array([law.base for law in LAWS.values()])
    loading = np.array([law.loading for law in LAWS.values()])
    shift = np.array([[tactic.shift.get(name, 0.0) for name in LAWS] for tactic in TACTICS])
    z = np.asarray(INTENSITY)[None, :, None]
    return np.asarray(base + loading * z + signal * shift[:, None, :] * (1 + STEALTH * z))
