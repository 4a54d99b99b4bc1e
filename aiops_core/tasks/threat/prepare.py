"""From the activity table to `ThreatData`: parts, features in their units, categories as ordered codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data import tables
from aiops_core.data.derive import derived_of
from aiops_core.data.splits import TEST, TRAIN
from aiops_core.data.tables import Dataset
from aiops_core.derive import Derived
from aiops_core.errors import DataError, UsageError
from aiops_core.servable.threat import NORMAL, OTHER, cost_matrix, encode_category
from aiops_core.tasks.cards import reference
from aiops_core.tasks.threat.data import FULL_EFFORT, NAME, Effort, ThreatData
from aiops_core.tasks.threat.inputs import Inputs
from aiops_core.tasks.threat.seen import hashes_of
from aiops_core.tasks.threat.split import deal_folds, divisible, hold_out, sample
from aiops_core.units import unit_of

#: Categories rarer than this, or beyond the most frequent `MAX_CATEGORIES`, share the code of unknown ones.
MIN_CATEGORY_ROWS = 5
MAX_CATEGORIES = 200


#: What the test part asks: the next rows, or attacks of groups that training has never seen.
PROTOCOLS = ("time", "resource")


def prepare(dataset: Dataset, *, seed: int, effort: Effort = FULL_EFFORT, protocol: str = "time") -> ThreatData:
    """Split and encode the activity table.

    Parameters
    ----------
    dataset : Dataset
        With the table ``activity``; its config may hold ``test_fraction``, ``costs`` (``{true: {decided: cost}}``),
        ``whole_groups`` and ``derive``.
    seed : int
        Fixes split, folds and sample.
    effort : Effort, optional
        Kept as ``effort`` of the result, for `fit` and `finish`.
    protocol : {"time", "resource"}
        ``resource`` leaves whole groups (attack names, campaigns, hosts) out for test, whatever the official split is.

    Returns
    -------
    ThreatData

    Raises
    ------
    UsageError, DataError
        If the protocol is unknown or the groups for it are not there, or if training rows hold one class only.

    Notes
    -----
    Under ``time`` the test part is the official split; else whole groups; else a stratified share. A group is divided
    by rows only when it is all of its class and holds nothing else: otherwise the class could not be both learned and
    tested. With ``whole_groups`` false in the settings, groups count under ``resource`` alone: rows are split at random.
    """
    dataset.require(NAME)
    frame = dataset.tables["activity"]
    config = dataset.config.get(NAME, {})
    rng = np.random.default_rng([seed, 3])
    classes, y = _classes(frame)
    group, group_names = _groups(frame, y, protocol, whole=bool(config.get("whole_groups", True)))
    test, split = _test_rows(frame, y, group, float(config.get("test_fraction", 0.3)), protocol, rng)
    part = np.where(test, TEST, TRAIN).astype(np.int8)
    train = np.flatnonzero(~test)
    if len(np.unique(y[train])) < 2:
        raise DataError("training rows hold one class only", table="activity", column="threat_type")

    sampled, weight = sample(y[train], None if group is None else group[train], effort.max_rows, rng)
    rows = train[sampled]
    group_fold, row_fold = deal_folds(y[rows], None if group is None else group[rows], effort.folds, rng)
    kind = "folds leave out whole groups, and rows of known ones" if (group_fold >= 0).any() else "stratified folds"
    split += f"; validation out of fold on training rows: {effort.folds} {kind}"
    wanted = derived_of(dataset, NAME)
    features, X, dropped = _encode_table(frame, train, rows, weight, y, classes, wanted.columns)
    columns = [feature["name"] for feature in features]
    derived, more, found, left_out = _derived(wanted, X, columns, train, _benign(y, train, classes))
    X = np.concatenate([X, found], axis=1)
    costs, oracle = config.get("costs"), dataset.oracles.get(NAME)
    data = ThreatData(
        X=X,
        y=y,
        part=part,
        group=group,
        classes=classes,
        features=features + more,
        rows=rows,
        weight=weight,
        group_fold=group_fold,
        row_fold=row_fold,
        inputs=_inputs(features + more, X[rows]),
        costs=None if costs is None else cost_matrix(costs, classes),
        oracle=None if oracle is None else oracle.reindex(columns=classes).fillna(0.0).to_numpy(dtype=float),
        info={},
        effort=effort,
        row_hashes=hashes_of(frame, features),
        facts={f["name"]: tables.column_facts(frame[f["name"]]) for f in features if f["dtype"] == "number"},
        derived=derived,
    )
    data.info.update(
        _info(data, split, [f"{name} ({reason})" for name, reason in dropped.items()], group_names),
        ignored=tables.ignored_columns("activity", frame, columns, dropped),
        derived=derived.entries(),
        derived_left_out=left_out,
        protocol=protocol,
    )
    return data


def _inputs(features: list[dict[str, Any]], X: np.ndarray) -> Inputs:
    fill = np.array([feature["reference"]["median"] for feature in features], dtype=np.float32)
    return Inputs(fill=fill, flagged=np.flatnonzero(np.isnan(X).any(axis=0)))


def _classes(frame: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return the classes, normal first, and the class of each row as an index into them, (n,), int64."""
    classes = sorted(frame["threat_type"].unique(), key=lambda name: (name != NORMAL, name))
    position = {name: i for i, name in enumerate(classes)}
    return classes, frame["threat_type"].map(position).to_numpy(dtype=np.int64)


