"""Capacity forecasts from a servable folder, and the feature code that training shares with it.

A forecast of one series at one origin works in *its own* units: everything is centred on its last values and divided
by its recent spread, so neither the unit nor the name of a resource matters. Boosted trees predict the distance of
each quantile from there, or from a linear backbone (one a target), or the mean of both; conformal offsets by step and
target widen or narrow the band to what validation showed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core.errors import ServableError
from aiops_core.servable import Driver, Servable

__all__ = ["LINEAR", "QUANTILES", "CapacityServable", "Layout", "Rows", "assemble", "design", "features"]

QUANTILES = (0.1, 0.5, 0.9)
#: Name of the linear graph.
LINEAR = "linear"
#: Seasons of history that features look back on, and a bound on the steps that may take.
SEASONS = 28
MAX_CONTEXT = 8192
#: Scaled values beyond this are cut for the linear model: one spike must not carry a forecast away.
CLIP = 6.0
DAY = 86_400
TINY = 1e-9


@dataclass(frozen=True)
class Layout:
    """What fixes the features: stored in the card, so serving builds exactly what training built.

    Attributes
    ----------
    targets, exogenous : tuple of str
        A target may be exogenous for the others; its own slot is then empty.
    season, horizon, step_seconds : int
        In steps, steps and seconds.
    relative_scale, reference_level : tuple of float
        By target: typical spread relative to the level, used for histories too short to show theirs; median level.
    lower, upper : tuple of (float or None)
        By target: bounds that the training data show.
    """

    targets: tuple[str, ...]
    exogenous: tuple[str, ...]
    season: int
    horizon: int
    step_seconds: int
    relative_scale: tuple[float, ...]
    reference_level: tuple[float, ...]
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]

    @property
    def seasons(self) -> int:
        """Seasons of history in use."""
        return max(1, min(SEASONS, MAX_CONTEXT // self.season))

    @property
    def context(self) -> int:
        """Longest history in use, in steps."""
        return max(self.seasons * self.season, min(16, MAX_CONTEXT))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Read back what `as_dict` wrote."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


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


# Windows -------------------------------------------------------------------------------------------------------------


def _windows(layout: Layout) -> list[int]:
    """Lengths of the trailing means, ascending."""
    s = layout.season
    wanted = {3, s // 24, s // 8, s // 4, s // 2, 2 * s, 3 * s, 7 * s, 14 * s, 28 * s}
    return sorted(w for w in wanted if 2 <= w <= layout.context)


def _decays(layout: Layout) -> list[float]:
    """Time constants, in steps, with which linear coefficients fade along the horizon."""
    s = layout.season
    wanted = {3.0, s / 8, s / 2} | ({7.0 * s} if layout.horizon > 2 * s else set())
    return sorted(d for d in wanted if d >= 1)


_ORIGIN: tuple[str, ...] = ("previous", "previous7", "sd_short", "sd1", "sd7", "move7", "season_move7")
_ORIGIN += ("max1", "min1", "max7", "min7", "max_all", "min_all")
_STEP: tuple[str, ...] = (
    "lag0",
    "lag1",
    "lag2",
    "lag3",
    "same3",
    "same7",
    "same14",
    "same_all",
    "same7_median",
    "smooth0",
    "smooth3",
)
_STEP += ("smooth7", "week0", "week1", "week_mean", "week_smooth", "change7", "last_plus_change7")
_EXOGENOUS = ("last", "recent", "season", "same")
_REST = ("same7_sd", "spread", "observed", "height", "step", "hour", "weekday")


def feature_names(layout: Layout) -> tuple[list[str], int]:
    """Return the names of the features, and how many of the first ones enter the linear model."""
    names = ["last1", "last2", "last3", *(f"mean_{w}" for w in _windows(layout)), *_ORIGIN, *_STEP]
    names += [f"{column}:{kind}" for column in layout.exogenous for kind in _EXOGENOUS]
    linear = len(names)
    names += [*_REST, *(f"target:{name}" for name in layout.targets if len(layout.targets) > 1)]
    return names, linear


# Small NaN-aware statistics that never warn --------------------------------------------------------------------------


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


# Features ------------------------------------------------------------------------------------------------------------


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
    season, length = layout.season, layout.context
    history = fit_context(np.asarray(history, dtype=np.float64), length)
    level, scale = normalise(history, layout, target)
    z = (history - level[:, None]) / scale[:, None]
    known = ~np.isnan(z)
    total = np.zeros((n, length + 1))
    np.cumsum(np.where(known, z, 0.0), axis=1, out=total[:, 1:])
    count = np.zeros((n, length + 1), dtype=np.int32)
    np.cumsum(known, axis=1, out=count[:, 1:])

    def span(start: Any, stop: Any, row: Any = slice(None)) -> np.ndarray:
        """Mean of the known values in ``[start, stop)``, positions in the context."""
        start, stop = np.clip(start, 0, length), np.clip(stop, 0, length)
        size = count[row, stop] - count[row, start]
        mean: np.ndarray = np.where(size > 0, (total[row, stop] - total[row, start]) / np.maximum(size, 1), np.nan)
        return mean

    def sd(x: np.ndarray) -> np.ndarray:
        root: np.ndarray = np.sqrt(_mean((x - _mean(x)[..., None]) ** 2))
        return root

    one, seven = z[:, -season:], z[:, -7 * season :]
    origin = [z[:, -1], z[:, -2], z[:, -3]]
    origin += [span(length - w, length) for w in _windows(layout)]
    origin += [span(length - 2 * season, length - season), span(length - 14 * season, length - 7 * season)]
    origin += [sd(z[:, -max(6, season // 24) :]), sd(one), sd(seven), _mean(np.abs(np.diff(seven, axis=1)))]
    origin += [_mean(np.abs(seven[:, season:] - seven[:, :-season]))]
    for x in (one, seven, z):
        origin += [_extreme(x, 1.0), _extreme(x, -1.0)]

    # Positions of the target's phase in past seasons: `ago` steps before the origin, `ahead` whole seasons skipped.
    row = np.arange(n)[:, None, None]
    skipped = -(-steps // season)
    ago = skipped * season - steps

    def same(seasons_back: np.ndarray, lag: int = 0) -> np.ndarray:
        position = length - 1 - ago[..., None] - season * seasons_back - lag
        values = z[row, np.clip(position, 0, length - 1)]
        return np.where((position < 0) | (position >= length), np.nan, values)

    def smooth(seasons_back: np.ndarray) -> np.ndarray:
        width = max(1, season // 48)
        position = length - 1 - ago[..., None] - season * seasons_back
        return np.where(position < 0, np.nan, span(position - width, position + width + 1, row))

    phase = same(np.arange(layout.seasons))  # (n, k, seasons)
    smoothed = smooth(np.arange(min(7, layout.seasons)))
    week = (7 * -(-steps // (7 * season)) - skipped)[..., None]
    weeks = same(week + 7 * np.arange(4))
    back = np.arange(min(7, layout.seasons))
    start = length - 1 - season * (skipped[..., None] + back)
    anchor = np.where(start < 0, np.nan, z[row, np.clip(start, 0, length - 1)])
    change = _mean(phase[..., : len(back)] - anchor)
    empty = np.full((n, k), np.nan)
    step = [phase[..., i] if i < layout.seasons else empty for i in range(4)]
    step += [_mean(phase[..., :3]), _mean(phase[..., :7]), _mean(phase[..., :14]), _mean(phase)]
    step += [_median(phase[..., :7]), smoothed[..., 0], _mean(smoothed[..., :3]), _mean(smoothed)]
    step += [weeks[..., 0], weeks[..., 1], _mean(weeks), smooth(week)[..., 0], change, z[:, -1:] + change]

    names, _ = feature_names(layout)
    x_out = np.empty((n, k, len(names)), dtype=np.float32)
    at = len(origin)
    x_out[..., :at] = np.stack(origin, axis=-1)[:, None, :]
    x_out[..., at : at + len(step)] = np.stack(step, axis=-1)
    at += len(step)
    if layout.exogenous:
        width = len(_EXOGENOUS) * len(layout.exogenous)
        x_out[..., at : at + width] = _exogenous_features(exogenous, ago, layout, n)
        at += width
    x_out[..., at] = sd(phase[..., :7])
    reference = np.maximum(np.abs(np.asarray(layout.reference_level)[target]), TINY)
    x_out[..., at + 1] = np.log(scale / np.maximum(np.abs(level), 1e-3 * reference))[:, None]
    x_out[..., at + 2] = (count[:, -1] / length)[:, None]
    x_out[..., at + 3] = (level / reference)[:, None]
    x_out[..., at + 4] = steps
    hour, weekday = _clock(last, steps, layout.step_seconds)
    x_out[..., at + 5] = hour
    x_out[..., at + 6] = weekday
    if len(layout.targets) > 1:
        x_out[..., at + 7 :] = (np.arange(len(layout.targets)) == target[:, None])[:, None, :]
    return Rows(x_out, level, scale)


def _exogenous_features(exogenous: np.ndarray | None, ago: np.ndarray, layout: Layout, n: int) -> np.ndarray:
    """Columns `_EXOGENOUS` of every exogenous column, (n, k, 4 E), scaled by their own last seven seasons."""
    k, e, season = ago.shape[1], len(layout.exogenous), layout.season
    if exogenous is None or exogenous.shape[-1] == 0:
        return np.full((n, k, len(_EXOGENOUS) * e), np.nan)
    length = 7 * season
    values = fit_context(np.asarray(exogenous, dtype=np.float64), length)
    centre = _mean(values)[..., None]
    spread = _mean(np.abs(values - centre))[..., None]
    z = (values - centre) / np.maximum(spread, np.maximum(1e-3 * np.abs(centre), TINY))
    out = np.empty((n, k, e, len(_EXOGENOUS)))
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
    return np.concatenate([z] + [np.exp(-step / tau)[:, None] * z for tau in _decays(layout)], axis=1)


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
        ``edges`` (last step of each bucket), ``low`` and ``high`` (targets, buckets): conformal offsets, scaled.

    Returns
    -------
    ndarray, (n, k, 3), float64
        p10 <= p50 <= p90, within the bounds of the target.
    """
    scaled = np.array(scaled, dtype=np.float64)
    if calibration is not None:
        edges = np.asarray(calibration["edges"])
        bucket = np.minimum(np.searchsorted(edges, steps, side="left"), len(edges) - 1)
        scaled[..., 0] -= np.asarray(calibration["low"])[target[:, None], bucket]
        scaled[..., 2] += np.asarray(calibration["high"])[target[:, None], bucket]
    scaled[..., 0] = np.minimum(scaled[..., 0], scaled[..., 1])
    scaled[..., 2] = np.maximum(scaled[..., 2], scaled[..., 1])
    out = rows.level[:, None, None] + rows.scale[:, None, None] * scaled
    lower = np.array([-np.inf if b is None else b for b in layout.lower])[target][:, None, None]
    upper = np.array([np.inf if b is None else b for b in layout.upper])[target][:, None, None]
    bounded: np.ndarray = np.clip(out, lower, upper)
    return bounded


