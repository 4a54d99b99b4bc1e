"""The ``aiops`` command: thin, every command calls one function of the library.

Exit codes: 0 done, 1 internal failure, 2 user error (one clear line on stderr for each).
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiops_core import __version__, data_commands
from aiops_core.audited import audited
from aiops_core.backup import commands
from aiops_core.commands import monitor
from aiops_core.errors import AiopsError, DataError, UsageError
from aiops_core.journal_commands import feedback_app, journal_app
from aiops_core.live import commands as live
from aiops_core.recalibrate.commands import recalibrate
from aiops_core.redact import redacted
from aiops_core.replay import commands as replay_commands
from aiops_core.retrain import commands as retrain_commands

if TYPE_CHECKING:
    from aiops_core.servable import Servable

app = typer.Typer(
    name="aiops",
    help="AIOps workbench: tuned, honestly measured models from telemetry tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(
    help="Registered models: list, show, promote, roll back, try beside the champion, judge, correct.",
    no_args_is_help=True,
)
app.add_typer(models_app, name="models")
app.add_typer(data_commands.app, name="data")
app.add_typer(journal_app, name="journal")
app.add_typer(feedback_app, name="feedback")

Source = Annotated[str, typer.Option(help="synthetic, a public data set, or a folder of contract tables")]
Seed = Annotated[int, typer.Option(help="fixes data, splits, baselines, oracle and the search's start")]
Samples = Annotated[int | None, typer.Option("--n-samples", help="examples a task, synthetic data only (default 8000)")]


Seeds = Annotated[
    int, typer.Option(help="fits of each final model, with --seed and those after it: what is luck of a training?")
]
Protocol = Annotated[
    str, typer.Option(help="test on later times (time), or on resources and attack names left out whole (resource)")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aiops {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def report(
    source: Source = "synthetic",
    n_samples: Samples = None,
    trials: Annotated[int, typer.Option(help="trials of each search")] = 20,
    seed: Seed = 7,
    seeds: Seeds = 1,
    protocol: Protocol = "time",
    signal: Annotated[float, typer.Option(help="strength of the synthetic signal, 0 to 1")] = 1.0,
    tasks: Annotated[str, typer.Option(help="comma separated: failure, threat, capacity")] = "failure,threat,capacity",
    out: Annotated[Path | None, typer.Option(help="folder of the report (default reports/<source>)")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where a killed run of the same options stopped")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="one trial at a time: the whole report repeats, times and ids apart")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="small models, for a first try: no figure to quote, and it replaces no champion"),
    ] = False,
    promote: Annotated[
        str, typer.Option(help="gate: as the gate says; first: only where there is no champion yet; never")
    ] = "gate",
    no_promote: Annotated[
        bool, typer.Option("--no-promote", help="register challengers at most: for a try, the same as --promote never")
    ] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting of the data set: failure.window=48")
    ] = None,
) -> None:
    """Tune three models, judge them, and write the training report."""
    from aiops_core import console, job

    options = job.Options(
        source=source,
        n_samples=n_samples,
        n_trials=trials,
        seed=seed,
        seeds=seeds,
        protocol=protocol,
        signal=signal,
        tasks=tuple(part.strip() for part in tasks.split(",") if part.strip()),
        deterministic=deterministic,
        quick=quick,
        promote="never" if no_promote else promote,
        config=_settings(setting or []),
    )
    options.check()
    try:
        with console.live(out, source) as tell:
            folder, content = job.run(options, out, resume=resume, progress=tell)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command with --resume goes on from here", err=True)
        raise typer.Exit(130) from None
    console.verdicts(content)
    typer.echo(f"report: {folder / 'report.html'}")
    if any(section["status"] == "failed" for section in content["tasks"].values()):
        raise typer.Exit(1)


@app.command()
def score(
    task: Annotated[str, typer.Argument(help="failure, threat or capacity")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Parquet or CSV file of the task's table")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Parquet or CSV file to write")],
    version: Annotated[int | None, typer.Option(help="registered version; the champion by default")] = None,
) -> None:
    """Score a file through the champion's servable."""
    from aiops_core import servable, tracking
    from aiops_core.tracking import scoring

    if task not in tracking.MODELS:
        raise UsageError(f"unknown task '{task}'; known: {', '.join(tracking.MODELS)}")
    name = tracking.MODELS[task]
    if version is None:
        champion = tracking.champions().get(name)
        if champion is None:
            raise UsageError(f"model '{name}' has no champion yet; train one with: aiops report")
        version = champion.version
    record = tracking.get_version(name, version).recalibration
    rows = scoring.score_file(servable.as_answering(_verified(name, version), record), source, target)
    corrected = f" with correction {record['number']}" if record else ""
    typer.echo(f"{rows} rows scored by {name} version {version}{corrected}: {target}")


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="HTTP port")] = 8100,
    host: Annotated[str, typer.Option(help="HTTP host")] = "127.0.0.1",
    placement: Annotated[
        str, typer.Option(help="ingress (models in the replicas) or deployments (one each)")
    ] = "ingress",
    replicas: Annotated[int | None, typer.Option(help="replicas of the ingress")] = None,
) -> None:
    """Serve the champions over HTTP on Ray Serve, until Ctrl-C."""
    arguments = ["--port", str(port), "--host", host, "--placement", placement]
    if replicas is not None:
        arguments += ["--replicas", str(replicas)]
    _service("serve_app", *arguments)


