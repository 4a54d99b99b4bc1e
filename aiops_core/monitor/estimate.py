"""Quality without labels: what calibrated probabilities promise.

Every probability says how often it is right; the card keeps how often such scores came true on held-out rows. The mean over
the answers is the quality to expect, if scores still mean what they meant (NannyML calls it CBPE; for forecasts the width of
the band takes the place of the probability).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiops_core.monitor.drift import score_scatter
from aiops_core.monitor.traffic import Traffic
from aiops_core.tasks.cards import bin_of

BLIND = {
    "failure": (
        "It sees traffic that the model is less sure of. It cannot see that incidents now come for reasons the model does "
        "not know while its probabilities look as ever: only feedback tells."
    ),
    "threat": (
        "It sees activity that the model is less sure of. It cannot see a new kind of attack that the model takes for "
        "something it knows: only feedback tells."
    ),
    "capacity": (
        "It sees series that the band widens for. It cannot see a break that history does not announce: the errors of "
        "forecasts that have come due tell, a day later."
    ),
}
#: What is estimated and measured, by task; whether more is better.
METRIC = {"failure": "f1", "threat": "accuracy", "capacity": "error"}
BETTER = {"failure": 1, "threat": 1, "capacity": -1}
#: A ratio that is this much worse has fallen; forecasts err more on some days of the week than on others.
MARGIN = {"failure": 0.05, "threat": 0.05, "capacity": 0.15}
DRAWS = 400
#: Standard errors that a fall must be beyond its margin: one look in two thousand goes wrong.
SURE = 3.3
#: Rows of the last day without which the whole period is estimated, and clusters without which rows in a row make some.
LEAST_ROWS, LEAST_CLUSTERS = 50, 5


@dataclass(frozen=True)
class Counts:
    """Answers by cluster and calibration bin: ``alarms`` and ``all``, (clusters, bins)."""

    alarms: np.ndarray
    all: np.ndarray


def estimate(traffic: Traffic, *, by_day: bool = True) -> dict[str, Any] | None:
    """Estimate the quality of the last day, or of all answers where a day has too few.

    Returns
    -------
    dict or None
        ``metric``, ``value``, ``low``, ``high``; ``promised``, the same on the held-out rows of the card; ``ratio`` of the
        two with ``ratio_low`` and ``ratio_high``; ``fallen``; ``rows``; ``days``, as a list of such dicts without ratio;
        ``right``, the mean probability that an answer is right, where there is one; ``precision`` of alarms; ``blind``.
        None without answers.
    """
    usable = ~np.isnan(traffic.score)
    if not usable.any():
        return None
    today = usable & (traffic.day == 0)
    chosen = today if today.sum() >= LEAST_ROWS else usable
    found = _interval(traffic, chosen)
    days = []
    for day in range(traffic.days if by_day else 0):
        mine = usable & (traffic.day == day)
        if mine.sum() >= LEAST_ROWS:
            days.append({"day": day, **_interval(traffic, mine, draws=100)})
    return {
        "metric": METRIC[traffic.task],
        **found,
        "days": days,
        "blind": BLIND[traffic.task],
        **_sides(traffic, chosen),
    }


def _interval(traffic: Traffic, rows: np.ndarray, draws: int = DRAWS) -> dict[str, Any]:
    kept = traffic.card["watch"]["calibration"]
    counts, rng = cluster_counts(traffic, rows), np.random.default_rng(11)
    rate = np.asarray(kept["rate"])[None]
    held, others = _held_out(traffic), _held_out(traffic, rng, draws)
    value, promised = float(_value(traffic.task, _sums(counts), rate)[0]), float(_value(traffic.task, held, rate)[0])
    rates = _drawn_rates(traffic.task, np.asarray(kept["rate"]), np.asarray(kept["counts"]), rng, draws)
    clusters = len(counts.all)
    weight = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(float)
    sums = (weight @ counts.alarms, weight @ counts.all)
    found = _value(traffic.task, sums, rates)
    ratio = found / np.maximum(_value(traffic.task, others, rates), 1e-9)
    low, high = np.quantile(found, [0.025, 0.975])
    middle, around = value / max(promised, 1e-9), SURE * float(np.log(np.maximum(ratio, 1e-9)).std())
    ratio_low, ratio_high = middle * np.exp(-around), middle * np.exp(around)
    margin = MARGIN[traffic.task]
    fallen = ratio_high < 1 - margin if BETTER[traffic.task] > 0 else ratio_low > 1 + margin
    return {
        "value": value,
        "low": float(low),
        "high": float(high),
        "promised": promised,
        "ratio": middle,
        "ratio_low": float(ratio_low),
        "ratio_high": float(ratio_high),
        "fallen": bool(fallen),
        "rows": int(rows.sum()),
    }


def clusters_of(traffic: Traffic, rows: np.ndarray) -> np.ndarray:
    """Return to which independent unit each of the rows (bool) belongs: its resource, or answers in a row."""
    _, cluster = np.unique(traffic.resource[rows], return_inverse=True)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    if LEAST_CLUSTERS <= count < len(cluster):
        return np.asarray(cluster)
    # Of unnamed answers those in a row may belong together; few resources are cut into stretches of time.
    size = max(1, min(15, len(cluster) // 20))
    return np.asarray(np.arange(len(cluster)) // size)


def cluster_counts(traffic: Traffic, rows: np.ndarray) -> Counts:
    """Count answers by cluster and calibration bin."""
    edges = traffic.card["watch"]["calibration"]["edges"]
    cluster, place = clusters_of(traffic, rows), bin_of(traffic.score[rows], edges)
    size, bins = int(cluster.max()) + 1, len(edges) - 1
    index = cluster * bins + place
    every = np.bincount(index, minlength=size * bins).reshape(size, bins)
    alarms = np.bincount(index, weights=traffic.alarm[rows], minlength=size * bins).reshape(size, bins)
    return Counts(alarms, every)


def _sums(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    return counts.alarms.sum(axis=0)[None], counts.all.sum(axis=0)[None]


def _held_out(
    traffic: Traffic, rng: np.random.Generator | None = None, draws: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of the card's held-out rows, those of alarms first, (1, bins); or others that they might have been."""
    kept = traffic.card["watch"]["calibration"]
    every = np.asarray(kept["counts"], dtype=float)[None]
    if rng is not None:
        size = max(1, round(score_scatter(traffic.card["watch"])["size"]))
        every = rng.multinomial(size, every[0] / every.sum(), size=draws).astype(float)
    if traffic.task != "failure":
        return every, every
    above = np.asarray(kept["edges"][:-1]) >= traffic.card["decision"]["threshold"] - 1e-12
    return every * above, every


