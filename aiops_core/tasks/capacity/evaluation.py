"""Metrics of a prediction, comparisons on the same rows, and what a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.judge import intervals, metrics
from aiops_core.tasks.capacity.band import bucket_edges
from aiops_core.tasks.capacity.data import GATE_METRICS, MAIN_METRIC, PROBABILITY_METRICS, CapacityData
from aiops_core.tasks.capacity.findings import by_size, by_time, exceedance, first_screen, scored, sentences
from aiops_core.tasks.capacity.pairs import keys_of
from aiops_core.tasks.capacity.scale import naive_scale
from aiops_core.tasks.capacity.units import units


def oracle(data: CapacityData) -> dict[str, np.ndarray] | None:
    """Return the expected value of every test row given the latent state at its origin; None for real data."""
    return None if data.oracle is None else {"p50": data.oracle}


def _context(data: CapacityData, part: str) -> dict[str, np.ndarray]:
    """Truth and what the metrics need beside a prediction, by scored row."""
    pairs = data.parts[part]
    return {
        "truth": pairs.truth[pairs.known],
        "scale": naive_scale(data, part),
        "target": pairs.flat(pairs.target),
    }


def evaluate(
    data: CapacityData,
    prediction: Mapping[str, np.ndarray],
    part: str = "test",
    seed: int = 0,
    extra_metrics: intervals.ExtraMetrics | None = None,
) -> dict[str, intervals.Metric]:
    """Score a prediction of a part; ``pinball`` and ``coverage_80`` only when it has a band.

    An extra metric gets the true values (rows,) and the prediction: ``p50``, and ``p10`` and ``p90`` where it has a band.

    Returns
    -------
    dict of str to Metric
        ``mae, nmae, rmse, r2, mase, wape, pinball, coverage_80``, and metrics of the user's.
    """
    context, drawn = _context(data, part), units(data, part)
    known = metrics.capacity(
        context["truth"],
        prediction["p50"],
        prediction.get("p10"),
        prediction.get("p90"),
        scale=context["scale"],
        target=context["target"],
        units=drawn,
        seed=seed,
    )
    return intervals.with_extra(known, extra_metrics, context["truth"], prediction, drawn, seed)


def predictions(data: CapacityData, prediction: Mapping[str, np.ndarray], part: str = "test") -> pd.DataFrame:
    """Return a prediction as a frame, one row a forecast value, to sort and to slice.

    Returns
    -------
    DataFrame
        ``resource_id, origin, target, step, truth``, the quantiles of the prediction, ``error`` (absolute, of the
        median, in units of the target), ``scaled_error`` (in units of the seasonal-naive error of its series) and, with
        a band, ``inside`` (whether the truth lies in it).
    """
    context, pairs = _context(data, part), data.parts[part]
    frame = keys_of(data, pairs)
    frame["truth"] = context["truth"]
    for name in ("p10", "p50", "p90"):
        if name in prediction:
            frame[name] = prediction[name]
    frame["error"] = (frame["truth"] - frame["p50"]).abs()
    frame["scaled_error"] = frame["error"] / np.where(context["scale"] > 0, context["scale"], np.nan)
    if "p10" in prediction and "p90" in prediction:
        frame["inside"] = frame["truth"].between(frame["p10"], frame["p90"])
    return frame


def compare(
    data: CapacityData,
    prediction: Mapping[str, np.ndarray],
    others: Mapping[str, Mapping[str, np.ndarray]],
    *,
    rows: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = intervals.N_BOOT,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS`.

    Of the test rows only ``rows`` (n,), bool, where given.
    """
    drawn = units(data, "test", rows)
    return intervals.paired(
        _values(data, prediction, rows),
        {name: _values(data, other, rows) for name, other in others.items()},
        len(drawn.code),
        only=(*GATE_METRICS, *PROBABILITY_METRICS),
        units=drawn,
        seed=seed,
        n_boot=n_boot,
    )


def _values(
    data: CapacityData, prediction: Mapping[str, np.ndarray], rows: np.ndarray | None = None
) -> intervals.Weighted:
    some = slice(None) if rows is None else rows
    truth, scale, target = (_context(data, "test")[name][some] for name in ("truth", "scale", "target"))
    return metrics.capacity_values(truth, prediction["p50"][some], None, None, scale=scale, target=target)


