"""The independent units of a failure data set's examples: resources, or days of them."""

from __future__ import annotations

import numpy as np

from aiops_core.judge.units import Units, of_labels
from aiops_core.tasks.failure.data import FailureData
from aiops_core.tasks.failure.decision import DAY_SECONDS

#: Fewer resources with an incident than this say nothing of others: stretches of their time are drawn.
MIN_RESOURCES = 8


def units(data: FailureData, part: str = "test", rows: np.ndarray | None = None) -> Units:
    """Return the independent units of a part's examples, or of some of them.

    Resources where whole resources are held out, or where at least `MIN_RESOURCES` have an incident; else stretches of
    each resource's time, long enough for a window and a horizon, in whole days: incidents follow the clock, so that the
    hours of one day are no independent witnesses.

    Parameters
    ----------
    rows : ndarray, (n,), bool, optional
        Which of the part's examples.
    """
    ends = data.ends[part] if rows is None else data.ends[part][rows]
    owner = data.resource[ends].astype(np.int64)
    positive = data.label(ends) == 1
    with_incident = len(np.unique(owner[positive]))
    resources = len(np.unique(owner))
    incidents = incidents_of(data, ends)
    if data.by_resource or with_incident >= MIN_RESOURCES:
        words = f"{resources} resources, {with_incident} of them with an incident"
        return of_labels(owner, words, incidents, "incidents", with_incident)
    seconds = (data.window + data.horizon) * data.step_seconds
    days = -(-seconds // DAY_SECONDS)
    block = (ends - data.start[ends]) * data.step_seconds // (days * DAY_SECONDS)
    labels = owner * (int(block.max(initial=0)) + 1) + block
    before = len(np.unique(labels[positive]))
    length = "days" if days == 1 else f"stretches of {days} days"
    words = f"{len(np.unique(labels))} {length} of {resources} resources, {before} of them with an incident ahead"
    return of_labels(labels, words, incidents, "incidents", before)


def incidents_of(data: FailureData, ends: np.ndarray) -> int:
    """Return the number of incidents that start within the horizon of the examples at ``ends``."""
    soon = ends[data.label(ends) == 1]
    # An incident is known by the place of its start, of which every resource has its own.
    return len(np.unique(np.c_[data.resource[soon], np.round(soon + data.until[soon], 6)], axis=0))
