"""Features of a capacity forecast, and the way back from scaled predictions: one code for training and serving.

A forecast of one series at one origin works in *its own* units: everything is centred on its last values and divided
by its recent spread, so neither the unit nor the name of a resource matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiops_core.servable.capacity_layout import DAY, EXOGENOUS, Layout, decays, feature_names, windows

#: Scaled values beyond this are cut for the linear model: one spike must not carry a forecast away.
CLIP = 6.0
TINY = 1e-9


@dataclass(frozen=True)
class Rows:
    """Features of (series, step) pairs.

    Attributes
    ----------
    x : ndarray, (n, k, F), float32
        NaN where the history does not reach.
    level, scale : ndarray, (n,)
        ``value = level + scale * scaled``.
    """

    x: np.ndarray
    level: np.ndarray
    scale: np.ndarray


# Small NaN-aware statistics that never warn.
def _mean(x: np.ndarray) -> np.ndarray:
    known = ~np.isnan(x)
    count = known.sum(-1)
    total = np.where(known, x, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _extreme(x: np.ndarray, sign: float) -> np.ndarray:
    best = np.where(np.isnan(x), -np.inf, sign * x).max(-1)
    return np.where(np.isfinite(best), sign * best, np.nan)


def _median(x: np.ndarray) -> np.ndarray:
    ordered = np.sort(x, axis=-1)  # NaN last
    count = (~np.isnan(x)).sum(-1)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], -1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, x.shape[-1] - 1)[..., None], -1)[..., 0]
    return np.where(count > 0, (low + high) / 2, np.nan)


def _sd(x: np.ndarray) -> np.ndarray:
    root: np.ndarray = np.sqrt(_mean((x - _mean(x)[..., None]) ** 2))
    return root


def _last_known(x: np.ndarray) -> np.ndarray:
    known = ~np.isnan(x)
    position = x.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    return np.where(known.any(1), x[np.arange(len(x)), position], np.nan)


def fit_context(history: np.ndarray, length: int) -> np.ndarray:
    """Cut or left-pad with NaN the last axis to ``length``."""
    given = history.shape[-1]
    if given >= length:
        return history[..., given - length :]
    padding = [(0, 0)] * (history.ndim - 1) + [(length - given, 0)]
    return np.pad(history, padding, constant_values=np.nan)


def normalise(history: np.ndarray, layout: Layout, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return level and scale of each series as its history shows them.

    Level is the median of the last three values (of the last hour, on a finer grid than that): close to where a series
    is after a shift, yet not carried away by one spike. Scale weighs the spread of the last season against that of
    the last seven, so a series that has gone quiet is forecast quietly; both are mean absolute deviations, shrunk
    towards the target's usual relative spread when only a few values are known.

    Parameters
    ----------
    history : ndarray, (n, L), float64
    target : ndarray, (n,), int
        Index into ``layout.targets``.

    Returns
    -------
    level, scale : ndarray, (n,)
    """
    newest = _last_known(history)
    level = _median(history[:, -max(3, layout.season // 24) :])
    level = np.where(np.isnan(level), newest, level)
    level = np.where(np.isnan(level), np.asarray(layout.reference_level)[target], level)
    usual = np.asarray(layout.relative_scale)[target] * np.abs(level)

    def spread(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
        deviation = np.nan_to_num(_mean(np.abs(x - centre[:, None])))
        count = (~np.isnan(x)).sum(1)
        shrunk: np.ndarray = (count * deviation + 3 * usual) / (count + 3)
        return shrunk

    one, seven = history[:, -layout.season :], history[:, -7 * layout.season :]
    long = spread(seven, _mean(seven))
    short = np.maximum(spread(one, _median(one)), 0.05 * long)
    return level, np.maximum(long**0.3 * short**0.7, np.maximum(1e-3 * np.abs(level), TINY))


def features(
    history: np.ndarray,
    last: np.ndarray,
    steps: np.ndarray,
    target: np.ndarray,
    layout: Layout,
    exogenous: np.ndarray | None = None,
) -> Rows:
    """Build the features of every (series, step) pair from what is known at the origin.

    Parameters
    ----------
    history : ndarray, (n, L)
        Values in target units up to and including the origin, oldest first; NaN where unknown; any ``L >= 1``.
    last : ndarray, (n,), datetime64[s]
        Time of the last row, UTC; NaT when unknown.
    steps : ndarray, (n, k), int
        Steps ahead, ``>= 1``.
    target : ndarray, (n,), int
        Index into ``layout.targets``.
    exogenous : ndarray, (n, E, L'), optional
        Other columns, aligned at the origin; NaN where unknown.

    Returns
    -------
    Rows
        Columns as in `feature_names`; values in units of scale around level.
    """
    n, k = steps.shape
    season = layout.season
    history = fit_context(np.asarray(history, dtype=np.float64), layout.context)
    level, scale = normalise(history, layout, target)
    past = _past((history - level[:, None]) / scale[:, None])
    origin = _origin_features(past, layout)
    # Steps before the origin at which the target's phase was last seen: whole seasons are skipped.
    skipped = -(-steps // season)
    ago = skipped * season - steps
    phase = past.same(ago, season * np.arange(layout.seasons))  # (n, k, seasons)
    step = _step_features(past, phase, skipped, steps, layout)

    names, _ = feature_names(layout)
    x_out = np.empty((n, k, len(names)), dtype=np.float32)
    at = len(origin)
    x_out[..., :at] = np.stack(origin, axis=-1)[:, None, :]
    x_out[..., at : at + len(step)] = np.stack(step, axis=-1)
    at += len(step)
    if layout.exogenous:
        width = len(EXOGENOUS) * len(layout.exogenous)
        x_out[..., at : at + width] = _exogenous_features(exogenous, ago, layout, n)
        at += width
    x_out[..., at] = _sd(phase[..., :7])
    x_out[..., at + 1] = swing(level, scale, target, layout)[:, None]
    x_out[..., at + 2] = (past.count[:, -1] / layout.context)[:, None]
    x_out[..., at + 3] = (level / _reference(target, layout))[:, None]
    x_out[..., at + 4] = steps
    hour, weekday = _clock(last, steps, layout.step_seconds)
    x_out[..., at + 5] = hour
    x_out[..., at + 6] = weekday
    if len(layout.targets) > 1:
        x_out[..., at + 7 :] = (np.arange(len(layout.targets)) == target[:, None])[:, None, :]
    return Rows(x_out, level, scale)


def _reference(target: np.ndarray, layout: Layout) -> np.ndarray:
    found: np.ndarray = np.maximum(np.abs(np.asarray(layout.reference_level)[target]), TINY)
    return found


def swing(level: np.ndarray, scale: np.ndarray, target: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the logarithm of each series' scale relative to its level, (n,): quiet ones below, restless ones above."""
    found: np.ndarray = np.log(scale / np.maximum(np.abs(level), 1e-3 * _reference(target, layout)))
    return found


@dataclass(frozen=True)
class _Past:
    """Scaled histories with running sums, so that the mean of any span costs two look-ups.

    Attributes
    ----------
    z : ndarray, (n, L)
        Values in units of scale around level, oldest first; NaN where unknown.
    total, count : ndarray, (n, L + 1)
        Sum and number of the known values before each position.
    """

    z: np.ndarray
    total: np.ndarray
    count: np.ndarray

    def span(self, start: Any, stop: Any, row: Any = slice(None)) -> np.ndarray:
        """Return the mean of the known values in ``[start, stop)``, positions in the history."""
        length = self.z.shape[1]
        start, stop = np.clip(start, 0, length), np.clip(stop, 0, length)
        size = self.count[row, stop] - self.count[row, start]
        total = self.total[row, stop] - self.total[row, start]
        mean: np.ndarray = np.where(size > 0, total / np.maximum(size, 1), np.nan)
        return mean

    def same(self, ago: np.ndarray, back: np.ndarray) -> np.ndarray:
        """Return the values ``ago + back`` steps before the origin, (n, k, b); ``ago`` (n, k), ``back`` (..., b)."""
        length = self.z.shape[1]
        position = length - 1 - ago[..., None] - back
        values = self.z[np.arange(len(self.z))[:, None, None], np.clip(position, 0, length - 1)]
        return np.where((position < 0) | (position >= length), np.nan, values)

    def smooth(self, ago: np.ndarray, back: np.ndarray, width: int) -> np.ndarray:
        """Return means over ``width`` steps on either side of what `same` returns."""
        position = self.z.shape[1] - 1 - ago[..., None] - back
        row = np.arange(len(self.z))[:, None, None]
        return np.where(position < 0, np.nan, self.span(position - width, position + width + 1, row))


def _past(z: np.ndarray) -> _Past:
    n, length = z.shape
    known = ~np.isnan(z)
    total = np.zeros((n, length + 1))
    np.cumsum(np.where(known, z, 0.0), axis=1, out=total[:, 1:])
    count = np.zeros((n, length + 1), dtype=np.int32)
    np.cumsum(known, axis=1, out=count[:, 1:])
    return _Past(z, total, count)


def _origin_features(past: _Past, layout: Layout) -> list[np.ndarray]:
    """Return the features that are the same for every step ahead, (n,) each."""
    z, span, season, length = past.z, past.span, layout.season, layout.context
    one, seven = z[:, -season:], z[:, -7 * season :]
    origin = [z[:, -1], z[:, -2], z[:, -3]]
    origin += [span(length - w, length) for w in windows(layout)]
    origin += [span(length - 2 * season, length - season), span(length - 14 * season, length - 7 * season)]
    origin += [_sd(z[:, -max(6, season // 24) :]), _sd(one), _sd(seven), _mean(np.abs(np.diff(seven, axis=1)))]
    origin += [_mean(np.abs(seven[:, season:] - seven[:, :-season]))]
    for x in (one, seven, z):
        origin += [_extreme(x, 1.0), _extreme(x, -1.0)]
    return origin


def _step_features(
    past: _Past, phase: np.ndarray, skipped: np.ndarray, steps: np.ndarray, layout: Layout
) -> list[np.ndarray]:
    """Return the features that follow the clock of the forecast time, (n, k) each.

    Parameters
    ----------
    phase : ndarray, (n, k, seasons)
        Values at the same phase of past seasons, the newest first.
    skipped : ndarray, (n, k), int
        Whole seasons between the newest of them and the forecast time.
    """
    season, length = layout.season, layout.context
    width = max(1, season // 48)
    ago = skipped * season - steps
    row = np.arange(len(steps))[:, None, None]
    smoothed = past.smooth(ago, season * np.arange(min(7, layout.seasons)), width)
    week = (7 * -(-steps // (7 * season)) - skipped)[..., None]
    weeks = past.same(ago, season * (week + 7 * np.arange(4)))
    back = np.arange(min(7, layout.seasons))
    start = length - 1 - season * (skipped[..., None] + back)
    anchor = np.where(start < 0, np.nan, past.z[row, np.clip(start, 0, length - 1)])
    change = _mean(phase[..., : len(back)] - anchor)
    empty = np.full(steps.shape, np.nan)
    step = [phase[..., i] if i < layout.seasons else empty for i in range(4)]
    step += [_mean(phase[..., :3]), _mean(phase[..., :7]), _mean(phase[..., :14]), _mean(phase)]
    step += [_median(phase[..., :7]), smoothed[..., 0], _mean(smoothed[..., :3]), _mean(smoothed)]
    step += [
        weeks[..., 0],
        weeks[..., 1],
        _mean(weeks),
        past.smooth(ago, season * week, width)[..., 0],
        change,
        past.z[:, -1:] + change,
    ]
    return step


def _exogenous_features(exogenous: np.ndarray | None, ago: np.ndarray, layout: Layout, n: int) -> np.ndarray:
    """Columns `EXOGENOUS` of every exogenous column, (n, k, 4 E), scaled by their own last seven seasons."""
    k, e, season = ago.shape[1], len(layout.exogenous), layout.season
    if exogenous is None or exogenous.shape[-1] == 0:
        return np.full((n, k, len(EXOGENOUS) * e), np.nan)
    length = 7 * season
    values = fit_context(np.asarray(exogenous, dtype=np.float64), length)
    centre = _mean(values)[..., None]
    spread = _mean(np.abs(values - centre))[..., None]
    z = (values - centre) / np.maximum(spread, np.maximum(1e-3 * np.abs(centre), TINY))
    out = np.empty((n, k, e, len(EXOGENOUS)))
    out[..., 0] = z[:, None, :, -1]
    out[..., 1] = _mean(z[..., -max(1, season // 4) :])[:, None]
    out[..., 2] = _mean(z[..., -season:])[:, None]
    out[..., 3] = np.moveaxis(np.take_along_axis(z, np.broadcast_to(length - 1 - ago[:, None], (n, e, k)), -1), 1, 2)
    return out.reshape(n, k, -1)


def _clock(last: np.ndarray, steps: np.ndarray, step_seconds: int) -> tuple[np.ndarray, np.ndarray]:
    """Hour of the day (0 to 24) and weekday (Monday 0) of the forecast times; NaN when the time is unknown."""
    last = np.asarray(last, dtype="datetime64[s]")
    unknown = np.isnat(last)
    seconds = np.where(unknown, 0, last.astype(np.int64))[:, None] + steps * step_seconds
    hour = (seconds % DAY) / 3600.0
    weekday = ((seconds // DAY + 3) % 7).astype(float)
    return np.where(unknown[:, None], np.nan, hour), np.where(unknown[:, None], np.nan, weekday)


def design(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the inputs of the linear model: features, and features fading with the step. (n, P), float64.

    Parameters
    ----------
    x : ndarray, (n, F)
        Features; missing ones count as "at the level" (0).
    """
    names, linear = feature_names(layout)
    z = np.clip(np.nan_to_num(x[:, :linear].astype(np.float64)), -CLIP, CLIP)
    z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    step = x[:, names.index("step")].astype(np.float64)
    return np.concatenate([z] + [np.exp(-step / tau)[:, None] * z for tau in decays(layout)], axis=1)


def swing_group(value: np.ndarray, target: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the group of each series, (n,), int: how many of its target's cuts (targets, groups - 1) it reaches."""
    found: np.ndarray = (value[:, None] >= cuts[target]).sum(axis=1)
    return found


def assemble(
    scaled: np.ndarray,
    rows: Rows,
    steps: np.ndarray,
    target: np.ndarray,
    layout: Layout,
    calibration: Mapping[str, Any] | None,
) -> np.ndarray:
    """Turn scaled predictions into ordered quantiles in target units.

    Parameters
    ----------
    scaled : ndarray, (n, k, 3)
        Quantiles in units of scale around level.
    calibration : mapping, optional
        ``edges`` (last step of each bucket), ``low`` and ``high`` (targets, groups, buckets): conformal offsets, scaled;
        ``swing`` (targets, groups - 1): where the groups of series part, see `swing`. Without groups ``low`` and
        ``high`` are (targets, buckets).

    Returns
    -------
    ndarray, (n, k, 3), float64
        p10 <= p50 <= p90, within the bounds of the target.
    """
    scaled = np.array(scaled, dtype=np.float64)
    if calibration is not None:
        edges = np.asarray(calibration["edges"])
        bucket = np.minimum(np.searchsorted(edges, steps, side="left"), len(edges) - 1)
        chosen: tuple[np.ndarray, ...] = (target[:, None], bucket)
        if "swing" in calibration:
            group = swing_group(swing(rows.level, rows.scale, target, layout), target, np.asarray(calibration["swing"]))
            chosen = (target[:, None], group[:, None], bucket)
        scaled[..., 0] -= np.asarray(calibration["low"])[chosen]
        scaled[..., 2] += np.asarray(calibration["high"])[chosen]
    scaled[..., 0] = np.minimum(scaled[..., 0], scaled[..., 1])
    scaled[..., 2] = np.maximum(scaled[..., 2], scaled[..., 1])
    out = rows.level[:, None, None] + rows.scale[:, None, None] * scaled
    lower = np.array([-np.inf if b is None else b for b in layout.lower])[target][:, None, None]
    upper = np.array([np.inf if b is None else b for b in layout.upper])[target][:, None, None]
    bounded: np.ndarray = np.clip(out, lower, upper)
    return bounded
