"""Write the servable: one ONNX graph, the card and golden examples; and predict through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aiops_core import servable
from aiops_core.derive.graph import prepend
from aiops_core.errors import UsageError
from aiops_core.servable.threat import GRAPH, NORMAL, ThreatServable
from aiops_core.tasks import cards
from aiops_core.tasks.cards import head
from aiops_core.tasks.threat.alarms import rare_threshold
from aiops_core.tasks.threat.data import NAME, Prediction, ThreatData
from aiops_core.tasks.threat.model import ThreatModel


def export(model: ThreatModel, data: ThreatData, folder: str | Path) -> None:
    """Write the servable: one graph from raw features to calibrated probabilities, the card and golden examples."""
    graph = build_graph(model)
    if len(data.derived):
        graph = prepend(graph, data.derived, [feature["name"] for feature in data.columns], "X")
    golden = _golden_rows(data)
    probability = model.calibrated(model.forest.predict_proba(model.inputs.expand(data.whole(golden))))
    importance = _importance(graph, data)
    features = [
        {**feature, **data.facts.get(feature["name"], {}), "importance": value}
        for feature, value in zip(data.columns, importance.tolist(), strict=True)
    ]
    decision: dict[str, Any] = {
        "rule": "expected_cost",
        "weights": model.weights.tolist(),
        "alpha": model.alpha,
        "costs": None if data.costs is None else data.costs.tolist(),
        "words": (
            "the class of least expected cost under the given cost matrix"
            if data.costs is not None
            else f"the class of largest probability x prior^-{model.alpha:.2f}, an exponent chosen on validation rows"
        ),
    }
    card = {
        **head(NAME),
        "features": features,
        "derived": data.derived.entries(),
        "ignored": data.info["ignored"],
        "classes": data.classes,
        "decision": decision,
        "attack": None if NORMAL not in data.classes else _attack_threshold(model, data),
        "calibration": {
            "method": "temperature",
            "temperature": model.temperature,
            "floor": model.floor,
            "parameters": {"temperature": model.temperature, "floor": model.floor},
        },
        "prior": model.prior.tolist(),
        "missing": "filled with the training median inside the graph, with indicators; trained with masked features",
        "params": model.params,
        "trees": len(model.forest.estimators_),
        "validation": model.scores,
        "watch": _watched(model, data),
    }
    servable.write(folder, card, {GRAPH: graph}, {"X": golden, "expected_probability": probability})


def _watched(model: ThreatModel, data: ThreatData) -> dict[str, Any]:
    """Return what monitoring compares with: training rows, and the out-of-fold answers."""
    rows, found = data.index("train"), model.validation
    cluster = np.arange(len(data.y)) if data.group is None else np.asarray(data.group)
    X, features = data.raw(rows), dict[str, Any]()
    for feature, column in zip(data.columns, X.T, strict=True):
        name = feature["name"]
        if feature["dtype"] != "category":
            features |= cards.features_watch([name], column[:, None], cluster[rows])
            continue
        kept, codes = cards.categories(column, feature["categories"]), np.nan_to_num(column, nan=-1).astype(int)
        features[name] = kept | {"scatter": cards.scatter(codes, len(kept["counts"]), cluster[rows])}
    label, weight = found["label"], found["weight"]
    said = found["probability"][np.arange(len(label)), label]
    shares = np.bincount(label, weights=weight, minlength=len(data.classes)) / weight.sum()
    return {
        "features": features,
        "score": {
            **(kept := cards.score_histogram(said, weight)),
            "scatter": cards.scatter(cards.bin_of(said, kept["edges"]), len(kept["counts"]), cluster[found["row"]]),
        },
        "calibration": cards.calibration(said, label == data.y[found["row"]], weight),
        "classes": dict(zip(data.classes, shares.tolist(), strict=True)),
        "alarm_rate": 1.0 - float(shares[data.classes.index(NORMAL)]) if NORMAL in data.classes else 1.0,
        "rows": len(rows),
    }


def _attack_threshold(model: ThreatModel, data: ThreatData) -> dict[str, Any]:
    """Return the threshold on P(attack) for rare false alarms, from the out-of-fold rows."""
    normal, found = data.classes.index(NORMAL), model.validation
    return rare_threshold(1 - found["probability"][:, normal], data.y[found["row"]] != normal, found["weight"])


def build_graph(model: ThreatModel) -> bytes:
    """Return the ONNX model: ``X`` (n, n_features) float32, NaN allowed, to ``probability`` (n, n_classes)."""
    import skl2onnx
    from onnx import TensorProto, checker, helper, numpy_helper
    from skl2onnx.common.data_types import FloatTensorType

    inputs = model.inputs
    if inputs.ranks:
        raise UsageError("the model of a trial cannot be exported, its categories are those of a fold: use finish")
    n_features = len(inputs.fill)
    forest = skl2onnx.to_onnx(
        model.forest,
        initial_types=[("expanded", FloatTensorType([None, inputs.width]))],
        options={id(model.forest): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    _drop_zero_votes(forest)
    votes = forest.graph.output[1].name

    before = [
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Where", ["missing", "fill", "X"], ["filled"]),
        helper.make_node("Cast", ["missing"], ["flags"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["flags", "axis"], ["count"], keepdims=1),
    ]
    pieces = ["filled", "count"]
    constants = {
        "fill": inputs.fill[None, :],
        "axis": np.array([1], dtype=np.int64),
        "floor": np.array([model.floor], dtype=np.float32),
        "temperature": np.array([model.temperature], dtype=np.float32),
    }
    if len(inputs.flagged):
        before.append(helper.make_node("Gather", ["flags", "flagged"], ["indicators"], axis=1))
        constants["flagged"] = inputs.flagged.astype(np.int64)
        pieces.insert(1, "indicators")
    before.append(helper.make_node("Concat", pieces, ["expanded"], axis=1))
    after = [
        helper.make_node("Add", [votes, "floor"], ["raised"]),
        helper.make_node("Log", ["raised"], ["logs"]),
        helper.make_node("Div", ["logs", "temperature"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["probability"], axis=1),
    ]
    whole = helper.make_graph(
        [*before, *forest.graph.node, *after],
        "threat_detector",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, len(model.prior)])],
        [*forest.graph.initializer, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )
    built = helper.make_model(whole, opset_imports=forest.opset_import, ir_version=8)
    checker.check_model(built)
    return bytes(built.SerializeToString())


def _drop_zero_votes(forest: Any) -> None:
    """Leave out the votes of 0 that leaves hold for most classes: half of a row's time goes into adding them up."""
    (trees,) = (node for node in forest.graph.node if node.op_type == "TreeEnsembleClassifier")
    held = {attribute.name: attribute for attribute in trees.attribute}
    votes = held["class_weights"].floats
    cast = [i for i, vote in enumerate(votes) if vote != 0]
    for name in ("class_ids", "class_nodeids", "class_treeids"):
        numbers = held[name].ints
        numbers[:] = [numbers[i] for i in cast]
    votes[:] = [votes[i] for i in cast]


