"""Metrics with intervals, paired comparisons, and predictions to look through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.judge import intervals, metrics
from aiops_core.tasks.threat.data import GATE_METRICS, MAIN_METRIC, PROBABILITY_METRICS, Prediction, ThreatData
from aiops_core.tasks.threat.units import units, units_at


def evaluate(
    data: ThreatData,
    prediction: Prediction,
    part: str = "test",
    seed: int = 0,
    extra_metrics: intervals.ExtraMetrics | None = None,
) -> dict[str, intervals.Metric]:
    """Return ``accuracy, macro_f1, log_loss, ece``, ``f1_<class>`` and metrics of the user's, with 95 % intervals.

    An extra metric gets the true classes (n,), as positions in ``data.classes``, and the prediction.
    """
    rows = prediction["row"] if "row" in prediction else data.index(part)
    truth, drawn = data.y[rows], units_at(data, rows)
    known = metrics.threat(
        truth, prediction["probability"], prediction["label"], classes=data.classes, units=drawn, seed=seed
    )
    return intervals.with_extra(known, extra_metrics, truth, prediction, drawn, seed)


def predictions(data: ThreatData, prediction: Prediction, part: str = "test") -> pd.DataFrame:
    """Return a prediction as a frame, one row an example, to sort and to slice.

    Returns
    -------
    DataFrame
        Indexed by ``row``, the place in the ``activity`` table: ``group`` where the data name one, ``truth`` and
        ``decided`` (classes), ``confidence`` (probability of the decided class), ``error`` (1 minus the probability of
        the true class), the features as the model reads them, and one ``p:<class>`` for every class. A feature with the
        name of another column is called ``feature:<name>``.
    """
    rows = prediction["row"] if "row" in prediction else data.index(part)
    truth, label, probability = data.y[rows], prediction["label"], prediction["probability"]
    classes = np.array(data.classes, dtype=object)
    index = pd.Index(rows, name="row")
    own: dict[str, Any] = {}
    if data.group is not None:
        own["group"] = np.array(data.info["group_names"], dtype=object)[data.group[rows]]
    own |= {"truth": classes[truth], "decided": classes[label]}
    own["confidence"] = probability[np.arange(len(rows)), label]
    own["error"] = 1 - probability[np.arange(len(rows)), truth]
    by_class = pd.DataFrame(probability, index=index, columns=[f"p:{name}" for name in data.classes])
    features = pd.DataFrame(data.X[rows], index=index, columns=[feature["name"] for feature in data.features])
    for feature in data.features:
        if feature["dtype"] == "category":
            features[feature["name"]] = features[feature["name"]].map(dict(enumerate(feature["categories"])))
    features = features.rename(columns={n: f"feature:{n}" for n in features.columns if n in own or n in by_class})
    return pd.concat([pd.DataFrame(own, index=index), features, by_class], axis=1)


def compare(
    data: ThreatData,
    prediction: Prediction,
    others: Mapping[str, Prediction],
    *,
    rows: np.ndarray | None = None,
    seed: int = 0,
    n_boot: int = intervals.N_BOOT,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS` and `PROBABILITY_METRICS`.

    Of the test rows only ``rows`` (n,), bool, where given.
    """
    drawn = units(data, "test", rows)
    return intervals.paired(
        _values(data, prediction, rows),
        {name: _values(data, other, rows) for name, other in others.items()},
        len(drawn.code),
        only=tuple(dict.fromkeys((*GATE_METRICS, *PROBABILITY_METRICS))),
        units=drawn,
        seed=seed,
        n_boot=n_boot,
    )


def _values(data: ThreatData, prediction: Prediction, rows: np.ndarray | None = None) -> intervals.Weighted:
    some = slice(None) if rows is None else rows
    truth = data.y[data.index("test")][some]
    return metrics.threat_values(truth, prediction["probability"][some], prediction["label"][some], data.classes)


def share(
    data: ThreatData, prediction: Prediction, naive: Prediction, best: Prediction, *, seed: int = 0
) -> intervals.Metric:
    """Return how much of the way from a naive prediction to the oracle's a prediction goes, in `MAIN_METRIC`."""
    own, low, high = (_values(data, p) for p in (prediction, naive, best))
    drawn = units(data)
    return intervals.share(own, low, high, len(drawn.code), metric=MAIN_METRIC, units=drawn, seed=seed)