# Serving -------------------------------------------------------------------------------------------------------------


class CapacityServable(Servable):
    """Forecasts of usage with a band.

    Attributes
    ----------
    targets : list of str
    exogenous : list of str
        Columns whose history sharpens a forecast; each may be missing.
    season, horizon, step_seconds, context : int
        ``context`` is the longest history in use; more is cut off.
    quantiles : tuple of float
    """

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        super().__init__(folder, card)
        self.layout = Layout.from_dict(card["layout"])
        self.targets = list(self.layout.targets)
        self.exogenous = list(self.layout.exogenous)
        self.season, self.horizon = self.layout.season, self.layout.horizon
        self.step_seconds, self.context = self.layout.step_seconds, self.layout.context
        self.quantiles = QUANTILES
        self._graphs: list[list[str]] = card["graphs"]
        self._shares: list[float] = card["backbone_shares"]

    def _predict(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Scaled quantiles (m, 3) of flat features (m, F)."""
        (every,) = self.session(LINEAR).run(None, {"X": design(x, self.layout)})
        backbone = every[np.arange(len(x)), target]
        out = np.empty((len(x), len(QUANTILES)))
        for column, (names, share) in enumerate(zip(self._graphs, self._shares, strict=True)):
            parts = [self.session(name).run(None, {"X": x})[0][:, 0] for name in names]
            out[:, column] = share * backbone + np.mean(parts, axis=0)
        return out

    def forecast_rows(
        self,
        history: np.ndarray,
        last: np.ndarray,
        steps: np.ndarray,
        target: np.ndarray,
        exogenous: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecast series of several targets, each at its own steps.

        Parameters are those of `features`. Returns an ndarray, (n, k, 3), float64, in target units.
        """
        rows = features(history, last, steps, target, self.layout, exogenous)
        n, k, f = rows.x.shape
        scaled = self._predict(rows.x.reshape(n * k, f), np.repeat(target, k)).reshape(n, k, len(QUANTILES))
        return assemble(scaled, rows, steps, target, self.layout, self.card["calibration"]["parameters"])

    def forecast(
        self,
        history: np.ndarray,
        last: np.ndarray | None,
        steps: Sequence[int] | np.ndarray,
        target: str,
        exogenous: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Forecast one target of several series.

        Parameters
        ----------
        history : ndarray, (n, L) or (L,)
            Values in units of the target, oldest first, one a step; NaN where unknown; ``L >= 1``.
        last : ndarray, (n,), datetime64[s], optional
            UTC time of the last value; None or NaT when unknown (then the calendar is not used).
        steps : sequence of int, (k,)
            Steps ahead, in ``1..horizon``.
        target : str
        exogenous : mapping of str to ndarray, (n, L'), optional
            Histories of other columns, ending at the same time; unknown names are ignored.

        Returns
        -------
        ndarray, (n, k, 3), float64
            p10 <= p50 <= p90, in units of the target.

        Raises
        ------
        ServableError
            If the target is unknown, a step is out of range, or the history is empty.
        """
        history, when, ahead, code, others = self._checked(history, last, steps, target, exogenous)
        return self.forecast_rows(history, when, np.tile(ahead, (len(history), 1)), code, others)

    def _checked(
        self,
        history: np.ndarray,
        last: np.ndarray | None,
        steps: Sequence[int] | np.ndarray,
        target: str,
        exogenous: Mapping[str, np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        if target not in self.targets:
            raise ServableError(f"target '{target}' is unknown; this model forecasts {', '.join(self.targets)}")
        # Tables are float32 in training: the same values must give the same features.
        history = np.atleast_2d(np.asarray(history, dtype=np.float32).astype(np.float64))
        if history.ndim != 2 or history.shape[1] == 0:
            raise ServableError(f"history of '{target}' is empty")
        ahead = np.asarray(steps, dtype=np.int64).reshape(-1)
        if len(ahead) == 0 or ahead.min() < 1 or ahead.max() > self.horizon:
            raise ServableError(f"steps must lie within 1 and {self.horizon}")
        n = len(history)
        when = np.full(n, np.datetime64("NaT"), dtype="datetime64[s]")
        if last is not None:
            when[:] = np.asarray(last, dtype="datetime64[s]")
        others: np.ndarray | None = None
        if exogenous:
            others = np.full((n, len(self.exogenous), 7 * self.season), np.nan)
            for i, name in enumerate(self.exogenous):
                if name in exogenous and name != target:
                    values = np.atleast_2d(np.asarray(exogenous[name], dtype=np.float32).astype(np.float64))
                    others[:, i] = fit_context(values, others.shape[-1])
        return history, when, ahead, np.full(n, self.targets.index(target)), others

    def explain(
        self,
        history: np.ndarray,
        last: np.ndarray | None,
        step: int,
        target: str,
        top: int = 3,
        exogenous: Mapping[str, np.ndarray] | None = None,
    ) -> list[Driver]:
        """Name what moves the median of one forecast away from the last values.

        Groups of features are put back to "as the last values" (or unknown, for the calendar and the variability),
        one group at a time, in one batch.

        Parameters
        ----------
        history : ndarray, (L,) or (1, L)
        step : int
            Steps ahead.
        top : int

        Returns
        -------
        list of Driver
            Largest contributions first, in target units; groups without influence are left out. ``value`` is what the
            group holds: the mean of the last quarter of a season, the usual value at that time of the season or week,
            the change against the season before, hour of day, or the last value of another column.
        """
        history, when, ahead, code, others = self._checked(history, last, [step], target, exogenous)
        rows = features(history, when, ahead[None, :], code, self.layout, others)
        x = rows.x[0]
        groups = _groups(self.layout)
        batch = np.repeat(x, len(groups) + 1, axis=0)
        for i, (_, columns, neutral, _) in enumerate(groups):
            batch[i + 1, columns] = np.where(np.isnan(batch[i + 1, columns]), np.nan, neutral)
        p50 = rows.level[0] + rows.scale[0] * self._predict(batch, np.repeat(code, len(batch)))[:, 1]
        contribution = p50[0] - p50[1:]
        drivers: list[Driver] = []
        for i in np.argsort(-np.abs(contribution), kind="stable")[:top]:
            name, _, _, column = groups[i]
            if abs(contribution[i]) <= 1e-6 * rows.scale[0]:
                continue
            value = float(x[0, column])
            if name.split(" ")[0] in ("recent", "daily", "seasonal", "weekly"):
                value = float(rows.level[0] + rows.scale[0] * value)
            elif name == "trend":
                value = float(-rows.scale[0] * value)
            elif name in self.exogenous and exogenous and name in exogenous:
                value = float(np.asarray(exogenous[name], dtype=np.float64).reshape(-1)[-1])
            shown = round(value, 6) if np.isfinite(value) else None
            drivers.append({"feature": name, "value": shown, "contribution": float(contribution[i])})
        return drivers

    def golden(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replay the golden histories."""
        exogenous = inputs.get("exogenous")
        out = self.forecast_rows(
            inputs["history"], inputs["last"].astype("datetime64[s]"), inputs["steps"], inputs["target"], exogenous
        )
        return {"forecast": out}


def _groups(layout: Layout) -> list[tuple[str, list[int], float, int]]:
    """Return groups of features that mean one thing to a reader: (name, columns, neutral value, column shown)."""
    names, _ = feature_names(layout)
    at = {name: i for i, name in enumerate(names)}
    short = [f"mean_{w}" for w in _windows(layout) if w < layout.season]
    long = [f"mean_{w}" for w in _windows(layout) if w >= layout.season]
    daily = "daily pattern" if layout.season * layout.step_seconds == DAY else "seasonal pattern"
    weekly = "weekly pattern" if layout.season * layout.step_seconds == DAY else "pattern of seven seasons"
    pattern = [n for n in _STEP if not n.startswith("week")]
    spread = [n for n in _ORIGIN if not n.startswith("previous")] + ["same7_sd"]
    groups = [
        ("recent values", ["last1", "last2", "last3", *short], 0.0, (short or ["last1"])[-1]),
        (daily, pattern, 0.0, "same7"),
        (weekly, [n for n in _STEP if n.startswith("week")], 0.0, "week_mean"),
        ("trend", [*long, "previous", "previous7"], 0.0, "previous"),
        ("variability", spread, np.nan, "sd7"),
        ("time of forecast", ["hour", "weekday"], np.nan, "hour"),
    ]
    groups += [
        (column, [f"{column}:{kind}" for kind in _EXOGENOUS], 0.0, f"{column}:last") for column in layout.exogenous
    ]
    return [(name, [at[c] for c in columns], neutral, at[shown]) for name, columns, neutral, shown in groups]
