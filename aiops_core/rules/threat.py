"""Threat: signatures of known attacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiops_core.rules.inputs import feature_table

#: Signature of each attack: its leading feature, then supporting ones, each with its limit. Limits are set to stay
#: quiet: a busy user fails fifteen logins an hour at most, a busy site answers two thousand requests a second, and a
#: score above 0.6 means that the sensor itself is rather sure. Stealthy attacks stay below them.
THREAT_RULES: dict[str, tuple[tuple[str, float], ...]] = {
    "brute_force": (("failed_auth_count", 15.0), ("request_rate", 300.0), ("time_anomaly_score", 0.6)),
    "ddos_attack": (("request_rate", 2000.0), ("unique_ips", 100.0), ("geographic_entropy", 3.0)),
    "sql_injection": (("sql_injection_score", 0.6), ("avg_payload_size", 4000.0)),
    "xss_attack": (("xss_score", 0.6), ("avg_payload_size", 4000.0)),
    "data_exfiltration": (("data_transfer_rate", 50.0), ("file_access_rate", 60.0), ("avg_payload_size", 5000.0)),
    "privilege_escalation": (("privilege_escalation_score", 0.6), ("file_access_rate", 60.0)),
    "malware_activity": (("port_scan_score", 0.6), ("file_access_rate", 60.0), ("data_transfer_rate", 20.0)),
    "unauthorized_access": (("time_anomaly_score", 0.85), ("file_access_rate", 60.0), ("geographic_entropy", 3.0)),
}
#: Log-odds of a leading and of a supporting feature above its limit, and what normal activity has in advance: a
#: leading feature alone wins, supporting ones alone do not.
LEADING, SUPPORTING, NORMAL_LEAD = 4.0, 1.0, 3.0


def threat_rules(X: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Classify activity by the signature table `THREAT_RULES`.

    Each class collects log-odds for its features above their limits; probabilities are the softmax. A missing
    feature counts as below its limit.

    Parameters
    ----------
    X : ndarray, (n, len(names))
        NaN is missing.
    names : sequence of str
        Feature of each column.
    classes : sequence of str
        Order of the result. Classes without a rule get no evidence; ``normal`` wins when no signature matches.

    Returns
    -------
    ndarray, (n, len(classes)), float64
        Rows sum to 1.

    Raises
    ------
    UsageError
        If the columns do not match ``names``.

    Examples
    --------
    >>> row = np.array([[25.0, 1500.0, 50.0]])
    >>> names = ["failed_auth_count", "request_rate", "unique_ips"]
    >>> threat_rules(row, names, ["normal", "ddos_attack", "brute_force"]).round(2).tolist()
    [[0.12, 0.01, 0.88]]
    """
    array = feature_table(X, names)
    column = {name: j for j, name in enumerate(names)}
    score = np.zeros((len(array), len(classes)))
    for c, label in enumerate(classes):
        if label == "normal":
            score[:, c] = NORMAL_LEAD
        for place, (feature, limit) in enumerate(THREAT_RULES.get(label, ())):
            if feature in column:
                above = np.nan_to_num(array[:, column[feature]], nan=-np.inf) >= limit
                score[:, c] += above * (LEADING if place == 0 else SUPPORTING)
    score = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(score / score.sum(axis=1, keepdims=True))
