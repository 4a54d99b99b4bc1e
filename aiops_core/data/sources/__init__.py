"""Sources of contract tables: synthetic, public data sets by name, folders by path, Prometheus servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aiops_core.data import synthetic
from aiops_core.data.folder import load_folder
from aiops_core.data.sources import prometheus
from aiops_core.data.sources.public import PUBLIC, paths
from aiops_core.data.tables import TASKS, Dataset, suggestion
from aiops_core.data.validation import validate_all
from aiops_core.errors import UsageError

__all__ = ["DEFAULT_SAMPLES", "PUBLIC", "load", "paths", "prometheus"]

DEFAULT_SAMPLES = 8000


def load(
    source: str,
    *,
    n_samples: int | None = None,
    seed: int = 7,
    signal: float = 1.0,
    drift: float = 1.0,
    tasks: Sequence[str] = TASKS,
) -> Dataset:
    """Load a source as validated contract tables.

    Parameters
    ----------
    source : str
        ``synthetic``, a name of `PUBLIC`, or the path of a folder with contract tables.
    n_samples : int, optional
        Examples a task, synthetic data only; `DEFAULT_SAMPLES` by default.
    seed : int, default 7
        Seed of synthetic data.
    signal : float, default 1.0
        Strength of synthetic data's signal, from 0 to 1.
    drift : float, default 1.0
        How far synthetic data drift, from 0 to 3.
    tasks : sequence of str
        Tasks whose tables are needed.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If the source is unknown or an option does not fit it.
    DataError
        If a table breaks its contract.
    """
    if n_samples is not None and n_samples < 1:
        raise UsageError(f"n_samples = {n_samples} must be at least 1")
    if source == "synthetic":
        made = synthetic.dataset(n_samples or DEFAULT_SAMPLES, seed=seed, signal=signal, drift=drift, tasks=tasks)
        tables, notes = validate_all(made.tables)
        return Dataset(made.name, made.title, made.licence, tables, made.config, made.oracles, notes)
    if n_samples is not None:
        raise UsageError(f"n_samples goes with synthetic data only; source '{source}' is used whole")
    if signal != 1.0:
        raise UsageError(f"signal goes with synthetic data only, not with source '{source}'")
    if drift != 1.0:
        raise UsageError(f"drift goes with synthetic data only, not with source '{source}'")
    if source in PUBLIC:
        return PUBLIC[source]()
    folder = Path(source)
    if folder.is_dir():
        return load_folder(folder)
    if folder.exists():
        raise UsageError(f"source '{source}' is a file; name the folder that holds the contract tables")
    raise UsageError(
        f"unknown source '{source}': neither a folder nor a data set{suggestion(source, ['synthetic', *PUBLIC])}"
    )
