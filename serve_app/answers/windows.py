"""Snapshots of each resource, kept until they fill the window that the failure predictor reads.

With one ingress replica the buffer lives inside it. With several, `build` binds one buffer deployment that all of them
ask (`serve_app.app.SharedWindows`), because the proxy may send two snapshots of a resource to two replicas; every
replica therefore changes from the rules to the trained model at the same snapshot. What is in the buffer is journalled
(`serve_app.answers.window_journal`): a process that starts again goes on with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["MAX_RESOURCES", "Buffer", "Key", "Unreachable", "Windows"]

#: Windows remembered; the one not heard of for longest is forgotten first.
MAX_RESOURCES = 10_000

#: Resource, feature list, and whether its snapshots have timestamps. A snapshot without one, or of another model's
#: features, has a window of its own: it cannot harm what others have filled.
Key = tuple[str, tuple[object, ...], bool]


class Unreachable(Exception):
    """The process that keeps the windows did not answer."""


@dataclass
class Buffer:
    """Snapshots of one window by step."""

    slots: dict[int, np.ndarray] = field(default_factory=dict)
    newest: int = -1
    first: int | None = None
    latest: float | None = None

    def copy(self) -> Buffer:
        """Return a copy that later snapshots do not change."""
        return Buffer(dict(self.slots), self.newest, self.first, self.latest)


class Windows:
    """Ring buffers of snapshots, one for each resource.

    Parameters
    ----------
    max_resources : int
    forgotten : object with ``inc``, optional
        Counts the resources that were forgotten for want of room.

    Attributes
    ----------
    pending : list or None
        Snapshots that the journal has yet to write; None without a journal.
    lock : Lock
        Held while snapshots are taken in, and while the journal takes a copy.
    """

    def __init__(self, max_resources: int = MAX_RESOURCES, forgotten: Any | None = None) -> None:
        self._buffers: OrderedDict[Key, Buffer] = OrderedDict()
        self._max = max_resources
        self._forgotten = forgotten
        self.pending: list[tuple[Any, ...]] | None = None
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._buffers)

    def items(self) -> Iterable[tuple[Key, Buffer]]:
        """Return the buffers, the one not heard of for longest first."""
        return self._buffers.items()

    def restore(self, resource_id: str, signature: tuple[object, ...], timed: bool, buffer: Buffer) -> None:
        """Put a buffer back in its place."""
        self._buffers[resource_id, signature, timed] = buffer

    def become(self, other: Windows) -> None:
        """Take over the windows of another buffer, in place of those here."""
        self._buffers = other._buffers

    def append(
        self,
        resource_id: str,
        row: np.ndarray,
        *,
        signature: tuple[object, ...],
        window: int,
        step: int,
        timestamp: float | None,
    ) -> tuple[np.ndarray | None, int, float | None]:
        """Add one snapshot and return the window, once it is filled.

        A snapshot with a timestamp takes its place on the grid of `step` seconds (a later one in the same step
        replaces it; steps without one are missing). Without timestamps every snapshot counts as the next step.
        The window is filled when it reaches back `window` steps and at least half of them have a snapshot.

        Parameters
        ----------
        resource_id : str
        row : ndarray, (n_features,), float32
            Raw units, NaN where not observed.
        signature : tuple
            Identifies the feature list; snapshots of another one are collected apart.
        window : int
            Steps.
        step : int
            Seconds.
        timestamp : float or None
            Seconds since the epoch.

        Returns
        -------
        window : ndarray, (window, n_features), float32, or None
            Oldest row first.
        have : int
            Steps of the window that have a snapshot.
        newest : float or None
            Time of the newest snapshot: the window ends there, however late another one comes.
        """
        with self.lock:
            if self.pending is not None:
                self.pending.append((resource_id, row, signature, timestamp))
            return self.put(resource_id, row, signature=signature, window=window, step=step, timestamp=timestamp)

    def put(
        self,
        resource_id: str,
        row: np.ndarray,
        *,
        signature: tuple[object, ...],
        window: int,
        step: int,
        timestamp: float | None,
    ) -> tuple[np.ndarray | None, int, float | None]:
        """Add one snapshot as `append` does, past the journal."""
        key = (resource_id, signature, timestamp is not None)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = Buffer()
            if len(self._buffers) > self._max:
                self._buffers.popitem(last=False)
                if self._forgotten is not None:
                    self._forgotten.inc()
        self._buffers.move_to_end(key)
        slot = buffer.newest + 1 if timestamp is None else int(timestamp // step)
        if buffer.newest >= 0 and slot > buffer.newest + window:
            # Nothing of the old window is left: the resource was silent for longer than a window.
            buffer.slots.clear()
            buffer.first = None
        buffer.newest = max(buffer.newest, slot)
        if timestamp is not None:
            buffer.latest = timestamp if buffer.latest is None else max(buffer.latest, timestamp)
        oldest = buffer.newest - window + 1
        if slot >= oldest:
            if slot < buffer.newest or timestamp is None or timestamp == buffer.latest:
                buffer.slots[slot] = row
            buffer.first = slot if buffer.first is None else min(buffer.first, slot)
        for old in [s for s in buffer.slots if s < oldest]:
            del buffer.slots[old]
        have = len(buffer.slots)
        if buffer.first is None or buffer.first > oldest or 2 * have < window:
            return None, have, buffer.latest
        out = np.full((window, len(row)), np.nan, dtype=np.float32)
        for s, values in buffer.slots.items():
            out[s - oldest] = values
        return out, have, buffer.latest
