"""The independent units of a threat data set's rows: campaigns, or rows where none are named."""

from __future__ import annotations

import numpy as np

from aiops_core.judge.units import Units, of_labels, of_rows
from aiops_core.tasks.threat.data import ThreatData
from aiops_core.tasks.threat.split import groups_by_class


def units(data: ThreatData, part: str = "test", rows: np.ndarray | None = None) -> Units:
    """Return the independent units of a part's rows, or of some of them.

    Groups (campaigns, attack names, hosts), drawn within their class, so that no resample lacks a class. A class that
    is one group has no other to draw: its rows are.

    Parameters
    ----------
    rows : ndarray, (n,), bool, optional
        Which of the part's rows.
    """
    index = data.index(part) if rows is None else data.index(part)[rows]
    return units_at(data, index)


def units_at(data: ThreatData, index: np.ndarray) -> Units:
    """Return the independent units of the rows with these numbers."""
    if data.group is None or len(index) == 0:
        return of_rows(len(index))
    y, group = data.y[index], data.group[index]
    by_class = groups_by_class(y, group)
    stratum = np.zeros(int(group.max()) + 1, dtype=np.int64)
    lone = np.zeros(len(stratum), dtype=bool)
    for label, names in by_class.items():
        stratum[names], lone[names] = label, len(names) == 1
    # Rows of a lone group are told apart by numbers behind those of the groups.
    labels = np.where(lone[group], len(stratum) + np.arange(len(index)), group)
    names, first = np.unique(labels, return_index=True)
    groups = sum(map(len, by_class.values()))
    drawn = groups - int(lone.sum())
    if drawn == 0:
        return of_rows(len(index))
    alone = ", ".join(sorted(data.classes[label] for label, members in by_class.items() if len(members) == 1))
    alone = f", and the rows of {alone}" if alone else ""
    found = of_labels(labels, f"{drawn} groups within their class{alone}", drawn, "groups")
    # Rows of lone groups are many and witness little of other groups: only groups count for the width.
    return Units(found.code, found.words, found.count, found.counted, strata=stratum[group[first]], effective=drawn)
