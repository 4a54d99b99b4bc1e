"""Pictures of the contract tables."""

from __future__ import annotations

import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from aiops_core.data.tables import RESERVED, Dataset, to_grid
from aiops_core.study.pictures.common import BLUE, RED, WIDTH, Gallery, Picture, canvas, plain


def overview(dataset: Dataset, table: str) -> Picture:
    """Draw one contract table: series of one resource with its incidents, or the sizes of classes."""
    frame = dataset.tables[table]
    if table == "activity":
        counts = frame["threat_type"].value_counts()
        figure, axes = canvas(f"activity: {len(frame):,} rows by class", height=0.6 + 0.32 * len(counts))
        axes.barh(counts.index[::-1], counts.to_numpy()[::-1], color=BLUE)
        axes.set_xscale("log")
        # Plain numbers: powers of ten with factors between them run into each other.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
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
        plain(axes)
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


def overviews(dataset: Dataset) -> Gallery:
    """Return one picture a table, see `overview`."""
    return Gallery(overview(dataset, name) for name in ("telemetry", "activity", "usage") if name in dataset.tables)
