"""A task's section of ``report.json``: everything that a run found, as plain values."""

from __future__ import annotations

import time
from typing import Any

from aiops_core.data.tables import TASK_TABLES
from aiops_core.judge.gate import Verdict
from aiops_core.search import SearchResult
from aiops_core.study.origin import protocol_of

__all__ = ["section_of"]


def section_of(study: Any, result: SearchResult, verdict: Verdict, version: int | None) -> dict[str, Any]:
    """Return a task's section of ``report.json``.

    Parameters
    ----------
    study : Study
        Measured and judged.
    version : int or None
        Of the registered model; None where it was refused.
    """
    tables, digest = study.dataset, study.digest
    notes = [f"{table}: {note}" for table in TASK_TABLES[study.name] for note in tables.notes.get(table, [])]
    data = {**study.data.info, "protocol": protocol_of(study.data), "digest": digest, "title": tables.title}
    return {
        "model": study.task.MODEL,
        "status": "trained",
        "reason": None,
        "data": {**data, "notes": notes},
        "search": result.summary(),
        "metrics": study.metrics,
        "seeds": study.trainings,
        "baselines": study.baselines,
        "oracle": study.oracle,
        "share_of_oracle": study.share,
        "intervals_over": study.task.units(study.data).words,
        "test_looks": study.looks,
        "gate": verdict.as_dict(),
        "main_metric": study.task.MAIN_METRIC,
        "kind": study.task.KIND,
        "parity": study.parity,
        "seconds": round(time.monotonic() - study.began, 1),
        "run_id": study.run_id,
        "model_version": version,
    }
