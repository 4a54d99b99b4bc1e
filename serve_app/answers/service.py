"""What the services of all tasks share: the model in service, and how one instance or a batch is answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from aiops_core.facts import MODELS
from serve_app.answers.batches import Work, encode, read_each, refuse, said
from serve_app.answers.canary import Canary
from serve_app.journal.entries import CANARY, CHAMPION, About
from serve_app.journal.recorder import Silent
from serve_app.operations.telemetry import Metrics, Slot
from serve_app.wire.decoding import BATCH_MARK, check_values, decode, is_batch
from serve_app.wire.limits import MAX_BATCH_VALUES, MAX_VALUES, Limits
from serve_app.wire.problems import Problem
from serve_app.wire.times import iso

__all__ = ["Champion", "Service", "encode", "legacy_block"]


@dataclass(frozen=True)
class Champion:
    """A model in service.

    Attributes
    ----------
    servable : Servable
    name : str
        Registered name.
    version, run_id, alias, created : str or None
        From the registry.
    loaded_at : float
        Seconds since 1970.
    """

    servable: Any
    name: str
    version: str | None = None
    run_id: str | None = None
    alias: str | None = "champion"
    created: str | None = None
    loaded_at: float = field(default_factory=time.time)

    @property
    def recalibration(self) -> int | None:
        """Number of the correction from feedback that is in effect."""
        record = self.servable.card.get("recalibration")
        return None if record is None else int(record["number"])

    @cached_property
    def block(self) -> msgspec.Raw:
        """The ``model`` object of an answer, encoded once."""
        card = self.servable.card
        corrected = {} if self.recalibration is None else {"recalibration": self.recalibration}
        return _encoded(
            {
                "name": self.name,
                "version": self.version,
                "run_id": self.run_id,
                "kind": card.get("kind"),
                "trained_at": card.get("created") or self.created,
                "alias": self.alias,
                **corrected,
            }
        )

    @cached_property
    def about(self) -> About:
        """What the journal says of every answer of this model."""
        card = self.servable.card
        return About(card["task"], self.version, card, CANARY if self.alias == CANARY else CHAMPION)


def legacy_block(name: str, kind: str) -> msgspec.Raw:
    """Return the ``model`` object of an answer by an untrained model, encoded."""
    return _encoded({"name": name, "version": None, "run_id": None, "kind": kind, "trained_at": None, "alias": None})


def _encoded(block: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(encode(block))


class Service:
    """One task: takes a request body, gives an answer body.

    `answer` is the only entry; it runs inside the ingress replica or in a deployment of its own, whichever the
    placement says. A service says how its instances are read and answered; whether one or a batch of them was asked
    for is the same for all.
    """

    task = ""
    #: Decoder of a batch: a struct with ``instances`` and ``partial``.
    batch_decoder: msgspec.json.Decoder[Any]
    #: Set by the one that the service belongs to.
    limits = Limits()
    journal: Any = Silent()
    #: The journal itself, and what stands before it while another version answers too, see `serve_app.answers.shadow`.
    kept: Any = Silent()
    unheard: Any = None
    #: What `prepare` made of the model in service.
    _model: Any = None
    #: Answers a share of the requests.
    canary: Canary | None = None
    #: Answers all of them once more, unheard.
    shadow: Champion | None = None

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.champion: Champion | None = None
        self._counters: dict[tuple[str, str], Slot] = {}

    @property
    def name(self) -> str:
        """Registered name of the trained model."""
        return MODELS[self.task]

    def install(self, champion: Champion) -> None:
        """Take a verified model into service, in one assignment: requests under way finish with the old one."""
        self._model = self.prepare(champion)
        self.champion = champion

    def accompany(self, champion: Champion, share: float = 0.0) -> None:
        """Let a verified version answer beside the one in service, as its alias says."""
        if champion.alias == "canary":
            self.canary = Canary(champion, self.prepare(champion), share, self.metrics)
        else:
            self.prepare(champion)
            self.shadow = champion
        self._turn()

    def part(self, alias: str) -> None:
        """Answer without the canary, or the shadow."""
        if alias == "canary":
            self.canary = None
        else:
            self.shadow = None
        self._turn()

    def _turn(self) -> None:
        """Lead answers past the versions that answer unheard, if there are some: else it costs nothing."""
        beside = self.unheard is not None and (self.canary is not None or self.shadow is not None)
        self.journal = self.unheard if beside else self.kept

    def retire(self) -> None:
        """Take the model out of service: requests are answered as before the first promotion."""
        self._model = None
        self.champion = None

    def prepare(self, champion: Champion) -> Any:
        """Return what requests need, derived from the card; the graph runs once, so that no request pays for it."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return what `prepare` made of the model in service.

        Raises
        ------
        Problem
            503 if there is none.
        """
        # Read once: the watcher may take it out of service at any time.
        model = self._model
        if model is None:
            raise self.no_champion()
        return model

    def answer(self, body: bytes, request_id: str) -> Awaitable[bytes]:
        """Answer one request body.

        Raises
        ------
        Problem
            If the body breaks a rule or there is no model to answer with.
        """
        # Not a coroutine itself: one less to run for every request.
        model = self.current()
        if BATCH_MARK in body and is_batch(body, self.names_instances(model)):
            check_values(body, MAX_BATCH_VALUES, "the body")
            return self._answer_batch(model, body, request_id)
        if len(body) > MAX_VALUES:
            check_values(body, MAX_VALUES, "the body")
        canary = self.canary
        if canary is None or model is None:
            return self.answer_one(model, body, request_id)
        return self._answer_shared(canary, model, body, request_id)

    async def _answer_shared(self, canary: Canary, model: Any, body: bytes, request_id: str) -> bytes:
        """Have the canary answer what is its own, and the champion the rest."""
        started = time.perf_counter()
        if not self._takes(canary, model, body):
            answer = await self.answer_one(model, body, request_id)
            canary.beside(time.perf_counter() - started)
            return answer
        try:
            answer = await self.answer_one(canary.model, body, request_id)
        except Exception as error:
            # What both refuse says nothing about the canary.
            answer = await self.answer_one(model, body, request_id)
            canary.failed(error)
            return answer
        canary.answered(seconds=time.perf_counter() - started)
        return answer

    def _takes(self, canary: Canary, model: Any, body: bytes) -> bool:
        return canary.takes(body)

    def names_instances(self, model: Any) -> bool:
        """Say whether a column bears the name that marks a batch."""
        return False

    async def answer_one(self, model: Any, body: bytes, request_id: str) -> bytes:
        """Answer a body that is one instance."""
        raise NotImplementedError

    def read(self, model: Any, batch: Any, body: bytes, path: str) -> Any:
        """Read one instance of a batch."""
        raise NotImplementedError

    async def answer_each(
        self, model: Any, batch: Any, instances: list[Any], ids: list[str], work: Work
    ) -> list[bytes]:
        """Answer the good instances of a batch.

        Parameters
        ----------
        model : Any
            As from `current`.
        batch : Struct
        instances : list
            As from `read_batch`.
        ids : list of str
            Request id of each.
        work : Work

        Returns
        -------
        list of bytes
            JSON.
        """
        raise NotImplementedError

    async def read_batch(self, model: Any, batch: Any, places: Sequence[int], work: Work) -> list[Any]:
        """Read the instances at some places; a bad one becomes the problem that it raised."""
        return await read_each(batch.instances, places, lambda body, path: self.read(model, batch, body, path), work)

    async def _answer_batch(self, model: Any, body: bytes, request_id: str) -> bytes:
        batch = decode(self.batch_decoder, body)
        work = Work(self.limits.answer)
        count = len(batch.instances)
        canary = None if model is None else self.canary
        answers, errors = ({}, {}) if canary is None else await self._answer_own(canary, model, batch, request_id, work)
        left = [place for place in range(count) if place not in answers]
        found = await self.read_batch(model, batch, left, work)
        refuse(found, batch.partial, count)
        items = dict(zip(left, found, strict=True))
        answers |= {place: work.encode(said(item)) for place, item in items.items() if isinstance(item, Problem)}
        good = [place for place, item in items.items() if not isinstance(item, Problem)]
        answers |= await self._answer_places(model, batch, {place: items[place] for place in good}, request_id, work)
        if canary is not None:
            for place in good:
                if place in errors:
                    canary.failed(errors[place])
        return b'{"predictions":[%s]}' % b",".join(answers[place] for place in range(count))

    async def _answer_places(
        self, model: Any, batch: Any, items: dict[int, Any], request_id: str, work: Work
    ) -> dict[int, bytes]:
        """Answer what was read, by place."""
        ids = [f"{request_id}-{place}" for place in items]
        given = await self.answer_each(model, batch, list(items.values()), ids, work)
        return dict(zip(items, given, strict=True))

    async def _answer_own(
        self, canary: Canary, model: Any, batch: Any, request_id: str, work: Work
    ) -> tuple[dict[int, bytes], dict[int, Exception]]:
        """Have the canary answer its own instances; returns the answers, and why there is none of some."""
        own = [i for i, raw in enumerate(batch.instances) if self._takes(canary, model, bytes(raw))]
        if not own:
            return {}, {}
        try:
            found = dict(zip(own, await self.read_batch(canary.model, batch, own, work), strict=True))
            good = {place: item for place, item in found.items() if not isinstance(item, Problem)}
            answers = await self._answer_places(canary.model, batch, good, request_id, work)
        except Exception as error:
            return {}, dict.fromkeys(own, error)
        canary.answered(len(answers))
        return answers, {place: item for place, item in found.items() if isinstance(item, Problem)}

    def count(self, kind: str, label: str, amount: int = 1) -> None:
        """Count predictions in ``aiops_predictions_total``."""
        slot = self._counters.get((kind, label))
        if slot is None:
            slot = self.metrics.counter("aiops_predictions_total", task=self.task, kind=kind, prediction=label)
            self._counters[kind, label] = slot
        slot.inc(amount)

    def no_champion(self) -> Problem:
        """Return the 503 that says how to get a model."""
        return Problem(
            503,
            f"no {self.name} has been promoted yet: train one with 'aiops report' or POST models/train, or promote a "
            "challenger that 'aiops models list' shows",
        )

    def status(self) -> dict[str, Any]:
        """Describe the model in service for ``models/status``."""
        champion = self.champion
        if champion is None:
            return {"name": self.name, "kind": None, "version": None, "alias": None, "status": "no_champion"}
        card = champion.servable.card
        return {
            "name": self.name,
            "kind": card.get("kind"),
            "version": champion.version,
            "alias": champion.alias,
            "status": "loaded",
            "run_id": champion.run_id,
            "metrics": card.get("metrics") or {},
            "trained_at": card.get("created"),
            "loaded_at": iso(champion.loaded_at),
            "features": [f["name"] for f in card.get("features", [])],
            **{key: card[key] for key in ("step_seconds", "window", "horizon") if key in card},
            **({} if champion.recalibration is None else {"recalibration": champion.recalibration}),
            "lineage": card.get("lineage") or {},
        }
