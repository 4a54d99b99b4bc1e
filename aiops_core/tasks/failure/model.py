"""The search space, and the model: the calibrated mean of cross-fitted networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from aiops_core.data import splits
from aiops_core.servable.failure import apply_calibration, choose_threshold, clock_of, log_odds
from aiops_core.tasks.failure.data import CHUNK, MODEL, FailureData, Params, Prediction, Report
from aiops_core.tasks.failure.decision import policies
from aiops_core.tasks.failure.network import MAIN, import_tensorflow, patch_size, summarise_patches
from aiops_core.tasks.failure.recurrence import choose_bandwidth, looked_up, recurrence, recurrence_table, recurs
from aiops_core.tasks.failure.split import near, rows_before_test, steps_to_next, stretches, thin_rows
from aiops_core.tasks.failure.stack import ALONE, Member, combined, platt, stack_of
from aiops_core.tasks.failure.training import train_network
from aiops_core.tasks.failure.tree_graph import statistics_of
from aiops_core.tasks.failure.trees import chosen_trees, final_trees, tree_logits, trees_of
from aiops_core.tasks.failure.units import incidents_of
from aiops_core.tasks.failure.window_statistics import window_statistics


def space(data: FailureData) -> dict[str, BaseDistribution]:
    """Return the search space; ``patch`` is the number of steps that one LSTM step summarises."""
    longest = max(1, data.window // 6)
    return {
        "units": CategoricalDistribution([16, 32, 48]),
        "patch": CategoricalDistribution([p for p in (1, 2, 3, 5, 8, 10) if p <= longest]),
        "local": CategoricalDistribution([0, 1]),
        "clock": CategoricalDistribution([0, 1] if data.effort.clock else [0]),
        "dense": CategoricalDistribution([16, 32]),
        "dropout": FloatDistribution(0.0, 0.5),
        "input_dropout": FloatDistribution(0.0, 0.3),
        "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
        "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
    }


def defaults(data: FailureData) -> list[dict[str, Any]]:
    """Return the points that are tried first."""
    patches = [p for p in (1, 2, 3, 5, 8, 10) if p <= max(1, data.window // 10)]
    base: dict[str, Any] = {
        "units": 32,
        "patch": patches[-1],
        "local": 1,
        "clock": int(data.effort.clock),
        "dense": 16,
        "dropout": 0.2,
        "input_dropout": 0.0,
        "learning_rate": 6e-3,
        "weight_decay": 1e-4,
    }
    # The second is for few incidents in many metrics, where the first learns the incidents by heart.
    careful = {**base, "local": 0, "dropout": 0.4, "input_dropout": 0.1, "learning_rate": 3e-3, "weight_decay": 1e-2}
    return [base, careful, *([{**base, "clock": 0}] if data.effort.clock else [])]


def steps(data: FailureData) -> int:
    """Return the most steps that `fit` reports: what a full trial has."""
    return data.effort.max_steps


@dataclass
class FailureModel:
    """Networks whose mean logit is calibrated.

    Attributes
    ----------
    networks : list
        Keras models: ``{"patches", "clock"}`` to logits (n, number of horizons).
    slope, offset : float
        Calibration of the mean logit.
    threshold : float
        Alarm threshold: of the rule ``max_f1`` until `follow` chooses by another.
    curve : dict
        Policy curve on rows no network of the prediction was trained on, see `policies`.
    params : list of dict
        Parameters of each network.
    aligned : list of (float, float)
        Factor and shift that bring each network's logits to a common scale before the mean.
    native : dict
        The combined Keras model under its name.
    trees : dict
        Fitted trees by family; none in a trial.
    table : ndarray or None
        See `recurrence_table`; None where the time of day says nothing.
    members : list of Member
        What the networks' mean and each family of trees count.
    """

    networks: list[Any]
    params: list[dict[str, Any]]
    aligned: list[tuple[float, float]]
    slope: float = 1.0
    offset: float = 0.0
    threshold: float = 0.5
    curve: dict[str, list[float]] = field(default_factory=dict)
    native: dict[str, Any] = field(default_factory=dict)
    trees: dict[str, Any] = field(default_factory=dict)
    table: np.ndarray | None = None
    members: list[Member] = field(default_factory=lambda: list(ALONE))


def fit(params: Params, data: FailureData, *, seed: int, report: Report | None = None) -> FailureModel:
    """Train one network on the training part; validation calibrates it and sets its threshold.

    Parameters
    ----------
    params : mapping
        A point of `space`.
    seed : int
    report : callable, optional
        Called after every epoch with validation ``average_precision, roc_auc, log_loss`` and ``train_loss``.

    Returns
    -------
    FailureModel
        Not calibrated; see `finish`.
    """
    rows = np.flatnonzero((data.part == splits.TRAIN) & data.example)
    held = np.isin(data.part, (splits.VALIDATION, splits.TEST))
    check = thin_rows(data.ends["validation"], data.effort.validation_rows)
    network, logits = train_network(params, data, rows, steps_to_next(data, held), check, seed=seed, report=report)
    model = FailureModel([network], [dict(params)], [(1.0, 0.0)])
    _decide(model, data, check, logits)
    return model


def finish(ranked: list[dict[str, Any]], data: FailureData, *, seed: int) -> FailureModel:
    """Train the final model: ``networks`` for each of ``folds`` blocks of the training and validation data, without it.

    The networks take the best ``finalists`` parameter sets in turn; trees are fitted without it as well, and once
    on all rows. What the mean of the networks and the trees predict for the blocks says what each of them counts,
    calibrates their sum and gives the policy curve; of these rows, those of validation also ranked the parameter sets.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets of the search, best first.
    """
    found = held_out(ranked, data, seed=seed)
    if found is None:
        return fit(ranked[0], data, seed=seed)
    model, bandwidth = found.model, found.bandwidth
    model.trees = final_trees(data, seed=seed)
    if bandwidth is not None:
        model.table = recurrence_table(data, rows_before_test(data), bandwidth)
    own = found.logits[np.searchsorted(found.rows, found.examples)]
    count = incidents_of(data, found.examples)
    model.members = stack_of(found.names, own, data.label(found.examples), count)
    logits = combined(model.members, found.logits)
    _decide(model, data, found.rows, logits, examples=found.examples, watched=found.watched)
    return model


@dataclass
class HeldOut:
    """What members say of blocks that they have not seen.

    Attributes
    ----------
    model : FailureModel
        With the networks only.
    bandwidth : float or None
        Of past incidents; None where the time of day says nothing.
    names : list of str
        Of the members.
    rows : ndarray, (n,)
        Positions, ascending.
    logits : ndarray, (n, n_members)
    examples, watched : ndarray
        Which rows are examples, and which are rows of every step; ascending.
    """

    model: FailureModel
    bandwidth: float | None
    names: list[str]
    rows: np.ndarray
    logits: np.ndarray
    examples: np.ndarray
    watched: np.ndarray


def held_out(ranked: list[dict[str, Any]], data: FailureData, *, seed: int) -> HeldOut | None:
    """Train the members without each block and let them predict it; None where no block can be left out.

    Parameters
    ----------
    ranked : list of dict
        Parameter sets of the search, best first.
    """
    distinct = [dict(t) for t in dict.fromkeys(tuple(sorted(p.items())) for p in ranked)][: data.effort.finalists]
    common = thin_rows(np.flatnonzero((data.fold >= 0) & data.example), data.effort.align_rows)
    points = {family: point for family, (point, _) in chosen_trees(data, seed=seed).items()}
    bandwidth = choose_bandwidth(data)[0] if recurs(data) else None
    networks, used, outputs, owner = [], [], [], []
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    votes: list[np.ndarray] = []
    for k in range(data.effort.folds):
        rows, scored, steps_of = _block(data, k)
        truth = data.label(scored)
        if len(rows) == 0 or data.label(rows).sum() == 0 or truth.sum() in (0, len(truth)):
            continue
        bound = steps_to_next(data, (data.fold == k) | (data.part == splits.TEST))
        heard = np.union1d(scored, steps_of)
        check = np.union1d(heard, common)
        for j in range(k * data.effort.networks, (k + 1) * data.effort.networks):
            params = distinct[j % len(distinct)]
            network, logits = train_network(params, data, rows, bound, check, seed=seed + j)
            networks.append(network)
            used.append(params)
            outputs.append((check, logits))
            owner.append(len(parts))
        votes.append(tree_logits(trees_of(data, rows, points, seed=seed), window_statistics(data, heard)))
        if bandwidth is not None:
            votes[-1] = np.column_stack([votes[-1], log_odds(recurrence(data, rows, heard, bandwidth))])
        parts.append((heard, scored, steps_of))
    if not networks:
        return None
    aligned = _alignment([x[np.searchsorted(check, common)] for check, x in outputs])
    scaled = [factor * x + shift for (_, x), (factor, shift) in zip(outputs, aligned, strict=True)]
    means = [
        np.mean(
            [x[np.searchsorted(c, heard)] for x, (c, _), o in zip(scaled, outputs, owner, strict=True) if o == i],
            axis=0,
        )
        for i, (heard, _, _) in enumerate(parts)
    ]
    heard, examples, watched = (np.concatenate(found) for found in zip(*parts, strict=True))
    order = np.argsort(heard, kind="stable")
    logits = np.column_stack([np.concatenate(means), np.concatenate(votes)])[order]
    names = ["lstm", *points, *([] if bandwidth is None else ["recurrence"])]
    model = FailureModel(networks, used, aligned)
    return HeldOut(model, bandwidth, names, heard[order], logits, np.sort(examples), np.sort(watched))


def _block(data: FailureData, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows to learn from without block ``k``, and of the block the examples and the rows of every step."""
    block = data.fold == k
    away = ~block if data.by_resource else ~near(data, block, data.served_window + data.horizon)
    rows = np.flatnonzero((data.fold >= 0) & (data.part != splits.TEST) & away & data.example)
    rows = rows[steps_to_next(data, data.part == splits.TEST)[rows] > data.horizon]
    examples = np.concatenate([data.ends["train"], data.ends["validation"]])
    examples = np.sort(examples[block[examples]])
    steps = np.flatnonzero(block & data.example & np.isin(data.part, (splits.TRAIN, splits.VALIDATION)))
    most = data.effort.watched_rows
    return rows, thin_rows(examples, most), stretches(data, steps, most)


