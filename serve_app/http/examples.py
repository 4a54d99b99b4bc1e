"""One request for each POST route: shown in the documentation, and word for word in the README."""

from __future__ import annotations

from typing import Any

__all__ = ["EXAMPLES"]

_SNAPSHOT = {"cpu_usage": 85.5, "memory_usage": 78.2, "disk_io": 1200, "network_errors": 15}
#: One request for each POST route, word for word what the README shows.
EXAMPLES: dict[str, dict[str, Any]] = {
    "predict/failure": {"resource_id": "server-01", "metrics": _SNAPSHOT},
    "predict/threat": {
        "source_ip": "192.168.1.100",
        "failed_auth_count": 25,
        "request_rate": 1500,
        "unique_ips": 50,
    },
    "predict/capacity": {
        "resource_id": "server-01",
        "historical_data": {"cpu_usage": [52.1, 55.4, 61.0, 58.3], "memory_usage": [70.2, 70.9, 71.4, 72.0]},
        "forecast_days": 7,
    },
    "analyze/anomaly": {"resource_id": "server-01", "metrics": _SNAPSHOT},
    "models/train": {
        "models": ["failure_predictor", "threat_detector", "capacity_forecaster"],
        "use_synthetic_data": True,
        "n_samples": 1000,
    },
    "models/register": {"name": "threat_detector", "run_id": "6dd8e22a36884b418fa978f99e4db012"},
    "models/promote": {"name": "threat_detector", "version": 1},
    "models/rollback": {"name": "threat_detector"},
    "models/shadow": {"name": "threat_detector", "version": 2},
    "models/canary": {"name": "threat_detector", "version": 2, "share": 0.1},
    "feedback": {"request_id": "6f1c0a9d2b3e-1f", "verdict": "false_alarm"},
    "alerts/mute": {"resource_id": "server-01", "minutes": 120, "reason": "planned maintenance"},
    "remediate": {"action": "scale_horizontal", "resource_id": "server-01", "dry_run": True},
}
