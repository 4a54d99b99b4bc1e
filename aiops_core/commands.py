"""Commands that the command line takes over as they are; light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aiops_core.facts import FACTS


def monitor(
    since: Annotated[str, typer.Option(help="how far back from the newest answer: 7d, 12h, or a time")] = "7d",
    out: Annotated[Path | None, typer.Option(help="folder of the report (default reports/monitor)")] = None,
    tasks: Annotated[str, typer.Option(help="comma separated: failure, threat, capacity")] = "failure,threat,capacity",
    budget: Annotated[
        float | None, typer.Option(help="alerts a day that are acceptable (default: what validation promised)")
    ] = None,
) -> None:
    """Judge what the service has answered lately, and write the monitoring report."""
    from aiops_core.job import monitoring

    chosen = [part.strip() for part in tasks.split(",") if part.strip()]
    folder, content = monitoring.run(since, out, tasks=chosen, budget=budget)
    for task, found in content["tasks"].items():
        state = found["verdict"]["state"]
        typer.echo(f"{FACTS[task].title}: {'not judged' if state == 'unknown' else state}")
        for sentence in (*found["verdict"]["why"], *found["verdict"]["todo"]):
            typer.echo(f"  {sentence}")
    typer.echo(f"report: {folder / 'report.html'}")
