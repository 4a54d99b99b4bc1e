"""From a usage table to `CapacityData`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from aiops_core.data import tables
from aiops_core.data.derive import derived_of
from aiops_core.data.tables import Dataset
from aiops_core.derive import Derived
from aiops_core.errors import DataError, UsageError
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks.capacity.backbone import fit_backbone
from aiops_core.tasks.capacity.data import CapacityData, Effort, Pairs, Usage
from aiops_core.tasks.capacity.pairs import block_of, grid_of, keys_of, sample
from aiops_core.tasks.capacity.split import right_aligned, split_origins

#: Other columns that a forecast may use, derived features first.
MAX_EXOGENOUS = 8


def prepare(
    dataset: Dataset,
    *,
    seed: int,
    effort: Effort = Effort(),  # noqa: B008
    protocol: str = "time",
) -> CapacityData:
    """Cut a usage table into rolling origins and build the training rows.

    Test are the last ``origins`` origins of every resource, ``origin_step`` apart; the longest scored forecast of the
    last one ends at the resource's last row. As many validation origins lie before them, their forecasts ending at
    the first test origin; training targets end at the first validation origin. With a short record there are fewer
    origins.

    Parameters
    ----------
    dataset : Dataset
        With a ``usage`` table.
    seed : int
        Fixes which training pairs are sampled.
    protocol : {"time"}
        How test is told from training.
    effort : Effort, optional
        How much work what follows may do; kept as ``effort``.

    Returns
    -------
    CapacityData

    Raises
    ------
    DataError
        If a target is missing or never varies, or the record is too short.
    UsageError
        If a derived feature cannot be read.

    Notes
    -----
    Positions count from a resource's own end, so records of different periods can train together.
    """
    if protocol != "time":
        raise UsageError(f"capacity: protocol {protocol!r} is not known")
    dataset.require("capacity")
    frame = dataset.tables["usage"]
    config = {**tables.DEFAULT_CONFIG["capacity"], **dataset.config.get("capacity", {})}
    usage, test, validation, left_out = _usage(frame, config, effort, derived_of(dataset, "capacity"))
    layout = usage.layout
    limits = {"train": int(validation[0]), "validation": int(test[0])}
    rng = np.random.default_rng(seed)
    parts = {
        "train": sample(usage, limits["train"], effort.search_rows, rng),
        "validation": grid_of(usage, validation),
        "test": grid_of(usage, test),
    }
    for name, pairs in parts.items():
        if not pairs.known.any():
            raise DataError(f"no {name} origin has a known target value", table="usage")
    search = block_of(usage, parts["train"], rng)
    checked = block_of(usage, parts["validation"], None)
    with threadpool_limits(1):  # small matrices: more threads only get into each other's way
        ridge, linear = fit_backbone(search, checked, layout, rows=effort.linear_rows)
    oracle = dataset.oracles.get("capacity")
    numeric = tables.feature_columns("usage", frame)
    unused = f"neither a target nor one of {MAX_EXOGENOUS} other columns"
    return CapacityData(
        **vars(usage),
        parts=parts,
        limits=limits,
        search=search,
        checked=checked,
        linear=linear,
        ridge=ridge,
        naive_error=_naive_error(_known(usage.values, layout.targets, limits["train"]), layout.season),
        oracle=None if oracle is None else np.asarray(oracle(keys_of(usage, parts["test"])), dtype=np.float64),
        info={
            **_info(usage, parts, len(frame), len(test), len(validation), config["origin_step"]),
            "ignored": tables.ignored_columns("usage", frame, usage.columns, dict.fromkeys(numeric, unused)),
            "derived": usage.derived.entries(),
            "derived_left_out": left_out,
        },
        facts={name: tables.column_facts(frame[name]) for name in usage.raw},
    )


def _usage(
    frame: pd.DataFrame, config: Mapping[str, Any], effort: Effort, derived: Derived
) -> tuple[Usage, np.ndarray, np.ndarray, dict[str, str]]:
    """Return the usage with its layout, the positions of the test and validation origins, and features left out."""
    numeric = tables.feature_columns("usage", frame)
    targets = _targets(config.get("target"), numeric, frame)
    others = [c for c in numeric if c not in targets]
    if len(others) + len(targets) <= MAX_EXOGENOUS and len(targets) > 1:
        others += targets
    room = max(0, MAX_EXOGENOUS - len(derived))
    columns = list(dict.fromkeys([*targets, *others[:room], *derived.columns]))
    grid = tables.to_grid(frame, columns)
    values, first, end = right_aligned(grid)
    score_steps = np.array(sorted(set(config.get("score_steps") or range(1, config["horizon"] + 1))), dtype=np.int64)
    if score_steps[0] < 1 or score_steps[-1] > config["horizon"]:
        raise DataError(f"score_steps must lie within 1 and the horizon of {config['horizon']} steps", table="usage")
    test, validation = split_origins(values.shape[2], config, int(score_steps[-1]))
    values, derived, left_out = _with_derived(values, columns, derived, int(validation[0]))
    others = [*derived.names, *others[:room]]
    known = _known(values, targets, int(validation[0]))
    for j, name in enumerate(targets):
        spread = known[:, j][~np.isnan(known[:, j])]
        if len(spread) == 0 or spread.min() == spread.max():
            raise DataError("the target never varies before the validation origins", table="usage", column=name)
    layout = _layout(known, targets, others, config, grid.step_seconds)
    columns = [*columns, *derived.names]
    usage = Usage(values, columns, grid.resources, end, first, layout, score_steps, effort, derived)
    return usage, test, validation, left_out


def _with_derived(
    values: np.ndarray, columns: list[str], derived: Derived, limit: int
) -> tuple[np.ndarray, Derived, dict[str, str]]:
    """Return the values with derived features behind them, those features, and the ones left out with the reason."""
    found = derived.of_series({name: values[:, j] for j, name in enumerate(columns)})
    kept = []
    for j, name in enumerate(derived.names):
        known = found[j][:, : limit + 1]
        known = known[~np.isnan(known)]
        if len(known) and known.min() < known.max():
            kept.append(name)
    left_out = {}
    for name in derived.names:
        if name not in kept:
            left_out[name] = "constant in training"
        elif kept.index(name) >= MAX_EXOGENOUS:
            left_out[name] = f"more than {MAX_EXOGENOUS} features"
    kept = kept[:MAX_EXOGENOUS]
    more = [found[derived.names.index(name)] for name in kept]
    return np.concatenate([values, *(m[:, None] for m in more)], axis=1), derived.kept(kept), left_out


def _known(values: np.ndarray, targets: Sequence[str], limit: int) -> np.ndarray:
    """Return the targets' values up to the last position that a fit may see."""
    known: np.ndarray = values[:, : len(targets), : limit + 1].astype(np.float64)
    return known


