"""What the services of all tasks share: the model in service, decoding with useful errors, batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from aiops_core.servable import Servable
from serve_app.answers import iso
from serve_app.problems import Problem
from serve_app.telemetry import Metrics, Slot
from serve_app.violations import violations
from serve_app.wording import listed

__all__ = ["CHUNK", "MODELS", "TASKS", "Live", "Service", "decode", "is_batch"]

#: Task to registered model name.
MODELS = {"failure": "failure_predictor", "threat": "threat_detector", "capacity": "capacity_forecaster"}
TASKS = {name: task for task, name in MODELS.items()}
#: Rows of a batch answered before other requests get a turn.
CHUNK = 256

T = TypeVar("T")


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


#: Plain values of any JSON; a number beyond float64 becomes infinite, which breaks the same rule.
_anything = msgspec.json.Decoder(float_hook=float)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, path: str = "$") -> T:
    """Decode a request body, or say where it breaks which rule.

    Parameters
    ----------
    decoder : msgspec.json.Decoder or serve_app.rows.Renaming
    body : bytes
    path : str, default "$"
        Where the body stands, for errors: an instance of a batch is decoded by itself.

    Raises
    ------
    Problem
        400 if the body is not JSON, 422 with paths and rules if it breaks the schema.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    try:
        # A schema error may hide broken JSON further on, which comes first.
        content = _anything.decode(body)
    except msgspec.ValidationError:
        content = None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    rename = getattr(decoder, "rename", None)
    raise violations(decoder.type, content if rename is None else rename(content), message, path)


class _Peek(msgspec.Struct):
    instances: msgspec.Raw = msgspec.Raw()


_PEEK = msgspec.json.Decoder(_Peek)


def is_batch(body: bytes, named: bool = False) -> bool:
    """Say whether a body has an ``instances`` member at its top level.

    Parameters
    ----------
    body : bytes
    named : bool, default False
        Whether a column is called so: then only a list makes a batch.
    """
    if b'"instances"' not in body:
        return False
    try:
        found = bytes(_PEEK.decode(body).instances)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return found.startswith(b"[") if named else bool(found)


async def breathe(done: int) -> None:
    """Let other requests run after every `CHUNK` rows of a batch."""
    if done % CHUNK == 0:
        await asyncio.sleep(0)


def unknown_names(given: Iterable[str], known: Iterable[str], path: str, what: str = "feature") -> Problem | None:
    """Return the 422 that lists every name that a card does not know."""
    known = list(dict.fromkeys(known))
    names = set(known)
    bad = [name[:64] for name in given if name not in names]
    if not bad:
        return None
    choices = f"known are {listed(known)}"
    errors = [{"path": f"{path}.{name}", "rule": f"unknown {what}; {choices}"} for name in bad[:100]]
    return Problem(422, f"{path}: unknown {what}s {listed(bad)}; {choices}", errors)


def servable_of(live: Live) -> Servable:
    """Return the servable, typed."""
    servable: Servable = live.servable
    return servable
