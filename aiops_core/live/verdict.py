"""Which of two versions is better on live traffic, in words; safe to look at as often as one likes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core.judge import sequence
from aiops_core.live.pairs import LEAST, Pairs, pairs_of

__all__ = ["Compared", "Loss", "compare"]

#: Largest difference that does not matter: of a log loss, absolutely, as the gate has it; of the others as a share of the
#: champion's own loss; of errors as a share of both together.
LOG_MARGIN = 0.05 / -math.log(LEAST)
SHARE, LEAST_MARGIN = 0.1, 1e-4
ERROR_MARGIN = 0.025
_UNIT = {"failure": "blocks of a resource's time", "threat": "hours of a source", "capacity": "forecasts of a resource"}


@dataclass(frozen=True)
class Loss:
    """One loss of both versions on the same units, 0 to 1.

    Attributes
    ----------
    name : str
    champion, candidate : float
        Means; NaN without units.
    judged : Sequential
    """

    name: str
    champion: float
    candidate: float
    judged: sequence.Sequential


@dataclass(frozen=True)
class Compared:
    """The verdict on a candidate.

    Attributes
    ----------
    task, champion, candidate : str, int, int
    verdict : str
        As in `aiops_core.judge.sequence`: of the first loss.
    words : str
        The same in a sentence or two.
    losses : tuple of Loss
    rows, waiting : int
        Answers of both versions with and without a truth.
    """

    task: str
    champion: int
    candidate: int
    verdict: str
    words: str
    losses: tuple[Loss, ...]
    rows: int
    waiting: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; NaN is None."""
        return {
            "task": self.task,
            "champion": self.champion,
            "candidate": self.candidate,
            "verdict": self.verdict,
            "words": self.words,
            "answers": {"labelled": self.rows, "waiting": self.waiting},
            "losses": [
                {
                    "name": loss.name,
                    "champion": _plain(loss.champion),
                    "candidate": _plain(loss.candidate),
                    **{key: _plain(value) for key, value in asdict(loss.judged).items()},
                }
                for loss in self.losses
            ],
        }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def compare(
    state: Path,
    task: str,
    champion: int,
    candidate: int,
    *,
    since: Any = None,
    until: Any = None,
    known_at: Any = None,
    alpha: float = sequence.ALPHA,
) -> Compared:
    """Compare a candidate with the champion on what both answered and whose truth is known.

    Parameters
    ----------
    state : Path
        State folder, with journal and feedback.
    task : {"failure", "threat", "capacity"}
    champion, candidate : int
    since, until, known_at : datetime or str, optional
        As in `pairs_of`.
    alpha : float
        Largest share of wrong verdicts.
    """
    found = pairs_of(state, task, champion, candidate, since=since, until=until, known_at=known_at)
    losses = tuple(_loss(name, *sides, alpha) for name, sides in found.losses.items())
    words = _words(task, champion, candidate, losses, found)
    return Compared(
        task, champion, candidate, losses[0].judged.verdict, words, losses, found.rows, found.waiting
    )  # fmt: skip


def _loss(name: str, champion: np.ndarray, candidate: np.ndarray, alpha: float) -> Loss:
    means = [float(side.mean()) if len(side) else math.nan for side in (champion, candidate)]
    if name == "log loss":
        margin = LOG_MARGIN
    elif name.endswith("absolute error"):
        margin = ERROR_MARGIN
    else:
        margin = max(SHARE * (0.0 if math.isnan(means[0]) else means[0]), LEAST_MARGIN)
    return Loss(name, means[0], means[1], sequence.judge(champion - candidate, margin, alpha=alpha))


def _words(task: str, champion: int, candidate: int, losses: tuple[Loss, ...], found: Pairs) -> str:
    first = losses[0]
    judged = first.judged
    units = f"{judged.units:,} {_UNIT[task]}"
    if not judged.units:
        waiting = f"; {found.waiting:,} answers of both wait for their truth" if found.waiting else ""
        return f"Go on collecting: no answer of both versions {champion} and {candidate} has a truth yet{waiting}."
    lies = f"the {first.name} of {candidate} is {_signed(judged)} that of champion {champion} over {units}"
    about = {
        sequence.BETTER: f"Version {candidate} is better: {lies}.",
        sequence.WORSE: f"Version {candidate} is worse: {lies}.",
        sequence.EQUIVALENT: f"No difference that matters: {lies}, within the margin of {judged.margin:.2g}.",
        sequence.GO_ON: f"Go on collecting: {lies}; the margin is {judged.margin:.2g}.",
        sequence.CHANGED: f"No difference fits the whole time of {units}: judge again from a later time on (--since).",
    }[judged.verdict]
    if len(losses) > 1 and {judged.verdict, losses[1].judged.verdict} == {sequence.BETTER, sequence.WORSE}:
        about += f" Its {losses[1].name} speaks against that: look at both before anything is promoted."
    return about


def _signed(judged: sequence.Sequential) -> str:
    """Return by how much a loss is lower or higher, with the interval."""
    side = "below" if judged.mean > 0 else "above"
    low, high = sorted((judged.low, judged.high)) if judged.mean > 0 else sorted((-judged.low, -judged.high))
    return f"{abs(judged.mean):.2g} ({low:.2g} to {high:.2g}) {side}"
