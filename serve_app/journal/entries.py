"""What a service hands over after an answer: references, nothing that would have to be computed first."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

__all__ = ["CANARY", "CHAMPION", "About", "Entry", "asked"]

#: Roles: who spoke.
CHAMPION, CANARY = "champion", "canary"
#: Name of the key of the request under way, and when its body was there (performance counter).
asked: ContextVar[tuple[str | None, float]] = ContextVar("asked", default=(None, 0.0))


class About:
    """What all answers of one model have in common, made once for each.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    version : str or int or None
        Registered version; None for an untrained model, which is kept as 0.
    card : mapping
        With ``features``; see `aiops_core.journal.versions`.
    role : {"champion", "canary"}

    Attributes
    ----------
    stamp : str or None
        Attribute of a threat request that holds its time.
    recalibration : int or None
        Number of the correction from feedback that is in effect.
    """

    def __init__(
        self,
        task: str,
        version: str | int | None,
        card: Mapping[str, Any],
        role: str = CHAMPION,
    ) -> None:
        self.task = task
        self.version = int(version) if version is not None and str(version).isdecimal() else 0
        self.card = card
        self.role = role
        self.stamp: str | None = None
        self.names: list[str] = [feature["name"] for feature in card["features"]]
        self.classes: list[str] = list(card.get("classes") or ())
        self.recalibration: int | None = (card.get("recalibration") or {}).get("number")


class Entry(msgspec.Struct, gc=False):
    """One answer.

    Attributes
    ----------
    about : About
    request_id : str
        As the answer says it.
    batch : bool
        Whether it was one of a batch: its id then ends with its place.
    subject : Any
        Failure, capacity: name of the resource. Threat: the request, whose attributes say it.
    time : float or None
        The newest time that the model saw, seconds since 1970.
    inputs : Any
        Failure: window, (steps, n_features), float32, or values by name of one snapshot. Threat: row, (n_features,), float32. Capacity: values by column,
        aligned at their end.
    outputs : tuple
        Failure: probability, threshold. Threat: probabilities, index of the class, its threshold. Capacity: bands by target,
        (steps, 3), whether the answer is an alarm, and its probability.
    shadow : tuple or None
        What another version would have answered, and which: failure ``(version, probability, alarm)``, threat ``(version,
        class, probabilities)``, capacity ``(version, medians by target)``. May be filled in until the entry is put.
    key : str or None
    began, ended : float
        Performance counter; set when it is put, if they are 0.
    """

    about: About
    request_id: str
    batch: bool
    subject: Any
    time: float | None
    inputs: Any
    outputs: tuple[Any, ...]
    shadow: tuple[Any, ...] | None = None
    key: str | None = None
    began: float = 0.0
    ended: float = 0.0
