"""The threat task: splits, masking, calibration, decisions, the exported graph, explanations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import optuna
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier

from aiops_core import servable
from aiops_core.data import synthetic
from aiops_core.data.splits import TEST, TRAIN
from aiops_core.data.synthetic.threat import activity_posterior
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError, ServableError, UsageError
from aiops_core.judge import curves
from aiops_core.judge.shares import wilson
from aiops_core.servable.threat import ThreatServable, cost_matrix, expected_cost_label
from aiops_core.tasks import threat
from aiops_core.tasks.threat import learners
from aiops_core.tasks.threat import model as threat_model
from aiops_core.tasks.threat.alarms import attack_cost, novelty_words, precision_at, rare, rare_threshold, rare_words
from aiops_core.tasks.threat.decision import (
    best_weights,
    calibrate,
    choose_alpha,
    decision_weights,
    fit_calibration,
)
from aiops_core.tasks.threat.export import build_graph
from aiops_core.tasks.threat.forest import grow, new_forest
from aiops_core.tasks.threat.rows import NOVEL_SHARE, class_prior, fold_inputs, held_out, training_rows
from aiops_core.tasks.threat.split import sample


def dataset(activity: pd.DataFrame, oracle: pd.DataFrame | None = None, **config: object) -> Dataset:
    oracles = {} if oracle is None else {"threat": oracle}
    return Dataset(
        "made", "made", "none", {"activity": activity}, {"threat": {"test_fraction": 0.3, **config}}, oracles
    )


def campaigns(rows_each: int = 40, seed: int = 0) -> pd.DataFrame:
    """Flows with two numbers, a category, and campaigns as groups: six of scan, six of flood, one of normal."""
    rng = np.random.default_rng(seed)
    frames = []
    for kind, centre, services in (("scan", (4.0, 0.0), ["ssh", "http"]), ("flood", (0.0, 4.0), ["http", "dns"])):
        for campaign in range(6):
            n = rows_each + 3 * campaign
            x = rng.normal(np.array(centre) + rng.normal(0, 0.7, 2), 1.0, (n, 2))
            frames.append(
                pd.DataFrame({"a": x[:, 0], "b": np.exp(x[:, 1]), "service": rng.choice(services, n)}).assign(
                    threat_type=kind, group=f"{kind}{campaign}"
                )
            )
    n = rows_each * 12
    x = rng.normal(0, 1.2, (n, 2))
    normal = pd.DataFrame({"a": x[:, 0], "b": np.exp(x[:, 1]), "service": rng.choice(["mail", "http", "dns"], n)})
    frames.append(normal.assign(threat_type="normal", group="normal"))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def grouped() -> threat.ThreatData:
    return threat.prepare(dataset(campaigns()), seed=1)


@pytest.fixture(scope="module")
def default_data() -> threat.ThreatData:
    activity, oracle = synthetic.activity(3000, seed=3)
    return threat.prepare(dataset(activity.drop(columns="group"), oracle), seed=3)


@pytest.fixture(scope="module")
def default_model(default_data: threat.ThreatData) -> threat.ThreatModel:
    return threat.finish(threat.defaults(default_data)[1:2], default_data, seed=3)


@pytest.fixture(scope="module")
def served(
    default_model: threat.ThreatModel, default_data: threat.ThreatData, tmp_path_factory: pytest.TempPathFactory
) -> ThreatServable:
    folder = tmp_path_factory.mktemp("threat") / "servable"
    threat.export(default_model, default_data, folder)
    return opened(folder)


def opened(folder: Path) -> ThreatServable:
    loaded = ThreatServable(folder, json.loads((folder / "card.json").read_text()))
    loaded.verify()
    return loaded


# Splits --------------------------------------------------------------------------------------------------------


def test_a_group_is_in_training_or_in_test_never_in_both(grouped: threat.ThreatData) -> None:
    assert grouped.group is not None
    names = np.array(grouped.info["group_names"])[grouped.group]
    attack = names != "normal"
    shared = set(names[attack & (grouped.part == TRAIN)]) & set(names[attack & (grouped.part == TEST)])
    assert shared == set()
    assert set(grouped.y[grouped.part == TEST]) == {0, 1, 2}
    # Normal is one group and all of its class: it is divided by rows.
    assert 0 < (grouped.part[~attack] == TEST).sum() < (~attack).sum()


def test_a_group_of_several_classes_stays_whole() -> None:
    frame = campaigns()
    hosts = np.random.default_rng(0).integers(0, 30, len(frame))
    data = threat.prepare(dataset(frame.assign(group=[f"host{h}" for h in hosts])), seed=0)
    assert set(hosts[data.part == TRAIN]) & set(hosts[data.part == TEST]) == set()
    for fold in range(data.effort.folds):
        rows = data.rows[data.group_fold == fold]
        assert set(hosts[rows]) & set(hosts[np.setdiff1d(data.rows, rows)]) == set()


def test_every_attack_group_is_left_out_by_one_fold_and_learned_by_the_others(grouped: threat.ThreatData) -> None:
    assert grouped.group is not None
    group = grouped.group[grouped.rows]
    for name in np.unique(group):
        folds = np.unique(grouped.group_fold[group == name])
        assert len(folds) == 1
        assert (folds[0] == -1) == (grouped.info["group_names"][name] == "normal")
    for fold in range(grouped.effort.folds):
        learned = (grouped.group_fold != fold) & (grouped.row_fold != fold)
        assert set(grouped.y[grouped.rows[learned]]) == {0, 1, 2}


def test_validation_holds_as_much_weight_of_unseen_as_of_known_groups(grouped: threat.ThreatData) -> None:
    held = held_out(grouped, grouped.effort.folds)
    attack = grouped.group_fold[held.row] >= 0
    novel = held.weight[held.novel].sum()
    known = held.weight[attack & ~held.novel].sum()
    assert novel / (novel + known) == pytest.approx(NOVEL_SHARE, abs=0.05)


def test_the_official_split_is_kept() -> None:
    frame = campaigns()
    split = np.where(np.arange(len(frame)) % 5 == 0, "test", "train")
    data = threat.prepare(dataset(frame.assign(split=split)), seed=0)
    np.testing.assert_array_equal(data.part == TEST, split == "test")
    assert data.info["split"].startswith("official split")


def test_without_groups_every_class_is_split_in_the_same_share(default_data: threat.ThreatData) -> None:
    for label in range(len(default_data.classes)):
        share = (default_data.part[default_data.y == label] == TEST).mean()
        assert share == pytest.approx(0.3, abs=0.01)


def test_a_class_of_two_rows_is_learned_and_tested() -> None:
    frame = campaigns().drop(columns="group")
    frame.loc[:1, "threat_type"] = "rare"
    data = threat.prepare(dataset(frame), seed=0)
    rare = data.classes.index("rare")
    assert sorted(data.part[data.y == rare]) == [TRAIN, TEST]
    model = threat.fit(threat.defaults(data)[0], data, seed=0)
    assert threat.predict(model, data, "test")["probability"].shape[1] == 4


def test_a_class_that_only_the_test_part_holds_gets_a_column() -> None:
    frame = campaigns().drop(columns="group")
    frame["split"] = np.where(np.arange(len(frame)) % 4 == 0, "test", "train")
    frame.loc[frame.index[frame["split"] == "test"][:5], "threat_type"] = "new"
    data = threat.prepare(dataset(frame), seed=0)
    model = threat.finish(threat.defaults(data)[:1], data, seed=0)
    probability = threat.predict(model, data, "test")["probability"]
    assert probability.shape[1] == 4
    assert np.isfinite(probability).all()


def test_training_rows_of_one_class_are_refused() -> None:
    frame = campaigns().drop(columns="group")
    frame["split"] = np.where(frame["threat_type"] == "normal", "train", "test")
    with pytest.raises(DataError, match="training rows hold one class only"):
        threat.prepare(dataset(frame), seed=0)


def test_large_cells_are_sampled_and_keep_their_weight() -> None:
    y = np.repeat([0, 1, 2], [1000, 100, 20])
    chosen, weight = sample(y, None, 300, np.random.default_rng(0))
    count = np.bincount(y[chosen])
    assert count.sum() <= 300
    assert count[2] == 20
    shares = np.bincount(y[chosen], weights=weight) / weight.sum()
    np.testing.assert_allclose(shares, np.array([1000, 100, 20]) / 1120)


def test_groups_count_by_the_root_of_their_size() -> None:
    y, group = np.repeat([0, 1], [1000, 110]), np.repeat([0, 1, 2], [1000, 100, 10])
    chosen, weight = sample(y, group, threat.Effort().max_rows, np.random.default_rng(0))
    mass = np.bincount(group[chosen], weights=weight)
    np.testing.assert_allclose(mass / mass[2], [10.0, 10**0.5, 1.0])


def test_less_effort_means_fewer_rows_folds_steps_and_trees() -> None:
    less = threat.Effort(max_steps=2, trees_per_step=3, final_trees=5, best=2, max_rows=100, folds=2, one_fold_above=50)
    frame = campaigns().drop(columns="group")
    data = threat.prepare(dataset(frame), seed=1, effort=less)
    assert len(data.rows) <= 100
    assert set(data.row_fold) == {0, 1}
    seen: list[int] = []
    trial = threat.fit(threat.defaults(data)[0], data, seed=0, report=lambda step, values: seen.append(step))
    assert seen == [1, 2]
    assert len(trial.forest.estimators_) == 6
    assert len(trial.validation["row"]) == (data.row_fold == 0).sum()  # one fold of the two
    final = threat.finish(threat.defaults(data), data, seed=0)
    assert (len(final.params), len(final.forest.estimators_)) == (2, 5)


@pytest.mark.parametrize("field, value", [("folds", 1), ("max_steps", 0), ("final_trees", 2)])
def test_an_effort_too_small_to_work_is_refused(field: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"Effort.{field} is {value}; it must be at least"):
        threat.Effort(**{field: value})


def test_equal_seeds_give_equal_data_and_equal_models(grouped: threat.ThreatData) -> None:
    again = threat.prepare(dataset(campaigns()), seed=1)
    np.testing.assert_array_equal(again.part, grouped.part)
    np.testing.assert_array_equal(again.X, grouped.X)
    params = threat.defaults(grouped)[1]
    first, second = (threat.predict(threat.fit(params, d, seed=5), d, "test") for d in (grouped, again))
    np.testing.assert_array_equal(first["probability"], second["probability"])


@pytest.mark.parametrize("protocol, left_out", [("time", False), ("resource", True)])
def test_the_protocol_resource_leaves_whole_attacks_out_whatever_the_official_split(
    protocol: str, left_out: bool
) -> None:
    frame = campaigns()
    frame["split"] = np.where(np.arange(len(frame)) % 5 == 0, "test", "train")
    data = threat.prepare(dataset(frame), seed=0, protocol=protocol)
    attack = frame["threat_type"] != "normal"
    shared = set(frame["group"][attack & (data.part == TEST)]) & set(frame["group"][attack & (data.part == TRAIN)])
    assert (shared == set()) == left_out
    # A class of one group is tested by its rows.
    assert set(data.part[~attack]) == {TRAIN, TEST}
    assert set(frame["threat_type"][attack & (data.part == TEST)]) == {"scan", "flood"}
    assert data.info["protocol"] == protocol


def test_groups_that_the_settings_do_not_keep_whole_are_left_out_by_the_protocol_resource_alone() -> None:
    usual, other = (
        threat.prepare(dataset(campaigns(), whole_groups=False), seed=0, protocol=protocol)
        for protocol in ("time", "resource")
    )
    assert usual.group is None and usual.info["groups"] is None
    assert "group" not in usual.info["features"]
    assert other.info["groups"] == 13
    scans = other.y == other.classes.index("scan")
    assert other.group is not None
    assert not set(other.group[scans & (other.part == TEST)]) & set(other.group[scans & (other.part == TRAIN)])


def test_a_protocol_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(UsageError, match="protocol 'place' is unknown; known: time, resource"):
        threat.prepare(dataset(campaigns()), seed=0, protocol="place")
    with pytest.raises(DataError, match="leaves out whole groups, which no column names"):
        threat.prepare(dataset(campaigns().drop(columns="group")), seed=0, protocol="resource")
    with pytest.raises(DataError, match="no class has two"):
        frame = campaigns()
        threat.prepare(dataset(frame.assign(group=frame["threat_type"])), seed=0, protocol="resource")


# Features ------------------------------------------------------------------------------------------------------


def test_constant_columns_and_row_numbers_as_text_are_no_features() -> None:
    frame = campaigns()
    frame = frame.assign(same=1.0, ident=[f"flow-{i}" for i in range(len(frame))])
    data = threat.prepare(dataset(frame), seed=0)
    assert data.info["features"] == ["a", "b", "service"]
    assert [text.split()[0] for text in data.info["left_out"]] == ["same", "ident"]


def test_categories_are_ordered_by_their_share_of_attacks(grouped: threat.ThreatData) -> None:
    service = next(f for f in grouped.features if f["name"] == "service")
    assert service["categories"][0] == "mail"
    assert service["categories"][-1] == "ssh"
    assert "(other)" in service["categories"]


def with_codes_in_another_order(data: threat.ThreatData) -> threat.ThreatData:
    (j,) = (j for j, feature in enumerate(data.features) if feature["dtype"] == "category")
    turn = np.random.default_rng(3).permutation(len(data.features[j]["categories"])).astype(np.float32)
    X, fill = data.X.copy(), data.inputs.fill.copy()
    X[:, j], fill[j] = turn[X[:, j].astype(int)], turn[int(fill[j])]
    return dataclasses.replace(data, X=X, inputs=dataclasses.replace(data.inputs, fill=fill))


def test_folds_do_not_learn_from_codes_that_tell_the_labels_they_leave_out(grouped: threat.ThreatData) -> None:
    """Codes in another order, as other labels would give, change nothing: a fold orders categories by its own labels."""
    turned = with_codes_in_another_order(grouped)
    held, params = held_out(grouped, 3), threat.defaults(grouped)[0]
    _, votes = threat_model.cross_fit(params, grouped, held, seed=0, sizes=[5])
    _, same = threat_model.cross_fit(params, turned, held, seed=0, sizes=[5])
    np.testing.assert_array_equal(votes, same)
    kept = (grouped.group_fold != 0) & (grouped.row_fold != 0)
    y = grouped.y.copy()
    y[grouped.rows[~kept]] = (y[grouped.rows[~kept]] + 1) % 3
    changed = fold_inputs(dataclasses.replace(grouped, y=y), kept)
    np.testing.assert_array_equal(fold_inputs(grouped, kept).expand(grouped.X), changed.expand(grouped.X))


def test_the_model_of_a_trial_is_not_exported(grouped: threat.ThreatData, tmp_path: Path) -> None:
    trial = threat.fit(threat.defaults(grouped)[0], grouped, seed=0)
    with pytest.raises(UsageError, match="the model of a trial cannot be exported"):
        threat.export(trial, grouped, tmp_path / "s")


def test_statistics_do_not_see_test_rows() -> None:
    frame = campaigns()
    split = np.where(np.arange(len(frame)) % 4 == 0, "test", "train")
    changed = frame.copy()
    changed.loc[split == "test", ["a", "b"]] *= 1000
    plain, moved = (threat.prepare(dataset(f.assign(split=split)), seed=0) for f in (frame, changed))
    assert plain.features == moved.features
    np.testing.assert_array_equal(plain.inputs.fill, moved.inputs.fill)


def test_renaming_groups_changes_nothing() -> None:
    frame = campaigns()
    renamed = frame.assign(group="x-" + frame["group"])
    first, second = (threat.prepare(dataset(f), seed=0) for f in (frame, renamed))
    np.testing.assert_array_equal(first.part, second.part)
    np.testing.assert_array_equal(first.group_fold, second.group_fold)


# Training ------------------------------------------------------------------------------------------------------


def test_a_share_of_the_rows_is_repeated_with_masked_features(default_data: threat.ThreatData) -> None:
    every = np.ones(len(default_data.rows), dtype=bool)
    params = {"mask_share": 0.4, "balance": 0.0}
    rows, X, _ = training_rows(params, default_data, every, 0)
    n = len(default_data.rows)
    assert (len(rows) - n) / n == pytest.approx(0.4, abs=0.05)
    assert np.isnan(X[n:]).mean() > np.isnan(X[:n]).mean() + 0.3
    known = ~np.isnan(X[n:])
    np.testing.assert_array_equal(X[n:][known], default_data.X[default_data.rows[rows[n:]]][known])


def test_half_of_the_trees_cut_at_random_thresholds_however_a_forest_is_grown(grouped: threat.ThreatData) -> None:
    params = threat.defaults(grouped)[0]
    rows, X, weight = training_rows(params, grouped, np.ones(len(grouped.rows), dtype=bool), 0)
    forest = new_forest(params, 0)
    for size in (1, 5, 10):
        grow(forest, size, grouped.inputs.expand(X), grouped.y[grouped.rows[rows]], weight, len(grouped.classes))
        assert len(forest.estimators_) == size
    assert sorted(tree.splitter for tree in forest.estimators_) == ["best"] * 6 + ["random"] * 4
    model = threat.finish(threat.defaults(grouped), grouped, seed=0)
    assert sum(tree.splitter == "random" for tree in model.forest.estimators_) == 45


def test_fit_reports_every_step_and_stops_when_told(grouped: threat.ThreatData) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    threat.fit(threat.defaults(grouped)[0], grouped, seed=0, report=lambda step, values: seen.append((step, values)))
    assert [step for step, _ in seen] == list(range(1, threat.steps(grouped) + 1))
    assert all(threat.OBJECTIVE in values for _, values in seen)
    assert 0.4 < seen[-1][1][threat.OBJECTIVE] <= 1.0

    class Pruned(Exception):
        pass

    def stop(step: int, values: dict[str, float]) -> None:
        raise Pruned

    with pytest.raises(Pruned):
        threat.fit(threat.defaults(grouped)[0], grouped, seed=0, report=stop)


def test_every_point_of_the_space_can_be_fitted_and_defaults_lie_in_it(grouped: threat.ThreatData) -> None:
    space = threat.space(grouped)
    for point in threat.defaults(grouped):
        assert set(point) == set(space)
        assert all(space[name]._contains(space[name].to_internal_repr(value)) for name, value in point.items())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = [study.ask(space).params for _ in range(3)]
    model = threat.finish(chosen, grouped, seed=0)
    assert len(model.forest.estimators_) == grouped.effort.final_trees
    assert len(model.params) == grouped.effort.best


def test_the_detector_beats_the_class_prior_and_stays_below_the_oracle(
    default_data: threat.ThreatData, default_model: threat.ThreatModel
) -> None:
    mine = threat.predict(default_model, default_data, "test")
    prior = threat.baselines(default_data, seed=0)["class_prior"]
    best = threat.oracle(default_data)
    assert best is not None
    assert threat.compare(default_data, mine, {"prior": prior}, n_boot=300)["prior"]["macro_f1"]["low"] > 0.3
    reached = threat.evaluate(default_data, mine)["macro_f1"]["value"]
    possible = threat.evaluate(default_data, best)["macro_f1"]["value"]
    assert 0.75 * possible < reached < possible


def test_the_oracles_decision_weights_come_from_training_rows_and_change_only_for_a_clear_gain(
    default_data: threat.ThreatData,
) -> None:
    truth, exact = default_data.y, default_data.oracle
    assert exact is not None
    shy = np.where(np.arange(100)[:, None] < 30, [0.55, 0.45], [0.9, 0.1])
    weights = best_weights((np.arange(100) < 30).astype(int), shy)
    assert weights[1] > weights[0]  # the most probable class is never the second one
    train = default_data.part == TRAIN
    expected = (exact[~train] * best_weights(truth[train], exact[train])).argmax(axis=1)
    found = threat.oracle(default_data)
    assert found is not None
    np.testing.assert_array_equal(found["label"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_do_not_beat_the_guesses(seed: int) -> None:
    activity, _ = synthetic.activity(1000, seed=seed)
    activity["threat_type"] = np.random.default_rng(seed).permutation(activity["threat_type"])
    data = threat.prepare(dataset(activity), seed=seed)
    model = threat.finish(threat.defaults(data)[1:2], data, seed=seed)
    assert model.alpha == 0.0
    draw = threat.baselines(data, seed=seed)["prior_draw"]
    gains = threat.compare(data, threat.predict(model, data, "test"), {"draw": draw}, n_boot=300)
    assert gains["draw"]["macro_f1"]["low"] <= 0


def test_as_many_trees_are_calibrated_as_are_served(
    grouped: threat.ThreatData, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown: list[int] = []
    cross_fit = threat_model.cross_fit

    def watched(*args: object, **options: object) -> tuple[list[Any], np.ndarray]:
        forests, votes = cross_fit(*args, **options)  # type: ignore[arg-type]
        grown.extend({len(forest.estimators_) for forest in forests})
        return forests, votes

    monkeypatch.setattr(threat_model, "cross_fit", watched)
    few = dataclasses.replace(grouped, effort=threat.Effort(final_trees=20, best=2))
    model = threat.finish(threat.defaults(grouped)[:2], few, seed=0)
    assert sum(grown) == len(model.forest.estimators_) == 20
    np.testing.assert_allclose(model.validation["probability"].sum(axis=1), 1.0)


# Calibration and decision --------------------------------------------------------------------------------------


def test_the_temperature_lowers_the_log_loss_of_held_out_rows(
    default_data: threat.ThreatData, default_model: threat.ThreatModel
) -> None:
    raw = dataclasses.replace(default_model, temperature=1.0, floor=1e-3)
    loss = {}
    for name, model in (("raw", raw), ("calibrated", default_model)):
        prediction = threat.predict(model, default_data, "test")
        loss[name] = threat.evaluate(default_data, prediction)["log_loss"]["value"]
    assert loss["calibrated"] <= loss["raw"] + 0.002
    cold = dataclasses.replace(default_model, temperature=default_model.temperature * 2)
    warm = threat.evaluate(default_data, threat.predict(cold, default_data, "test"))["log_loss"]["value"]
    assert loss["calibrated"] < warm


def test_calibration_finds_the_temperature_that_was_applied() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet([0.5, 0.5, 0.5], 20_000) * 0.998 + 0.002 / 3
    truth = (rng.random((20_000, 1)) > probability.cumsum(axis=1)).sum(axis=1).clip(max=2)
    votes = curves.apply_temperature(np.log(probability), 2.0)
    temperature, _ = fit_calibration(votes, truth, np.ones(20_000))
    assert temperature == pytest.approx(0.5, rel=0.1)


def test_probabilities_are_calibrated_within_five_points(
    default_data: threat.ThreatData, default_model: threat.ThreatModel
) -> None:
    assert threat.evaluate(default_data, threat.predict(default_model, default_data, "test"))["ece"]["value"] < 0.05


def test_decision_weights_grow_as_classes_get_rarer() -> None:
    weights = decision_weights(np.array([0.9, 0.09, 0.01]), 0.5)
    assert weights[0] < weights[1] < weights[2]
    np.testing.assert_allclose(decision_weights(np.array([0.9, 0.09, 0.01]), 0.0), 1.0)


def test_alpha_follows_the_rows_it_is_chosen_on() -> None:
    """Where the rare class of training is common in validation, its weight must rise."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [500, 500])
    score = np.where(truth == 1, 0.35, 0.05) + rng.normal(0, 0.03, 1000)
    probability = np.c_[1 - score, score]
    alpha, _ = choose_alpha(truth, probability, np.ones(1000), np.array([0.9, 0.1]))
    assert alpha > 0.2


