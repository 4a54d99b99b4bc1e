"""The tasks, and the registered models that answer for them."""

from __future__ import annotations

__all__ = ["MODELS", "TASKS"]

#: Task to registered model name.
MODELS = {"failure": "failure_predictor", "threat": "threat_detector", "capacity": "capacity_forecaster"}
TASKS = {name: task for task, name in MODELS.items()}
