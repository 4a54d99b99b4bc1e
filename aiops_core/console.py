"""What the command line shows: live progress of a run, verdicts, tables."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aiops_core.study import origin, progress, words
from aiops_core.tracking import ModelVersion

STAGES = {
    "validation": "Validate data",
    "data": "Look at the data, start Ray",
    "failure": "Failure predictor (LSTM)",
    "threat": "Threat detector (random forest)",
    "capacity": "Capacity forecaster (XGBoost)",
    "report": "Report",
}
MARKS = {"waiting": "·", "running": "▶", "done": "✓", "skipped": "–", "failed": "✗"}
COLOURS = {"champion": "green", "challenger": "yellow", "refused": "red"}


@contextmanager
def live(out: Path | None, source: str) -> Iterator[Callable[[str, str], None]]:
    """Show stages and the running search until the block ends; yield the receiver of stage changes.

    In a terminal one live table, elsewhere one line for every change.
    """
    console = Console(stderr=True)
    target = Path(out).resolve() if out else origin.folder_of(None, source)
    work = target.with_name(f"{target.name}.partial")
    states: dict[str, str] = dict.fromkeys(STAGES, "waiting")
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    start = time.monotonic()

    def tell(stage: str, state: str) -> None:
        states[stage] = state
        (began if state == "running" else ended).setdefault(stage, time.monotonic())
        if not console.is_terminal:
            took = f" after {ended[stage] - began.get(stage, ended[stage]):.0f} s" if state != "running" else ""
            console.print(f"{MARKS[state]} {STAGES[stage]}: {state}{took}", highlight=False)

    def table() -> Table:
        shown = Table.grid(padding=(0, 2))
        for stage, state in states.items():
            seconds = (ended.get(stage, time.monotonic()) - began[stage]) if stage in began else None
            detail = _detail(work / stage) if state == "running" else ""
            style = {"running": "bold", "waiting": "dim", "skipped": "dim", "failed": "red"}.get(state, "")
            shown.add_row(
                Text(MARKS[state]),
                Text(STAGES[stage], style),
                f"{seconds:.0f} s" if seconds is not None else "",
                detail,
            )
        shown.add_row("", Text("elapsed", "dim"), f"{time.monotonic() - start:.0f} s", "")
        return shown

    if not console.is_terminal:
        yield tell
        return
    stop = threading.Event()
    with Live(table(), console=console, refresh_per_second=4) as screen:

        def refresh() -> None:
            while not stop.wait(0.5):
                screen.update(table())

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield tell
        finally:
            stop.set()
            thread.join()
            screen.update(table())


def _detail(folder: Path) -> str:
    try:
        state = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return progress.progress_words(state) if state.get("stage") == "search" else str(state.get("stage", ""))


def verdicts(content: Mapping[str, Any]) -> None:
    """Print what was reached in each task, and what the gate made of it."""
    console = Console(soft_wrap=True)
    for task, section in content["tasks"].items():
        decision = section["gate"]["decision"] if section["gate"] else section["status"]
        console.print(Text.assemble((f"{words.TASK_WORDS[task]}: ", "bold"), (decision, COLOURS.get(decision, ""))))
        paragraphs([f"  {words.verdict_words(section)}"])


def paragraphs(lines: Iterable[str]) -> None:
    """Print lines, wrapped at words to the width of a terminal; what follows is indented as its line is, and more."""
    console = Console(soft_wrap=True)
    for line in lines:
        text = line.lstrip(" ")
        margin = " " * (len(line) - len(text))
        # Elsewhere than in a terminal a line stays one, for those who search in it.
        width = console.width if console.is_terminal else len(line) + 1
        console.print(
            "\n".join(textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=f"{margin}  ",
                                    break_long_words=False, break_on_hyphens=False)),
            markup=False, highlight=False,
        )  # fmt: skip


def changes(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each change that clients will notice, as `aiops_core.servable.changes` finds them.

    Examples
    --------
    >>> changes([{"of": "window", "name": None, "change": "changed", "before": 24, "after": 48}])
    ['  for clients: window changed from 24 to 48']
    """
    said = []
    for one in found:
        what = one["of"] if one["name"] is None else f"{one['of']} '{one['name']}'"
        values = f" from {one['before']} to {one['after']}" if one["change"] in ("changed", "retyped") else ""
        said.append(f"  for clients: {what} {one['change']}{values}")
    return said


def _named(version: ModelVersion) -> str:
    named = {"canary": f"canary {100 * (version.share or 0):g} %"}
    names = [named.get(alias, alias) for alias in version.aliases] or [version.alias or ""]
    if version.recalibration:
        names.append(f"correction {version.recalibration['number']}")
    return ", ".join(filter(None, names))


def models(versions: list[ModelVersion]) -> None:
    """Print registered versions, one a line; in a narrow terminal under the name of their model."""
    console = Console(soft_wrap=True)
    if not versions:
        console.print("no registered model yet; train with: aiops report")
        return
    rows = [(v.name, str(v.version), _named(v), v.created[:16].replace("T", " "), v.run_id) for v in versions]
    rows.insert(0, ("model", "version", "alias", "created (UTC)", "run"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    narrow = console.is_terminal and sum(widths) + 2 * len(widths) > console.width
    model = rows[0][0]
    for row in rows:
        if narrow and row[0] != model:
            model = row[0]
            console.print(model, style="bold", highlight=False)
        shown = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print(f"  {shown[widths[0] + 2 :]}" if narrow else shown, highlight=False, markup=False)
