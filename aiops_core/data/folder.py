"""A data set as a folder: one Parquet or CSV file a table, and ``dataset.toml`` with the settings."""

from __future__ import annotations

import difflib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from aiops_core import files
from aiops_core.data.derive import check_derived
from aiops_core.data.tables import CONFIG, REQUIRED, TABLES, Dataset, check_section, suggestion
from aiops_core.data.validation import collecting, validate_all
from aiops_core.errors import DataError, UsageError


def load_folder(folder: str | Path) -> Dataset:
    """Load a folder of contract tables, Parquet or CSV, with its optional ``dataset.toml``.

    Raises
    ------
    DataError
        If no table is there, or a table breaks its contract.
    UsageError
        If ``dataset.toml`` cannot be parsed, or holds an unknown key or an expression that cannot be read.
    """
    folder = Path(folder)
    paths: dict[str, Path] = {}
    for name in TABLES:
        files = [p for p in (folder / f"{name}.parquet", folder / f"{name}.csv") if p.is_file()]
        if len(files) > 1:
            raise DataError(f"both {files[0].name} and {files[1].name} exist in {folder}; keep one", table=name)
        if files:
            paths[name] = files[0]
    misnamed = _misnamed(folder)
    if not paths:
        wanted = ", ".join(f"{name}.parquet" for name in TABLES)
        hint = "".join(f"; {note}" for note in misnamed)
        raise DataError(f"folder {folder} holds no contract table (any of {wanted}, or the same as .csv){hint}")
    faults: list[DataError] = []
    frames: dict[str, pd.DataFrame] = {}
    for name, path in paths.items():
        with collecting(faults):
            frames[name] = _read(name, path)
    tables: dict[str, pd.DataFrame] = {}
    notes: dict[str, list[str]] = {}
    with collecting(faults):
        tables, notes = validate_all(frames)
    if faults:
        raise DataError.all_of(faults)
    if misnamed:
        notes["folder"] = misnamed
    config, title, licence = _read_config(folder / "dataset.toml", folder.name)
    check_derived(config, tables, "dataset.toml")
    return Dataset(folder.resolve().name, title, licence, tables, config, {}, notes)


def _misnamed(folder: Path) -> list[str]:
    """Return a note for every file whose name is nearly the one of a table or of the settings."""
    files = {path.name for path in folder.iterdir() if path.is_file()}
    expected = {f"{name}{ending}" for name in TABLES for ending in (".csv", ".parquet")} | {"dataset.toml"}
    notes = []
    for name in sorted(files - expected):
        stem, ending = os.path.splitext(name.lower())
        wanted = "dataset.toml" if ending == ".toml" else None
        if ending in (".csv", ".tsv", ".parquet"):
            near = difflib.get_close_matches(stem, TABLES, n=1, cutoff=0.75)
            wanted = f"{near[0]}{'.parquet' if ending == '.parquet' else '.csv'}" if near else None
        if wanted is not None and wanted not in files:
            notes.append(f"file {name} is not read; its name must be {wanted}")
    return notes


def save_folder(dataset: Dataset, folder: str | Path) -> Path:
    """Write tables as Parquet and the settings as ``dataset.toml``; each file is renamed into place when complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in dataset.tables.items():
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
        os.close(handle)
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, folder / f"{name}.parquet")
    lines = [f"title = {_toml(dataset.title)}", f"licence = {_toml(dataset.licence)}"]
    for section, values in dataset.config.items():
        lines += ["", f"[{section}]", *[f"{key} = {_toml(value)}" for key, value in values.items()]]
    files.write_text(folder / "dataset.toml", "\n".join(lines) + "\n")
    return folder


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _read(table: str, path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        _refuse_other_separators(table, path)
        return pd.read_csv(path)
    except DataError:
        raise
    except Exception as error:
        # pyarrow and the CSV parser raise a family of unrelated types for damaged files.
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"file {path.name} cannot be read ({text[0]})", table=table) from error


def _refuse_other_separators(table: str, path: Path) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline()
    for separator, word in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
        columns = {cell.strip().strip('"') for cell in header.split(separator)}
        if header.count(separator) > header.count(",") and columns & set(REQUIRED[table]):
            raise DataError(f"file {path.name} is separated by {word}; write it with commas", table=table)


def _read_config(path: Path, default_title: str) -> tuple[dict[str, dict[str, Any]], str, str]:
    if not path.is_file():
        return {}, default_title, "not stated"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}: not valid TOML ({error})") from error
    title = str(content.pop("title", default_title))
    licence = str(content.pop("licence", "not stated"))
    for section, values in content.items():
        if section not in CONFIG or not isinstance(values, dict):
            raise UsageError(
                f"{path.name}: unknown entry '{section}'{suggestion(section, [*CONFIG, 'title', 'licence'])}"
            )
        check_section(section, values, where=path.name)
    return content, title, licence
