"""The main job: run the notebooks in order.

A run works in ``<out>.partial`` and is renamed to ``<out>`` when it is complete, so that an error or a kill never
leaves half a report; `run` with ``resume`` goes on in what a killed run left.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiops_core import files, tracking
from aiops_core.data import sources
from aiops_core.data.tables import TASK_TABLES, TASKS, Dataset, suggestion
from aiops_core.errors import UsageError
from aiops_core.job.environment import check_cluster, kernel_environment
from aiops_core.job.lanes import LANES, Lanes
from aiops_core.job.notebooks import NOTEBOOKS, Progress, execute, notebook_folder, run_stage, write_page
from aiops_core.job.workspace import refuse_foreign, replace_report, workspace
from aiops_core.study import origin, report

__all__ = ["NOTEBOOKS", "Options", "execute", "notebook_folder", "run"]

#: The longest first, so that the lanes end together.
ORDER = ("failure", "capacity", "threat")
#: How test is told from training.
PROTOCOLS = ("time", "resource")
#: Whether a candidate that passes the gate becomes champion, as the notebooks' parameter ``promote`` says it.
PROMOTE: dict[str, bool | str] = {"gate": True, "first": "first", "never": False}


@dataclass(frozen=True)
class Options:
    """What a run does; equal options (``out`` apart) may resume each other."""

    source: str = "synthetic"
    n_samples: int | None = None
    n_trials: int = 20
    seed: int = 7
    seeds: int = 1
    protocol: str = "time"
    signal: float = 1.0
    tasks: tuple[str, ...] = TASKS
    deterministic: bool = False
    quick: bool = False
    promote: str = "gate"
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        UsageError
        """
        if self.n_trials < 1:
            raise UsageError(f"--trials {self.n_trials} must be at least 1")
        if self.n_samples is not None and self.n_samples < 1:
            raise UsageError(f"--n-samples {self.n_samples} must be at least 1")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} must not be negative")
        if self.seeds < 1:
            raise UsageError(f"--seeds {self.seeds} must be at least 1")
        if self.protocol not in PROTOCOLS:
            raise UsageError(f"--protocol {self.protocol} is none of {', '.join(PROTOCOLS)}")
        if not 0 <= self.signal <= 1:
            raise UsageError(f"--signal {self.signal} must lie from 0 to 1")
        if self.promote not in PROMOTE:
            raise UsageError(f"--promote {self.promote} is none of {', '.join(PROMOTE)}")
        for task in self.tasks:
            if task not in TASKS:
                raise UsageError(f"--tasks: unknown task '{task}'{suggestion(task, TASKS)}")
        for task in self.config:
            if task not in TASKS:
                raise UsageError(f"--set: unknown task '{task}'{suggestion(task, TASKS)}")


def run(
    options: Options, out: str | Path | None = None, *, resume: bool = False, progress: Progress | None = None
) -> tuple[Path, dict[str, Any]]:
    """Run the main job: data, searches, verdicts, report.

    Parameters
    ----------
    options : Options
    out : path, optional
        Folder of the report; ``reports/<source>`` by default. An earlier report there is replaced at the end.
    resume : bool, default False
        Go on where a killed run of the same options stopped.
    progress : callable, optional
        Called with a stage and its state, ``running``, ``done``, ``skipped`` or ``failed``.

    Returns
    -------
    folder : Path
    content : dict
        What ``report.json`` holds.

    Raises
    ------
    AiopsError
        For everything a user can act on; reports, registry and database are then as they were.
    """
    began = time.monotonic()
    options.check()
    tell = progress or (lambda stage, state: None)
    source = _resolved(options.source)
    target = Path(out).resolve() if out else origin.folder_of(None, source)
    tell("validation", "running")
    dataset = _load(options, source)
    tasks = [task for task in TASKS if task in options.tasks and dataset.has(task)]
    if not tasks:
        wanted = ", ".join(f"{task} needs {' and '.join(TASK_TABLES[task])}" for task in options.tasks)
        raise UsageError(f"source '{options.source}' holds no table for the tasks asked for: {wanted}")
    tracking.check()
    check_cluster()
    refuse_foreign(target)
    with (
        workspace(target, {**asdict(options), "source": source}, resume) as (work, state),
        kernel_environment() as start,
    ):
        # Before Ray starts: a fork while another thread computes can stop both for good.
        _preflight(options, dataset, tasks)
        tell("validation", "done")
        given = {"source": source, "out": str(work)}
        given |= {name: getattr(options, name) for name in ("seed", "n_samples", "signal")}
        search = {name: getattr(options, name) for name in ("n_trials", "seeds", "protocol", "deterministic", "quick")}
        search |= {**given, "promote": PROMOTE[options.promote]}
        waiting = [
            (task, {**search, "config": dict(options.config.get(task, {}))})
            for task in _untrained(tasks, options, work, tell)
        ]
        with Lanes(work, tell) as lanes:
            look = lanes.begin("data", {**given, "tasks": list(options.tasks)})
            # Neither needs the other, and each keeps one core busy.
            start(min(LANES, len(waiting)))
            tracking.prepare_store()
            look.result()
            lanes.run(waiting)
        facts = _facts(options, dataset)
        files.write_json(work / "facts.json", {**facts, "wall_seconds": None})
        run_stage("report", work, {"out": str(work)}, tell)
        seconds = float(state.get("seconds", 0.0)) + time.monotonic() - began
        files.write_json(work / "facts.json", {**facts, "wall_seconds": round(seconds, 1)})
        content = report.render(work)
        replace_report(work, target)
        _publish(target, content)
    return target, content