def _alignment(logits: list[np.ndarray]) -> list[tuple[float, float]]:
    """Return factor and shift of each network's logits that give all of them one mean and spread on the same rows.

    The surer network would otherwise dominate the mean, and no single calibration would fit all held-out blocks.
    Labels are not looked at.
    """
    mean, spread = np.array([x.mean() for x in logits]), np.array([max(x.std(), 1e-6) for x in logits])
    factor = spread.mean() / spread
    return [(float(k), float(mean.mean() - k * m)) for k, m in zip(factor, mean, strict=True)]


def _decide(
    model: FailureModel,
    data: FailureData,
    rows: np.ndarray,
    logits: np.ndarray,
    *,
    examples: np.ndarray | None = None,
    watched: np.ndarray | None = None,
) -> None:
    """Calibrate on held-out logits of examples, then set the policy curve and the default threshold.

    By default all rows are examples; ``watched`` are those on which alerts are counted.
    """
    order = np.argsort(rows, kind="stable")
    rows, logits = rows[order], logits[order]
    examples = rows if examples is None else np.sort(examples)
    own = logits[np.searchsorted(rows, examples)]
    model.slope, model.offset = platt(own, data.label(examples))

    def probability(x: np.ndarray) -> np.ndarray:
        return apply_calibration(x, model.slope, model.offset)

    steps = None
    if watched is not None:
        watched = np.sort(watched)
        steps = (watched, probability(logits[np.searchsorted(rows, watched)]))
    model.curve = policies(data, examples, probability(own), watched=steps)
    model.threshold = choose_threshold(model.curve, "max_f1")


