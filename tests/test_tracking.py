from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core import settings, tracking
from aiops_core.data import sources
from aiops_core.errors import TrackingError
from aiops_core.live import commands
from aiops_core.study import model_card
from aiops_core.study.study import Study
from aiops_core.tasks import threat
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


def test_a_shadow_and_a_canary_answer_beside_the_champion_until_they_are_removed_or_promoted(
    store: Path, tmp_path: Path
) -> None:
    name = "threat_detector"
    first, second, third = (int(fake_version(tmp_path, label)) for label in "abc")
    with pytest.raises(TrackingError, match="no champion"):
        tracking.set_companion(name, "shadow", second)
    tracking.promote(name, first)
    with pytest.raises(TrackingError, match="is the champion"):
        tracking.set_companion(name, "canary", first)
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(TrackingError, match="share"):
            tracking.set_companion(name, "canary", second, share)
    assert tracking.companions() == {}
    tracking.set_companion(name, "shadow", second)
    assert tracking.set_companion(name, "canary", third, 0.25).share == 0.25
    beside = tracking.companions()[name]
    assert (beside["shadow"].version, beside["shadow"].share) == (second, None)
    assert (beside["canary"].version, beside["canary"].share) == (third, 0.25)
    # The same version may be both, and is listed with both.
    tracking.set_companion(name, "canary", second)
    listed = next(v for v in tracking.list_models() if v.version == second)
    assert listed.aliases == ("canary", "shadow") and listed.share == 0.1
    with pytest.raises(TrackingError, match=f"version {second} of {name} is its canary, not version {third}"):
        tracking.remove_companion(name, "canary", third)
    tracking.set_companion(name, "canary", third)
    assert tracking.remove_companion(name, "canary", third).version == third
    with pytest.raises(TrackingError, match="has no canary"):
        tracking.remove_companion(name, "canary")
    tracking.promote(name, second)
    assert tracking.companions() == {} and tracking.champions()[name].version == second
    tracking.set_companion(name, "shadow", first)
    assert tracking.rollback(name).aliases == ("champion",) and tracking.companions() == {}


def test_taking_a_shadow_away_in_a_terminal_is_in_the_audit_log(store: Path, tmp_path: Path) -> None:
    first, second = (int(fake_version(tmp_path, label)) for label in "ab")
    tracking.promote("threat_detector", first)
    tracking.set_companion("threat_detector", "shadow", second)
    commands.shadow("threat", None, off=True)
    assert tracking.companions() == {}
    log = settings.load().state_dir / "audit.jsonl"
    begun, done = (json.loads(line) for line in log.read_text().splitlines())
    assert begun["route"] == "models shadow" and begun["what"] == {"name": "threat_detector", "off": True}
    assert done["event"] == begun["event"] and done["phase"] == "done"


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


