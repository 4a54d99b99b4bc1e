"""The table of the faults in `reports/reliability.md`, between two marks; its rows lie beside it as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.scenarios import SCENARIOS

__all__ = ["render", "write"]

INTRODUCTION = """# Reliability

What the service does while it is hurt on purpose, measured on a real service of tiny models under a steady load.
"""
BEGIN, END = "<!-- chaos -->", "<!-- /chaos -->"
TEXT = """## Faults

`make chaos`: eight connections ask four predictions, batches and `health` in turn while webhooks and promotions go on. A request has failed
if it got no success: *closed* (the connection ended before the answer), *refused* (no connection), *problem* (an error as problem
details), *plain* (an error as anything else), *hung* (no answer in 20 s). The gap is the longest time in which no request succeeded.
Targets: no *plain*, no *hung*; a gap of at most 5 s, 15 s for the controller, none set for `aiops serve` itself; no write that was
answered with success is lost, none done twice.
"""


def render(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table, in the order of the faults."""
    lines = [
        "| fault | requests | failed | gap, s | writes lost or doubled | what happened | what the operator sees | target |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for scenario in SCENARIOS:
        row = rows.get(scenario.name)
        if row is None:
            continue
        if "not_run" in row:
            lines.append(f"| {row['title']} | | | | | not run: {_cell(row['not_run'])} | | |")
            continue
        failed = ", ".join(f"{number} {kind}" for kind, number in row["failed"].items()) or "0"
        if row["statuses"]:
            failed += " (" + ", ".join(f"{n} × {status}" for status, n in row["statuses"].items()) + ")"
        lost = f"{row['lost']}; {row['writes']} done"
        cells = [row["title"], f"{row['requests']:,}", failed, f"{row['gap']:.1f}", lost, row["found"], row["seen"]]
        verdict = f"missed: {row['missed']}" if row["missed"] else "met"
        lines.append("| " + " | ".join(_cell(cell) for cell in [*cells, verdict]) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    # Folders and ports are those of one run.
    text = re.sub(r"(sqlite:///)?/\S*?/store-\w+/?", "", text)
    return re.sub(r"\s+", " ", re.sub(r"(127\.0\.0\.1):\d+", r"\1", text).replace("|", "/"))


def write(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Put rows into the table; those of other faults stay as they were."""
    kept = path.with_suffix(".json")
    every = {**(json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}), **rows}
    kept.write_text(json.dumps(every, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    section = f"{BEGIN}\n{TEXT}\n{render(every)}\n{END}"
    text = path.read_text(encoding="utf-8") if path.exists() else INTRODUCTION + f"\n{BEGIN}\n{END}\n"
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    path.write_text(head + section + rest.partition(END)[2], encoding="utf-8")
