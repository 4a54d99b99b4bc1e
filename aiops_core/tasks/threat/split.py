"""Which rows are for test, which fold leaves a row out, and which rows are learned from."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.model_selection import StratifiedKFold

#: A group counts as ``rows ** GROUP_POWER``.
GROUP_POWER = 0.5


def hold_out(y: np.ndarray, group: np.ndarray | None, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Hold out about ``fraction`` of every class: whole groups where there are groups, else rows."""
    held = np.zeros(len(y), dtype=bool)
    by_row = np.ones(len(y), dtype=bool) if group is None else divisible(y, group)
    if group is not None:
        rows_of = np.bincount(group)
        for names in groups_by_class(y[~by_row], group[~by_row]).values() if (~by_row).any() else []:
            # One group of a class stays in training, whatever its size.
            order = rng.permutation(names)
            before = np.cumsum(rows_of[order]) - rows_of[order]
            taken = before + rows_of[order] / 2 <= fraction * rows_of[order].sum()
            taken[0] = len(order) > 1
            taken[-1] = False
            held |= np.isin(group, order[taken])
    for label in np.unique(y[by_row]):
        members = np.flatnonzero(by_row & (y == label))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held


def deal_folds(
    y: np.ndarray, group: np.ndarray | None, folds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Deal rows out to folds; return the fold that leaves out a row's group, or -1, and the one that leaves out the row."""
    group_fold = np.full(len(y), -1, dtype=np.int64)
    if group is not None:
        whole = ~divisible(y, group)
        # A class of one group keeps it in every fold.
        dealt = {c: names for c, names in groups_by_class(y[whole], group[whole]).items() if len(names) > 1}
        if dealt:
            names, labels = np.concatenate(list(dealt.values())), np.repeat(list(dealt), list(map(len, dealt.values())))
            fold_of = np.full(int(group.max()) + 1, -1, dtype=np.int64)
            fold_of[names] = _deal(labels, folds, rng)
            group_fold = fold_of[group]
    # With groups, only half of the row folds is ever left out: training sets stay large.
    row_folds = folds * 2 if (group_fold >= 0).any() else folds
    return group_fold, _deal(y, row_folds, rng)


def _deal(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal entries out so that every label is spread evenly, (n,), int64; labels may have fewer entries than folds."""
    # scikit-learn refuses only where no label has as many; then some folds stay empty.
    splits = min(folds, int(np.bincount(labels).max()))
    fold = np.zeros(len(labels), dtype=np.int64)
    if splits > 1:
        dealer = StratifiedKFold(splits, shuffle=True, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            for number, (_, held) in enumerate(dealer.split(labels, labels)):
                fold[held] = number
    return fold


def divisible(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Tell for each row whether its group may be divided: pure, and the only one of its class."""
    pairs = np.unique(np.c_[y, group], axis=0)
    groups_of_class = np.bincount(pairs[:, 0], minlength=int(y.max()) + 1)
    classes_of_group = np.bincount(pairs[:, 1], minlength=int(group.max()) + 1)
    return np.asarray((groups_of_class[y] == 1) & (classes_of_group[group] == 1))


def groups_by_class(y: np.ndarray, group: np.ndarray) -> dict[int, np.ndarray]:
    """Return the groups of each class, a group belonging to its rarest class: rare classes are dealt out first."""
    size = np.bincount(y)
    rarest: dict[int, int] = {}
    for label, name in np.unique(np.c_[y, group], axis=0):
        if name not in rarest or size[label] < size[rarest[name]]:
            rarest[int(name)] = int(label)
    out: dict[int, list[int]] = {}
    for name, label in rarest.items():
        out.setdefault(label, []).append(name)
    return {label: np.array(sorted(names)) for label, names in out.items()}


def sample(
    y: np.ndarray, group: np.ndarray | None, max_rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to learn from and weigh them, so that large cells are seen in part and small ones whole."""
    key = y if group is None else y * (int(group.max()) + 1) + group
    _, cell, size = np.unique(key, return_inverse=True, return_counts=True)
    cap = _water_level(size, max_rows)
    order = rng.permutation(len(y))
    by_cell = order[np.argsort(cell[order], kind="stable")]
    rank = np.arange(len(y)) - np.repeat(np.cumsum(size) - size, size)
    chosen = np.sort(by_cell[rank < np.repeat(cap, size)])
    power = 1.0 if group is None else GROUP_POWER
    weight = (size**power / np.minimum(size, cap))[cell[chosen]]
    return chosen, weight / weight.mean()


def _water_level(size: np.ndarray, total: int) -> np.ndarray:
    """Return the largest equal cap of each cell with at most ``total`` rows in all."""
    if size.sum() <= total:
        return size
    low, high = 1, int(size.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(size, middle).sum() <= total else (low, middle - 1)
    return np.asarray(np.minimum(size, low))