def test_the_experiment_opens_as_one_of_models_in_mlflows_pages(store: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(settings.load().mlflow_tracking_uri)
    # As an earlier release left it.
    old = client.create_experiment(tracking.EXPERIMENT)
    with open_client() as ours:
        assert experiment_id(ours) == old
    assert client.get_experiment(old).tags["mlflow.experimentKind"] == "custom_model_development"
    client.set_experiment_tag(old, "mlflow.experimentKind", "genai_development")
    with open_client() as ours:
        experiment_id(ours)
    # What somebody chose stays.
    assert client.get_experiment(old).tags["mlflow.experimentKind"] == "genai_development"


def test_a_new_experiment_is_one_of_models(store: Path) -> None:
    with open_client() as client:
        found = client.get_experiment(experiment_id(client))
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_names_its_dataset_with_columns_and_rows(store: Path, tmp_path: Path) -> None:
    stamps = pd.date_range("2026-01-01", periods=3, freq="h", tz="UTC")
    tables = {
        "telemetry": pd.DataFrame({"resource_id": "a", "timestamp": stamps, "cpu": [0.1, 0.2, 0.3], "n": [1, 2, 3]}),
        "incidents": pd.DataFrame({"resource_id": ["a"], "start": stamps[:1], "end": stamps[1:2]}),
    }
    given = tracking.dataset_input("own", "d" * 64, "/data/own", tables)
    log = tracking.open_search("failure", tmp_path / "s", name="x", params={}, tags={}, dataset=given)
    with open_client() as client:
        (found,) = client.get_run(log.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("own", "d" * 36)
    assert json.loads(found.dataset.source) == {"uri": "/data/own"}
    assert json.loads(found.dataset.profile) == {"num_rows": 3, "telemetry_rows": 3, "incidents_rows": 1}
    types = {c["name"]: c["type"] for c in json.loads(found.dataset.schema)["mlflow_colspec"]}
    assert types["telemetry.resource_id"] == "string"
    assert types["telemetry.timestamp"] == types["incidents.start"] == "datetime"
    assert (types["telemetry.cpu"], types["telemetry.n"]) == ("double", "long")


def test_a_search_that_ended_is_no_running_run(store: Path, tmp_path: Path) -> None:
    log = tracking.open_search("threat", tmp_path / "s", name="x", params={}, tags={})
    tracking.close_search(log.run_id)
    with open_client() as client:
        run = client.get_run(log.run_id)
        assert (run.info.status, run.data.tags["stage"]) == ("FINISHED", "searched")
    tracking.log_results(log.run_id, metrics={"test_f1": 0.5}, params={}, folders={}, tags={"gate": "refused"})
    with open_client() as client:
        run = client.get_run(log.run_id)
        assert (run.info.status, run.data.tags["stage"]) == ("FINISHED", "evaluated")
        assert run.data.metrics == {"test_f1": 0.5}


def test_the_page_of_a_version_says_verdict_reasons_and_metrics(store: Path, tmp_path: Path) -> None:
    score = {"value": 0.91, "low": 0.88, "high": 0.93}
    section = {
        "model": "threat_detector", "status": "trained", "main_metric": "macro_f1", "model_version": 1, "oracle": None,
        "metrics": {"macro_f1": score, "f1_ddos": score}, "baselines": {"rules": {"macro_f1": {"value": 0.7}}},
        "gate": {"decision": "challenger", "reasons": ["is inferior to boosted trees"], "advice": "Search again."},
        "data": {"train_rows": 6000, "test_rows": 2000, "digest": "d" * 64, "split": "by group", "title": "Own rows"},
        "search": {"trials": 20, "pruned": 5},
    }  # fmt: skip
    version = int(fake_version(tmp_path, "a"))
    tags = model_card.version_tags(section, "own")
    tracking.describe_version("threat_detector", version, model_card.version_page(section), tags)
    with open_client() as client:
        found = client.get_model_version("threat_detector", str(version))
    assert found.description.startswith("**Challenger.** Registered as challenger, not served")
    assert "aiops models promote threat_detector 1" in found.description
    assert "- It is inferior to boosted trees" in found.description
    assert "| macro-F1 | 0.910 (0.880 to 0.930) | 0.700 | – |" in found.description
    assert "f1_ddos" not in found.description
    assert found.tags["gate"] == "challenger"
    assert found.tags["test_macro_f1"] == "0.910"
    tracking.describe_version("threat_detector", version, "x" * 9000, {})
    with open_client() as client:
        assert len(client.get_model_version("threat_detector", str(version)).description) == 5000


def test_pages_are_artifacts_of_their_run(store: Path, tmp_path: Path) -> None:
    log = tracking.open_search("threat", tmp_path / "s", name="x", params={}, tags={})
    page = tmp_path / "report.html"
    for text in ("<p>first</p>", "<p>second</p>"):
        page.write_text(text)
        tracking.log_pages(log.run_id, [page])
    with open_client() as client:
        assert [a.path for a in client.list_artifacts(log.run_id)] == ["report.html"]
        assert Path(client.download_artifacts(log.run_id, "report.html")).read_text() == "<p>second</p>"


def test_a_study_that_only_searches_leaves_no_run_running(store: Path, tmp_path: Path, ray_cluster: str) -> None:
    dataset = sources.load("synthetic", n_samples=300, seed=7, tasks=["threat"])
    study = Study("threat", dataset, threat.prepare(dataset, seed=7), out=tmp_path / "out")
    study.search(n_trials=1)
    with open_client() as client:
        runs = client.search_runs([experiment_id(client)])
        assert {run.info.status for run in runs} == {"FINISHED"}
        parent = client.get_run(study.run_id)
    assert parent.data.tags["stage"] == "searched"
    assert [i.dataset.name for i in parent.inputs.dataset_inputs] == ["synthetic"]
