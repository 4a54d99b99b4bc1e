"""Forecasts without anything fitted: the last value, the value one season ago, the median of three."""

from __future__ import annotations

import numpy as np

from aiops_core.servable.capacity_layout import DAY, Layout
from aiops_core.tasks.capacity.data import CapacityData, Pairs, Usage
from aiops_core.tasks.capacity.pairs import history_of

#: Pairs at a time.
CHUNK = 500


def seasons(layout: Layout) -> list[int]:
    """Return the seasons, in steps, that a naive forecast may repeat: the declared one, seven of them, the week."""
    week = 7 * DAY // layout.step_seconds
    wanted = {layout.season, 7 * layout.season} | ({week} if week > 1 and 7 * DAY % layout.step_seconds == 0 else set())
    return sorted(s for s in wanted if s < layout.context) or [layout.season]


def plain_forecasts(data: Usage, pairs: Pairs, season: int | None = None) -> dict[str, np.ndarray]:
    """Return forecasts of the scored rows of pairs that anyone can make by hand.

    Parameters
    ----------
    season : int, optional
        Season that is repeated, in steps; by default the declared one.

    Returns
    -------
    dict of str to ndarray
        ``last_value``; ``seasonal_naive``, the value one season earlier (a missing one: two seasons, and so on);
        ``median_of_three``, the median of that, of the last three values and of the last declared season; (rows,) each.
    """
    lag, length = season or data.layout.season, data.layout.context
    found = {name: np.empty(pairs.steps.shape) for name in ("last_value", "seasonal_naive", "median_of_three")}
    for start in range(0, len(pairs.origin), CHUNK):
        part = slice(start, start + CHUNK)
        history = history_of(data, pairs.resource[part], pairs.target[part], pairs.origin[part], length)
        last = _last_known(history)[:, None]
        same = repeated(history, pairs.steps[part], lag)
        same = np.where(np.isnan(same), last, same)
        recent, day = (median(history[:, -w:])[:, None] for w in (3, data.layout.season))
        three = [same] + [np.broadcast_to(np.where(np.isnan(x), last, x), same.shape) for x in (recent, day)]
        found["last_value"][part] = last
        found["seasonal_naive"][part] = same
        found["median_of_three"][part] = np.median(three, axis=0)
    return {name: values[pairs.known] for name, values in found.items()}


def best_season(data: CapacityData) -> int:
    """Return the season whose repetition has the smallest validation error, every target counting alike."""
    pairs = data.parts["validation"]
    options = seasons(data.layout)
    if len(options) == 1:
        return options[0]
    truth, target = pairs.truth[pairs.known], pairs.flat(pairs.target)
    size = np.maximum(np.bincount(target), 1)
    errors = np.stack(
        [np.bincount(target, np.abs(truth - plain_forecasts(data, pairs, s)["seasonal_naive"])) / size for s in options]
    )
    usable = errors.min(axis=0) > 0
    return (
        options[int(np.argmin((errors[:, usable] / errors[:, usable].min(axis=0)).mean(axis=1)))]
        if usable.any()
        else options[0]
    )


def repeated(history: np.ndarray, steps: np.ndarray, season: int, tries: int = 6) -> np.ndarray:
    """Return the newest known value at the phase of each step, at most ``tries`` seasons further back; (n, k).

    Parameters
    ----------
    history : ndarray, (n, L)
        Up to the origin; NaN where unknown.
    steps : ndarray, (n, k)
    """
    length = history.shape[1]
    row = np.arange(len(history))[:, None]
    position = length - 1 + steps - season * -(-steps // season)
    found = np.full(steps.shape, np.nan)
    for _ in range(tries + 1):
        value = np.where(position >= 0, history[row, np.clip(position, 0, length - 1)], np.nan)
        found = np.where(np.isnan(found), value, found)
        position = position - season
    return found


def _last_known(history: np.ndarray) -> np.ndarray:
    back = np.argmax(~np.isnan(history[:, ::-1]), axis=1)
    found: np.ndarray = history[np.arange(len(history)), history.shape[1] - 1 - back]
    return found


def median(x: np.ndarray) -> np.ndarray:
    """Return the median of the known values of each row, NaN where there are none; (n,)."""
    some = ~np.isnan(x).all(axis=1)
    out = np.full(len(x), np.nan)
    if some.any():
        out[some] = np.nanmedian(x[some], axis=1)
    return out
