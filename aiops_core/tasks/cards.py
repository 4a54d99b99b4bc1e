"""What the cards of all tasks say alike: the head, numeric features with their statistics, and what monitoring compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.facts import FACTS
from aiops_core.units import unit_of

STATISTICS = ("median", "p01", "p99", "min", "max", "mean", "std")


def head(task: str) -> dict[str, str]:
    """Return the first entries of a card: task, model, kind and the time, UTC."""
    facts = FACTS[task]
    created = pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds")
    return {"task": task, "model": facts.model, "kind": facts.kind, "created": created}


def reference(values: np.ndarray) -> dict[str, float]:
    """Return ``median, p01, p99, min, max, mean, std`` of the values (n,) that are not NaN; zeros where all are."""
    seen = values[~np.isnan(values)].astype(np.float64)
    if len(seen) == 0:
        return dict.fromkeys(STATISTICS, 0.0)
    low, median, high = np.percentile(seen, [1, 50, 99])
    found = (median, low, high, seen.min(), seen.max(), seen.mean(), seen.std())
    return dict(zip(STATISTICS, map(float, found), strict=True))


def numeric_feature(name: str, values: np.ndarray) -> dict[str, Any]:
    """Return the card's entry of a numeric feature from its training values (n,)."""
    found = reference(values)
    return {"name": name, "unit": unit_of(name, found["max"]), "dtype": "number", "reference": found}


#: Bins of a feature, of a score, and of a calibration.
FEATURE_BINS, SCORE_BINS, CALIBRATION_BINS = 10, 20, 10
#: Days of single resources whose windows are kept, and windows of such a day.
WINDOW_DAYS, WINDOWS = 1_500, 4


