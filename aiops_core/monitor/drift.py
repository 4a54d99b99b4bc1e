"""Has the world moved? Inputs and scores of each day against the histograms of the card.

The distance is the population stability index (PSI). What it must exceed is found by simulation: samples from the card's own
histogram, as small as the day's traffic is once rows of one resource, which resemble each other, are counted for what they
tell (Rao and Scott 1981; the card keeps how much they resemble each other). Over all features and the days of a week a quiet
model then exceeds a threshold once in a hundred weeks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from aiops_core.monitor.traffic import Traffic
from aiops_core.tasks.cards import bin_of

#: Weeks in which quiet traffic may exceed a threshold, and how often it is looked at in a week.
ALPHA, LOOKS = 0.01, 7
#: What is below is no drift that matters, however sure.
MATTERS = 0.1
#: The served model has learned from more rows than those that scored the held-out ones: its scores lie a little elsewhere.
OF_SCORES = 0.25
#: Added to every share, so that an empty bin counts much but not without limit.
FLOOR = 0.005
#: Rows without which a day is not compared.
LEAST_ROWS = 30
#: More rows missing than in training by this share of all: a sensor that fails.
MORE_MISSING = 0.1
DRAWS = 2_000


@dataclass(frozen=True)
class Quantity:
    """Something that is compared: a feature, its windows' mean or spread, its absence, the score, the answers.

    Attributes
    ----------
    name, kind : str
        ``kind`` is one of ``value, mean, spread, missing, score, class``.
    code : ndarray, (n,), int
        Bin of each row, or answer, -1 for none.
    counts : ndarray, (bins,)
        In training.
    scatter : mapping
        See `aiops_core.tasks.cards.scatter`.
    resource, day : ndarray, (n,), int
        Of each row, or answer.
    """

    name: str
    kind: str
    code: np.ndarray
    counts: np.ndarray
    scatter: Mapping[str, float]
    resource: np.ndarray
    day: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Shares in training, (bins,)."""
        return np.asarray(self.counts / max(self.counts.sum(), 1e-12))


