"""Pictures of the monitoring report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from aiops_core.study.pictures.common import BAND, BLUE, GREEN, INK, ORANGE, RED, SOFT, WIDTH, Picture, canvas

NAMES = {"f1": "F1", "accuracy": "accuracy", "error": "error of the forecast, standard deviations"}
_KINDS = {
    "value": "",
    "mean": ", window mean",
    "spread": ", window spread",
    "missing": ", missing",
    "score": "",
    "class": "",
}
#: Rows of the picture of drift.
MOST = 16


def pictures(found: Mapping[str, Any]) -> dict[str, Picture]:
    """Return the pictures of one task by name; ``wide`` ones take the width of the page.

    Parameters
    ----------
    found : mapping
        As `aiops_core.monitor.look` returns it.
    """
    if "days" not in found:
        return {}
    out = {"wide_drift_over_time": drift_over_time(found), "1_score": score(found)}
    if found["estimate"]:
        out["2_quality_over_time"] = quality_over_time(found)
    if found["quality"] and found["quality"]["days"]:
        out["3_calibration_over_time"] = calibration_over_time(found)
    if found["alerts"]:
        out["4_alerts_a_day"] = alerts_a_day(found["alerts"])
    return out


def drift_over_time(found: Mapping[str, Any]) -> Picture:
    """Draw the PSI of each feature and day as a multiple of its threshold, the most drifted features first."""
    rows = [d for d in found["drift"] if d["days"]]
    days = len(found["days"])
    grid = np.full((len(rows), days), np.nan)
    for i, row in enumerate(rows):
        for day in row["days"]:
            grid[i, days - 1 - day["day"]] = day["psi"] / max(day["threshold"], 1e-9)
    order = np.argsort(-np.nan_to_num(np.nanmax(np.nan_to_num(grid), axis=1)), kind="stable")[:MOST]
    title = f"Drift by day, as a multiple of its threshold (the first {len(order)} of {len(rows)})"
    figure, axes = canvas(title, width=2 * WIDTH, height=1.3 + 0.24 * max(len(order), 1))
    axes.grid(visible=False)
    if not len(order):
        axes.text(0.5, 0.5, "no day has 30 answers", ha="center", transform=axes.transAxes, color=SOFT)
        return figure
    colours = LinearSegmentedColormap.from_list("drift", ["#ffffff", "#f4e3cf", ORANGE, RED])
    colours.set_bad("#eef1f4")
    shown = axes.imshow(np.ma.masked_invalid(grid[order]), aspect="auto", cmap=colours, vmin=0, vmax=2)
    axes.set_yticks(range(len(order)), [rows[i]["feature"] + _KINDS[rows[i]["kind"]] for i in order], fontsize=9)
    axes.set_xticks(range(days), ["now" if k == days - 1 else f"−{days - 1 - k} d" for k in range(days)], fontsize=9)
    for y, i in enumerate(order):
        for x in range(days):
            if days <= 15 and not np.isnan(grid[i, x]):
                dark = grid[i, x] > 1.4
                axes.text(x, y, f"{grid[i, x]:.1f}", ha="center", va="center", fontsize=8, color="w" if dark else INK)
    if days > 15:
        figure.colorbar(shown, ax=axes, fraction=0.025, pad=0.01, ticks=[0, 1, 2]).ax.tick_params(labelsize=8)
    return figure


def score(found: Mapping[str, Any]) -> Picture:
    """Draw the scores of the last day against those of held-out rows."""
    content = found["score"]
    place = np.arange(len(content["card"]))
    figure, axes = canvas("Scores of the last day against held-out rows")
    axes.bar(place, content["card"], width=0.96, color=BAND, label="held-out rows")
    axes.step(np.r_[place - 0.5, place[-1] + 0.5], [*content["now"], content["now"][-1]], where="post", color=ORANGE,
              label="last 24 hours", linewidth=1.8)  # fmt: skip
    ticks = np.unique(np.linspace(0, len(place), 6).astype(int))
    axes.set_xticks(ticks - 0.5, [f"{content['edges'][t]:.2g}" for t in ticks])
    unit = "width of the band, standard deviations" if found["task"] == "capacity" else "probability"
    axes.set_xlabel(f"{unit} (bins of equal mass in training)", fontsize=9)
    axes.set_ylabel("share of answers", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def quality_over_time(found: Mapping[str, Any]) -> Picture:
    """Draw estimated and labelled quality by day with 95 % intervals, and what was promised."""
    guess, measured = found["estimate"], found["quality"]
    figure, axes = canvas(f"Quality by day: {NAMES[guess['metric']]}")
    for content, colour, mark, words in ((guess, BLUE, "o", "estimated"), (measured, GREEN, "s", "labelled")):
        if not content or not content["days"]:
            continue
        days = content["days"][::-1]
        at = np.array([-day["day"] for day in days]) + (0.08 if colour == GREEN else -0.08)
        value = np.array([day["value"] for day in days])
        axes.vlines(at, [d["low"] for d in days], [d["high"] for d in days], color=colour, alpha=0.45, linewidth=2)
        axes.plot(at, value, f"{mark}-", color=colour, markersize=4, label=words)
    axes.axhline(guess["promised"], color=SOFT, linestyle="--", linewidth=1, label="promised by held-out rows")
    axes.set_ylim(bottom=0, top=1.02 if guess["metric"] != "error" else None)
    _days_axis(axes, len(found["days"]))
    axes.legend(fontsize=8, frameon=False, loc="best")
    return figure


def calibration_over_time(found: Mapping[str, Any]) -> Picture:
    """Draw what was said against what came true, by day."""
    days = found["quality"]["days"][::-1]
    title = {
        "failure": "Incidents: said and come true, by day",
        "threat": "Right answers: said and come true, by day",
        "capacity": "Truth inside the band: promised and seen, by day",
    }[found["task"]]
    figure, axes = canvas(title)
    at = [-day["day"] for day in days]
    axes.plot(at, [d["mean_probability"] for d in days], "o--", color=SOFT, markersize=4, label="said")
    axes.plot(at, [d["rate"] for d in days], "s-", color=GREEN, markersize=4, label="came true")
    top = max(max(d["mean_probability"], d["rate"]) for d in days)
    axes.set_ylim(0, min(1.02, 1.3 * top) if top else 1)
    _days_axis(axes, len(found["days"]))
    axes.legend(fontsize=8, frameon=False)
    return figure


def alerts_a_day(content: Mapping[str, Any]) -> Picture:
    """Draw the alerts of each day, and their budget."""
    figure, axes = canvas("Alerts a day")
    count = content["per_day"][::-1]
    axes.bar(np.arange(1 - len(count), 1), count, color=BLUE, width=0.7)
    if content["budget"] is not None:
        words = "to be expected" if content["promised"] else "budget"
        axes.axhline(content["budget"], color=ORANGE, linestyle="--", linewidth=1.5, label=words)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_ylim(0, 1.25 * max([*count, content["budget"] or 1, 1]))
    _days_axis(axes, len(count))
    return figure


def _days_axis(axes: Any, days: int) -> None:
    step = max(1, days // 7)
    at = np.arange(0, -days, -step)
    axes.set_xticks(at, ["now" if day == 0 else f"−{-day} d" for day in at])
    axes.set_xlim(-days + 0.4, 0.6)
