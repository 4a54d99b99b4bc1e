"""The journal in the metrics: its size and age, the same whoever is asked."""

from __future__ import annotations

import time
from pathlib import Path

from aiops_core.journal import segments
from serve_app.operations.telemetry import Metrics, Scraped

__all__ = ["watch"]


def watch(metrics: Metrics, state: Path) -> None:
    """Show size and age of the journal of a state folder whenever the metrics are asked for."""

    def size() -> list[tuple[dict[str, str], float]]:
        return [({}, float(sum(length for _, length, _ in segments.held(state))))]

    def age() -> list[tuple[dict[str, str], float]]:
        began = segments.oldest(state)
        return [({}, 0.0 if began is None else max(0.0, time.time() - began))]

    shown: dict[str, Scraped] = {"aiops_journal_bytes": size, "aiops_journal_oldest_seconds": age}
    for name, samples in shown.items():
        metrics.at_scrape(name, samples)
