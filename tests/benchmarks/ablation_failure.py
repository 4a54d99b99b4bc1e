"""What each member of the failure model brings, and how far fitted weights are to be trusted; to reports/ablation-failure.md.

Run as ``python tests/benchmarks/ablation_failure.py``. Nothing of the test part is looked at: members that have not seen a block
of the training and validation data predict it, weights are fitted on the other blocks, and the block is scored.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from real_data.plan import argument_of
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from aiops_core.data.sources import load
from aiops_core.tasks import failure
from aiops_core.tasks.failure import stack
from aiops_core.tasks.failure.model import HeldOut, held_out
from aiops_core.tasks.failure.units import incidents_of

TABLE = Path(__file__).resolve().parents[2] / "reports" / "ablation-failure.md"
SOURCES = ("cmapss", "smd", "asd", "backblaze")
PRIORS = (0.0, 10.0, 30.0, 100.0, 300.0, 1e9)


def score(data: failure.FailureData, found: HeldOut, columns: list[int], prior: float) -> tuple[float, float]:
    """Return mean average precision and log loss over the blocks, each scored with weights of the others."""
    logits = found.logits[np.searchsorted(found.rows, found.examples)][:, columns]
    truth, block = data.label(found.examples), data.fold[found.examples]
    names = [found.names[j] for j in columns]
    reached, loss = [], []
    for k in np.unique(block):
        rest, mine = block != k, block == k
        count = incidents_of(data, found.examples[rest])
        members = stack.stack_of(names, logits[rest], truth[rest], count, prior=prior)
        slope, offset = stack.platt(stack.combined(members, logits[rest]), truth[rest])
        own = slope * stack.combined(members, logits[mine]) + offset
        reached.append(average_precision_score(truth[mine], own))
        loss.append(float(np.mean(np.logaddexp(0.0, own) - truth[mine] * own)))
    return float(np.mean(reached)), float(np.mean(loss))


def variants(names: list[str]) -> dict[str, tuple[list[int], float]]:
    """Return by name the columns and the prior of each variant."""
    whole = list(range(len(names)))
    found = {f"all, as it is (prior of {stack.PRIOR_INCIDENTS:g} incidents)": (whole, stack.PRIOR_INCIDENTS)}
    for j, name in enumerate(names):
        found[f"without {name}"] = ([i for i in whole if i != j], stack.PRIOR_INCIDENTS)
    found |= {f"only {name}": ([j], 0.0) for j, name in enumerate(names)}
    for prior in PRIORS:
        if prior == stack.PRIOR_INCIDENTS:
            continue
        found["equal weights" if prior > 1e6 else f"prior of {prior:g} incidents"] = (whole, max(prior, 1e-9))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=list(SOURCES))
    arguments = parser.parse_args()
    columns: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for source in arguments.only:
        for seed in range(7, 7 + arguments.seeds):
            data = failure.prepare(load(argument_of(source)), seed=seed)
            found = held_out(failure.defaults(data)[: data.effort.finalists], data, seed=seed)
            assert found is not None
            for name, (some, prior) in variants(found.names).items():
                columns.setdefault(source, {}).setdefault(name, []).append(score(data, found, some, prior))
            print(source, seed, flush=True)
    TABLE.write_text(table(columns, arguments.seeds), encoding="utf-8")


def table(columns: dict[str, dict[str, list[tuple[float, float]]]], seeds: int) -> str:
    """Return the page: average precision (log loss) by variant and source, and the mean rank of both."""
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    means: dict[str, dict[str, Any]] = {
        source: {name: np.mean(values, axis=0) for name, values in found.items()} for source, found in columns.items()
    }
    ranks: dict[str, list[float]] = {name: [] for name in names}
    for found in means.values():
        for sign, j in ((-1, 0), (1, 1)):
            for name, rank in zip(found, rankdata([sign * value[j] for value in found.values()]), strict=True):
                ranks[name].append(float(rank))
    lines = [
        "# What each member of the failure model brings",
        "",
        "`python tests/benchmarks/ablation_failure.py`: average precision (log loss) on held-out blocks of the training and",
        f"validation data, weights fitted on the other blocks, mean over trainings at default parameters, here {seeds}. No test row",
        "is looked at. The mean rank is over sources and both measures; 1 is best.",
        "",
        "| variant | " + " | ".join(means) + " | mean rank |",
        "| --- |" + " --- |" * (len(means) + 1),
    ]
    for name in names:
        cells = [f"{found[name][0]:.4f} ({found[name][1]:.5f})" if name in found else "–" for found in means.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {np.mean(ranks[name]):.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
