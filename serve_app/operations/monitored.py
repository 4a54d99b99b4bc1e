"""What the newest monitoring report found, as gauges.

The report is written by ``aiops monitor``, on the schedule of ``aiops serve`` or by hand; every replica reads the same file,
so whichever answers says the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from serve_app.operations.telemetry import Metrics

__all__ = ["Monitored"]

#: The newest report, below the state folder.
REPORT = Path("monitor") / "report.json"
#: Verdicts as numbers, so that an alert rule can compare them.
STATES = {"unknown": -1.0, "fine": 0.0, "watch": 1.0, "act": 2.0}

Samples = Iterable[tuple[dict[str, str], float]]


class Monitored:
    """Answers about the newest report.

    Parameters
    ----------
    state : Path
        State folder.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / REPORT
        self._read: tuple[int, dict[str, Any]] = (-1, {})

    def attach(self, metrics: Metrics) -> None:
        """Let the metrics ask for the gauges."""
        for name, samples in (
            ("aiops_monitor_age_seconds", self.age),
            ("aiops_monitor_state", self.states),
            ("aiops_monitor_drift_ratio", self.drift),
            ("aiops_monitor_drifted", self.drifted),
            ("aiops_monitor_broken_sensors", self.broken),
            ("aiops_monitor_quality", self.quality),
            ("aiops_monitor_alerts", self.alerts),
        ):
            metrics.at_scrape(name, samples)

    def _tasks(self) -> dict[str, dict[str, Any]]:
        content = self._content()
        return dict(content.get("tasks", {}))

    def _content(self) -> dict[str, Any]:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._read[0]:
                self._read = (stamp, json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            # No report yet, or one that cannot be read: no samples, which is what a rule looks for.
            return {}
        return self._read[1]

    def age(self) -> Samples:
        """Yield the seconds since the newest report."""
        content = self._content()
        if content:
            yield {}, max(0.0, time.time() - datetime.fromisoformat(content["created"]).timestamp())

    def states(self) -> Samples:
        """Yield the verdict on each task."""
        for task, found in self._tasks().items():
            yield {"task": task}, STATES.get(found["verdict"]["state"], -1.0)

    def drift(self) -> Samples:
        """Yield the largest drift of the newest day, as a multiple of its threshold."""
        for task, found in self._tasks().items():
            newest = [one["days"][0] for one in found.get("drift", []) if one["days"]]
            if newest:
                yield {"task": task}, max(day["psi"] / max(day["threshold"], 1e-9) for day in newest)

    def drifted(self) -> Samples:
        """Yield how many of the things that are compared have moved."""
        for task, found in self._tasks().items():
            if "drift" in found:
                yield {"task": task}, float(sum(one["drifted"] for one in found["drift"]))

    def broken(self) -> Samples:
        """Yield the number of sensors that say nothing, or always the same."""
        for task, found in self._tasks().items():
            if "broken" in found:
                yield {"task": task}, float(len(found["broken"]))

    def quality(self) -> Samples:
        """Yield quality estimated, labelled and promised."""
        for task, found in self._tasks().items():
            guess, measured = found.get("estimate"), found.get("quality")
            for source, content, key in (
                ("estimated", guess, "value"),
                ("promised", guess, "promised"),
                ("labelled", measured, "value"),
            ):
                if content:
                    yield {"task": task, "metric": content["metric"], "source": source}, float(content[key])

    def alerts(self) -> Samples:
        """Yield the alerts of the last day."""
        for task, found in self._tasks().items():
            if found.get("alerts"):
                yield {"task": task}, float(found["alerts"]["per_day"][0])
