"""The trees as an ONNX graph, raw windows to window statistics to logits; and the table of past incidents as another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiops_core.servable.failure import LEAST_VOTE, log_odds
from aiops_core.tasks.failure.window_statistics import STATISTICS

__all__ = ["graph_of_table", "graph_of_trees", "statistics_of"]

#: A spread below this share of a window's mean is rounding.
ROUNDING = 1e-6
#: A change below this share of the mean is rounding: the sums are in double precision.
ROUNDING_OF_MEANS = 1e-12
#: `onnx.TensorProto.FLOAT` and ``DOUBLE``, without the import.
_FLOAT, _DOUBLE = 1, 11
_OPSETS = {"": 17, "ai.onnx.ml": 3}


def graph_of_trees(models: Mapping[str, Any], window: int, width: int) -> bytes:
    """Return the ONNX model: ``window`` (n, window, width) float32, NaN allowed, to ``logits`` (n, n_families).

    Parameters
    ----------
    models : mapping of str to classifier
        Fitted by `aiops_core.tasks.failure.trees.fit_trees`, by family.
    window, width : int
        Steps, and features of a step.
    """
    from onnx import TensorProto, helper

    parts = _Statistics(window)
    nodes, constants = parts.nodes, parts.constants
    nodes.append(_ensemble(list(models.values()), parts.output, "votes"))
    votes = np.array([not _boosted(m) for m in models.values()])
    low, high = np.float32(LEAST_VOTE), np.float32(1 - LEAST_VOTE)
    edge = np.float32(np.log(high / low))
    share = parts.add("Clip", "votes", parts.constant(low), parts.constant(high))
    odds = parts.add(
        "Sub", parts.add("Log", share), parts.add("Log", parts.add("Sub", parts.constant(np.float32(1)), share))
    )
    raw = parts.add("Clip", "votes", parts.constant(-edge), parts.constant(edge))
    nodes.append(helper.make_node("Where", [parts.constant(votes[None]), odds, raw], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "failure_trees",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [None, window, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, len(models)])],
        constants,
    )
    return _model(graph)


def graph_of_table(table: np.ndarray) -> bytes:
    """Return the ONNX model that looks log odds up: ``place`` (n, 2) int64, row and column, to ``logits`` (n,).

    Parameters
    ----------
    table : ndarray, (n_rows, n_columns)
        Probabilities.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("GatherND", ["table", "place"], ["logits"])],
        "failure_recurrence",
        [helper.make_tensor_value_info("place", TensorProto.INT64, [None, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(log_odds(table).astype(np.float32), "table")],
    )
    return _model(graph)


def statistics_of(windows: np.ndarray) -> np.ndarray:
    """Return the statistics of raw windows (n, window, width) as the graph computes them, (n, 7 * width), float32."""
    import onnxruntime
    from onnx import TensorProto, helper

    parts = _Statistics(windows.shape[1])
    graph = helper.make_graph(
        parts.nodes,
        "window_statistics",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [None, *windows.shape[1:]])],
        [helper.make_tensor_value_info(parts.output, TensorProto.FLOAT, [None, len(STATISTICS) * windows.shape[2]])],
        parts.constants,
    )
    session = onnxruntime.InferenceSession(_model(graph), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"window": np.asarray(windows, dtype=np.float32)})[0])


def _model(graph: Any) -> bytes:
    from onnx import checker, helper

    opsets = [helper.make_opsetid(name, version) for name, version in _OPSETS.items()]
    built = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(built)
    return bytes(built.SerializeToString())


