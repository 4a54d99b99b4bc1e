"""Where the parts of an archive lie on this machine."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiops_core import settings
from aiops_core.errors import UsageError
from aiops_core.tracking import snapshot

__all__ = ["DATABASE", "FORMAT", "MANIFEST", "Place", "places", "refuse_while_in_use"]

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "registry/mlflow.db"


@dataclass(frozen=True)
class Place:
    """Where a part of an archive lies on this machine.

    Attributes
    ----------
    part : str
        Prefix of its members, or the name of its only one.
    path : Path
    what : str
        For messages.
    """

    part: str
    path: Path
    what: str

    def holds(self, name: str) -> bool:
        """Say whether a member belongs to this part."""
        return name == self.part or (self.part.endswith("/") and name.startswith(self.part))

    def is_empty(self) -> bool:
        """Say whether nothing is there yet."""
        return not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))


def places() -> list[Place]:
    """Return where the settings put each part; without a SQLite registry and a keys file elsewhere there are fewer."""
    current: Any = settings.load()
    state = Path(current.state_dir).resolve()
    found = [Place("state/", state, "the state folder")]
    database = snapshot.database_of(current.mlflow_tracking_uri)
    if database is not None:
        found += [
            Place(DATABASE, database, "the registry's database"),
            Place("registry/mlartifacts/", database.parent / snapshot.ARTIFACTS, "the registry's artifacts"),
        ]
    # In the state folder, unless the settings say otherwise.
    keys = getattr(current, "keys_file", None)
    if keys is not None and not Path(keys).resolve().is_relative_to(state):
        found.append(Place("keys/keys.json", Path(keys).resolve(), "the keys file"))
    return found


def refuse_while_in_use(state: Path) -> None:
    """Refuse to replace a state folder that a service uses.

    Raises
    ------
    UsageError
    """
    for path in sorted(state.glob("nodes/*/follower.lock")):
        with open(path, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"a service is running on {state}: stop it first") from None
