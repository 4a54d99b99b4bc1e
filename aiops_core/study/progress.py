"""Live progress: a file for the command line, one line for an executed notebook, a table with a Stop button by hand."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiops_core.files import write_json

__all__ = ["Progress", "followed", "note_stage", "progress_words"]


class _View(Protocol):
    """What shows a search in a notebook."""

    def update(self, line: str, state: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Follows one search: writes ``progress.json`` and shows the search in the notebook, if there is one.

    Parameters
    ----------
    folder : path
        Where ``progress.json`` is written.
    parameters : sequence of str
        Names of the parameters that the search varies, for the table.

    Attributes
    ----------
    stop : threading.Event
        Set when the Stop button was pressed.
    """

    def __init__(self, folder: Path, parameters: Sequence[str]) -> None:
        self.stop = threading.Event()
        self._folder = folder
        self._view = _view(parameters, self.stop)
        self._state: dict[str, Any] | None = None
        self._shown = 0.0

    def show(self, state: dict[str, Any]) -> None:
        """Take over a state of the search, and show it unless one was shown just now."""
        self._state = state
        if time.monotonic() - self._shown >= 0.5 or state["done"] == state["total"]:
            self._draw(state)

    def close(self) -> None:
        """Show the last state, and end what is live."""
        if self._state is not None:
            # Whether it ended or was stopped, nothing is left to wait for.
            self._draw({**self._state, "eta": None})
        if self._view is not None:
            self._view.close()

    def _draw(self, state: dict[str, Any]) -> None:
        self._shown = time.monotonic()
        counted = {key: value for key, value in state.items() if key != "trials"}
        write_json(self._folder / "progress.json", {**counted, "stage": "search"})
        if self._view is not None:
            self._view.update(progress_words(state), state)


@contextlib.contextmanager
def followed(folder: Path, parameters: Sequence[str]) -> Iterator[Progress]:
    """Follow the search that runs in the block; see `Progress`."""
    progress = Progress(folder, parameters)
    try:
        yield progress
    finally:
        progress.close()


class _Line:
    """One line of text that updates itself: it needs no widgets, so an executed notebook can be read anywhere."""

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, line: str, state: Mapping[str, Any]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display({"text/plain": line}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": line}, raw=True)

    def close(self) -> None:
        """Leave the last line where it is."""


def _view(parameters: Sequence[str], stop: threading.Event) -> _View | None:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return None
    if not _by_hand(shell):
        return _Line()
    from aiops_core.study.panel import Panel

    return Panel(parameters, stop)


def _by_hand(shell: Any) -> bool:
    """Return whether somebody sits at a notebook: a front end that could ask for input sent the cell.

    papermill, ``nbclient`` and ``jupyter execute`` never can, and say so with every cell.
    """
    if not hasattr(shell, "kernel"):
        return False
    request = shell.get_parent()
    return bool(request and request.get("content", {}).get("allow_stdin"))


def progress_words(state: Mapping[str, Any]) -> str:
    """Return a search's state in one line."""
    best = "none yet" if state.get("best") is None else f"{state['best']:.4g}"
    left = "" if state.get("eta") is None else f", about {state['eta']:.0f} s left"
    return (
        f"{state['done']}/{state['total']} trials done, {state['running']} running, {state['pruned']} pruned, "
        f"{state['errored']} failed, best {state['objective']} {best}{left}"
    )


def note_stage(folder: Path, stage: str) -> None:
    """Write down what a task is doing, for the command line."""
    write_json(folder / "progress.json", {"stage": stage})
