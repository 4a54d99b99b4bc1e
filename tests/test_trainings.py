"""Final models fitted with several seeds, and runs that leave whole resources out: what a study makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aiops_core import search, servable, tracking
from aiops_core.data import sources
from aiops_core.errors import UsageError
from aiops_core.search.connection import ONE_THREAD
from aiops_core.search.final import _final_in_worker, _refit_in_worker
from aiops_core.search.result import SearchResult
from aiops_core.servable.failure import choose_threshold
from aiops_core.study.study import Study
from aiops_core.study.trainings import over_trainings, trainings_words
from aiops_core.tasks import failure, threat

pytestmark = pytest.mark.slow

EFFORT = threat.Effort(max_rows=600, final_trees=20)


def study_of(out: Path, **options: Any) -> Study:
    dataset = sources.load("synthetic", n_samples=1500, seed=7, tasks=["threat"])
    return Study("threat", dataset, threat.prepare(dataset, seed=7, effort=EFFORT), out=out, **options)


def judged(study: Study) -> dict[str, Any]:
    """Take a study through all its steps and return its section of the report."""
    result = study.search(n_trials=1)
    study.fit_final(result.ranked)
    prediction = threat.score(servable.load(study.servable), study.data, "test")
    study.evaluate(prediction, threat.baselines(study.data, seed=7))
    study.decide()
    return study.register()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOPS_HOME", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield folder


@pytest.fixture(scope="module")
def thrice(home: Path, ray_cluster: str) -> tuple[Study, dict[str, Any]]:
    """A study of three seeds, and its section."""
    study = study_of(home / "thrice", seeds=3)
    return study, judged(study)


def test_several_seeds_give_mean_spread_and_interval_and_the_first_is_registered(
    thrice: tuple[Study, dict[str, Any]],
) -> None:
    study, section = thrice
    found, main = section["seeds"], section["metrics"]["macro_f1"]["value"]
    assert found["seeds"] == [7, 8, 9]
    values = found["metrics"]["macro_f1"]["values"]
    assert values[0] == main and len(set(values)) > 1
    assert found["metrics"]["macro_f1"]["mean"] == pytest.approx(np.mean(values))
    assert found["metrics"]["macro_f1"]["spread"] == pytest.approx(np.std(values, ddof=1))
    assert found["metrics"]["macro_f1"]["low"] < np.mean(values) < found["metrics"]["macro_f1"]["high"]
    # What is served is the first seed's model alone: the same as without the others.
    alone = search.refits(threat, study.result.ranked if study.result else [], study.data, seeds=[7])
    served = threat.score(servable.load(study.servable), study.data, "test")
    assert np.allclose(alone[0]["probability"], served["probability"], atol=1e-5)
    assert "trained 3 times" in trainings_words(section) and "seeds 7 to 9" in trainings_words(section)
    assert "registered is that of seed 7" in trainings_words(section)


def test_one_seed_says_nothing_of_others(thrice: tuple[Study, dict[str, Any]]) -> None:
    study, section = thrice
    assert over_trainings(threat, study.data, study.metrics, [], seed=7) is None
    assert trainings_words({**section, "seeds": None}) == ""


def test_fewer_than_one_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seeds = 0 must be at least 1"):
        study_of(tmp_path / "out", seeds=0)


def test_a_run_that_leaves_resources_out_replaces_no_champion_of_the_split_by_time(
    thrice: tuple[Study, dict[str, Any]], home: Path
) -> None:
    _, section = thrice
    tracking.promote("threat_detector", section["model_version"])
    away = study_of(home / "away")
    away.data.info["protocol"] = "resource"
    section = judged(away)
    assert section["data"]["protocol"] == "resource"
    assert section["gate"]["decision"] == "challenger"
    assert any("--protocol resource" in reason for reason in section["gate"]["reasons"])
    assert servable.load(away.servable).card["lineage"]["protocol"] == "resource"
    # The other way round it is no obstacle.
    tracking.promote("threat_detector", section["model_version"])
    again = judged(study_of(home / "again"))
    assert not any("--protocol" in reason for reason in again["gate"]["reasons"])


def test_every_training_alarms_by_the_policy_of_the_registered_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fits are those of the workers, run in this process."""
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "1")  # put back afterwards
    monkeypatch.setattr(
        search, "final_model",
        lambda task, ranked, data, folder, *, seed: _final_in_worker(task.__name__, ranked, data, str(folder), seed),
    )  # fmt: skip
    monkeypatch.setattr(
        search, "refits",
        lambda task, ranked, data, *, seeds, **more: [
            _refit_in_worker(task.__name__, ranked, data, seed, **more) for seed in seeds
        ],
    )  # fmt: skip
    policy = {"rule": "cost", "cost_missed": 60.0}
    dataset = sources.load("synthetic", n_samples=1000, seed=7, tasks=["failure"]).configured(
        "failure", decision=policy
    )
    effort = failure.Effort(folds=2, networks=1, max_steps=2, epoch_rows=(400, 400))
    data = failure.prepare(dataset, seed=7, effort=effort)
    study = Study("failure", dataset, data, out=home / "policy", seeds=2)
    ranked, none = failure.defaults(data)[:1], pd.DataFrame()
    study.result = SearchResult("failure", failure.OBJECTIVE, "max", none, none, ranked, {"trials": 1}, 1.0)
    study.fit_final(ranked)
    study.evaluate(failure.score(servable.load(study.servable), data, "test"), {})
    second = failure.finish(ranked, data, seed=8)
    by_f1 = failure.predict(second, data, "test")
    failure.follow(second, policy)
    expected = failure.predict(second, data, "test")
    assert second.threshold == choose_threshold(second.curve, **policy)
    assert (expected["alarm"] != by_f1["alarm"]).any()
    assert study.trainings is not None
    recall = failure.evaluate(data, expected)["recall"]["value"]
    assert study.trainings["metrics"]["recall"]["values"] == [study.metrics["recall"]["value"], recall]
