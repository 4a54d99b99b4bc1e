"""Live progress: a file for the command line, one line that updates itself for a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiops_core.files import write_json

__all__ = ["live_line", "note_stage", "progress_words"]


def live_line(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Return a progress receiver: a file for the command line, and one self-updating line in a notebook."""
    handle: Any = None
    last = 0.0

    def show(state: dict[str, Any]) -> None:
        nonlocal handle, last
        now = time.monotonic()
        if now - last < 0.5 and state["done"] < state["total"]:
            return
        last = now
        write_json(folder / "progress.json", {**state, "stage": "search"})
        line = progress_words(state)
        shell = _shell()
        if shell is None:
            return
        from IPython.display import display

        if handle is None:
            handle = display({"text/plain": line}, raw=True, display_id=True)
        else:
            handle.update({"text/plain": line}, raw=True)

    return show


def _shell() -> Any:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


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
