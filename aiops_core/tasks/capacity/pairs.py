"""(series, origin) pairs and the rows that are built from them: what is scored, what is learned from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from aiops_core.errors import DataError
from aiops_core.servable.capacity_features import Rows, features
from aiops_core.tasks.capacity.data import Block, Pairs, Usage

#: Shares of the training pairs with a cut history, without other columns, without a clock.
TRUNCATED, WITHOUT_OTHERS, WITHOUT_CLOCK = 0.15, 0.15, 0.10


def grid_of(data: Usage, origins: np.ndarray, some: np.ndarray) -> Pairs:
    """Return the series of some resources (bool) at every origin that lies inside their record, at the scored steps."""
    resources = np.flatnonzero(some)
    r, t, o = np.meshgrid(resources, np.arange(len(data.layout.targets)), origins, indexing="ij")
    inside = (o >= data.first[r]) & (o < data.last[r])
    return _pairs(data, r[inside], t[inside], o[inside], np.tile(data.score_steps, (int(inside.sum()), 1)))


def _pairs(data: Usage, r: np.ndarray, t: np.ndarray, o: np.ndarray, steps: np.ndarray) -> Pairs:
    position = o[:, None] + steps
    last = data.values.shape[2] - 1
    truth = data.values[r[:, None], t[:, None], np.clip(position, 0, last)].astype(np.float64)
    # A pair without a single known value before its origin has nothing to forecast from.
    history = np.cumsum(~np.isnan(data.values[:, : len(data.layout.targets)]), axis=2)[r, t, np.maximum(o, 0)]
    truth[(position > last) | (history == 0)[:, None]] = np.nan
    return Pairs(r, t, o, steps, truth)


def sample(data: Usage, limit: int, rows: int, rng: np.random.Generator) -> Pairs:
    """Draw random pairs of fitted resources whose targets do not pass ``limit``."""
    scored, horizon = data.score_steps, data.layout.horizon
    usable = np.flatnonzero(data.fitted & (data.first < limit) & (data.last > data.first))
    if len(usable) == 0:
        raise DataError("no resource that is fitted on has two rows before the first forecast origins", table="usage")
    reach = max(1, min(horizon, limit - int(data.first[usable].min()) - min(data.layout.season, limit // 3)))
    k = min(data.effort.steps_per_pair, max(reach, 1))
    n = -(-rows // k)
    steps = rng.integers(1, min(int(scored[-1]), reach) + 1, (n, k))
    if len(scored) < min(int(scored[-1]), reach):
        # Half the rows at the scored steps, half spread over the horizon on a log scale.
        steps = np.exp(rng.uniform(0, np.log(reach + 1), (n, k))).astype(np.int64)
        near = scored[scored <= reach]
        if len(near):
            steps[:, : max(1, k // 2)] = rng.choice(near, (n, max(1, k // 2)))
    steps = np.clip(steps, 1, reach)
    r = usable[rng.integers(0, len(usable), n)]
    t = rng.integers(0, len(data.layout.targets), n)
    low = data.first[r]
    # Most origins have a season of history; the truncation covers the rest.
    latest = np.minimum(limit, data.last[r]) - steps.max(axis=1)
    low = np.minimum(low + data.layout.season - 1, np.maximum(low, latest))
    o = low + (rng.random(n) * np.maximum(latest - low + 1, 1)).astype(np.int64)
    pairs = _pairs(data, r, t, o, steps)
    pairs.truth[o[:, None] + steps > limit] = np.nan
    keep = pairs.known.any(axis=1)
    return Pairs(r[keep], t[keep], o[keep], steps[keep], pairs.truth[keep])


def features_of(data: Usage, pairs: Pairs, rng: np.random.Generator | None = None) -> list[tuple[slice, Rows]]:
    """Return features of pairs in chunks; with ``rng`` histories are cut and other columns and clocks withheld at random."""
    n, k = pairs.steps.shape
    context = data.layout.context
    size = max(1, min(2_000_000 // context, 60_000 // k + 1))
    keep = np.full(n, context)
    clock, columns = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    if rng is not None:
        short = np.flatnonzero(rng.random(n) < TRUNCATED)
        keep[short] = np.exp(rng.uniform(0, np.log(context), len(short))).astype(np.int64)
        clock[rng.random(n) < WITHOUT_CLOCK] = False
        columns[rng.random(n) < WITHOUT_OTHERS] = False
    out = []
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        r, t, o = pairs.resource[part], pairs.target[part], pairs.origin[part]
        history = history_of(data, r, t, o, context)
        # At least the last known value stays, or there would be nothing to forecast from.
        last_known = context - 1 - np.argmax(~np.isnan(history[:, ::-1]), axis=1)
        history[np.arange(context) < np.minimum(context - keep[part], last_known)[:, None]] = np.nan
        time = data.time(r, o)
        time[~clock[part]] = np.datetime64("NaT")
        exogenous = others_of(data, r, t, o)
        if exogenous is not None:
            exogenous[~columns[part]] = np.nan
        out.append((part, features(history, time, pairs.steps[part], t, data.layout, exogenous)))
    return out


def history_of(data: Usage, r: np.ndarray, column: np.ndarray, o: np.ndarray, length: int) -> np.ndarray:
    """Return the values up to the origins, NaN before the record; (n, length), float64."""
    position = o[:, None] + np.arange(1 - length, 1)
    found = data.values[r[:, None], column[:, None], np.maximum(position, 0)].astype(np.float64)
    return np.where(position >= 0, found, np.nan)


def others_of(data: Usage, r: np.ndarray, t: np.ndarray, o: np.ndarray) -> np.ndarray | None:
    """Return the last seven seasons of the other columns, (n, E, 7 seasons); a target's own slot is NaN."""
    layout = data.layout
    if not layout.exogenous:
        return None
    out = np.empty((len(r), len(layout.exogenous), 7 * layout.season))
    for i, name in enumerate(layout.exogenous):
        column = data.columns.index(name)
        out[:, i] = history_of(data, r, np.full(len(r), column), o, out.shape[2])
        if name in layout.targets:
            out[t == column, i] = np.nan
    return out


def block_of(data: Usage, pairs: Pairs, rng: np.random.Generator | None) -> Block:
    """Build the booster's rows of pairs; ``rng`` as in `features_of`."""
    x, y, weight, target = [], [], [], []
    for part, rows in features_of(data, pairs, rng):
        known = pairs.known[part]
        scaled = (pairs.truth[part] - rows.level[:, None]) / rows.scale[:, None]
        x.append(rows.x[known])
        y.append(scaled[known])
        weight.append(np.broadcast_to(rows.scale[:, None], known.shape)[known])
        target.append(np.broadcast_to(pairs.target[part][:, None], known.shape)[known])
    w, t = np.concatenate(weight), np.concatenate(target)
    size = np.bincount(t, minlength=len(data.layout.targets))
    mean = np.bincount(t, weights=w, minlength=len(size)) / np.maximum(size, 1)
    return Block(np.concatenate(x), np.concatenate(y), w / mean[t], t)


def keys_of(data: Usage, pairs: Pairs) -> pd.DataFrame:
    """Return what names a scored row: ``resource_id, origin, target, step``."""
    r = pairs.flat(pairs.resource)
    origin = data.time(r, pairs.flat(pairs.origin))
    return pd.DataFrame(
        {
            "resource_id": np.asarray(data.resources, dtype=object)[r],
            "origin": pd.DatetimeIndex(origin).tz_localize("UTC"),
            "target": np.asarray(data.layout.targets, dtype=object)[pairs.flat(pairs.target)],
            "step": pairs.steps[pairs.known],
        }
    )
