"""The servable: graphs, card and golden examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from aiops_core import servable
from aiops_core.servable.capacity import LINEAR
from aiops_core.servable.capacity_features import assemble, features
from aiops_core.servable.capacity_layout import feature_names
from aiops_core.tasks import cards
from aiops_core.tasks.capacity.data import NAME, CapacityData
from aiops_core.tasks.capacity.pairs import history_of, others_of
from aiops_core.tasks.capacity.prediction import CapacityModel, predict, scaled_quantiles
from aiops_core.tasks.cards import head, numeric_feature

#: How the band was calibrated, for a reader of the card.
OFFSETS = (
    "conformal offsets of both band edges by target, steps ahead and restlessness of the series, in units of its spread, "
    "from origins that chose nothing else"
)


def export(model: CapacityModel, data: CapacityData, folder: str | Path) -> None:
    """Write the servable: one graph a booster, one for the backbone, the card, and golden examples.

    The golden outputs come from the native boosters, so a conversion that changes a prediction is refused on loading.
    """
    layout = model.layout
    graphs = {LINEAR: _linear_graph(model.linear)}
    names: list[list[str]] = []
    for label, boosters in zip(("p10", "p50", "p90"), model.boosters, strict=True):
        if not boosters:
            names.append([])
            continue
        names.append([f"{label}_{i}" for i in range(len(boosters))])
        width = len(feature_names(layout)[0])
        graphs.update({name: _tree_graph(b, width) for name, b in zip(names[-1], boosters, strict=True)})
    card = {
        **head(NAME),
        "features": _schema(data),
        "ignored": data.info["ignored"],
        "targets": list(layout.targets),
        "derived": data.derived.entries(),
        "exogenous": _asked(data),
        "season": layout.season,
        "horizon": layout.horizon,
        "step_seconds": layout.step_seconds,
        "context": layout.context,
        "quantiles": [0.1, 0.5, 0.9],
        "scored_steps": [int(step) for step in data.score_steps],
        "layout": layout.as_dict(),
        "graphs": [n or names[1] for n in names],
        "backbone_shares": list(model.shares),
        "decision": {"rule": "none: a forecast is a band, thresholds are the user's"},
        "calibration": {
            "method": OFFSETS if model.calibration else "none",
            "parameters": model.calibration,
        },
        "metrics": {},
        "baselines": {},
        "oracle": None,
        "params": model.params,
        "watch": _watched(model, data),
    }
    servable.write(folder, card, graphs, _golden(model, data))


def _schema(data: CapacityData) -> list[dict[str, Any]]:
    """Feature schema of the card; reference statistics come from values before the validation origins."""
    seen = data.limits["train"] + 1
    return [
        {**numeric_feature(name, data.values[data.fitted, j, :seen]), **data.facts.get(name, {})}
        for j, name in enumerate(data.columns)
        if name in data.raw
    ]


def _watched(model: CapacityModel, data: CapacityData) -> dict[str, Any]:
    """Return what monitoring compares with: values before the validation origins, and bands of the calibration origins.

    The score is the width of the band, its outcome the error of the median, both in standard deviations of the target and
    as the mean over steps up to one season.
    """
    seen = data.limits["train"] + 1
    columns = [j for j, name in enumerate(data.columns) if name in data.raw]
    values = data.values[data.fitted][:, columns, :seen]
    position, resource = np.meshgrid(np.arange(seen), np.flatnonzero(data.fitted))
    day = data.time(resource, position).astype("datetime64[D]").astype(np.int64).ravel()
    rows = np.moveaxis(values, 1, 2).reshape(-1, len(columns))
    kept = ~np.isnan(rows).all(axis=1)
    names = [data.columns[j] for j in columns]
    known, score, error, by_step = _held_out(model, data)
    top = max(1.0, 2 * float(score[known].max(initial=0.0)))
    return {
        "features": cards.features_watch(names, rows[kept], resource.ravel()[kept], day[kept]),
        "score": cards.score_histogram(score[known], top=top),
        "calibration": cards.calibration(score[known], error[known], top=top),
        "steps": by_step,
        "rows": int(kept.sum()),
    }


def _held_out(
    model: CapacityModel, data: CapacityData
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, list[float]]]:
    """Return of each calibration pair whether it has a truth, its score and error, and error and coverage by step."""
    pairs, found = data.parts["calibration"], predict(model, data, "calibration")
    spread = np.array([max(cards.reference(data.values[data.fitted, j, : data.limits["train"] + 1].ravel())["std"], 1e-9)
                       for j in range(len(data.layout.targets))])[pairs.target][:, None]  # fmt: skip
    width, error, inside = (np.full(pairs.steps.shape, np.nan) for _ in range(3))
    truth = pairs.truth[pairs.known]
    width[pairs.known] = found["p90"] - found["p10"]
    error[pairs.known] = np.abs(found["p50"] - truth)
    inside[pairs.known] = (truth >= found["p10"]) & (truth <= found["p90"])
    width, error = width / spread, error / spread
    near = (pairs.steps <= data.layout.season) | (pairs.steps == pairs.steps.min(axis=1, keepdims=True))
    known = (pairs.known & near).any(axis=1)
    with np.errstate(invalid="ignore"):
        use = pairs.known & near
        count = np.maximum(use.sum(axis=1), 1)
        score, wrong = (np.where(use, x, 0.0).sum(axis=1) / count for x in (width, error))
    steps = np.unique(pairs.steps[pairs.known])
    mine = [pairs.known & (pairs.steps == step) for step in steps]
    return (
        known,
        score,
        wrong,
        {
            "step": steps.tolist(),
            "error": [float(error[m].mean()) for m in mine],
            "coverage": [float(inside[m].mean()) for m in mine],
        },
    )


def _asked(data: CapacityData) -> list[str]:
    """Return the columns beside the target that a forecast reads: the exogenous ones, and what features derive from."""
    raw = [name for name in data.layout.exogenous if name in data.raw]
    return raw + [name for name in data.derived.columns if name not in raw]


def _linear_graph(weights: np.ndarray) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["scaled"])],
        "backbone",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, weights.shape[0]])],
        [helper.make_tensor_value_info("scaled", TensorProto.DOUBLE, [None, weights.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(weights, dtype=np.float64), "W")],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    return bytes(built.SerializeToString())


def _tree_graph(booster: xgb.Booster, width: int) -> bytes:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    plain = booster.copy()
    plain.feature_names = None
    built = convert_xgboost(plain, initial_types=[("X", FloatTensorType([None, width]))])
    return bytes(built.SerializeToString())


def _golden(model: CapacityModel, data: CapacityData, n: int = 24) -> dict[str, np.ndarray]:
    """Histories of validation origins: whole, cut short, with gaps, without a clock and without other columns."""
    pairs = data.parts["validation"]
    rng = np.random.default_rng(0)
    usable = np.flatnonzero(pairs.known.any(axis=1))
    chosen = np.sort(rng.choice(usable, min(n, len(usable)), replace=False))
    r, t, o = pairs.resource[chosen], pairs.target[chosen], pairs.origin[chosen]
    length = min(data.layout.context, 8 * data.layout.season + 1)
    history = history_of(data, r, t, o, length).astype(np.float32)
    for i in range(len(chosen)):
        kept = (length, 1, 5, data.layout.season, length)[i % 5]
        history[i, : max(0, length - kept)] = np.nan
        if i % 3 == 1:
            history[i, rng.random(length) < 0.2] = np.nan
        if np.isnan(history[i]).all():
            history[i, -1] = data.layout.reference_level[t[i]]
    last = data.time(r, o)
    last[::4] = np.datetime64("NaT")
    horizon = data.layout.horizon
    steps = np.unique(np.geomspace(1, horizon, 5).round().astype(np.int64))
    arrays: dict[str, np.ndarray] = {
        "history": history,
        "last": last.astype("datetime64[s]").astype(np.int64),
        "target": t,
        "steps": np.tile(steps, (len(chosen), 1)),
    }
    exogenous = others_of(data, r, t, o)
    if exogenous is not None:
        exogenous[::2] = np.nan
        arrays["exogenous"] = exogenous = exogenous.astype(np.float32)
    rows = features(history, last, arrays["steps"], t, data.layout, exogenous)
    if len(data.derived):
        arrays |= _golden_derived(data, r, o)
    scaled = scaled_quantiles(model, rows, t)
    arrays["expected_forecast"] = assemble(scaled, rows, arrays["steps"], t, model.layout, model.calibration)
    return arrays


def _golden_derived(data: CapacityData, r: np.ndarray, o: np.ndarray) -> dict[str, np.ndarray]:
    """Return columns as requests hold them, (n, columns, steps), and the derived features of the series in training."""
    length = 7 * data.layout.season
    columns = [data.columns.index(name) for name in data.derived.columns]
    features = [data.columns.index(name) for name in data.derived.names]
    raw = [history_of(data, r, np.full(len(r), c), o, length + data.derived.reach) for c in columns]
    expected = [history_of(data, r, np.full(len(r), c), o, length) for c in features]
    return {
        "raw": np.stack(raw, axis=1).astype(np.float32),
        "expected_derived": np.stack(expected, axis=1).astype(np.float32),
    }