def test_costs_decide_and_can_change_at_run_time(served: ThreatServable, default_data: threat.ThreatData) -> None:
    P = served.predict(default_data.X[default_data.index("test")])
    usual = served.decide(P)
    np.testing.assert_array_equal(usual, (P * served.weights).argmax(axis=1))
    normal = served.classes.index("normal")
    dear = {name: {"normal": 200.0} for name in served.classes if name != "normal"}
    careful = served.decide(P, costs=dear)
    assert (careful == normal).sum() < (usual == normal).sum()
    np.testing.assert_array_equal(served.decide(P), usual)


def test_equal_costs_choose_the_most_probable_class() -> None:
    P = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    np.testing.assert_array_equal(expected_cost_label(P, costs=1 - np.eye(4)), P.argmax(axis=1))


def test_the_cost_matrix_of_the_settings_reaches_the_card(tmp_path: Path) -> None:
    costs = {"scan": {"normal": 20.0}, "flood": {"normal": 20.0}}
    data = threat.prepare(dataset(campaigns(), costs=costs), seed=0)
    model = threat.finish(threat.defaults(data)[:1], data, seed=0)
    threat.export(model, data, tmp_path / "s")
    loaded = opened(tmp_path / "s")
    assert loaded.costs is not None
    assert loaded.costs[loaded.classes.index("scan"), loaded.classes.index("normal")] == 20
    prediction = threat.score(loaded, data, "test")
    np.testing.assert_array_equal(prediction["label"], (prediction["probability"] @ loaded.costs).argmin(axis=1))


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"worm": {"normal": 1.0}}, "names class 'worm'"),
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.array([[0.0, -1.0], [1.0, 0.0]]), "negative"),
    ],
)
def test_a_bad_cost_matrix_is_refused(costs: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cost_matrix(costs, ["normal", "scan"])  # type: ignore[arg-type]


# Servable ------------------------------------------------------------------------------------------------------


def test_the_graph_gives_the_native_probabilities_with_and_without_missing_values(
    served: ThreatServable, default_model: threat.ThreatModel, default_data: threat.ThreatData
) -> None:
    X = default_data.X[default_data.index("test")].copy()
    X[::2][np.random.default_rng(0).random(X[::2].shape) < 0.5] = np.nan
    X[0] = np.nan
    assert np.isnan(X).mean() > 0.2
    native = default_model.calibrated(default_model.forest.predict_proba(default_model.inputs.expand(X)))
    np.testing.assert_allclose(served.predict(X), native, atol=1e-5)


def test_the_graph_is_the_native_model_for_categories_too(grouped: threat.ThreatData, tmp_path: Path) -> None:
    model = threat.finish(threat.defaults(grouped)[:1], grouped, seed=0)
    threat.export(model, grouped, tmp_path / "s")
    native = threat.predict(model, grouped, "test")
    through = threat.score(opened(tmp_path / "s"), grouped, "test")
    np.testing.assert_allclose(through["probability"], native["probability"], atol=1e-5)
    assert (through["label"] == native["label"]).mean() > 0.99


@pytest.mark.parametrize("kinds", [["normal", "scan"], ["normal", "scan", "flood"]])
def test_the_graph_holds_no_votes_of_zero(kinds: list[str], tmp_path: Path) -> None:
    frame = campaigns()
    data = threat.prepare(
        dataset(frame[frame["threat_type"].isin(kinds)]), seed=0, effort=threat.Effort(final_trees=10)
    )
    model = threat.finish(threat.defaults(data)[:1], data, seed=0)
    nodes = onnx.load_from_string(build_graph(model)).graph.node
    (trees,) = (node for node in nodes if node.op_type == "TreeEnsembleClassifier")
    (votes,) = (list(a.floats) for a in trees.attribute if a.name == "class_weights")
    assert votes and 0.0 not in votes
    threat.export(model, data, tmp_path / "s")
    native = threat.predict(model, data, "test")
    through = threat.score(opened(tmp_path / "s"), data, "test")
    np.testing.assert_allclose(through["probability"], native["probability"], atol=1e-5)


def test_unknown_categories_are_answered_like_rare_ones(grouped: threat.ThreatData, tmp_path: Path) -> None:
    model = threat.finish(threat.defaults(grouped)[:1], grouped, seed=0)
    threat.export(model, grouped, tmp_path / "s")
    loaded = opened(tmp_path / "s")
    X = loaded.encode(
        [{"a": 4.0, "b": 1.0, "service": "gopher"}, {"a": 4.0, "b": 1.0, "service": "(other)"}, {"a": 4.0}]
    )
    np.testing.assert_array_equal(X[0], X[1])
    assert np.isnan(X[2, 1:]).all()
    np.testing.assert_allclose(loaded.predict(X).sum(axis=1), 1.0)


def test_encoding_at_serving_is_the_encoding_of_training(grouped: threat.ThreatData, tmp_path: Path) -> None:
    model = threat.finish(threat.defaults(grouped)[:1], grouped, seed=0)
    threat.export(model, grouped, tmp_path / "s")
    rows = campaigns()[["a", "b", "service"]].to_dict("records")
    np.testing.assert_array_equal(opened(tmp_path / "s").encode(rows), grouped.X)


def test_encode_names_the_feature_that_is_no_number(served: ThreatServable) -> None:
    with pytest.raises(DataError, match="'unique_ips': must be a number, not 'many'"):
        served.encode([{"unique_ips": "many"}])
    with pytest.raises(DataError, match="'unique_ips': must be finite"):
        served.encode([{"unique_ips": float("inf")}])


def test_a_batch_gives_what_single_rows_give(served: ThreatServable, default_data: threat.ThreatData) -> None:
    X = default_data.X[default_data.index("test")[:64]]
    singles = np.concatenate([served.predict(x[None, :]) for x in X])
    np.testing.assert_allclose(served.predict(X), singles, atol=1e-6)
    assert served.predict(X[:0]).shape == (0, len(served.classes))


def test_input_of_another_width_is_refused(served: ThreatServable) -> None:
    with pytest.raises(ServableError, match=r"shape \(1, 3\)"):
        served.predict(np.zeros((1, 3), dtype=np.float32))


def test_a_changed_graph_does_not_pass_its_golden_examples(
    default_model: threat.ThreatModel, default_data: threat.ThreatData, tmp_path: Path
) -> None:
    threat.export(default_model, default_data, tmp_path / "s")
    other = dataclasses.replace(default_model, temperature=default_model.temperature * 1.5)
    (tmp_path / "s" / "model.onnx").write_bytes(build_graph(other))
    with pytest.raises(ServableError, match="golden output 'probability' differs"):
        opened(tmp_path / "s")


def test_the_card_says_what_the_service_needs(served: ThreatServable, default_data: threat.ThreatData) -> None:
    card = served.card
    assert card["classes"] == default_data.classes
    assert [f["name"] for f in card["features"]] == default_data.info["features"]
    for feature in card["features"]:
        assert {"median", "p01", "p99", "min", "max", "mean", "std"} <= set(feature["reference"])
    assert card["calibration"]["method"] == "temperature"
    assert len(card["decision"]["weights"]) == len(card["classes"])
    assert "prior" in card["decision"]["words"]


# Behaviour -----------------------------------------------------------------------------------------------------


def attack_probability(loaded: ThreatServable, rows: list[dict[str, object]]) -> np.ndarray:
    return 1.0 - loaded.predict(loaded.encode(rows))[:, loaded.classes.index("normal")]


def test_three_features_of_an_attack_are_enough(served: ThreatServable) -> None:
    attack = attack_probability(served, [{"failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}])
    assert attack[0] > 0.7


def test_nothing_known_raises_no_alarm(served: ThreatServable, default_data: threat.ThreatData) -> None:
    """The answer is normal, and an attack at most as probable as attacks are frequent; it should be just as probable.

    Hardly a row that the forest learns from is masked as a whole, and what is missing is filled with medians: of nothing
    it answers about as of an ordinary row, surer of normal than the class shares are.
    """
    nothing = served.predict(served.encode([{}]))
    assert served.classes[int(served.decide(nothing)[0])] == "normal"
    assert attack_probability(served, [{}])[0] <= 1 - default_data.info["class_shares"]["normal"]


def test_more_failed_logins_lower_the_attack_probability_beyond_tolerance_only_where_the_truth_does(
    served: ThreatServable, default_data: threat.ThreatData
) -> None:
    """In the data more failed logins are at times less of an attack: an expired password looks alike.

    In two rows of three the exact probability never falls; there the forest's, which is not monotone by construction,
    falls by less than 0.12 in 95 rows of 100, and from four failed logins on by less than 0.5 in any.
    """
    logins = np.array([0, 1, 2, 4, 8, 16, 32, 64], dtype=np.float32)
    rows = default_data.X[default_data.index("test")]
    grid = np.repeat(rows, len(logins), axis=0)
    grid[:, served.features.index("failed_auth_count")] = np.tile(logins, len(rows))
    exact = activity_posterior(pd.DataFrame(grid.astype(float), columns=served.features))["normal"].to_numpy()
    mine = served.predict(grid)[:, served.classes.index("normal")]
    truth, curves = ((1 - normal).reshape(len(rows), len(logins)) for normal in (exact, mine))

    def largest_fall(curves: np.ndarray) -> np.ndarray:
        return np.asarray((np.maximum.accumulate(curves, axis=1) - curves).max(axis=1))

    rising = largest_fall(truth) < 0.01
    assert rising.mean() > 0.6
    assert np.quantile(largest_fall(curves[rising]), 0.95) < 0.12
    assert largest_fall(curves[rising][:, logins >= 4]).max() < 0.5
    mean = curves.mean(axis=0)
    assert largest_fall(mean[None])[0] < 0.02
    assert mean[-1] - mean[0] > 0.3


def test_the_named_driver_moves_the_prediction_as_stated(
    served: ThreatServable, default_data: threat.ThreatData
) -> None:
    named = 0
    for x in default_data.X[default_data.index("test")[:40]]:
        drivers = served.explain(x, top=3)
        label = int(served.decide(served.predict(x[None, :]))[0])
        normal = served.classes.index("normal")
        assert [abs(d["contribution"]) for d in drivers] == sorted(
            (abs(d["contribution"]) for d in drivers), reverse=True
        )
        for driver in drivers:
            j = served.features.index(driver["feature"])
            without = x.copy()
            without[j] = served.reference[j]
            P = served.predict(np.stack([x, without]))
            number = 1 - P[:, normal] if label == normal else P[:, label]
            assert driver["contribution"] == pytest.approx(number[0] - number[1], abs=1e-6)
            assert not np.isnan(x[j])
            named += 1
    assert named > 60


def test_a_feature_without_influence_is_never_a_driver(tmp_path: Path) -> None:
    frame = campaigns()
    frame["a"] = np.where(frame["threat_type"] == "normal", 0.0, 10.0) + np.arange(len(frame)) % 3
    frame["noise"] = np.tile([0.0, 1.0], len(frame))[: len(frame)]
    data = threat.prepare(dataset(frame.drop(columns=["b", "service", "group"])), seed=0)
    model = threat.finish([{**threat.defaults(data)[0], "max_features": 1.0}], data, seed=0)
    threat.export(model, data, tmp_path / "s")
    loaded = opened(tmp_path / "s")
    drivers = loaded.explain(loaded.encode([{"a": 11.0, "noise": 1.0}])[0], top=5)
    assert drivers[0]["feature"] == "a"
    assert drivers[0]["contribution"] > 0.3
    assert all(abs(d["contribution"]) < 0.02 for d in drivers if d["feature"] == "noise")


def test_an_ordinary_row_has_no_drivers(served: ThreatServable) -> None:
    assert served.explain(served.reference.copy()) == []


# Report --------------------------------------------------------------------------------------------------------


def test_details_are_plain_and_add_up(grouped: threat.ThreatData) -> None:
    model = threat.fit(threat.defaults(grouped)[0], grouped, seed=0)
    prediction = threat.predict(model, grouped, "test")
    found = threat.details(grouped, prediction)
    json.dumps(found)
    assert np.sum(found["confusion"]) == grouped.info["test_rows"]
    assert np.trace(found["confusion"]) / np.sum(found["confusion"]) == pytest.approx(
        threat.evaluate(grouped, prediction)["accuracy"]["value"]
    )
    assert set(found["precision_recall"]) == set(grouped.classes)
    known = {row["group"]: row["known"] for row in found["groups"]}
    assert known.pop("normal")
    assert not any(known.values())
    for case in found["worst_cases"]:
        assert case["truth"] != case["decided"]


def test_details_bring_the_sentences_and_tables_that_a_report_prints(grouped: threat.ThreatData) -> None:
    label = np.where(np.arange(grouped.info["test_rows"]) % 4 == 0, 0, grouped.truth("test"))
    prediction = {"probability": np.eye(3)[label] * 0.97 + 0.01, "label": label}
    card = {
        "attack": {"false_positive_rate": 1e-3, "threshold": 0.5, "ordinary_rows": 9},
        "features": [{"name": "a", "importance": 0.1}],
    }
    found = threat.details(grouped, prediction, card=card)
    assert {"sentences", "tables", "confusion_matrix"} <= set(found)
    weakest = sorted(found["per_class"], key=lambda name: found["per_class"][name]["f1"])
    assert found["sentences"] == [
        f"Attack or normal: {found['attack_cost']['words']}.",
        rare_words(found["rare"]),
        novelty_words(found["novelty"]),
        f"Weakest class: {weakest[0]} (F1 {found['per_class'][weakest[0]]['f1']:.2f}).",
    ]
    assert found["confusion_matrix"] == {"classes": grouped.classes, "confusion": found["confusion"]}
    mistakes, groups = found["tables"]["The surest mistakes"], found["tables"]["Groups found least"]
    assert [row["row"] for row in mistakes] == [case["row"] for case in found["worst_cases"][:8]]
    first = found["worst_cases"][0]["values"]
    assert all(name in mistakes[0]["unusual values"] for name in first)
    assert groups == found["groups"][:10]


def test_a_category_is_called_unusual_only_where_few_training_rows_have_it(grouped: threat.ThreatData) -> None:
    label = (grouped.truth("test") + 1) % len(grouped.classes)
    found = threat.details(grouped, {"probability": np.eye(3)[label] * 0.97 + 0.01, "label": label})
    (j,) = (j for j, feature in enumerate(grouped.features) if feature["dtype"] == "category")
    feature, trained = grouped.features[j], grouped.X[grouped.part == 0, j]
    named = [case["values"][feature["name"]] for case in found["worst_cases"] if feature["name"] in case["values"]]
    share = {name: np.mean(trained == code) for code, name in enumerate(feature["categories"])}
    assert all(share[name] <= 0.05 for name in named)
    assert max(share.values()) > 0.05 and found["worst_cases"]


def test_the_cost_curve_counts_misses_and_false_alarms() -> None:
    attack, score = np.array([True, True, False, False]), np.array([0.9, 0.05, 0.5, 0.01])
    curve = attack_cost(attack, score, miss_cost=10.0)
    at = curve["threshold"].index(curve["chosen"])
    assert (curve["missed"][at], curve["false_alarms"][at]) == (1, 1)
    assert curve["cost"][at] == 11


def test_the_threshold_for_rare_false_alarms_is_the_lowest_that_keeps_the_rate() -> None:
    score = np.array([0.9, 0.8, 0.8, 0.4, 0.3, 0.95, 0.2])
    attack = np.array([False] * 5 + [True] * 2)
    even = np.ones(7)
    for rate, alarms in ((0.1, 0), (0.2, 1), (0.5, 1), (0.6, 3), (0.8, 4)):
        found = rare_threshold(score, attack, even, rate)
        assert (score[~attack] >= found["threshold"]).sum() == alarms
        assert found["ordinary_rows"] == 5
    heavy = rare_threshold(score, attack, np.array([6.0, 1, 1, 1, 1, 1, 1]), 0.5)
    assert not (score[~attack] >= heavy["threshold"]).any()
    assert rare_threshold(score, attack, even, 1.0)["threshold"] == 0.0


def test_few_alarms_are_right_where_attacks_are_rare() -> None:
    assert precision_at(0.9, 1e-3, 1e-3) == pytest.approx(0.9 / (0.9 + 0.999))
    assert precision_at(0.9, 1e-3, 1e-4) == pytest.approx(0.09 / (0.09 + 0.9999))
    assert np.isnan(precision_at(0.0, 0.0, 1e-3))


def test_without_a_false_alarm_only_the_least_precision_is_said() -> None:
    attack, chosen = np.arange(300) < 100, {"false_positive_rate": 1e-3, "threshold": 0.5, "ordinary_rows": 700}
    score = attack * 0.9
    found = rare(attack, score, chosen)
    assert [row["precision"] for row in found["precision"]] == [None, None]
    assert found["precision"][0]["low"] == pytest.approx(
        precision_at(*(wilson(n, m)[k] for n, m, k in ((100, 100, 0), (0, 200, 1))), 1e-3)
    )
    assert "Alarms that are right: at least" in rare_words(found)
    score[150] = 0.7
    found = rare(attack, score, chosen)
    assert found["false_alarms"] == 1
    assert found["precision"][1]["precision"] == pytest.approx(precision_at(1.0, 1 / 200, 1e-4))
    assert "at least" not in rare_words(found)


def test_thresholds_in_sentences_come_from_validation_and_are_scored_on_test(
    grouped: threat.ThreatData, tmp_path: Path
) -> None:
    model = threat.finish(threat.defaults(grouped)[:1], grouped, seed=0)
    threat.export(model, grouped, tmp_path / "s")
    loaded = opened(tmp_path / "s")
    prediction = threat.score(loaded, grouped, "test")
    normal, kept = grouped.classes.index("normal"), model.validation
    ordinary = kept["probability"][grouped.y[kept["row"]] == normal, normal]
    found = threat.details(grouped, prediction, card=loaded.card)
    threshold = found["rare"]["threshold"]
    assert (1 - ordinary >= threshold).mean() <= 1e-3
    assert (1 - ordinary >= threshold - 1e-3).any()
    truth, alarm = grouped.truth("test"), 1 - prediction["probability"][:, normal] >= threshold
    assert found["rare"]["true_positive_rate"]["value"] == pytest.approx(alarm[truth != normal].mean())
    assert found["rare"]["false_positive_rate"]["value"] == pytest.approx(alarm[truth == normal].mean())
    assert f"({threshold:.3f})" in " ".join(found["sentences"])
    assert "rare" not in threat.details(grouped, prediction)
    assert [row["importance"] for row in found["importance"]] == sorted(
        (f["importance"] for f in loaded.card["features"]), reverse=True
    )


def test_the_first_screen_counts_attacks_caught_and_false_alarms(grouped: threat.ThreatData) -> None:
    truth, normal = grouped.truth("test"), grouped.classes.index("normal")
    label = truth.copy()
    attacks, ordinary = np.flatnonzero(truth != normal), np.flatnonzero(truth == normal)
    label[attacks[:5]] = normal
    label[attacks[5:9]] = np.where(truth[attacks[5:9]] == 1, 2, 1)  # the wrong attack is an attack caught
    label[ordinary[:3]] = 1
    found = threat.details(grouped, {"probability": np.eye(3)[label] * 0.97 + 0.01, "label": label})
    screen = found["first_screen"]
    assert (screen["attacks"], screen["caught"], screen["false_alarms"]) == (len(attacks), len(attacks) - 5, 3)
    assert screen["false_alarms_per_1000"] == pytest.approx(3000 / len(ordinary))
    assert screen["low"] < screen["share"] < screen["high"]
    (novel,) = found["novelty"]  # no attack of a group that training knew is tested here
    assert (novel["attacks"], novel["rows"], novel["caught"]) == ("novel", len(attacks), len(attacks) - 5)
    assert novel["right"] == pytest.approx(1 - 9 / len(attacks))
    assert all(
        low <= p <= high
        for low, p, high in zip(*(found["reliability"][k] for k in ("low", "observed", "high")), strict=True)
    )


def test_a_learned_baseline_takes_the_point_that_validation_prefers(grouped: threat.ThreatData) -> None:
    asked: list[tuple[str, int]] = []

    def learner(
        data: threat.ThreatData, point: learners.Point, X: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int
    ) -> RandomForestClassifier:
        asked.append((point["name"], len(y)))
        labels = np.random.default_rng(0).permutation(y) if point["name"] == "blind" else y
        return RandomForestClassifier(10, random_state=0).fit(X[:, :2], labels, sample_weight=weight)

    class FirstTwo(RandomForestClassifier):
        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(super().predict_proba(X[:, :2]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "RandomForestClassifier", FirstTwo)
        grid = [{"name": "blind"}, {"name": "seeing"}, {"name": "blind"}]
        found = learners.tuned(grouped, learner, grid, seed=0)
    kept = [int(((grouped.group_fold != fold) & (grouped.row_fold != fold)).sum()) for fold in range(3)]
    assert asked == [(point["name"], rows) for point in grid for rows in kept] + [("seeing", len(grouped.rows))]
    assert threat.evaluate(grouped, found)["macro_f1"]["value"] > 0.6


def test_a_learned_baseline_is_calibrated_on_the_rows_of_all_folds_even_if_one_chose_its_point() -> None:
    frame = campaigns().drop(columns=["group", "service"])
    data = threat.prepare(dataset(frame), seed=1, effort=threat.Effort(one_fold_above=10))
    asked: list[int] = []

    def learner(
        data: threat.ThreatData, point: learners.Point, X: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int
    ) -> RandomForestClassifier:
        asked.append(point["leaf"])
        return RandomForestClassifier(10, min_samples_leaf=point["leaf"], random_state=0).fit(X, y, weight)

    found = learners.tuned(data, learner, [{"leaf": 1}, {"leaf": 3}], seed=0)
    best = asked[-1]
    assert asked == [1, 3, best, best, best]  # the first fold chooses, the others are asked for the choice alone
    X, y = data.X[data.rows], data.y[data.rows]
    votes, everything = np.zeros((len(y), 3)), np.ones(len(y), dtype=bool)
    for fold in range(3):
        mine = data.row_fold == fold
        fitted = learner(data, {"leaf": best}, X[~mine], y[~mine], data.weight[~mine], 0)
        votes[mine] = fitted.predict_proba(X[mine])
    final = learner(data, {"leaf": best}, X[everything], y, data.weight, 0).predict_proba(data.X[data.index("test")])
    temperature, floor = fit_calibration(votes, y, data.weight)
    expected = calibrate(final, temperature, floor)
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-6)
    prior = class_prior(data)
    alpha, _ = choose_alpha(y, calibrate(votes, temperature, floor), data.weight, prior)
    np.testing.assert_array_equal(found["label"], (expected * decision_weights(prior, alpha)).argmax(axis=1))


def test_codes_of_categories_tell_a_learned_baseline_nothing_of_the_labels_that_score_it(
    grouped: threat.ThreatData,
) -> None:
    """Codes in another order, as other labels would give, reach the folds in the same order."""
    inputs: list[list[np.ndarray]] = []

    class Watched(DummyClassifier):
        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            inputs[-1].append(X)
            return np.asarray(super().predict_proba(X))

    def learner(
        data: threat.ThreatData, point: learners.Point, X: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int
    ) -> DummyClassifier:
        inputs[-1].append(X)
        return Watched().fit(X, y)

    for data in (grouped, with_codes_in_another_order(grouped)):
        inputs.append([])
        learners.tuned(data, learner, [{}], seed=0)
    *folds, _, _ = zip(*inputs, strict=True)  # the last two are the fit on all rows and its test
    for usual, turned in folds:
        np.testing.assert_array_equal(usual, turned)


def test_a_fold_that_leaves_out_the_only_row_of_a_class_stops_no_learned_baseline() -> None:
    frame = campaigns().drop(columns="group")
    frame = pd.concat([frame[frame["threat_type"] == "normal"], frame[frame["threat_type"] == "scan"][:2]])
    data = threat.prepare(dataset(frame), seed=0)
    assert np.bincount(data.y[data.rows]).min() == 1
    for name in threat.STRONG_BASELINES:
        found = learners.tuned(data, *learners.LEARNERS[name], seed=0)
        np.testing.assert_allclose(found["probability"].sum(axis=1), 1.0)


@pytest.mark.parametrize("name", threat.STRONG_BASELINES)
def test_learned_baselines_do_not_look_at_labels_of_the_test_part(name: str, grouped: threat.ThreatData) -> None:
    test = grouped.part == TEST
    y = grouped.y.copy()
    y[test] = (y[test] + 1) % 3
    first, second = (
        learners.tuned(data, *learners.LEARNERS[name], seed=0) for data in (grouped, dataclasses.replace(grouped, y=y))
    )
    np.testing.assert_array_equal(first["probability"], second["probability"])
    np.testing.assert_array_equal(first["label"], second["label"])
    assert threat.evaluate(grouped, first)["macro_f1"]["value"] > 0.7


def test_baselines_answer_the_same_rows(default_data: threat.ThreatData) -> None:
    found = threat.baselines(default_data, seed=0)
    assert set(found) == {*threat.SIMPLE_BASELINES, *threat.STRONG_BASELINES}
    for prediction in found.values():
        assert prediction["probability"].shape == (default_data.info["test_rows"], len(default_data.classes))
        np.testing.assert_allclose(prediction["probability"].sum(axis=1), 1.0)
    scores = {name: threat.evaluate(default_data, p)["macro_f1"]["value"] for name, p in found.items()}
    assert scores["class_prior"] < scores["prior_draw"] < scores["rules"]
    assert all(scores[name] > scores["rules"] for name in threat.STRONG_BASELINES)


def test_rules_are_no_baseline_where_their_features_do_not_occur(grouped: threat.ThreatData) -> None:
    assert "rules" not in threat.baselines(grouped, seed=0)


def test_rules_read_the_columns_alone_where_features_are_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    activity, _ = synthetic.activity(400, seed=3)
    derive = {"logins": "log1p(failed_auth_count)"}
    monkeypatch.setattr(learners, "LEARNERS", {})
    plain, derived = (
        threat.baselines(threat.prepare(dataset(activity, **more), seed=0), seed=0)["rules"]
        for more in ({}, {"derive": derive})
    )
    np.testing.assert_array_equal(plain["probability"], derived["probability"])


def test_the_summary_counts_every_row(grouped: threat.ThreatData) -> None:
    summary = grouped.summary()
    assert summary["train_rows"].sum() == grouped.info["train_rows"]
    assert summary["test_rows"].sum() == grouped.info["test_rows"]
    assert summary.loc["scan", "train_groups"] + summary.loc["scan", "test_groups"] == 6


def test_the_servable_folder_opens_by_its_task(
    default_model: threat.ThreatModel, default_data: threat.ThreatData, tmp_path: Path
) -> None:
    threat.export(default_model, default_data, tmp_path / "s")
    loaded = servable.load(tmp_path / "s")
    assert isinstance(loaded, ThreatServable)
    prediction = threat.score(loaded, default_data, "test")
    assert prediction["probability"].shape == (default_data.info["test_rows"], 9)
