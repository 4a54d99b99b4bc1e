"""The working folder of a run: made, resumed, locked, renamed to the report when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiops_core import files
from aiops_core.errors import AiopsError, UsageError

STATE = "run.json"


def refuse_foreign(target: Path) -> None:
    """Refuse a target that holds something else than a report.

    Raises
    ------
    UsageError
    """
    if target.exists() and not target.is_dir():
        raise UsageError(f"--out {target} is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / "report.json").is_file():
        raise UsageError(f"--out {target} holds files that are not a report; name another folder")


@contextlib.contextmanager
def workspace(target: Path, options: dict[str, Any], resume: bool) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the working folder and the state an earlier sitting left in it; remove it after a user's error."""
    work = target.with_name(f"{target.name}.partial")
    wanted = json.loads(json.dumps(options))
    lock_path = target.with_name(f".{target.name}.lock")
    if resume and not (work / STATE).is_file():
        raise UsageError(f"nothing to resume: {work} holds no interrupted run")
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("w")
    except OSError as error:
        raise UsageError(f"--out {target} cannot be written ({error.strerror})") from error
    began = time.monotonic()
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another run is writing {target}; wait for it or name another --out") from None
        state: dict[str, Any] = {}
        if resume:
            state = json.loads((work / STATE).read_text(encoding="utf-8"))
            for key, value in wanted.items():
                if state["options"].get(key) != value:
                    before, now = as_typed(key, state["options"].get(key)), as_typed(key, value)
                    raise UsageError(f"--resume: the interrupted run was started {before}, this one {now}")
        elif work.exists():
            shutil.rmtree(work)
        try:
            with _no_space(target):
                files.write_json(work / STATE, {"options": wanted, "seconds": state.get("seconds", 0.0)})
                yield work, state
        except AiopsError:
            if not resume:
                shutil.rmtree(work, ignore_errors=True)
            raise
        except BaseException:
            if work.is_dir():
                seconds = float(state.get("seconds", 0.0)) + time.monotonic() - began
                files.write_json(work / STATE, {"options": wanted, "seconds": seconds})
            raise
    finally:
        lock.close()
        lock_path.unlink(missing_ok=True)
        for folder in made:
            # Still empty: nothing came of the run.
            with contextlib.suppress(OSError):
                folder.rmdir()


def as_typed(key: str, value: Any) -> str:
    """Return an option of a run as the command line has it: ``with --trials 20``, ``without --n-samples``."""
    if key == "config":
        pairs = [f"--set {task}.{name}={given!r}" for task, own in (value or {}).items() for name, given in own.items()]
        return f"with {' '.join(pairs)}" if pairs else "without --set"
    option = "--trials" if key == "n_trials" else f"--{key.replace('_', '-')}"
    if value is None or value is False:
        return f"without {option}"
    if value is True:
        return f"with {option}"
    return f"with {option} {','.join(value) if isinstance(value, list) else value}"


@contextlib.contextmanager
def _no_space(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(f"the disk of {target} is full") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise UsageError(f"--out {target} cannot be written ({error.strerror})") from error
        raise


def replace_report(work: Path, target: Path) -> None:
    """Leave out what only a resumed run needs, and put the working folder in the place of an earlier report."""
    for name in (STATE, "facts.json"):
        (work / name).unlink(missing_ok=True)
    for progress in work.glob("*/progress.json"):
        progress.unlink()
    for search in work.glob("*/search"):
        shutil.rmtree(search, ignore_errors=True)
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.replace(target, old / "report")
    os.replace(work, target)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
