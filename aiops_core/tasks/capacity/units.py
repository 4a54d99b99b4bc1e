"""The independent units of a capacity data set's forecasts: resources, and blocks of origins that share their future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aiops_core.judge.units import Units, of_labels
from aiops_core.tasks.capacity.data import CapacityData

#: Fewer resources or blocks than this are not drawn as such.
MIN_RESOURCES, MIN_BLOCKS = 8, 4


def units(data: CapacityData, part: str = "test", rows: np.ndarray | None = None) -> Units:
    """Return the independent units of a part's forecast values, or of some of them.

    Origins whose forecasts overlap make one block. With enough resources and blocks both are drawn, independently: what
    happens at one time happens to many resources. The interval is then as wide as the fewer of the two ask for: where
    four blocks carry the spread, a thousand resources do not make it narrower. With few blocks only resources are
    drawn, with few resources only blocks; with few of both, blocks of each resource.

    Parameters
    ----------
    rows : ndarray, (n,), bool, optional
        Which of the part's values.
    """
    pairs = data.parts[part]
    resource, origin = pairs.flat(pairs.resource), pairs.flat(pairs.origin)
    if rows is not None:
        resource, origin = resource[rows], origin[rows]
    resource = np.unique(resource, return_inverse=True)[1]
    places, position = np.unique(origin, return_inverse=True)
    apart = int(np.diff(places).min()) if len(places) > 1 else 1
    per_block = -(-int(data.score_steps[-1]) // apart)
    block = position // per_block
    n_resources, n_blocks = int(resource.max(initial=-1)) + 1, int(block.max(initial=-1)) + 1
    some = f"{n_resources} resources" if n_resources != 1 else "1 resource"
    blocks = f"{n_blocks} blocks of {per_block} origins" if per_block > 1 else f"{n_blocks} origins"
    if n_resources >= MIN_RESOURCES and n_blocks >= MIN_BLOCKS:
        cell = resource * n_blocks + block
        found = of_labels(cell, f"{some} crossed with {blocks}", len(places), "origins")
        names = np.unique(cell)
        axes = np.c_[names // n_blocks, names % n_blocks]
        return replace(
            found,
            counted="origins, and as many times the resources,",
            crossed=axes,
            effective=min(n_resources, n_blocks),
        )
    if n_resources >= MIN_RESOURCES:
        return of_labels(resource, some, n_resources, "resources")
    if n_blocks >= MIN_BLOCKS:
        return of_labels(block, f"{blocks} of {some}", len(places), "origins")
    cell = resource * n_blocks + block
    return of_labels(
        cell, f"{len(np.unique(cell))} blocks of up to {per_block} origins of {some}", len(places), "origins"
    )
