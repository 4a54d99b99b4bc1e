"""The capacity forecaster behind HTTP: any form of history in, bands, time to a threshold and a recommendation out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from serve_app.answers.batches import Work
from serve_app.answers.capacity_input import Instance, read
from serve_app.answers.envelope import between, lowered, quality, severity, share
from serve_app.answers.outlook import LIKELY, Outlook, default_threshold, recommend, warn
from serve_app.answers.service import Champion, Service, encode
from serve_app.journal.entries import Entry
from serve_app.wire.requests import CapacityBatch
from serve_app.wire.wording import span

__all__ = ["CapacityService"]

#: A crossing within a day is critical.
SOON_HOURS = 24.0
#: Bytes of a step in an answer, about.
_STEP_BYTES = 90
#: (series, step) pairs forecast before other requests get a turn.
_CHUNK_PAIRS = 4_096
#: Recommendation to the action of the catalogue.
_ACTIONS = {
    "scale_up": "scale_up",
    "plan_capacity": "plan_capacity",
    "scale_down": "scale_down",
    "maintain": "continue_monitoring",
}


class CapacityService(Service):
    """Answer ``predict/capacity``."""

    task = "capacity"

    batch_decoder = msgspec.json.Decoder(CapacityBatch)

    def prepare(self, champion: Champion) -> Champion:
        """See `Service.prepare`."""
        servable = champion.servable
        history = np.ones((1, 2))
        servable.forecast(history, None, [1, min(2, servable.horizon)], servable.targets[0])
        servable.explain(history, None, 1, servable.targets[0])
        return champion

    async def answer_one(self, model: Champion, body: bytes, request_id: str) -> bytes:
        """See `Service.answer_one`."""
        instance = read(model.servable, body, "$")
        await self._forecast(model.servable, [instance], Work(self.limits.answer))
        answer = encode(self._envelope(model, instance, request_id, instance.request.explain is not False))
        self._keep(model, instance, request_id, False)
        return answer

    def read(self, model: Champion, batch: CapacityBatch, body: bytes, path: str) -> Instance:
        """See `Service.read`."""
        return read(model.servable, body, path)

    async def answer_each(
        self, model: Champion, batch: CapacityBatch, instances: list[Instance], ids: list[str], work: Work
    ) -> list[bytes]:
        """See `Service.answer_each`."""
        targets = model.servable.targets
        steps = sum(instance.steps * sum(name in targets for name in instance.history) for instance in instances)
        work.expect(_STEP_BYTES * steps)
        await self._forecast(model.servable, instances, work)
        answers = []
        for k, instance in enumerate(instances):
            own = instance.request.explain
            answer = self._envelope(model, instance, ids[k], batch.explain if own is None else own)
            answers.append(work.encode(answer))
            self._keep(model, instance, ids[k], True)
            await work.rest()
        return answers

    def _keep(self, model: Champion, instance: Instance, request_id: str, batch: bool) -> None:
        name, last = str(instance.request.resource_id), instance.last
        outputs = (instance.forecast, instance.alarm, instance.probability)
        entry = Entry(model.about, request_id, batch, name, last, instance.history, outputs)
        self.journal.put(entry, instance.values)

    # Forecasting -----------------------------------------------------------------------------------------------------

    async def _forecast(self, servable: Any, instances: list[Instance], work: Work) -> None:
        """Forecast all instances, series of one target and length of forecast together."""
        groups: dict[tuple[str, int], list[Instance]] = {}
        for instance in instances:
            for name in instance.history:
                if name in servable.targets and np.isfinite(instance.history[name]).any():
                    groups.setdefault((name, instance.steps), []).append(instance)
        for (name, steps), members in groups.items():
            size = max(1, _CHUNK_PAIRS // steps)
            ahead = np.arange(1, steps + 1)
            for start in range(0, len(members), size):
                part = members[start : start + size]
                history = _stack([instance.history[name] for instance in part])
                last = np.array([instance.last for instance in part], dtype="datetime64[s]")
                others = {
                    other: _stack([instance.history.get(other, np.array([math.nan])) for instance in part])
                    for other in servable.exogenous
                    if other != name and any(other in instance.history for instance in part)
                }
                bands = servable.forecast(history, last, ahead, name, others or None)
                for instance, band in zip(part, bands, strict=True):
                    instance.forecast[name] = band
                await work.rest()

    def _envelope(self, champion: Champion, instance: Instance, request_id: str, explain: bool) -> dict[str, Any]:
        servable, request = champion.servable, instance.request
        step = servable.step_seconds
        units = {f["name"]: f for f in servable.card["features"]}
        forecast, outlooks = _look_ahead(instance, units, step)
        probability = max((o.chance for o in outlooks.values()), default=None)
        first = max(outlooks or instance.forecast, key=lambda m: outlooks[m].chance if outlooks else 0.0)
        recommendation = recommend(outlooks, span(instance.steps * step))
        observed = max(int(np.isfinite(h).sum()) for n, h in instance.history.items() if n in instance.forecast)
        absent = [name for name in servable.targets if name not in instance.forecast]
        warnings = list(instance.warnings)
        if absent:
            warnings.append(f"not given: {', '.join(absent)}; not forecast")
        warnings += warn(outlooks, [m for m in instance.forecast if m not in outlooks])
        unfamiliar = _outside(instance, units)
        warnings += unfamiliar
        stated = _Stated.of(probability, observed, len(unfamiliar), servable.season, warnings)
        instance.alarm, instance.probability = stated.alarm, probability
        drivers: list[Any] = []
        if explain:
            bands = instance.forecast[first]
            crossing = int(np.argmax(bands[:, 1]))
            others = {n: instance.history[n][None] for n in servable.exogenous if n != first and n in instance.history}
            last = np.array([instance.last], dtype="datetime64[s]")
            drivers = servable.explain(
                instance.history[first][None], last, crossing + 1, first, exogenous=others or None
            )
        self.count(str(servable.card.get("kind")), stated.prediction)
        soon = any(o.hours is not None and o.hours <= SOON_HOURS for o in outlooks.values())
        return {
            "resource_id": str(request.resource_id),
            "prediction": stated.prediction,
            "probability": None if probability is None else round(probability, 6),
            "confidence": stated.confidence,
            "severity": severity(stated.alarm, probability or 0.0, soon),
            "threshold": None if probability is None else LIKELY,
            "forecast": forecast,
            "time_to_threshold": {metric: outlook.reach() for metric, outlook in outlooks.items()},
            "recommendation": recommendation,
            "drivers": drivers,
            "recommended_actions": [_ACTIONS[recommendation["action"]]],
            "warnings": warnings,
            "request_id": request_id,
            "model": champion.block,
        }


def _look_ahead(
    instance: Instance, units: Mapping[str, Any], step: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Outlook]]:
    """Return the points of every metric's forecast, and the outlook of those with a threshold."""
    when = instance.last + step * np.arange(1, instance.steps + 1)
    names = [f"{s}Z" for s in np.datetime_as_string(when.astype("datetime64[s]"))]
    forecast, outlooks = {}, {}
    for metric, bands in instance.forecast.items():
        # Judged by what is shown, so that a reader of the bands comes to the same stated.
        bands = np.round(bands, 7)
        forecast[metric] = [
            {"timestamp": t, "p10": a, "p50": b, "p90": c} for t, (a, b, c) in zip(names, bands.tolist(), strict=True)
        ]
        limit = (instance.request.thresholds or {}).get(metric, default_threshold(units.get(metric, {})))
        if limit is not None:
            known = instance.history[metric]
            outlooks[metric] = Outlook(bands, limit, float(known[np.isfinite(known)][-1]), instance.last, step)
    return forecast, outlooks


