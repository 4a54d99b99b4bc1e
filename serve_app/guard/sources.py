"""What training over HTTP may read: the built-in sources, and folders below allowed roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aiops_core.facts import SOURCES
from serve_app.wire.problems import invalid

__all__ = ["Sources"]


class Sources:
    """Decide on the source of a training job.

    Parameters
    ----------
    roots : sequence of Path
        Folders whose subfolders may be read.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    def allow(self, source: str) -> str:
        """Return what the job is told to read: the name of a built-in source, or the real path of a folder.

        Parameters
        ----------
        source : str
            A name, an absolute path, or one relative to a root.

        Raises
        ------
        Problem
            422 for anything else, whether or not it exists.
        """
        if source in SOURCES:
            return source
        for root in self._roots:
            try:
                top = root.resolve(strict=True)
                # Links are followed first, so that none leads out.
                found = (top / source).resolve(strict=True)
            except (OSError, ValueError, RuntimeError):
                continue
            if found.is_relative_to(top) and found.is_dir():
                return str(found)
        raise invalid(
            "$.source", f"is none of {', '.join(SOURCES)}, and no folder below those that AIOPS_SOURCE_ROOTS allows"
        )
