"""A search as a live table with a Stop button, for a notebook that is run by hand."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets
from IPython.display import HTML, display

__all__ = ["Panel", "trial_table"]

#: Trials in the table.
ROWS = 12
#: Parameters in the table: more would not fit beside the notebook's margins.
PARAMETERS = 5


class Panel:
    """A live table of trials above which stands a button; afterwards the table stays as plain HTML.

    The cell that searches keeps the kernel's main thread busy. The button answers all the same where the front end sends
    its click to a subshell, a thread of the kernel's beside that one, as JupyterLab and Notebook do.

    Parameters
    ----------
    parameters : sequence of str
        Names of the parameters that the search varies, the most important first.
    stop : threading.Event
        Set when the button is pressed.
    """

    def __init__(self, parameters: Sequence[str], stop: threading.Event) -> None:
        self._parameters, self._stop = parameters, stop
        self._html = "<p>The search starts …</p>"
        self._button = ipywidgets.Button(
            description="Stop",
            icon="stop",
            tooltip="End the search with the trials that have ended. Where this does not answer, use ■ of the toolbar.",
        )
        self._button.on_click(self._pressed)
        _let_subshells_answer(self._button)
        self._table = ipywidgets.HTML(self._html)
        self._box = ipywidgets.VBox([self._button, self._table])
        self._handle = display(self._box, display_id=True)

    def update(self, line: str, state: Mapping[str, Any]) -> None:
        """Show a state of the search."""
        self._html = trial_table(line, state, self._parameters)
        self._table.value = self._html

    def close(self) -> None:
        """Put plain HTML in the place of the widgets, which would not outlive the kernel."""
        self._handle.update(HTML(self._html))
        for widget in (self._box, self._table, self._button):
            widget.close()

    def _pressed(self, button: Any) -> None:
        self._stop.set()
        button.disabled, button.description = True, "Stopping …"


def _let_subshells_answer(widget: ipywidgets.Widget) -> None:
    """Let a widget's messages go to the subshell that the front end chose for them.

    ipykernel (from 7.4 on) sends them to the shell that wrote to the widget last: here the main one, which is busy until
    the search ends. The attribute has no public name; without it ipykernel does what the front end asks.
    """
    vars(widget.comm).pop("_reply_subshell_id", None)


def trial_table(line: str, state: Mapping[str, Any], parameters: Sequence[str]) -> str:
    """Return the trials of a search as an HTML table, newest last, the best one marked.

    Parameters
    ----------
    line : str
        Stands above the table.
    state : mapping
        What `aiops_core.search.search` passes on: ``trials``, ``objective``, ``best``.
    parameters : sequence of str
        Names of the parameters that are shown, the first few of them.
    """
    trials = state["trials"]
    best = next((t["number"] for t in trials if t["value"] is not None and t["value"] == state["best"]), None)
    shown = trials[-ROWS:]
    if best is not None and best < shown[0]["number"]:
        shown = [trials[best - 1], *trials[1 - ROWS :]]
    names = list(parameters)[:PARAMETERS]
    header = "".join(_cell("th", name) for name in ("trial", "state", "step", state["objective"], *names))
    rows = "".join(_row(trial, names, best=trial["number"] == best) for trial in shown)
    left_out = [f"{len(trials) - len(shown)} earlier trials"] if len(trials) > len(shown) else []
    left_out += [f"{len(parameters) - len(names)} more parameters"] if len(parameters) > len(names) else []
    note = f"<p>Not shown: {' and '.join(left_out)}.</p>" if left_out else ""
    table = f'<table style="border-collapse:collapse"><tr>{header}</tr>{rows}</table>' if trials else ""
    return f'<p>{escape(line)}</p><div style="overflow-x:auto">{table}</div>{note}'


def _row(trial: Mapping[str, Any], names: Sequence[str], *, best: bool) -> str:
    mark = ' style="font-weight:bold;background:var(--jp-layout-color2,#eee)"' if best else ""
    value = "" if trial["value"] is None else f"{trial['value']:.4g}"
    cells = [f"★ {trial['number']}" if best else str(trial["number"]), trial["status"], str(trial["step"]), value]
    cells += [_short(trial["params"].get(name, "")) for name in names]
    return f"<tr{mark}>{''.join(_cell('td', cell) for cell in cells)}</tr>"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="padding:2px 8px;text-align:right;white-space:nowrap">{escape(text)}</{tag}>'
