"""Test metrics and comparisons, and what the report shows of a test prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.judge import curves, intervals, metrics
from aiops_core.judge.intervals import Metric
from aiops_core.servable.failure import FailureServable
from aiops_core.tasks.failure.data import GATE_METRICS, MAIN_METRIC, PROBABILITY_METRICS, FailureData, Prediction
from aiops_core.tasks.failure.decision import events, highest_f1, policies
from aiops_core.tasks.failure.export import score
from aiops_core.tasks.failure.split import thin_rows
from aiops_core.tasks.failure.units import units


def oracle(data: FailureData) -> Prediction | None:
    """Return the oracle's prediction of the test part, its threshold from validation; synthetic data only."""
    if data.oracle is None:
        return None
    threshold = highest_f1(data.truth("validation"), data.oracle["validation"])
    return {"probability": data.oracle["test"], "alarm": data.oracle["test"] >= threshold}


def evaluate(
    data: FailureData,
    prediction: Prediction,
    part: str = "test",
    seed: int = 0,
    extra_metrics: intervals.ExtraMetrics | None = None,
) -> dict[str, Metric]:
    """Return ``roc_auc, average_precision, f1, precision, recall, brier, ece`` and metrics of the user's, with intervals.

    An extra metric gets the labels (n,), 0 or 1, and the prediction.
    """
    truth, drawn = data.truth(part), units(data, part)
    known = metrics.failure(truth, prediction["probability"], prediction["alarm"], units=drawn, seed=seed)
    return intervals.with_extra(known, extra_metrics, truth, prediction, drawn, seed)


def predictions(data: FailureData, prediction: Prediction, part: str = "test") -> pd.DataFrame:
    """Return a prediction as a frame, one row an example, to sort and to slice.

    Returns
    -------
    DataFrame
        ``resource_id, timestamp, truth`` (0 or 1), ``steps_to_incident`` (inf when none is known), ``probability,
        alarm`` and ``error``, how far the probability is from the truth.
    """
    frame = data.keys(part)
    frame["truth"] = data.truth(part)
    frame["steps_to_incident"] = data.until[data.ends[part]]
    frame["probability"] = prediction["probability"]
    frame["alarm"] = np.asarray(prediction["alarm"], dtype=bool)
    frame["error"] = (frame["truth"] - frame["probability"]).abs()
    return frame


