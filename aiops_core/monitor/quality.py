"""Quality where the truth is known, beside what was promised for the very same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aiops_core.monitor.drift import score_scatter
from aiops_core.monitor.estimate import BETTER, DRAWS, MARGIN, METRIC, SURE, clusters_of, expected
from aiops_core.monitor.traffic import Traffic

#: Labelled answers, and among them incidents or alarms, without which nothing is said.
LEAST, LEAST_EVENTS = 30, 5
#: Labelled answers of the newest days, that are judged for themselves too.
ENOUGH = 60
#: Standard errors that a fall must be beyond its margin where inputs have moved too.
LIKELY = 1.96


def quality(traffic: Traffic, *, by_day: bool = True) -> dict[str, Any] | None:
    """Measure the quality of all labelled answers, and of each day.

    Returns
    -------
    dict or None
        ``metric, value, low, high, promised`` (what the card's held-out rows promise for these answers), ``ratio``,
        ``fallen`` for certain, ``likely_fallen``, ``rows``, ``share`` of the answers that is labelled; for failure ``precision`` and ``recall``, for
        capacity ``coverage``; ``newest``, the same of the newest days with
        labels enough, which may fall for themselves, and ``days`` by day. None where too little is known.
    """
    if not traffic.truth:
        return None
    known = traffic.truth["known"] & ~np.isnan(traffic.score)
    if known.sum() < LEAST:
        return None
    found = _measured(traffic, known)
    if found is None:
        return None
    days = []
    for day in range(traffic.days if by_day else 0):
        mine = known & (traffic.day == day)
        one = _measured(traffic, mine) if mine.sum() >= LEAST else None
        if one is not None:
            days.append({"day": day, **one})
    # A week hides what began yesterday.
    enough = np.flatnonzero(np.cumsum(np.bincount(traffic.day[known])) >= ENOUGH)
    lately = known & (traffic.day <= (enough[0] if len(enough) else traffic.days))
    newest = _measured(traffic, lately) if lately.sum() >= LEAST else None
    if newest is not None:
        earlier = known & ~lately
        if traffic.task == "capacity" and earlier.sum() >= LEAST:
            newest |= _than_before(traffic, lately, earlier)
        for sign in ("fallen", "likely_fallen"):
            found[sign] = found[sign] or newest[sign]
    return {"metric": METRIC[traffic.task], **found, "newest": newest, "share": float(known.mean()), "days": days}


def _measured(traffic: Traffic, rows: np.ndarray) -> dict[str, Any] | None:
    sums, value, promise, sides = _parts(traffic, rows)
    if traffic.task == "failure" and min(sums[:, 1].sum(), sums[:, 2].sum()) < 1:
        return None
    if traffic.task == "failure" and sums[:, 1].sum() + sums[:, 2].sum() < LEAST_EVENTS:
        return None
    total = sums.sum(axis=0, keepdims=True)
    rng, clusters = np.random.default_rng(13), len(sums)
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS) @ sums
    values, promises = value(drawn), promise(drawn)
    low, high = np.quantile(values, [0.025, 0.975])
    measured, promised = float(value(total)[0]), float(promise(total)[0])
    gap = values - promises
    error = max(float(gap.std()), _luck(traffic, rows, sums))
    if traffic.task == "capacity":
        # Few origins of few resources made the promise.
        error = float(np.hypot(error, promised / np.sqrt(score_scatter(traffic.card["watch"])["size"])))
    distance = measured - promised * (1 - BETTER[traffic.task] * MARGIN[traffic.task])
    return {
        "value": measured,
        "low": float(low),
        "high": float(high),
        "promised": promised,
        "ratio": measured / max(promised, 1e-9),
        "fallen": bool(BETTER[traffic.task] * distance < -SURE * max(error, 1e-9)),
        "likely_fallen": bool(BETTER[traffic.task] * distance < -LIKELY * max(error, 1e-9)),
        "rows": int(rows.sum()),
        **sides,
    }


def _luck(traffic: Traffic, rows: np.ndarray, sums: np.ndarray) -> float:
    """Return the deviation of F1 that chance gives, if the alarms of a resource on one day come true together or not at all.

    Resampling says nothing where no alarm came true.
    """
    if traffic.task != "failure":
        return 0.0
    chance = np.where(traffic.alarm[rows], np.nan_to_num(expected(traffic)[rows]), 0.0)
    _, cluster = np.unique(traffic.resource[rows] * (traffic.days + 1) + traffic.day[rows], return_inverse=True)
    together = np.bincount(cluster, weights=np.sqrt(chance * (1 - chance)))
    return float(2 * np.sqrt((together**2).sum()) / max(sums[:, 1].sum() + sums[:, 4].sum(), 1e-9))


def _than_before(traffic: Traffic, newest: np.ndarray, earlier: np.ndarray) -> dict[str, bool]:
    """Tell whether the errors of forecasts have grown from the earlier days to the newest, of the same resources."""
    sums = np.zeros((len(traffic.names), 4))
    for i, rows in enumerate((newest, earlier)):
        for j, name in enumerate(("error", "expected")):
            sums[:, 2 * i + j] = np.bincount(
                traffic.resource[rows], weights=traffic.truth[name][rows], minlength=len(sums)
            )
    rng = np.random.default_rng(17)
    drawn = (
        np.r_[np.ones((1, len(sums))), rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)] @ sums
    )
    grown = np.log(np.maximum(drawn[:, 0] * drawn[:, 3], 1e-12) / np.maximum(drawn[:, 1] * drawn[:, 2], 1e-12))
    beyond, error = grown[0] - np.log1p(MARGIN["capacity"]), max(float(grown[1:].std()), 1e-9)
    return {"fallen": bool(beyond > SURE * error), "likely_fallen": bool(beyond > LIKELY * error)}


Metric = Callable[[np.ndarray], np.ndarray]


def _parts(traffic: Traffic, rows: np.ndarray) -> tuple[np.ndarray, Metric, Metric, dict[str, float]]:
    """Return sums by cluster, (clusters, k), the metric and what was promised of them, and figures beside it."""
    cluster = clusters_of(traffic, rows)
    said = np.nan_to_num(expected(traffic)[rows])
    if traffic.task == "failure":
        alarm, incident = traffic.alarm[rows].astype(float), traffic.truth["incident"][rows].astype(float)
        columns = [alarm * incident, alarm, incident, alarm * said, said]
        hits = float((alarm * incident).sum())
        sides = {
            "precision": hits / max(alarm.sum(), 1),
            "recall": hits / max(incident.sum(), 1),
            "mean_probability": float(traffic.score[rows].mean()),
            "rate": float(incident.mean()),
        }
        return (
            _summed(columns, cluster),
            lambda s: 2 * s[:, 0] / np.maximum(s[:, 1] + s[:, 2], 1e-9),
            lambda s: 2 * s[:, 3] / np.maximum(s[:, 1] + s[:, 4], 1e-9),
            sides,
        )
    if traffic.task == "threat":
        right = traffic.truth["right"][rows].astype(float)
        sides = {"mean_probability": float(traffic.score[rows].mean()), "rate": float(right.mean())}
        columns = [right, said, np.ones(len(right))]
    else:
        columns = [traffic.truth["error"][rows], traffic.truth["expected"][rows], np.ones(int(rows.sum()))]
        usual = traffic.card["watch"]["steps"]["coverage"]
        sides = {"rate": float(traffic.truth["inside"][rows].mean()), "mean_probability": float(np.mean(usual))}
    return (
        _summed(columns, cluster),
        lambda s: s[:, 0] / np.maximum(s[:, 2], 1e-9),
        lambda s: s[:, 1] / np.maximum(s[:, 2], 1e-9),
        sides,
    )


def _summed(columns: list[np.ndarray], cluster: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(cluster, weights=column) for column in columns], axis=1)
