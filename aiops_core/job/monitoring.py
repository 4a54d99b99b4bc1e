"""The monitoring job: run its notebook, keep its report, and leave the figures where the service reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiops_core import files, settings
from aiops_core.data.tables import TASKS, suggestion
from aiops_core.errors import UsageError
from aiops_core.job.notebooks import Progress, run_stage
from aiops_core.job.workspace import refuse_foreign, replace_report, workspace
from aiops_core.monitor.records import since_time
from aiops_core.study import monitoring

#: Below the state folder: the newest report, whose figures the service shows as metrics.
NEWEST = Path("monitor") / "report.json"


def run(
    since: str = "7d",
    out: str | Path | None = None,
    *,
    tasks: Sequence[str] = TASKS,
    budget: float | None = None,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Look at the journal, judge each task and write the report.

    Parameters
    ----------
    since : str
        How far back: ``7d``, ``12h``, or a time.
    out : path, optional
        Folder of the report; ``reports/monitor`` by default. An earlier report there is replaced.
    tasks : sequence of str
    budget : float, optional
        Alerts a day that are acceptable.
    progress : callable, optional
        Called with the stage and its state.

    Returns
    -------
    folder : Path
    content : dict
        What ``report.json`` holds.

    Raises
    ------
    UsageError
        For an unknown task, a time that cannot be read, or a folder that holds something else.
    """
    since_time(since)
    for task in tasks:
        if task not in TASKS:
            raise UsageError(f"--tasks: unknown task '{task}'{suggestion(task, TASKS)}")
    target = Path(out).resolve() if out else monitoring.folder_of(None)
    refuse_foreign(target)
    state = files.private_folder(settings.load().state_dir)
    given = {"since": since, "tasks": list(tasks), "budget": budget, "state": str(state)}
    with workspace(target, given, resume=False) as (work, _):
        run_stage("monitor", work, {**given, "out": str(work)}, progress or (lambda stage, what: None))
        content = json.loads((work / "report.json").read_text(encoding="utf-8"))
        replace_report(work, target)
    with files.private_files():
        files.private_folder((state / NEWEST).parent)
        shutil.copyfile(target / "report.json", state / NEWEST.parent / ".report.json")
        (state / NEWEST.parent / ".report.json").replace(state / NEWEST)
    return target, content
