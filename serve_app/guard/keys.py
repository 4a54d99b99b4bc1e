"""The keys file: who may call the service, without anything in it that opens it.

A key is 32 random bytes in base64url behind `PREFIX`; the file holds its SHA-256 alone, which needs no salt and no slow
hash, because nobody can guess 32 random bytes. It is replaced in one step, so that a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiops_core import settings
from aiops_core.errors import UsageError

__all__ = ["PREFIX", "SCOPES", "Key", "add", "digest", "location", "read", "revoke", "rotate"]

#: What a key may do. None of them includes another: who may promote a model need not see what others ask it.
SCOPES = ("read", "predict", "operate")
#: What every key begins with, so that scanners of repositories and logs recognise one.
PREFIX = "aiops_"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Key:
    """One entry of the keys file.

    Attributes
    ----------
    name : str
        Who holds it: in the audit log and in the list.
    sha256 : str
        Of the key, hexadecimal.
    scopes : tuple of {"read", "predict", "operate"}
    rate : float or None
        Requests per second; None for no limit.
    burst : float or None
        Requests at once, with a rate.
    created : str
        ISO 8601, UTC.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...]
    rate: float | None = None
    burst: float | None = None
    created: str = ""


def location(state: Path) -> Path:
    """Return where the keys file of a state folder is, whether or not there is one."""
    return settings.load().keys_file or state / "keys.json"


def digest(key: bytes) -> str:
    """Return the SHA-256 of a key, hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def read(path: Path) -> list[Key]:
    """Return the keys of a file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    UsageError
        If it cannot be read, is damaged, or others may write to it.
    """
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise UsageError(f"keys file {path}: it is no file")
            if state.st_mode & 0o022 or state.st_uid not in (0, os.getuid()):
                raise UsageError(f"keys file {path}: others may write to it; it must be yours, with mode 600")
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"keys file {path}: it cannot be read: {error.strerror}") from error
    try:
        return _parse(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"keys file {path}: it is damaged: {error or type(error).__name__}") from error


def _parse(content: bytes) -> list[Key]:
    if len(content) > _MAX_BYTES:
        raise ValueError("it is larger than 1 MB")
    keys = [_entry(item) for item in json.loads(content)["keys"]]
    if len({key.name for key in keys}) < len(keys) or len({key.sha256 for key in keys}) < len(keys):
        raise ValueError("two keys have one name")
    return keys


def _entry(item: dict[str, Any]) -> Key:
    key = Key(**{**item, "scopes": tuple(item["scopes"])})
    if not _NAME.fullmatch(key.name) or not _SHA256.fullmatch(key.sha256):
        raise ValueError("an entry has no name or no sha256")
    if not key.scopes or not set(key.scopes) <= set(SCOPES):
        raise ValueError(f"key {key.name}: scopes are {', '.join(SCOPES)}")
    for number in (key.rate, key.burst):
        if number is not None and not (isinstance(number, (int, float)) and 0 < number < math.inf):
            raise ValueError(f"key {key.name}: rate and burst must be above 0")
    return key


def add(path: Path, name: str, scopes: Iterable[str], rate: float | None = None, burst: float | None = None) -> str:
    """Add a key and return it; it is nowhere else.

    Parameters
    ----------
    path : Path
        Keys file, made if need be.
    name : str
        1 to 64 letters, digits, dots, underscores or hyphens.
    scopes : iterable of {"read", "predict", "operate"}
    rate : float, optional
        Requests per second.
    burst : float, optional
        Requests at once; twice the rate by default.

    Raises
    ------
    UsageError
        If the name is taken, or one of the values is not allowed.
    """
    wanted = tuple(scope for scope in SCOPES if scope in set(scopes))
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not wanted:
        raise UsageError(f"unknown scope '{unknown[0] if unknown else ''}'; scopes are {', '.join(SCOPES)}")
    if not _NAME.fullmatch(name):
        raise UsageError("a name has 1 to 64 letters, digits, dots, underscores or hyphens")
    for option, number in (("--rate", rate), ("--burst", burst)):
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"{option} {number:g} must be above 0")
    if burst is not None and rate is None:
        raise UsageError("--burst goes with --rate")
    key = _new()
    fresh = Key(name, digest(key.encode()), wanted, rate, burst if rate is None or burst else 2 * rate, _now())

    def change(keys: list[Key]) -> list[Key]:
        if any(other.name == name for other in keys):
            raise UsageError(f"there is a key '{name}' already: give it a new one with aiops keys rotate {name}")
        return [*keys, fresh]

    _replace(path, change)
    return key


def revoke(path: Path, name: str) -> None:
    """Take a key away. The file stays, even without a key: then nobody gets in.

    Raises
    ------
    UsageError
        If there is no key of that name.
    """
    _replace(path, lambda keys: [key for key in keys if key != _named(keys, name)])


def rotate(path: Path, name: str) -> str:
    """Replace a key by a new one of the same name, scopes and rate, and return it; the old one ends.

    Raises
    ------
    UsageError
        If there is no key of that name.
    """
    key = _new()

    def change(keys: list[Key]) -> list[Key]:
        old = _named(keys, name)
        new = Key(name, digest(key.encode()), old.scopes, old.rate, old.burst, _now())
        return [new if other == old else other for other in keys]

    _replace(path, change)
    return key


def _named(keys: list[Key], name: str) -> Key:
    for key in keys:
        if key.name == name:
            return key
    raise UsageError(f"there is no key '{name}'; there are: {', '.join(key.name for key in keys) or 'none'}")


def _new() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _replace(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Write the keys anew, in one step, while nobody else does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path):
        try:
            keys = read(path)
        except FileNotFoundError:
            keys = []
        content = {"keys": [{k: v for k, v in vars(key).items() if v is not None} for key in change(keys)]}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(handle)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
