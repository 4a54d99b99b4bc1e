"""The training report: summarise to a plain dict, then render it.

``report.json`` holds every number, ``report.html`` shows them: self-contained, without code, readable on paper.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from aiops_core import files
from aiops_core.data.tables import TASKS
from aiops_core.errors import UsageError
from aiops_core.facts import MODELS
from aiops_core.judge import intervals
from aiops_core.study import origin
from aiops_core.study.first_screen import first_screen
from aiops_core.study.trainings import trainings_words
from aiops_core.study.words import (
    KIND_WORDS,
    METRIC_WORDS,
    TASK_WORDS,
    best_baseline,
    few_incidents,
    looks_words,
    next_steps,
    outcome_words,
    rows_words,
    share_of_way,
    short,
    verdict_words,
    with_interval,
)

#: Of ``report.json``: raised when a key changes its meaning or goes.
SCHEMA_VERSION = 1
#: What a report says of a run as a whole.
FACTS_OF_A_RUN = (
    "source title licence seed seeds protocol n_samples signal deterministic quick created wall_seconds".split()
)


def empty_section(task: str, status: str, reason: str) -> dict[str, Any]:
    """Return the section of a task that was skipped or failed."""
    return {
        "model": MODELS[task],
        "status": status,
        "reason": reason,
        "data": None,
        "search": None,
        "metrics": {},
        "baselines": {},
        "oracle": None,
        "gate": None,
        "run_id": None,
        "model_version": None,
    }


def summarise(folder: str | Path) -> dict[str, Any]:
    """Read what the task notebooks wrote into one dict, the content of ``report.json``.

    Parameters
    ----------
    folder : path
        Folder of a run.

    Raises
    ------
    UsageError
        If no task has written its section there.
    """
    folder = Path(folder)
    facts = _read(folder / "facts.json") or {}
    sections = {task: _read(folder / task / "section.json") for task in TASKS}
    if not any(sections.values()):
        raise UsageError(
            f"folder {folder} holds no section of a task; run a task notebook with this folder as 'out' first"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: facts.get(name) for name in FACTS_OF_A_RUN},
        "versions": origin.versions(),
        "tasks": {task: sections[task] or empty_section(task, "skipped", "not run") for task in TASKS},
    }


def verdicts(content: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row a task: main metric of model, best baseline and oracle, and the gate's decision."""
    rows = []
    for task, section in content["tasks"].items():
        row = {"task": TASK_WORDS[task], "status": section["status"], "decision": "", "reason": section["reason"] or ""}
        if section["status"] == "trained":
            main = section["main_metric"]
            name, best = best_baseline(section)
            row |= {
                "decision": section["gate"]["decision"],
                "metric": METRIC_WORDS[main],
                "model": with_interval(section["metrics"][main]),
                "best baseline": f"{name} {best['value']:.3f}" if best else "",
                "oracle": f"{section['oracle'][main]['value']:.3f}" if section["oracle"] else "",
                "way to the oracle": share_of_way(section),
                "reason": section["gate"]["reasons"][0],
            }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def words(content: Mapping[str, Any]) -> Any:
    """Return the verdict of every task in words."""
    rows = [{"task": TASK_WORDS[t], "verdict": verdict_words(s)} for t, s in content["tasks"].items()]
    style: Any = pd.DataFrame(rows).set_index("task").style
    # Unlike the table of a frame, a styled one takes text for HTML.
    return style.format(escape="html").set_properties(**{"text-align": "left", "white-space": "normal"})


def render(folder: str | Path) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` into the folder of a run, each under a temporary name first.

    Returns
    -------
    dict
        The content of ``report.json``.
    """
    folder = Path(folder)
    content = summarise(folder)
    files.write_json(folder / "report.json", content)
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = with_interval
    environment.filters["short"] = short
    figures = {task: _figures(folder / task / "figures") for task in TASKS}
    details = {task: _read(folder / task / "details.json") or {} for task in TASKS}
    cards = {task: _text(folder / task / "servable" / "model-card.md") for task in TASKS}
    page = environment.get_template("report.html.j2").render(
        report=stored,
        figures=figures,
        details=details,
        cards=cards,
        task_words=TASK_WORDS,
        metric_words=METRIC_WORDS,
        kind_words=KIND_WORDS,
        lower=intervals.LOWER_IS_BETTER,
        verdict=verdict_words,
        outcome=outcome_words,
        first_screen=first_screen,
        rows_words=rows_words,
        share_of_way=share_of_way,
        few_incidents=few_incidents,
        looks=looks_words,
        trainings=trainings_words,
        best_baseline=best_baseline,
        steps=next_steps(stored),
    )
    files.write_text(folder / "report.html", page)
    return dict(stored)


def _figures(folder: Path) -> dict[str, str]:
    return {p.stem: base64.b64encode(p.read_bytes()).decode() for p in sorted(folder.glob("*.png"))}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
