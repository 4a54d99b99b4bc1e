"""What the services of all tasks share: the model in service, and how one instance or a batch is answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from aiops_core.facts import MODELS
from serve_app.answers.batches import Work, encode, read_each, refuse, said
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

    @cached_property
    def block(self) -> msgspec.Raw:
        """The ``model`` object of an answer, encoded once."""
        card = self.servable.card
        return _encoded(
            {
                "name": self.name,
                "version": self.version,
                "run_id": self.run_id,
                "kind": card.get("kind"),
                "trained_at": card.get("created") or self.created,
            }
        )

    @cached_property
    def about(self) -> About:
        """What the journal says of every answer of this model."""
        card = self.servable.card
        return About(card["task"], self.version, card, CANARY if self.alias == CANARY else CHAMPION)


def legacy_block(name: str, kind: str) -> msgspec.Raw:
    """Return the ``model`` object of an answer by an untrained model, encoded."""
    return _encoded({"name": name, "version": None, "run_id": None, "kind": kind, "trained_at": None})


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
    #: What `prepare` made of the model in service.
    _model: Any = None

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
        self.prepare(champion)
        self.champion = champion

    def retire(self) -> None:
        """Take the model out of service: requests are answered as before the first promotion."""
        self._model = None
        self.champion = None

    def prepare(self, champion: Champion) -> None:
        """Derive what requests need from a card, and run the graph once so that no request pays for it."""

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
        return self.answer_one(model, body, request_id)

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

    async def read_batch(self, model: Any, batch: Any, work: Work) -> list[Any]:
        """Read every instance; a bad one becomes the problem that it raised."""
        return await read_each(batch.instances, lambda body, path: self.read(model, batch, body, path), work)

    async def _answer_batch(self, model: Any, body: bytes, request_id: str) -> bytes:
        batch = decode(self.batch_decoder, body)
        work = Work(self.limits.answer)
        found = await self.read_batch(model, batch, work)
        refuse(found, batch.partial)
        answers = [work.encode(said(item)) if isinstance(item, Problem) else b"" for item in found]
        good = [i for i, item in enumerate(found) if not isinstance(item, Problem)]
        ids = [f"{request_id}-{i}" for i in good]
        given = await self.answer_each(model, batch, [found[i] for i in good], ids, work)
        for i, answer in zip(good, given, strict=True):
            answers[i] = answer
        return b'{"predictions":[%s]}' % b",".join(answers)

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
            "lineage": card.get("lineage") or {},
        }
