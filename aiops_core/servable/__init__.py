"""The one artefact that crosses from research to serving: ONNX graphs, a card and golden examples in a folder.

Needs only numpy and onnxruntime. What is measured in the report is computed through this package, and so is
what is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiops_core.errors import ServableError
from aiops_core.servable.capacity import CapacityServable
from aiops_core.servable.changes import changes
from aiops_core.servable.failure import FailureServable
from aiops_core.servable.folder import CARD, GOLDEN, Driver, Servable, read_card, update_card, write
from aiops_core.servable.recalibration import Recalibration
from aiops_core.servable.seal import SEAL, check_seal, digest, seal
from aiops_core.servable.threat import ThreatServable

__all__ = [
    "CARD",
    "GOLDEN",
    "SEAL",
    "Driver",
    "Recalibration",
    "Servable",
    "as_answering",
    "changes",
    "check_seal",
    "digest",
    "load",
    "read_card",
    "seal",
    "update_card",
    "write",
]


def load(folder: str | Path, *, verify: bool = True) -> Servable:
    """Open a servable folder as the class of its task.

    Parameters
    ----------
    folder : str or Path
        Folder made by `write`.
    verify : bool, default True
        Compare its files with their digests, if it has some, and replay the golden examples first.

    Returns
    -------
    FailureServable, ThreatServable or CapacityServable

    Raises
    ------
    ServableError
        If the folder is incomplete, damaged, of another schema version, or does not reproduce its golden examples.
    """
    folder = Path(folder)
    if verify:
        check_seal(folder)
    card = read_card(folder)
    classes: dict[str, type[Servable]] = {
        "failure": FailureServable,
        "threat": ThreatServable,
        "capacity": CapacityServable,
    }
    if card.get("task") not in classes:
        raise ServableError(f"servable {folder}: unknown task {card.get('task')!r}")
    try:
        servable = classes[card["task"]](folder, card)
        if verify:
            servable.verify()
    except ServableError:
        raise
    except Exception as error:
        # A damaged graph or card surfaces as any of a dozen types of onnxruntime, zipfile and numpy.
        raise ServableError(f"servable {folder}: cannot be loaded ({type(error).__name__}: {error})") from error
    return servable


def as_answering(loaded: Servable, record: Mapping[str, Any] | None) -> Servable:
    """Return a version's servable as it answers with the correction from feedback that is in effect, if there is one.

    Parameters
    ----------
    loaded : Servable
    record : mapping or None
        As a registry or a pointer file holds it.

    Raises
    ------
    ServableError
        If answers of its task cannot be corrected.
    """
    return loaded if record is None else loaded.recalibrated(Recalibration.of(record))
