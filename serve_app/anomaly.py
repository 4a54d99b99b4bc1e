"""The statistical anomaly detector behind HTTP."""

from __future__ import annotations

from typing import Any

from serve_app.services import Service


class AnomalyService(Service):
    """Answer ``analyze/anomaly``."""

    task = "anomaly"

    def __init__(self, metrics: Any, failure: Any) -> None:
        super().__init__(metrics)
        self._failure = failure
