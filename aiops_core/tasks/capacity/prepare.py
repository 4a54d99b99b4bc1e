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
from aiops_core.errors import DataError
from aiops_core.servable.capacity_layout import Layout
from aiops_core.tasks.capacity.backbone import fit_backbone
from aiops_core.tasks.capacity.data import FULL_EFFORT, CapacityData, Effort, Pairs, Usage
from aiops_core.tasks.capacity.pairs import block_of, grid_of, keys_of, sample
from aiops_core.tasks.capacity.split import aligned, fitted_resources, split_origins

#: Other columns that a forecast may use, derived features first.
MAX_EXOGENOUS = 8
#: Each limit lies at the first origin of a part.
LIMITS = {"train": "validation", "calibration": "calibration", "validation": "test"}


def prepare(
    dataset: Dataset,
    *,
    seed: int,
    effort: Effort = FULL_EFFORT,
    protocol: str = "time",
) -> CapacityData:
    """Cut a usage table into rolling origins and build the training rows.

    Test are the last ``origins`` origins, ``origin_step`` apart; the longest scored forecast of the last one ends at the
    last row. As many calibration origins lie before them, their forecasts ending at the first test origin, and as many
    validation origins before those; training targets end at the first validation origin. With a short record there are
    fewer origins.

    Parameters
    ----------
    dataset : Dataset
        With a ``usage`` table.
    seed : int
        Fixes which training pairs are sampled, and which resources are left out.
    effort : Effort, optional
        How much work what follows may do; kept as ``effort``.
    protocol : {"time", "resource"}
        What tests: all resources, or only three in ten that nothing is fitted, chosen or calibrated on. Their own
        history is still what a forecast starts from.

    Returns
    -------
    CapacityData

    Raises
    ------
    UsageError
        If a derived feature cannot be read, or for an unknown protocol.
    DataError
        If a target is missing or never varies, the record is too short, or there are too few resources.

    Notes
    -----
    Where the records share a calendar, the cuts fall at the same time for all resources; else at positions that count
    from a resource's own end, so that records of different periods can train together. See `split.aligned`.
    """
    dataset.require("capacity")
    frame = dataset.tables["usage"]
    config = {**tables.DEFAULT_CONFIG["capacity"], **dataset.config.get("capacity", {})}
    usage, origins, said = _usage(frame, config, effort, derived_of(dataset, "capacity"), protocol, seed)
    layout = usage.layout
    limits = {name: int(origins[later][0]) for name, later in LIMITS.items()}
    rng = np.random.default_rng(seed)
    parts = _parts(usage, origins, limits["train"], rng)
    search = block_of(usage, parts["train"], rng)
    checked = block_of(usage, parts["validation"], None)
    with threadpool_limits(1):  # small matrices: more threads only get into each other's way
        ridge, linear = fit_backbone(search, checked, layout, rows=effort.linear_rows)
    oracle = dataset.oracles.get("capacity")
    return CapacityData(
        **vars(usage),
        parts=parts,
        limits=limits,
        search=search,
        checked=checked,
        linear=linear,
        ridge=ridge,
        naive_error=_naive_error(_known(usage.values, layout.targets, limits["calibration"]), layout.season),
        oracle=None if oracle is None else np.asarray(oracle(keys_of(usage, parts["test"])), dtype=np.float64),
        info=_info(usage, parts, frame, config["origin_step"], **said),
        facts={name: tables.column_facts(frame[name]) for name in usage.raw},
    )


def _parts(usage: Usage, origins: Mapping[str, np.ndarray], limit: int, rng: np.random.Generator) -> dict[str, Pairs]:
    """Return the pairs of each part; training ones are a sample whose targets do not pass ``limit``."""
    tested = usage.fitted if usage.fitted.all() else ~usage.fitted
    parts = {
        "train": sample(usage, limit, usage.effort.search_rows, rng),
        **{name: grid_of(usage, origins[name], usage.fitted) for name in ("validation", "calibration")},
        "test": grid_of(usage, origins["test"], tested),
    }
    for name, pairs in parts.items():
        if not pairs.known.any():
            raise DataError(f"no {name} origin has a known target value", table="usage")
    return parts


