"""The commands ``aiops data``: contract tables generated, fetched, read from Prometheus, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aiops_core.errors import UsageError

app = typer.Typer(help="Contract tables: generate, fetch, validate.", no_args_is_help=True)

Seed = Annotated[int, typer.Option(help="fixes data, splits, baselines, oracle and the search's start")]
Samples = Annotated[int | None, typer.Option("--n-samples", help="examples a task, synthetic data only (default 8000)")]


@app.command("generate")
def data_generate(
    out: Path,
    n_samples: Samples = None,
    seed: Seed = 7,
    signal: float = 1.0,
    drift: Annotated[
        str,
        typer.Option(
            help="how far levels and styles move anyway, 0 to 3, or a kind of drift that begins at --drift-at"
        ),
    ] = "1",
    drift_at: Annotated[float, typer.Option(help="share of the time, or rows, before the drift begins")] = 0.75,
    drift_over: Annotated[float, typer.Option(help="share over which the drift grows; 0 is sudden")] = 0.0,
) -> None:
    """Write the synthetic data set as a folder of contract tables."""
    from aiops_core.data import folder
    from aiops_core.data import sources as datasets
    from aiops_core.data.synthetic.drift import drifted, strength_or_kind

    strength, kind = strength_or_kind(drift)
    dataset = datasets.load("synthetic", n_samples=n_samples, seed=seed, signal=signal, drift=strength)
    if kind is not None:
        dataset = drifted(dataset, kind, drift_at, over=drift_over, seed=seed)
    folder.save_folder(dataset, out)
    typer.echo(f"{', '.join(dataset.tables)} written to {out}")


@app.command("fetch")
def data_fetch(name: str, out: Path | None = None) -> None:
    """Fetch a public data set, and write it as contract tables if a folder is named."""
    from aiops_core.data import folder, tables
    from aiops_core.data import sources as datasets

    if name not in datasets.PUBLIC:
        raise UsageError(f"unknown data set '{name}'{tables.suggestion(name, datasets.PUBLIC)}")
    dataset = datasets.load(name)
    for table, frame in dataset.tables.items():
        typer.echo(f"{table}: {len(frame)} rows, {len(frame.columns)} columns")
    if out is not None:
        folder.save_folder(dataset, out)
        typer.echo(f"written to {out}")


@app.command("prometheus")
def data_prometheus(
    url: Annotated[str, typer.Argument(help="the server, such as http://prometheus:9090")],
    out: Annotated[Path, typer.Argument(help="folder that gets the table")],
    metric: Annotated[list[str], typer.Option(help="column=PromQL, once for every column")],
    start: Annotated[str, typer.Option(help="first time, with timezone: 2026-01-01T00:00Z")],
    end: Annotated[str, typer.Option(help="last time, with timezone")],
    step: Annotated[int, typer.Option(help="seconds between rows")] = 3600,
    label: Annotated[str, typer.Option(help="label that names the resource")] = "instance",
    table: Annotated[str, typer.Option(help="usage (capacity) or telemetry (failure)")] = "usage",
) -> None:
    """Read a table from a Prometheus server and write it as a folder of contract tables."""
    from aiops_core.data import folder
    from aiops_core.data import sources as datasets

    queries = dict(_assignment(text) for text in metric)
    dataset = datasets.prometheus.load(
        url,
        queries,
        start=_time("--start", start),
        end=_time("--end", end),
        step_seconds=step,
        label=label,
        table=table,
    )
    folder.save_folder(dataset, out)
    typer.echo(f"{table}: {len(dataset.tables[table])} rows written to {out}")


@app.command("validate")
def data_validate(source: str) -> None:
    """Check contract tables; print what they hold and the settings a report would use."""
    from aiops_core import console
    from aiops_core.data import overview
    from aiops_core.data import sources as datasets

    console.paragraphs(overview.lines(datasets.load(source)))


def _assignment(text: str) -> tuple[str, str]:
    name, equals, query = text.partition("=")
    if not equals or not name.strip() or not query.strip():
        raise UsageError(f"--metric {text!r} is not of the form column=query")
    return name.strip(), query.strip()


def _time(option: str, text: str) -> Any:
    import pandas as pd

    try:
        stamp = pd.Timestamp(text)
    except ValueError:
        raise UsageError(f"{option} '{text}' is no time; write it like 2026-01-01T00:00Z") from None
    if stamp.tzinfo is None:
        raise UsageError(f"{option} '{text}' has no timezone; write it like 2026-01-01T00:00Z")
    return stamp.tz_convert("UTC")
