"""The monitoring report: what was found of each task, as ``report.json`` and a page that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from aiops_core import files, monitor, settings
from aiops_core.data.tables import TASKS
from aiops_core.facts import FACTS
from aiops_core.study.pictures import common, monitoring

SCHEMA_VERSION = 1
STATES = {"fine": "fine", "watch": "watch", "act": "act", "unknown": "not judged"}
NAMES = {"f1": "F1 ↑", "accuracy": "accuracy ↑", "error": "error of the forecast ↓"}


def folder_of(out: str | None) -> Path:
    """Return the folder of the report: the given one, else ``reports/monitor`` of the project."""
    return Path(out) if out else settings.load().home / "reports" / "monitor"


def look(task: str, since: str = "7d", state: str | None = None, budget: float | None = None) -> dict[str, Any]:
    """Judge what the journal holds of a task; see `aiops_core.monitor.look`."""
    frame, card, version = monitor.records(task, since, Path(state) if state else None)
    return monitor.look(frame, card, task=task, version=version or None, budget=budget)


def verdicts(found: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row a task: verdict, why, and what to do."""
    rows = [
        {
            "task": FACTS[task].title,
            "verdict": STATES[one["verdict"]["state"]],
            "why": " ".join(one["verdict"]["why"]),
            "what to do": " ".join(one["verdict"]["todo"]),
        }
        for task, one in found.items()
    ]
    return pd.DataFrame(rows).set_index("task")


def drift_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return the newest day of everything that is compared with the card, the most drifted first."""
    rows = [
        {"compared": f"{one['feature']} ({one['kind']})", **one["days"][0]}
        for one in found.get("drift", [])
        if one["days"]
    ]
    if not rows:
        return pd.DataFrame({"compared": [], "psi": [], "js": [], "threshold": [], "drifted": []})
    table = pd.DataFrame(rows)[["compared", "psi", "js", "threshold", "drifted"]]
    return table.iloc[(-(table["psi"] / table["threshold"])).argsort(kind="stable")].reset_index(drop=True)


def gallery(found: Mapping[str, Any]) -> common.Gallery:
    """Return the pictures of a task for a notebook."""
    return common.Gallery(monitoring.pictures(found).values())


def render(folder: str | Path, found: Mapping[str, Mapping[str, Any]], since: str) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html``.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    found : mapping
        By task, as `look` returns it.
    since : str
        How far the answers reach back, for the reader.

    Returns
    -------
    dict
        The content of ``report.json``: ``schema_version, created, since, state`` (the worst of the tasks) and ``tasks``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    states = [found[task]["verdict"]["state"] for task in found]
    worst = next((state for state in ("act", "watch", "fine") if state in states), "unknown")
    content = {
        "schema_version": SCHEMA_VERSION,
        "created": pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds"),
        "since": since,
        "state": worst,
        "tasks": {task: dict(found[task]) for task in TASKS if task in found},
    }
    files.write_json(folder / "report.json", content)
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"measured": _measured, "percent": _percent}
    page = environment.get_template("monitor.html.j2").render(
        report=stored,
        figures={task: _encoded(one) for task, one in stored["tasks"].items()},
        titles={task: facts.title for task, facts in FACTS.items()},
        states=STATES,
        names=NAMES,
    )
    files.write_text(folder / "report.html", page)
    return dict(stored)


def _encoded(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: base64.b64encode(common.png(picture)).decode() for name, picture in monitoring.pictures(found).items()
    }


def _measured(found: Mapping[str, Any] | None) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else "–"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
