"""`drift.py`'s findings as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WORDS = {
    "covariates": "three inputs rise by 1.5 standard deviations",
    "labels": "what follows from the inputs changes, they do not",
    "missing_sensor": "one sensor in three falls silent",
    "frozen_sensor": "one sensor in three freezes",
    "new_fault": "incidents or attacks of a kind never seen",
    "season": "the daily wave comes eight hours earlier",
}
METRIC = {"failure": "F1", "threat": "accuracy", "capacity": "error"}
HEAD = """# Does monitoring see what happens?

Made by `make drift` on synthetic data (`tests/benchmarks/drift.py`): models trained once, then asked about resources that they
have not seen, and looked at once a day from the answers of the week before. *Quiet* weeks hold no drift; *paged* is the verdict
"act", *noticed* "watch" or "act". Labels of failure come a day after the answer (its horizon), those of one threat answer in ten
a day after it, errors of forecasts when they come due.
"""


def table(found: Mapping[str, Any]) -> str:
    """Return the page."""
    lines = [
        HEAD,
        "## Quiet weeks",
        "",
        "| task | weeks | with a false page | with a false watch |",
        "| --- | --- | --- | --- |",
    ]
    found_quiet = {task: one["quiet"] for task, one in found.items() if "quiet" in one}
    for task, quiet in found_quiet.items():
        lines.append(f"| {task} | {quiet['weeks']} | {quiet['pages']} | {quiet['watched']} |")
    weeks, pages, doubts = (sum(q[key] for q in found_quiet.values()) for key in ("weeks", "pages", "watched"))
    lines += [f"| all | {weeks} | {pages} | {doubts} |", ""]
    for pace, words in (("sudden", "Sudden drifts, seven days"), ("slow", "Drifts that grow over two weeks, 14 days")):
        lines += [
            f"## {words}", "",
            "| task | drift | seeds | noticed within 1 day | within 2 | ever | median day | paged | estimate says | true |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for task, one in found.items():
            lines += [_row(task, kind, row) for kind, row in one.get(pace, {}).items()]
        lines.append("")
    lines += [
        "*Estimate says* and *true*: quality at the end, as a multiple of what held-out rows promised (F1, accuracy: 1 is as promised, "
        "less is worse; error of forecasts: more is worse), mean over seeds. Where the two part, the estimate is blind: it knows "
        "nothing of what follows from the inputs.",
        "",
    ]
    if any(one.get("real") for one in found.values()):
        lines += ["## Real data, after a training on what lay before", ""]
        lines += [line for task, one in found.items() if one.get("real") for line in _real(task, one["real"])]
    return "\n".join(lines)


def _row(task: str, kind: str, row: Mapping[str, Sequence[Any]]) -> str:
    noticed, paged = row["noticed"], [day for day in row["paged"] if day is not None]
    seen = [day for day in noticed if day is not None]
    within = [sum(day <= limit for day in seen) for limit in (1, 2)]
    middle = f"{np.median(seen):g}" if seen else "–"
    said, true = (f"{np.mean(row[key]):.2f}" if row[key] else "–" for key in ("estimate", "true"))
    return (
        f"| {task} | {kind}: {WORDS[kind]} | {len(noticed)} | {within[0]} | {within[1]} | {len(seen)} | {middle} "
        f"| {len(paged)} | {said} | {true} |"
    )


def _real(task: str, one: Mapping[str, Any]) -> list[str]:
    guess, measured = one["estimate"], one["quality"]
    moved = ", ".join(one["moved"][:8]) + (f" and {len(one['moved']) - 8} more" if len(one["moved"]) > 8 else "")
    name = METRIC[task]
    return [
        f"**{one['title']}** ({task}): verdict *{one['verdict']['state']}*. {' '.join(one['verdict']['why'])}",
        "",
        f"- Moved: {moved or 'nothing'}.",
        f"- {name} promised {guess['promised']:.3f}, estimated {guess['value']:.3f} ({guess['low']:.3f} to {guess['high']:.3f})"
        + (f", true {measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})." if measured else "."),
        "",
    ]
