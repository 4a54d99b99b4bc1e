"""The rows that a model learns from, with masked copies, and the rows that score it out of fold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aiops_core.servable.threat import NORMAL
from aiops_core.tasks.threat.data import Params, ThreatData
from aiops_core.tasks.threat.inputs import Inputs

#: Share of unseen groups among the validation rows of a class that has groups to leave out.
NOVEL_SHARE = 0.5


@dataclass(frozen=True)
class Held:
    """Validation entries: which row is scored by which fold's forest. A row may occur as unseen and as known group.

    Attributes
    ----------
    row : ndarray, (m,), int64
        Position in ``ThreatData.rows``.
    fold : ndarray, (m,), int64
    novel : ndarray, (m,), bool
        Whether the row's whole group was left out.
    weight : ndarray, (m,), float64
        Mean 1.
    folds : int
        How many folds score.
    """

    row: np.ndarray
    fold: np.ndarray
    novel: np.ndarray
    weight: np.ndarray
    folds: int


def trial_folds(data: ThreatData) -> int:
    """Return how many folds score a trial: all, unless there are many rows and no groups to leave out."""
    effort = data.effort
    return effort.folds if (data.group_fold >= 0).any() or len(data.rows) <= effort.one_fold_above else 1


def held_out(data: ThreatData, folds: int) -> Held:
    """Return what the first ``folds`` folds score: unseen groups and rows of known ones, in shares of `NOVEL_SHARE`."""
    all_folds = data.effort.folds
    row_folds = all_folds * 2 if (data.group_fold >= 0).any() else all_folds
    grouped = data.group_fold >= 0
    # A row of a group can be scored as known in every fold but that which leaves its group out.
    known_weight = data.weight * np.where(
        grouped, (1 - NOVEL_SHARE) * row_folds / (all_folds - 1), row_folds / all_folds
    )
    pieces = []
    for fold in range(folds):
        novel = np.flatnonzero(data.group_fold == fold)
        known = np.flatnonzero((data.row_fold == fold) & (data.group_fold != fold))
        pieces.append((novel, np.full(len(novel), fold), np.ones(len(novel), bool), data.weight[novel] * NOVEL_SHARE))
        pieces.append((known, np.full(len(known), fold), np.zeros(len(known), bool), known_weight[known]))
    row, fold_of, is_novel, weight = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Held(row, fold_of, is_novel, weight / weight.mean(), folds)


def class_prior(data: ThreatData) -> np.ndarray:
    """Weighted class shares of the training rows, (n_classes,), with half a row added to each class."""
    share = np.bincount(data.y[data.rows], weights=data.weight, minlength=len(data.classes)) + 0.5
    return np.asarray(share / share.sum())


def fold_inputs(data: ThreatData, kept: np.ndarray) -> Inputs:
    """Return the inputs of a fold that keeps some rows, (n_rows,), bool: categories ordered by attacks among these alone.

    The codes of the served model are in the order of all training rows, which holds the labels that the fold scores.
    """
    y, weight = data.y[data.rows[kept]], data.weight[kept]
    ordinary = data.classes.index(NORMAL) if NORMAL in data.classes else int(np.bincount(data.y[data.rows]).argmax())
    ranks: dict[int, np.ndarray] = {}
    for j, feature in enumerate(data.features):
        if feature["dtype"] != "category":
            continue
        codes = data.X[data.rows[kept], j]
        known, n = ~np.isnan(codes), len(feature["categories"])
        code, mass, attack = codes[known].astype(np.int64), weight[known], (y != ordinary)[known]
        total = np.bincount(code, weights=mass, minlength=n)
        hits = np.bincount(code, weights=mass * attack, minlength=n)
        # One pseudo-row of the overall share, as for the codes themselves; ties by size, not by the order of the codes.
        share = (hits + hits.sum() / max(total.sum(), 1e-12)) / (total + 1)
        ranks[j] = np.empty(n, dtype=np.float32)
        ranks[j][np.lexsort((total, share))] = np.arange(n)
    return replace(data.inputs, ranks=ranks)


def training_rows(
    params: Params, data: ThreatData, chosen: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, X and weights of the chosen rows and of their copies with masked features."""
    rng = np.random.default_rng([seed, 17])
    copied = rng.random(len(data.rows)) < float(params["mask_share"])
    rate = rng.uniform(0.1, 0.9, size=(len(data.rows), 1))
    mask = rng.random((len(data.rows), data.X.shape[1])) < rate
    whole, copies = np.flatnonzero(chosen), np.flatnonzero(chosen & copied)
    masked = np.where(mask[copies], np.float32(np.nan), data.X[data.rows[copies]])
    if len(data.derived):
        # What is derived from a masked column is not known either.
        masked = data.whole(masked[:, : len(data.columns)])
    rows = np.concatenate([whole, copies])
    balance = class_prior(data) ** -float(params["balance"])
    weight = data.weight[rows] * balance[data.y[data.rows[rows]]]
    return rows, np.concatenate([data.X[data.rows[whole]], masked]), weight / weight.mean()
