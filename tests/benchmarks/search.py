"""Does the search earn its time? Defaults only, random, TPE with ASHA, at the same budget; to reports/search.md.

Run as ``python tests/benchmarks/search.py`` (at most 60 minutes; it goes on where an earlier run ended). The test part of each
source is put away first. What is left is split again by the same rules, and its test part is the *outer validation*,
which no search has seen: on it the arms are decided. Then the same parameters are fitted on everything before the real
test part, and its figure stands beside it. The budget is the seconds that trials computed, summed over workers.

- *defaults*: the task's default points, unsearched;
- *random*: points drawn at random, each fitted to its end, best first;
- *search*: TPE and ASHA, best trial first, the default points among them;
- *kept*: the same search, but the default point first unless another is better by more than noise: what a report does.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna

from aiops_core import search
from aiops_core.data.sources import load
from aiops_core.data.tables import Dataset
from aiops_core.judge.intervals import LOWER_IS_BETTER
from aiops_core.judge.seeds import over_seeds
from aiops_core.search.connection import ONE_THREAD

ROOT = Path(__file__).resolve().parents[2]
STATE, TABLE = ROOT / "reports" / "search.json", ROOT / "reports" / "search.md"
#: Task of each source, whether it is a folder, and the seconds that one search may take.
SOURCES = {"smd": ("failure", True, 90), "nsl-kdd": ("threat", False, 40), "azure-v1": ("capacity", True, 40)}
ARMS = ("defaults", "random", "search", "kept")
TRIALS = 40
QUICK = {
    "failure": {"epoch_rows": (300, 300), "max_steps": 3},
    "threat": {"max_rows": 2_000, "final_trees": 20},
    "capacity": {"search_rows": 2000, "final_rows": 4000, "edge_rows": 2000, "linear_rows": 2000, "scored_rows": 2000},
}


def inner(task: ModuleType, dataset: Dataset, data: Any) -> Dataset:
    """Return a data set without its test part."""
    if task.NAME == "threat":
        activity = dataset.tables["activity"]
        kept = np.ones(len(activity), dtype=bool)
        kept[data.index("test")] = False
        rest = activity[kept].drop(columns="split", errors="ignore").reset_index(drop=True)
        return replace(dataset, tables={"activity": rest})
    name = {"failure": "telemetry", "capacity": "usage"}[task.NAME]
    table = dataset.tables[name]
    if task.NAME == "failure":
        keys = data.keys("test")
        first = keys.groupby("resource_id")["timestamp"].min()
    else:
        from aiops_core.tasks.capacity.pairs import keys_of

        keys = keys_of(data, data.parts["test"])
        # What lies at an origin is known to it.
        first = keys.groupby("resource_id")["origin"].min()
    ends = table["resource_id"].map(first)
    tables = {**dataset.tables, name: table[~(table["timestamp"] >= ends)].reset_index(drop=True)}
    if task.NAME == "failure":
        incidents = dataset.tables["incidents"]
        late = incidents["start"] >= incidents["resource_id"].map(first)
        tables["incidents"] = incidents[~late].reset_index(drop=True)
    return replace(dataset, tables=tables)


def value(task: Any, data: Any, ranked: list[dict[str, Any]], seed: int) -> float:
    """Fit the final model from parameter sets and return its main metric on the test part of ``data``."""
    model = task.finish(ranked, data, seed=seed)
    found = task.evaluate(data, task.predict(model, data, "test"), seed=seed)
    return float(found[task.MAIN_METRIC]["value"])


def at_random(task: Any, data: Any, seconds: float, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Fit random points until their seconds are spent; return them, best first, and how many there were."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    space, scored = task.space(data), []
    spent = 0.0
    while spent < seconds:
        params, reports = study.ask(space).params, []
        began = time.monotonic()
        task.fit(params, data, seed=seed, report=lambda step, found, to=reports: to.append(found[task.OBJECTIVE]))
        spent += time.monotonic() - began
        scored.append((max(reports) if task.MODE == "max" else -min(reports), params))
    scored.sort(key=lambda one: -one[0])
    return [params for _, params in scored], len(scored)


def searched(task: Any, data: Any, seconds: float, seed: int) -> search.SearchResult:
    """Return what the product's search finds in so many seconds."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    with tempfile.TemporaryDirectory() as folder:
        timer.start()
        try:
            return search.search(task, data, n_trials=TRIALS, seed=seed, folder=folder, stop=stop)
        finally:
            timer.cancel()