def compare(
    data: FailureData,
    prediction: Prediction,
    others: Mapping[str, Prediction],
    *,
    rows: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = intervals.N_BOOT,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS` and `PROBABILITY_METRICS`.

    F1 is that of ``f1_alarm`` where a prediction has one: the alarm at the threshold that `highest_f1` chooses on the
    model's own validation, whatever policy it serves with. Of the test rows only ``rows`` (n,), bool, where given.
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


def _values(data: FailureData, prediction: Prediction, rows: np.ndarray | None = None) -> intervals.Weighted:
    some = slice(None) if rows is None else rows
    alarm = prediction.get("f1_alarm", prediction["alarm"])
    return metrics.failure_values(data.truth("test")[some], prediction["probability"][some], np.asarray(alarm)[some])


def share(
    data: FailureData, prediction: Prediction, naive: Prediction, best: Prediction, *, seed: int = 0
) -> intervals.Metric:
    """Return how much of the way from a naive prediction to the oracle's a prediction goes, in `MAIN_METRIC`."""
    own, low, high = (_values(data, p) for p in (prediction, naive, best))
    drawn = units(data)
    return intervals.share(own, low, high, len(drawn.code), metric=MAIN_METRIC, units=drawn, seed=seed)


def details(data: FailureData, prediction: Prediction) -> dict[str, Any]:
    """Return curves, events, costs and the worst resources of a test prediction, for the report.

    Returns
    -------
    dict
        ``precision_recall``, ``reliability``, ``confusion`` ([[tn, fp], [fn, tp]]), ``events``, ``policies``,
        ``sentence``, ``by_resource`` (list, worst first), ``by_lead`` (recall by steps before the incident),
        ``worst`` (the surest mistakes), ``histogram`` of probabilities by class, and what is printed as it is:
        ``sentences`` (list of str) and ``tables`` (title to rows).
    """
    ends, truth = data.ends["test"], data.truth("test")
    probability, alarm = prediction["probability"], np.asarray(prediction["alarm"])
    seen = events(data, ends, alarm)
    curve = policies(data, ends, probability)
    by_resource, worst = _by_resource(data, probability, alarm), _worst(data, probability)
    edges = np.linspace(0, 1, 21)
    return {
        "precision_recall": curves.precision_recall_curve(truth, probability),
        "reliability": curves.reliability_curve(truth, probability),
        "confusion": np.bincount(2 * truth + alarm, minlength=4).reshape(2, 2).tolist(),
        "events": seen,
        "policies": curve,
        "sentence": _sentence(seen),
        "by_resource": by_resource,
        "by_lead": _by_lead(data, probability, alarm),
        "worst": worst,
        "histogram": {
            "edges": edges.tolist(),
            "negative": np.histogram(probability[truth == 0], edges)[0].tolist(),
            "positive": np.histogram(probability[truth == 1], edges)[0].tolist(),
        },
        "sentences": [f"At the chosen threshold: {_sentence(seen)}.", *_budget_sentences(curve)],
        "tables": {"Resources with the largest errors": by_resource[:8], "The surest mistakes": worst[:8]},
    }


def _sentence(seen: Mapping[str, Any]) -> str:
    if not seen["caught"]:
        rate = seen["alerts_per_resource_day"]
        return f"{rate:.2g} alerts a resource a day, none of {seen['incidents']} incidents caught"
    return (
        f"{seen['alerts_per_resource_day']:.2g} alerts a resource a day "
        f"({seen['false_alerts_per_resource_day']:.2g} of them false): catches {seen['share_caught']:.0%} of "
        f"{seen['incidents']} incidents, median {seen['median_lead_hours']:.3g} h ahead"
    )


def _budget_sentences(curve: Mapping[str, list[float]]) -> list[str]:
    """Say for some budgets of alerts what the best threshold within each would catch."""
    sentences = []
    for budget in (0.25, 1.0, 2.0):
        within = [i for i, alerts in enumerate(curve["alerts_per_resource_day"]) if alerts <= budget]
        if within:
            best = max(within, key=lambda i: curve["share_caught"][i])
            sentences.append(
                f"At most {budget:g} alerts a day a resource: catches {curve['share_caught'][best]:.0%} of incidents, "
                f"median {curve['median_lead_hours'][best]:.3g} h ahead (threshold {curve['threshold'][best]:.3f})."
            )
    return sentences


def _by_resource(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> list[dict[str, Any]]:
    """Return errors by resource, those that add most log loss first."""
    ends, truth = data.ends["test"], data.truth("test")
    loss = -np.log(np.clip(np.where(truth == 1, probability, 1 - probability), 1e-7, 1.0))
    frame = pd.DataFrame(
        {
            "resource_id": np.array(data.resources, dtype=object)[data.resource[ends]],
            "loss": loss,
            "positive": truth,
            "missed": (truth == 1) & ~alarm,
            "false_alarms": (truth == 0) & alarm,
        }
    )
    grouped = frame.groupby("resource_id", sort=True)
    out = grouped[["positive", "missed", "false_alarms"]].sum()
    out.insert(0, "rows", grouped.size())
    out["log_loss"] = grouped["loss"].mean()
    out["total_loss"] = grouped["loss"].sum()
    out = out.sort_values("total_loss", ascending=False, kind="stable").drop(columns="total_loss").reset_index()
    return [{str(k): v for k, v in row.items()} for row in out.to_dict("records")]


def _by_lead(data: FailureData, probability: np.ndarray, alarm: np.ndarray) -> dict[str, list[float]]:
    """Return recall and mean probability of positive rows by their distance to the incident."""
    ends = data.ends["test"]
    until = data.until[ends]
    edges = np.unique(np.linspace(0, data.horizon, min(data.horizon, 10) + 1))
    out: dict[str, list[float]] = {"from_steps": [], "to_steps": [], "rows": [], "recall": [], "probability": []}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = (until > low) & (until <= high)
        if chosen.any():
            values = (low, high, chosen.sum(), alarm[chosen].mean(), probability[chosen].mean())
            for name, value in zip(out, values, strict=True):
                out[name].append(float(value))
    return out


def _worst(data: FailureData, probability: np.ndarray, count: int = 10) -> list[dict[str, Any]]:
    """Return the surest mistakes, at most one a resource and kind."""
    ends, truth = data.ends["test"], data.truth("test")
    wrong = np.abs(truth - probability)
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for i in np.argsort(-wrong, kind="stable"):
        mark = (int(data.resource[ends[i]]), int(truth[i]))
        if mark in seen:
            continue
        seen.add(mark)
        until = float(data.until[ends[i]])
        rows.append(
            {
                "resource_id": data.resources[mark[0]],
                "timestamp": f"{np.datetime_as_string(data.time[ends[i]], unit='s')}Z",
                "probability": float(probability[i]),
                "truth": mark[1],
                "steps_to_incident": until if np.isfinite(until) else None,
            }
        )
        if len(rows) == count:
            break
    return rows


def importance(model: FailureServable, data: FailureData, *, rows: int = 200) -> list[dict[str, float | str]]:
    """Return how much each metric moves the prediction on test windows, most important first.

    Half of the windows are those of highest probability, the others are spread over the rest.

    Returns
    -------
    list of dict
        ``feature``, ``mean_abs_contribution`` and ``mean_contribution``, in probability.
    """
    prediction = score(model, data, "test")["probability"]
    order = np.argsort(-prediction, kind="stable")
    chosen = np.unique(np.r_[order[: rows // 2], thin_rows(order, rows - rows // 2)])
    totals = {name: np.zeros(2) for name in model.features}
    for end in data.ends["test"][chosen]:
        for driver in model.explain(
            data.served_windows(np.array([end]))[0], top=len(model.features), last=data.time[end]
        ):
            totals[driver["feature"]] += [abs(driver["contribution"]), driver["contribution"]]
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    means = [(name, *(total / len(chosen)).tolist()) for name, total in ranked]
    return [{"feature": n, "mean_abs_contribution": size, "mean_contribution": change} for n, size, change in means]
