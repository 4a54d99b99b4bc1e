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
from aiops_core.facts import FACTS
from aiops_core.judge import intervals, metrics
from aiops_core.study import experiment
from aiops_core.tracking import MODELS

__all__ = [
    "METRIC_WORDS",
    "TASK_WORDS",
    "empty_section",
    "model_card",
    "render",
    "summarise",
    "verdict_words",
    "verdicts",
]

TASK_WORDS = {task: facts.title for task, facts in FACTS.items()}
METRIC_WORDS = metrics.WORDS
#: Below so many incidents in the test part a figure says more about chance than about the model.
FEW_INCIDENTS = 10
KIND_WORDS = {facts.kind: facts.kind_words for facts in FACTS.values()}


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
        "schema_version": experiment.SCHEMA_VERSION,
        "source": facts.get("source"),
        "title": facts.get("title"),
        "licence": facts.get("licence"),
        "seed": facts.get("seed"),
        "n_samples": facts.get("n_samples"),
        "signal": facts.get("signal"),
        "deterministic": facts.get("deterministic"),
        "created": facts.get("created"),
        "wall_seconds": facts.get("wall_seconds"),
        "versions": experiment.versions(),
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
                "model": _metric(section["metrics"][main]),
                "best baseline": f"{name} {best['value']:.3f}" if best else "",
                "oracle": f"{section['oracle'][main]['value']:.3f}" if section["oracle"] else "",
                "reason": section["gate"]["reasons"][0],
            }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def best_baseline(section: Mapping[str, Any]) -> tuple[str, Mapping[str, float] | None]:
    """Return name and main metric of a section's best baseline; every main metric is better when higher."""
    main = section["main_metric"]
    values = {name: m[main] for name, m in section["baselines"].items() if m.get(main, {}).get("value") is not None}
    if not values:
        return "", None
    name = max(values, key=lambda n: values[n]["value"])
    return name, values[name]


def few_incidents(section: Mapping[str, Any]) -> str | None:
    """Return the warning that belongs in place of a number when the test part holds too few incidents, else None."""
    count = (section.get("data") or {}).get("test_incidents")
    if count is None or count >= FEW_INCIDENTS:
        return None
    some = "no incident" if count == 0 else "1 incident" if count == 1 else f"{count} incidents"
    return f"Only {some} in the test part: no figure of this model is reliable."


def verdict_words(section: Mapping[str, Any]) -> str:
    """Say in a few sentences what the gate made of a model and how good it is; a model not served says first why."""
    if section["status"] != "trained":
        return f"{section['status'].capitalize()}: {section['reason']}."
    main = section["main_metric"]
    metric, value = METRIC_WORDS[main], section["metrics"][main]
    name, best = best_baseline(section)
    words = f"{metric} {_metric(value)}"
    if best:
        words += f"; best baseline, {name}, {best['value']:.3f}"
    if section["oracle"]:
        ceiling = section["oracle"][main]["value"]
        words += f"; the best possible, the oracle, {ceiling:.3f}, of which {value['value'] / ceiling:.0%} is reached"
    gate, few = section["gate"], few_incidents(section)
    words = f"{few} {words}" if few else words
    if gate["decision"] == "champion":
        return f"{words}. It passes the gate and is the model to serve."
    outcome = "Registered as challenger, not served" if gate["decision"] == "challenger" else "Refused, not registered"
    by_hand = ""
    if gate["decision"] == "challenger":
        by_hand = f" To serve it all the same: aiops models promote {section['model']} {section['model_version']}."
    return f"{outcome}: it {gate['reasons'][0]}. {gate['advice']}{by_hand} {words}."


def words(content: Mapping[str, Any]) -> Any:
    """Return the verdict of every task in words."""
    rows = [{"task": TASK_WORDS[t], "verdict": verdict_words(s)} for t, s in content["tasks"].items()]
    style: Any = pd.DataFrame(rows).set_index("task").style
    return style.set_properties(**{"text-align": "left", "white-space": "normal"})


def next_steps(content: Mapping[str, Any]) -> list[str]:
    """Return what a reader should do with the result."""
    steps = []
    decisions = {
        task: section["gate"]["decision"]
        for task, section in content["tasks"].items()
        if section["status"] == "trained"
    }
    served = [MODELS[t] for t, d in decisions.items() if d == "champion"]
    if served:
        steps.append(f"Serve {', '.join(served)}: <code>make serve</code>.")
    for task, decision in decisions.items():
        if decision == "challenger":
            version = content["tasks"][task]["model_version"]
            steps.append(
                f"{MODELS[task]} version {version} waits as challenger; after a look at its page below, "
                f"<code>aiops models promote {MODELS[task]} {version}</code> makes it the champion."
            )
        if decision == "refused":
            steps.append(
                f"{MODELS[task]} learned nothing worth serving: look at its data below, bring more or other features, "
                "or a longer record."
            )
    for task, section in content["tasks"].items():
        if section["status"] == "failed":
            steps.append(f"{TASK_WORDS[task]} failed; its notebook in this folder shows where.")
    if content.get("source") == "synthetic":
        steps.append("Point the same command at your own tables: <code>aiops report --source FOLDER</code>.")
    steps.append("Every trial behind these numbers: <code>mlflow ui --backend-store-uri sqlite:///mlflow.db</code>.")
    return steps


