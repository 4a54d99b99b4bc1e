"""What a test prediction shows: errors and misses by group, over time, of small and large series, and near a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from aiops_core.tasks.capacity.data import CapacityData
from aiops_core.tasks.capacity.scale import naive_scale

#: A warning is asked for at this share of a target's upper bound.
LIMIT = 0.9
#: Bounds of the groups of forecast chances.
CHANCES = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)
#: Normal quantile of 90 %.
Z90 = 1.2815515655446004
#: Lines of a table over time.
TIMES = 12


@dataclass(frozen=True)
class Scored:
    """Test forecasts beside the truth, by scored row; (rows,) each.

    Attributes
    ----------
    truth, p50 : ndarray, in units of the target
    low, high : ndarray or None
        Edges of the band.
    scale : ndarray
        Of the error, see `scale.naive_scale`; 0 where unknown.
    resource, target, origin, step : ndarray, int
    """

    truth: np.ndarray
    p50: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    scale: np.ndarray
    resource: np.ndarray
    target: np.ndarray
    origin: np.ndarray
    step: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Absolute error of the median, in units of the target."""
        found: np.ndarray = np.abs(self.truth - self.p50)
        return found

    @property
    def scaled(self) -> np.ndarray:
        """Absolute error in units of the series' naive error; NaN where that is unknown."""
        return np.where(self.scale > 0, self.error / np.maximum(self.scale, 1e-12), np.nan)

    def group(self, label: str, value: Any, mask: np.ndarray) -> dict[str, Any]:
        """Return the errors and misses of some rows (bool): ``bias`` is the mean of forecast minus truth."""
        out = {label: value, "rows": int(mask.sum()), "mae": float(self.error[mask].mean())}
        usable = self.scaled[mask]
        usable = usable[~np.isnan(usable)]
        out["mase"] = float(usable.mean()) if len(usable) else None
        out |= {"coverage_80": None, "below_p10": None, "above_p90": None}
        if self.low is not None and self.high is not None:
            below, above = self.truth[mask] < self.low[mask], self.truth[mask] > self.high[mask]
            out |= {"below_p10": float(below.mean()), "above_p90": float(above.mean())}
            out["coverage_80"] = float((~below & ~above).mean())
        out["bias"] = float((self.p50[mask] - self.truth[mask]).mean())
        return out


def scored(data: CapacityData, prediction: Mapping[str, np.ndarray]) -> Scored:
    """Lay a prediction of the test part beside the truth."""
    pairs = data.parts["test"]
    r, t = pairs.flat(pairs.resource), pairs.flat(pairs.target)
    low, high = (prediction.get("p10"), prediction.get("p90")) if "p10" in prediction else (None, None)
    return Scored(
        pairs.truth[pairs.known], prediction["p50"], low, high, naive_scale(data, "test"), r, t,
        pairs.flat(pairs.origin), pairs.steps[pairs.known],
    )  # fmt: skip


def by_time(data: CapacityData, rows: Scored) -> list[dict[str, Any]]:
    """Return errors and misses from the first to the last test origins, in at most `TIMES` groups of whole origins."""
    origins = np.unique(rows.origin)
    found = []
    for some in np.array_split(origins, min(TIMES, len(origins))):
        mask = (rows.origin >= some[0]) & (rows.origin <= some[-1])
        start = data.time(rows.resource[mask], np.full(int(mask.sum()), some[0])).min()
        found.append(rows.group("origins_from", f"{start}Z", mask))
    return found


def by_size(data: CapacityData, rows: Scored) -> list[dict[str, Any]]:
    """Return errors and misses of each target's small, middling and large series, by how much they move in training."""
    found = []
    for j, name in enumerate(data.layout.targets):
        mine = rows.target == j
        if len(np.unique(rows.resource[mine])) < 6:
            continue
        cuts = np.quantile(data.naive_error[np.unique(rows.resource[mine]), j], [1 / 3, 2 / 3])
        third = np.searchsorted(cuts, data.naive_error[rows.resource, rows.target])
        for k, words in enumerate(("moves least", "between", "moves most")):
            if (mask := mine & (third == k)).any():
                found.append({"target": name, **rows.group("series", words, mask)})
    return found