def bin_of(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return the bin of each value; the outer bins are open, and NaN is in none.

    Parameters
    ----------
    values : ndarray
    edges : sequence of float
        Ascending, at least two.

    Returns
    -------
    ndarray, int
        From 0; -1 for NaN. A value on an edge belongs to the bin that begins there.

    Examples
    --------
    >>> bin_of(np.array([-5.0, 1.0, 9.0, np.nan]), [0.0, 1.0, 2.0]).tolist()
    [0, 1, 1, -1]
    """
    values = np.asarray(values, dtype=np.float64)
    found = np.searchsorted(np.asarray(edges[1:-1], dtype=np.float64), values, side="right")
    return np.where(np.isnan(values), -1, found)


def histogram(values: np.ndarray) -> dict[str, Any]:
    """Return decile edges, the counts between them and the share of NaN.

    A value that fills more than a decile, such as an idle sensor's zero, gets a bin of its own.

    Parameters
    ----------
    values : ndarray, (n,)

    Returns
    -------
    dict
        ``edges`` (strictly ascending; the first and last are the smallest and largest value), ``counts``, ``missing``.
    """
    ordered = np.sort(values[~np.isnan(values)].astype(np.float64))
    if len(ordered) == 0:
        return {"edges": [0.0, 1.0], "counts": [0], "missing": 1.0 if len(values) else 0.0}
    place = np.linspace(0, len(ordered) - 1, FEATURE_BINS + 1).round().astype(int)
    deciles, often = np.unique(ordered[place], return_counts=True)
    after = np.searchsorted(ordered, deciles[often > 1], side="right")
    edges = np.unique(np.r_[deciles, ordered[after[after < len(ordered)]]])
    if len(edges) == 1 or (often[-1] > 1 and len(ordered) > FEATURE_BINS):
        edges = np.r_[edges, np.nextafter(edges[-1], np.inf)]
    counts = np.bincount(bin_of(ordered, edges.tolist()), minlength=len(edges) - 1)
    missing = float(np.isnan(values).mean())
    return {"edges": edges.tolist(), "counts": counts.tolist(), "missing": missing}


def categories(codes: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the rows of each category from codes (n,), NaN where missing."""
    known = codes[~np.isnan(codes)].astype(int)
    counts = np.bincount(known, minlength=len(names))
    return {"categories": list(names), "counts": counts.tolist(), "missing": float(np.isnan(codes).mean())}


def scatter(code: np.ndarray, bins: int, cluster: np.ndarray, day: np.ndarray | None = None) -> dict[str, float]:
    """Return how little rows that belong together tell: what a threshold of drift must allow for.

    Parameters
    ----------
    code : ndarray, (n,), int
        Bin of each row, -1 for none.
    bins : int
    cluster : ndarray, (n,), int
        Rows that resemble each other: those of a resource, or of a campaign.
    day : ndarray, (n,), int, optional
        Day of the row.

    Returns
    -------
    dict
        ``within``, the mean correlation of two rows of a cluster (on one day), in [0, 1]; ``rows``, of such a cluster;
        ``day``, the variance of a day's shares that all clusters have in common, in units of one row's; ``size``, the
        number of unrelated rows that would fix the histogram as well as these do.
    """
    seen = code >= 0
    code, cluster = code[seen], np.unique(cluster[seen], return_inverse=True)[1]
    if bins < 2 or len(code) < 2:
        return {"within": 0.0, "rows": 1.0, "day": 0.0, "size": float(len(code))}
    whole, _ = _effect(cluster, code, bins)
    found = {"within": 0.0, "rows": 1.0, "day": 0.0, "size": len(code) / max(whole, 1.0)}
    days = np.zeros(len(code), dtype=np.int64) if day is None else np.unique(day[seen], return_inverse=True)[1]
    both, own = np.unique(cluster * (int(days.max()) + 1) + days, return_inverse=True)
    effect, size = _effect(own, code, bins)
    found["rows"] = size
    if size > 1:
        found["within"] = float(np.clip((effect - 1) / (size - 1), 0, 1))
    if day is not None:
        found["day"] = _common(both // (int(days.max()) + 1), both % (int(days.max()) + 1), own, code, bins)
    return found


def _effect(cluster: np.ndarray, code: np.ndarray, bins: int) -> tuple[float, float]:
    """Return the design effect of clusters on shares, mean over bins (Rao and Scott 1981), and the rows of a cluster."""
    sizes, share = np.bincount(cluster), np.bincount(code, minlength=bins) / len(code)
    used = share > 0
    around = ((_table(cluster, code, len(sizes), bins) - sizes[:, None] * share) ** 2).sum(axis=0) / len(code)
    effect = (around[used] / share[used]).sum() / max(int(used.sum()) - 1, 1)
    return float(effect), float((sizes**2).sum() / sizes.sum())


def _common(cluster: np.ndarray, day: np.ndarray, own: np.ndarray, code: np.ndarray, bins: int) -> float:
    """Return the variance of the shares of a day that clusters have in common, beyond what each does for itself."""
    counts = _table(own, code, len(day), bins)
    shares = counts / counts.sum(axis=1, keepdims=True)
    usual = np.zeros((int(cluster.max()) + 1, bins))
    np.add.at(usual, cluster, shares)
    moved = shares - (usual / np.bincount(cluster)[:, None])[cluster]
    total, alone = np.zeros((2, int(day.max()) + 1, bins))
    np.add.at(total, day, moved)
    np.add.at(alone, day, moved**2)
    present = np.bincount(day)[:, None]
    shared = ((total**2 - alone) / present**2).mean(axis=0)
    share = counts.sum(axis=0) / counts.sum()
    used = share > 0
    return max(0.0, float((shared[used] / share[used]).sum() / max(int(used.sum()) - 1, 1)))


def _table(row: np.ndarray, column: np.ndarray, rows: int, columns: int) -> np.ndarray:
    counts = np.bincount(row * columns + column, minlength=rows * columns)
    return counts.reshape(rows, columns).astype(np.float64)


def score_histogram(score: np.ndarray, weight: np.ndarray | None = None, top: float = 1.0) -> dict[str, Any]:
    """Return 21 edges, from 0 to ``top``, between which equal shares of held-out scores lie, and the counts.

    Parameters
    ----------
    score : ndarray, (n,)
        Not negative.
    weight : ndarray, (n,), optional
        Rows that each score stands for.
    """
    weight = np.ones(len(score)) if weight is None else weight
    edges = _filled(_quantiles(score, weight, SCORE_BINS), top, SCORE_BINS)
    counts = np.bincount(bin_of(score, edges), weights=weight, minlength=SCORE_BINS)
    return {"edges": edges, "counts": counts.round(3).tolist()}


def calibration(
    score: np.ndarray,
    outcome: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    also: Sequence[float] = (),
    top: float = 1.0,
) -> dict[str, Any]:
    """Return what came true by bins of the score, on held-out rows.

    Parameters
    ----------
    score, outcome : ndarray, (n,)
        What was said, and what came true in the same unit: 1 or 0 for a probability.
    weight : ndarray, (n,), optional
    also : sequence of float
        Further edges, such as the threshold of alarms.

    Returns
    -------
    dict
        ``edges``, and by bin ``counts``, ``mean`` score and ``rate``, the mean outcome.
    """
    weight = np.ones(len(score)) if weight is None else weight
    inner = [e for e in _quantiles(score, weight, CALIBRATION_BINS) if 0 < e < top]
    edges = [0.0, *sorted({*inner, *(float(e) for e in also if 0 < e < top)}), top]
    place, bins = bin_of(score, edges), len(edges) - 1
    counts = np.bincount(place, weights=weight, minlength=bins)
    some = np.maximum(counts, 1e-12)
    mean = np.bincount(place, weights=weight * score, minlength=bins) / some
    rate = np.bincount(place, weights=weight * outcome, minlength=bins) / some
    middle = (np.array(edges[1:]) + np.array(edges[:-1])) / 2
    empty = counts == 0
    return {
        "edges": edges,
        "counts": counts.round(3).tolist(),
        "mean": np.where(empty, middle, mean).tolist(),
        "rate": np.where(empty, middle, rate).tolist(),
    }


def of_curve(curve: Mapping[str, Sequence[float]], rows: int, rate: float) -> tuple[np.ndarray, ...]:
    """Turn a policy curve on held-out rows back into scores: groups of rows between two thresholds.

    Parameters
    ----------
    curve : mapping
        ``threshold`` descending, ``recall``, ``missed`` and ``false_alarms`` (shares of all rows).
    rows : int
        Held-out rows.
    rate : float
        Share of positive rows, where the curve does not tell it.

    Returns
    -------
    score, outcome, weight : ndarray
        Half way between thresholds; 1 and 0; rows.
    """
    threshold, recall = np.asarray(curve["threshold"], dtype=float), np.asarray(curve["recall"], dtype=float)
    missed, false = np.asarray(curve["missed"], dtype=float), np.asarray(curve["false_alarms"], dtype=float)
    open_ = recall < 1
    base = float(missed[open_][0] / (1 - recall[open_][0])) if open_.any() else rate
    bounds = np.r_[1.0, threshold, 0.0]
    middle = (bounds[1:] + bounds[:-1]) / 2
    # Only near the top is a group wide; there its scores lie close to the lower end.
    middle[0] = threshold[0]
    positive = np.diff(np.r_[0.0, recall * base, base])
    negative = np.diff(np.r_[0.0, false, 1 - base])
    weight = np.maximum(np.r_[positive, negative], 0.0) * rows
    return np.r_[middle, middle], np.r_[np.ones(len(middle)), np.zeros(len(middle))], weight


def _quantiles(score: np.ndarray, weight: np.ndarray, parts: int) -> list[float]:
    """Return the inner edges that cut weighted scores into equal parts; ties are not cut."""
    order = np.argsort(score, kind="stable")
    ranked, mass = score[order].astype(np.float64), np.cumsum(weight[order])
    if len(ranked) == 0 or mass[-1] <= 0:
        return []
    place = np.searchsorted(mass, np.arange(1, parts) / parts * mass[-1])
    return [float(edge) for edge in np.unique(ranked[np.minimum(place, len(ranked) - 1)])]


def _filled(inner: Sequence[float], top: float, parts: int) -> list[float]:
    """Return ``parts`` bins from 0 to ``top``: where ties left fewer, the widest ones are halved."""
    edges = [0.0, *(e for e in inner if 0 < e < top), top]
    while len(edges) < parts + 1:
        widest = int(np.argmax(np.diff(edges)))
        edges.insert(widest + 1, (edges[widest] + edges[widest + 1]) / 2)
    return edges


def window_statistics(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each window (n, steps, features), (n, features) each.

    NaN is left out; where less than half of a window is known, so is the window.
    """
    known = ~np.isnan(windows)
    count = known.sum(axis=1).astype(np.float64)
    count[2 * count <= windows.shape[1]] = np.nan
    filled = np.where(known, windows, 0.0).astype(np.float64)
    mean = filled.sum(axis=1) / count
    spread = np.sqrt((np.where(known, filled - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
    # What is not constant is more than rounding away from it.
    return mean, np.where(spread <= 1e-6 * np.maximum(np.abs(mean), 1e-9), 0.0, spread)


def some_days(resource: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Return the positions of a few rows of some days of resources: of how windows of one day overlap, one row tells nothing.

    Parameters
    ----------
    resource, day : ndarray, (n,), int
        Sorted by resource, then day.

    Returns
    -------
    ndarray, int
        Ascending; about `WINDOWS` rows of up to `WINDOW_DAYS` days.
    """
    first = np.flatnonzero(np.r_[True, (np.diff(resource) != 0) | (np.diff(day) != 0)])
    size = np.diff(np.r_[first, len(resource)])
    chosen = np.unique(np.linspace(0, len(first) - 1, min(len(first), WINDOW_DAYS)).round().astype(int))
    rows = [first[i] + np.arange(0, size[i], max(1, size[i] // WINDOWS)) for i in chosen]
    return np.concatenate(rows)


def features_watch(
    names: Sequence[str], values: np.ndarray, cluster: np.ndarray, day: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the histogram of each numeric column of training rows (n, features), with its `scatter`."""
    found = {}
    for name, column in zip(names, values.T, strict=True):
        kept = histogram(column)
        found[name] = kept | {"scatter": scatter(bin_of(column, kept["edges"]), len(kept["counts"]), cluster, day)}
    return found


def windows_watch(
    names: Sequence[str], windows: np.ndarray, cluster: np.ndarray, day: np.ndarray | None = None
) -> dict[str, Any]:
    """Return histograms of the mean and the spread of training windows (n, steps, features) by feature.

    ``frozen`` is the share of windows in which the feature does not move at all.
    """
    mean, spread = window_statistics(windows)
    means, spreads = (features_watch(names, kind, cluster, day) for kind in (mean, spread))
    return {
        name: {"mean": means[name], "spread": spreads[name], "frozen": float((spread[:, i] == 0).mean())}
        for i, name in enumerate(names)
    }
