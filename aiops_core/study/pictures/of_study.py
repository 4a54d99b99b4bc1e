"""The pictures of one study, by name."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

from matplotlib.figure import Figure

from aiops_core.data.tables import suggestion
from aiops_core.errors import UsageError
from aiops_core.search import SearchResult
from aiops_core.study.pictures import capacity, failure, threat
from aiops_core.study.pictures.common import Gallery, Picture, canvas, comparison
from aiops_core.study.pictures.search import learning_curves, parameters, search_progress

#: Pictures of the search, by name.
OF_SEARCH: dict[str, Callable[[SearchResult], Picture]] = {
    "search_progress": search_progress,
    "learning_curves": learning_curves,
    "parameters": parameters,
}
#: Those that every task has.
COMMON = ("comparison", *OF_SEARCH)
#: The pictures of each task's own, by name.
OWN = {"failure": failure.PICTURES, "threat": threat.PICTURES, "capacity": capacity.PICTURES}
#: Parts of the details that they show beside their own, by task and name.
BESIDE: dict[str, dict[str, tuple[str, ...]]] = {"failure": failure.BESIDE, "threat": {}, "capacity": {}}


class Drawable(Protocol):
    """What the pictures read of an `aiops_core.study.study.Study`; ``drawn`` keeps those that are made."""

    name: str
    task: ModuleType
    result: SearchResult | None
    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    oracle: dict[str, Any] | None
    details: dict[str, Any]
    drawn: dict[str, Figure]


def figures(study: Drawable) -> dict[str, Figure]:
    """Return every picture of an evaluated study by name, in the order of the report."""
    return {f"{i:02d}_{name}": draw(study, name) for i, name in enumerate(available(study), 1)}


def available(study: Drawable) -> list[str]:
    """Return the names that `draw` knows for a study's task and that its details can fill."""
    own = (name for name, (key, _) in OWN[study.name].items() if study.details.get(key))
    return ["comparison", *own, *OF_SEARCH]


def draw(study: Drawable, name: str) -> Picture:
    """Draw one picture of a study.

    Parameters
    ----------
    study : Study
        Searched; and evaluated, for pictures of the test part.
    name : str
        ``search_progress``, ``learning_curves``, ``parameters``, ``comparison``, or one of the task's own:
        see `OWN`.

    Raises
    ------
    UsageError
        If the study has not been searched, or has no such picture.
    """
    known = [*COMMON, *OWN[study.name]]
    if name not in known:
        raise UsageError(f"task '{study.name}' has no picture '{name}'{suggestion(name, known)}")
    if name not in study.drawn:
        study.drawn[name] = _drawn(study, name)
    return study.drawn[name]  # type: ignore[return-value]


def _drawn(study: Drawable, name: str) -> Picture:
    if name == "comparison":
        if not study.metrics:
            raise UsageError("call evaluate() first")
        task = study.task
        return comparison(task.MAIN_METRIC, task.MODEL, study.metrics, study.baselines, study.oracle)
    if name in OF_SEARCH:
        if study.result is None:
            raise UsageError("call search() first")
        return OF_SEARCH[name](study.result)
    key, picture = OWN[study.name][name]
    if not study.details:
        raise UsageError("call evaluate() first")
    if not study.details.get(key):
        # A notebook asks the same questions of every data set; one without a class for normal has no cost of attacks.
        return canvas(f"{name}: these data have nothing to show here", height=0.6)[0]
    beside = {other: study.details.get(other) for other in BESIDE[study.name].get(name, ())}
    return picture(study.details[key], **beside)


def gallery(study: Drawable) -> Gallery:
    """Return the pictures of the test part."""
    return Gallery(draw(study, name) for name in available(study) if name not in COMMON)
