"""The served threat detector: one ONNX graph from raw features to calibrated class probabilities, and the decision.

Feature encoding lives here because training uses the same functions: what was learned is what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core.errors import DataError, ServableError
from aiops_core.servable.folder import Driver, Servable
from aiops_core.servable.recalibration import Recalibration

#: Name of the ONNX graph: input ``X`` (n, n_features) float32, output ``probability`` (n, n_classes) float32.
GRAPH = "model"
#: The benign class.
NORMAL = "normal"
#: The category that stands for rare and unknown ones.
OTHER = "(other)"
#: How many features an explanation tries to replace: those furthest from ordinary, weighted by importance.
CANDIDATES = 6


def encode_number(value: object, feature: str = "") -> float:
    """Return a value as a float; None and NaN are missing (NaN).

    Raises
    ------
    DataError
        If the value is not a number, or infinite.
    """
    if value is None:
        return math.nan
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(f"must be a number, not {value!r}", column=feature) from None
    if math.isinf(number):
        raise DataError("must be finite; leave it out if it is not known", column=feature)
    return number


def encode_category(value: object, codes: Mapping[str, int]) -> float:
    """Return the code of a category; None and NaN are missing (NaN), a category that was not learned is `OTHER`.

    Rare categories of the training data share that code. Codes rise with the share of attacks among training rows,
    so that a tree can cut them like a number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    code = codes.get(str(value))
    return float(codes[OTHER] if code is None else code)


def expected_cost_label(
    probability: np.ndarray, *, weights: np.ndarray | None = None, costs: np.ndarray | None = None
) -> np.ndarray:
    """Return the decision of least expected cost for every row.

    Parameters
    ----------
    probability : ndarray, (n, n_classes)
    weights : ndarray, (n_classes,), optional
        Cost of missing each class, whatever is decided instead; all 1 when neither this nor ``costs`` is given.
    costs : ndarray, (n_classes, n_classes), optional
        ``costs[true, decided]``, at least 0; replaces ``weights``.

    Returns
    -------
    ndarray, (n,), int64

    Examples
    --------
    >>> import numpy as np
    >>> p = np.array([[0.8, 0.2]])
    >>> expected_cost_label(p).tolist(), expected_cost_label(p, costs=np.array([[0.0, 1.0], [9.0, 0.0]])).tolist()
    ([0], [1])
    """
    probability = np.asarray(probability, dtype=float)
    if costs is not None:
        return np.asarray((probability @ costs).argmin(axis=1), dtype=np.int64)
    gain = probability if weights is None else probability * weights
    return np.asarray(gain.argmax(axis=1), dtype=np.int64)


