"""Threat detection: which of several classes a row of activity belongs to.

A scikit-learn random forest over raw features. Four ideas make it hold on activity it has not seen:

- *New attacks are the norm.* Where the data name campaigns (``group``), validation leaves whole groups out, beside
  rows of known groups, in equal parts. Groups count by the square root of their size, in training and validation:
  the next month will not repeat the mix of the last.
- *Missing features are a training condition.* A share of the training rows is repeated with random features masked,
  so a request that names three features of twelve gets an honest answer.
- *Probabilities are calibrated* (temperature, on out-of-fold rows), inside the exported graph.
- *Decisions follow costs.* A class weighs ``prior ** -alpha``; alpha is chosen on out-of-fold rows. A cost matrix
  replaces that, in the settings or at run time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from aiops_core import rules, servable
from aiops_core.data import tables
from aiops_core.data.splits import TEST, TRAIN
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError
from aiops_core.facts import FACTS
from aiops_core.judge import curves, intervals, metrics
from aiops_core.servable.threat import (
    GRAPH,
    NORMAL,
    OTHER,
    ThreatServable,
    cost_matrix,
    encode_category,
    expected_cost_label,
)
from aiops_core.units import unit_of

NAME = "threat"
MODEL, KIND = FACTS[NAME].model, FACTS[NAME].kind
MAIN_METRIC = "macro_f1"
OBJECTIVE = "selection"
MODE = "max"
MAX_STEPS = 4
#: What the gate compares; simple baselines by the first one only.
GATE_METRICS: tuple[str, ...] = ("macro_f1",)
#: One of these must beat the class prior.
PROBABILITY_METRICS: tuple[str, ...] = ("log_loss",)
SIMPLE_BASELINES: tuple[str, ...] = ("class_prior", "prior_draw", "rules")
STRONG_BASELINES: tuple[str, ...] = ("hist_gradient_boosting",)

#: Trees grown at each step of a trial, and of the final forest: more cost serving time and add little.
TREES_PER_STEP = 20
FINAL_TREES = 100
#: Selection is macro-F1 less this share of the log loss after calibration: macro-F1 alone jumps with single rows of
#: rare classes.
LOSS_SHARE = 0.1
#: Out-of-fold log loss must be below this share of the entropy of the class prior before decisions are weighted.
INFORMED = 0.98
#: A final forest shares its trees between this many of the best parameter sets.
BEST = 3
#: Cells of (class, group) larger than fits into this many rows are sampled; the row weights make up for it.
MAX_ROWS = 20_000
#: Folds of the out-of-fold validation. A search on more than `SMALL` rows without groups scores one fold only.
FOLDS = 3
SMALL = 3_000
#: A group counts as ``rows ** GROUP_POWER``.
GROUP_POWER = 0.5
#: Share of unseen groups among the validation rows of a class that has groups to leave out.
NOVEL_SHARE = 0.5
#: Categories rarer than this, or beyond the most frequent `MAX_CATEGORIES`, share the code of unknown ones.
MIN_CATEGORY_ROWS = 5
MAX_CATEGORIES = 200
#: Inverse regularisation of the evidence regression by the name of the choice; "none" leaves evidence out.
EVIDENCE: dict[str, float] = {"smooth": 0.001, "sharp": 0.1}
#: Rows that the regression learns from, and the resolution of evidence (steps a nat).
EVIDENCE_ROWS = 8_000
EVIDENCE_STEPS = 16.0
EVIDENCE_FLOOR = -12.0
Z_LIMIT = 5.0
#: Fewer test groups than this cannot be drawn as clusters; rows are drawn instead.
MIN_CLUSTERS = 50

Params = Mapping[str, Any]
Prediction = dict[str, np.ndarray]
Report = Callable[[int, dict[str, float]], None]


@dataclass
class ThreatData:
    """Arrays of one threat data set; every statistic comes from training rows.

    Attributes
    ----------
    X : ndarray, (n, n_features), float32
        Raw units; categories as codes; NaN is missing.
    y : ndarray, (n,), int64
        Index into ``classes``.
    part : ndarray, (n,), int8
        `TRAIN` or `TEST`. Validation is out-of-fold over training rows.
    group : ndarray, (n,), int64 or None
    classes : list of str
    features : list of dict
        As in the card.
    rows : ndarray, (n_rows,), int64
        Training rows that are learned from: all, or a sample of the large cells.
    weight : ndarray, (n_rows,), float64
        Weight of each of ``rows``, mean 1.
    group_fold, row_fold : ndarray, (n_rows,), int64
        Fold that leaves out the row's group (-1: its group is never left out), and that leaves out the row alone.
    inputs : dict of str to list of Inputs
        By kind of evidence: of the rows that each fold keeps, and last of all rows.
    costs : ndarray, (n_classes, n_classes) or None
        Cost matrix of the settings.
    oracle : ndarray, (n, n_classes) or None
    info : dict
    """

    X: np.ndarray
    y: np.ndarray
    part: np.ndarray
    group: np.ndarray | None
    classes: list[str]
    features: list[dict[str, Any]]
    rows: np.ndarray
    weight: np.ndarray
    group_fold: np.ndarray
    row_fold: np.ndarray
    inputs: dict[str, list[Inputs]]
    costs: np.ndarray | None
    oracle: np.ndarray | None
    info: dict[str, Any]

    def summary(self) -> pd.DataFrame:
        """Return rows and groups of each class by part, for a notebook."""
        out = pd.DataFrame(index=pd.Index(self.classes, name="class"))
        for name, code in (("train", TRAIN), ("test", TEST)):
            chosen = self.part == code
            out[f"{name}_rows"] = np.bincount(self.y[chosen], minlength=len(self.classes))
            if self.group is not None:
                pairs = np.unique(np.c_[self.y[chosen], self.group[chosen]], axis=0)
                out[f"{name}_groups"] = np.bincount(pairs[:, 0], minlength=len(self.classes))
        return out

    def truth(self, part: str) -> np.ndarray:
        """Return the class index of each row of a part; ``validation`` are the training rows learned from."""
        return np.asarray(self.y[self.index(part)])

    def index(self, part: str) -> np.ndarray:
        """Return the row numbers of a part, in the order of its predictions."""
        if part == "test":
            return np.flatnonzero(self.part == TEST)
        return self.rows if part == "validation" else np.flatnonzero(self.part == TRAIN)


@dataclass
class ThreatModel:
    """A forest with its calibration and decision.

    Attributes
    ----------
    forest : RandomForestClassifier
        Over the expanded features of `Inputs`; knows every class.
    inputs : Inputs
    temperature, floor : float
        Probability is ``softmax((log(votes + floor) + offset) / temperature)``.
    offset : ndarray, (n_classes,)
        Undoes the class balancing of training.
    prior : ndarray, (n_classes,)
        Weighted class shares of the training rows.
    alpha : float
        Decision weights are ``prior ** -alpha``.
    validation : dict
        Out-of-fold ``probability`` (m, n_classes), ``label``, ``row`` (row number), ``weight`` and ``novel`` (whether
        the row's whole group was left out).
    params : list of dict
        Parameter sets in the forest, best first.
    """

    forest: RandomForestClassifier
    inputs: Inputs
    temperature: float
    floor: float
    offset: np.ndarray
    prior: np.ndarray
    alpha: float
    validation: dict[str, np.ndarray]
    params: list[dict[str, Any]]
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> np.ndarray:
        """Decision weights, (n_classes,), mean 1: the cost of missing each class."""
        return _decision_weights(self.prior, self.alpha)

    def calibrated(self, votes: np.ndarray) -> np.ndarray:
        """Return probabilities (n, n_classes) from the forest's mean votes."""
        return _calibrate(votes, self.offset, self.temperature, self.floor)


@dataclass
class Inputs:
    """What stands between raw features and the forest; the exported graph holds the same operations.

    Missing values are filled and get indicator columns (a forest's own treatment of NaN converts wrongly). The
    *evidence* columns are the log-probabilities of a multinomial logistic regression on tamed features
    (``asinh``), their squares and missing flags: a sum of many weak hints, which trees can only approximate.

    Attributes
    ----------
    fill : ndarray, (n_features,), float32
        Training median, or most frequent code.
    flagged : ndarray, (k,), int64
        Features that get an indicator column.
    scale, mean, std : ndarray, (n_features,), float32
        Tamed value: ``(asinh((x - fill) / scale) - mean) / std``, clipped to `Z_LIMIT`, 0 where missing.
    coefficients : ndarray, (3 * n_features, n_classes), float32
    intercept : ndarray, (n_classes,), float32
    """

    fill: np.ndarray
    flagged: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray

    @property
    def width(self) -> int:
        """Number of columns of `expand`."""
        return len(self.fill) + len(self.flagged) + 1 + len(self.intercept)

    def expand(self, X: np.ndarray) -> np.ndarray:
        """Return (n, width) float32: filled features, indicators, count of missing features, evidence."""
        missing = np.isnan(X)
        flags = missing.astype(np.float32)
        filled = np.where(missing, self.fill, X)
        plain = [filled, flags[:, self.flagged], flags.sum(axis=1, keepdims=True)]
        if len(self.intercept) == 0:
            return np.concatenate(plain, axis=1)
        logits = self.hints(filled, flags) @ self.coefficients + self.intercept
        logits = logits - logits.max(axis=1, keepdims=True)
        evidence = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        # Coarse steps: the last bit of a matrix product differs between runtimes and must not flip a split.
        evidence = np.rint(np.maximum(evidence, np.float32(EVIDENCE_FLOOR)) * np.float32(EVIDENCE_STEPS))
        return np.concatenate([*plain, evidence], axis=1)

    def without_evidence(self) -> Inputs:
        """Return a copy whose `expand` leaves the evidence columns out."""
        return replace(self, coefficients=self.coefficients[:, :0], intercept=self.intercept[:0])

    def hints(self, filled: np.ndarray, flags: np.ndarray) -> np.ndarray:
        """Return the inputs of the logistic regression, (n, 3 * n_features) float32."""
        tamed = (np.arcsinh((filled - self.fill) / self.scale) - self.mean) / self.std
        tamed = np.clip(tamed, -Z_LIMIT, Z_LIMIT) * (1 - flags)
        return np.concatenate([tamed, tamed * tamed, flags], axis=1)


# Data ----------------------------------------------------------------------------------------------------------


def prepare(dataset: Dataset, *, seed: int) -> ThreatData:
    """Split and encode the activity table.

    Parameters
    ----------
    dataset : Dataset
        With the table ``activity``; its config may hold ``test_fraction`` and ``costs`` (``{true: {decided: cost}}``).
    seed : int
        Fixes split, folds and sample.

    Returns
    -------
    ThreatData

    Notes
    -----
    The test part is the official split; else whole groups; else a stratified share. A group is divided by rows only
    when it is all of its class and holds nothing else: otherwise the class could not be both learned and tested.
    """
    frame = dataset.tables["activity"]
    config = dataset.config.get(NAME, {})
    rng = np.random.default_rng([seed, 3])
    classes = sorted(frame["threat_type"].unique(), key=lambda name: (name != NORMAL, name))
    position = {name: i for i, name in enumerate(classes)}
    y = frame["threat_type"].map(position).to_numpy(dtype=np.int64)
    group, group_names = None, None
    if "group" in frame.columns:
        codes, names = pd.factorize(frame["group"], sort=True)
        group, group_names = codes.astype(np.int64), [str(name) for name in names]
    fraction = float(config.get("test_fraction", 0.3))
    if "split" in frame.columns:
        test = (frame["split"] == "test").to_numpy()
        split = "official split"
    elif group is not None:
        test = _share_fold(y, group, fraction, rng)
        split = f"{fraction:.0%} of every class by whole groups for test"
    else:
        test = _share_fold(y, None, fraction, rng)
        split = f"{fraction:.0%} of every class at random for test (stratified)"
    part = np.where(test, TEST, TRAIN).astype(np.int8)
    train = np.flatnonzero(~test)
    if len(np.unique(y[train])) < 2:
        raise DataError("training rows hold one class only", table="activity", column="threat_type")

    group_train = None if group is None else group[train]
    sampled, weight = _sample(y[train], group_train, rng)
    rows = train[sampled]
    group_fold, row_fold = _folds(y[rows], None if group is None else group[rows], rng)
    grouped = bool((group_fold >= 0).any())

    features, X, dropped = _encode_table(frame, train, rows, weight, y, classes)
    split += (
        f"; validation out of fold on training rows: {FOLDS} folds leave out whole groups, and rows of known ones"
        if grouped
        else f"; validation out of fold on training rows, {FOLDS} stratified folds"
    )
    oracle = None
    if dataset.oracles.get(NAME) is not None:
        oracle = dataset.oracles[NAME].reindex(columns=classes).fillna(0.0).to_numpy(dtype=float)
    costs = config.get("costs")
    shares = np.bincount(y, minlength=len(classes)) / len(y)
    info = {
        "rows": len(y),
        "train_rows": len(train),
        "validation_rows": len(rows),
        "test_rows": int(test.sum()),
        "split": split,
        "features": [feature["name"] for feature in features],
        "left_out": dropped,
        "classes": classes,
        "class_shares": {name: float(share) for name, share in zip(classes, shares, strict=True)},
        "groups": None if group_names is None else len(group_names),
        "group_names": group_names,
        "sampled_rows": len(rows),
        "missing_share": float(np.isnan(X).mean()),
    }
    data = ThreatData(
        X=X,
        y=y,
        part=part,
        group=group,
        classes=classes,
        features=features,
        rows=rows,
        weight=weight,
        group_fold=group_fold,
        row_fold=row_fold,
        inputs={},
        costs=None if costs is None else cost_matrix(costs, classes),
        oracle=oracle,
        info=info,
    )
    kept = [(group_fold != fold) & (row_fold != fold) for fold in range(FOLDS)]
    for name, strength in EVIDENCE.items():
        data.inputs[name] = [_inputs(data, some, strength, seed) for some in [*kept, np.ones(len(rows), dtype=bool)]]
    return data


def _divisible(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Tell for each row whether its group may be divided: pure, and the only one of its class."""
    pairs = np.unique(np.c_[y, group], axis=0)
    groups_of_class = np.bincount(pairs[:, 0], minlength=int(y.max()) + 1)
    classes_of_group = np.bincount(pairs[:, 1], minlength=int(group.max()) + 1)
    return np.asarray((groups_of_class[y] == 1) & (classes_of_group[group] == 1))


def _leading_class(y: np.ndarray, group: np.ndarray) -> dict[int, np.ndarray]:
    """Return the groups of each class, a group belonging to its rarest class: rare classes are dealt out first."""
    size = np.bincount(y)
    rarest: dict[int, int] = {}
    for label, name in np.unique(np.c_[y, group], axis=0):
        if name not in rarest or size[label] < size[rarest[name]]:
            rarest[int(name)] = int(label)
    out: dict[int, list[int]] = {}
    for name, label in rarest.items():
        out.setdefault(label, []).append(name)
    return {label: np.array(sorted(names)) for label, names in out.items()}


def _share_fold(y: np.ndarray, group: np.ndarray | None, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Hold out about ``fraction`` of every class: whole groups where there are groups, else rows."""
    held = np.zeros(len(y), dtype=bool)
    by_row = np.ones(len(y), dtype=bool) if group is None else _divisible(y, group)
    if group is not None:
        rows_of = np.bincount(group)
        for names in _leading_class(y[~by_row], group[~by_row]).values() if (~by_row).any() else []:
            # One group of a class stays in training, whatever its size.
            order = rng.permutation(names)
            before = np.cumsum(rows_of[order]) - rows_of[order]
            taken = before + rows_of[order] / 2 <= fraction * rows_of[order].sum()
            taken[0] = len(order) > 1
            taken[-1] = False
            held |= np.isin(group, order[taken])
    for label in np.unique(y[by_row]):
        members = np.flatnonzero(by_row & (y == label))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held


def _folds(y: np.ndarray, group: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    group_fold = np.full(len(y), -1, dtype=np.int64)
    if group is not None:
        whole = ~_divisible(y, group)
        if whole.any():
            fold_of = np.full(int(group.max()) + 1, -1, dtype=np.int64)
            for names in _leading_class(y[whole], group[whole]).values():
                start = int(rng.integers(FOLDS))
                if len(names) > 1:
                    fold_of[rng.permutation(names)] = (start + np.arange(len(names))) % FOLDS
            group_fold = np.where(whole, fold_of[group], -1)
    # With groups, only half of the row folds is ever left out: training sets stay large.
    row_folds = FOLDS * 2 if (group_fold >= 0).any() else FOLDS
    row_fold = np.zeros(len(y), dtype=np.int64)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        row_fold[rng.permutation(members)] = (int(rng.integers(row_folds)) + np.arange(len(members))) % row_folds
    return group_fold, row_fold


def _sample(y: np.ndarray, group: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to learn from and weigh them, so that large cells are seen in part and small ones whole."""
    key = y if group is None else y * (int(group.max()) + 1) + group
    _, cell, size = np.unique(key, return_inverse=True, return_counts=True)
    cap = _water_level(size, MAX_ROWS)
    order = rng.permutation(len(y))
    by_cell = order[np.argsort(cell[order], kind="stable")]
    rank = np.arange(len(y)) - np.repeat(np.cumsum(size) - size, size)
    chosen = np.sort(by_cell[rank < np.repeat(cap, size)])
    power = 1.0 if group is None else GROUP_POWER
    weight = (size**power / np.minimum(size, cap))[cell[chosen]]
    return chosen, weight / weight.mean()


def _water_level(size: np.ndarray, total: int) -> np.ndarray:
    """Return the largest equal cap of each cell with at most ``total`` rows in all."""
    if size.sum() <= total:
        return size
    low, high = 1, int(size.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(size, middle).sum() <= total else (low, middle - 1)
    return np.asarray(np.minimum(size, low))


def _encode_table(
    frame: pd.DataFrame, train: np.ndarray, rows: np.ndarray, weight: np.ndarray, y: np.ndarray, classes: list[str]
) -> tuple[list[dict[str, Any]], np.ndarray, list[str]]:
    """Return the feature descriptions, X and the columns left out, with the reason."""
    features: list[dict[str, Any]] = []
    columns: list[np.ndarray] = []
    dropped: list[str] = []
    attack = (y[rows] != classes.index(NORMAL)) if NORMAL in classes else (y[rows] != np.bincount(y[train]).argmax())
    benign = train[y[train] == classes.index(NORMAL)] if NORMAL in classes else train
    benign = benign if len(benign) else train
    for name in tables.feature_columns("activity", frame):
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            values = column.to_numpy(dtype=np.float32, na_value=np.nan)
            known = values[train][~np.isnan(values[train])]
            if len(known) == 0 or known.min() == known.max():
                dropped.append(f"{name} (constant in training)")
                continue
            reference = _reference(values, train, benign)
            unit = unit_of(name, reference["max"])
            features.append({"name": name, "unit": unit, "dtype": "number", "reference": reference})
        elif pd.api.types.is_datetime64_any_dtype(column):
            dropped.append(f"{name} (a date)")
            continue
        else:
            categories = _categories(column, train, rows, weight, attack)
            if len(categories) < 2:
                dropped.append(f"{name} (no category with {MIN_CATEGORY_ROWS} training rows, or one only)")
                continue
            codes = {category: i for i, category in enumerate(categories)}
            unique = {value: encode_category(value, codes) for value in column.dropna().unique()}
            values = column.map(unique).to_numpy(dtype=np.float32, na_value=np.nan)
            features.append(
                {
                    "name": name,
                    "unit": "",
                    "dtype": "category",
                    "categories": categories,
                    "reference": _reference(values, train, benign, category=True),
                }
            )
        columns.append(values)
    if not features:
        raise DataError("has no feature that varies in the training rows", table="activity")
    return features, np.stack(columns, axis=1), dropped


def _categories(
    column: pd.Series, train: np.ndarray, rows: np.ndarray, weight: np.ndarray, attack: np.ndarray
) -> list[str]:
    """Return the categories by rising share of attacks, `OTHER` among them."""
    counts = column.iloc[train].dropna().astype(str).value_counts()
    kept = sorted(counts[counts >= MIN_CATEGORY_ROWS].index[:MAX_CATEGORIES])
    if not kept or (len(kept) == 1 and len(counts) == 1):
        return []
    text = column.iloc[rows]
    text = text.where(text.isna(), text.astype(str))
    text = text.where(text.isna() | text.isin(kept), OTHER)
    total = pd.Series(weight).groupby(text.to_numpy(dtype=object)).sum()
    hits = pd.Series(weight * attack).groupby(text.to_numpy(dtype=object)).sum()
    # One pseudo-row of the overall share, so that a category of few rows does not go to an end by chance.
    overall = float((weight * attack).sum() / weight.sum())
    share = {name: (hits.get(name, 0.0) + overall) / (total.get(name, 0.0) + 1.0) for name in [*kept, OTHER]}
    return sorted(share, key=lambda name: (share[name], name))


def _reference(values: np.ndarray, train: np.ndarray, benign: np.ndarray, category: bool = False) -> dict[str, float]:
    seen = values[train].astype(float)
    seen = seen[~np.isnan(seen)]
    ordinary = values[benign].astype(float)
    ordinary = ordinary[~np.isnan(ordinary)]
    ordinary = ordinary if len(ordinary) else seen
    if category:
        middle, usual = (float(np.bincount(v.astype(np.int64)).argmax()) for v in (seen, ordinary))
    else:
        middle, usual = float(np.median(seen)), float(np.median(ordinary))
    p01, p99 = np.percentile(seen, [1, 99])
    spread = float(p99 - p01) or float(seen.std()) or 1.0
    return {
        "median": middle,
        "p01": float(p01),
        "p99": float(p99),
        "min": float(seen.min()),
        "max": float(seen.max()),
        "mean": float(seen.mean()),
        "std": float(seen.std()),
        "ordinary": usual,
        "spread": spread,
    }


# Search --------------------------------------------------------------------------------------------------------


def space(data: ThreatData) -> dict[str, BaseDistribution]:
    """Return the search space of the forest."""
    return {
        "max_features": FloatDistribution(0.1, 0.7),
        "min_samples_leaf": IntDistribution(1, 8, log=True),
        "max_depth": IntDistribution(8, 18),
        "max_samples": FloatDistribution(0.4, 1.0),
        "criterion": CategoricalDistribution(["gini", "entropy"]),
        "balance": FloatDistribution(0.0, 0.8),
        "mask_share": FloatDistribution(0.1, 0.5),
        "evidence": CategoricalDistribution(["none", *EVIDENCE]),
    }


def defaults(data: ThreatData) -> list[dict[str, Any]]:
    """Return the points tried first."""
    base = {
        "max_features": 0.4,
        "min_samples_leaf": 2,
        "max_depth": 14,
        "max_samples": 0.9,
        "criterion": "gini",
        "balance": 0.1,
        "mask_share": 0.25,
    }
    return [
        {**base, "evidence": "none"},
        {**base, "evidence": "sharp", "min_samples_leaf": 4},
        {**base, "evidence": "smooth", "criterion": "entropy", "max_features": 0.25, "balance": 0.25},
    ]


def fit(params: Params, data: ThreatData, *, seed: int, report: Report | None = None) -> ThreatModel:
    """Grow one forest for each fold, step by step, and score the rows they did not see.

    Parameters
    ----------
    params : mapping
        A point of `space`.
    data : ThreatData
    seed : int
    report : callable, optional
        Called after each of `MAX_STEPS` steps with ``selection``, ``macro_f1``, ``accuracy`` and ``log_loss`` of the
        validation rows, weighted as described in the module; may raise to stop.

    Returns
    -------
    ThreatModel
        The first fold's forest; `finish` fits on all rows.
    """
    folds = FOLDS if (data.group_fold >= 0).any() or len(data.rows) <= SMALL else 1
    held = _held_out(data, folds)
    forests, votes = _cross_fit(params, data, held, seed=seed, steps=MAX_STEPS, report=report)
    return _assemble([dict(params)], data, forests[:1], held, votes, _inputs_for(params, data, 0))


def finish(ranked: list[dict[str, Any]], data: ThreatData, *, seed: int) -> ThreatModel:
    """Fit the final forest on all training rows: its trees are shared between the best `BEST` parameter sets.

    Calibration and decision weights come from the out-of-fold rows of all folds.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets of the search, best first.
    data : ThreatData
    seed : int

    Returns
    -------
    ThreatModel
    """
    # One forest has one balance: votes of differently balanced trees cannot be averaged.
    # And one forest has one set of input columns.
    shared = {name: ranked[0][name] for name in ("balance", "evidence")}
    chosen = [{**params, **shared} for params in ranked[:BEST]]
    counts = [len(part) for part in np.array_split(np.arange(FINAL_TREES), len(chosen))]
    held = _held_out(data, FOLDS)
    votes = np.zeros((len(held.row), len(data.classes)))
    inputs = _inputs_for(chosen[0], data, -1)
    forests: list[RandomForestClassifier] = []
    for i, (params, trees) in enumerate(zip(chosen, counts, strict=True)):
        # A few trees of each set suffice for the votes that calibrate the whole.
        _, some = _cross_fit(params, data, held, seed=seed + i, steps=max(1, MAX_STEPS // len(chosen) - 1))
        votes += some / len(chosen)
        rows, X, weight = _training_rows(params, data, np.ones(len(data.rows), dtype=bool), seed + i)
        forest = _forest(params, seed + i).set_params(n_estimators=trees)
        forests.append(_grow(forest, inputs.expand(X), data.y[data.rows[rows]], weight, len(data.classes)))
    return _assemble(chosen, data, forests, held, votes, inputs)


@dataclass(frozen=True)
class _Held:
    """Validation entries: which row is scored by which fold's forest. A row may occur as unseen and as known group."""

    row: np.ndarray  # position in ThreatData.rows
    fold: np.ndarray
    novel: np.ndarray  # True: its whole group was left out
    weight: np.ndarray
    folds: int


def _held_out(data: ThreatData, folds: int) -> _Held:
    row_folds = FOLDS * 2 if (data.group_fold >= 0).any() else FOLDS
    grouped = data.group_fold >= 0
    # A row of a group can be scored as known in every fold but that which leaves its group out.
    known_weight = data.weight * np.where(grouped, (1 - NOVEL_SHARE) * row_folds / (FOLDS - 1), row_folds / FOLDS)
    pieces = []
    for fold in range(folds):
        novel = np.flatnonzero(data.group_fold == fold)
        known = np.flatnonzero((data.row_fold == fold) & (data.group_fold != fold))
        pieces.append((novel, np.full(len(novel), fold), np.ones(len(novel), bool), data.weight[novel] * NOVEL_SHARE))
        pieces.append((known, np.full(len(known), fold), np.zeros(len(known), bool), known_weight[known]))
    row, fold_of, is_novel, weight = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return _Held(row, fold_of, is_novel, weight / weight.mean(), folds)


def _inputs(data: ThreatData, chosen: np.ndarray, strength: float, seed: int) -> Inputs:
    """Fit the inputs of the forest on the chosen rows."""
    n_features, n_classes = len(data.features), len(data.classes)
    rows, X, weight = _training_rows({"mask_share": 0.5, "balance": 0.0}, data, chosen, seed)
    if len(rows) > EVIDENCE_ROWS:
        some = np.random.default_rng([seed, 23]).permutation(len(rows))[:EVIDENCE_ROWS]
        rows, X, weight = rows[some], X[some], weight[some]
    y = data.y[data.rows[rows]]
    fill = np.array([feature["reference"]["median"] for feature in data.features], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        gap = np.abs(X - fill)
    scale = np.array([_typical(gap[:, j]) for j in range(n_features)], dtype=np.float32)
    tamed = np.arcsinh((X - fill) / scale)
    inputs = Inputs(
        fill=fill,
        flagged=np.flatnonzero(np.isnan(data.X[data.rows]).any(axis=0)),
        scale=scale,
        mean=np.array([_finite_mean(tamed[:, j]) for j in range(n_features)], dtype=np.float32),
        std=np.array([_typical_std(tamed[:, j]) for j in range(n_features)], dtype=np.float32),
        coefficients=np.zeros((3 * n_features, n_classes), dtype=np.float32),
        intercept=np.zeros(n_classes, dtype=np.float32),
    )
    missing = np.isnan(X)
    hints = inputs.hints(np.where(missing, fill, X), missing.astype(np.float32))
    with warnings.catch_warnings():
        # Stopping early is wanted here: it regularises, and the forest corrects what is left.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression = LogisticRegression(C=strength, max_iter=60, tol=1e-3).fit(hints, y, sample_weight=weight)
    coefficients, intercept = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:
        coefficients, intercept = np.r_[-coefficients, coefficients] / 2, np.r_[-intercept, intercept] / 2
    inputs.coefficients[:, regression.classes_] = coefficients.T
    inputs.intercept[:] = EVIDENCE_FLOOR
    inputs.intercept[regression.classes_] = intercept
    return inputs


def _inputs_for(params: Params, data: ThreatData, fold: int) -> Inputs:
    """Return the inputs of a fold (-1: all rows), with evidence columns if the parameters ask for them."""
    if params["evidence"] == "none":
        return next(iter(data.inputs.values()))[fold].without_evidence()
    return data.inputs[params["evidence"]][fold]


def _typical(gap: np.ndarray) -> float:
    """Return the median of known positive gaps, 1 if there is none."""
    known = gap[gap > 0]
    return float(np.median(known)) if len(known) else 1.0


def _finite_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _typical_std(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return max(float(known.std()), 1e-3) if len(known) else 1.0


def _prior(data: ThreatData) -> np.ndarray:
    """Weighted class shares of the training rows, (n_classes,), with half a row added to each class."""
    share = np.bincount(data.y[data.rows], weights=data.weight, minlength=len(data.classes)) + 0.5
    return np.asarray(share / share.sum())


def _training_rows(
    params: Params, data: ThreatData, chosen: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, X and weights of the chosen rows and of their copies with masked features."""
    rng = np.random.default_rng([seed, 17])
    copied = rng.random(len(data.rows)) < float(params["mask_share"])
    rate = rng.uniform(0.1, 0.9, size=(len(data.rows), 1))
    mask = rng.random((len(data.rows), data.X.shape[1])) < rate
    whole, copies = np.flatnonzero(chosen), np.flatnonzero(chosen & copied)
    masked = np.where(mask[copies], np.float32(np.nan), data.X[data.rows[copies]])
    rows = np.concatenate([whole, copies])
    balance = _prior(data) ** -float(params["balance"])
    weight = data.weight[rows] * balance[data.y[data.rows[rows]]]
    return rows, np.concatenate([data.X[data.rows[whole]], masked]), weight / weight.mean()


def _forest(params: Params, seed: int) -> RandomForestClassifier:
    return RandomForestClassifier(
        n_estimators=TREES_PER_STEP,
        criterion=params["criterion"],
        max_features=float(params["max_features"]),
        min_samples_leaf=int(params["min_samples_leaf"]),
        max_depth=int(params["max_depth"]),
        max_samples=float(params["max_samples"]),
        warm_start=True,
        n_jobs=1,
        random_state=seed,
    )


def _grow(
    forest: RandomForestClassifier, Z: np.ndarray, y: np.ndarray, weight: np.ndarray, n_classes: int
) -> RandomForestClassifier:
    """Fit on expanded rows; classes without a row enter with weight 0, so that every forest has the same columns."""
    absent = np.setdiff1d(np.arange(n_classes), y)
    if len(absent):
        Z = np.concatenate([Z, np.repeat(Z[:1], len(absent), axis=0)])
        y, weight = np.r_[y, absent], np.r_[weight, np.zeros(len(absent))]
    return forest.fit(Z, y, sample_weight=weight)


def _cross_fit(
    params: Params, data: ThreatData, held: _Held, *, seed: int, steps: int, report: Report | None = None
) -> tuple[list[RandomForestClassifier], np.ndarray]:
    """Grow the folds' forests together; return them and the votes (n_entries, n_classes) of rows they did not see."""
    n_classes = len(data.classes)
    X_held, truth = data.X[data.rows[held.row]], data.y[data.rows[held.row]]
    forests, training, unseen = [], [], []
    for fold in range(held.folds):
        chosen = (data.group_fold != fold) & (data.row_fold != fold)
        rows, X, weight = _training_rows(params, data, chosen, seed)
        inputs, mine = _inputs_for(params, data, fold), held.fold == fold
        training.append((inputs.expand(X), data.y[data.rows[rows]], weight))
        unseen.append((mine, inputs.expand(X_held[mine])))
        forests.append(_forest(params, seed + 100 * fold))
    total = np.zeros((len(held.row), n_classes))
    for step in range(1, steps + 1):
        for fold, forest in enumerate(forests):
            forest.set_params(n_estimators=TREES_PER_STEP * step)
            _grow(forest, *training[fold], n_classes)
            mine, Z = unseen[fold]
            for tree in forest.estimators_[TREES_PER_STEP * (step - 1) :]:
                total[mine] += tree.predict_proba(Z)
        if report is not None:
            votes = total / (TREES_PER_STEP * step)
            report(step, _validation_scores(params, data, truth, held.weight, votes))
    return forests, total / (TREES_PER_STEP * steps)


def _validation_scores(
    params: Params, data: ThreatData, truth: np.ndarray, weight: np.ndarray, votes: np.ndarray
) -> dict[str, float]:
    prior = _prior(data)
    offset = float(params["balance"]) * np.log(prior)
    temperature, floor = _fit_calibration(votes, offset, truth, weight, floors=(1e-3,), temperatures=9)
    probability = _calibrate(votes, offset, temperature, floor)
    _, macro_f1 = _choose_alpha(truth, probability, weight, prior)
    hit = probability.argmax(axis=1) == truth
    losses = -np.log(probability[np.arange(len(truth)), truth])
    log_loss = float(np.average(losses, weights=weight))
    return {
        "selection": macro_f1 - LOSS_SHARE * log_loss,
        "macro_f1": macro_f1,
        "accuracy": float(np.average(hit, weights=weight)),
        "log_loss": log_loss,
    }


# Calibration and decision --------------------------------------------------------------------------------------


def _calibrate(votes: np.ndarray, offset: np.ndarray, temperature: float, floor: float) -> np.ndarray:
    return curves.apply_temperature(np.log(votes + floor) + offset, temperature)


def _fit_calibration(
    votes: np.ndarray,
    offset: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
    floors: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2),
    temperatures: int = 41,
) -> tuple[float, float]:
    """Return temperature and floor of least weighted log loss on out-of-fold votes."""
    best, found = np.inf, (1.0, 1e-3)
    rows = np.arange(len(truth))
    for floor in floors:
        logits = np.log(votes + floor) + offset
        for temperature in np.geomspace(0.3, 3.0, temperatures):
            probability = curves.apply_temperature(logits, float(temperature))[rows, truth]
            loss = float(np.average(-np.log(np.maximum(probability, 1e-12)), weights=weight))
            if loss < best:
                best, found = loss, (float(temperature), floor)
    return found


def _decision_weights(prior: np.ndarray, alpha: float) -> np.ndarray:
    weights = prior**-alpha
    return np.asarray(weights / weights.mean())


def _weighted_macro_f1(truth: np.ndarray, label: np.ndarray, weight: np.ndarray, n_classes: int) -> float:
    cells = np.bincount(truth * n_classes + label, weights=weight, minlength=n_classes**2)
    confusion = cells.reshape(n_classes, n_classes)
    size = confusion.sum(axis=0) + confusion.sum(axis=1)
    some = size > 0
    return float(np.mean(2 * np.diag(confusion)[some] / size[some]))


def _choose_alpha(
    truth: np.ndarray, probability: np.ndarray, weight: np.ndarray, prior: np.ndarray
) -> tuple[float, float]:
    """Return the exponent of the prior in the decision weights, in [0, 1], and the macro-F1 it reaches.

    The curve is smoothed over neighbouring exponents, because a single point of it is noisy where classes are rare.
    """
    alphas = np.linspace(0.0, 1.0, 21)
    scores = np.array(
        [
            _weighted_macro_f1(truth, (probability * _decision_weights(prior, a)).argmax(axis=1), weight, len(prior))
            for a in alphas
        ]
    )
    padded = np.pad(scores, 2, mode="edge")
    smooth = np.convolve(padded, np.full(5, 0.2), mode="valid")
    best = int(smooth.argmax())
    return float(alphas[best]), float(smooth[best])


def _assemble(
    params: list[dict[str, Any]],
    data: ThreatData,
    forests: list[RandomForestClassifier],
    held: _Held,
    votes: np.ndarray,
    inputs: Inputs,
) -> ThreatModel:
    prior = _prior(data)
    offset = float(params[0]["balance"]) * np.log(prior)
    truth = data.y[data.rows[held.row]]
    temperature, floor = _fit_calibration(votes, offset, truth, held.weight)
    probability = _calibrate(votes, offset, temperature, floor)
    alpha, macro_f1 = _choose_alpha(truth, probability, held.weight, prior)
    loss = float(np.average(-np.log(probability[np.arange(len(truth)), truth]), weights=held.weight))
    if loss > INFORMED * float(-(prior * np.log(prior)).sum()):
        # Nothing was learned. Weights would spread guesses over the classes, which macro-F1 takes for skill.
        alpha = 0.0
    label = expected_cost_label(probability, weights=_decision_weights(prior, alpha), costs=data.costs)
    return ThreatModel(
        forest=_merge(forests),
        inputs=inputs,
        temperature=temperature,
        floor=floor,
        offset=offset,
        prior=prior,
        alpha=alpha,
        validation={
            "probability": probability,
            "label": label,
            "row": data.rows[held.row],
            "weight": held.weight,
            "novel": held.novel,
        },
        params=params,
        scores={"macro_f1": macro_f1},
    )


def _merge(forests: list[RandomForestClassifier]) -> RandomForestClassifier:
    """Return one forest with the trees of all; they were fitted with the same columns and classes."""
    whole = forests[0]
    whole.estimators_ = [tree for forest in forests for tree in forest.estimators_]
    whole.n_estimators = len(whole.estimators_)
    return whole


def predict(model: ThreatModel, data: ThreatData, part: str) -> Prediction:
    """Predict a part with the native model.

    Parameters
    ----------
    part : {"train", "validation", "test"}
        ``validation`` returns the stored out-of-fold prediction and, as ``row``, the row numbers it belongs to.

    Returns
    -------
    dict
        ``probability`` (n, n_classes) and ``label`` (n,) int.
    """
    if part == "validation":
        return {name: model.validation[name] for name in ("probability", "label", "row")}
    votes = model.forest.predict_proba(model.inputs.expand(data.X[data.index(part)]))
    probability = model.calibrated(votes)
    return {
        "probability": probability,
        "label": expected_cost_label(probability, weights=model.weights, costs=data.costs),
    }


# Export --------------------------------------------------------------------------------------------------------


def export(model: ThreatModel, data: ThreatData, folder: str | Path) -> None:
    """Write the servable: one graph from raw features to calibrated probabilities, the card and golden examples."""
    graph = _graph(model)
    golden = _golden_rows(data)
    probability = model.calibrated(model.forest.predict_proba(model.inputs.expand(golden)))
    importance = _importance(graph, data)
    features = [
        {**feature, "importance": value} for feature, value in zip(data.features, importance.tolist(), strict=True)
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
        "task": NAME,
        "model": MODEL,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "features": features,
        "classes": data.classes,
        "decision": decision,
        "calibration": {
            "method": "temperature",
            "temperature": model.temperature,
            "floor": model.floor,
            "parameters": {"temperature": model.temperature, "floor": model.floor, "offset": model.offset.tolist()},
        },
        "prior": model.prior.tolist(),
        "missing": "filled with the training median inside the graph, with indicators; trained with masked features",
        "params": model.params,
        "trees": len(model.forest.estimators_),
        "validation": model.scores,
    }
    servable.write(folder, card, {GRAPH: graph}, {"X": golden, "expected_probability": probability})


def _graph(model: ThreatModel) -> bytes:
    """Return the ONNX model: ``X`` (n, n_features) float32, NaN allowed, to ``probability`` (n, n_classes)."""
    import skl2onnx
    from onnx import TensorProto, checker, helper, numpy_helper
    from skl2onnx.common.data_types import FloatTensorType

    inputs = model.inputs
    n_features = len(inputs.fill)
    forest = skl2onnx.to_onnx(
        model.forest,
        initial_types=[("expanded", FloatTensorType([None, inputs.width]))],
        options={id(model.forest): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    votes = forest.graph.output[1].name

    def constant(name: str, value: np.ndarray) -> Any:
        return numpy_helper.from_array(value, name)

    before = [
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Where", ["missing", "fill", "X"], ["filled"]),
        helper.make_node("Cast", ["missing"], ["flags"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["flags", "axis"], ["count"], keepdims=1),
    ]
    pieces = ["filled", "count"]
    initializers = [
        constant("fill", inputs.fill[None, :]),
        constant("axis", np.array([1], dtype=np.int64)),
        constant("floor", np.array([model.floor], dtype=np.float32)),
        constant("offset", model.offset.astype(np.float32)[None, :]),
        constant("temperature", np.array([model.temperature], dtype=np.float32)),
    ]
    if len(inputs.intercept):
        before += [
            helper.make_node("Sub", ["filled", "fill"], ["gap"]),
            helper.make_node("Div", ["gap", "scale"], ["scaled_gap"]),
            helper.make_node("Asinh", ["scaled_gap"], ["tame"]),
            helper.make_node("Sub", ["tame", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["standard"]),
            helper.make_node("Clip", ["standard", "z_low", "z_high"], ["clipped"]),
            helper.make_node("Where", ["missing", "zero", "clipped"], ["z"]),
            helper.make_node("Mul", ["z", "z"], ["squared"]),
            helper.make_node("Concat", ["z", "squared", "flags"], ["hints"], axis=1),
            helper.make_node("Gemm", ["hints", "coefficients", "intercept"], ["hint_logits"]),
            helper.make_node("LogSoftmax", ["hint_logits"], ["log_evidence"], axis=1),
            helper.make_node("Max", ["log_evidence", "evidence_floor"], ["bounded"]),
            helper.make_node("Mul", ["bounded", "evidence_steps"], ["steps"]),
            helper.make_node("Round", ["steps"], ["evidence"]),
        ]
        initializers += [
            constant("scale", inputs.scale[None, :]),
            constant("mean", inputs.mean[None, :]),
            constant("std", inputs.std[None, :]),
            constant("coefficients", inputs.coefficients),
            constant("intercept", inputs.intercept[None, :]),
            constant("z_low", np.array(-Z_LIMIT, dtype=np.float32)),
            constant("z_high", np.array(Z_LIMIT, dtype=np.float32)),
            constant("zero", np.array([0.0], dtype=np.float32)),
            constant("evidence_floor", np.array([EVIDENCE_FLOOR], dtype=np.float32)),
            constant("evidence_steps", np.array([EVIDENCE_STEPS], dtype=np.float32)),
        ]
        pieces.append("evidence")
    if len(inputs.flagged):
        before.append(helper.make_node("Gather", ["flags", "flagged"], ["indicators"], axis=1))
        initializers.append(constant("flagged", inputs.flagged.astype(np.int64)))
        pieces.insert(1, "indicators")
    before.append(helper.make_node("Concat", pieces, ["expanded"], axis=1))
    after = [
        helper.make_node("Add", [votes, "floor"], ["raised"]),
        helper.make_node("Log", ["raised"], ["logs"]),
        helper.make_node("Add", ["logs", "offset"], ["logits"]),
        helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["probability"], axis=1),
    ]
    whole = helper.make_graph(
        [*before, *forest.graph.node, *after],
        "threat_detector",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, len(model.prior)])],
        [*forest.graph.initializer, *initializers],
    )
    built = helper.make_model(whole, opset_imports=forest.opset_import, ir_version=8)
    checker.check_model(built)
    return bytes(built.SerializeToString())


def _golden_rows(data: ThreatData) -> np.ndarray:
    """Return training rows of every class, some with missing features, one with none known."""
    rng = np.random.default_rng(5)
    picked = [rng.choice(data.rows[data.y[data.rows] == label], 4) for label in np.unique(data.y[data.rows])]
    rows = data.X[np.concatenate(picked)].copy()
    masked = rows.copy()
    masked[rng.random(rows.shape) < 0.5] = np.nan
    return np.concatenate([rows, masked, np.full((1, rows.shape[1]), np.nan, dtype=np.float32)])


def _importance(graph: bytes, data: ThreatData) -> np.ndarray:
    """Return how far shuffling each feature moves the probabilities: mean total variation, (n_features,), in [0, 1]."""
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(11)
    rows = rng.choice(data.rows, size=min(1000, len(data.rows)), replace=False, p=data.weight / data.weight.sum())
    X = data.X[rows]
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
    probability = loaded.predict(data.X[data.index(part)])
    return {"probability": probability, "label": loaded.decide(probability)}


# Evaluation ----------------------------------------------------------------------------------------------------


def baselines(data: ThreatData, *, seed: int) -> dict[str, Prediction]:
    """Return test predictions of guesses, of the untrained rules where they apply, and of gradient-boosted trees.

    Returns
    -------
    dict
        ``class_prior`` always answers the most frequent class; ``prior_draw`` draws from the class shares, which is
        the best that macro-F1 allows without looking at the features; ``rules`` only where its features and classes
        occur; ``hist_gradient_boosting`` learns from the same rows and weights as the forest, and its decision
        weights are chosen on the same kind of validation rows (first fold).
    """
    rows = data.index("test")
    share = np.bincount(data.y[data.part == TRAIN], minlength=len(data.classes)).astype(float)
    share /= share.sum()
    guess = np.tile(share, (len(rows), 1))
    drawn = np.random.default_rng([seed, 29]).choice(len(share), len(rows), p=share)
    found: dict[str, Prediction] = {
        "class_prior": {"probability": guess, "label": np.full(len(rows), int(share.argmax()), dtype=np.int64)},
        "prior_draw": {"probability": guess, "label": drawn.astype(np.int64)},
    }
    names = data.info["features"]
    leading = {signature[0][0] for label, signature in rules.THREAT_RULES.items() if label in data.classes}
    numbers = [j for j, feature in enumerate(data.features) if feature["dtype"] == "number"]
    if leading & {names[j] for j in numbers}:
        probability = rules.threat_rules(data.X[rows][:, numbers], [names[j] for j in numbers], data.classes)
        found["rules"] = {"probability": probability, "label": probability.argmax(axis=1)}
    found["hist_gradient_boosting"] = _boosted(data, rows, seed)
    return found


def _boosted(data: ThreatData, rows: np.ndarray, seed: int) -> Prediction:
    categorical = [feature["dtype"] == "category" for feature in data.features]

    def fitted(chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=15,
            min_samples_leaf=5,
            learning_rate=0.1,
            # Without it the leaves of classes with a handful of rows explode, and the baseline is a straw man.
            l2_regularization=5.0,
            early_stopping=False,
            categorical_features=categorical if any(categorical) else None,
            random_state=seed,
        )
        # Several threads that wait for each other stand still on a busy machine.
        with threadpool_limits(1, user_api="openmp"):
            model.fit(data.X[data.rows[chosen]], data.y[data.rows[chosen]], sample_weight=data.weight[chosen])

        def probability(X: np.ndarray) -> np.ndarray:
            out = np.zeros((len(X), len(data.classes)))
            out[:, model.classes_] = model.predict_proba(X)
            return out

        return probability

    held = _held_out(data, 1)
    first = fitted((data.group_fold != 0) & (data.row_fold != 0))
    truth = data.y[data.rows[held.row]]
    prior = _prior(data)
    alpha, _ = _choose_alpha(truth, first(data.X[data.rows[held.row]]), held.weight, prior)
    probability = fitted(np.ones(len(data.rows), dtype=bool))(data.X[rows])
    return {
        "probability": probability,
        "label": expected_cost_label(probability, weights=_decision_weights(prior, alpha), costs=data.costs),
    }


def oracle(data: ThreatData) -> Prediction | None:
    """Return the exact posterior on test rows with the decision a perfect model would take, if it is known."""
    if data.oracle is None:
        return None
    # The best decision for macro-F1 is not the most probable class: the oracle's exponent is chosen like ours.
    prior = _prior(data)
    train = data.oracle[data.rows]
    alpha, _ = _choose_alpha(data.y[data.rows], train, data.weight, prior)
    probability = data.oracle[data.index("test")]
    return {
        "probability": probability,
        "label": expected_cost_label(probability, weights=_decision_weights(prior, alpha), costs=data.costs),
    }


def _clusters(data: ThreatData, rows: np.ndarray) -> np.ndarray | None:
    if data.group is None:
        return None
    group = data.group[rows]
    return group if len(np.unique(group)) >= MIN_CLUSTERS else None


def evaluate(
    data: ThreatData, prediction: Prediction, part: str = "test", seed: int = 0
) -> dict[str, intervals.Metric]:
    """Return ``accuracy, macro_f1, log_loss, ece`` and ``f1_<class>`` with 95 % intervals.

    Groups are drawn whole when the part holds at least `MIN_CLUSTERS` of them, else rows.
    """
    rows = prediction["row"] if "row" in prediction else data.index(part)
    return metrics.threat(
        data.y[rows],
        prediction["probability"],
        prediction["label"],
        classes=data.classes,
        clusters=_clusters(data, rows),
        seed=seed,
    )


def compare(
    data: ThreatData,
    prediction: Prediction,
    others: Mapping[str, Prediction],
    *,
    seed: int = 0,
    n_boot: int = intervals.N_PAIRED,
) -> dict[str, dict[str, intervals.Gain]]:
    """Compare a prediction with others on the same resamples of test rows, in `GATE_METRICS` and `PROBABILITY_METRICS`."""
    rows = data.index("test")
    truth = data.y[rows]

    def values(p: Prediction) -> intervals.Weighted:
        return metrics.threat_values(truth, p["probability"], p["label"], data.classes)

    return intervals.paired(
        values(prediction),
        {name: values(other) for name, other in others.items()},
        len(rows),
        only=(*GATE_METRICS, *PROBABILITY_METRICS),
        clusters=_clusters(data, rows),
        seed=seed,
        n_boot=n_boot,
    )


def details(data: ThreatData, prediction: Prediction) -> dict[str, Any]:
    """Return what a report shows of the test part, as plain lists and dicts.

    Returns
    -------
    dict
        ``classes``; ``confusion`` (true by decided, counts); ``per_class`` (precision, recall, f1, support);
        ``precision_recall`` by class; ``reliability`` of the most probable class; ``attack_cost`` (missed attacks,
        false alarms and cost against the threshold on P(attack)); ``abstain`` (accuracy against answered share);
        ``groups`` (recall by group, whether training knew it); ``worst_classes``; ``worst_cases``.
    """
    rows = data.index("test")
    truth, n = data.y[rows], len(data.classes)
    probability, label = prediction["probability"], prediction["label"]
    confusion = np.bincount(truth * n + label, minlength=n * n).reshape(n, n)
    hit = np.diag(confusion)
    support, decided = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * hit / np.maximum(support + decided, 1)
    per_class = {
        name: {
            "precision": float(hit[i] / max(decided[i], 1)),
            "recall": float(hit[i] / max(support[i], 1)),
            "f1": float(f1[i]),
            "support": int(support[i]),
            "taken_for": data.classes[int(np.where(np.arange(n) == i, -1, confusion[i]).argmax())],
        }
        for i, name in enumerate(data.classes)
    }
    top = probability.max(axis=1)
    out: dict[str, Any] = {
        "classes": data.classes,
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "precision_recall": {
            name: curves.precision_recall_curve(truth == i, probability[:, i])
            for i, name in enumerate(data.classes)
            if support[i]
        },
        "reliability": curves.reliability_curve(probability.argmax(axis=1) == truth, top),
        "abstain": _abstain_curve(truth, probability, label),
        "worst_classes": [data.classes[i] for i in np.argsort(f1, kind="stable") if support[i]][:3],
        "worst_cases": _worst_cases(data, rows, truth, probability, label),
    }
    if NORMAL in data.classes:
        normal = data.classes.index(NORMAL)
        out["attack_cost"] = _attack_cost(truth != normal, 1.0 - probability[:, normal])
        out["reliability_attack"] = curves.reliability_curve(truth != normal, 1.0 - probability[:, normal])
    if data.group is not None:
        out["groups"] = _group_recall(data, rows, truth, label)
    return out


def _abstain_curve(truth: np.ndarray, probability: np.ndarray, label: np.ndarray) -> dict[str, list[float]]:
    """Accuracy over the rows that are answered, when the least certain ones are not."""
    order = np.argsort(-probability[np.arange(len(label)), label], kind="stable")
    right = np.cumsum((label == truth)[order])
    count = np.unique(np.linspace(max(1, len(truth) // 20), len(truth), 20).astype(int))
    certainty = probability[np.arange(len(label)), label][order]
    return {
        "answered": (count / len(truth)).tolist(),
        "accuracy": (right[count - 1] / count).tolist(),
        "certainty": certainty[count - 1].tolist(),
    }


def _attack_cost(attack: np.ndarray, score: np.ndarray, miss_cost: float = 10.0) -> dict[str, Any]:
    """Cost of alarms at ``P(attack) >= threshold``: a false alarm costs 1, a missed attack ``miss_cost``."""
    thresholds = np.unique(np.r_[np.linspace(0.01, 0.99, 99), 1 / (1 + miss_cost)])
    attacks, benign = np.sort(score[attack]), np.sort(score[~attack])
    missed = np.searchsorted(attacks, thresholds, side="left")
    false_alarms = len(benign) - np.searchsorted(benign, thresholds, side="left")
    cost = miss_cost * missed + false_alarms
    at = int(np.searchsorted(thresholds, 1 / (1 + miss_cost)))
    caught = 1 - missed[at] / max(len(attacks), 1)
    false_share = false_alarms[at] / max(len(benign), 1)
    return {
        "threshold": thresholds.tolist(),
        "missed": missed.tolist(),
        "false_alarms": false_alarms.tolist(),
        "cost": cost.tolist(),
        "miss_cost": miss_cost,
        "chosen": float(thresholds[at]),
        "words": (
            f"if a missed attack costs {miss_cost:g} false alarms, alarm at P(attack) >= {thresholds[at]:.2f}: "
            f"catches {caught:.0%} of attacks, alarms on {false_share:.1%} of ordinary rows"
        ),
    }


def _group_recall(data: ThreatData, rows: np.ndarray, truth: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    assert data.group is not None
    known = np.unique(data.group[data.part == TRAIN])
    out = []
    for name in np.unique(data.group[rows]):
        mine = data.group[rows] == name
        out.append(
            {
                "group": data.info["group_names"][name],
                "class": data.classes[int(np.bincount(truth[mine]).argmax())],
                "rows": int(mine.sum()),
                "known": bool(name in known),
                "recall": float((label[mine] == truth[mine]).mean()),
            }
        )
    return sorted(out, key=lambda row: row["recall"])


def _worst_cases(
    data: ThreatData, rows: np.ndarray, truth: np.ndarray, probability: np.ndarray, label: np.ndarray, count: int = 12
) -> list[dict[str, Any]]:
    """Return the mistakes that held the true class least probable, at most three of each kind."""
    wrong = np.flatnonzero(label != truth)
    order = wrong[np.argsort(probability[wrong, truth[wrong]], kind="stable")]
    seen: dict[tuple[int, int], int] = {}
    out: list[dict[str, Any]] = []
    for i in order:
        kind = (int(truth[i]), int(label[i]))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] > 3:
            continue
        values = data.X[rows[i]]
        out.append(
            {
                "row": int(rows[i]),
                "truth": data.classes[kind[0]],
                "decided": data.classes[kind[1]],
                "p_truth": float(probability[i, kind[0]]),
                "p_decided": float(probability[i, kind[1]]),
                "group": None if data.group is None else data.info["group_names"][data.group[rows[i]]],
                "values": _unusual(data, values),
            }
        )
        if len(out) == count:
            break
    return out


def _unusual(data: ThreatData, values: np.ndarray, count: int = 4) -> dict[str, float | str]:
    """Return the features of a row that are furthest from ordinary."""
    ordinary = np.array([f["reference"]["ordinary"] for f in data.features])
    spread = np.array([f["reference"]["spread"] for f in data.features])
    gap = np.nan_to_num(np.abs(values - ordinary) / spread, nan=-1.0)
    out: dict[str, float | str] = {}
    for j in np.argsort(-gap, kind="stable")[:count]:
        if gap[j] > 0:
            feature, value = data.features[j], float(values[j])
            out[feature["name"]] = feature["categories"][int(value)] if feature["dtype"] == "category" else value
    return out


def steps(data: Any) -> int:
    """Return the most steps that `fit` reports: what a full trial has."""
    return MAX_STEPS