def _usage(
    frame: pd.DataFrame, config: Mapping[str, Any], effort: Effort, derived: Derived, protocol: str, seed: int
) -> tuple[Usage, dict[str, np.ndarray], dict[str, Any]]:
    """Return the usage with its layout, the positions of the origins by part, and what `_info` says of both."""
    numeric = tables.feature_columns("usage", frame)
    targets = _targets(config.get("target"), numeric, frame)
    others = [c for c in numeric if c not in targets]
    if len(others) + len(targets) <= MAX_EXOGENOUS and len(targets) > 1:
        others += targets
    room = max(0, MAX_EXOGENOUS - len(derived))
    columns = list(dict.fromkeys([*targets, *others[:room], *derived.columns]))
    grid = tables.to_grid(frame, columns)
    axis = aligned(grid)
    score_steps = np.array(sorted(set(config.get("score_steps") or range(1, config["horizon"] + 1))), dtype=np.int64)
    if score_steps[0] < 1 or score_steps[-1] > config["horizon"]:
        raise DataError(f"score_steps must lie within 1 and the horizon of {config['horizon']} steps", table="usage")
    fitted = fitted_resources(len(grid.resources), protocol, seed=seed)
    origins = split_origins(axis.values.shape[2], config, int(score_steps[-1]))
    limit = int(origins["validation"][0])
    values, derived, left_out = _with_derived(axis.values, columns, derived, fitted, limit)
    known = _known(values[fitted], targets, limit)
    for j, name in enumerate(targets):
        spread = known[:, j][~np.isnan(known[:, j])]
        if len(spread) == 0 or spread.min() == spread.max():
            raise DataError("the target never varies before the validation origins", table="usage", column=name)
    layout = _layout(known, targets, [*derived.names, *others[:room]], config, grid.step_seconds)
    found = (axis.end, axis.first, axis.last, fitted)
    usage = Usage(values, [*columns, *derived.names], grid.resources, *found, layout, score_steps, effort, derived)
    return usage, origins, {"same_time": axis.same_time, "protocol": protocol, "left_out": left_out}


def _with_derived(
    values: np.ndarray, columns: list[str], derived: Derived, fitted: np.ndarray, limit: int
) -> tuple[np.ndarray, Derived, dict[str, str]]:
    """Return the values with derived features behind them, those features, and the ones left out with the reason."""
    found = derived.of_series({name: values[:, j] for j, name in enumerate(columns)})
    kept = []
    for j, name in enumerate(derived.names):
        known = found[j][fitted, : limit + 1]
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
    usage: Usage,
    parts: Mapping[str, Pairs],
    frame: pd.DataFrame,
    origin_step: int,
    *,
    same_time: bool,
    protocol: str,
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Return what the report says about the data; ``left_out`` are derived features, with the reason."""
    numeric = tables.feature_columns("usage", frame)
    unused = f"neither a target nor one of {MAX_EXOGENOUS} other columns"
    layout, steps, resources = usage.layout, usage.score_steps, len(usage.resources)
    count = {name: len(np.unique(pairs.origin)) for name, pairs in parts.items()}
    whose = "at the same time for all" if same_time or resources == 1 else "of each"
    tested = f"{resources} resources" if resources > 1 else "1 resource"
    if not usage.fitted.all():
        tested = f"{int((~usage.fitted).sum())} of {resources} resources, on which nothing is fitted or chosen"
    return {
        "rows": len(frame),
        **{f"{name}_rows": int(pairs.known.sum()) for name, pairs in parts.items()},
        "protocol": protocol,
        "split": (
            f"rolling origins, {whose}: test = the last {count['test']} origins, {origin_step} steps apart, of {tested}; "
            f"calibration of the band = {count['calibration']} origins before them; validation = "
            f"{count['validation']} origins before those; training targets end at the first validation origin"
        ),
        "targets": list(layout.targets),
        "features": list(layout.exogenous),
        "season": layout.season,
        "horizon": layout.horizon,
        "origins": count["test"],
        "score_steps": [int(s) for s in steps] if len(steps) <= 12 else f"1 to {int(steps[-1])}",
        "resources": resources,
        "step_seconds": layout.step_seconds,
        "ignored": tables.ignored_columns("usage", frame, usage.columns, dict.fromkeys(numeric, unused)),
        "derived": usage.derived.entries(),
        "derived_left_out": left_out,
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
