"""What the services of all tasks share: the model in service, decoding with useful errors, batches."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from aiops_core.servable import Servable
from serve_app.facts import MODELS
from serve_app.operations.telemetry import Metrics, Slot
from serve_app.wire.problems import Problem
from serve_app.wire.times import iso

__all__ = []

#: Rows of a batch answered before other requests get a turn.
CHUNK = 256


@dataclass(frozen=True)
class Live:
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
    def block(self) -> dict[str, Any]:
        """The ``model`` object of an answer."""
        card = self.servable.card
        return {
            "name": self.name,
            "version": self.version,
            "run_id": self.run_id,
            "kind": card.get("kind"),
            "trained_at": card.get("created") or self.created,
        }


def legacy_block(name: str, kind: str) -> dict[str, Any]:
    """Return the ``model`` object of an answer by an untrained model."""
    return {"name": name, "version": None, "run_id": None, "kind": kind, "trained_at": None}


class Service:
    """One task: takes a request body, gives an answer body.

    `answer` is the only entry; it runs inside the ingress replica or in a deployment of its own, whichever the
    placement says.
    """

    task = ""
    #: What `prepare` made of the model in service.
    _ready: Any = None

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.live: Live | None = None
        self._counters: dict[tuple[str, str], Slot] = {}

    @property
    def name(self) -> str:
        """Registered name of the trained model."""
        return MODELS[self.task]

    def install(self, live: Live) -> None:
        """Take a verified model into service, in one assignment: requests under way finish with the old one."""
        self.prepare(live)
        self.live = live

    def retire(self) -> None:
        """Take the model out of service: requests are answered as before the first promotion."""
        self._ready = None
        self.live = None

    def prepare(self, live: Live) -> None:
        """Derive what requests need from a card, and run the graph once so that no request pays for it."""

    async def answer(self, route: str, body: bytes, request_id: str) -> bytes:
        """Answer one request body.

        Raises
        ------
        Problem
            If the body breaks a rule or there is no model to answer with.
        """
        raise NotImplementedError

    def count(self, kind: str, label: str, amount: int = 1) -> None:
        """Count predictions in ``aiops_predictions_total``."""
        slot = self._counters.get((kind, label))
        if slot is None:
            slot = self.metrics.counter("aiops_predictions_total", task=self.task, kind=kind, prediction=label)
            self._counters[kind, label] = slot
        slot.inc(amount)

    def no_champion(self) -> Problem:
        """Return the 503 that says how to get a model."""
        return Problem(503, f"no {self.name} has been promoted yet: train one with 'aiops report' or POST models/train")

    def status(self) -> dict[str, Any]:
        """Describe the model in service for ``models/status``."""
        live = self.live
        if live is None:
            return {"name": self.name, "kind": None, "version": None, "alias": None, "status": "no_champion"}
        card = live.servable.card
        return {
            "name": self.name,
            "kind": card.get("kind"),
            "version": live.version,
            "alias": live.alias,
            "status": "loaded",
            "run_id": live.run_id,
            "metrics": card.get("metrics") or {},
            "trained_at": card.get("created"),
            "loaded_at": iso(live.loaded_at),
            "features": [f["name"] for f in card.get("features", [])],
            **{key: card[key] for key in ("step_seconds", "window", "horizon") if key in card},
            "lineage": card.get("lineage") or {},
        }


async def breathe(done: int) -> None:
    """Let other requests run after every `CHUNK` rows of a batch."""
    if done % CHUNK == 0:
        await asyncio.sleep(0)


def servable_of(live: Live) -> Servable:
    """Return the servable, typed."""
    servable: Servable = live.servable
    return servable