def _outside(instance: Instance, units: Mapping[str, Any]) -> list[str]:
    """Return a warning for every metric with a value outside the training range."""
    found = []
    for metric in instance.forecast:
        reference = units.get(metric, {}).get("reference") or {}
        values = instance.history[metric][np.isfinite(instance.history[metric])]
        low, high = reference.get("min", -math.inf), reference.get("max", math.inf)
        beyond = values[(values < low) | (values > high)]
        if len(beyond):
            found.append(f"{metric} = {beyond[-1]:g} is outside the training range {between(low, high)}")
    return found


def _stack(series: list[np.ndarray]) -> np.ndarray:
    """Align series of different length at their end, NaN in front."""
    length = max(len(s) for s in series)
    out = np.full((len(series), length), np.nan)
    for row, values in zip(out, series, strict=True):
        row[length - len(values) :] = values
    return out


@dataclass
class _Stated:
    """The prediction, whether it is an alarm, and how sure it is."""

    prediction: str
    alarm: bool
    confidence: float | None

    @classmethod
    def of(cls, probability: float | None, observed: int, outside: int, season: int, warnings: list[str]) -> _Stated:
        """Decide, and add to the warnings why the confidence is lower than the probability."""
        if probability is None:
            return cls("forecast_only", False, None)
        alarm = probability >= LIKELY
        outside = outside if observed >= season else 0
        factor = quality(max(season - observed, 0), outside, season)
        if factor < 1.0:
            missing = share("steps of a season", max(season - observed, 0), season, "not given")
            warnings.append(lowered(factor, missing, "values outside the training range" if outside else ""))
        prediction = "threshold_reached" if alarm else "within_capacity"
        return cls(prediction, alarm, round((probability if alarm else 1.0 - probability) * factor, 6))
