"""What to do: actions by the metric that drives a failure, and by the class of an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: What helps against a metric that drives the risk of failure, most effective first.
FAILURE_ACTIONS: dict[str, tuple[str, ...]] = {
    "cpu_usage": ("scale_horizontal",),
    "memory_usage": ("restart_service", "scale_vertical"),
    "disk_io": ("clear_disk_space",),
    "network_traffic": ("scale_horizontal",),
    "network_errors": ("failover_network",),
    "error_rate": ("rollback_deploy",),
    "response_time": ("scale_horizontal",),
    "request_rate": ("scale_horizontal",),
}
#: What stops an attack of a class, most effective first.
THREAT_ACTIONS: dict[str, tuple[str, ...]] = {
    "normal": ("continue_monitoring",),
    "unauthorized_access": ("lock_account", "rotate_credentials"),
    "ddos_attack": ("rate_limit_source", "block_source_ip"),
    "data_exfiltration": ("isolate_host", "rotate_credentials"),
    "privilege_escalation": ("isolate_host", "lock_account"),
    "malware_activity": ("isolate_host", "block_source_ip"),
    "brute_force": ("block_source_ip", "lock_account", "rate_limit_source"),
    "sql_injection": ("enable_waf_rule", "block_source_ip"),
    "xss_attack": ("enable_waf_rule", "block_source_ip"),
}


def failure_actions(drivers: Sequence[Mapping[str, Any]], failing: bool = True) -> list[str]:
    """Return the ids of the actions for the drivers of a failure prediction, strongest driver first.

    Parameters
    ----------
    drivers : sequence of Driver
    failing : bool
        Whether a failure is predicted; if not, the only advice is to keep watching.

    Examples
    --------
    >>> failure_actions([{"feature": "memory_usage"}, {"feature": "cpu_usage"}])
    ['restart_service', 'scale_vertical', 'scale_horizontal']
    >>> failure_actions([{"feature": "fan_speed"}])
    ['investigate']
    """
    if not failing:
        return ["continue_monitoring"]
    found = [action for driver in drivers for action in FAILURE_ACTIONS.get(str(driver["feature"]), ())]
    return list(dict.fromkeys(found)) or ["investigate"]


def threat_actions(label: str) -> list[str]:
    """Return the ids of the actions against a threat class; unknown attacks are investigated.

    Examples
    --------
    >>> threat_actions("ddos_attack"), threat_actions("novel_attack")
    (['rate_limit_source', 'block_source_ip'], ['investigate'])
    """
    return list(THREAT_ACTIONS.get(label, ("investigate",)))
