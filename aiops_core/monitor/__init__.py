"""Watches a served model: inputs, scores and quality against what its card keeps of training.

`look` judges the records of one task; `records` reads them from the journal. Plain values come out, ready for a report.
"""

from __future__ import annotations

from aiops_core.monitor.look import look, look_at
from aiops_core.monitor.records import records
from aiops_core.monitor.traffic import Traffic, traffic_of

__all__ = ["Traffic", "look", "look_at", "records", "traffic_of"]
