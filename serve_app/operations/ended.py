"""The metric files of processes that have ended: which they are, and folding them together.

A process holds a lock on its files while it lives. So whoever can lock a file knows that its process is gone, on any node
that shares the folder, whatever the clocks and pids of the machines say. What ended processes have counted is added up in one
file; their gauges are dropped.

`folded.json` names that file and the files in it, and is replaced in one step: whoever dies between two steps of the
folding has neither lost a count nor counted one twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

from serve_app.files import read_json, write_json

__all__ = ["counted", "fold", "living", "memory_folder", "prepare", "reading"]

_KINDS = ("counter", "histogram")
_STATE = "folded.json"
_LOCK = "folded.lock"
_MEMORY = "aiops-metrics-"


def living(path: Path) -> bool:
    """Say whether the process of a file lives; yes, too, where locks do not work."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def prepare(folder: Path) -> None:
    """Make the lock of a folder while there is room for it."""
    with contextlib.suppress(OSError):
        (folder / _LOCK).touch()


def memory_folder() -> Path:
    """Make a folder in memory for the files of this process, and remove those of killed ones."""
    place = Path("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
    for old in place.glob(f"{_MEMORY}*"):
        files = list(old.glob("*.db"))
        if files and not any(living(path) for path in files):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_MEMORY}{os.getpid()}-", dir=place))


@contextlib.contextmanager
def _locked(folder: Path, mode: int) -> Iterator[None]:
    """Hold the lock of a folder."""
    with open(folder / _LOCK, "a") as lock:
        fcntl.flock(lock, mode)
        yield


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep the files of a folder as they are; without that protection where a full disk has no room for the lock."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(_locked(folder, fcntl.LOCK_SH))
        yield


def counted(folder: Path) -> list[Path]:
    """Return the files that count: all counters, each once, and the gauges of living processes."""
    state = read_json(folder / _STATE)
    inside = {name for kind in state.values() for name in kind["inside"]}
    current = {kind["file"] for kind in state.values()}
    found = []
    for path in sorted(folder.glob("*.db")):
        if path.name.startswith("gauge"):
            if living(path):
                found.append(path)
        elif path.name in current or not (path.name in inside or "_folded-" in path.name):
            found.append(path)
    return found


def fold(folder: Path) -> int:
    """Add the files of ended processes up in one file for counters and one for histograms.

    Returns
    -------
    int
        How many processes' files were added.

    Raises
    ------
    OSError
        If there is no room for it; everything then stays as it was.
    """
    with _locked(folder, fcntl.LOCK_EX):
        paths = [path for path in counted(folder) if not path.name.startswith("gauge")]
        ended = [path for path in paths if "_folded-" not in path.name and not living(path)]
        if ended:
            before, state = read_json(folder / _STATE), {}
            for kind in _KINDS:
                mine = [path for path in paths if path.name.startswith(kind)]
                into = [path for path in mine if path in ended or "_folded-" in path.name]
                if into:
                    # Files of the last time that are still there, because it was cut off, stay out of the sums.
                    left = [name for name in before.get(kind, {}).get("inside", []) if (folder / name).exists()]
                    state[kind] = {
                        "file": _add_up(folder, kind, into),
                        "inside": [*left, *(path.name for path in into)],
                    }
            write_json(folder / _STATE, state)
        _remove(folder)
    return len({path.stem.split("_", 1)[1] for path in ended})


def _add_up(folder: Path, kind: str, paths: list[Path]) -> str:
    """Write the sums of some files to a new one; returns its name."""
    sums: defaultdict[str, float] = defaultdict(float)
    for path in paths:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
            sums[key] += value
    number = 1 + max(
        (int(path.stem.rsplit("-", 1)[1]) for path in paths if "_folded-" in path.name),
        default=0,
    )
    target = folder / f"{kind}_folded-{number}.db"
    fresh = target.with_suffix(".new")
    # Allocated before it is mapped, like the files of the living.
    size = 8 + sum(len(key.encode()) + 32 for key in sums)
    try:
        with open(fresh, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        content: Any = MmapedDict(str(fresh))
        for key, value in sums.items():
            content.write_value(key, value, 0.0)
        content.close()
        os.replace(fresh, target)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return target.name


def _remove(folder: Path) -> None:
    """Remove what is folded, and the gauges of ended processes."""
    kept = {path.name for path in counted(folder)}
    for path in folder.glob("*.db"):
        if path.name not in kept and not living(path):
            path.unlink(missing_ok=True)
