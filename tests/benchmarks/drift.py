"""False pages in quiet weeks, days to detection of drifts, and what the estimate said where the truth is known.

Models of the three tasks are trained once on the synthetic source and then asked as the service would be, on traffic of other
resources that nobody has trained on; the service itself is not needed. Each week is looked at once a day, as the schedule of
``aiops serve`` does.

    python tests/benchmarks/drift.py [--weeks 300] [--seeds 20] [--tasks failure,threat,capacity] [--models FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import drift_table
import numpy as np
import pandas as pd

from aiops_core import servable
from aiops_core.data import sources, synthetic
from aiops_core.data.synthetic.drift import DRIFTS, drifted
from aiops_core.data.tables import Dataset
from aiops_core.facts import FACTS
from aiops_core.monitor import Traffic, look_at
from aiops_core.monitor.traffic import RECENT, days_before, spreads
from aiops_core.servable.series import windows_ending_at
from aiops_core.tasks.cards import window_statistics

REPORTS = Path(__file__).resolve().parents[2] / "reports"
DAY, WEEK = np.timedelta64(86_400, "s"), np.timedelta64(7 * 86_400, "s")
#: Examples to train on, and resources (rows a day for threat) of the traffic.
SAMPLES = {"failure": 5_000, "threat": 6_000, "capacity": 3_000}
TRAFFIC = {"failure": 60, "threat": 400, "capacity": 40}
EFFORT: dict[str, dict[str, Any]] = {
    "failure": {"max_steps": 6, "networks": 1, "epoch_rows": (5_000, 8_000), "watched_rows": 8_000},
    "threat": {},
    "capacity": {"search_rows": 10_000, "final_rows": 20_000, "edge_rows": 10_000},
}
#: Hours between two answers about a resource.
EVERY = {"failure": 6, "capacity": 24}
#: Weeks of the traffic's record that are used, of eight: the last one brings kinds of fault of its own, and the first
#: has no history.
USED = (1, 7)
#: When the drift begins, weeks; days for which it is looked for; weeks over which a slow one grows.
BEGINS, LOOKED, SLOW = 4, {"sudden": 7, "slow": 14}, 2
#: Share of the answers to `threat` that somebody labels.
LABELLED = 0.1


@dataclass
class World:
    """Answers about some resources over some weeks, with what came true and when it was known."""

    traffic: Traffic
    windows: np.ndarray | None
    known_from: np.ndarray
    parts: dict[str, np.ndarray]
    row_time: np.ndarray

    def until(self, begin: np.datetime64, end: np.datetime64) -> Traffic:
        """Return what was known at a time of the answers since another."""
        whole = self.traffic
        rows = np.flatnonzero((whole.time >= begin) & (whole.time < end))
        code, resource = np.unique(whole.resource[rows], return_inverse=True)
        measured = np.flatnonzero((self.row_time >= begin) & (self.row_time < end) & np.isin(whole.row_resource, code))
        last = end - np.timedelta64(1, "s")
        truth = {name: values[rows] for name, values in self.parts.items()}
        if whole.task == "capacity":
            truth = _due(truth, self.known_from[rows] <= end)
        elif truth:
            truth["known"] = truth["known"] & (self.known_from[rows] <= end)
        recent = None
        if self.windows is not None:
            newest = np.zeros(len(code), dtype=np.int64)
            newest[resource] = rows
            recent = self.windows[newest][:, -RECENT:]
        return replace(
            whole,
            time=whole.time[rows],
            day=days_before(whole.time[rows], last),
            resource=resource,
            names=[whole.names[c] for c in code],
            features=whole.features[measured],
            row_resource=np.searchsorted(code, whole.row_resource[measured]),
            row_day=days_before(self.row_time[measured], last),
            score=whole.score[rows],
            alarm=whole.alarm[rows],
            mean=None if whole.mean is None else whole.mean[rows],
            spread=None if whole.spread is None else whole.spread[rows],
            recent=recent,
            truth=truth,
            label=None if whole.label is None else whole.label[rows],
        )


def _due(truth: dict[str, np.ndarray], due: np.ndarray) -> dict[str, np.ndarray]:
    """Return the errors of the steps, (n, steps), that have come due."""
    due = due & ~np.isnan(truth["errors"])
    count = np.maximum(due.sum(axis=1), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(due, values, 0.0).sum(axis=1) / count

    usual = np.broadcast_to(truth["usual"], due.shape)
    found = {name: mean(values) for name, values in (("error", truth["errors"]), ("expected", usual))}
    return {"known": due.any(axis=1), **found, "inside": mean(truth["insides"])}


def train(task: str, folder: Path) -> servable.Servable:
    """Train one task with its first default parameters, or open what an earlier run left."""
    if not (folder / task / "card.json").is_file():
        module = importlib.import_module(f"aiops_core.tasks.{task}")
        dataset = synthetic.dataset(SAMPLES[task], seed=1, tasks=(task,))
        if task == "capacity":
            dataset = dataset.configured(task, horizon=168)
        data = module.prepare(dataset, seed=1, effort=module.Effort(**EFFORT[task]))
        module.export(module.finish([module.defaults(data)[0]], data, seed=1), data, folder / task)
    return servable.load(folder / task)


def dataset_of(task: str, seed: int) -> Dataset:
    """Return tables of resources that no model has seen."""
    per_resource = {"failure": 54, "threat": 56, "capacity": 74}[task]
    return synthetic.dataset(int(TRAFFIC[task] * per_resource), seed=10_000 + seed, tasks=(task,))


def world(task: str, model: Any, tables: dict[str, pd.DataFrame], seed: int) -> World:
    """Ask a model about everything in some tables."""
    return {"failure": _failure, "threat": _threat, "capacity": _capacity}[task](model, tables, seed)


def _codes(frame: pd.DataFrame) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    resource, names = pd.factorize(frame["resource_id"])
    seconds = frame["timestamp"].dt.tz_localize(None).to_numpy().astype("datetime64[s]")
    first = np.searchsorted(resource, resource, side="left")
    return resource, list(names), seconds, first


def _failure(model: Any, tables: dict[str, pd.DataFrame], seed: int) -> World:
    frame = tables["telemetry"]
    resource, names, seconds, first = _codes(frame)
    # Records begin at hours of their own; the calendar of the traffic begins when all have.
    begin = seconds[np.flatnonzero(np.r_[True, np.diff(resource) != 0])].max() + WEEK
    hour = (seconds - begin) // np.timedelta64(3600, "s")
    inside = _inside(tables["incidents"], resource, names, seconds)
    ends = np.flatnonzero((hour >= 0) & (hour < 168 * (USED[1] - 1)) & (hour % EVERY["failure"] == 0) & ~inside)
    values = frame[model.features].to_numpy(dtype=np.float32)
    stamps = seconds.astype(np.int64)
    windows = windows_ending_at(ends, stamps, values, first, model.window, model.step_seconds)
    probability = model.predict(windows, seconds[ends])
    mean, spread = window_statistics(windows)
    horizon = np.timedelta64(model.horizon * model.step_seconds, "s")
    nearest = _next_start(tables["incidents"], resource[ends], names, seconds[ends])
    parts = {"known": np.ones(len(ends), dtype=bool), "incident": nearest - seconds[ends] <= horizon}
    traffic = Traffic(
        "failure", model.card, seconds[ends], np.zeros(len(ends), int), resource[ends], names,
        values[ends].astype(np.float64), resource[ends], np.zeros(len(ends), int), probability, model.decide(probability), mean, spread,
    )  # fmt: skip
    return World(traffic, windows, seconds[ends] + horizon, parts, seconds[ends])


def _next_start(incidents: pd.DataFrame, code: np.ndarray, names: list[str], at: np.ndarray) -> np.ndarray:
    """Return when the next incident of each resource begins; far in the future where none does."""
    place = {name: i for i, name in enumerate(names)}
    out = np.full(len(at), np.datetime64("2262-01-01T00:00:00", "s"))
    starts = incidents["start"].dt.tz_localize(None).to_numpy().astype("datetime64[s]")
    owner = incidents["resource_id"].map(place).to_numpy()
    for r in range(len(names)):
        mine, own = np.flatnonzero(code == r), np.sort(starts[owner == r])
        after = np.searchsorted(own, at[mine], side="right")
        out[mine[after < len(own)]] = own[after[after < len(own)]]
    return out


def _inside(incidents: pd.DataFrame, code: np.ndarray, names: list[str], at: np.ndarray) -> np.ndarray:
    """Tell which rows lie in an incident: nobody asks for one that is there."""
    place = {name: i for i, name in enumerate(names)}
    out = np.zeros(len(at), dtype=bool)
    for one in incidents.itertuples():
        start, end = (np.datetime64(t.tz_localize(None), "s") for t in (one.start, one.end))
        out |= (code == place.get(one.resource_id, -1)) & (at >= start) & (at < end)
    return out


def _threat(model: Any, tables: dict[str, pd.DataFrame], seed: int) -> World:
    frame = tables["activity"]
    rng, n = np.random.default_rng(seed), len(frame)
    # The rows of the table come in no order: this is their time.
    at = np.datetime64("2025-03-03T00:00:00", "s") + (np.arange(n) * 8 * 7 * 86_400 // n).astype("timedelta64[s]")
    asked = frame[model.features].astype(object)
    rows = model.encode(asked.where(asked.notna(), None).to_dict("records"))
    probability = model.predict(rows)
    label = model.decide(probability)
    said = np.asarray(model.classes, dtype=object)[label]
    parts = {
        "known": rng.random(n) < LABELLED,
        "right": np.asarray(said == frame["threat_type"].to_numpy(dtype=object), dtype=bool),
    }
    traffic = Traffic(
        "threat", model.card, at, np.zeros(n, int), np.arange(n), [f"answer {i}" for i in range(n)],
        rows.astype(np.float64), np.arange(n), np.zeros(n, int), probability[np.arange(n), label], said != "normal", label=label,
    )  # fmt: skip
    return World(traffic, None, at + DAY, parts, at)


def _capacity(model: Any, tables: dict[str, pd.DataFrame], seed: int, weeks: int = 8) -> World:
    frame = tables["usage"]
    resource, names, seconds, _ = _codes(frame)
    # The traffic is the last weeks of a longer record.
    hours = len(frame) // len(names)
    cube = frame[model.features].to_numpy(dtype=np.float32).reshape(len(names), hours, -1)
    origins = np.arange(hours - weeks * 168 - 12, hours - 1, EVERY["capacity"])
    length = min(model.context, 8 * 168)
    steps = np.asarray(model.card["scored_steps"], dtype=np.int64)
    spread, usual = spreads(model.card), np.asarray(model.card["watch"]["steps"]["error"])
    near = steps[steps <= model.season]
    answers = []
    for i, target in enumerate(model.targets):
        for origin in origins:
            past = cube[:, max(0, origin + 1 - length) : origin + 1]
            last = seconds[origin] + np.zeros(len(names), dtype="timedelta64[s]")
            others = {n: past[:, :, j] for j, n in enumerate(model.features) if n != target}
            found = model.forecast(past[:, :, i], last, steps, target, others)
            place = origin + steps
            truth = np.where(place < hours, cube[:, np.minimum(place, hours - 1), i], np.nan)
            answers.append((target, i, origin, found / spread[target], truth / spread[target], past[:, -RECENT:]))
    time = np.concatenate([np.full(len(names), seconds[o]) for _, _, o, *_ in answers])
    band = np.concatenate([a[3] for a in answers])
    truth = np.concatenate([a[4] for a in answers])
    recent = np.concatenate([a[5] for a in answers])
    order = np.argsort(time, kind="stable")
    # Histories show every hour since the answer before.
    row_time = np.tile(seconds[hours - weeks * 168 : hours], len(names))
    values = cube[:, hours - weeks * 168 :].reshape(-1, cube.shape[2]).astype(np.float64)
    owner = np.repeat(np.arange(len(names)), weeks * 168)
    parts = {
        "errors": np.abs(band[:, :, 1] - truth)[order],
        "usual": np.broadcast_to(usual, truth.shape)[order],
        "insides": ((truth >= band[:, :, 0]) & (truth <= band[:, :, 2])).astype(float)[order],
    }
    n = len(time)
    traffic = Traffic(
        "capacity", model.card, time[order], np.zeros(n, int), np.tile(np.arange(len(names)), len(answers))[order], names,
        values, owner, np.zeros(len(values), int), (band[:, :, 2] - band[:, :, 0])[:, : len(near)].mean(axis=1)[order], np.zeros(n, dtype=bool),
    )  # fmt: skip
    due = time[order][:, None] + (steps * model.step_seconds).astype("timedelta64[s]")
    return World(traffic, recent[order], due, parts, row_time)


def looks(found: World, begin: np.datetime64, days: int) -> Iterator[dict[str, Any]]:
    """Yield what is found at the end of each of some days, from the answers of the week before."""
    for day in range(1, days + 1):
        end = begin + day * DAY
        yield look_at(found.until(end - WEEK, end), by_day=False)


def quiet(task: str, model: Any, weeks: int) -> dict[str, Any]:
    """Count the quiet weeks in which a task was paged, or put under watch, at least once."""
    per_world = USED[1] - USED[0]
    pages, watched, why, doubts, looked = 0, 0, [], [], 0
    for seed in range(-(-weeks // per_world)):
        found = world(task, model, dataset_of(task, 1000 + seed).tables, seed)
        start = found.traffic.time.min() + (WEEK if task != "failure" else np.timedelta64(0, "s"))
        for week in range(min(per_world, weeks - looked)):
            states = list(looks(found, start + week * WEEK, 7))
            looked += 1
            said = {one["verdict"]["state"] for one in states}
            pages += "act" in said
            watched += "watch" in said
            doubts += [w for one in states if one["verdict"]["state"] == "watch" for w in one["verdict"]["why"]][:1]
        why += [w for one in states if one["verdict"]["state"] == "act" for w in one["verdict"]["why"]][:1]
    return {"weeks": looked, "pages": pages, "watched": watched, "why": why, "doubts": doubts[:10]}


def detections(task: str, model: Any, seeds: int, pace: str) -> dict[str, dict[str, Any]]:
    """Return, by kind of drift, after how many days each seed was noticed and paged, and estimate and truth then."""
    tables = set(FACTS[task].tables)
    kinds = [kind for kind, concerned in DRIFTS.items() if tables & set(concerned)]
    out: dict[str, dict[str, Any]] = {kind: {"noticed": [], "paged": [], "estimate": [], "true": []} for kind in kinds}
    for seed in range(seeds):
        base = dataset_of(task, seed)
        for kind in kinds:
            begin, at, over = _when(task, base, model)
            moved = drifted(base, kind, at, over=over if pace == "slow" else 0.0, seed=seed)
            noticed, paged, last = None, None, None
            found = world(task, model, moved.tables, seed)
            for day, one in enumerate(looks(found, begin, LOOKED[pace]), start=1):
                state = one["verdict"]["state"]
                noticed = noticed or (day if state in ("watch", "act") else None)
                paged = paged or (day if state == "act" else None)
                last = one
            out[kind]["noticed"].append(noticed)
            out[kind]["paged"].append(paged)
            if last and last["estimate"] and last["quality"]:
                out[kind]["estimate"].append(last["estimate"]["ratio"])
                out[kind]["true"].append(last["quality"]["value"] / max(last["estimate"]["promised"], 1e-9)
                                         if task != "capacity" else last["quality"]["ratio"])  # fmt: skip
    return out


def _when(task: str, base: Dataset, model: Any) -> tuple[np.datetime64, float, float]:
    """Return the time of the drift, and the shares of the table that lie before it and in a slow one."""
    if task == "threat":
        return np.datetime64("2025-03-03T00:00:00", "s") + BEGINS * WEEK, BEGINS / 8, SLOW / 8
    stamps = base.tables[FACTS[task].tables[0]]["timestamp"].dt.tz_localize(None)
    first, last = (np.datetime64(t, "s") for t in (stamps.min(), stamps.max()))
    begin = last - (8 - BEGINS) * WEEK if task == "capacity" else first + (BEGINS + 1) * WEEK
    return begin, float((begin - first) / (last - first)), float(SLOW * WEEK / (last - first))


def real(task: str) -> dict[str, Any] | None:
    """Look at real traffic after a training on what lay before: NSL-KDD's test set, the last week of azure-v1."""
    if task == "failure":
        return None
    module = importlib.import_module(f"aiops_core.tasks.{task}")
    if task == "threat":
        dataset = sources.load("nsl-kdd")
        rows = dataset.tables["activity"]
        rows = rows[rows["split"] == "test"].reset_index(drop=True)
        data, tables = module.prepare(dataset, seed=1), {"activity": rows}
    else:
        folder = os.environ.get("AIOPS_DATASETS_DIR")
        if not folder:
            return None
        dataset = sources.load(str(Path(folder) / "azure-v1"))
        usage = dataset.tables["usage"]
        before = usage[usage["timestamp"] <= usage["timestamp"].max() - pd.Timedelta(days=7)]
        data, tables = module.prepare(dataset.replaced(usage=before), seed=1), {"usage": usage}
    with tempfile.TemporaryDirectory() as scratch:
        module.export(module.finish([module.defaults(data)[0]], data, seed=1), data, Path(scratch) / task)
        model = servable.load(Path(scratch) / task)
        found = _threat(model, tables, 0) if task == "threat" else _capacity(model, tables, 0, weeks=1)
        end = found.traffic.time.max() + np.timedelta64(1, "s")
        seen = look_at(found.until(end - (8 * WEEK if task == "threat" else WEEK), end + DAY), by_day=False)
    moved = [f"{one['feature']} ({one['kind']})" for one in seen["drift"] if one["drifted"]]
    measured = {key: seen[key] and {k: v for k, v in seen[key].items() if k not in ("days", "newest", "blind")}
                for key in ("estimate", "quality")}  # fmt: skip
    return {"title": dataset.title, "moved": moved, "verdict": seen["verdict"], **measured}


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tasks", default="failure,threat,capacity")
    parser.add_argument("--parts", default="quiet,sudden,slow,real")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--write", type=Path, default=REPORTS / "drift.json")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found: dict[str, Any] = json.loads(options.write.read_text()) if options.write.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for task in options.tasks.split(","):
            model = train(task, options.models or Path(scratch))
            parts: dict[str, Any] = {
                "quiet": lambda task=task, model=model: quiet(task, model, options.weeks),
                "sudden": lambda task=task, model=model: detections(task, model, options.seeds, "sudden"),
                "real": lambda task=task: real(task),
                "slow": lambda task=task, model=model: detections(task, model, max(1, options.seeds // 4), "slow"),
            }
            for part in options.parts.split(","):
                began = time.monotonic()
                found.setdefault(task, {})[part] = parts[part]()
                print(task, part, found[task][part], f"{time.monotonic() - began:.0f} s", flush=True)
                options.write.write_text(json.dumps(found, indent=1) + "\n")
                options.write.with_suffix(".md").write_text(drift_table.table(found))


if __name__ == "__main__":
    main()
