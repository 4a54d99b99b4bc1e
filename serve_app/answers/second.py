"""What another version makes of inputs that one version has answered: features by name, missing where it was not given them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aiops_core.errors import ServableError
from aiops_core.servable.threat import encode_category
from serve_app.answers.service import Champion
from serve_app.journal.entries import About, Entry

__all__ = ["second"]


def second(task: str, entries: Sequence[Entry], other: Champion) -> list[tuple[Any, ...]]:
    """Return what another version answers, as `Entry.shadow` has it.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    entries : sequence of Entry
        Of one model.
    other : Champion

    Raises
    ------
    ServableError
        If its steps are of another length: what it would have seen is not known.
    """
    about = entries[0].about
    own, their = about.card.get("step_seconds"), other.servable.card.get("step_seconds")
    if own != their:
        raise ServableError(f"steps of {their} s cannot be made of steps of {own} s")
    return _BY_TASK[task](about, entries, other)


def _columns(about: About, other: Champion) -> list[int]:
    """Return where the features of the other version stand in the inputs; -1 for those that are not there."""
    place = {name: i for i, name in enumerate(about.names)}
    return [place.get(name, -1) for name in other.servable.features]


def _arranged(values: np.ndarray, columns: list[int]) -> np.ndarray:
    """Return values (..., n_features) in the order of the other version."""
    known = [j for j, i in enumerate(columns) if i >= 0]
    out = np.full((*values.shape[:-1], len(columns)), np.nan, dtype=np.float32)
    out[..., known] = values[..., [columns[j] for j in known]]
    return out


def _times(entries: Sequence[Entry]) -> np.ndarray:
    return np.array(
        [np.datetime64("NaT", "s") if e.time is None else np.datetime64(int(e.time), "s") for e in entries],
        dtype="datetime64[s]",
    )


def _failure(about: About, entries: Sequence[Entry], other: Champion) -> list[tuple[Any, ...]]:
    servable = other.servable
    windows = _arranged(np.stack([entry.inputs for entry in entries]), _columns(about, other))
    wanted, have = servable.window, windows.shape[1]
    if have < wanted:
        unseen = np.full((len(windows), wanted - have, windows.shape[2]), np.nan, dtype=np.float32)
        windows = np.concatenate([unseen, windows], axis=1)
    owners = ["" if entry.subject is None else str(entry.subject) for entry in entries]
    found = servable.predict(np.ascontiguousarray(windows[:, -wanted:]), _times(entries), owners)
    threshold = float(servable.threshold)
    return [(other.version, p, p >= threshold) for p in found.tolist()]


def _threat(about: About, entries: Sequence[Entry], other: Champion) -> list[tuple[Any, ...]]:
    servable = other.servable
    columns = _columns(about, other)
    rows = _arranged(np.stack([entry.inputs for entry in entries]), columns)
    for j, i in enumerate(columns):
        if i >= 0:
            _recode(rows[:, j], about.card["features"][i], servable.card["features"][j])
    found = servable.predict(rows)
    labels = servable.decide(found).tolist()
    return [(other.version, servable.classes[label], p) for p, label in zip(found.tolist(), labels, strict=True)]


def _recode(values: np.ndarray, own: Any, their: Any) -> None:
    """Turn places in one version's categories into places in the other's, in place."""
    before, after = list(own.get("categories") or ()), list(their.get("categories") or ())
    if before == after:
        return
    if not (before and after):
        # A number where the other version knows names, or the other way round.
        values[:] = np.nan
        return
    codes = {name: i for i, name in enumerate(after)}
    for k, value in enumerate(values.tolist()):
        if not math.isnan(value):
            name = before[int(value)] if 0 <= value < len(before) else "\0"
            values[k] = encode_category(name, codes)


def _capacity(about: About, entries: Sequence[Entry], other: Champion) -> list[tuple[Any, ...]]:
    servable = other.servable
    out = []
    for entry in entries:
        medians = {}
        last = _times([entry])
        for name, bands in entry.outputs[0].items():
            if name not in servable.targets:
                continue
            ahead = np.arange(1, min(len(bands), servable.horizon) + 1)
            exogenous = {n: entry.inputs[n][None] for n in servable.exogenous if n != name and n in entry.inputs}
            found = servable.forecast(entry.inputs[name][None], last, ahead, name, exogenous or None)
            medians[name] = found[0, :, 1]
        out.append((other.version, medians))
    return out


_BY_TASK: dict[str, Callable[[About, Sequence[Entry], Champion], list[tuple[Any, ...]]]] = {
    "failure": _failure,
    "threat": _threat,
    "capacity": _capacity,
}
