"""The registry as files: its SQLite database while it is in use, and the artifacts of the registered versions."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from aiops_core.errors import TrackingError
from aiops_core.files import copy_database
from aiops_core.tracking.store import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Folder of the artifacts, beside the database.
ARTIFACTS = "mlartifacts"
#: Where MLflow's tables keep addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@dataclass
class Snapshot:
    """A registry as files.

    Attributes
    ----------
    database : Path or None
        Copy of the database; None for a store that is no SQLite file.
    files : dict of str to Path
        Artifacts of registered versions, by their path below the folder of artifacts.
    left_out : list of str
        A sentence for each thing that is not among them.
    """

    database: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for another store."""
    return Path(uri.split("///", 1)[1]).resolve() if uri.startswith("sqlite:///") else None


def take(uri: str, folder: Path) -> Snapshot:
    """Copy the database of a store and find the artifacts that its registered versions need.

    Parameters
    ----------
    uri : str
        Of the store.
    folder : Path
        For the copy of the database.

    Raises
    ------
    TrackingError
        If the database cannot be read.
    """
    database = database_of(uri)
    if database is None:
        return Snapshot(left_out=[f"the registry at {uri}: back it up where it runs, its database and its artifacts"])
    if not database.is_file():
        return Snapshot(left_out=[f"the registry: there is no file {database}"])
    copy = folder / "mlflow.db"
    try:
        copy_database(database, copy)
    except sqlite3.Error as error:
        raise TrackingError(f"the registry's database {database} cannot be read: {error}") from error
    found = Snapshot(copy)
    root = database.parent / ARTIFACTS
    with open_client(f"sqlite:///{copy}") as client:
        for label, address in _artifacts(client):
            place = Path(unquote(urlparse(address).path))
            if urlparse(address).scheme not in ("", "file") or not place.is_relative_to(root) or not place.is_dir():
                found.left_out.append(f"{label}: its artifacts at {address} are not in {root}")
                continue
            for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
                found.files[path.relative_to(root).as_posix()] = path
    found.left_out.append("artifacts of runs that no registered version needs, such as their reports")
    return found


def _artifacts(client: MlflowClient) -> Iterator[tuple[str, str]]:
    """Yield a label and the address of the artifacts of every registered version."""
    token = None
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        for version in page:
            address = client.get_model_version_download_uri(version.name, str(version.version))
            if address.startswith("models:/m-"):
                address = client.get_logged_model(address.removeprefix("models:/")).artifact_location
            yield f"{version.name} version {version.version}", str(address)
        token = page.token
        if not token:
            return


def relocate(database: Path, before: Path, after: Path) -> None:
    """Correct the addresses of artifacts in a database whose folder of artifacts lies elsewhere than it did.

    Parameters
    ----------
    database : Path
    before, after : Path
        Folders of the artifacts.

    Raises
    ------
    TrackingError
        If it is no database of MLflow's.
    """
    if before == after:
        return
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            for table, column in _ADDRESSES:
                if not connection.execute(
                    "SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)
                ).fetchone():
                    continue
                for old, new in ((before.as_uri(), after.as_uri()), (str(before), str(after))):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
    except sqlite3.Error as error:
        raise TrackingError(f"the registry's database cannot be corrected: {error}") from error
