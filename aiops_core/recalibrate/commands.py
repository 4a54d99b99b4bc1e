"""The command ``aiops models recalibrate``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from aiops_core.audited import audited
from aiops_core.errors import UsageError
from aiops_core.facts import BY_MODEL, MODELS


def recalibrate(
    task: Annotated[str, typer.Argument(help="failure, threat, or the name of the model")],
    since: Annotated[str | None, typer.Option(help="event time with zone: 2026-01-31T12:00:00Z")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="take the newest correction back")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would come of it, and change nothing")] = False,
) -> None:
    """Correct the champion's calibration and threshold from feedback, if later feedback says that it is better."""
    from aiops_core import servable, settings, tracking
    from aiops_core.recalibrate.learn import learn
    from aiops_core.replay.run import loaded_version

    name = MODELS.get(task, task)
    if name not in (MODELS["failure"], MODELS["threat"]):
        raise UsageError(f"'{task}' cannot be corrected from feedback; what can: failure, threat")
    if undo and dry_run:
        raise UsageError("--undo changes the registry and --dry-run nothing: leave one out")
    champion = tracking.champions().get(name)
    if champion is None:
        raise UsageError(f"model '{name}' has no champion")
    whose = f"version {champion.version} of {name}"
    if undo:
        with audited("models recalibrate", name=name, version=champion.version, undo=True):
            left = tracking.recalibrate(name, champion.version, None).recalibration
        now = f"correction {left['number']} is in effect again" if left else "it answers as it was trained"
        typer.echo(f"the newest correction of {whose} is taken back: {now}")
        return
    record = champion.recalibration
    loaded = loaded_version(BY_MODEL[name], champion.version)
    known = tracking.corrections(name, champion.version)
    found = learn(settings.load().state_dir, loaded.card, champion.version, known, record, since=since)
    typer.echo(f"{whose}: {found.words}")
    if dry_run or not found.better:
        return
    content = {
        **found.record.as_dict(),
        "measured": found.measured,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    # What the service could not answer with must not get into the registry.
    servable.as_answering(loaded, content)
    number = record["number"] if record else 0
    with audited("models recalibrate", name=name, version=champion.version, record=found.record.as_dict()):
        made = tracking.recalibrate(name, champion.version, content, expected=number).recalibration
    typer.echo(f"correction {made['number'] if made else 0} is in effect; back: aiops models recalibrate {task} --undo")
