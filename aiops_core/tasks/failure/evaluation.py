"""Test metrics and comparisons, the oracle, and what moves a prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from aiops_core.judge import intervals, metrics
from aiops_core.judge.intervals import Metric
from aiops_core.servable.failure import FailureServable, log_odds
from aiops_core.tasks.failure.data import CHUNK, GATE_METRICS, MAIN_METRIC, PROBABILITY_METRICS, FailureData, Prediction
from aiops_core.tasks.failure.decision import highest_f1, likely_f1
from aiops_core.tasks.failure.export import score
from aiops_core.tasks.failure.split import thin_rows
from aiops_core.tasks.failure.units import units


def oracle(data: FailureData) -> Prediction | None:
    """Return the oracle's prediction of the test part; synthetic data only.

    Its threshold is that of highest F1 on validation; where it knows no validation rows, that of highest expected F1.
    """
    if data.oracle is None:
        return None
    found = data.oracle["test"]
    if "validation" in data.oracle:
        threshold = highest_f1(data.truth("validation"), data.oracle["validation"])
    else:
        threshold = likely_f1(found)
    return {"probability": found, "alarm": found >= threshold}


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


def members_alone(model: FailureServable, data: FailureData) -> list[dict[str, float | str | None]]:
    """Return what each member of a served model reaches alone on the test part, and all of them but one.

    Returns
    -------
    list of dict
        ``member``, its ``weight``, its own ``average_precision`` and ``roc_auc``, and ``without_it``, the average precision
        of the others with their weights; first the whole model. Empty for a model of one member.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if len(model.members) < 2:
        return []
    ends, truth = data.ends["test"], data.truth("test")
    chunks = [ends[i : i + CHUNK] for i in range(0, len(ends), CHUNK)]
    alone = [model.alone(data.served_windows(some), data.time[some], data.names(some)) for some in chunks]
    logits = log_odds(np.concatenate(alone), least=1e-12)
    weight = np.array([member["weight"] for member in model.card["members"]])
    whole = logits @ weight
    found: list[dict[str, float | str | None]] = []
    for name, own, logit, rest in zip(
        ["all together", *model.members],
        [1.0, *weight.tolist()],
        [whole, *logits.T],
        [None, *(whole - w * x for w, x in zip(weight, logits.T, strict=True))],
        strict=True,
    ):
        row: dict[str, float | str | None] = {
            "member": name,
            "weight": float(own),
            "average_precision": float(average_precision_score(truth, logit)),
            "roc_auc": float(roc_auc_score(truth, logit)),
        }
        row["without_it"] = None if rest is None else float(average_precision_score(truth, rest))
        found.append(row)
    return found


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
        window, owner = data.served_windows(np.array([end]))[0], data.resources[data.resource[end]]
        for driver in model.explain(window, top=len(model.features), last=data.time[end], resource=owner):
            totals[driver["feature"]] += [abs(driver["contribution"]), driver["contribution"]]
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    means = [(name, *(total / len(chosen)).tolist()) for name, total in ranked]
    return [{"feature": n, "mean_abs_contribution": size, "mean_contribution": change} for n, size, change in means]
