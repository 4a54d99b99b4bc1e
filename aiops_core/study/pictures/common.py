"""What all pictures share: colours, sizes, a figure that shows itself, an empty canvas.

Figures are made without pyplot, so nothing global is opened or left open.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

INK, SOFT, BLUE, ORANGE, GREEN, RED, BAND = "#1d2733", "#8794a3", "#2463b0", "#d9701a", "#12733f", "#b3261e", "#a9c7ea"
WIDTH, HEIGHT = 6.4, 3.9
DPI = 100


class Picture(Figure):
    """A figure that a notebook shows by itself, whatever the backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG of 128 colours: a third of the size, so that a report stays light to mail."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    buffer.seek(0)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(128).save(path, format="PNG", optimize=True)


class Gallery(list[Picture]):
    """Pictures that a notebook shows one below the other."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for picture in self:
            display(picture)


def canvas(title: str, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Picture, Axes]:
    """Return a figure of one pair of axes with a title."""
    figure = Picture(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Take from axes what a reader does not need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)


def reliability(curve: Mapping[str, list[float]]) -> Picture:
    """Draw observed frequencies against predicted probabilities."""
    figure, axes = canvas("Reliability: what was said against what happened")
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1)
    axes.plot(curve["predicted"], curve["observed"], "o-", color=BLUE, markersize=4)
    axes.set(xlabel="predicted probability (bins of equal mass)", ylabel="observed frequency")
    return figure


def comparison(
    metric: str,
    model: str,
    metrics: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    oracle: Mapping[str, Any] | None,
) -> Picture:
    """Draw one metric of model, baselines and oracle, each with its interval."""
    rows = {model: metrics[metric], **{k: v[metric] for k, v in baselines.items()}}
    if oracle is not None:
        rows["oracle"] = oracle[metric]
    names = list(rows)[::-1]
    figure, axes = canvas(f"{metric} on the test part, with 95 % intervals", height=0.9 + 0.42 * len(names))
    for i, name in enumerate(names):
        colour = BLUE if name == model else GREEN if name == "oracle" else SOFT
        value = rows[name]
        axes.plot([value["low"], value["high"]], [i, i], color=colour, linewidth=3, alpha=0.5)
        axes.plot(value["value"], i, "o", color=colour)
    axes.set_yticks(range(len(names)), names)
    low = min(v["value"] for v in rows.values())
    axes.set_xlim(left=max(low - 0.05, -1.0))
    return figure