class ThreatServable(Servable):
    """Threat detector loaded from a servable folder.

    Attributes
    ----------
    classes : list of str
        Order of the probability columns.
    weights : ndarray, (n_classes,)
        Decision weights of the card: the cost of missing each class.
    reference : ndarray, (n_features,), float32
        Ordinary activity: the median (number) or the most frequent code (category) of benign training rows.
    """

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        super().__init__(folder, card)
        self.classes: list[str] = list(card["classes"])
        self.weights = np.asarray(card["decision"]["weights"], dtype=float)
        stored = card["decision"].get("costs")
        self.costs = None if stored is None else np.asarray(stored, dtype=float)
        self.reference = np.array([f["reference"]["ordinary"] for f in card["features"]], dtype=np.float32)
        self._normal = self.classes.index(NORMAL) if NORMAL in self.classes else None
        self._codes: list[dict[str, int] | None] = [
            {name: i for i, name in enumerate(f["categories"])} if f["dtype"] == "category" else None
            for f in card["features"]
        ]
        self._readers = list(zip(self.features, self._codes, strict=True))
        spread = np.array([f["reference"]["spread"] for f in card["features"]], dtype=np.float32)
        influence = np.array([max(float(f.get("importance", 1.0)), 0.0) for f in card["features"]], dtype=np.float32)
        # Square root: a deviation counts even where the feature matters little on average.
        self._pulls: list[float] = (np.sqrt(influence) / np.maximum(spread, 1e-9)).tolist()
        self._reaches: list[float] = np.sqrt(influence).tolist()
        self._usual: list[float] = self.reference.tolist()

    def encode(self, rows: Sequence[Mapping[str, object]]) -> np.ndarray:
        """Turn rows of named values into model input.

        Parameters
        ----------
        rows : sequence of mappings
            Feature name to value. Missing names and None become NaN, which the model was trained to meet; names
            that the card does not list are ignored; an unknown category is treated like a rare one.

        Returns
        -------
        ndarray, (n, n_features), float32

        Raises
        ------
        DataError
            Naming the feature, if a number is not a number or infinite.
        """
        out = np.empty((len(rows), len(self.features)), dtype=np.float32)
        for i, row in enumerate(rows):
            get = row.get
            out[i] = [
                encode_number(get(name), name) if codes is None else encode_category(get(name), codes)
                for name, codes in self._readers
            ]
        return out

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return calibrated class probabilities.

        Parameters
        ----------
        X : ndarray, (n, n_features), float32
            As from `encode`; NaN is missing.

        Returns
        -------
        ndarray, (n, n_classes), float64
            Rows sum to 1.
        """
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != len(self.features):
            raise ServableError(f"servable {self.folder}: input has shape {X.shape}, not (n, {len(self.features)})")
        if len(X) == 0:
            return np.zeros((0, len(self.classes)))
        out: np.ndarray = self.session(GRAPH).run(None, {"X": X})[0].astype(np.float64)
        # The ufunc itself, in place: for one row the method around it costs as much again.
        out /= np.add.reduce(out, axis=1, keepdims=True)
        return out

    def decide(self, P: np.ndarray, costs: np.ndarray | Mapping[str, Mapping[str, float]] | None = None) -> np.ndarray:
        """Return the class of least expected cost for every row.

        Parameters
        ----------
        P : ndarray, (n, n_classes)
            As from `predict`.
        costs : ndarray (n_classes, n_classes) or mapping, optional
            ``costs[true][decided]``; in a mapping a pair left out costs 1 (0 when decided rightly). By default the
            costs in the card.

        Returns
        -------
        ndarray, (n,), int64
            Index into `classes`.
        """
        matrix = self.costs if costs is None else cost_matrix(costs, self.classes)
        return expected_cost_label(P, weights=self.weights, costs=matrix)

    def recalibrated(self, record: Recalibration) -> ThreatServable:
        """See `Servable`; probabilities stay, what they are taken for changes.

        Raises
        ------
        ServableError
            If no class is called normal.
        """
        if self._normal is None:
            raise ServableError(f"servable {self.folder}: no class is called {NORMAL}, so nothing weighs against it")
        found = ThreatServable(self.folder, record.of_card(self.card, NORMAL))
        found._sessions = self._sessions
        return found

    def explain(self, x: np.ndarray, top: int = 3) -> list[Driver]:
        """Name the features behind one prediction; see `occlude`."""
        return self.occlude(x, top)[2]

    def occlude(
        self, x: np.ndarray, top: int = 3, costs: np.ndarray | None = None
    ) -> tuple[np.ndarray, int, list[Driver]]:
        """Predict one row and name the features behind it, in one run of the graph.

        The explained number is the probability of the decided class when that is an attack, else the probability
        of any attack (1 - P(normal)). Each of the few features furthest from ordinary activity is replaced by its
        ordinary value, one at a time, in one batch; missing features and ones without influence are not named.

        Parameters
        ----------
        x : ndarray, (n_features,), float32
        top : int, default 3
            Largest number of drivers.
        costs : ndarray, (n_classes, n_classes), optional
            As in `decide`; the card's by default.

        Returns
        -------
        probability : ndarray, (n_classes,), float64
            As from `predict`.
        label : int
            As from `decide`.
        drivers : list of Driver
            Strongest first. A positive contribution raised the explained number.
        """
        x = np.asarray(x, dtype=np.float32).reshape(-1)
        values = x.tolist()
        # Plain numbers: for a dozen features every numpy call would cost more than this whole loop.
        pulls = []
        for j, (value, usual) in enumerate(zip(values, self._usual, strict=True)):
            gap = abs(value - usual)
            # A missing feature has no gap (NaN); neither it nor an ordinary one is a candidate.
            if gap > 0:
                pull = self._reaches[j] if self._codes[j] is not None else gap * self._pulls[j]
                if pull > 0:
                    pulls.append((-pull, j))
        pulls.sort()
        order = [j for _, j in pulls[:CANDIDATES]]
        batch = np.empty((len(order) + 1, len(values)), dtype=np.float32)
        batch[:] = x
        for i, j in enumerate(order, start=1):
            batch[i, j] = self._usual[j]
        P = self.predict(batch)
        plain = costs is None and self.costs is None
        label = int((P[0] * self.weights).argmax()) if plain else int(self.decide(P[:1], costs)[0])
        # "Any attack" is 1 - P(normal): its change is that of P(normal), turned round.
        column, sign = (self._normal, -1.0) if label == self._normal and self._normal is not None else (label, 1.0)
        number = P[:, column].tolist()
        changes = sorted(
            ((sign * (number[0] - n), j) for j, n in zip(order, number[1:], strict=True)),
            key=lambda change: -abs(change[0]),
        )
        drivers: list[Driver] = [
            {"feature": self.features[j], "value": self._shown(j, values[j]), "contribution": change}
            for change, j in changes[:top]
            if abs(change) > 1e-6
        ]
        return P[0], label, drivers

    def golden(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replay the golden rows: ``X`` to ``probability``."""
        return {"probability": self.predict(inputs["X"])}

    def _shown(self, index: int, value: float) -> float | str:
        codes = self._codes[index]
        return value if codes is None else list(codes)[int(value)]


def cost_matrix(costs: np.ndarray | Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> np.ndarray:
    """Return ``costs[true, decided]`` as an array, checked.

    Raises
    ------
    DataError
        If a class is unknown, the shape is wrong, or a cost is negative or not finite.
    """
    n = len(classes)
    if isinstance(costs, Mapping):
        matrix = 1.0 - np.eye(n)
        position = {name: i for i, name in enumerate(classes)}
        for true, row in costs.items():
            for decided, cost in row.items():
                unknown = [name for name in (true, decided) if name not in position]
                if unknown:
                    raise DataError(f"cost matrix names class {unknown[0]!r}, which is not one of {', '.join(classes)}")
                matrix[position[true], position[decided]] = float(cost)
    else:
        matrix = np.asarray(costs, dtype=float)
    if matrix.shape != (n, n):
        raise DataError(f"cost matrix has shape {matrix.shape}, not ({n}, {n}): a row for each true class")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise DataError("cost matrix holds a negative or non-finite cost")
    return matrix