def _groups(
    frame: pd.DataFrame, y: np.ndarray, protocol: str, *, whole: bool
) -> tuple[np.ndarray | None, list[str] | None]:
    """Return the group of each row as an index into the names, (n,), int64, and the names; None where none count."""
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is unknown; known: {', '.join(PROTOCOLS)}")
    named = "group" in frame.columns
    if protocol == "resource" and not named:
        raise DataError("protocol 'resource' leaves out whole groups, which no column names", table="activity")
    if not named or (protocol == "time" and not whole):
        return None, None
    codes, names = pd.factorize(frame["group"], sort=True)
    if protocol == "resource" and divisible(y, codes).all():
        raise DataError(
            "protocol 'resource' leaves out whole groups, but no class has two", table="activity", column="group"
        )
    return codes.astype(np.int64), [str(name) for name in names]


def _test_rows(
    frame: pd.DataFrame,
    y: np.ndarray,
    group: np.ndarray | None,
    fraction: float,
    protocol: str,
    rng: np.random.Generator,
) -> tuple[np.ndarray, str]:
    """Return which rows are for test, and how they were chosen in words."""
    if "split" in frame.columns and protocol == "time":
        return (frame["split"] == "test").to_numpy(), "official split"
    chosen = "by whole groups for test" if group is not None else "at random for test (stratified)"
    return hold_out(y, group, fraction, rng), f"{fraction:.0%} of every class {chosen}"


def _info(data: ThreatData, split: str, left_out: list[str], group_names: list[str] | None) -> dict[str, Any]:
    """Return what a report says of the data set."""
    shares = np.bincount(data.y, minlength=len(data.classes)) / len(data.y)
    return {
        "rows": len(data.y),
        "train_rows": int((data.part == TRAIN).sum()),
        "validation_rows": len(data.rows),
        "test_rows": int((data.part == TEST).sum()),
        "split": split,
        "features": [feature["name"] for feature in data.columns],
        "left_out": left_out,
        "classes": data.classes,
        "class_shares": {name: float(share) for name, share in zip(data.classes, shares, strict=True)},
        "groups": None if group_names is None else len(group_names),
        "group_names": group_names,
        "sampled_rows": len(data.rows),
        "missing_share": float(np.isnan(data.X).mean()),
    }


def _benign(y: np.ndarray, train: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the benign training rows; all of them where there are none."""
    benign = train[y[train] == classes.index(NORMAL)] if NORMAL in classes else train
    return benign if len(benign) else train


def _derived(
    derived: Derived, X: np.ndarray, columns: list[str], train: np.ndarray, benign: np.ndarray
) -> tuple[Derived, list[dict[str, Any]], np.ndarray, dict[str, str]]:
    """Return the derived features that vary in training, their descriptions and values, and the ones left out."""
    usable = derived.within(columns)
    left_out = {name: "a column of it is missing in training" for name in derived.names if name not in usable.names}
    derived, found = usable, usable.of_rows(X, columns)
    described = []
    for j, name in enumerate(derived.names):
        known = found[train, j][~np.isnan(found[train, j])]
        if len(known) == 0 or known.min() == known.max():
            left_out[name] = "constant in training"
        else:
            statistics = _reference(found[:, j], train, benign)
            described.append({"name": name, "unit": "", "dtype": "number", "reference": statistics})
    kept = [j for j, name in enumerate(derived.names) if name not in left_out]
    return derived.kept([derived.names[j] for j in kept]), described, found[:, kept], left_out


def _encode_table(
    frame: pd.DataFrame,
    train: np.ndarray,
    rows: np.ndarray,
    weight: np.ndarray,
    y: np.ndarray,
    classes: list[str],
    needed: list[str],
) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, str]]:
    """Return the feature descriptions, X and the columns left out, with the reason; ``needed`` ones are kept."""
    features: list[dict[str, Any]] = []
    columns: list[np.ndarray] = []
    dropped: dict[str, str] = {}
    attack = (y[rows] != classes.index(NORMAL)) if NORMAL in classes else (y[rows] != np.bincount(y[train]).argmax())
    benign = _benign(y, train, classes)
    for name in tables.feature_columns("activity", frame):
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            values = column.to_numpy(dtype=np.float32, na_value=np.nan)
            known = values[train][~np.isnan(values[train])]
            if (len(known) == 0 or known.min() == known.max()) and (len(known) == 0 or name not in needed):
                dropped[name] = "constant in training"
                continue
            found = _reference(values, train, benign)
            unit = unit_of(name, found["max"])
            features.append({"name": name, "unit": unit, "dtype": "number", "reference": found})
        elif pd.api.types.is_datetime64_any_dtype(column):
            dropped[name] = "a date"
            continue
        else:
            categories = _categories(column, train, rows, weight, attack)
            if len(categories) < 2:
                dropped[name] = f"no category with {MIN_CATEGORY_ROWS} training rows, or one only"
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
    """Return the categories by rising share of attacks, `OTHER` among them; folds order them anew, see `fold_inputs`."""
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
    found = reference(seen)
    spread = found["p99"] - found["p01"] or found["std"] or 1.0
    return {
        **found,
        "median": middle,
        "ordinary": usual,
        "spread": spread,
    }