def follow(model: FailureModel, policy: Mapping[str, Any]) -> None:
    """Choose a model's threshold by a decision policy, as that of its servable is chosen.

    Parameters
    ----------
    policy : mapping
        Arguments of `aiops_core.servable.failure.choose_threshold`: ``rule``, and its costs or budget.

    Raises
    ------
    ServableError
        For an unknown rule or a cost or budget that is not positive.
    """
    model.threshold = choose_threshold(model.curve, **policy)


def predict(model: FailureModel, data: FailureData, part: str) -> Prediction:
    """Predict the examples of a part with the Keras networks and the trees.

    Returns
    -------
    dict
        ``probability`` (n,), float64 and ``alarm`` (n,), bool.
    """
    ends = data.ends[part]
    logits = _logits(model, data, ends)[:, None]
    if model.trees:
        logits = np.column_stack([logits, tree_logits(model.trees, _as_served(data, ends))])
    if model.table is not None:
        logits = np.column_stack([logits, log_odds(looked_up(model.table, data.resource[ends], data.time[ends]))])
    probability = apply_calibration(combined(model.members, logits), model.slope, model.offset)
    return {"probability": probability, "alarm": probability >= model.threshold}


def _as_served(data: FailureData, ends: np.ndarray) -> np.ndarray:
    """Return window statistics by the graph that is served: of the fast ones, last digits differ."""
    chunks = [ends[i : i + CHUNK] for i in range(0, len(ends), CHUNK)]
    return np.concatenate([statistics_of(data.windows(some)) for some in chunks])


def _logits(model: FailureModel, data: FailureData, ends: np.ndarray) -> np.ndarray:
    """Return the mean logits (n,), float64, of the windows that end at the given rows."""
    combined = combine_networks(model, data)
    logits = np.zeros(len(ends))
    for i in range(0, len(ends), CHUNK):
        chosen = ends[i : i + CHUNK]
        feed = {"window": data.windows(chosen), "clock": clock_of(data.time[chosen], len(chosen))}
        logits[i : i + CHUNK] = np.asarray(combined({k: feed[k] for k in combined.input}, training=False))[:, 0]
    return logits


def combine_networks(model: FailureModel, data: FailureData) -> Any:
    """Return one Keras model: raw windows and clock to the mean logit of all networks, (n, 1)."""
    if "keras" not in model.native:
        _, keras = import_tensorflow()
        from keras import layers

        inputs = {"window": layers.Input((data.window, len(data.features)), name="window")}
        if any("clock" in network.input for network in model.networks):
            inputs["clock"] = layers.Input((1,), name="clock")
        sizes = [patch_size(params, data) for params in model.params]
        patches = {size: summarise_patches(inputs["window"], data.window, size, data) for size in sorted(set(sizes))}
        feeds = [{**inputs, "patches": patches[size]} for size in sizes]
        logits = [n({k: f[k] for k in n.input})[:, MAIN : MAIN + 1] for n, f in zip(model.networks, feeds, strict=True)]
        scaled = [factor * x + shift for x, (factor, shift) in zip(logits, model.aligned, strict=True)]
        mean = scaled[0] if len(scaled) == 1 else layers.Average()(scaled)
        model.native["keras"] = keras.Model(inputs, mean, name=MODEL)
    return model.native["keras"]
