"""The model card of a servable, for a reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiops_core.study.words import (
    FEW_INCIDENTS,
    KIND_WORDS,
    METRIC_WORDS,
    best_baseline,
    short,
    verdict_words,
    with_interval,
)


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
        *[f"- **Derived feature**: {f['name']} = `{f['expression']}`" for f in card.get("derived", [])],
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
        words = f"F1 of {name.removeprefix('f1_')}" if name.startswith("f1_") else METRIC_WORDS.get(name, name)
        cells = [words, with_interval(value)]
        cells += [short((values.get(name) or {}).get("value")) for values in card.get("baselines", {}).values()]
        if card.get("oracle"):
            cells.append(short((card["oracle"].get(name) or {}).get("value")))
        lines.append(f"| {' | '.join(cells)} |")
    reasons = card.get("gate", {}).get("reasons", [])
    lines += [
        "",
        f"**Gate: {card.get('gate', {}).get('decision', 'not judged')}**",
        "",
        *[f"- It {reason}" for reason in reasons],
    ]
    return "\n".join(lines) + "\n"


def version_page(section: Mapping[str, Any]) -> str:
    """Return what the page of a registered version says, as Markdown: the verdict, its reasons, the metrics, the data.

    Parameters
    ----------
    section : mapping
        The task's section of ``report.json``.
    """
    name, _ = best_baseline(section)
    baseline, oracle = section["baselines"].get(name, {}), section["oracle"] or {}
    data, search = section["data"], section["search"]
    lines = [
        f"**{section['gate']['decision'].capitalize()}.** {verdict_words(section)}",
        "",
        *[f"- It {reason}" for reason in section["gate"]["reasons"]],
        "",
        f"| metric | value (95 % interval) | {name or 'baseline'} | oracle |",
        "| --- | --- | --- | --- |",
    ]
    for metric, value in section["metrics"].items():
        # A figure a class would fill the page.
        if not metric.startswith("f1_"):
            others = [short((values.get(metric) or {}).get("value")) for values in (baseline, oracle)]
            lines.append(f"| {METRIC_WORDS.get(metric, metric)} | {with_interval(value)} | {' | '.join(others)} |")
    lines += [
        "",
        f"Data: {data.get('title', '')}, {short(data['train_rows'])} rows for training, {short(data['test_rows'])} for "
        f"the test, digest `{data['digest'][:16]}`. Split: {data['split']}.",
        f"Search: {search['trials']} trials, {search['pruned']} of them pruned.",
    ]
    return "\n".join(lines) + "\n"


def version_tags(section: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what registered versions can be searched by."""
    main, data = section["main_metric"], section["data"]
    return {
        "gate": section["gate"]["decision"],
        f"test_{main}": short(section["metrics"][main]["value"]),
        "source": source,
        "data_digest": data["digest"],
        "train_rows": data["train_rows"],
        "trials": section["search"]["trials"],
    }


def _incident_line(counts: Mapping[str, int] | None) -> list[str]:
    if not counts:
        return []
    few = f" (fewer than {FEW_INCIDENTS}: no figure below is reliable)" if counts["test"] < FEW_INCIDENTS else ""
    return [f"- **Incidents**: {counts['train']} in training, {counts['test']} in the test{few}"]


def _brief(values: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in values.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool)}
    return ", ".join(f"{k} {short(v)}" for k, v in plain.items()) or "none"
