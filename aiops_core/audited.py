"""What the command line does to production, written into the audit log of the service before and after.

The log belongs to the service, which the library does not import: its own program writes the lines.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiops_core.errors import UsageError

__all__ = ["audited"]


@contextmanager
def audited(route: str, **what: Any) -> Iterator[None]:
    """Record an act: that it begins, and how it ended.

    Parameters
    ----------
    route : str
        What is done, such as ``models promote``.
    **what
        To what; values that JSON can hold.

    Raises
    ------
    UsageError
        If the log cannot be written: before the act nothing was done, after it the message says so.
    """
    event = _record("nothing was done", "begin", route, json.dumps(what))
    try:
        yield
    except BaseException as error:
        _record("it failed", "end", event, "failed", f"{error}" or type(error).__name__)
        raise
    _record("it was done", "end", event, "done", "")


def _record(otherwise: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "serve_app.guard", "record", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
        raise UsageError(f"{otherwise}, but the audit log cannot be written: {said}")
    return done.stdout.strip()
