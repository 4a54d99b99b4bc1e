"""The command ``aiops retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def retrain(
    task: Annotated[str, typer.Option(help="failure, threat or capacity")] = "failure",
    source: Annotated[str | None, typer.Option(help="original source (default: the champion's)")] = None,
    since: Annotated[str | None, typer.Option(help="journal from this event time on: 2026-01-01T00:00Z")] = None,
    policy: Annotated[
        str, typer.Option(help="never: an operator promotes; better: so does that verdict on live traffic")
    ] = "never",
    trials: Annotated[int, typer.Option(help="trials of the search, the champion's parameters first")] = 5,
    n_samples: Annotated[int | None, typer.Option("--n-samples", help="of a synthetic source")] = None,
    seed: Annotated[int, typer.Option(help="of the search")] = 7,
    cool_down: Annotated[float, typer.Option("--cool-down", help="hours between two retrainings of a task")] = 24.0,
    trigger: Annotated[str, typer.Option(hidden=True)] = "by hand",
    settle: Annotated[
        bool, typer.Option("--settle", help="train nothing: judge the shadow of the last one and follow its policy")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the report (default: in the state folder)")] = None,
) -> None:
    """Train on the original source, journal and feedback together; what passes the gate answers in the shadow."""
    from aiops_core import console
    from aiops_core.retrain import page, run

    if settle:
        from aiops_core.retrain.settle import settle as judge_and_act

        run.Options(task=task).check()
        found = judge_and_act(task)
        typer.echo(found["words"] if found else f"no version of a retraining of {task} is in the shadow")
        if found.get("promoted"):
            typer.echo("promoted, as the policy says")
        return
    options = run.Options(task, source, since, policy, trials, n_samples, seed, cool_down, trigger)
    options.check()
    with console.live(out, "retraining") as tell:
        content = run.retrain(options, out, progress=tell)
    for sentence in page.sentences(content):
        typer.echo(sentence)
    typer.echo(f"report: {Path(content['report']) / 'retraining.html'}")
