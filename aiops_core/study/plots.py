"""Pictures of a study for notebooks, MLflow and the report: each function draws one plain dict or frame.

Figures are made without pyplot, so nothing global is opened or left open.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from aiops_core.data.tables import RESERVED, Dataset, to_grid

if TYPE_CHECKING:
    from aiops_core.study.experiment import Study

__all__ = ["Picture", "Gallery", "available", "draw", "figures", "gallery", "overview", "overviews", "save"]

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


def figures(study: Study) -> dict[str, Figure]:
    """Return every picture of an evaluated study by name, in the order of the report."""
    return {f"{i:02d}_{name}": draw(study, name) for i, name in enumerate(available(study), 1)}


def available(study: Study) -> list[str]:
    """Return the names that `draw` knows for a study's task and that its details can fill."""
    own = {"failure": FAILURE, "threat": THREAT, "capacity": CAPACITY}[study.name]
    return [*COMMON, *(name for name, (key, _) in own.items() if study.details.get(key))]


def draw(study: Study, name: str) -> Picture:
    """Draw one picture of a study.

    Parameters
    ----------
    study : Study
        Searched; and evaluated, for pictures of the test part.
    name : str
        ``search_progress``, ``learning_curves``, ``parameters``, ``comparison``, or one of the task's own:
        see `FAILURE`, `THREAT`, `CAPACITY`.
    """
    if name not in study._figures:
        own = {"failure": FAILURE, "threat": THREAT, "capacity": CAPACITY}[study.name]
        study._figures[name] = COMMON[name](study) if name in COMMON else own[name][1](study.details[own[name][0]])
    return study._figures[name]  # type: ignore[return-value]


