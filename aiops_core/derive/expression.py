"""Expressions over the columns of a table: read from text into a small tree, and written back.

==========================================  ===========================================================================
``+ - * /``, unary minus                    arithmetic; ``x / 0`` is missing
``< <= > >= == !=``                         1 where it holds, else 0
``min(a, b, ...)``, ``max(a, b, ...)``      of values of the same row
``abs(x)``, ``log1p(x)``, ``sqrt(x)``       ``log1p`` of -1 and less, and ``sqrt`` below 0, are missing
``clip(x, low, high)``                      ``low`` and ``high`` are numbers
``lag(x, k)``, ``diff(x, k=1)``             series only: the value ``k`` steps before; the change since then
``rolling_mean(x, k)``                      series only: mean of the known values of the last ``k`` steps
==========================================  ===========================================================================

A missing value (NaN) makes every result missing that it enters, except a rolling mean with other known values. A step
that has no row, and a step before the first row of a resource, is missing. A column whose name is no word is put in
quotes: ``'disk io (MB)' / 2``.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["FUNCTIONS", "MAX_REACH", "SERIES", "ExpressionError", "Node", "columns_of", "parse", "reach", "text"]

#: Most steps before a row that a feature may look back on.
MAX_REACH = 1000
#: Bounds that keep a mistyped expression from becoming a graph of any size, and its text readable by Python's parser.
MAX_NODES, MAX_DEPTH, MAX_TEXT = 500, 150, 100_000
#: Functions with the least and the most arguments that they take.
FUNCTIONS: dict[str, tuple[int, int]] = {
    "min": (2, 16), "max": (2, 16), "abs": (1, 1), "log1p": (1, 1), "sqrt": (1, 1), "clip": (3, 3),
    "lag": (2, 2), "diff": (1, 2), "rolling_mean": (2, 2),
}  # fmt: skip
#: Functions that look at earlier rows.
SERIES = ("lag", "diff", "rolling_mean")
_ARITHMETIC: dict[type[ast.AST], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARISONS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_BINARY = (*_ARITHMETIC.values(), *_COMPARISONS.values())
_GRAMMAR = f"numbers, columns, + - * /, comparisons and {', '.join(FUNCTIONS)}"


class ExpressionError(Exception):
    """An expression cannot be read; the message is half a sentence, to stand behind its name."""


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    Attributes
    ----------
    op : str
        ``column``, ``number``, ``neg``, an operator, or a function; ``diff`` and ``clip`` are made of others.
    args : tuple of Node
    value : str or float
        Name of a column, a number, or the steps of ``lag`` and ``rolling_mean``.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: str | float = 0.0


def parse(written: str, known: Mapping[str, Node | str], *, series: bool) -> Node:
    """Read an expression.

    Parameters
    ----------
    written : str
    known : mapping of str to Node or str
        What each name stands for; a text instead says why the name cannot be used.
    series : bool
        Whether rows follow each other in time, so that earlier ones can be looked at.

    Raises
    ------
    ExpressionError
    """
    if not isinstance(written, str) or not written.strip():
        raise ExpressionError("must be an expression in quotes")
    if len(written) > MAX_TEXT:
        raise ExpressionError(f"has {len(written)} characters, more than {MAX_TEXT}")
    try:
        body = ast.parse(written.strip(), mode="eval").body
        node = _Reader(known, series).read(body)
        size = _size(node)
    except SyntaxError as error:
        raise ExpressionError(f"is no expression ({error.msg})") from None
    except (RecursionError, MemoryError, ValueError):
        raise ExpressionError("is no expression, or nested too deeply") from None
    if size > MAX_NODES:
        raise ExpressionError(f"has {size} operations, more than {MAX_NODES}")
    if _depth(node) > MAX_DEPTH:
        raise ExpressionError(f"is nested {_depth(node)} deep, more than {MAX_DEPTH}")
    if not columns_of(node):
        raise ExpressionError("holds no column")
    if reach(node) > MAX_REACH:
        raise ExpressionError(f"looks {reach(node)} steps back, more than {MAX_REACH}")
    return node


def columns_of(node: Node) -> list[str]:
    """Return the columns in an expression, in order of appearance."""
    if node.op == "column":
        return [str(node.value)]
    return list(dict.fromkeys(name for arg in node.args for name in columns_of(arg)))


def reach(node: Node) -> int:
    """Return how many steps before a row an expression looks back on."""
    own = int(node.value) if node.op == "lag" else int(node.value) - 1 if node.op == "rolling_mean" else 0
    return own + max((reach(arg) for arg in node.args), default=0)


def text(node: Node) -> str:
    """Write an expression so that `parse` reads the same tree."""
    if node.op == "column":
        name = str(node.value)
        return name if _is_word(name) else repr(name)
    if node.op == "number":
        return repr(node.value)
    args = [text(arg) for arg in node.args]
    if node.op == "neg":
        return f"(-{args[0]})"
    if node.op in _BINARY:
        return f"({args[0]} {node.op} {args[1]})"
    steps = [str(int(node.value))] if node.op in ("lag", "rolling_mean") else []
    return f"{node.op}({', '.join(args + steps)})"


def _is_word(name: str) -> bool:
    """Tell whether a name can stand without quotes: no keyword, and not one that Python would normalise."""
    if not name.isidentifier():
        return False
    try:
        body = ast.parse(name, mode="eval").body
    except SyntaxError:
        return False
    return isinstance(body, ast.Name) and body.id == name


def _size(node: Node) -> int:
    return 1 + sum(_size(arg) for arg in node.args)


def _depth(node: Node) -> int:
    return 1 + max((_depth(arg) for arg in node.args), default=0)


class _Reader:
    def __init__(self, known: Mapping[str, Node | str], series: bool) -> None:
        self.known, self.series = known, series

    def read(self, node: ast.expr) -> Node:
        if isinstance(node, ast.Name):
            return self.name(node.id)
        if isinstance(node, ast.Constant):
            return self.name(node.value) if isinstance(node.value, str) else self.number(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inner = self.read(node.operand)
            if isinstance(node.op, ast.UAdd):
                return inner
            return Node("number", value=-float(inner.value)) if inner.op == "number" else Node("neg", (inner,))
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return Node(_ARITHMETIC[type(node.op)], (self.read(node.left), self.read(node.right)))
        if isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
            if len(node.ops) > 1:
                raise ExpressionError(f"compares more than two values in {_shown(node)}; write (a < b) * (b < c)")
            return Node(_COMPARISONS[type(node.ops[0])], (self.read(node.left), self.read(node.comparators[0])))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self.call(node.func.id, node)
        if isinstance(node, ast.BoolOp):
            raise ExpressionError(f"holds {_shown(node)}; write a * b for 'and', max(a, b) for 'or'")
        raise ExpressionError(f"holds {_shown(node)}; known are {_GRAMMAR}")

    def name(self, name: str) -> Node:
        found = self.known.get(name)
        if isinstance(found, Node):
            return found
        if found is not None:
            raise ExpressionError(found)
        near = difflib.get_close_matches(name, [k for k, v in self.known.items() if isinstance(v, Node)], n=1)
        also = f"; did you mean '{near[0]}'?" if near else ""
        raise ExpressionError(f"names '{name}', which is neither a column nor a feature before it{also}")

    def number(self, node: ast.Constant) -> Node:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ExpressionError(f"holds {_shown(node)}; known are {_GRAMMAR}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            raise ExpressionError("holds a number that is too large")
        return Node("number", value=number)

    def call(self, name: str, node: ast.Call) -> Node:
        if name not in FUNCTIONS:
            near = difflib.get_close_matches(name, FUNCTIONS, n=1)
            also = f"; did you mean {near[0]}()?" if near else f"; known are {', '.join(FUNCTIONS)}"
            raise ExpressionError(f"calls {name}(), which is no known function{also}")
        args = [*node.args, *(k.value for k in node.keywords)]
        if any(k.arg != "k" or name not in SERIES for k in node.keywords) or any(
            isinstance(a, ast.Starred) for a in args
        ):
            raise ExpressionError(f"calls {_shown(node)}; arguments of {name}() are given by their place")
        least, most = FUNCTIONS[name]
        if not least <= len(args) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise ExpressionError(f"gives {name}() {len(args)} arguments; it takes {wanted}")
        if name in SERIES:
            return self.over_time(name, args)
        values = [self.read(arg) for arg in args]
        if name == "clip":
            return _clip(values)
        if name in ("min", "max"):
            return _fold(lambda a, b: Node(name, (a, b)), values)
        return Node(name, tuple(values))

    def over_time(self, name: str, args: list[ast.expr]) -> Node:
        if not self.series:
            raise ExpressionError(f"calls {name}(), but the rows of this table do not follow each other in time")
        inner = self.read(args[0])
        if not columns_of(inner):
            raise ExpressionError(f"calls {name}() without a column")
        k = self.read(args[1]) if len(args) == 2 else Node("number", value=1.0)
        steps = float(k.value) if k.op == "number" else math.nan
        if not steps.is_integer() or steps < 1:
            raise ExpressionError(f"calls {name}() with {_shown(args[1])} steps; it takes a whole number from 1")
        if name == "diff":
            return Node("-", (inner, Node("lag", (inner,), steps)))
        return Node(name, (inner,), steps)


def _clip(values: list[Node]) -> Node:
    inner, low, high = values
    if low.op != "number" or high.op != "number" or float(low.value) > float(high.value):
        raise ExpressionError("calls clip() with other bounds than two numbers, the lower first")
    return Node("min", (Node("max", (inner, low)), high))


def _fold(join: Callable[[Node, Node], Node], values: list[Node]) -> Node:
    found = values[0]
    for value in values[1:]:
        found = join(found, value)
    return found


def _shown(node: ast.expr) -> str:
    return f"'{ast.unparse(node)[:60]}'"
