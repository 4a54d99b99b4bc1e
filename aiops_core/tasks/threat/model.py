"""The search space, the fitted model, and its predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.ensemble import RandomForestClassifier

from aiops_core.servable.threat import expected_cost_label
from aiops_core.tasks.threat.data import Params, Prediction, Report, ThreatData
from aiops_core.tasks.threat.decision import calibrate, choose_alpha, decision_weights, fit_calibration
from aiops_core.tasks.threat.forest import cross_fit, grow, merge, new_forest
from aiops_core.tasks.threat.inputs import Inputs
from aiops_core.tasks.threat.rows import Held, class_prior, fold_inputs, held_out, training_rows, trial_folds

#: Out-of-fold log loss must be below this share of the entropy of the class prior before decisions are weighted.
INFORMED = 0.98


@dataclass
class ThreatModel:
    """A forest with its calibration and decision.

    Attributes
    ----------
    forest : RandomForestClassifier
        Over the expanded features of `Inputs`; knows every class.
    inputs : Inputs
    temperature, floor : float
        Probability is ``softmax(log(votes + floor) / temperature)``.
    prior : ndarray, (n_classes,)
        Weighted class shares of the training rows.
    alpha : float
        Decision weights are ``prior ** -alpha``.
    validation : dict
        Out-of-fold ``probability`` (m, n_classes), ``label``, ``row`` (row number), ``weight`` and ``novel`` (whether
        the row's whole group was left out).
    params : list of dict
        Parameter sets in the forest, best first.
    """

    forest: RandomForestClassifier
    inputs: Inputs
    temperature: float
    floor: float
    prior: np.ndarray
    alpha: float
    validation: dict[str, np.ndarray]
    params: list[dict[str, Any]]
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> np.ndarray:
        """Decision weights, (n_classes,), mean 1: the cost of missing each class."""
        return decision_weights(self.prior, self.alpha)

    def calibrated(self, votes: np.ndarray) -> np.ndarray:
        """Return probabilities (n, n_classes) from the forest's mean votes."""
        return calibrate(votes, self.temperature, self.floor)


def space(data: ThreatData) -> dict[str, BaseDistribution]:
    """Return the search space of the forest."""
    return {
        "max_features": FloatDistribution(0.1, 0.7),
        "min_samples_leaf": IntDistribution(1, 8, log=True),
        "max_depth": IntDistribution(8, 30),
        "max_samples": FloatDistribution(0.4, 1.0),
        "criterion": CategoricalDistribution(["gini", "entropy"]),
        "balance": FloatDistribution(0.0, 0.8),
        "mask_share": FloatDistribution(0.1, 0.8),
    }


def defaults(data: ThreatData) -> list[dict[str, Any]]:
    """Return the points tried first."""
    base = {
        "max_features": 0.4,
        "min_samples_leaf": 1,
        "max_depth": 30,
        "max_samples": 1.0,
        "criterion": "gini",
        "balance": 0.1,
        "mask_share": 0.5,
    }
    return [
        base,
        {**base, "min_samples_leaf": 2},
        {**base, "criterion": "entropy", "max_features": 0.25, "balance": 0.25},
    ]


def fit(params: Params, data: ThreatData, *, seed: int, report: Report | None = None) -> ThreatModel:
    """Grow one forest for each fold, step by step, and score the rows they did not see.

    Parameters
    ----------
    params : mapping
        A point of `space`.
    data : ThreatData
    seed : int
    report : callable, optional
        Called after each of ``Effort.max_steps`` steps with ``selection``, ``macro_f1``, ``accuracy`` and ``log_loss`` of the
        validation rows, weighted as described in the module; may raise to stop.

    Returns
    -------
    ThreatModel
        The first fold's forest, to look at; `finish` fits on all rows and makes what can be exported.
    """
    effort = data.effort
    held = held_out(data, trial_folds(data))
    sizes = [effort.trees_per_step * step for step in range(1, effort.max_steps + 1)]
    forests, votes = cross_fit(params, data, held, seed=seed, sizes=sizes, report=report)
    kept = (data.group_fold != 0) & (data.row_fold != 0)
    return _assemble([dict(params)], data, forests[:1], held, votes, fold_inputs(data, kept))


def finish(ranked: list[dict[str, Any]], data: ThreatData, *, seed: int) -> ThreatModel:
    """Fit the final forest on all training rows: its trees are shared between the best parameter sets.

    Calibration and decision weights come from the out-of-fold rows of all folds.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets of the search, best first.
    data : ThreatData
    seed : int

    Returns
    -------
    ThreatModel
    """
    effort = data.effort
    chosen = [dict(params) for params in ranked[: effort.best]]
    counts = [len(part) for part in np.array_split(np.arange(effort.final_trees), len(chosen))]
    held = held_out(data, effort.folds)
    votes = np.zeros((len(held.row), len(data.classes)))
    forests: list[RandomForestClassifier] = []
    for i, (params, trees) in enumerate(zip(chosen, counts, strict=True)):
        # As many trees as are served: votes of fewer are noisier, and would be calibrated to another temperature.
        _, some = cross_fit(params, data, held, seed=seed + i, sizes=[trees])
        votes += some * trees / effort.final_trees
        rows, X, weight = training_rows(params, data, np.ones(len(data.rows), dtype=bool), seed + i)
        Z, y = data.inputs.expand(X), data.y[data.rows[rows]]
        forests.append(grow(new_forest(params, seed + i), trees, Z, y, weight, len(data.classes)))
    return _assemble(chosen, data, forests, held, votes, data.inputs)


def _assemble(
    params: list[dict[str, Any]],
    data: ThreatData,
    forests: list[RandomForestClassifier],
    held: Held,
    votes: np.ndarray,
    inputs: Inputs,
) -> ThreatModel:
    prior = class_prior(data)
    truth = data.y[data.rows[held.row]]
    temperature, floor = fit_calibration(votes, truth, held.weight)
    probability = calibrate(votes, temperature, floor)
    alpha, macro_f1 = choose_alpha(truth, probability, held.weight, prior)
    loss = float(np.average(-np.log(probability[np.arange(len(truth)), truth]), weights=held.weight))
    if loss > INFORMED * float(-(prior * np.log(prior)).sum()):
        # Nothing was learned. Weights would spread guesses over the classes, which macro-F1 takes for skill.
        alpha = 0.0
    label = expected_cost_label(probability, weights=decision_weights(prior, alpha), costs=data.costs)
    return ThreatModel(
        forest=merge(forests),
        inputs=inputs,
        temperature=temperature,
        floor=floor,
        prior=prior,
        alpha=alpha,
        validation={
            "probability": probability,
            "label": label,
            "row": data.rows[held.row],
            "weight": held.weight,
            "novel": held.novel,
        },
        params=params,
        scores={"macro_f1": macro_f1},
    )


def predict(model: ThreatModel, data: ThreatData, part: str) -> Prediction:
    """Predict a part with the native model.

    Parameters
    ----------
    part : {"train", "validation", "test"}
        ``validation`` returns the stored out-of-fold prediction and, as ``row``, the row numbers it belongs to.

    Returns
    -------
    dict
        ``probability`` (n, n_classes) and ``label`` (n,) int.
    """
    if part == "validation":
        return {name: model.validation[name] for name in ("probability", "label", "row")}
    votes = model.forest.predict_proba(model.inputs.expand(data.X[data.index(part)]))
    probability = model.calibrated(votes)
    return {
        "probability": probability,
        "label": expected_cost_label(probability, weights=model.weights, costs=data.costs),
    }