def _golden_rows(data: ThreatData) -> np.ndarray:
    """Return training rows of every class, some with missing features, one with none known."""
    rng = np.random.default_rng(5)
    picked = [rng.choice(data.rows[data.y[data.rows] == label], 4) for label in np.unique(data.y[data.rows])]
    rows = data.raw(np.concatenate(picked))
    masked = rows.copy()
    masked[rng.random(rows.shape) < 0.5] = np.nan
    return np.concatenate([rows, masked, np.full((1, rows.shape[1]), np.nan, dtype=np.float32)])


def _importance(graph: bytes, data: ThreatData) -> np.ndarray:
    """Return how far shuffling each column moves the probabilities: mean total variation, (n_columns,), in [0, 1]."""
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(11)
    rows = rng.choice(data.rows, size=min(1000, len(data.rows)), replace=False, p=data.weight / data.weight.sum())
    X = data.raw(rows)
    base = session.run(None, {"X": X})[0]
    out = np.empty(X.shape[1])
    for j in range(X.shape[1]):
        shuffled = X.copy()
        shuffled[:, j] = rng.permutation(X[:, j])
        out[j] = np.abs(session.run(None, {"X": shuffled})[0] - base).sum(axis=1).mean() / 2
    return out


def score(loaded: ThreatServable, data: ThreatData, part: str) -> Prediction:
    """Predict a part through the loaded servable.

    Parameters
    ----------
    part : {"train", "validation", "test"}
        The servable has learned from training rows: only ``test`` is an honest part.

    Returns
    -------
    dict
        ``probability`` (n, n_classes) and ``label`` (n,) int.
    """
    probability = loaded.predict(data.raw(data.index(part)))
    return {"probability": probability, "label": loaded.decide(probability)}