def _resolved(source: str) -> str:
    """Return a folder as an absolute path: kernels run in the project's folder, where a relative one means another."""
    if source not in ("synthetic", *sources.PUBLIC) and Path(source).is_dir():
        return str(Path(source).resolve())
    return source


def _untrained(tasks: list[str], options: Options, work: Path, tell: Progress) -> list[str]:
    """Return the tasks that are still to be trained, the longest first; note why others are skipped."""
    waiting = []
    for task in sorted(TASKS, key=ORDER.index):
        section = work / task / "section.json"
        if task not in tasks:
            asked = task in options.tasks
            absent = " and ".join(TASK_TABLES[task])
            reason = f"source has no {absent} table" if asked else "not asked for"
            files.write_json(section, report.empty_section(task, "skipped", reason))
            tell(task, "skipped")
        elif section.is_file() and json.loads(section.read_text())["status"] == "trained":
            tell(task, "done")
        else:
            waiting.append(task)
    return waiting


def _publish(folder: Path, content: Mapping[str, Any]) -> None:
    """Put the report and the executed notebook of each task into its MLflow run: open the run, read it."""
    with tempfile.TemporaryDirectory(prefix="aiops-") as scratch:
        for task, section in content["tasks"].items():
            if section["status"] != "trained":
                continue
            page = Path(scratch) / f"{NOTEBOOKS[task]}.html"
            write_page(folder / "notebooks" / f"{NOTEBOOKS[task]}.ipynb", page)
            tracking.log_pages(section["run_id"], [folder / "report.html", page])


def _facts(options: Options, dataset: Dataset) -> dict[str, Any]:
    """Return what the report says about the run as a whole."""
    return {
        "source": options.source,
        "seed": options.seed,
        "n_samples": options.n_samples or (sources.DEFAULT_SAMPLES if options.source == "synthetic" else None),
        "title": dataset.title,
        "licence": dataset.licence,
        "seeds": options.seeds,
        "protocol": options.protocol,
        "signal": options.signal,
        "deterministic": options.deterministic,
        "quick": options.quick,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _load(options: Options, source: str) -> Dataset:
    loaded = sources.load(
        source, n_samples=options.n_samples, seed=options.seed, signal=options.signal, tasks=list(options.tasks)
    )
    for task, values in options.config.items():
        loaded = loaded.configured(task, **values)
    return loaded


def _preflight(options: Options, dataset: Dataset, tasks: list[str]) -> None:
    """Prepare every task once before anything is written, so that a data error of the last spares the first."""
    for task in tasks:
        module = importlib.import_module(f"aiops_core.tasks.{task}")
        effort = module.QUICK_EFFORT if options.quick else module.FULL_EFFORT
        module.prepare(dataset, seed=options.seed, protocol=options.protocol, effort=effort)
