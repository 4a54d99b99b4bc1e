"""What all pictures share: colours, sizes, a figure that shows itself, an empty canvas.

Figures are made without pyplot, so nothing global is opened or left open.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from PIL import Image

from aiops_core.judge.metrics import WORDS

INK, SOFT, BLUE, ORANGE, GREEN, RED, BAND = "#1d2733", "#8794a3", "#2463b0", "#d9701a", "#12733f", "#b3261e", "#a9c7ea"
#: Small on a fine raster, so that letters stay legible where a page is as narrow as a phone.
WIDTH, HEIGHT = 5.2, 3.4
DPI = 125
#: Of a title, that fit on an inch beside what stands left of the axes.
LETTERS = 9.5

#: Bars of a picture of importances.
MOST_FEATURES = 15


class Picture(Figure):
    """A figure that a notebook shows by itself, whatever the backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG of 128 colours: a third of the size, so that a report stays light to mail."""
    buffer, light = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    buffer.seek(0)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(128).save(light, format="PNG", optimize=True)
    return light.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `png`."""
    path.write_bytes(png(figure))


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
    axes.set_title(fill(title, int(LETTERS * width)), loc="left", fontsize=11, color=INK)
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Take from axes what a reader does not need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)


def reliability(curve: Mapping[str, list[float]], *, brier_skill: float | None = None) -> Picture:
    """Draw observed frequencies against predicted probabilities with their intervals, and how many rows each rests on.

    Parameters
    ----------
    curve : mapping
        ``predicted, observed, count`` by bin, and where known ``low`` and ``high``.
    brier_skill : float, optional
        Share by which the Brier score is lower than that of the base rate.
    """
    figure = Picture(figsize=(WIDTH, HEIGHT + 0.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    title = "Reliability: what was said against what happened"
    if brier_skill is not None:
        than = "lower" if brier_skill >= 0 else "higher"
        title += f"\nBrier score {abs(brier_skill):.0%} {than} than the base rate's"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1)
    axes.plot(curve["predicted"], curve["observed"], "o-", color=BLUE, markersize=4)
    if "low" in curve:
        axes.vlines(curve["predicted"], curve["low"], curve["high"], color=BLUE, alpha=0.45, linewidth=2)
    axes.set_ylabel("observed, with 95 % interval" if "low" in curve else "observed frequency", fontsize=9)
    below.vlines(curve["predicted"], 0, curve["count"], color=SOFT, linewidth=3)
    below.set_ylim(bottom=0)
    below.set_xlabel("predicted probability (bins of equal mass)", fontsize=9)
    below.set_ylabel("rows", fontsize=9)
    plain(axes)
    plain(below)
    return figure


def over_time(content: Mapping[str, list[Any]]) -> Picture:
    """Draw metrics of successive parts of the test time.

    Parameters
    ----------
    content : mapping
        ``from`` (ISO times), and one list for each metric that `aiops_core.judge.metrics.WORDS` knows; None
        where a part has no value.
    """
    figure, axes = canvas("Over the time of the test")
    at = np.array([v.removesuffix("Z") for v in content["from"]], dtype="datetime64[s]")
    names = [name for name in content if name in WORDS]
    for name, colour, line in zip(names, (BLUE, ORANGE, GREEN), ("o-", "s--", "^:"), strict=False):
        values = np.array(content[name], dtype=float)
        axes.plot(at, values, line, color=colour, markersize=4, label=WORDS[name])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("start of each part", fontsize=9)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.legend(fontsize=8, frameon=False)
    return figure


def importance(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw how much each feature moves a model, the largest first.

    Parameters
    ----------
    rows : sequence of mapping
        ``feature`` and ``importance``, largest first; the first `MOST_FEATURES` are drawn.
    """
    shown = list(rows)[:MOST_FEATURES][::-1]
    more = f" (the first {len(shown)} of {len(rows)})" if len(rows) > len(shown) else ""
    figure, axes = canvas(f"Importance of features{more}", height=0.9 + 0.24 * len(shown))
    axes.barh([str(row["feature"]) for row in shown], [row["importance"] for row in shown], color=BLUE)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("importance", fontsize=9)
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
    figure, axes = canvas(
        f"{WORDS.get(metric, metric)} on the test part, with 95 % intervals", height=0.9 + 0.42 * len(names)
    )
    for i, name in enumerate(names):
        colour = BLUE if name == model else GREEN if name == "oracle" else SOFT
        value = rows[name]
        axes.plot([value["low"], value["high"]], [i, i], color=colour, linewidth=3, alpha=0.5)
        axes.plot(value["value"], i, "o", color=colour)
    axes.set_yticks(range(len(names)), names)
    low = min(v["value"] for v in rows.values())
    axes.set_xlim(left=max(low - 0.05, -1.0))
    return figure
