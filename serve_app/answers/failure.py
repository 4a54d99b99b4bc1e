"""The failure predictor behind HTTP: a window goes to the LSTM, a lone snapshot to the rules until a window has filled."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from aiops_core.rules import failure_actions
from serve_app.answers import legacy
from serve_app.answers.batches import CHUNK, Work
from serve_app.answers.canary import Canary
from serve_app.answers.envelope import (
    UNCALIBRATED,
    close,
    lowered,
    quality,
    say_missing,
    severity,
    share,
)
from serve_app.answers.failure_input import FailureModel, Instance, read
from serve_app.answers.service import Champion, Service, encode, legacy_block
from serve_app.answers.windows import Unreachable, Windows
from serve_app.journal.entries import About, Entry
from serve_app.wire.requests import FailureBatch
from serve_app.wire.times import iso
from serve_app.wire.wording import listed

__all__ = ["FailureService"]

#: How far ahead of this machine's clock a snapshot may be, unless a step is longer.
AHEAD_SECONDS = 3600.0
_NO_TIME = np.datetime64("NaT", "s")
#: Of answers by the rules.
_RULES = About("failure", None, {"kind": "rule_based", "features": [{"name": name} for name in legacy.RULE_METRICS]})


class FailureService(Service):
    """Answer ``predict/failure``.

    Parameters
    ----------
    metrics : Metrics
    windows : Windows or object with an awaitable ``append``
        Where snapshots are kept; shared by all replicas when there are several.
    """

    task = "failure"
    batch_decoder = msgspec.json.Decoder(FailureBatch)
    _model: FailureModel | None = None

    def __init__(self, metrics: Any, windows: Any | None = None) -> None:
        super().__init__(metrics)
        self._windows = Windows() if windows is None else windows
        self._rules = legacy_block(legacy.RULES, "rule_based")

    def prepare(self, champion: Champion) -> FailureModel:
        """See `Service.prepare`."""
        model = FailureModel(champion)
        warm = np.zeros((1, model.window, len(model.names)), dtype=np.float32)
        model.servable.predict(warm)
        model.servable.explain(warm[0])
        return model

    def current(self) -> FailureModel | None:
        """Return the model in service; without one the rules answer."""
        return self._model

    def _takes(self, canary: Canary, model: FailureModel, body: bytes) -> bool:
        # Windows of another shape would have to fill first, and the rules answer until then.
        same = canary.model.signature == model.signature
        return (same or b'"time_series"' in body) and canary.takes(body)

    def names_instances(self, model: FailureModel | None) -> bool:
        """See `Service.names_instances`."""
        return model is not None and model.reader.named_instances

    async def answer_one(self, model: FailureModel | None, body: bytes, request_id: str) -> bytes:
        """See `Service.answer_one`."""
        instance = read(model, body, "$", None)
        window, last = await self._window(model, instance)
        if model is None or window is None:
            return encode(self._by_rules(instance, request_id, False))
        p = float(model.servable.predict(window[None], last, [instance.resource_id])[0])
        answer = encode(self._decided(model, instance, window, last, p, instance.explain is not False, request_id))
        self._keep(model, instance, window, p, request_id, False)
        return answer

    def read(self, model: FailureModel | None, batch: FailureBatch, body: bytes, path: str) -> Instance:
        """See `Service.read`."""
        return read(model, body, path, batch.decision)

    async def answer_each(
        self, model: FailureModel | None, batch: FailureBatch, instances: list[Instance], ids: list[str], work: Work
    ) -> list[bytes]:
        """See `Service.answer_each`; windows are predicted together."""
        answers = [b""] * len(instances)
        waiting: list[tuple[int, np.ndarray, np.ndarray]] = []

        async def predict() -> None:
            if model is None or not waiting:
                return
            last = np.concatenate([when for _, _, when in waiting])
            owners = [instances[k].resource_id for k, _, _ in waiting]
            probabilities = model.servable.predict(np.stack([window for _, window, _ in waiting]), last, owners)
            for (k, window, when), p in zip(waiting, probabilities.tolist(), strict=True):
                own = instances[k].explain
                shown = batch.explain if own is None else own
                answers[k] = work.encode(self._decided(model, instances[k], window, when, p, shown, ids[k]))
                self._keep(model, instances[k], window, p, ids[k], True)
                await work.rest()
            waiting.clear()

        for k, instance in enumerate(instances):
            window, last = await self._window(model, instance)
            if model is None or window is None:
                answers[k] = work.encode(self._by_rules(instance, ids[k], True))
            else:
                waiting.append((k, window, last))
            if len(waiting) == CHUNK:
                await predict()
            await work.rest()
        await predict()
        return answers

    def _keep(
        self, model: FailureModel, instance: Instance, window: np.ndarray, p: float, request_id: str, batch: bool
    ) -> None:
        outputs = (p, instance.threshold)
        entry = Entry(model.about, request_id, batch, instance.resource_id, instance.stamp, window, outputs)
        self.journal.put(entry, window.size)

    def _decided(
        self,
        model: FailureModel,
        instance: Instance,
        window: np.ndarray,
        last: np.ndarray,
        p: float,
        shown: bool,
        request_id: str,
    ) -> dict[str, Any]:
        # The advice follows the drivers, whether they are shown or not.
        needed = shown or p >= instance.threshold
        drivers = model.servable.explain(window, last=last, resource=instance.resource_id) if needed else []
        return self._envelope(model, instance, window, p, drivers, shown, request_id)

    async def _window(self, model: FailureModel | None, instance: Instance) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the window to predict from, or None while the rules must answer, and the time of its newest row."""
        if model is None:
            instance.notes.append(
                "no failure_predictor has been promoted yet: the rules answer; train one with 'aiops report'"
            )
            return None, _last(None)
        if instance.window is not None:
            return instance.window, _last(instance.stamp)
        assert instance.row is not None
        if instance.stamp is not None and instance.stamp > time.time() + max(model.step, AHEAD_SECONDS):
            # Kept, it would make every snapshot of today one that comes too late.
            return self._left_to_rules(
                model, instance, f"{iso(instance.stamp)} lies in the future: the rules answer, the snapshot is not kept"
            )
        found = self._windows.append(
            instance.resource_id,
            instance.row,
            signature=model.signature,
            window=model.window,
            step=model.step,
            timestamp=instance.stamp,
        )
        try:
            full, have, newest = await found if inspect.isawaitable(found) else found
        except Unreachable:
            return self._left_to_rules(model, instance, "the process that keeps snapshots did not answer: the rules do")
        if newest is not None and instance.stamp is not None and instance.stamp < newest:
            instance.notes.append(
                f"older than the newest snapshot of {instance.resource_id}, of {iso(newest)}: judged as of then"
            )
            instance.stamp = newest
        if full is None:
            return self._left_to_rules(
                model,
                instance,
                f"{have} of {model.window} snapshots of {instance.resource_id} seen: "
                "the rules answer until a window is filled",
            )
        return full, _last(instance.stamp)

    def _left_to_rules(self, model: FailureModel, instance: Instance, why: str) -> tuple[None, np.ndarray]:
        assert instance.row is not None
        instance.given = model.given(instance.row)
        # The rules judge one snapshot: how snapshots are timed says nothing about their answer.
        instance.notes[:] = [n for n in instance.notes if not n.startswith("snapshots without timestamp")]
        instance.notes.insert(0, why)
        return None, _last(instance.stamp)

    # Answering -------------------------------------------------------------------------------------------------------

    def _envelope(
        self,
        model: FailureModel,
        instance: Instance,
        window: np.ndarray,
        p: float,
        drivers: list[Any],
        shown: bool,
        request_id: str,
    ) -> dict[str, Any]:
        threshold = instance.threshold
        latest = window[-1]
        seen = np.isfinite(window).any(axis=0)
        unseen = np.flatnonzero(~seen).tolist()
        warnings = list(instance.notes)
        if unseen:
            warnings.append(say_missing([model.names[j] for j in unseen]))
        outside = model.ranges.outside(latest)
        for j in outside:
            warnings.append(model.ranges.say(j, float(latest[j])))
        failing = p >= threshold
        prediction = "failure" if failing else "no_failure"
        # Cells, not columns: a window of one row is nearly all missing.
        missing = int(np.count_nonzero(np.isnan(window)))
        factor = quality(missing, 0, window.size) * quality(0, len(outside), len(model.names) - len(unseen))
        if factor < 1.0:
            warnings.append(
                lowered(
                    factor,
                    share("values of the window", missing, window.size, "not given"),
                    share("metrics", len(outside), len(model.names) - len(unseen), "outside the training range"),
                )
            )
        if not failing and 2 * p >= threshold:
            warnings.append(close("probability", p, threshold))
        self.count(model.kind, prediction)
        return {
            "resource_id": instance.resource_id,
            "prediction": prediction,
            "probability": round(p, 6),
            "confidence": round((p if failing else 1.0 - p) * factor, 6),
            "severity": severity(failing, p, 2 * p >= 1.0 + threshold),
            "threshold": round(threshold, 6),
            "horizon_seconds": model.horizon_seconds,
            "drivers": drivers if shown else [],
            "recommended_actions": failure_actions(_raising(drivers), failing),
            "warnings": warnings,
            "request_id": request_id,
            "model": model.block,
        }

    def _by_rules(self, instance: Instance, request_id: str, batch: bool) -> dict[str, Any]:
        given = instance.given
        verdict = legacy.failure(given)
        warnings = list(instance.notes)
        if not verdict.used:
            warnings.append(f"none of the metrics that the rules know was given: {', '.join(legacy.RULE_METRICS)}")
        absent = [name for name in legacy.RULE_METRICS if name not in verdict.used]
        if absent and verdict.used:
            warnings.append(say_missing(absent, "the rules leave them out"))
        if instance.decision is not None:
            warnings.append("the rules have a threshold of their own: decision was not used")
        ignored = [name for name in given if name not in verdict.used]
        if ignored:
            warnings.append(f"the rules do not use {listed(ignored)}")
        failing = verdict.probability >= legacy.THRESHOLD
        prediction = "failure" if failing else "no_failure"
        stated = verdict.probability if failing else 1.0 - verdict.probability
        factor = UNCALIBRATED * quality(len(absent), 0, len(legacy.RULE_METRICS))
        missing = share("metrics of the rules", len(absent), len(legacy.RULE_METRICS), "not given")
        warnings.append(lowered(factor, "the rules are not calibrated", missing))
        if not failing and 2 * verdict.probability >= legacy.THRESHOLD:
            warnings.append(close("probability", verdict.probability, legacy.THRESHOLD))
        self.count("rule_based", prediction)
        outputs = (verdict.probability, legacy.THRESHOLD)
        entry = Entry(_RULES, request_id, batch, instance.resource_id, instance.stamp, given, outputs)
        self.journal.put(entry, len(given))
        return {
            "resource_id": instance.resource_id,
            "prediction": prediction,
            "probability": round(verdict.probability, 6),
            "confidence": round(stated * factor, 6),
            "severity": severity(failing, verdict.probability, 2 * verdict.probability >= 1.0 + legacy.THRESHOLD),
            "threshold": legacy.THRESHOLD,
            "horizon_seconds": None if self._model is None else self._model.horizon_seconds,
            "drivers": verdict.drivers[:3],
            "recommended_actions": failure_actions(verdict.drivers[:3], failing),
            "warnings": warnings,
            "request_id": request_id,
            "model": self._rules,
        }


def _last(stamp: float | None) -> np.ndarray:
    """Return the time of the newest row, (1,) datetime64[s], NaT when not given: then the hour of day is not used."""
    return np.array([_NO_TIME if stamp is None else int(stamp)], dtype="datetime64[s]")


def _raising(drivers: Sequence[Any]) -> list[Any]:
    """Return the drivers that raised the probability."""
    return [driver for driver in drivers if driver["contribution"] > 0]
