"""What each idea of the threat model brings, on validation rows of every public threat set; write reports/ablation-threat.md.

Run as ``python tests/benchmarks/ablation_threat.py``. The test parts are not looked at: of the training rows, a third of
the groups of each class and a sixth of the rows of the others (a third of all rows, where groups do not count) are left
out in turn, the whole final fit (calibration and decision too) is done on the rest, and those left out are scored: in
equal parts of known and of new groups, which count by the square root of their size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from aiops_core.data.sources import load
from aiops_core.judge import metrics
from aiops_core.tasks import threat
from aiops_core.tasks.threat import decision, forest, model, split

REPORT = Path(__file__).resolve().parents[2] / "reports" / "ablation-threat.md"
STORE = REPORT.with_suffix(".json")
SOURCES = ("nsl-kdd", "cicids2017", "synthetic")
FOLDS = 3
#: Rows learned from at most: a fifth of the usual effort.
ROWS = 4_000
SEEDS = (1,)
EARLIER = {"min_samples_leaf": 2, "max_depth": 14, "max_samples": 0.9, "mask_share": 0.25}
BEST: list[tuple[ModuleType, str, Any]] = [(forest, "SPLITTERS", ("best",))]
EXPONENT = (decision, "AS_GOOD", 0.0)
#: Changes of the default parameters, and constants of the library that are another; each beside the model as it is.
IDEAS: dict[str, tuple[dict[str, Any], list[tuple[ModuleType, str, Any]]]] = {
    "as it is": ({}, []),
    "all out: the trees of before, the best exponent": (EARLIER, [*BEST, EXPONENT]),
    "best thresholds alone": ({}, BEST),
    "the best exponent alone": ({}, [EXPONENT]),
    "leaves of 2 rows": ({"min_samples_leaf": 2}, []),
    "fewer masked copies (0.25)": ({"mask_share": 0.25}, []),
    "random thresholds alone": ({}, [(forest, "SPLITTERS", ("random",))]),
    "class weights of the root of the prior": ({"balance": 0.5}, []),
}
HEAD = [
    "# What each idea of the threat model brings",
    "",
    "Made by `python tests/benchmarks/ablation_threat.py` (resumable; `--minutes` limits a run) from training rows alone: no",
    "test part is looked at. A third of the groups of each class and a sixth of the rows (of cicids2017, a third of the rows)",
    f"are left out in turn; the whole final fit, calibration and decision included, learns from at most {ROWS:,} of the others.",
    "Scores are of the rows left out, new and known groups alike, groups by the root of their size. One idea a row is changed",
    "in the model as it is. `–` has not been measured yet.",
    "",
]


#: Measured before the ideas that lost were deleted, from kept votes of members, mixed in every way.
GONE = [
    "## Ideas that are not in the model",
    "",
    "Measured once, in the same way with up to 8,000 rows and 100 trees, by mixing kept votes of members: five parts of",
    "nsl-kdd, two of cicids2017, one of synthetic. Random thresholds are drawn on all rows here, not on bootstrap samples.",
    "",
    "| idea | nsl-kdd: macro-F1, log loss | cicids2017 | synthetic |",
    "| --- | --- | --- | --- |",
    "| the model of before: leaves of 2 rows, depth 14, best thresholds | 0.696, 0.6912 | 0.973, 0.0077 | 0.837, 0.3408 |",
    "| unpruned, half of the trees at random thresholds | 0.728, 0.6457 | 0.987, 0.0036 | 0.850, 0.3073 |",
    "| … training balance undone before the temperature, as before | 0.735, 0.6434 | 0.985, 0.0039 | 0.852, 0.3257 |",
    "| … an exponent of the prior fitted beside the temperature | 0.715, 0.6848 | 0.985, 0.0036 | 0.843, 0.2975 |",
    "| … the best exponent of decision weights alone, as before | 0.726, 0.6457 | 0.988, 0.0036 | 0.850, 0.3073 |",
    "| … no decision weights | 0.735, 0.6457 | 0.981, 0.0036 | 0.832, 0.3073 |",
    "| … the smallest exponent within 0.01 of the best | 0.730, 0.6457 | 0.982, 0.0036 | 0.832, 0.3073 |",
    "| … an exponent of 0.3 | 0.729, 0.6457 | 0.988, 0.0036 | 0.847, 0.3073 |",
    "| … logistic regression as a fifth of the vote | 0.725, 0.6712 | 0.988, 0.0039 | 0.835, 0.3171 |",
    "| … groups by the fourth root of their size | 0.720, 0.6226 | – | 0.830, 0.3215 |",
    "",
    "Boosted trees as a third of the vote, on one part each: nsl-kdd 0.729, 0.6882 against 0.749, 0.6753 without;",
    "cicids2017 0.983, 0.0039 against 0.983, 0.0045; and 60 more trees a class to serve. 300 trees take 2.5 times as long",
    "to serve as 100. Random thresholds on all rows instead of bootstrap samples gain up to 0.013 macro-F1 for trees a third",
    "larger, which serving has no room for.",
]


@contextmanager
def changed(constants: list[tuple[ModuleType, str, Any]]) -> Iterator[None]:
    """Set constants of modules for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in constants]
    for module, name, value in constants:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@cache
