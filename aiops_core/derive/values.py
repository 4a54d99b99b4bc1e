"""The values of derived features: one implementation for training and for services that work on arrays.

Inputs are float32, as tables and requests are; between, everything is double precision, and results are float32 again.
A result that float32 cannot hold is missing. `graph` makes an ONNX graph of the same operations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiops_core.derive.expression import ExpressionError, Node, columns_of, parse, reach, text
from aiops_core.errors import UsageError

__all__ = ["FLOAT_MAX", "Derived", "evaluate"]

FLOAT_MAX = float(np.finfo(np.float32).max)
#: Returns the values a number of steps before, NaN where there are none.
Shift = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Derived:
    """Features that are computed from the columns of a table.

    Attributes
    ----------
    names : tuple of str
    written : tuple of str
        Expressions as written; those that name earlier features are written over columns.
    nodes : tuple of Node
        Over columns only.
    """

    names: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()

    @classmethod
    def read(
        cls,
        expressions: Mapping[str, str],
        columns: Iterable[str],
        *,
        where: str,
        series: bool,
        unusable: Mapping[str, str] | None = None,
    ) -> Derived:
        """Read expressions, each of which may name the columns and the features before it.

        Parameters
        ----------
        expressions : mapping of str to str
        columns : iterable of str
            Numeric columns of the table.
        where : str
            Where the expressions stand, for messages.
        series : bool
            Whether the rows follow each other in time.
        unusable : mapping of str to str, optional
            Other columns, with the reason why they cannot be used.

        Raises
        ------
        UsageError
            Naming the feature and what is wrong with it.
        """
        known: dict[str, Node | str] = {
            **{name: f"names '{name}', {reason}" for name, reason in (unusable or {}).items()},
            **{name: Node("column", value=name) for name in columns},
        }
        taken = set(known)
        later = {name: f"names '{name}', which is not defined before it" for name in expressions if name not in taken}
        found: list[tuple[str, str, Node]] = []
        for name, written in expressions.items():
            try:
                if not name.strip():
                    raise ExpressionError("has no name")
                if name in taken:
                    raise ExpressionError("has the name of a column; give it another")
                node = parse(written, {**later, **known}, series=series)
            except ExpressionError as error:
                shown = repr(written) if len(repr(written)) <= 120 else f"{repr(written)[:117]}..."
                raise UsageError(f"{where} {name} = {shown}: {error}") from None
            # In terms of columns: an expression stands for itself wherever it is read again.
            own = all(part in taken for part in _names(written, known))
            found.append((name, written if own else text(node), node))
            known[name] = node
        return cls(*(tuple(column) for column in zip(*found, strict=True))) if found else cls()

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Derived:
        """Return the derived features of a servable's card; none where it names none."""
        expressions = {entry["name"]: entry["expression"] for entry in card.get("derived", [])}
        columns = [feature["name"] for feature in card["features"]]
        return cls.read(expressions, columns, where="card, derived", series=card["task"] != "threat")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def columns(self) -> list[str]:
        """Columns that the features need, in order of appearance."""
        return list(dict.fromkeys(name for node in self.nodes for name in columns_of(node)))

    @property
    def reach(self) -> int:
        """Steps before a row that the features look back on."""
        return max((reach(node) for node in self.nodes), default=0)

    def kept(self, names: Collection[str]) -> Derived:
        """Return the features of these names, in their order."""
        chosen = [i for i, name in enumerate(self.names) if name in names]
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            written=tuple(self.written[i] for i in chosen),
            nodes=tuple(self.nodes[i] for i in chosen),
        )

    def within(self, columns: Collection[str]) -> Derived:
        """Return the features that need no other columns than these."""
        return self.kept(
            [n for n, node in zip(self.names, self.nodes, strict=True) if {*columns_of(node)} <= {*columns}]
        )

    def over_columns(self) -> dict[str, str]:
        """Return the expressions by name, written over columns only."""
        return {name: text(node) for name, node in zip(self.names, self.nodes, strict=True)}

    def entries(self) -> list[dict[str, str]]:
        """Return ``name`` and ``expression`` of each feature, as a card lists them."""
        return [{"name": n, "expression": w} for n, w in zip(self.names, self.written, strict=True)]

    # Values of tables, series and windows ----------------------------------------------------------------------------

    def of_rows(self, values: np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """Return the features of rows: (n, n_columns) float32 to (n, n_derived) float32."""
        return self._stacked({c: values[:, columns.index(c)] for c in self.columns}, _no_shift, values.shape[:1]).T

    def of_grid(self, values: np.ndarray, columns: Sequence[str], start: np.ndarray) -> np.ndarray:
        """Return the features of series below each other on a regular grid.

        Parameters
        ----------
        values : ndarray, (n_rows, n_columns), float32
        columns : sequence of str
        start : ndarray, (n_rows,), int
            First row of the series of each row.

        Returns
        -------
        ndarray, (n_rows, n_derived), float32
        """
        row = np.arange(len(values))

        def shift(x: np.ndarray, steps: int) -> np.ndarray:
            before = row - steps
            return np.where(before >= start, x[np.maximum(before, 0)], np.nan)

        return self._stacked({c: values[:, columns.index(c)] for c in self.columns}, shift, values.shape[:1]).T

    def of_series(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the features of series of equal length, oldest step first.

        Parameters
        ----------
        columns : mapping of str to ndarray, (..., steps)

        Returns
        -------
        ndarray, (n_derived, ..., steps), float32
        """
        return self._stacked({c: columns[c] for c in self.columns}, _shift_last_axis, (0,))

    def of_windows(self, windows: np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """Return windows with the features behind their columns, without the first `reach` steps.

        Parameters
        ----------
        windows : ndarray, (n, reach + steps, n_columns), float32

        Returns
        -------
        ndarray, (n, steps, n_columns + n_derived), float32
        """
        if not self.nodes:
            return windows
        found = self.of_series({c: windows[:, :, columns.index(c)] for c in self.columns})
        return np.concatenate([windows, np.moveaxis(found, 0, -1)], axis=2)[:, self.reach :]

    def _stacked(self, columns: Mapping[str, np.ndarray], shift: Shift, shape: tuple[int, ...]) -> np.ndarray:
        single = {name: np.asarray(values, dtype=np.float32).astype(np.float64) for name, values in columns.items()}
        found = [_single(evaluate(node, single, shift)).astype(np.float32) for node in self.nodes]
        return np.stack(found) if found else np.empty((0, *shape), dtype=np.float32)


def evaluate(node: Node, columns: Mapping[str, np.ndarray], shift: Shift) -> Any:
    """Return the values of an expression, float64.

    Parameters
    ----------
    columns : mapping of str to ndarray, float64
        Of equal shape.
    shift : callable
        Given values and a number of steps, returns the values that many steps before.
    """
    if node.op == "column":
        return columns[str(node.value)]
    if node.op == "number":
        return np.float64(node.value)
    args = [evaluate(arg, columns, shift) for arg in node.args]
    if node.op == "lag":
        return shift(args[0], int(node.value))
    if node.op == "rolling_mean":
        return _rolling_mean(args[0], int(node.value), shift)
    with np.errstate(all="ignore"):
        return _OPERATIONS[node.op](*args)


def _known(a: Any, b: Any, found: Any) -> Any:
    return np.where(np.isnan(a) | np.isnan(b), np.nan, found)


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: _known(a, b, compare(a, b))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": lambda a, b: np.where(b == 0, np.nan, a / np.where(b == 0, 1.0, b)),
    "neg": np.negative,
    "min": np.minimum,
    "max": np.maximum,
    "abs": np.abs,
    "log1p": lambda x: np.where(x > -1, np.log(1.0 + x), np.nan),
    "sqrt": lambda x: np.where(x >= 0, np.sqrt(x), np.nan),
    "<": _compared(np.less),
    "<=": _compared(np.less_equal),
    ">": _compared(np.greater),
    ">=": _compared(np.greater_equal),
    "==": _compared(np.equal),
    "!=": _compared(np.not_equal),
}


def _rolling_mean(x: np.ndarray, steps: int, shift: Shift) -> np.ndarray:
    # Of single precision: their sums in double precision are exact, whatever their order, so a graph gets the same.
    x = _single(x)
    total, count = np.zeros(x.shape), np.zeros(x.shape)
    for back in range(steps):
        before = shift(x, back) if back else x
        known = ~np.isnan(before)
        total += np.where(known, before, 0.0)
        count += known
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def _single(x: np.ndarray) -> np.ndarray:
    """Round to single precision, float64; what it cannot hold becomes missing."""
    inside = np.abs(x) <= FLOAT_MAX
    return np.where(inside, np.where(inside, x, 0.0).astype(np.float32).astype(np.float64), np.nan)


def _no_shift(x: np.ndarray, steps: int) -> np.ndarray:
    raise ValueError("rows of this table do not follow each other in time")


def _shift_last_axis(x: np.ndarray, steps: int) -> np.ndarray:
    out = np.full(x.shape, np.nan)
    if steps < x.shape[-1]:
        out[..., steps:] = x[..., : x.shape[-1] - steps]
    return out


def _names(written: str, known: Mapping[str, Any]) -> list[str]:
    """Return the known names in a text that has been read."""
    import ast

    parts = ast.walk(ast.parse(written.strip(), mode="eval"))
    found = [p.id if isinstance(p, ast.Name) else p.value for p in parts if isinstance(p, (ast.Name, ast.Constant))]
    return [name for name in found if isinstance(name, str) and name in known]
