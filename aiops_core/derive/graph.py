"""Derived features as nodes of an ONNX graph, put in front of a model: clients send the raw columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aiops_core.derive.expression import Node
from aiops_core.derive.values import FLOAT_MAX, Derived

__all__ = ["prepend"]

#: Names of everything that is put in front begin so.
PREFIX = "derived/"
_PLAIN = {"+": "Add", "-": "Sub", "*": "Mul", "neg": "Neg", "abs": "Abs"}
_COMPARE = {"<": "Less", "<=": "LessOrEqual", ">": "Greater", ">=": "GreaterOrEqual", "==": "Equal", "!=": "Equal"}


def prepend(model: bytes, derived: Derived, columns: Sequence[str], feed: str) -> bytes:
    """Put derived features in front of a model whose input has them behind its columns.

    Parameters
    ----------
    model : bytes
        ONNX model whose input ``feed`` is float32, (n, n_columns + n_derived) or (n, steps, n_columns + n_derived).
    derived : Derived
    columns : sequence of str
        What the new input holds.
    feed : str
        Name of the input; the new one is called the same.

    Returns
    -------
    bytes
        Model with the input (n, n_columns), or (n, reach + steps, n_columns).
    """
    import onnx
    from onnx import TensorProto, helper

    built = onnx.load_from_string(model)
    graph = built.graph
    _rename(graph, feed, PREFIX + feed)
    old = next(value for value in graph.input if value.name == feed)
    shape: list[Any] = [d.dim_value or None for d in old.type.tensor_type.shape.dim]
    shape[-1] = len(columns)
    if len(shape) == 3:
        shape[1] += derived.reach
    work = _Compiler(derived, columns, feed, series=len(shape) == 3)
    nodes = [*work.compiled(PREFIX + feed), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(work.constants)
    old.CopyFrom(helper.make_tensor_value_info(feed, TensorProto.FLOAT, shape))
    # Shapes that were inferred before belong to the old input.
    del graph.value_info[:]
    onnx.checker.check_model(built)
    return bytes(built.SerializeToString())


def _rename(graph: Any, old: str, new: str) -> None:
    """Let every node read ``new`` instead of ``old``, in inner graphs as well."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _rename(inner, old, new)


class _Compiler:
    """Makes nodes of expressions; equal parts become one node."""

    def __init__(self, derived: Derived, columns: Sequence[str], feed: str, *, series: bool) -> None:
        self.derived, self.columns, self.feed, self.series = derived, list(columns), feed, series
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._made: dict[Node, str] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def compiled(self, output: str) -> list[Any]:
        """Return the nodes that make ``output`` of the raw input."""
        from onnx import TensorProto

        self.wide = self.add("Cast", self.feed, to=TensorProto.DOUBLE)
        last = self.constant(np.array([-1]))
        pieces = [self.feed]
        for node in self.derived.nodes:
            single = self.add("Cast", self.bounded(self.make(node)), to=TensorProto.FLOAT)
            pieces.append(self.add("Unsqueeze", single, last))
        if self.derived.reach:
            whole = self.add("Concat", *pieces, axis=-1)
            begin, end = self.constant(np.array([self.derived.reach])), self.constant(np.array([2**31 - 1]))
            self.add("Slice", whole, begin, end, self.constant(np.array([1])), output=output)
        else:
            self.add("Concat", *pieces, axis=-1, output=output)
        return self.nodes

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{PREFIX}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: np.ndarray | float) -> str:
        from onnx import numpy_helper

        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"{PREFIX}constant{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def make(self, node: Node) -> str:
        """Return the name of an expression's values, double precision."""
        if node not in self._made:
            self._made[node] = self._new(node)
        return self._made[node]

    def _new(self, node: Node) -> str:
        if node.op == "number":
            return self.constant(float(node.value))
        if node.op == "column":
            index = self.constant(np.array(self.columns.index(str(node.value))))
            return self.add("Gather", self.wide, index, axis=2 if self.series else 1)
        args = [self.make(arg) for arg in node.args]
        if node.op == "lag":
            return self.lag(args[0], int(node.value), np.nan)
        if node.op == "rolling_mean":
            return self.rolling_mean(args[0], int(node.value))
        if node.op in _PLAIN:
            return self.add(_PLAIN[node.op], *args)
        if node.op in _COMPARE:
            return self.compare(node.op, *args)
        return self.guarded(node.op, *args)

    def guarded(self, op: str, *args: str) -> str:
        """Return what is missing outside of an operation's domain, or where an operand is."""
        a = args[0]
        if op == "/":
            by_zero = self.add("Equal", args[1], self.constant(0.0))
            return self.add("Where", by_zero, self.constant(np.nan), self.add("Div", *args))
        if op == "log1p":
            inside = self.add("Greater", a, self.constant(-1.0))
            found = self.add("Log", self.add("Add", self.constant(1.0), a))
            return self.add("Where", inside, found, self.constant(np.nan))
        if op == "sqrt":
            inside = self.add("GreaterOrEqual", a, self.constant(0.0))
            return self.add("Where", inside, self.add("Sqrt", a), self.constant(np.nan))
        # Not Min and Max: whether they pass NaN on differs between runtimes.
        first = self.add("Less" if op == "min" else "Greater", *args)
        missing = self.add("IsNaN", a)
        return self.add("Where", self.add("Or", first, missing), *args)

    def compare(self, op: str, a: str, b: str) -> str:
        from onnx import TensorProto

        found = self.add(_COMPARE[op], a, b)
        if op == "!=":
            found = self.add("Not", found)
        missing = self.add("Or", self.add("IsNaN", a), self.add("IsNaN", b))
        return self.add("Where", missing, self.constant(np.nan), self.add("Cast", found, to=TensorProto.DOUBLE))

    def bounded(self, x: str) -> str:
        """Return values that single precision can hold; others are missing."""
        inside = self.add("LessOrEqual", self.add("Abs", x), self.constant(FLOAT_MAX))
        return self.add("Where", inside, x, self.constant(np.nan))

    def lag(self, x: str, steps: int, fill: float) -> str:
        kept = self.add(
            "Slice", x, self.constant(np.array([0])), self.constant(np.array([-steps])), self.constant(np.array([1]))
        )
        return self.add("Pad", kept, self.constant(np.array([0, steps, 0, 0])), self.constant(fill), mode="constant")

    def rolling_mean(self, x: str, steps: int) -> str:
        from onnx import TensorProto

        single = self.add("Cast", self.add("Cast", self.bounded(x), to=TensorProto.FLOAT), to=TensorProto.DOUBLE)
        missing = self.add("IsNaN", single)
        zero, one, nan = self.constant(0.0), self.constant(1.0), self.constant(np.nan)
        sums = []
        for values in (self.add("Where", missing, zero, single), self.add("Where", missing, zero, one)):
            total = self.add("CumSum", values, self.constant(np.array(1)))
            sums.append(self.add("Sub", total, self.lag(total, steps, 0.0)))
        total, count = sums
        some = self.add("Greater", count, zero)
        return self.add("Where", some, self.add("Div", total, self.add("Where", some, count, one)), nan)
