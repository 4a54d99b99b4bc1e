"""Would the service take this servable? Asked before anything points to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable
from aiops_core.errors import ServableError
from aiops_core.facts import BY_MODEL
from serve_app.answers.capacity import CapacityService
from serve_app.answers.failure import FailureService
from serve_app.answers.service import Champion, Service
from serve_app.answers.threat import ThreatService

__all__ = ["verify"]

_SERVICES: dict[str, type[Service]] = {
    "failure": FailureService,
    "threat": ThreatService,
    "capacity": CapacityService,
}


def verify(folder: str | Path, name: str, entry: Mapping[str, Any]) -> None:
    """Do all that a replica does with a servable before it answers with it, and drop the result.

    Parameters
    ----------
    folder : str or Path
        Of the servable.
    name : str
        Registered model name.
    entry : mapping
        ``version, run_id, alias, created`` from the registry, and where there is one, ``recalibration``.

    Raises
    ------
    ServableError
        If it is incomplete, does not reproduce its golden examples, is of another task, or no requests can be built for it.
    """
    loaded = servable.load(folder)
    if loaded.task != BY_MODEL[name]:
        raise ServableError(f"the servable is for task '{loaded.task}', not '{BY_MODEL[name]}'")
    try:
        # Nothing is answered and so nothing is counted: the service needs no metrics.
        service = _SERVICES[loaded.task](None)  # type: ignore[arg-type]
        model = servable.as_answering(loaded, entry.get("recalibration"))
        service.prepare(Champion(model, name, str(entry["version"]), entry["run_id"], entry["alias"], entry["created"]))
    except Exception as error:
        # Names or shapes that no request can be built for surface as any type of msgspec, numpy and onnxruntime.
        raise ServableError(f"no request can be answered with it ({type(error).__name__}: {error})") from error