def _info(
    usage: Usage, parts: Mapping[str, Pairs], rows: int, test: int, validation: int, origin_step: int
) -> dict[str, Any]:
    """Return what the report says about the data; ``test`` and ``validation`` count origins."""
    layout, steps, resources = usage.layout, usage.score_steps, len(usage.resources)
    return {
        "rows": rows,
        **{f"{name}_rows": int(pairs.known.sum()) for name, pairs in parts.items()},
        "split": (
            f"rolling origins: test = the last {test} origins, {origin_step} steps apart, of each of "
            f"{resources} resources; validation = {validation} origins before them; "
            "training targets end at the first validation origin"
        ),
        "targets": list(layout.targets),
        "features": list(layout.exogenous),
        "season": layout.season,
        "horizon": layout.horizon,
        "origins": test,
        "score_steps": [int(s) for s in steps] if len(steps) <= 12 else f"1 to {int(steps[-1])}",
        "resources": resources,
        "step_seconds": layout.step_seconds,
    }


def _targets(target: Any, numeric: list[str], frame: pd.DataFrame) -> list[str]:
    wanted = numeric if target is None else [target] if isinstance(target, str) else [str(t) for t in target]
    if not wanted:
        raise DataError("there is no numeric column to forecast", table="usage")
    for name in wanted:
        if name not in numeric:
            hint = tables.suggestion(name, numeric)
            raise DataError(f"the target '{name}' is not a column{hint}", table="usage", column=name)
    return list(dict.fromkeys(wanted))


def _layout(
    known: np.ndarray, targets: list[str], others: list[str], config: Mapping[str, Any], step_seconds: int
) -> Layout:
    relative, reference, lower, upper = [], [], [], []
    for j in range(len(targets)):
        rows = known[:, j][~np.isnan(known[:, j]).all(axis=1)]
        level = np.abs(np.nanmean(rows, axis=1))
        spread = np.nanmean(np.abs(rows - np.nanmean(rows, axis=1, keepdims=True)), axis=1)
        relative.append(float(np.clip(np.median(spread / np.maximum(level, 1e-9)), 0.01, 2.0)))
        reference.append(float(np.median(level)))
        low, high = float(np.nanmin(rows)), float(np.nanmax(rows))
        lower.append(0.0 if low >= 0 else None)
        # A share or percentage that was seen saturating cannot go further.
        upper.append(100.0 if 99.5 <= high <= 100 and low >= 0 else None)
    return Layout(
        tuple(targets),
        tuple(others),
        int(config["season"]),
        int(config["horizon"]),
        step_seconds,
        tuple(relative),
        tuple(reference),
        tuple(lower),
        tuple(upper),
    )


def _naive_error(known: np.ndarray, season: int) -> np.ndarray:
    lag = season if known.shape[2] > season else 1
    gap = np.abs(known[:, :, lag:] - known[:, :, :-lag])
    count = (~np.isnan(gap)).sum(axis=2)
    return np.where(count > 0, np.nan_to_num(gap).sum(axis=2) / np.maximum(count, 1), 0.0)
