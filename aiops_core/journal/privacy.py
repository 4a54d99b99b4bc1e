"""What of a record may be kept: fields that are dropped, and fields of which only a keyed hash is kept."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from aiops_core import files
from aiops_core.errors import UsageError

__all__ = ["HASHABLE", "Privacy"]

#: Fields that can be hashed; features of the inputs can only be dropped.
HASHABLE = ("resource_id", "source_ip", "key", "inputs")
_NAME = "hash.key"
_DIGITS = 32


class Privacy:
    """Conceal fields of records and of feedback alike, so that the two still fit together.

    Parameters
    ----------
    state : Path
        State folder; it holds the key of the hashes, which is made when it is first needed.
    drop : iterable of str
        ``resource_id``, ``source_ip`` (a threat's resource where it is named by its address), ``key`` (name of the
        caller's key), ``inputs``, or names of features.
    hash : iterable of str
        Of `HASHABLE`: HMAC-SHA256, the first 32 hexadecimal digits; of ``inputs`` all 32 bytes.

    Raises
    ------
    UsageError
        If a feature is to be hashed.
    """

    def __init__(self, state: Path, drop: Iterable[str] = (), hash: Iterable[str] = ()) -> None:
        self.drop = frozenset(drop)
        self.hash = frozenset(hash) - self.drop
        strange = sorted(self.hash - set(HASHABLE))
        if strange:
            raise UsageError(f"'{strange[0]}' cannot be hashed, only dropped; hashed can be {', '.join(HASHABLE)}")
        self._path = state / "journal" / _NAME
        self._hashed = lru_cache(maxsize=65_536)(self._digest)

    def text(self, field: str, value: str | None) -> str | None:
        """Return what is kept of a text."""
        if value is None or field in self.drop:
            return None
        return self._hashed(value) if field in self.hash else value

    def inputs(self, content: bytes) -> bytes | None:
        """Return what is kept of the inputs; `Privacy.readable` says whether it can be read back."""
        if "inputs" in self.drop:
            return None
        return hmac.digest(self._key, content, "sha256") if "inputs" in self.hash else content

    @property
    def readable(self) -> bool:
        """Whether the inputs are kept as they are, but for single features."""
        return "inputs" not in self.drop and "inputs" not in self.hash

    def _digest(self, value: str) -> str:
        return hmac.digest(self._key, value.encode(), "sha256").hex()[:_DIGITS]

    @property
    def _key(self) -> bytes:
        found = self.__dict__.get("_secret")
        if found is None:
            found = self.__dict__["_secret"] = _secret(self._path)
        return bytes(found)


def _secret(path: Path) -> bytes:
    """Return the key of the hashes, the same for all processes; make it if there is none.

    Raises
    ------
    OSError
        If it can be neither read nor made.
    """
    files.private_folder(path.parent)
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
        try:
            # Unlike a rename it never replaces the key of a process that was faster.
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
    return path.read_bytes()
