"""What fixes the features of a capacity forecast: their names, their order, and what they mean to a reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

#: Seasons of history that features look back on, and a bound on the steps that may take.
SEASONS = 28
MAX_CONTEXT = 8192
DAY = 86_400
_ORIGIN: tuple[str, ...] = ("previous", "previous7", "sd_short", "sd1", "sd7", "move7", "season_move7")
_ORIGIN += ("max1", "min1", "max7", "min7", "max_all", "min_all")
_STEP: tuple[str, ...] = ("lag0", "lag1", "lag2", "lag3", "same3", "same7", "same14", "same_all", "same7_median")
_STEP += ("smooth0", "smooth3", "smooth7", "week0", "week1", "week_mean", "week_smooth", "change7", "last_plus_change7")
EXOGENOUS = ("last", "recent", "season", "same")
_REST = ("same7_sd", "spread", "observed", "height", "step", "hour", "weekday")


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


def windows(layout: Layout) -> list[int]:
    """Return the lengths of the trailing means, ascending."""
    s = layout.season
    wanted = {3, s // 24, s // 8, s // 4, s // 2, 2 * s, 3 * s, 7 * s, 14 * s, 28 * s}
    return sorted(w for w in wanted if 2 <= w <= layout.context)


def decays(layout: Layout) -> list[float]:
    """Return the time constants, in steps, with which linear coefficients fade along the horizon."""
    s = layout.season
    wanted = {3.0, s / 8, s / 2} | ({7.0 * s} if layout.horizon > 2 * s else set())
    return sorted(d for d in wanted if d >= 1)


def feature_names(layout: Layout) -> tuple[list[str], int]:
    """Return the names of the features, and how many of the first ones enter the linear model."""
    names = ["last1", "last2", "last3", *(f"mean_{w}" for w in windows(layout)), *_ORIGIN, *_STEP]
    names += [f"{column}:{kind}" for column in layout.exogenous for kind in EXOGENOUS]
    linear = len(names)
    names += [*_REST, *(f"target:{name}" for name in layout.targets if len(layout.targets) > 1)]
    return names, linear


Kind = Literal["level", "change", "plain", "exogenous"]


@dataclass(frozen=True)
class Group:
    """Features that mean one thing to a reader.

    Attributes
    ----------
    name : str
    columns : list of int
    neutral : float
        Value that takes the group out of a forecast: 0 is "as the last values", NaN is unknown.
    shown : int
        Column whose value stands for the group.
    kind : {"level", "change", "plain", "exogenous"}
        How that value is shown: as a usage, as the change against an earlier usage, as it is, or as the last value of
        another column.
    """

    name: str
    columns: list[int]
    neutral: float
    shown: int
    kind: Kind


def feature_groups(layout: Layout) -> list[Group]:
    """Return the groups of features that an explanation names."""
    at = {name: i for i, name in enumerate(feature_names(layout)[0])}
    short = [f"mean_{w}" for w in windows(layout) if w < layout.season]
    long = [f"mean_{w}" for w in windows(layout) if w >= layout.season]
    is_day = layout.season * layout.step_seconds == DAY
    daily, weekly = ("daily pattern", "weekly pattern") if is_day else ("seasonal pattern", "pattern of seven seasons")
    pattern = [n for n in _STEP if not n.startswith("week")]
    spread = [n for n in _ORIGIN if not n.startswith("previous")] + ["same7_sd"]

    def group(name: str, columns: list[str], neutral: float, shown: str, kind: Kind) -> Group:
        return Group(name, [at[c] for c in columns], neutral, at[shown], kind)

    return [
        group("recent values", ["last1", "last2", "last3", *short], 0.0, (short or ["last1"])[-1], "level"),
        group(daily, pattern, 0.0, "same7", "level"),
        group(weekly, [n for n in _STEP if n.startswith("week")], 0.0, "week_mean", "level"),
        group("trend", [*long, "previous", "previous7"], 0.0, "previous", "change"),
        group("variability", spread, np.nan, "sd7", "plain"),
        group("time of forecast", ["hour", "weekday"], np.nan, "hour", "plain"),
        *(
            group(column, [f"{column}:{kind}" for kind in EXOGENOUS], 0.0, f"{column}:last", "exogenous")
            for column in layout.exogenous
        ),
    ]