def exceedance(data: CapacityData, rows: Scored) -> list[dict[str, Any]]:
    """Return how often values passed a limit where the band gave that some chance.

    Only targets with an upper bound have a limit: `LIMIT` of it. The chance is that of a normal distribution through
    p50 and the edge of the band on the limit's side.

    Returns
    -------
    list of dict
        ``target, limit, chance`` (bounds, as text), ``rows, forecast, seen`` (shares).
    """
    found: list[dict[str, Any]] = []
    if rows.low is None or rows.high is None:
        return found
    for j, name in enumerate(data.layout.targets):
        upper, mine = data.layout.upper[j], rows.target == j
        if upper is None or not mine.any():
            continue
        limit = LIMIT * upper
        p50, truth = rows.p50[mine], rows.truth[mine]
        side = np.where(limit >= p50, rows.high[mine] - p50, p50 - rows.low[mine])
        chance = 1 - ndtr((limit - p50) / np.maximum(side / Z90, 1e-9))
        group = np.clip(np.searchsorted(CHANCES, chance, side="right") - 1, 0, len(CHANCES) - 2)
        for k in np.unique(group):
            bounds = f"{CHANCES[k]:.0%} to {CHANCES[k + 1]:.0%}"
            some = group == k
            shares = {"forecast": float(chance[some].mean()), "seen": float((truth[some] > limit).mean())}
            found.append({"target": name, "limit": limit, "chance": bounds, "rows": int(some.sum()), **shares})
    return found


def first_screen(data: CapacityData, rows: Scored, by_resource: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts for somebody who runs servers.

    Returns
    -------
    dict
        ``typical_error``: by target the error that half of the forecasts stay below, in its unit, and that nine in ten
        do; ``inside_band``: share; ``resources``; ``worst_resources``: names of up to three, the worst first; their
        ``worst_error``: by how much theirs is larger than the median resource's, both in units of the naive error.
    """
    typical = [
        {
            "target": name,
            "half_below": float(np.median(error)),
            "nine_in_ten_below": float(np.quantile(error, 0.9)),
            "typical_value": float(np.median(rows.truth[rows.target == j])),
        }
        for j, name in enumerate(data.layout.targets)
        if len(error := rows.error[rows.target == j])
    ]
    ranked = sorted((g for g in by_resource if g["mase"] is not None), key=lambda g: -g["mase"])
    middle = float(np.median([g["mase"] for g in ranked])) if ranked else 0.0
    return {
        "typical_error": typical,
        "inside_band": rows.group("", "", np.ones(len(rows.truth), dtype=bool))["coverage_80"],
        "resources": len(by_resource),
        "worst_resources": [g["resource_id"] for g in ranked[:3]] if len(ranked) > 3 else [],
        "worst_error": ranked[0]["mase"] / middle if len(ranked) > 3 and middle > 0 else None,
    }


def sentences(screen: Mapping[str, Any], rows: Scored, by_resource: list[dict[str, Any]]) -> list[str]:
    """Return what `first_screen` and the misses come to, in words."""
    found = [
        f"Half of the forecasts of {t['target']} are off by less than {t['half_below']:.3g}, nine in ten by less than "
        f"{t['nine_in_ten_below']:.3g} (a typical value is {t['typical_value']:.3g})."
        for t in screen["typical_error"][:4]
    ]
    total = rows.group("", "", np.ones(len(rows.truth), dtype=bool))
    if total["coverage_80"] is not None:
        line = (
            f"The 80 % band holds {total['coverage_80']:.1%} of the values; {total['below_p10']:.1%} lie below it and "
            f"{total['above_p90']:.1%} above"
        )
        if len(by_resource) >= 10:
            low, high = np.percentile([g["coverage_80"] for g in by_resource], [10, 90])
            line += f". For eight in ten resources it holds between {low:.0%} and {high:.0%}"
        found.append(line + ".")
    if screen["worst_error"] is not None and screen["worst_error"] > 2:
        found.append(
            f"The worst resource, {screen['worst_resources'][0]}, has {screen['worst_error']:.1f} times the error of the "
            "median resource, each against the naive error of its own past."
        )
    return found