def measure(source: str, seed: int, seconds: float, less: dict[str, Any], tell: Callable[..., None]) -> None:
    """Take one source through all arms with one seed; ``tell`` gets every arm as it ends."""
    name, folder, _ = SOURCES[source]
    task: Any = importlib.import_module(f"aiops_core.tasks.{name}")
    datasets = Path(os.environ.get("AIOPS_DATASETS_DIR", ROOT.parent / "shared" / "datasets"))
    dataset = load(str(datasets / source) if folder else source, seed=seed, tasks=[name])
    effort = task.Effort(**less)
    outer = task.prepare(dataset, seed=seed, effort=effort)
    data = task.prepare(inner(task, dataset, outer), seed=seed, effort=effort)
    began = time.monotonic()
    result = searched(task, data, seconds, seed)
    wall = time.monotonic() - began
    computed = float(result.trials["seconds"].sum())
    kept = search.chosen(task, data, result, seed=seed)
    choosing = time.monotonic() - began - wall
    points, tried = at_random(task, data, computed, seed)
    arms = {
        "defaults": (task.defaults(data), 0, 0.0),
        "random": (points, tried, computed),
        "search": (result.ranked, result.counts["trials"], computed),
        "kept": (kept.ranked, result.counts["trials"], computed + choosing),
    }
    known: dict[str, tuple[float, float]] = {}
    for arm, (ranked, trials, spent) in arms.items():
        same = json.dumps(ranked[:3], sort_keys=True)
        if same not in known:
            known[same] = (value(task, data, ranked, seed), value(task, outer, ranked, seed))
        validated, tested = known[same]
        told = {
            "metric": task.MAIN_METRIC,
            "outer": validated,
            "test": tested,
            "trials": trials,
            "seconds": round(spent, 1),
        }
        if arm == "kept" and kept.choice is not None:
            told["choice"] = kept.choice.chosen
        tell(arm, told)


def code_digest(source: str) -> str:
    """Return what a source's figures depend on in the code, 12 hexadecimal digits."""
    library = ROOT / "aiops_core"
    names = ("data", "judge", "search", "servable", f"tasks/{SOURCES[source][0]}")
    files = sorted(path for name in names for path in (library / name).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*files, Path(__file__)])).hexdigest()[:12]


def gains(state: dict[str, Any], source: str, arm: str, part: str) -> list[float]:
    """Return by how much an arm is better than the defaults, one a seed that has both."""
    found = {key.split("/")[1]: one for key, one in state.items() if key.startswith(f"{source}/") and key.endswith(arm)}
    base = {k.split("/")[1]: one for k, one in state.items() if k.startswith(f"{source}/") and k.endswith("defaults")}
    sign = -1.0 if next(iter(base.values()), {}).get("metric") in LOWER_IS_BETTER else 1.0
    return [sign * (found[seed][part] - base[seed][part]) for seed in sorted(found) if seed in base]


def write(state: dict[str, Any], path: Path) -> None:
    """Write the table: per source and arm, outer validation and test over seeds, and the paired gain over the defaults."""
    lines = [
        "# Does the search earn its time?",
        "",
        "Measured by `tests/benchmarks/search.py`, which says how. Decided on an outer validation that no search has seen; the",
        "test is shown afterwards. Means over seeds; a gain is paired by seed, positive when better, with the 95 % t-interval of",
        f"its mean. {os.cpu_count()} cores; *seconds* are those that trials computed, summed over workers.",
        "",
        "| source | arm | metric | outer validation | gain over defaults | test | gain on test | trials | seconds | seeds |",
        "| --- " * 10 + "|",
    ]
    said = []
    for source in SOURCES:
        for arm in ARMS:
            found = [one for key, one in state.items() if key.startswith(f"{source}/") and key.endswith(f"/{arm}")]
            if not found:
                continue
            cells = [source, f"**{arm}**", found[0]["metric"]]
            for part in ("outer", "test"):
                mean = over_seeds([one[part] for one in found])
                cells.append(f"{mean['mean']:.4f} ± {mean['spread']:.4f}")
                change = over_seeds(gains(state, source, arm, part) or [0.0])
                cells.append(
                    "–"
                    if arm == "defaults"
                    else f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
                )
                if part == "outer" and arm in ("search", "kept"):
                    better = change["low"] > 0
                    said.append(
                        f"- {source}, {arm}: {'better' if better else 'not shown to be better'} than the defaults."
                    )
            cells += [f"{np.mean([one[name] for one in found]):.0f}" for name in ("trials", "seconds")]
            lines.append(f"| {' | '.join([*cells, str(len(found))])} |")
    path.write_text("\n".join([*lines, "", "Decided on the outer validation:", "", *said]) + "\n", encoding="utf-8")


def main() -> None:
    """Measure what is missing and rewrite the table after every arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--quick", action="store_true", help="one seed, tiny fits, nothing kept: does it run at all?")
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began = time.monotonic()
    stored = json.loads(STATE.read_text(encoding="utf-8")) if STATE.is_file() and not arguments.quick else {}
    # Figures of other code are not averaged with these.
    state = {k: one for k, one in stored.items() if one["digest"] == code_digest(k.split("/")[0])}
    longest = 0.0
    # Seeds outside: when time is up, every source has as many.
    for seed in range(7, 7 + (1 if arguments.quick else arguments.seeds)):
        for source in arguments.only:
            if all(f"{source}/{seed}/{arm}" in state for arm in ARMS):
                continue
            if time.monotonic() - began + longest > 60 * arguments.minutes:
                print(f"no time for {source}, seed {seed}", flush=True)
                continue

            def tell(arm: str, found: dict[str, Any], source: str = source, seed: int = seed) -> None:
                state[f"{source}/{seed}/{arm}"] = {"digest": code_digest(source), **found}
                print(source, seed, arm, found, flush=True)
                if not arguments.quick:
                    STATE.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
                    write(state, TABLE)

            name, _, seconds = SOURCES[source]
            less = QUICK[name] if arguments.quick else {}
            started = time.monotonic()
            with search.cluster():
                measure(source, seed, 8 if arguments.quick else seconds, less, tell)
            longest = max(longest, time.monotonic() - started)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            write(state, Path(folder) / "search.md")
            print((Path(folder) / "search.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
