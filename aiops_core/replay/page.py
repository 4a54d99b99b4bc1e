"""The page of a replay: what each version would have done, and the timeline."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.patches import Patch

from aiops_core import files
from aiops_core.facts import FACTS
from aiops_core.study.pictures.common import BLUE, GREEN, INK, ORANGE, RED, SOFT, Picture

__all__ = ["render", "timeline"]

COLOURS = (BLUE, ORANGE, GREEN, "#7a3fa0", SOFT)
#: Resources of the timeline: those with incidents first, then those on which versions differ most.
MOST_RESOURCES = 14
#: Columns of the table: key, words, decimals.
COLUMNS = (
    ("alarms", "rows with an alarm", 0),
    ("alerts", "alerts", 0),
    ("alerts_per_day", "alerts a day", 2),
    ("false_alerts", "false alerts", 0),
    ("false_alarms", "false alarms (rows)", 0),
    ("caught", "incidents announced", 0),
    ("missed", "missed", 0),
    ("median_lead_hours", "median lead, hours", 1),
    ("cost", "cost", 0),
    ("brier", "Brier score", 4),
    ("precision", "precision (rows)", 3),
    ("recall", "recall (rows)", 3),
    ("accuracy", "accuracy", 3),
    ("mean_absolute_error", "mean absolute error", 3),
    ("labelled", "with known truth", 0),
)


def render(out: Path, kept: pd.DataFrame, said: Mapping[int, pd.DataFrame], incidents: pd.DataFrame) -> None:
    """Write ``report.html`` beside ``report.json``."""
    content = json.loads((out / "report.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    columns = [column for column in COLUMNS if any(v.get(column[0]) is not None for v in content["versions"])]
    text = environment.get_template("replay.html.j2").render(
        report=content,
        title=FACTS[content["task"]].title,
        columns=columns,
        cell=_cell,
        sentences=sentences(content),
        picture=Markup(timeline(kept, said, incidents)),
    )
    files.write_text(out / "report.html", text)


def _cell(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def sentences(content: Mapping[str, Any]) -> list[str]:
    """Return what the replay comes to, in words."""
    versions = content["versions"]
    said = []
    for entry in versions:
        if entry.get("incidents"):
            lead = entry["median_lead_hours"]
            ahead = "" if lead is None else f", {lead:.1f} hours ahead in the median"
            said.append(
                f"Version {entry['version']} would have announced {entry['caught']} of {entry['incidents']} incidents{ahead}, "
                f"with {entry['false_alerts']} false alerts: cost {entry['cost']:g}."
            )
        elif entry.get("accuracy") is not None:
            said.append(
                f"Version {entry['version']} is right on {entry['accuracy']:.1%} of {entry['labelled']:,} rows with known "
                f"truth; {entry['missed']} attacks missed, {entry['false_alarms']} false alarms: cost {entry['cost']:g}."
            )
        elif entry.get("mean_absolute_error") is not None:
            said.append(f"Version {entry['version']} is off by {entry['mean_absolute_error']:.3g} on average.")
        else:
            said.append(
                f"Version {entry['version']} would have raised {entry['alerts']} alerts; what was true is not known."
            )
    costs = [(entry["cost"], entry["version"]) for entry in versions if entry.get("cost") is not None]
    if len(costs) > 1 and min(costs)[0] < max(costs)[0]:
        said.append(f"By cost, version {min(costs)[1]} is ahead.")
    return said


def timeline(kept: pd.DataFrame, said: Mapping[int, pd.DataFrame], incidents: pd.DataFrame) -> str:
    """Return the timeline as SVG: a lane a version and resource, alarms as marks, incidents as bands."""
    names = _resources(kept, said, incidents)
    figure = Picture(figsize=(11, 1.3 + 0.32 * max(1, len(names)) * max(1.0, 0.55 * len(said))), layout="constrained")
    axes = figure.add_subplot()
    place = {name: i for i, name in enumerate(names[::-1])}
    width = 0.7 / max(1, len(said))
    for resource, start, end in zip(incidents["resource_id"], incidents["start"], incidents["end"], strict=True):
        if resource in place:
            stop = start + pd.Timedelta(hours=1) if pd.isna(end) else end
            bottom = place[resource] - 0.42
            axes.broken_barh([(_naive(start), _naive(stop) - _naive(start))], (bottom, 0.84), color=RED, alpha=0.35)
    for i, (version, frame) in enumerate(said.items()):
        rows = kept[frame["alarm"].astype(bool) & kept["resource_id"].isin(names)]
        height = rows["resource_id"].map(place) + 0.35 - width * (i + 0.5)
        axes.plot(
            rows["time"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), height, "|",
            color=COLOURS[i % len(COLOURS)], markersize=7, markeredgewidth=1.4, label=f"version {version}",
        )  # fmt: skip
    axes.set_yticks(list(place.values()), [str(name)[:28] for name in place], fontsize=8)
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.set_xlim(_naive(kept["time"].min()), _naive(kept["time"].max()))
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    handles = [
        *axes.get_legend_handles_labels()[0],
        *([Patch(color=RED, alpha=0.35, label="incident")] * bool(len(incidents))),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, fontsize=8, frameon=False, labelcolor=INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _naive(time: Any) -> Any:
    return pd.Timestamp(time).tz_convert("UTC").tz_localize(None)


def _resources(kept: pd.DataFrame, said: Mapping[int, pd.DataFrame], incidents: pd.DataFrame) -> list[str]:
    """Return the resources that are worth a lane."""
    alarms = pd.DataFrame({version: frame["alarm"].astype(float) for version, frame in said.items()})
    apart = (alarms.nunique(axis=1) > 1).groupby(kept["resource_id"]).sum()
    loud = alarms.sum(axis=1).groupby(kept["resource_id"]).sum()
    troubled = pd.Series(apart.index.isin(incidents["resource_id"]), index=apart.index)
    order = pd.DataFrame({"troubled": troubled, "apart": apart, "loud": loud})
    order = order.sort_values(["troubled", "apart", "loud"], ascending=False, kind="stable")
    return [str(name) for name in order.index[:MOST_RESOURCES]]
