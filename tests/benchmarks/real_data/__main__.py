"""Measure every source with the ordinary command, and default parameters under both protocols; write reports/real-data.md.

Run as ``make benchmark-data``. What was measured with the same code, seed and number of seeds is not measured again
(``--anew`` does), and the tables are written after every source, so that a run that was ended goes on where it was.
``ARGS="--only cmapss smd"`` measures some. Nothing new begins after ``--minutes``. Reads the data sets from
``AIOPS_DATASETS_DIR``, by default the folder ``../shared/datasets`` beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import learning
import ordinary
import protocols
import table
from plan import MEASURES, MINUTES, STORE, code_digest, datasets_folder, tasks_of

STEPS = ("ordinary", "protocols")
#: Options of the command and Efforts that make a look at the machinery quick; its figures mean nothing.
QUICK_OPTIONS = ["--trials", "2"]
QUICK = {
    "failure": {"epoch_rows": (300, 300), "max_steps": 1},
    "threat": {"max_rows": 2_000, "final_trees": 20},
    "capacity": {"search_rows": 2000, "final_rows": 4000, "edge_rows": 2000, "linear_rows": 2000, "scored_rows": 2000},
}


def read() -> dict[str, dict[str, Any]]:
    """Return what has been measured; a store of another form holds nothing for these tables."""
    found = json.loads(STORE.read_text(encoding="utf-8")) if STORE.is_file() else {}
    known = found if isinstance(found, dict) else {}
    return {step: known.get(step, {}) for step in STEPS}


def waiting(
    state: dict[str, dict[str, Any]], sources: list[str], key: dict[str, Any], anew: bool
) -> list[tuple[str, str]]:
    """Return the steps that are still to be done, source by source."""
    steps = [(step, source) for source in sources for step in STEPS]
    if anew:
        return steps
    return [(t, s) for t, s in steps if {k: state[t].get(s, {}).get(k) for k in ("digest", *key)} != key_of(s, key)]


def key_of(source: str, key: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal for a measurement to stand."""
    return {"digest": code_digest(source), **key}


def plan_words(steps: list[tuple[str, str]], minutes: float) -> str:
    """Return the time plan."""
    each = [(step, source, MINUTES[source][STEPS.index(step)]) for step, source in steps]
    lines = [f"  {source}: {step}, about {expected} min" for step, source, expected in each]
    total = sum(expected for *_, expected in each)
    return "\n".join([f"time plan: {total} min expected, at most {minutes:g} in all", *lines])


def take(step: str, source: str, arguments: argparse.Namespace, left: float) -> dict[str, Any]:
    """Take one step."""
    if step == "ordinary":
        extra = QUICK_OPTIONS if arguments.quick else []
        return ordinary.measure(
            source, seed=arguments.seed, seeds=arguments.seeds, limit=left, extra=extra, keep=arguments.keep
        )
    less = QUICK[tasks_of(source)[0]] if arguments.quick and len(tasks_of(source)) == 1 else {}
    return protocols.measure(source, seed=arguments.seed, less=less)


def main() -> None:
    """Measure the sources asked for and rewrite the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--keep", type=Path, help="folder that gets the report, as reports/example did from synthetic")
    parser.add_argument("--curve", action="store_true", help="only the learning curves, of the sources named by --only")
    parser.add_argument("--anew", action="store_true", help="measure again what was measured with the same code")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5, help="final fits of each model")
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--quick", action="store_true", help="two trials, tiny fits, nothing kept: does it run at all?")
    arguments = parser.parse_args()
    began = time.monotonic()
    os.environ["AIOPS_DATASETS_DIR"] = str(datasets_folder())
    if arguments.curve:
        known = json.loads(learning.CURVE.read_text(encoding="utf-8")) if learning.CURVE.is_file() else []
        fresh = [source for source in learning.CURVES if source in arguments.only]
        kept = [row for row in known if row["source"] not in fresh]
        kept += [row for source in fresh for row in learning.learning_curve(source, arguments.seed)]
        learning.CURVE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    state, key = read(), {"seed": arguments.seed, "seeds": arguments.seeds}
    steps = [] if arguments.curve else waiting(state, arguments.only, key, arguments.anew)
    print(plan_words(steps, arguments.minutes), flush=True)
    late: list[str] = []
    for step, source in steps:
        left = 60 * arguments.minutes - (time.monotonic() - began)
        if left <= 0:
            late.append(f"{source} ({step})")
            continue
        print(f"== {source}: {step}, {left / 60:.0f} min left", flush=True)
        try:
            found = take(step, source, arguments, left)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            late.append(f"{source} ({step}{', failed' if isinstance(error, subprocess.CalledProcessError) else ''})")
            continue
        if arguments.quick:
            print(json.dumps(found)[:300], flush=True)
            continue
        state[step][source] = {**key_of(source, key), **found}
        STORE.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        table.write(state, seed=arguments.seed, seeds=arguments.seeds, left=late)
    if not arguments.quick:
        table.write(state, seed=arguments.seed, seeds=arguments.seeds, left=late)
    print(f"{(time.monotonic() - began) / 60:.0f} min; not measured: {', '.join(late) or 'nothing'}", flush=True)


if __name__ == "__main__":
    main()
