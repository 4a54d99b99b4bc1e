"""The commands ``aiops models shadow``, ``canary`` and ``judge``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from aiops_core.audited import audited
from aiops_core.errors import UsageError
from aiops_core.facts import BY_MODEL, MODELS

Task = Annotated[str, typer.Argument(help="failure, threat, capacity, or the name of the model")]
Version = Annotated[int | None, typer.Argument(help="registered version")]
Off = Annotated[bool, typer.Option("--off", help="no version any more")]


def shadow(task: Task, version: Version = None, off: Off = False) -> None:
    """Have a version answer every request once more, unheard; --off ends it."""
    _beside(_model(task), "shadow", version, off, None)


def canary(
    task: Task,
    version: Version = None,
    share: Annotated[float, typer.Option(help="of the requests, fixed by a hash of the resource")] = 0.1,
    off: Off = False,
) -> None:
    """Have a version answer a share of the requests; --off ends it, as its guard rails do."""
    if not 0 < share < 1:
        raise UsageError(f"--share lies above 0 and below 1, not at {share:g}")
    _beside(_model(task), "canary", version, off, share)


def judge(
    task: Task,
    version: Annotated[int | None, typer.Option(help="candidate; by default the canary, else the shadow")] = None,
    since: Annotated[str | None, typer.Option(help="event time with zone: 2026-01-31T12:00:00Z")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print all numbers")] = False,
) -> None:
    """Say which is better on live traffic, champion or candidate; it may be asked as often as one likes."""
    from aiops_core import settings, tracking
    from aiops_core.live.verdict import compare

    name = _model(task)
    champion = tracking.champions().get(name)
    if champion is None:
        raise UsageError(f"model '{name}' has no champion")
    if version is None:
        beside = tracking.companions().get(name, {})
        candidate = beside.get("canary") or beside.get("shadow")
        if candidate is None:
            raise UsageError(
                f"model '{name}' has neither canary nor shadow; begin with: aiops models shadow {task} VERSION"
            )
        version = candidate.version
    found = compare(settings.load().state_dir, BY_MODEL[name], champion.version, version, since=since)
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.words)


def _model(task: str) -> str:
    name = MODELS.get(task, task)
    if name not in BY_MODEL:
        raise UsageError(f"unknown task '{task}'; known: {', '.join(MODELS)}")
    return name


def _beside(name: str, alias: str, version: int | None, off: bool, share: float | None) -> None:
    from aiops_core import console, files, servable, settings, tracking
    from aiops_core.errors import AiopsError

    if off == (version is not None):
        raise UsageError(f"name the version that becomes {alias}, or --off")
    if version is None:
        with audited(f"models {alias}", name=name, off=True):
            gone = tracking.remove_companion(name, alias)
        typer.echo(f"{name} version {gone.version} is {alias} no longer")
        return
    state = files.private_folder(settings.load().state_dir)

    def card(number: int) -> dict[str, Any]:
        with files.private_files():
            return tracking.fetch_verified(name, number, state / "servables" / f"{name}-{number}").card

    own = card(version)
    with audited(f"models {alias}", name=name, version=version, share=share):
        found = tracking.set_companion(name, alias, version, share)
    told = "answers every request once more, unheard" if share is None else f"answers {100 * share:g} % of the requests"
    typer.echo(f"{name} version {found.version} {told}")
    try:
        lines = console.changes(servable.changes(card(tracking.champions()[name].version), own))
    except AiopsError:
        # What cannot be served any more says nothing about the one beside it.
        return
    for line in lines:
        typer.echo(line)
