"""Snapshots of each resource, kept until they fill the window that the failure predictor reads.

With one ingress replica the buffer lives inside it. With several, `build` binds one buffer deployment that all of them
ask (`serve_app.app.SharedWindows`), because the proxy may send two snapshots of a resource to two replicas; every
replica therefore changes from the rules to the trained model at the same snapshot. When the buffer is lost (its process
restarted), the rules answer again until the window has filled anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

__all__ = ["MAX_RESOURCES", "Windows"]

#: Resources remembered; the one not heard of for longest is forgotten first.
MAX_RESOURCES = 10_000


@dataclass
class _Buffer:
    signature: tuple[object, ...]
    timed: bool
    slots: dict[int, np.ndarray] = field(default_factory=dict)
    newest: int = -1
    first: int | None = None
    latest: float | None = None


class Windows:
    """Ring buffers of snapshots, one for each resource."""

    def __init__(self, max_resources: int = MAX_RESOURCES) -> None:
        self._buffers: OrderedDict[str, _Buffer] = OrderedDict()
        self._max = max_resources

    def __len__(self) -> int:
        return len(self._buffers)

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
            Identifies the feature list; when it changes, what was collected is dropped.
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
        timed = timestamp is not None
        buffer = self._buffers.get(resource_id)
        if buffer is None or buffer.signature != signature or buffer.timed != timed:
            buffer = self._buffers[resource_id] = _Buffer(signature, timed)
            if len(self._buffers) > self._max:
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(resource_id)
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