def distances(share: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the PSI and the Jensen-Shannon distance (base 2, in [0, 1]) of two sets of shares.

    Examples
    --------
    >>> distances(np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    (0.0, 0.0)
    """
    p, q = ((x + FLOOR) / (1 + FLOOR * len(x)) for x in (share, other))
    psi = float(((p - q) * np.log(p / q)).sum())
    middle = (p + q) / 2
    divergence = float((p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2)
    return psi, float(np.sqrt(max(divergence, 0.0)))


def threshold(share: np.ndarray, rows: float, level: float) -> float:
    """Return the PSI that samples of so many unrelated rows exceed with probability ``level``.

    Parameters
    ----------
    share : ndarray, (bins,)
    rows : float
        At least 1.
    level : float
        Down to where no simulation reaches: the tail is that of the gamma distribution with the mean and variance of
        the simulated values.
    """
    # Rounded so that days of nearly equal traffic share a simulation.
    return _simulated(tuple(share.round(3).tolist()), int(round(10 * np.log(max(rows, 1.0)))), level)


@lru_cache(maxsize=20_000)
def _simulated(share: tuple[float, ...], log_rows: int, level: float) -> float:
    from scipy.special import gammainccinv

    p = np.asarray(share) / max(sum(share), 1e-12)
    rows = max(1, round(np.exp(log_rows / 10)))
    drawn = np.random.default_rng(7).multinomial(rows, p, size=DRAWS) / rows
    a, b = (drawn + FLOOR) / (1 + FLOOR * len(p)), (p + FLOOR) / (1 + FLOOR * len(p))
    psi = ((a - b) * np.log(a / b)).sum(axis=1)
    mean, variance = float(psi.mean()), float(psi.var())
    if variance <= 0:
        return 0.0
    return float(gammainccinv(mean**2 / variance, level) * variance / mean)


def telling_rows(resource: np.ndarray, scatter: Mapping[str, float], *, named: bool = True) -> float:
    """Return how many unrelated rows would tell as much as rows of these resources on one day, against the card's."""
    n = len(resource)
    sizes = np.unique(resource, return_counts=True)[1].astype(np.float64)
    size = float((sizes**2).sum() / n)
    if not named:
        # Nobody said whose rows they are: as in training.
        size = scatter["rows"]
    noise = (1 + (size - 1) * scatter["within"]) / n + scatter["day"] + 1 / max(scatter["size"], 1.0)
    return 1 / noise


def quantities(traffic: Traffic) -> Iterator[Quantity]:
    """Yield everything that is compared."""
    watch = traffic.card["watch"]
    rows, answers = (traffic.row_resource, traffic.row_day), (traffic.resource, traffic.day)
    asked = ~np.isnan(traffic.features).all(axis=1)
    for i, name in enumerate(traffic.columns):
        kept, values = watch["features"][name], traffic.features[:, i]
        yield Quantity(name, "value", _codes(kept, values), np.asarray(kept["counts"], float), kept["scatter"], *rows)
        gone = np.where(asked, np.isnan(values).astype(int), -1)
        shares = np.array([1 - kept["missing"], kept["missing"]]) * watch["rows"]
        yield Quantity(name, "missing", gone, shares, kept["scatter"], *rows)
        for kind, found in (("mean", traffic.mean), ("spread", traffic.spread)):
            if found is not None:
                own = watch["windows"][name][kind]
                counts = np.asarray(own["counts"], float)
                yield Quantity(name, kind, _codes(own, found[:, i]), counts, own["scatter"], *answers)
    score, usual = watch["score"], score_scatter(watch)
    counts = np.asarray(score["counts"], float)
    yield Quantity("score", "score", bin_of(traffic.score, score["edges"]), counts, usual, *answers)
    if traffic.label is not None and watch.get("classes"):
        shares = np.array(list(watch["classes"].values())) * sum(score["counts"])
        yield Quantity("answers", "class", traffic.label, shares, usual, *answers)


def _codes(kept: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    if "edges" in kept:
        return bin_of(values, kept["edges"])
    codes = np.nan_to_num(values, nan=-1.0).astype(np.int64)
    return np.where(codes < len(kept["counts"]), codes, -1)


def score_scatter(watch: Mapping[str, Any]) -> dict[str, float]:
    """Return the scatter of a score: held-out rows resemble each other as the features do that it is made of."""
    if "scatter" in watch["score"]:
        return dict(watch["score"]["scatter"])
    found = [kept["scatter"] for kept in watch["features"].values()]
    typical = {name: float(np.mean([f[name] for f in found])) for name in ("within", "rows", "day", "size")}
    return typical | {"size": min(typical["size"], float(sum(watch["score"]["counts"])))}


def drift(traffic: Traffic, *, by_day: bool = True) -> list[dict[str, Any]]:
    """Compare each day with the card.

    Parameters
    ----------
    traffic : Traffic
    by_day : bool, default True
        Whether earlier days than the newest one with enough rows are compared too.

    Returns
    -------
    list of dict
        By quantity ``feature``, ``kind``, ``days`` (list, newest first: ``day``, ``rows``, ``psi``, ``js``, ``threshold``,
        ``share_missing`` where kind is missing, ``drifted``) and ``drifted``: the newest day that has enough rows.
    """
    compared = list(quantities(traffic))
    level = ALPHA / (LOOKS * max(len(compared), 1))
    full = _full_days(traffic)
    out = []
    for quantity in compared:
        days = [_day(quantity, traffic, day, level) for day in (full if by_day else full[:1])]
        days = [day for day in days if day["rows"] >= LEAST_ROWS]
        drifted = bool(days) and days[0]["day"] == full[0] and days[0]["drifted"]
        out.append({"feature": quantity.name, "kind": quantity.kind, "drifted": drifted, "days": days})
    return out


def _full_days(traffic: Traffic) -> list[int]:
    rows = np.bincount(traffic.day, minlength=1)
    return [int(day) for day in np.flatnonzero(rows >= LEAST_ROWS)]


def _day(quantity: Quantity, traffic: Traffic, day: int, level: float) -> dict[str, Any]:
    mine = (quantity.day == day) & (quantity.code >= 0)
    code, n = quantity.code[mine], int(mine.sum())
    if n < LEAST_ROWS or quantity.counts.sum() <= 0:
        return {"day": day, "rows": n if quantity.counts.sum() > 0 else 0, "drifted": False}
    share = np.bincount(code, minlength=len(quantity.counts)) / n
    psi, js = distances(share, quantity.share)
    rows = telling_rows(quantity.resource[mine], quantity.scatter, named=traffic.named)
    limit = max(MATTERS, threshold(quantity.share, rows, level))
    limit += OF_SCORES if quantity.kind in ("score", "class") else 0.0
    found = {"day": day, "rows": n, "psi": psi, "js": js, "threshold": limit, "drifted": psi > limit}
    if quantity.kind == "missing":
        found["share_missing"] = float(share[1])
        found["drifted"] = found["drifted"] and share[1] - quantity.share[1] > MORE_MISSING
    return found
