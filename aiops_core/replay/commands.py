"""The command ``aiops replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aiops_core.errors import UsageError


def replay(
    start: Annotated[str, typer.Argument(help="first event time: 2026-01-01T00:00Z")],
    end: Annotated[str, typer.Argument(help="time before which it ends")],
    versions: Annotated[str, typer.Option(help="comma separated (default: the champion and the newest other)")] = "",
    task: Annotated[str, typer.Option(help="failure, threat or capacity")] = "failure",
    incidents: Annotated[Path | None, typer.Option(help="CSV: resource_id,start,end; beside those fed back")] = None,
    cost_missed: Annotated[float, typer.Option(help="cost of an incident or attack that is missed")] = 10.0,
    cost_false_alarm: Annotated[float, typer.Option(help="cost of a false alarm")] = 1.0,
    limit: Annotated[float, typer.Option(help="forecasts: what counts as too much, in their units")] = 85.0,
    out: Annotated[Path | None, typer.Option(help="folder of the report (default reports/replay-<task>)")] = None,
) -> None:
    """Answer the journal's inputs of a period again by several versions: alerts, cost, lead times, on a timeline."""
    from aiops_core import settings
    from aiops_core.replay import page, run

    try:
        wanted = tuple(int(part) for part in versions.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--versions '{versions}' are no version numbers; write them like 3,4") from None
    target = out or settings.load().home / "reports" / f"replay-{task}"
    options = run.Options(start, end, wanted, task, incidents, cost_missed, cost_false_alarm, limit)
    content = run.replay(options, target)
    for sentence in page.sentences(content):
        typer.echo(sentence)
    typer.echo(f"report: {target / 'report.html'}")