def model_card(card: Mapping[str, Any]) -> str:
    """Return the model card of a servable as Markdown (after Mitchell et al. 2019)."""
    lineage, decision, calibration = card.get("lineage", {}), card.get("decision", {}), card.get("calibration", {})
    use = {
        "failure": "Warn on-call engineers that an incident of a resource is likely to start within the horizon.",
        "threat": "Sort rows of activity into threat classes, for a person or a reversible action to follow up.",
        "capacity": "Forecast usage with its uncertainty, to decide on scaling before a limit is reached.",
    }[card["task"]]
    limits = {
        "failure": "It knows only the kinds of degradation in its training record; a new kind may pass unseen.",
        "threat": "Attacks of a new kind are found by likeness only; a probability is calibrated for the training mix of classes.",
        "capacity": "It extrapolates habits: a change that has not begun at the origin is not foreseen, and only the band hints at it.",
    }[card["task"]]
    lines = [
        f"# Model card: {card['model']}",
        "",
        f"- **Kind**: {KIND_WORDS.get(card['kind'], card['kind'])}, created {card.get('created', 'unknown')}",
        f"- **Intended use**: {use}",
        f"- **Data**: {lineage.get('title', 'unknown')} (licence: {lineage.get('licence', 'unknown')}), digest {str(lineage.get('digest', ''))[:16]}",
        f"- **Split**: {lineage.get('split', 'unknown')}",
        *_incident_line(lineage.get("incidents")),
        f"- **Features**: {', '.join(f['name'] for f in card['features'])}",
        f"- **Decision**: {_brief(decision)}",
        f"- **Calibration**: {_brief(calibration)}",
        f"- **Limits**: {limits}",
        f"- **Lineage**: run {lineage.get('run_id', 'unknown')}, seed {lineage.get('seed', 'unknown')}, code {lineage.get('code_version', 'unknown')}",
        "",
        "| metric | value (95 % interval) | "
        + " | ".join(card.get("baselines", {}))
        + (" | oracle |" if card.get("oracle") else " |"),
        "| --- | --- | "
        + " | ".join("---" for _ in card.get("baselines", {}))
        + (" | --- |" if card.get("oracle") else " |"),
    ]
    for name, value in card.get("metrics", {}).items():
        cells = [METRIC_WORDS.get(name, name), _metric(value)]
        cells += [_short((values.get(name) or {}).get("value")) for values in card.get("baselines", {}).values()]
        if card.get("oracle"):
            cells.append(_short((card["oracle"].get(name) or {}).get("value")))
        lines.append(f"| {' | '.join(cells)} |")
    reasons = card.get("gate", {}).get("reasons", [])
    lines += [
        "",
        f"**Gate: {card.get('gate', {}).get('decision', 'not judged')}**",
        "",
        *[f"- It {reason}" for reason in reasons],
    ]
    return "\n".join(lines) + "\n"


def _incident_line(counts: Mapping[str, int] | None) -> list[str]:
    if not counts:
        return []
    few = f" (fewer than {FEW_INCIDENTS}: no figure below is reliable)" if counts["test"] < FEW_INCIDENTS else ""
    return [f"- **Incidents**: {counts['train']} in training, {counts['test']} in the test{few}"]


def _brief(values: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in values.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool)}
    return ", ".join(f"{k} {_short(v)}" for k, v in plain.items()) or "none"


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
    environment.filters["metric"] = _metric
    environment.filters["short"] = _short
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
        few_incidents=few_incidents,
        best_baseline=best_baseline,
        steps=next_steps(stored),
    )
    files.write_text(folder / "report.html", page)
    return dict(stored)


def _figures(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    return {p.stem: base64.b64encode(p.read_bytes()).decode() for p in sorted(folder.glob("*.png"))}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _metric(value: Mapping[str, float | None] | None) -> str:
    if not value or value.get("value") is None:
        return "–"
    if value.get("low") is None:
        return _short(value["value"])
    return f"{_short(value['value'])} ({_short(value['low'])} to {_short(value['high'])})"


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 0.001:
        return f"{value:.1g}"
    # Counts that became floats on their way through a table.
    if abs(value) >= 2 and value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
