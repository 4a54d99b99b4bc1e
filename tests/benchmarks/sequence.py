"""How often the running judgement of two versions is wrong, and how many labels it takes: one table, to reports/sequence.md.

Run as ``python tests/benchmarks/sequence.py`` (about two minutes). No model is trained: the chance of a failure varies from one block of a
resource's time to the next, and two versions see its logit under independent noise. Both are scored by the Brier score, and
the judgement is looked at after *every* label, up to 5,000.

- *no difference*: both versions have noise of one size; a verdict of better or worse is wrong;
- *a difference*: the candidate's noise is smaller;
- *overlapping windows*: 24 rows in a row share their truth and most of both versions' errors. Taken as if they were
  independent, they mislead; their blocks do not.

Beside it stands what a t-test at 5 % says if somebody looks after every 50 labels and stops at the first hit.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from aiops_core.judge import sequence

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "reports" / "sequence.md"
RUNS, LABELS, MARGIN = 2_000, 5_000, 0.005
#: Share of blocks before a failure, spread of their logits, noise of a good version.
RATE, SPREAD, NOISE = 0.05, 1.5, 0.5
ROWS = 24
LOOK = 50


def differences(rng: np.random.Generator, n: int, champion: float, candidate: float) -> np.ndarray:
    """Return how much better the candidate's Brier score is on n independent blocks, (n,)."""
    logit = rng.normal(np.log(RATE / (1 - RATE)) - 0.5, SPREAD, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-logit))
    losses = [(1 / (1 + np.exp(-logit - rng.normal(0, size, n))) - truth) ** 2 for size in (champion, candidate)]
    return np.asarray(losses[0] - losses[1])


def overlapping(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return the differences of two equal versions on n rows, of which `ROWS` in a row share truth and error."""
    shared = differences(rng, -(-n // ROWS), NOISE, NOISE)
    return np.clip(np.repeat(shared, ROWS)[:n] + rng.normal(0, 0.002, n), -1, 1)


def by_t_test(found: np.ndarray) -> bool:
    """Say whether a t-test at 5 % that is looked at again and again ever finds a difference."""
    n = np.arange(1, len(found) + 1)
    mean = np.cumsum(found) / n
    spread = np.sqrt(np.maximum(np.cumsum(found**2) / n - mean**2, 1e-18))
    t = np.abs(mean) / spread * np.sqrt(n)
    return bool((t[LOOK - 1 :: LOOK] > 1.96).any())


def wrong(runs: int, draw: Callable[[np.random.Generator], np.ndarray]) -> tuple[int, int, Counter[str]]:
    """Return the wrong verdicts of the sequence, those of the t-test, and all verdicts of the sequence."""
    verdicts: Counter[str] = Counter()
    tested = 0
    for seed in range(runs):
        found = draw(np.random.default_rng([seed, 1]))
        verdicts[sequence.settled(found, MARGIN)[0]] += 1
        tested += by_t_test(found)
    return verdicts[sequence.BETTER] + verdicts[sequence.WORSE] + verdicts[sequence.CHANGED], tested, verdicts


def errors(runs: int) -> Iterator[str]:
    """Measure runs without a difference; yield the table's lines."""
    cases: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
        "independent blocks": lambda rng: differences(rng, LABELS, NOISE, NOISE),
        "worse versions, independent blocks": lambda rng: differences(rng, LABELS, 3 * NOISE, 3 * NOISE),
        f"{ROWS} overlapping windows a block, judged by block": lambda rng: (
            overlapping(rng, LABELS * ROWS // 4).reshape(-1, ROWS).mean(axis=1)
        ),
        f"{ROWS} overlapping windows a block, wrongly judged by row": lambda rng: overlapping(rng, LABELS),
    }
    for name, draw in cases.items():
        count, tested, verdicts = wrong(runs, draw)
        yield (
            f"| {name} | **{100 * count / runs:.1f} %** | {100 * tested / runs:.0f} % | "
            f"{100 * verdicts[sequence.EQUIVALENT] / runs:.0f} % | {100 * verdicts[sequence.GO_ON] / runs:.0f} % |"
        )


def power(runs: int) -> Iterator[str]:
    """Measure runs with a difference; yield the table's lines."""
    for times in (1.0, 1.4, 2.0, 3.0, 4.0):
        truth = float(differences(np.random.default_rng(0), 2_000_000, times * NOISE, NOISE).mean())
        found = [
            sequence.settled(differences(np.random.default_rng([seed, 2]), LABELS, times * NOISE, NOISE), MARGIN)
            for seed in range(runs)
        ]
        needed = sorted(LABELS + 1 if units is None else units for _, units in found)[runs // 2]
        shares = Counter(verdict for verdict, _ in found)
        told = ", ".join(f"{verdict} {100 * count / runs:.0f} %" for verdict, count in shares.most_common())
        median = f"{needed:,}" if needed <= LABELS else f"more than {LABELS:,}"
        yield f"| {times:g} | {truth:+.4f} | {median} | {told} |"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    lines = [
        "# How far the running judgement can be trusted",
        "",
        f"Made by `tests/benchmarks/sequence.py` (`make sequence`): {runs:,} simulated runs a line of up to {LABELS:,} labelled units,",
        f"looked at after every one; Brier score, margin {MARGIN:g}, alpha {sequence.ALPHA:g}, failures before {100 * RATE:.0f} % of the units.",
        "",
        "## No difference: how often it finds one all the same",
        "",
        f"Beside it, a t-test at 5 % that is looked at after every {LOOK} labels and stopped at the first hit.",
        "",
        "| the units | wrong: better or worse | wrong by t-test | equivalent | still collecting |",
        "| --- | --- | --- | --- | --- |",
        *errors(runs),
        "",
        "The last line is why `aiops models judge` takes a block of a resource's time as one unit, not a row.",
        "",
        "## A difference: how many labels it takes",
        "",
        "The champion's noise, in units of the candidate's; the true difference of the Brier scores; the median of the labelled",
        "units until a verdict stands, and which one. A difference within the margin may rightly be called equivalent.",
        "",
        "| noise | difference | median of labelled units | verdicts |",
        "| --- | --- | --- | --- |",
        *power(runs),
    ]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
