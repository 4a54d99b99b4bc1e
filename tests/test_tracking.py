from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aiops_core import settings, tracking
from aiops_core.errors import TrackingError
from aiops_core.tracking.registry import ensure_model
from aiops_core.tracking.store import experiment_id, open_client

pytestmark = pytest.mark.slow


def fake_version(folder: Path, label: str) -> str:
    """Log a folder as a model version without a task behind it; returns the version number."""
    with open_client() as client:
        import mlflow

        run = client.create_run(experiment_id(client))
        path = folder / label / "servable"
        path.mkdir(parents=True)
        (path / "card.json").write_text(f'{{"label": "{label}"}}')
        client.log_artifacts(run.info.run_id, str(path.parent), "model")
        ensure_model(client, "threat_detector")
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version("threat_detector", source, run.info.run_id)
        assert mlflow.get_tracking_uri().startswith("sqlite")
        return str(version.version)


def test_promote_and_rollback_walk_through_the_champions(store: Path, tmp_path: Path) -> None:
    versions = [int(fake_version(tmp_path, name)) for name in "abc"]
    assert tracking.champions() == {}
    for version in versions:
        assert tracking.promote("threat_detector", version).alias == "champion"
    assert tracking.champions()["threat_detector"].version == versions[2]
    for version in (versions[1], versions[0]):
        assert tracking.previous_champion("threat_detector").version == version
        assert tracking.rollback("threat_detector").version == version
    with pytest.raises(TrackingError, match="no earlier champion"):
        tracking.rollback("threat_detector")
    assert tracking.champions()["threat_detector"].version == versions[0]


def test_a_promotion_made_elsewhere_can_be_rolled_back(store: Path, tmp_path: Path) -> None:
    first, second = (int(fake_version(tmp_path, name)) for name in "ab")
    tracking.promote("threat_detector", first)
    with open_client() as client:
        client.set_registered_model_alias("threat_detector", "champion", str(second))
    assert tracking.rollback("threat_detector").version == first


def test_a_search_that_went_on_after_it_was_logged_is_logged_again(store: Path, tmp_path: Path) -> None:
    run = tracking.open_search("threat", tmp_path, name="x", params={}, tags={}).run_id
    for depth, score in ((4, 0.5), (5, 0.6)):
        tracking.log_results(
            run, metrics={"a": score}, params={"best_depth": depth}, folders={}, tags={"best": str(depth)}
        )
    with open_client() as client:
        found = client.get_run(run)
    assert (found.info.status, found.data.metrics["a"], found.data.tags["best"]) == ("FINISHED", 0.6, "5")


def test_champions_are_found_in_a_store_full_of_other_models(store: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    version = int(fake_version(tmp_path, "a"))
    tracking.promote("threat_detector", version)
    client = MlflowClient(settings.load().mlflow_tracking_uri)
    # A search answers with the first hundred, by name.
    for i in range(100):
        client.create_registered_model(f"another_{i:03d}")
    assert {name: found.version for name, found in tracking.champions().items()} == {"threat_detector": version}


def test_promoting_an_unknown_version_changes_nothing(store: Path, tmp_path: Path) -> None:
    version = int(fake_version(tmp_path, "a"))
    tracking.promote("threat_detector", version)
    with pytest.raises(TrackingError, match="99"):
        tracking.promote("threat_detector", 99)
    assert tracking.champions()["threat_detector"].version == version


def test_fetch_copies_the_servable_whole(store: Path, tmp_path: Path) -> None:
    version = int(fake_version(tmp_path, "a"))
    folder = tracking.fetch("threat_detector", version, tmp_path / "fetched")
    assert '"a"' in (folder / "card.json").read_text()
    assert [p.name for p in tmp_path.glob(".fetched*")] == []


def test_a_search_log_goes_on_in_the_same_runs(store: Path, tmp_path: Path) -> None:
    with open_client() as client:
        experiment_id(client)
    log = tracking.open_search(
        "threat", tmp_path / "s", name="x", params={"seed": 7}, tags={"model": "threat_detector"}
    )
    log.started("t1", {"depth": 3})
    log.reported("t1", 1, {"score": 0.5})
    log.reported("t1", 2, {"score": 0.6})
    log.ended("t1", "pruned", None)
    log.started("t2", {"depth": 4})
    again = tracking.open_search("threat", tmp_path / "s", name="x", params={"seed": 7}, tags={})
    assert again.run_id == log.run_id
    again.ended("t2", "interrupted", None)
    again.started("t3", {"depth": 4})
    again.ended("t3", "errored", "the toy broke")
    with open_client() as client:
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{log.run_id}'")
        states = sorted((r.data.tags["trial"], r.info.status) for r in runs)
        assert states == [("t1", "FINISHED"), ("t2", "KILLED"), ("t3", "FAILED")]
        first = next(r for r in runs if r.data.tags["trial"] == "t1")
        assert [m.value for m in client.get_metric_history(first.info.run_id, "score")] == [0.5, 0.6]
        assert first.data.params == {"depth": "3"}
        failed = next(r for r in runs if r.info.status == "FAILED")
        assert failed.data.tags["error"] == "the toy broke"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:9", "no MLflow server answers"),
        ("sqlite:////no/such/folder/mlflow.db", "folder /no/such/folder does not exist"),
        ("./mlruns", "is a file store"),
    ],
)
def test_an_unusable_store_is_named_before_anything_is_made(
    uri: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=words):
        tracking.check()


def test_native_models_are_saved_with_their_flavor(tmp_path: Path) -> None:
    import mlflow
    import xgboost
    from sklearn.ensemble import RandomForestClassifier

    class Model:
        def __init__(self) -> None:
            x = np.random.default_rng(0).normal(size=(50, 3))
            self.forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(x, x[:, 0] > 0)
            booster = xgboost.train({}, xgboost.DMatrix(x, x[:, 0]), num_boost_round=2)
            self.boosters: tuple[list[xgboost.Booster], ...] = ([], [booster])

    model = Model()
    assert tracking.save_native(model, tmp_path / "native") == {
        "forest": "sklearn",
        "boosters_1_0": "xgboost",
    }
    loaded = mlflow.sklearn.load_model(str(tmp_path / "native" / "forest"))
    x = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(loaded.predict_proba(x), model.forest.predict_proba(x))
