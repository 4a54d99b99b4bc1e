"""Anomalies by robust statistics, untrained or learned from training telemetry."""

from __future__ import annotations

from aiops_core.rules.anomaly.detector import ANOMALY_THRESHOLD, Finding, StatisticalAnomalyDetector

__all__ = ["ANOMALY_THRESHOLD", "Finding", "StatisticalAnomalyDetector"]
