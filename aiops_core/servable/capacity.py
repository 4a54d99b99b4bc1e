"""Capacity forecasts from a servable folder.

Boosted trees predict the distance of each quantile from the last values of a series, or from a linear backbone (one a
target), or the mean of both, in units of the series' own spread; conformal offsets by step and target widen or narrow
the band to what validation showed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core.derive import Derived
from aiops_core.errors import ServableError
from aiops_core.servable.capacity_features import assemble, design, features, fit_context
from aiops_core.servable.capacity_layout import Layout, feature_groups
from aiops_core.servable.folder import Driver, Servable

QUANTILES = (0.1, 0.5, 0.9)
#: Name of the linear graph.
LINEAR = "linear"


class CapacityServable(Servable):
    """Forecasts of usage with a band.

    Attributes
    ----------
    targets : list of str
    exogenous : list of str
        Columns whose history sharpens a forecast; each may be missing.
    derived : Derived
        Features of the columns, used like other columns.
    season, horizon, step_seconds, context : int
        ``context`` is the longest history in use; more is cut off.
    quantiles : tuple of float
    """

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        super().__init__(folder, card)
        self.layout = Layout.from_dict(card["layout"])
        self.targets = list(self.layout.targets)
        self.exogenous: list[str] = list(card["exogenous"])
        self.derived = Derived.of_card(card)
        self.season, self.horizon = self.layout.season, self.layout.horizon
        self.step_seconds, self.context = self.layout.step_seconds, self.layout.context
        if len(self.derived):
            self.context = max(self.context, self._others_length + self.derived.reach)
        self.quantiles = QUANTILES
        self._graphs: list[list[str]] = card["graphs"]
        self._shares: list[float] = card["backbone_shares"]
        offsets = card["calibration"]["parameters"]
        self._offsets = offsets and {name: np.asarray(values) for name, values in offsets.items()}

    @property
    def _others_length(self) -> int:
        """Steps of other columns in use."""
        return 7 * self.season

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
        return assemble(scaled, rows, steps, target, self.layout, self._offsets)

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
        if exogenous or len(self.derived):
            given = {name: values for name, values in (exogenous or {}).items() if name != target}
            others = self._others({**given, target: history}, target)
        return history, when, ahead, np.full(n, self.targets.index(target)), others

    def _others(self, given: Mapping[str, np.ndarray], target: str) -> np.ndarray:
        """Return other columns and derived features as `features` takes them, (n, E, steps); the target's slot is NaN."""
        n, length = len(given[target]), self._others_length
        columns = {
            name: np.atleast_2d(np.asarray(values, dtype=np.float32).astype(np.float64))
            for name, values in given.items()
        }
        found = {name: values for name, values in columns.items() if name != target}
        if len(self.derived):
            unknown = np.full((n, 1), np.nan)
            whole = {c: fit_context(columns.get(c, unknown), length + self.derived.reach) for c in self.derived.columns}
            found |= dict(zip(self.derived.names, self.derived.of_series(whole), strict=True))
        out = np.full((n, len(self.layout.exogenous), length), np.nan)
        for i, name in enumerate(self.layout.exogenous):
            if name in found:
                out[:, i] = fit_context(found[name], length)
        return out

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
        groups = feature_groups(self.layout)
        batch = np.repeat(x, len(groups) + 1, axis=0)
        for i, group in enumerate(groups, start=1):
            batch[i, group.columns] = np.where(np.isnan(batch[i, group.columns]), np.nan, group.neutral)
        p50 = rows.level[0] + rows.scale[0] * self._predict(batch, np.repeat(code, len(batch)))[:, 1]
        contribution = p50[0] - p50[1:]
        drivers: list[Driver] = []
        for i in np.argsort(-np.abs(contribution), kind="stable")[:top]:
            group = groups[i]
            if abs(contribution[i]) <= 1e-6 * rows.scale[0]:
                continue
            value = float(x[0, group.shown])
            if group.kind == "level":
                value = float(rows.level[0] + rows.scale[0] * value)
            elif group.kind == "change":
                value = float(-rows.scale[0] * value)
            elif group.kind == "exogenous" and exogenous and group.name in exogenous:
                value = float(np.asarray(exogenous[group.name], dtype=np.float64).reshape(-1)[-1])
            elif group.name in self.derived.names and others is not None:
                value = float(others[0, self.layout.exogenous.index(group.name), -1])
            shown = round(value, 6) if np.isfinite(value) else None
            drivers.append({"feature": group.name, "value": shown, "contribution": float(contribution[i])})
        return drivers

    def golden(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replay the golden histories."""
        exogenous = inputs.get("exogenous")
        out = self.forecast_rows(
            inputs["history"], inputs["last"].astype("datetime64[s]"), inputs["steps"], inputs["target"], exogenous
        )
        if "raw" not in inputs:
            return {"forecast": out}
        columns = dict(zip(self.derived.columns, np.moveaxis(inputs["raw"], 1, 0), strict=True))
        derived = np.moveaxis(self.derived.of_series(columns), 0, 1)
        return {"forecast": out, "derived": derived[..., self.derived.reach :]}