def _value(task: str, sums: tuple[np.ndarray, np.ndarray], rate: np.ndarray) -> np.ndarray:
    """Return the expected metric from counts by bin (draws, bins) and what each bin's scores are worth (draws, bins)."""
    alarms, every = sums
    if task == "failure":
        hits, positive = (alarms * rate).sum(axis=1), (every * rate).sum(axis=1)
        return np.asarray(2 * hits / np.maximum(alarms.sum(axis=1) + positive, 1e-9))
    return np.asarray((every * rate).sum(axis=1) / np.maximum(every.sum(axis=1), 1e-9))


def _drawn_rates(task: str, rate: np.ndarray, counts: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draw what the held-out rows leave open of each bin, (draws, bins)."""
    if task == "capacity":
        noise = rng.standard_normal((draws, len(rate))) / np.sqrt(np.maximum(counts, 1))
        return np.asarray(np.abs(rate * (1 + noise)))
    return np.asarray(rng.beta(rate * counts + 0.5, (1 - rate) * counts + 0.5, size=(draws, len(rate))))


def expected(traffic: Traffic) -> np.ndarray:
    """Return what the card's held-out rows say of each answer: P(incident), P(right) or the error; (n,)."""
    kept = traffic.card["watch"]["calibration"]
    place = bin_of(traffic.score, kept["edges"])
    return np.where(place >= 0, np.asarray(kept["rate"])[np.maximum(place, 0)], np.nan)


def _sides(traffic: Traffic, rows: np.ndarray) -> dict[str, float | None]:
    """Return the mean probability of being right, and the expected precision of alarms."""
    if traffic.task == "capacity":
        return {"right": None, "precision": None}
    chance, alarm = expected(traffic)[rows], traffic.alarm[rows]
    right = np.where(alarm, chance, 1 - chance) if traffic.task == "failure" else chance
    return {"right": float(right.mean()), "precision": float(chance[alarm].mean()) if alarm.any() else None}
