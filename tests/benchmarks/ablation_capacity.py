"""What each idea brings the capacity forecast, on periods before the test part; write reports/ablation-capacity.md.

Run as ``.venv/bin/python tests/benchmarks/ablation_capacity.py``. Every data set is cut once and twice where its test
part begins, so that what is scored lies before all that a report tests on, and everything is fitted on rows before that.
Reads azure-v1 and bizitobs-l2c from ``AIOPS_DATASETS_DIR``, by default ``../shared/datasets`` beside the repository.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from aiops_core.data import sources, tables
from aiops_core.judge import metrics
from aiops_core.servable.capacity_features import Rows, features, fit_context
from aiops_core.tasks import capacity
from aiops_core.tasks.capacity import pairs as rows_of
from aiops_core.tasks.capacity.naive import median, repeated
from aiops_core.tasks.capacity.scale import naive_scale
from aiops_core.tasks.capacity.theta import theta

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "reports" / "ablation-capacity.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
SETS = ("azure-v1", "bizitobs-l2c", "synthetic")
#: Half the training rows of a trial: what an idea brings shows with fewer.
EFFORT = capacity.Effort(search_rows=20_000)


def earlier(name: str, cuts: int) -> tables.Dataset:
    """Return a data set without its last ``cuts`` test parts."""
    folder = Path(os.environ.get("AIOPS_DATASETS_DIR", ROOT.parent / "shared" / "datasets"))
    if name == "synthetic":
        found = sources.load(name, seed=3, n_samples=2000, tasks=["capacity"])
    else:
        found = sources.load(str(folder / name), seed=3, tasks=["capacity"])
    config = {**tables.DEFAULT_CONFIG["capacity"], **found.config.get("capacity", {})}
    reach = max(config.get("score_steps") or [config["horizon"]])
    times = np.sort(found.tables["usage"]["timestamp"].unique())
    last = times[-1 - cuts * ((config["origins"] - 1) * config["origin_step"] + reach)]
    frame = found.tables["usage"]
    return replace(found, tables={"usage": frame[frame["timestamp"] <= last].reset_index(drop=True)}, oracles={})


def with_forecasts(history: Any, last: Any, steps: Any, target: Any, layout: Any, exogenous: Any = None) -> Rows:
    """Return the features, and simple forecasts as further ones: Theta by season and without one, the median of three."""
    rows = features(history, last, steps, target, layout, exogenous)
    past, season = fit_context(np.asarray(history, dtype=np.float64), layout.context), layout.season
    same = repeated(past, steps, season)
    three = [np.where(np.isnan(x), rows.level[:, None], x) for x in (same, median(past[:, -season:])[:, None])]
    found = [theta(past, steps, s) for s in (1, season, 7 * season)]
    found.append(np.median(np.stack([*np.broadcast_arrays(*three, rows.level[:, None])]), axis=0))
    scaled = [((x - rows.level[:, None]) / rows.scale[:, None]).astype(np.float32) for x in found]
    return Rows(np.concatenate([rows.x, np.stack(scaled, axis=-1)], axis=-1), rows.level, rows.scale)


def error(data: capacity.CapacityData, forecast: np.ndarray, part: str = "test") -> float:
    """Return the objective of a search: the absolute error in units of the target's usual one."""
    pairs = data.parts[part]
    truth, target = pairs.truth[pairs.known], pairs.flat(pairs.target)
    values = metrics.capacity_values(truth, forecast, None, None, scale=naive_scale(data, part), target=target)
    return float(values(np.ones(len(truth)))[capacity.OBJECTIVE])


def ideas(dataset: tables.Dataset, seeds: int) -> dict[str, float]:
    """Return the mean error over seeds of every idea."""
    found: dict[str, list[float]] = {}
    bag: list[np.ndarray] = []
    for seed in range(seeds):
        for builder, words in ((features, ""), (with_forecasts, ", with simple forecasts as features")):
            rows_of.features = builder  # type: ignore[attr-defined]
            data = capacity.prepare(dataset, seed=seed, effort=EFFORT)
            models = [capacity.fit(point, data, seed=seed) for point in capacity.defaults(data)]
            trees, both = (capacity.predict(model, data, "test")["p50"] for model in models)
            found.setdefault(f"mean of both{words}", []).append(error(data, (trees + both) / 2))
            if builder is features:
                checked = [error(data, capacity.predict(m, data, "validation")["p50"], "validation") for m in models]
                bag.append((trees + both) / 2)
                found.setdefault("trees alone", []).append(error(data, trees))
                found.setdefault("trees on the backbone", []).append(error(data, both))
                found.setdefault("the better one in validation", []).append(
                    error(data, both if checked[1] < checked[0] else trees)
                )
                simple = capacity.baselines(data, seed=seed) if seed == 0 else {}
                found |= {name: [error(data, other["p50"])] for name, other in simple.items()}
    rows_of.features = features  # type: ignore[attr-defined]
    found[f"median of {seeds} means of both"] = [error(data, np.median(bag, axis=0))]
    return {name: float(np.mean(values)) for name, values in found.items()}


def table(found: dict[str, dict[str, float]], seeds: int) -> str:
    """Return the table, the lowest mean rank first."""
    names = list(next(iter(found.values())))
    values = np.array([[column[name] for column in found.values()] for name in names])
    rank = rankdata(values, axis=0).mean(axis=1)
    lines = [f"| idea | {' | '.join(found)} | mean rank |", "| --- |" + " --- |" * (len(found) + 1)]
    for i in np.argsort(rank, kind="stable"):
        lines.append(f"| {names[i]} | {' | '.join(f'{v:.4f}' for v in values[i])} | {rank[i]:.1f} |")
    return "\n".join(
        [f"MAE in units of the target's usual error, lower is better, mean over {seeds} seeds.", "", *lines]
    )


def main() -> None:
    """Measure and rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for name in SETS:
        for cuts in (1, 2):
            began = time.monotonic()
            found[f"{name}, {cuts} back"] = ideas(earlier(name, cuts), arguments.seeds)
            print(name, cuts, f"{time.monotonic() - began:.0f} s", found[f"{name}, {cuts} back"], flush=True)
    text = TABLE.read_text(encoding="utf-8") if TABLE.is_file() else BEGIN + END
    head, tail = text.split(BEGIN)[0], text.split(END)[-1]
    TABLE.write_text(f"{head}{BEGIN}{table(found, arguments.seeds)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
