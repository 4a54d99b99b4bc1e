"""Unit and range of the default features: one table for cards, warnings and the service."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """Unit and range of one feature, for cards, OpenAPI and warnings.

    Attributes
    ----------
    unit : str
    low, high : float
        Hard bounds of the quantity; ``inf`` where there is none.
    typical : tuple of float
        Roughly the 1st and 99th percentile in the default synthetic data.
    description : str
    """

    unit: str
    low: float
    high: float
    typical: tuple[float, float]
    description: str


_INF = math.inf
#: Unit and range by feature name, of all three tasks.
UNITS: dict[str, Feature] = {
    "cpu_usage": Feature("%", 0.0, 100.0, (0.0, 98.0), "processor time in use"),
    "memory_usage": Feature("%", 0.0, 100.0, (14.0, 96.0), "memory in use"),
    "disk_io": Feature("ops/s", 0.0, _INF, (80.0, 4000.0), "disk operations"),
    "network_traffic": Feature("MB/s", 0.0, _INF, (3.0, 220.0), "bytes in and out"),
    "network_errors": Feature("1/min", 0.0, _INF, (0.0, 20.0), "dropped or damaged packets"),
    "error_rate": Feature("1/min", 0.0, _INF, (0.0, 45.0), "errors the application logged"),
    "response_time": Feature("ms", 0.0, _INF, (20.0, 1450.0), "mean time to answer a request"),
    "request_rate": Feature("1/s", 0.0, _INF, (4.0, 46000.0), "requests received"),
    "storage_usage": Feature("%", 0.0, 100.0, (1.0, 94.0), "storage in use"),
    "user_count": Feature("users", 0.0, _INF, (15.0, 7300.0), "users active in the hour"),
    "transaction_count": Feature("1/h", 0.0, _INF, (600.0, 260000.0), "transactions completed in the hour"),
    "failed_auth_count": Feature("1/h", 0.0, _INF, (0.0, 550.0), "failed logins of the source"),
    "unique_ips": Feature("addresses", 1.0, _INF, (1.0, 600.0), "distinct addresses behind the source"),
    "avg_payload_size": Feature("bytes", 0.0, _INF, (110.0, 15000.0), "mean size of a request body"),
    "port_scan_score": Feature("score", 0.0, 1.0, (0.0, 0.85), "share of probed ports that were closed"),
    "sql_injection_score": Feature("score", 0.0, 1.0, (0.0, 0.99), "similarity of parameters to SQL injection"),
    "xss_score": Feature("score", 0.0, 1.0, (0.0, 0.99), "similarity of parameters to script injection"),
    "geographic_entropy": Feature("bits", 0.0, _INF, (0.1, 7.0), "entropy of the countries of origin"),
    "time_anomaly_score": Feature("score", 0.0, 1.0, (0.0, 0.99), "how unusual the time of day is for the source"),
    "file_access_rate": Feature("1/min", 0.0, _INF, (0.2, 520.0), "files opened"),
    "privilege_escalation_score": Feature("score", 0.0, 1.0, (0.0, 0.9), "similarity of calls to privilege changes"),
    "data_transfer_rate": Feature("MB/s", 0.0, _INF, (0.1, 600.0), "bytes sent out"),
}


def unit_of(name: str, largest: float) -> str:
    """Return the unit of a feature known by name, "" for others or when the largest value cannot have that unit."""
    known = UNITS.get(name)
    return known.unit if known is not None and largest <= known.high else ""