def left_out(source: str, seed: int) -> list[threat.ThreatData]:
    """Return the training rows of a source, a part of them left out in turn: prepared with that part as the test part."""
    parts = []
    dataset = load(source, seed=7, tasks=["threat"])
    whole = threat.prepare(dataset, seed=7)
    train = whole.index("train")
    group = None if whole.group is None else whole.group[train]
    group_fold, row_fold = split.deal_folds(whole.y[train], group, FOLDS, np.random.default_rng([seed, 99]))
    for fold in range(FOLDS):
        out = (group_fold == fold) | (row_fold == fold)
        frame = dataset.tables["activity"].iloc[train].reset_index(drop=True)
        frame["split"] = np.where(out, "test", "train")
        part = replace(dataset, tables={"activity": frame}, oracles={})
        parts.append(threat.prepare(part, seed=seed, effort=threat.Effort(max_rows=ROWS)))
    return parts


def weights(data: threat.ThreatData, rows: np.ndarray) -> np.ndarray:
    """Return what each row counts for, (n,): new and known groups of a class alike, a group by the root of its size."""
    if data.group is None:
        return np.ones(len(rows))
    y, group = data.y[rows], data.group[rows]
    _, cell, size = np.unique(np.c_[y, group], axis=0, return_inverse=True, return_counts=True)
    weight = (size**-0.5)[cell]
    new = ~np.isin(group, data.group[data.index("train")])
    for label in np.unique(y):
        mine = [(y == label) & kind for kind in (new, ~new)]
        if all(kind.any() for kind in mine):
            total = weight[y == label].sum()
            for kind in mine:
                weight[kind] *= total / 2 / weight[kind].sum()
    return weight


def scored(data: threat.ThreatData, changes: dict[str, Any], seed: int) -> tuple[float, float]:
    """Return the weighted macro-F1 and log loss of the rows left out."""
    fitted = model.finish([{**threat.defaults(data)[0], **changes}], data, seed=seed)
    found, rows = threat.predict(fitted, data, "test"), data.index("test")
    weight, truth = weights(data, rows), data.y[rows]
    n = len(data.classes)
    cells = np.bincount(truth * n + found["label"], weights=weight, minlength=n * n).reshape(n, n)
    loss = -np.log(np.maximum(found["probability"][np.arange(len(rows)), truth], 1e-12))
    return float(np.nanmean(metrics.f1_by_class(cells))), float(np.average(loss, weights=weight))


def table(found: dict[str, Any]) -> list[str]:
    """Return the table of a store: macro-F1 and log loss of each source, and the mean rank in both."""
    scores = np.array([[_mean(found, source, name) for source in SOURCES] for name in IDEAS])
    losses = np.concatenate([-scores[:, :, 0], scores[:, :, 1]], axis=1)
    # What has not been measured on every set has no rank, and moves none.
    losses[np.isnan(losses).any(axis=1)] = np.nan
    ranks = (1.0 + (losses[:, None, :] > losses[None, :, :]).sum(axis=1)).mean(axis=1)
    ranks[np.isnan(losses).any(axis=1)] = np.nan
    head = ["idea", *(f"{source}: macro-F1, log loss" for source in SOURCES), "mean rank"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, values, rank in zip(IDEAS, scores, ranks, strict=True):
        cells = ["–" if np.isnan(f1) else f"{f1:.3f}, {loss:.4f}" for f1, loss in values]
        lines.append(f"| {' | '.join([name, *cells, '–' if np.isnan(rank) else f'{rank:.1f}'])} |")
    return lines


def _mean(found: dict[str, Any], source: str, name: str) -> np.ndarray:
    values = [value for seed in SEEDS for value in found.get(f"{source} {seed} {name}", [])]
    return np.mean(values, axis=0) if values else np.full(2, np.nan)


def main() -> None:
    """Measure what the store lacks, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="nothing new begins after")
    parser.add_argument("--anew", action="store_true", help="measure again what the store holds")
    arguments = parser.parse_args()
    began = time.monotonic()
    found = json.loads(STORE.read_text(encoding="utf-8")) if STORE.is_file() and not arguments.anew else {}
    for seed, name, source in itertools.product(SEEDS, IDEAS, SOURCES):
        key = f"{source} {seed} {name}"
        if key in found or time.monotonic() - began > 60 * arguments.minutes:
            continue
        changes, constants = IDEAS[name]
        with changed(constants):
            found[key] = [scored(data, changes, seed) for data in left_out(source, seed)]
        print(key, np.mean(found[key], axis=0).round(4), flush=True)
        STORE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    REPORT.write_text("\n".join([*HEAD, *table(found), "", *GONE]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
