"""The tables of ``reports/real-data.md`` from what has been measured so far."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from typing import Any

from learning import CURVE, CURVES, SHARES
from plan import MEASURES, SHARE, SHOWN, TABLE, code_digest, tasks_of

from aiops_core.judge.intervals import LOWER_IS_BETTER

HEAD = """# Real data

Measured by `make benchmark-data`: `aiops report --source … --seeds {seeds}` with its defaults on each source, one search, one grid
of baselines and {seeds} final fits a source; then the default parameters without a search under both protocols. A run chooses
nothing on its test part; but scores of nsl-kdd, azure-v1 and cmapss were seen between versions of the models while they were
written, so these are mildly optimistic: a fresh set of the same shape is the clean check. Intervals in parentheses are 95 %
bootstraps of the units named below, and hold nothing of another training; those *over seeds* are of the mean of {seeds}
trainings on the same rows, and hold nothing of other test rows. *Share of the way* is (model − naive) / (oracle − naive) in the
main metric, on the same resamples. A source marked † was measured with other code than that beside this file. Seconds
include other load on the machine. Seed {seed}, {cores} cores, {machine}.
"""


def value_of(metric: Mapping[str, Any] | None) -> str:
    """Return a metric as ``value (low to high)``; ``–`` where there is none."""
    if not metric or metric.get("value") is None:
        return "–"
    if metric.get("low") is None or metric["low"] != metric["low"]:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def reached(value: float | None, target: float | None, sign: str) -> str:
    """Return whether a target is reached by a value as it is printed, in a word."""
    if target is None or value is None:
        return "–"
    value = round(value, 3)
    if sign == "≥":
        return "yes" if value >= target else "no"
    return "yes" if (value <= target if sign == "≤" else 0.78 <= value <= 0.82) else "no"


def rows_of(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table."""
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def write(state: Mapping[str, Any], *, seed: int, seeds: int, left: list[str]) -> None:
    """Write the tables.

    Parameters
    ----------
    state : mapping
        ``ordinary`` and ``protocols``: what was measured, by source, each with its ``digest``.
    left : list of str
        Sources for which there was no time.
    """
    done = {source: state["ordinary"][source] for source in MEASURES if source in state["ordinary"]}
    names = {s: f"{s} †" if found["digest"] != code_digest(s) else s for s, found in done.items()}
    cores, machine = os.cpu_count(), platform.machine()
    lines = HEAD.format(seeds=seeds, seed=seed, cores=cores, machine=machine).splitlines() + [""]
    if left:
        lines += [f"Not measured, mostly for want of time: {', '.join(left)}.", ""]
    lines += [*headline(done, names), "## Verdicts", "", *verdicts(done, names), "## Every baseline", ""]
    for source, found in done.items():
        for task in tasks_of(source):
            lines += everyone(names[source], task, found["tasks"][task])
    lines += [*generalisation(state["protocols"]), *curves()]
    TABLE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def headline(done: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return the table of measures against floors and targets."""
    rows = []
    for source, found in done.items():
        for task, metric, words, floor, target, sign in MEASURES[source]:
            section = found["tasks"][task]
            if section["status"] != "trained":
                rows.append(
                    [names[source], words, section["status"], "–", floor, "–", "no", "–", str(found["seconds"])]
                )
                continue
            value = section[SHARE] if metric == SHARE else section["metrics"][metric]
            number, _, interval = value_of(value).partition(" ")
            again = ((section["seeds"] or {}).get("metrics") or {}).get(metric)
            over = (
                f"{again['mean']:.3f} ± {again['spread']:.3f} ({again['low']:.3f} to {again['high']:.3f})"
                if again
                else "–"
            )
            wanted = "–" if target is None else f"{sign} {target:g}"
            rows.append(
                [
                    names[source],
                    words,
                    f"**{number}** {interval}".rstrip(),
                    over,
                    floor,
                ]
                + [
                    wanted,
                    # Of all trainings where there are several: one may be lucky.
                    "no"
                    if value["value"] is None
                    else reached(again["mean"] if again else value["value"], target, sign),
                    section["gate"]["decision"],
                    str(found["seconds"]),
                ]
            )
    head = ["source", "measure", "value (over test units)", "mean ± spread (over seeds)", "floor", "target", "reached"]
    return rows_of([*head, "gate", "seconds"], rows)


def verdicts(done: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return what the gate said of each source, with all of its reasons, and whether the search found anything."""
    rows = []
    for source, found in done.items():
        for task in tasks_of(source):
            section = found["tasks"][task]
            if section["status"] != "trained":
                rows.append([names[source], task, "–", section["status"], str(section["reason"]), "–"])
                continue
            choice = (section["search"].get("choice") or {}).get("why", "–")
            reasons = "; ".join(section["gate"]["reasons"])
            verdict = f"**{section['gate']['decision']}**"
            rows.append([names[source], task, section["intervals_over"], verdict, reasons, choice])
    return rows_of(["source", "task", "intervals over", "verdict", "it", "default or found"], rows)


def everyone(name: str, task: str, section: Mapping[str, Any]) -> list[str]:
    """Return one table a task: model, baselines and oracle."""
    if section["status"] != "trained":
        return []
    predictions = {f"**{section['model']}**": section["metrics"], **section["baselines"]}
    if section["oracle"]:
        predictions["oracle"] = section["oracle"]
    main = section["main_metric"]
    worst = float("inf") if main in LOWER_IS_BETTER else float("-inf")
    known = {
        n: m[main]["value"] if m.get(main) and m[main]["value"] is not None else worst for n, m in predictions.items()
    }
    ordered = sorted(predictions, key=known.__getitem__, reverse=main not in LOWER_IS_BETTER)
    shown = [m for m in SHOWN[task] if any(m in found for found in predictions.values())]
    rows = [[n, *(value_of(predictions[n].get(metric)) for metric in shown)] for n in ordered]
    return [f"### {name}, {task}, best {main} first", "", *rows_of(["", *shown], rows)]


def generalisation(found: Mapping[str, Any]) -> list[str]:
    """Return the table of both protocols at default parameters."""
    if not found:
        return []
    lines = [
        "## How far it carries: default parameters, without a search",
        "",
        "*time* tests on later times (or the official split), *resource* on whole resources or attack names left out. A clock is",
        "the time of day; without it a model cannot learn that incidents keep hours. One training each.",
        "",
    ]
    rows = []
    for source in (s for s in MEASURES if s in found):
        name = f"{source} †" if found[source]["digest"] != code_digest(source) else source
        for row in found[source]["rows"]:
            clock = {None: "–", 1: "yes", 0: "no"}[row["clock"]]
            if "why" in row:
                rows.append([name, row["task"], row["protocol"], clock, f"not possible: {row['why']}", "–", "–", "–"])
                continue
            cells = [f"{m} {value_of(row['metrics'].get(m))}" for m in SHOWN[row["task"]][:3]]
            rows.append([name, row["task"], row["protocol"], clock, *cells, row["units"]])
    return lines + rows_of(["source", "task", "protocol", "clock", "first", "second", "third", "intervals over"], rows)


def curves() -> list[str]:
    """Return the table of the learning curves, where they have been measured."""
    if not CURVE.is_file():
        return []
    known = json.loads(CURVE.read_text(encoding="utf-8"))
    lines = [
        "## Learning curves",
        "",
        "The test metric of the default parameters, without a search, against the share of the training data: machines of",
        "azure-v1, engines of cmapss, rows of nsl-kdd, the most recent time of each server of smd. Measured now and then by",
        "`tests/benchmarks/real_data --curve`, not with the tables above.",
        "",
    ]
    rows = [[s, metric, *(value_of(r) for r in known if r["source"] == s)] for s, metric in CURVES.items()]
    return lines + rows_of(["source", "metric", *(f"{share:.0%}" for share in SHARES)], [r for r in rows if len(r) > 2])
