"""Pictures of a search: progress, learning curves, which parameters mattered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from aiops_core.judge.metrics import WORDS
from aiops_core.search import SearchResult
from aiops_core.study.pictures.common import BLUE, GREEN, INK, ORANGE, RED, SOFT, Picture, canvas


def search_progress(result: SearchResult) -> Picture:
    """Draw the objective of every trial, in the order of their start, and the best so far."""
    figure, axes = canvas(f"{len(result.trials)} trials: validation {_words(result)}")
    values = result.trials[result.objective]
    best = values.cummax() if result.mode == "max" else values.cummin()
    colours = result.trials["status"].map({"completed": BLUE, "pruned": SOFT, "errored": RED}).to_numpy()
    axes.scatter(np.arange(1, len(values) + 1), values, c=colours, s=26, zorder=3)
    axes.step(np.arange(1, len(values) + 1), best, where="post", color=ORANGE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial (blue: to the end, grey: pruned, line: best so far)", ylabel=_words(result))
    return figure


def learning_curves(result: SearchResult) -> Picture:
    """Draw the validation numbers of every trial step by step."""
    figure, axes = canvas("Learning curves of the trials, the best in orange")
    scores = result.trials[result.objective]
    best: Any = scores.idxmax() if result.mode == "max" else scores.idxmin()
    winner = result.trials.loc[best, "trial"]
    for name, curve in result.curves.groupby("trial", sort=False):
        if name != winner:
            axes.plot(curve["step"], curve[result.objective], color=SOFT, linewidth=0.8, alpha=0.7)
    curve = result.curves[result.curves["trial"] == winner]
    axes.plot(curve["step"], curve[result.objective], color=ORANGE, linewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel=f"validation {_words(result)}")
    return figure


def parameters(result: SearchResult) -> Picture:
    """Draw the rank correlation of every searched parameter with the objective, over the trials that reported."""
    usable = result.trials[result.trials[result.objective].notna()]
    score = usable[result.objective].rank()
    strength: dict[str, float] = {}
    for column in (c for c in usable.columns if c.startswith("param:")):
        values = usable[column]
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            values = score.groupby(values.astype(str)).transform("mean")
        if values.nunique() > 1 and score.nunique() > 1:
            strength[column.removeprefix("param:")] = float(np.corrcoef(values.rank(), score)[0, 1])
    order = sorted(strength, key=lambda n: abs(strength[n]))
    figure, axes = canvas("Which parameters mattered", height=max(2.4, 0.9 + 0.34 * len(order)))
    better = 1 if result.mode == "max" else -1
    axes.barh(order, [strength[n] for n in order], color=[GREEN if better * strength[n] > 0 else RED for n in order])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlim=(-1, 1), xlabel=f"rank correlation with {_words(result)} (green: more is better)")
    return figure


def _words(result: SearchResult) -> str:
    return WORDS.get(result.objective, result.objective)
