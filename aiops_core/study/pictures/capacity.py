"""Pictures of the capacity forecaster on the test part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.dates import ConciseDateFormatter

from aiops_core.study.pictures.common import BAND, BLUE, HEIGHT, RED, SOFT, WIDTH, Picture, canvas, over_time, plain


def _examples(examples: list[Mapping[str, Any]]) -> Picture:
    figure = Picture(figsize=(2 * WIDTH, 2.1 * ((len(examples) + 1) // 2) + 0.4), layout="constrained")
    for i, example in enumerate(examples):
        axes = figure.add_subplot((len(examples) + 1) // 2, 2 if len(examples) > 1 else 1, i + 1)
        plain(axes)
        history = example["history"]
        stamps = _stamps(history["timestamp"])
        axes.plot(stamps, np.array(history["value"], dtype=float), color=SOFT, linewidth=0.9, label="measured")
        at = _stamps(example["timestamp"])
        order = np.argsort(at, kind="stable")
        p50 = np.array(example["p50"])[order]
        few = len(at) < 60
        if "p10" in example:
            low, high = (np.array(example[q])[order] for q in ("p10", "p90"))
            if few:
                axes.vlines(at[order], low, high, color=BAND, linewidth=3, label="80 % band")
            else:
                axes.fill_between(at[order], low, high, color=BAND, alpha=0.6, linewidth=0, label="80 % band")
        axes.plot(at[order], p50, "o" if few else "-", color=BLUE, markersize=3, label="forecast (p50)")
        axes.set_title(f"{example['kind']}: {example['resource_id']}, {example['target']}", fontsize=9, loc="left")
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
        if i == 0:
            axes.legend(fontsize=7.5, frameon=False)
    return figure


def _stamps(values: list[str]) -> np.ndarray:
    return np.array([v.removesuffix("Z") for v in values], dtype="datetime64[s]")


def _error_by_step(rows: list[Mapping[str, Any]]) -> Picture:
    misses = any(r.get("below_p10") is not None for r in rows)
    figure = Picture(figsize=(2 * WIDTH, HEIGHT), layout="constrained")
    error, coverage, *rest = figure.subplots(1, 3 if misses else 2)
    steps = list(dict.fromkeys(str(r["step"]) for r in rows))
    for i, target in enumerate(dict.fromkeys(r["target"] for r in rows)):
        mine = {str(r["step"]): r for r in rows if r["target"] == target}
        at = [k for k, step in enumerate(steps) if step in mine]

        def of(name: str, mine: Mapping[str, Any] = mine, at: list[int] = at) -> np.ndarray:
            return np.array([mine[steps[k]].get(name) for k in at], dtype=float)

        error.plot(at, of("mae"), "o-", color=f"C{i}", markersize=4, label=target)
        coverage.plot(at, of("coverage_80"), "o-", color=f"C{i}", markersize=4)
        for axes in rest:
            axes.plot(at, of("above_p90"), "^-", color=f"C{i}", markersize=4)
            axes.plot(at, of("below_p10"), "v--", color=f"C{i}", markersize=4)
    titles = ("MAE by steps ahead", "coverage of the 80 % band", "misses: above p90 (▲), below p10 (▼)")
    for axes, title in zip((error, coverage, *rest), titles, strict=False):
        plain(axes)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xticks(range(len(steps)), steps, rotation=45 if len(steps) > 4 else 0, fontsize=8)
        axes.set_xlabel("steps ahead")
    error.set_ylim(bottom=0)
    error.legend(fontsize=7.5, frameon=False)
    coverage.axhline(0.8, color=SOFT, linestyle="--")
    coverage.set_ylim(0.5, 1)
    for axes in rest:
        axes.axhline(0.1, color=SOFT, linestyle="--")
        axes.set_ylim(bottom=0)
    return figure


def _over_time(rows: list[Mapping[str, Any]]) -> Picture:
    names = ("mase", "coverage_80")
    return over_time({"from": [r["origins_from"] for r in rows], **{n: [r.get(n) for r in rows] for n in names}})


def _by_resource(rows: list[Mapping[str, Any]]) -> Picture:
    figure, axes = canvas("Errors by resource: a point is a resource")
    usable = [r for r in rows if r["mase"] is not None and r["coverage_80"] is not None]
    axes.scatter([r["mase"] for r in usable], [r["coverage_80"] for r in usable], s=14, color=BLUE, alpha=0.6)
    for row in sorted(usable, key=lambda r: -r["mase"])[:3]:
        axes.annotate(row["resource_id"], (row["mase"], row["coverage_80"]), fontsize=7.5, color=RED)
    axes.axhline(0.8, color=SOFT, linestyle="--", linewidth=1)
    axes.axvline(1, color=SOFT, linestyle="--", linewidth=1)
    axes.set(xlabel="MASE (below 1: better than seasonal naive in training)", ylabel="coverage of the 80 % band")
    return figure


#: Name of a picture to the part of the task's details that it draws, and how.
PICTURES: dict[str, tuple[str, Callable[..., Picture]]] = {
    "over_time": ("by_time", _over_time),
    "examples": ("examples", _examples),
    "error_by_step": ("by_step", _error_by_step),
    "by_resource": ("by_resource", _by_resource),
}