#: The program behind the command knows its options.
_HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("keys", context_settings=_HANDED_ON, add_help_option=False)
def service_keys(context: typer.Context) -> None:
    """Keys of the HTTP service: add, list, revoke, rotate."""
    _service("serve_app.guard", "keys", *context.args)


@app.command("audit", context_settings=_HANDED_ON, add_help_option=False)
def service_audit(context: typer.Context) -> None:
    """Audit log of the HTTP service: verify, show."""
    _service("serve_app.guard", "audit", *context.args)


def _service(module: str, *arguments: str) -> None:
    """Become a program of the service: the library does not import it."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


@models_app.command("list")
def models_list() -> None:
    """List every registered version."""
    from aiops_core import console, tracking

    console.models(tracking.list_models())


@models_app.command("show")
def models_show(name: str, version: int) -> None:
    """Print the card of a registered version as JSON."""
    typer.echo(json.dumps(_verified(_known(name), version).card, indent=2))


@models_app.command("promote")
def models_promote(name: str, version: int) -> None:
    """Make a version the champion, if it does what its golden examples say; print what changes for clients."""
    from aiops_core import tracking

    changes = _changes(_known(name), version)
    with audited("models promote", name=name, version=version):
        promoted = tracking.promote(name, version)
    typer.echo("\n".join([f"{promoted.name} version {promoted.version} is the champion", *changes]))


@models_app.command("rollback")
def models_rollback(name: str) -> None:
    """Make the champion before the current one champion again; print what changes for clients."""
    from aiops_core import tracking

    changes = _changes(_known(name), tracking.previous_champion(name).version)
    with audited("models rollback", name=name):
        restored = tracking.rollback(name)
    typer.echo("\n".join([f"{restored.name} version {restored.version} is the champion again", *changes]))


app.command()(commands.backup)
app.command()(commands.restore)
app.command()(monitor)
app.command()(replay_commands.replay)
app.command()(retrain_commands.retrain)
for command in (live.shadow, live.canary, live.judge, recalibrate):
    models_app.command()(command)


def _known(name: str) -> str:
    from aiops_core import tracking
    from aiops_core.data import tables

    if name not in tracking.MODELS.values():
        raise UsageError(f"unknown model '{name}'{tables.suggestion(name, tracking.MODELS.values())}")
    return name


def _verified(name: str, version: int) -> Servable:
    """Return the servable of a registered version, from the copy in the state folder if that is whole."""
    from aiops_core import files, settings, tracking

    state = files.private_folder(settings.load().state_dir)
    with files.private_files():
        return tracking.fetch_verified(name, version, state / "servables" / f"{name}-{version}")


def _changes(name: str, version: int) -> list[str]:
    """Verify a version that is to be champion; return a line for all that it changes for clients."""
    from aiops_core import console, servable, tracking

    card = _verified(name, version).card
    champion = tracking.champions().get(name)
    if champion is None:
        return []
    try:
        served = _verified(name, champion.version).card
    except AiopsError:
        # What cannot be served any more is no reason to keep its successor out.
        return []
    return console.changes(servable.changes(served, card))


def _settings(pairs: list[str]) -> dict[str, dict[str, Any]]:
    config: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        task, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise UsageError(f"--set {pair!r} is not of the form task.name=value, such as failure.window=48")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        config.setdefault(task, {})[name] = value
    return config


def main() -> None:
    """Run the command line: exceptions a user can act on become a line for each fault and exit code 2."""
    try:
        app(standalone_mode=True)
    except DataError as error:
        _fail(*(str(fault) for fault in error.faults))
    except AiopsError as error:
        _fail(str(error))
    except Exception as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
            _fail(f"{error.filename or 'a file'}: {error.strerror}")
        # As Python would, but for credentials: what a job says is kept in its log.
        typer.echo(redacted(traceback.format_exc()), err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command with --resume goes on", err=True)
        raise SystemExit(130) from None


def _fail(*messages: str) -> None:
    for message in messages:
        typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
