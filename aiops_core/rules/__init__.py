"""The untrained models: failure rules, a robust seasonal anomaly detector, and threat signatures.

They answer when no trained model can (one snapshot instead of a window, no champion yet), and they are the simple
baselines that a trained model has to beat. Only numpy is needed. Every limit is a named constant with its reason.
"""

from __future__ import annotations

from aiops_core.rules.actions import FAILURE_ACTIONS, THREAT_ACTIONS, failure_actions, threat_actions
from aiops_core.rules.anomaly import ANOMALY_THRESHOLD, Finding, StatisticalAnomalyDetector
from aiops_core.rules.failure import FAILURE_RULES, RuleBasedFailurePredictor, Verdict
from aiops_core.rules.threat import THREAT_RULES, threat_rules

__all__ = [
    "ANOMALY_THRESHOLD",
    "FAILURE_ACTIONS",
    "FAILURE_RULES",
    "THREAT_ACTIONS",
    "THREAT_RULES",
    "Finding",
    "RuleBasedFailurePredictor",
    "StatisticalAnomalyDetector",
    "Verdict",
    "failure_actions",
    "threat_actions",
    "threat_rules",
]
