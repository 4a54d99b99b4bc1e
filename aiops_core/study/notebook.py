"""What a notebook calls before it works: its parameters checked, a study or a data set opened, tables to look at."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from aiops_core.data import sources
from aiops_core.data.tables import Dataset, suggestion
from aiops_core.errors import UsageError


def check_parameters(namespace: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook was given and does not have: papermill itself would only warn.

    Parameters
    ----------
    namespace : mapping
        ``globals()`` of the notebook.

    Raises
    ------
    UsageError
    """
    parameters(namespace, annotated(namespace.get("In") or []))


def open_dataset(namespace: Mapping[str, Any]) -> Dataset:
    """Load the data set that a notebook's parameters name; see `check_parameters` for the refusal of unknown ones."""
    given = parameters(namespace, ("source", "n_samples", "seed", "signal", "tasks", "out"))
    given.pop("out", None)
    return sources.load(given.pop("source", "synthetic"), **given)


def describe(dataset: Dataset) -> pd.DataFrame:
    """Return one row a table: rows, columns, resources or classes, first and last timestamp."""
    rows = []
    for name, frame in dataset.tables.items():
        row: dict[str, Any] = {"table": name, "rows": len(frame), "columns": len(frame.columns)}
        if "resource_id" in frame.columns:
            row["resources"] = frame["resource_id"].nunique()
        if "threat_type" in frame.columns:
            row["classes"] = frame["threat_type"].nunique()
        time_column = next((c for c in ("timestamp", "start") if c in frame.columns), None)
        if time_column:
            row |= {"from": str(frame[time_column].min()), "to": str(frame[time_column].max())}
        rows.append(row)
    return pd.DataFrame(rows).set_index("table").fillna("")


def notes(dataset: Dataset) -> pd.DataFrame:
    """Return what validation counted, one row a note."""
    rows = [{"table": table, "counted": note} for table, found in dataset.notes.items() for note in found]
    return pd.DataFrame(rows or [{"table": "all", "counted": "nothing irregular"}])


def parameters(namespace: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return a notebook's parameters from its namespace; other variables are nobody's business.

    Raises
    ------
    UsageError
        If papermill injected a parameter that the notebook does not have: papermill itself would only warn.
    """
    known = [name for name in known if name not in ("self", "task")]
    for name in injected(namespace.get("In") or []):
        if name not in known:
            raise UsageError(f"this notebook has no parameter '{name}'{suggestion(name, known)}")
    return {name: namespace[name] for name in known if name in namespace}


def annotated(cells: Iterable[str]) -> list[str]:
    """Return the names that a cell of parameters declares: ``name: type = value  # meaning``."""
    found: list[str] = []
    for source in cells:
        if re.match(r"\w+: \w+ = ", source.lstrip()):
            nodes = [node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)]
            found += [node.target.id for node in nodes if isinstance(node.target, ast.Name)]
    return found


def injected(cells: Iterable[str]) -> list[str]:
    """Return the names that papermill's own cell assigns; it begins with a comment of papermill's."""
    found: list[str] = []
    for source in cells:
        if source.lstrip().startswith("# Parameters\n"):
            targets = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
            found += [target.id for group in targets for target in group if isinstance(target, ast.Name)]
    return found