def share(
    data: CapacityData,
    prediction: Mapping[str, np.ndarray],
    naive: Mapping[str, np.ndarray],
    best: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> intervals.Metric:
    """Return how much of the way from a naive prediction to the oracle's a prediction goes, in `MAIN_METRIC`."""
    own, low, high = (_values(data, p) for p in (prediction, naive, best))
    drawn = units(data)
    return intervals.share(own, low, high, len(drawn.code), metric=MAIN_METRIC, units=drawn, seed=seed)


def details(data: CapacityData, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what a report shows of a test prediction: errors and coverage by target, step, time and resource, examples.

    Returns
    -------
    dict
        ``by_target``, ``by_step``, ``by_time``, ``by_size``, ``by_resource``, ``worst_resources``: lists of dicts with
        ``rows, mae, mase, coverage_80, below_p10, above_p90, bias``; ``exceedance``: chances of passing a limit, and
        how often it was passed; ``first_screen``: facts for somebody who runs servers; ``examples``: forecasts with their
        band, recent history and truth; ``sentences`` and ``tables`` (rows by title) that the report prints.
    """
    rows = scored(data, prediction)
    r, t, step = rows.resource, rows.target, rows.step
    edges = bucket_edges(data.score_steps)
    bucket = np.minimum(np.searchsorted(edges, step, side="left"), len(edges) - 1)
    names = data.layout.targets
    by_step = []
    for j, name in enumerate(names):
        for b in range(len(edges)):
            mask = (bucket == b) & (t == j)
            if mask.any():
                low, high = int(step[mask].min()), int(step[mask].max())
                label = f"{low}–{high}" if low < high else str(low)
                by_step.append({"target": name, **rows.group("step", label, mask)})
    by_resource = [rows.group("resource_id", data.resources[i], r == i) for i in np.unique(r)]
    order = sorted(by_resource, key=lambda g: -(g["mase"] if g["mase"] is not None else -1.0))
    by_target = [rows.group("target", name, t == j) for j, name in enumerate(names) if (t == j).any()]
    times, sizes, passed = by_time(data, rows), by_size(data, rows), exceedance(data, rows)
    screen = first_screen(data, rows, by_resource)
    tables = {
        "By target": by_target,
        "Errors and coverage by steps ahead": by_step[:16],
        "Errors and coverage over the test time": times,
        "Errors and coverage by how much a series moves": sizes[:12],
        "Resources with the largest errors": order[:8],
        "Chance of passing 90 % of the upper bound": passed[:15],
    }
    return {
        "by_target": by_target,
        "by_step": by_step,
        "by_time": times,
        "by_size": sizes,
        "by_resource": by_resource,
        "worst_resources": order[:10],
        "exceedance": passed,
        "first_screen": screen,
        "examples": _examples(data, prediction, rows.scaled),
        "sentences": sentences(screen, rows, by_resource),
        "tables": {title: lines for title, lines in tables.items() if lines},
    }


def _examples(data: CapacityData, prediction: Mapping[str, np.ndarray], scaled: np.ndarray) -> list[dict[str, Any]]:
    """One ordinary and one bad (resource, target), each with history, truth and the band of its forecasts."""
    pairs = data.parts["test"]
    r, t, o = (pairs.flat(v) for v in (pairs.resource, pairs.target, pairs.origin))
    step = pairs.steps[pairs.known]
    out = []
    for j, name in enumerate(data.layout.targets[:3]):
        ids = np.unique(r[t == j])
        if len(ids) == 0:
            continue
        errors = np.array([np.nan_to_num(scaled[(t == j) & (r == i)]).mean() for i in ids])
        order = np.argsort(errors, kind="stable")
        for kind, i in (("ordinary", ids[order[len(ids) // 2]]), ("worst", ids[order[-1]])):
            if kind == "worst" and len(ids) == 1:
                continue
            mine = (t == j) & (r == i)
            few = len(data.score_steps) < 12
            # With few scored steps a picture needs all origins; else the middle origin is one curve.
            if not few:
                starts = np.unique(o[mine])
                mine &= o == starts[len(starts) // 2]
            position = (o + step)[mine]
            first = max(int(data.first[i]), int(o[mine].min()) - 4 * data.layout.season)
            past = np.arange(first, int(position.max()) + 1)
            stamps = data.time(np.full(len(past), i), past)
            shown = {
                "kind": kind,
                "resource_id": data.resources[i],
                "target": name,
                "history": {
                    "timestamp": [str(s) + "Z" for s in stamps],
                    "value": [None if np.isnan(v) else float(v) for v in data.values[i, j, past]],
                },
                "origin": [str(s) + "Z" for s in data.time(np.full(int(mine.sum()), i), o[mine])],
                "timestamp": [str(s) + "Z" for s in data.time(np.full(int(mine.sum()), i), position)],
                "step": step[mine].tolist(),
                "truth": pairs.truth[pairs.known][mine].tolist(),
            }
            shown.update({q: prediction[q][mine].tolist() for q in ("p10", "p50", "p90") if q in prediction})
            out.append(shown)
    return out
