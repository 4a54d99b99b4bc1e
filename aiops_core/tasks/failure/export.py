"""Write the servable, and score data with a loaded one."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core import servable
from aiops_core.derive.graph import prepend
from aiops_core.servable.failure import (
    GRAPH,
    RECURRENCE,
    TREES,
    FailureServable,
    apply_calibration,
    choose_threshold,
    clock_of,
    log_odds,
)
from aiops_core.tasks import cards
from aiops_core.tasks.cards import head
from aiops_core.tasks.failure.data import CHUNK, NAME, FailureData, Prediction
from aiops_core.tasks.failure.decision import Watched
from aiops_core.tasks.failure.model import FailureModel, combine_networks
from aiops_core.tasks.failure.network import import_tensorflow
from aiops_core.tasks.failure.recurrence import looked_up
from aiops_core.tasks.failure.split import stretches, thin_rows
from aiops_core.tasks.failure.stack import combined
from aiops_core.tasks.failure.tree_graph import graph_of_table, graph_of_trees, statistics_of
from aiops_core.tasks.failure.trees import tree_logits

GOLDEN_ROWS = 24


def export(model: FailureModel, data: FailureData, folder: Path) -> None:
    """Write the servable: one ONNX graph of all networks and one of the trees, the card and golden examples."""
    combined_networks = combine_networks(model, data)
    clocked = "clock" in combined_networks.input
    names = [feature["name"] for feature in data.metrics]
    graphs = {GRAPH: _onnx(combined_networks)}
    if model.trees:
        graphs[TREES] = graph_of_trees(model.trees, data.window, len(data.features))
    if len(data.derived):
        graphs = {name: prepend(graph, data.derived, names, "window") for name, graph in graphs.items()}
    if model.table is not None:
        graphs[RECURRENCE] = graph_of_table(model.table)
    card = {
        **head(NAME),
        "features": [{**feature, **data.facts.get(feature["name"], {})} for feature in data.metrics],
        "derived": data.derived.entries(),
        "ignored": data.info["ignored"],
        "missing_values": "NaN is learned as missing; rows before the first one are padding",
        "window": data.served_window,
        "horizon": data.horizon,
        "step_seconds": data.step_seconds,
        "uses_time_of_day": clocked,
        "networks": model.params,
        "members": model.members,
        "recurrence": None if model.table is None else {"resources": data.resources, "bins": model.table.shape[1] - 1},
        "decision": {"rule": "max_f1", "threshold": model.threshold, "curve": model.curve},
        "calibration": {"method": "platt", "parameters": {"slope": model.slope, "offset": model.offset}},
        "watch": _watched(data, names, model.curve, model.threshold),
    }
    windows, last, owner = _golden(data)
    asked = {"windows": windows, "last": last.astype(np.int64), "resources": np.array([*data.resources, ""])[owner]}
    with tempfile.TemporaryDirectory() as scratch:
        # The golden outputs are the Keras model's: a trial copy of the servable must agree with them first.
        path = Path(scratch) / "servable"
        servable.write(path, card, graphs, asked)
        found = FailureServable(path, servable.read_card(path)).predict(windows, last, asked["resources"].tolist())
    whole = data.derived.of_windows(windows, names)
    feed = {"window": whole, "clock": clock_of(last, len(last))}
    native = np.asarray(combined_networks({k: feed[k] for k in combined_networks.input}, training=False))
    if model.trees:
        statistics = statistics_of(whole)
        native = np.column_stack([native, tree_logits(model.trees, statistics)])
    if model.table is not None:
        native = np.column_stack([native, log_odds(looked_up(model.table, owner, last))])
    expected = apply_calibration(combined(model.members, native), model.slope, model.offset)
    worst = float(np.abs(expected - found).max())
    if worst > 1e-5:
        raise RuntimeError(f"the ONNX graphs differ from the model by {worst:.2g} in probability")
    servable.write(
        folder,
        card,
        graphs,
        {**asked, "expected_probability": expected},
    )


def _watched(
    data: FailureData, names: list[str], curve: Mapping[str, Sequence[float]], threshold: float
) -> dict[str, Any]:
    """Return what monitoring compares with: training rows and windows, and the scores of held-out rows."""
    rows = data.every_step("train")
    own, day = data.resource, data.time.astype("datetime64[D]").astype(np.int64)
    some = rows[cards.some_days(own[rows], day[rows])]
    held = np.concatenate([data.ends["train"], data.ends["validation"]])
    score, outcome, weight = cards.of_curve(curve, len(held), float(data.label(held).mean()))
    return {
        "features": cards.features_watch(names, data.values[rows, : len(names)], own[rows], day[rows]),
        "windows": cards.windows_watch(names, data.served_windows(some), own[some], day[some]),
        "score": cards.score_histogram(score, weight),
        "calibration": cards.calibration(score, outcome, weight, also=[threshold]),
        "alarm_rate": float(weight[score >= threshold].sum() / weight.sum()),
        "rows": len(rows),
    }


def _onnx(combined: Any) -> bytes:
    import contextlib
    import logging

    _, keras = import_tensorflow()
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch) / "model.onnx"
        signature = {k: keras.InputSpec(shape=v.shape, dtype="float32", name=k) for k, v in combined.input.items()}
        combined.export(str(path), format="onnx", verbose=False, input_signature=[signature])
        return path.read_bytes()


def _golden(data: FailureData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return test windows, their times and resources, with hard cases: padding, missing values, an unknown time or name."""
    ends = thin_rows(data.ends["test"], GOLDEN_ROWS)
    windows, last = data.served_windows(ends), data.time[ends].copy()
    windows[0, : data.served_window // 2] = np.nan
    windows[1 % len(windows), :, 0] = np.nan
    windows[2 % len(windows)] = np.nan
    last[3 % len(last)] = np.datetime64("NaT")
    owner = data.resource[ends].astype(np.int64)
    owner[4 % len(owner)] = -1
    return windows, last, owner


def score(model: FailureServable, data: FailureData, part: str) -> Prediction:
    """Predict the examples of a part through the loaded servable; the keys of `predict`, and ``f1_alarm``."""
    probability = _served(model, data, data.ends[part])
    of_f1 = choose_threshold(model.card["decision"]["curve"], "max_f1")
    return {"probability": probability, "alarm": model.decide(probability), "f1_alarm": probability >= of_f1}


def watch(model: FailureServable, data: FailureData, part: str = "test") -> Watched:
    """Predict a part as a service is asked, at every step, whatever the stride of the examples.

    Returns
    -------
    rows : ndarray, (n,)
        Positions of labelled rows, in whole stretches of time where the part has more than ``effort.watched_rows``.
    probability : ndarray, (n,), float64
    """
    rows = stretches(data, data.every_step(part), data.effort.watched_rows)
    return rows, _served(model, data, rows)


def _served(model: FailureServable, data: FailureData, rows: np.ndarray) -> np.ndarray:
    probability = np.empty(len(rows))
    for i in range(0, len(rows), CHUNK):
        chosen = rows[i : i + CHUNK]
        probability[i : i + CHUNK] = model.predict(data.served_windows(chosen), data.time[chosen], data.names(chosen))
    return probability