class Gallery(list[Picture]):
    """Pictures that a notebook shows one below the other."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for picture in self:
            display(picture)


def gallery(study: Study) -> Gallery:
    """Return the pictures of the test part."""
    return Gallery(draw(study, name) for name in available(study) if name not in COMMON)


def overviews(dataset: Dataset) -> Gallery:
    """Return one picture a table, see `overview`."""
    return Gallery(overview(dataset, name) for name in ("telemetry", "activity", "usage") if name in dataset.tables)


def _canvas(title: str, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Picture, Axes]:
    figure = Picture(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)


# The data ------------------------------------------------------------------------------------------------------


def overview(dataset: Dataset, table: str) -> Picture:
    """Draw one contract table: series of one resource with its incidents, or the sizes of classes."""
    frame = dataset.tables[table]
    if table == "activity":
        counts = frame["threat_type"].value_counts()
        figure, axes = _canvas(f"activity: {len(frame):,} rows by class", height=0.6 + 0.32 * len(counts))
        axes.barh(counts.index[::-1], counts.to_numpy()[::-1], color=BLUE)
        axes.set_xscale("log")
        axes.set_xlabel("rows (log scale)")
        return figure
    columns = [c for c in frame.columns if c not in RESERVED[table] and pd.api.types.is_numeric_dtype(frame[c])]
    columns = [c for c in columns if frame[c].nunique() > 1][:6]
    incidents = dataset.tables.get("incidents") if table == "telemetry" else None
    resource = frame["resource_id"].iloc[0]
    if incidents is not None and len(incidents):
        resource = incidents["resource_id"].value_counts().index[0]
    grid = to_grid(frame[frame["resource_id"] == resource], columns)
    shown = slice(max(0, len(grid.time) - 1500), None)
    figure = Picture(figsize=(2 * WIDTH, 1.3 * len(columns) + 0.6), layout="constrained")
    for i, column in enumerate(columns):
        axes = figure.add_subplot(len(columns), 1, i + 1)
        _plain(axes)
        axes.plot(grid.time[shown], grid.values[shown, i], color=BLUE, linewidth=0.8)
        axes.set_ylabel(column, rotation=0, ha="right", fontsize=8)
        axes.tick_params(labelbottom=i == len(columns) - 1)
        if incidents is not None:
            for _, row in incidents[incidents["resource_id"] == resource].iterrows():
                start, end = (row[c].tz_localize(None) for c in ("start", "end"))
                if start.to_datetime64() >= grid.time[shown][0]:
                    axes.axvspan(start, end, color=RED, alpha=0.3)
    figure.suptitle(f"{table}: {resource}" + (", incidents in red" if incidents is not None else ""), fontsize=11)
    return figure


# The search ----------------------------------------------------------------------------------------------------


def _search_progress(study: Study) -> Picture:
    result = study._need(study.result, "search")
    figure, axes = _canvas(f"{len(result.trials)} trials: validation {result.objective}")
    values = result.trials[result.objective]
    best = values.cummax() if result.mode == "max" else values.cummin()
    colours = result.trials["status"].map({"completed": BLUE, "pruned": SOFT, "errored": RED}).to_numpy()
    axes.scatter(np.arange(1, len(values) + 1), values, c=colours, s=26, zorder=3)
    axes.step(np.arange(1, len(values) + 1), best, where="post", color=ORANGE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial (blue: to the end, grey: pruned, line: best so far)")
    axes.set_ylabel(result.objective)
    return figure


def _learning_curves(study: Study) -> Picture:
    result = study._need(study.result, "search")
    figure, axes = _canvas("Learning curves of the trials, the best in orange")
    best = (
        result.trials[result.objective].idxmax() if result.mode == "max" else result.trials[result.objective].idxmin()
    )
    winner = result.trials.loc[best, "trial"]
    for name, curve in result.curves.groupby("trial", sort=False):
        if name != winner:
            axes.plot(curve["step"], curve[result.objective], color=SOFT, linewidth=0.8, alpha=0.7)
    curve = result.curves[result.curves["trial"] == winner]
    axes.plot(curve["step"], curve[result.objective], color=ORANGE, linewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(f"validation {result.objective}")
    return figure


def _parameters(study: Study) -> Picture:
    """Rank correlation of every searched parameter with the objective, over the trials that reported."""
    result = study._need(study.result, "search")
    usable = result.trials[result.trials[result.objective].notna()]
    score = usable[result.objective].rank()
    strength: dict[str, float] = {}
    for column in (c for c in usable.columns if c.startswith("param:")):
        values = usable[column]
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            values = score.groupby(values.astype(str)).transform("mean")
        if values.nunique() > 1 and score.nunique() > 1:
            strength[column.removeprefix("param:")] = float(np.corrcoef(values.rank(), score)[0, 1])
    order = sorted(strength, key=lambda n: abs(strength[n]))
    figure, axes = _canvas("Which parameters mattered", height=max(2.4, 0.9 + 0.34 * len(order)))
    better = 1 if result.mode == "max" else -1
    axes.barh(order, [strength[n] for n in order], color=[GREEN if better * strength[n] > 0 else RED for n in order])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-1, 1)
    axes.set_xlabel(f"rank correlation with {result.objective} (green: more is better)")
    return figure


def _comparison(study: Study) -> Picture:
    main = study.task.MAIN_METRIC
    rows = {study.task.MODEL: study.metrics[main], **{k: v[main] for k, v in study.baselines.items()}}
    if study.oracle is not None:
        rows["oracle"] = study.oracle[main]
    names = list(rows)[::-1]
    figure, axes = _canvas(f"{main} on the test part, with 95 % intervals", height=0.9 + 0.42 * len(names))
    for i, name in enumerate(names):
        colour = BLUE if name == study.task.MODEL else GREEN if name == "oracle" else SOFT
        value = rows[name]
        axes.plot([value["low"], value["high"]], [i, i], color=colour, linewidth=3, alpha=0.5)
        axes.plot(value["value"], i, "o", color=colour)
    axes.set_yticks(range(len(names)), names)
    low = min(v["value"] for v in rows.values())
    axes.set_xlim(left=max(low - 0.05, -1.0))
    return figure


COMMON: dict[str, Callable[[Any], Picture]] = {
    "comparison": _comparison,
    "search_progress": _search_progress,
    "learning_curves": _learning_curves,
    "parameters": _parameters,
}


# Shared by tasks -----------------------------------------------------------------------------------------------


def _reliability(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Reliability: what was said against what happened")
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1)
    axes.plot(curve["predicted"], curve["observed"], "o-", color=BLUE, markersize=4)
    axes.set_xlabel("predicted probability (bins of equal mass)")
    axes.set_ylabel("observed frequency")
    return figure


# Threat --------------------------------------------------------------------------------------------------------


def _confusion(details: Mapping[str, Any]) -> Picture:
    classes = details["classes"]
    counts = np.array(details["confusion"], dtype=float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.2, 0.62 * len(classes) + 1.6)
    figure, axes = _canvas("Confusion: rows are the truth, shares of a row", width=size + 0.9, height=size)
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*share.shape):
        if counts[i, j]:
            axes.text(
                j,
                i,
                f"{share[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="w" if share[i, j] > 0.5 else INK,
            )
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("decided")
    return figure


def _precision_recall_classes(curves: Mapping[str, Mapping[str, list[float]]]) -> Picture:
    figure, axes = _canvas("Precision and recall by class", width=WIDTH, height=4.6)
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(curve["recall"], curve["precision"], color=f"C{i % 10}", linewidth=1.2, label=name)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")
    return figure


def _attack_cost(cost: Mapping[str, Any]) -> Picture:
    figure, axes = _canvas("Cost of the alarm threshold, attack against normal")
    axes.plot(cost["threshold"], cost["cost"], color=BLUE)
    axes.axvline(cost["chosen"], color=ORANGE, linestyle="--", label=f"chosen {cost['chosen']:.2f}")
    axes.set_xlabel("alarm when P(attack) reaches")
    axes.set_ylabel(f"cost (a miss costs {cost['miss_cost']:g} false alarms)")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _abstain(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Accuracy when the least certain rows are left to a person")
    axes.plot(curve["answered"], curve["accuracy"], "o-", color=BLUE, markersize=3)
    axes.set_xlabel("share of rows answered")
    axes.set_ylabel("accuracy of the answers")
    return figure


THREAT: dict[str, tuple[str, Callable[[Any], Picture]]] = {
    "confusion": ("confusion_matrix", _confusion),
    "precision_recall": ("precision_recall", _precision_recall_classes),
    "reliability": ("reliability", _reliability),
    "attack_cost": ("attack_cost", _attack_cost),
    "abstain": ("abstain", _abstain),
}


# Capacity ------------------------------------------------------------------------------------------------------


def _examples(examples: list[Mapping[str, Any]]) -> Picture:
    figure = Picture(figsize=(2 * WIDTH, 2.1 * ((len(examples) + 1) // 2) + 0.4), layout="constrained")
    for i, example in enumerate(examples):
        axes = figure.add_subplot((len(examples) + 1) // 2, 2 if len(examples) > 1 else 1, i + 1)
        _plain(axes)
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
        for label in axes.get_xticklabels():
            label.set_rotation(20)
        if i == 0:
            axes.legend(fontsize=7.5, frameon=False)
    return figure


def _stamps(values: list[str]) -> np.ndarray:
    return np.array([v.removesuffix("Z") for v in values], dtype="datetime64[s]")


def _error_by_step(rows: list[Mapping[str, Any]]) -> Picture:
    figure = Picture(figsize=(WIDTH, HEIGHT), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    steps = list(dict.fromkeys(str(r["step"]) for r in rows))
    for i, target in enumerate(dict.fromkeys(r["target"] for r in rows)):
        mine = {str(r["step"]): r for r in rows if r["target"] == target}
        at = [k for k, step in enumerate(steps) if step in mine]
        left.plot(at, [mine[steps[k]]["mae"] for k in at], "o-", color=f"C{i}", markersize=4, label=target)
        right.plot(at, [mine[steps[k]]["coverage_80"] for k in at], "o-", color=f"C{i}", markersize=4)
    for axes, title in ((left, "MAE by steps ahead"), (right, "coverage of the 80 % band")):
        _plain(axes)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xticks(range(len(steps)), steps, rotation=45 if len(steps) > 4 else 0, fontsize=8)
        axes.set_xlabel("steps ahead")
    left.set_ylim(bottom=0)
    left.legend(fontsize=7.5, frameon=False)
    right.axhline(0.8, color=SOFT, linestyle="--")
    right.set_ylim(0.5, 1)
    return figure


def _by_resource(rows: list[Mapping[str, Any]]) -> Picture:
    figure, axes = _canvas("Errors by resource: a point is a resource")
    usable = [r for r in rows if r["mase"] is not None and r["coverage_80"] is not None]
    axes.scatter([r["mase"] for r in usable], [r["coverage_80"] for r in usable], s=14, color=BLUE, alpha=0.6)
    for row in sorted(usable, key=lambda r: -r["mase"])[:3]:
        axes.annotate(row["resource_id"], (row["mase"], row["coverage_80"]), fontsize=7.5, color=RED)
    axes.axhline(0.8, color=SOFT, linestyle="--", linewidth=1)
    axes.axvline(1, color=SOFT, linestyle="--", linewidth=1)
    axes.set_xlabel("MASE (below 1: better than seasonal naive in training)")
    axes.set_ylabel("coverage of the 80 % band")
    return figure


CAPACITY: dict[str, tuple[str, Callable[[Any], Picture]]] = {
    "examples": ("examples", _examples),
    "error_by_step": ("by_step", _error_by_step),
    "by_resource": ("by_resource", _by_resource),
}

# Failure -------------------------------------------------------------------------------------------------------


def _precision_recall(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Precision and recall")
    axes.plot(curve["recall"], curve["precision"], color=BLUE)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_ylim(0, 1.02)
    return figure


def _histogram(counts: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Predicted probabilities")
    edges = np.array(counts["edges"])
    width = np.diff(edges)
    axes.bar(
        edges[:-1], counts["negative"], width=width, align="edge", color=SOFT, alpha=0.8, label="no incident follows"
    )
    axes.bar(
        edges[:-1], counts["positive"], width=width, align="edge", color=RED, alpha=0.7, label="an incident follows"
    )
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlabel("probability")
    axes.set_ylabel("test rows")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _leads(events: Mapping[str, Any]) -> Picture:
    caught, incidents = events["caught"], events["incidents"]
    figure, axes = _canvas(f"Lead time: {caught} of {incidents} incidents caught")
    if caught:
        axes.hist(events["leads_hours"], bins=min(24, max(4, caught // 2)), color=GREEN, alpha=0.8)
        axes.axvline(
            events["median_lead_hours"],
            color=ORANGE,
            linestyle="--",
            label=f"median {events['median_lead_hours']:.3g} h",
        )
        axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("hours from the first alarm to the incident")
    axes.set_ylabel("incidents")
    return figure


def _budget(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Incidents caught for a budget of alerts")
    axes.plot(curve["alerts_per_resource_day"], curve["share_caught"], color=BLUE)
    axes.set_xlabel("alerts a resource a day")
    axes.set_ylabel("share of incidents caught")
    axes.set_ylim(0, 1.02)
    return figure


def _failure_cost(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Cost against threshold, for three prices of a missed incident row")
    missed, false = np.array(curve["missed"]), np.array(curve["false_alarms"])
    for price, colour in ((3, SOFT), (10, BLUE), (30, ORANGE)):
        cost = price * missed + false
        axes.plot(
            curve["threshold"], cost / max(cost.max(), 1e-12), color=colour, label=f"a miss costs {price} false alarms"
        )
        best = int(np.argmin(cost))
        axes.plot(curve["threshold"][best], cost[best] / max(cost.max(), 1e-12), "o", color=colour)
    axes.set_xlabel("alarm threshold (a dot marks the cheapest)")
    axes.set_ylabel("cost, relative to its largest")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _by_lead(curve: Mapping[str, list[float]]) -> Picture:
    figure, axes = _canvas("Recall by distance to the incident")
    middle = (np.array(curve["from_steps"]) + np.array(curve["to_steps"])) / 2
    axes.plot(middle, curve["recall"], "o-", color=BLUE, label="recall at the threshold")
    axes.plot(middle, curve["probability"], "o--", color=SOFT, label="mean probability")
    axes.set_xlabel("steps until the incident")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, frameon=False)
    return figure


FAILURE: dict[str, tuple[str, Callable[[Any], Picture]]] = {
    "precision_recall": ("precision_recall", _precision_recall),
    "reliability": ("reliability", _reliability),
    "budget": ("policies", _budget),
    "cost": ("policies", _failure_cost),
    "lead_times": ("events", _leads),
    "recall_by_distance": ("by_lead", _by_lead),
    "histogram": ("histogram", _histogram),
}
