"""What a search tells while it runs, and what it ends with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import pandas as pd

__all__ = ["Choice", "SearchResult", "TrialLog"]


class TrialLog(Protocol):
    """Receiver of live trial events; `aiops_core.tracking` has the one that writes to MLflow."""

    def started(self, trial: str, params: dict[str, Any]) -> None:
        """Announce a trial."""

    def reported(self, trial: str, step: int, metrics: dict[str, float]) -> None:
        """Pass on the validation numbers of one step."""

    def ended(self, trial: str, status: str, error: str | None) -> None:
        """Close a trial as ``completed``, ``pruned``, ``errored`` or ``interrupted``."""


@dataclass(frozen=True)
class Choice:
    """What parameters the final model begins with.

    Attributes
    ----------
    chosen : {"default", "trial"}
    why : str
        A sentence without its full stop.
    gain : dict
        Of the best trial over the default: ``metric, value, low, high`` (95 %), ``own, other`` and ``lower_end``, which
        had to be above 0. Empty where nothing was compared.
    """

    chosen: str
    why: str
    gain: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """Outcome of one search.

    Attributes
    ----------
    task : str
    objective, mode : str
        Validation number that was optimised, and its direction ("max" or "min").
    trials : DataFrame
        One row a trial: ``trial, status, steps, seconds, <objective>`` and one ``param:<name>`` column each.
    curves : DataFrame
        Columns ``trial, step`` and the validation numbers of every step.
    ranked : list of dict
        Parameter sets of the trials that reported, best first.
    counts : dict
        ``trials, completed, pruned, errored``.
    seconds : float
        Wall time, summed over interrupted sittings.
    reused : int
        Trials of earlier sittings that were not run again.
    choice : Choice, optional
        Whether the best trial or the default point goes first, see `aiops_core.search.choice`.
    """

    task: str
    objective: str
    mode: str
    trials: pd.DataFrame
    curves: pd.DataFrame
    ranked: list[dict[str, Any]]
    counts: dict[str, int]
    seconds: float
    errors: dict[str, str] = field(default_factory=dict)
    reused: int = 0
    choice: Choice | None = None

    @property
    def best_params(self) -> dict[str, Any]:
        """Parameters of the best trial."""
        return self.ranked[0]

    @property
    def best_score(self) -> float | None:
        """Best value of the objective, None where no trial reported one."""
        scores = self.trials[self.objective].dropna()
        if scores.empty:
            return None
        return float(scores.max() if self.mode == "max" else scores.min())

    def summary(self) -> dict[str, Any]:
        """Return the ``search`` section of ``report.json``."""
        return {
            **self.counts,
            "seconds": round(self.seconds, 2),
            "best_params": self.best_params,
            "objective": self.objective,
            "best_score": self.best_score,
            "errors": self.errors,
            "choice": None if self.choice is None else asdict(self.choice),
        }