class _Statistics:
    """Nodes for the statistics of `window_statistics`, sums in double precision as there."""

    def __init__(self, window: int) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        nan, zero, inf = (self.constant(np.float32(value)) for value in (np.nan, 0.0, np.inf))
        last = self.add("Gather", "window", self.constant(np.int64(window - 1)), axis=1)
        missing = self.add("IsNaN", "window")
        wide = self.add("Cast", self.add("Where", missing, zero, "window"), to=_DOUBLE)
        seen = self.add("Cast", self.add("Not", missing), to=_DOUBLE)
        early = window - max(1, window // 4)
        mean, count = self.mean(wide, seen)
        mean_late, _ = self.mean(self.steps(wide, early, window), self.steps(seen, early, window))
        mean_early, _ = self.mean(self.steps(wide, 0, early), self.steps(seen, 0, early)) if early else (nan, nan)
        distance = self.add(
            "Mul", self.add("Sub", wide, self.add("Unsqueeze", mean, self.constant(np.array([1])))), seen
        )
        square = self.add("ReduceSum", self.add("Mul", distance, distance), self.constant(np.array([1])), keepdims=0)
        spread = self.add("Sqrt", self.add("Div", square, count))
        least_spread = self.add("Mul", self.add("Abs", mean), self.constant(np.float64(ROUNDING)))
        flat = self.add("Less", spread, least_spread)
        spread = self.add("Where", flat, self.constant(np.float64(0.0)), spread)
        some = self.add("Greater", count, self.constant(np.float64(0.5)))
        negative = self.constant(np.float32(-np.inf))
        least = self.add("ReduceMin", self.add("Where", missing, inf, "window"), axes=[1], keepdims=0)
        greatest = self.add("ReduceMax", self.add("Where", missing, negative, "window"), axes=[1], keepdims=0)
        change = self.add("Sub", mean_late, mean_early) if early else self.constant(np.float64(np.nan))
        least_change = self.add("Mul", self.add("Abs", mean), self.constant(np.float64(ROUNDING_OF_MEANS)))
        still = self.add("Less", self.add("Abs", change), least_change)
        change = self.add("Where", still, self.constant(np.float64(0.0)), change)
        single = [self.add("Cast", x, to=_FLOAT) for x in (mean, spread, mean_late, change)]
        found = [single[0], single[1], least, greatest, single[2], single[3]]
        held = [self.add("Where", some, x, nan) for x in found]
        self.output = self.add("Concat", last, *held, axis=1)

    def mean(self, values: str, seen: str) -> tuple[str, str]:
        """Return the mean of each metric over the steps, NaN (0 / 0) where none was seen, and the number seen."""
        axis = self.constant(np.array([1]))
        count = self.add("ReduceSum", seen, axis, keepdims=0)
        return self.add("Div", self.add("ReduceSum", values, axis, keepdims=0), count), count

    def steps(self, values: str, begin: int, end: int) -> str:
        ends = (self.constant(np.array([at])) for at in (begin, end, 1))
        return self.add("Slice", values, *ends)

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def _ensemble(models: list[Any], feed: str, output: str) -> Any:
    """Return one node for all trees: a column for each model, (n, n_models).

    The column of a forest is the mean share of positive rows in the leaves, that of boosted trees the raw score.
    scikit-learn compares single-precision values with thresholds in double precision; a threshold is rounded down here, so
    that both send every value the same way.
    """
    from onnx import helper

    table: dict[str, list[Any]] = {
        name: [] for name in ("tree", "id", "left", "right", "feature", "value", "missing", "leaf")
    }
    leaves: dict[str, list[Any]] = {name: [] for name in ("tree", "id", "target", "weight")}
    base, tree = np.zeros(len(models), dtype=np.float32), 0
    for target, model in enumerate(models):
        if _boosted(model):
            base[target] = np.ravel(model._baseline_prediction)[0]
        for one in _boosted_trees(model) if _boosted(model) else _forest_trees(model):
            leaf, size = one["leaf"], len(one["leaf"])
            table["tree"] += [tree] * size
            table["id"] += range(size)
            for name in ("left", "right", "feature", "missing"):
                table[name] += np.where(leaf, 0, one[name]).tolist()
            table["value"].append(np.where(leaf, 0.0, _rounded_down(one["threshold"])))
            table["leaf"] += leaf.tolist()
            ends = np.flatnonzero(leaf)
            leaves["tree"] += [tree] * len(ends)
            leaves["id"] += ends.tolist()
            leaves["target"] += [target] * len(ends)
            leaves["weight"].append(one["output"][ends])
            tree += 1
    return helper.make_node(
        "TreeEnsembleRegressor",
        [feed],
        [output],
        domain="ai.onnx.ml",
        n_targets=len(models),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=base.tolist(),
        nodes_treeids=table["tree"],
        nodes_nodeids=table["id"],
        nodes_featureids=table["feature"],
        nodes_modes=["LEAF" if leaf else "BRANCH_LEQ" for leaf in table["leaf"]],
        nodes_values=np.concatenate(table["value"]).astype(np.float32).tolist(),
        nodes_truenodeids=table["left"],
        nodes_falsenodeids=table["right"],
        nodes_missing_value_tracks_true=table["missing"],
        target_treeids=leaves["tree"],
        target_nodeids=leaves["id"],
        target_ids=leaves["target"],
        target_weights=np.concatenate(leaves["weight"]).astype(np.float32).tolist(),
    )


def _boosted(model: Any) -> bool:
    return hasattr(model, "_predictors")


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    single = threshold.astype(np.float32)
    return np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)


def _boosted_trees(model: Any) -> list[dict[str, np.ndarray]]:
    return [
        {
            "leaf": nodes["is_leaf"].astype(bool),
            "left": nodes["left"].astype(np.int64),
            "right": nodes["right"].astype(np.int64),
            "feature": nodes["feature_idx"].astype(np.int64),
            "missing": nodes["missing_go_to_left"].astype(np.int64),
            "threshold": nodes["num_threshold"].astype(np.float64),
            "output": nodes["value"].astype(np.float64),
        }
        for (predictor,) in model._predictors
        for nodes in (predictor.nodes,)
    ]


def _forest_trees(model: Any) -> list[dict[str, np.ndarray]]:
    found = []
    for estimator in model.estimators_:
        tree = estimator.tree_
        votes = tree.value[:, 0]
        found.append(
            {
                "leaf": tree.children_left < 0,
                "left": tree.children_left,
                "right": tree.children_right,
                "feature": tree.feature,
                "missing": tree.missing_go_to_left.astype(np.int64),
                "threshold": tree.threshold,
                "output": votes[:, 1] / votes.sum(axis=1) / len(model.estimators_),
            }
        )
    return found
