"""How objects show themselves in a notebook: a small table, everything escaped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any


class Link:
    """A file or folder that a notebook can open.

    Parameters
    ----------
    path : Path
        Linked relative to the working folder, which is what JupyterLab opens.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _repr_html_(self) -> str:
        near = os.path.relpath(self.path)
        return f'<a href="{escape(near)}">{escape(near)}</a>' if self.path.exists() else escape(near)


def html_table(title: str, rows: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Return a title and a table of two columns as HTML; a `Link` becomes a link, a list a line an entry."""
    found = []
    for name, value in rows.items() if isinstance(rows, Mapping) else rows:
        found.append(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{_cell(value)}</td></tr>'
        )
    return f"<b>{escape(title)}</b><table>{''.join(found)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return value._repr_html_()
    if isinstance(value, list):
        return "<br>".join(_cell(item) for item in value)
    return escape(str(value))
