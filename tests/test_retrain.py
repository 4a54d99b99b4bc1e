"""Retraining: what is learned from, what is refused, and what is left behind when it fails."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent / "serve"))

import journalled
import tiny

from aiops_core import journal, servable, tracking
from aiops_core.data import folder, synthetic
from aiops_core.data.periods import within
from aiops_core.data.tables import Dataset
from aiops_core.errors import UsageError
from aiops_core.retrain import page, run, state
from aiops_core.retrain.settle import settle
from aiops_core.retrain.tables import join

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2026-03-01T00:00Z")


def hours(name: str, first: int, last: int, **columns: float) -> pd.DataFrame:
    """Rows of a resource from one hour to another, excluded."""
    stamps = [START + k * HOUR for k in range(first, last)]
    return pd.DataFrame({"resource_id": name, "timestamp": stamps, "load": np.arange(first, last) % 7.0, **columns})


def dataset(**tables: pd.DataFrame) -> Dataset:
    return Dataset("own", "Own", "internal", tables, {})


def test_resources_of_the_same_name_continue_and_what_the_original_source_says_stays() -> None:
    own = dataset(usage=hours("a", 0, 30, cpu=1.0, users=7.0))
    joined = join(own, {"usage": pd.concat([hours("a", 20, 60, cpu=2.0), hours("b", 0, 5, cpu=3.0)])}, "capacity")
    frame = joined.dataset.tables["usage"]
    assert joined.rows["usage"] == {"original": 30, "journal": 35, "masked": 0}
    a = frame[frame["resource_id"] == "a"]
    assert a["timestamp"].tolist() == [START + k * HOUR for k in range(60)]
    assert a["cpu"].tolist() == [1.0] * 30 + [2.0] * 30
    assert a["users"].notna().sum() == 30 and list(frame.columns) == [
        "resource_id",
        "timestamp",
        "load",
        "cpu",
        "users",
    ]


def test_usage_within_incidents_and_expected_periods_teaches_no_forecast() -> None:
    periods = {
        "incidents": pd.DataFrame({"resource_id": ["a"], "start": [START + 3 * HOUR], "end": [START + 5 * HOUR]}),
        "expected": pd.DataFrame({"resource_id": ["a"], "start": [START + 40 * HOUR], "end": [START + 41 * HOUR]}),
    }
    own, added = hours("a", 0, 30, cpu=1.0), hours("a", 30, 60, cpu=1.0)
    joined = join(dataset(usage=own), {"usage": added}, "capacity", periods)
    missing = joined.dataset.tables["usage"]["cpu"].isna()
    assert np.flatnonzero(missing).tolist() == [3, 4, 40] and joined.rows["usage"]["masked"] == 3
    # The failure predictor is to learn from what precedes and follows an incident: only what was expected goes.
    incidents = periods["incidents"]
    joined = join(dataset(telemetry=own, incidents=incidents), {"telemetry": added}, "failure", periods)
    assert np.flatnonzero(joined.dataset.tables["telemetry"]["cpu"].isna()).tolist() == [40]


def test_an_official_split_goes_and_a_day_of_traffic_is_a_campaign() -> None:
    classes = ["normal", "scan", "scan"]
    own = pd.DataFrame({"x": [1.0, 2.0, 4.0], "threat_type": classes, "group": ["g", "h", "i"], "split": "train"})
    stamps = [START, START + HOUR, START + 30 * HOUR]
    added = pd.DataFrame({"x": 3.0, "threat_type": "normal", "timestamp": stamps})
    frame = join(dataset(activity=own), {"activity": added}, "threat").dataset.tables["activity"]
    assert "split" not in frame and "timestamp" not in frame
    assert frame["group"].tolist() == ["g", "h", "i", "journal 2026-03-01", "journal 2026-03-01", "journal 2026-03-02"]


def test_an_incident_that_both_sources_report_is_one_and_one_without_an_end_is_an_hour_long() -> None:
    own = dataset(
        telemetry=hours("a", 0, 30, cpu=1.0),
        incidents=pd.DataFrame({"resource_id": ["a"], "start": [START + 3 * HOUR], "end": [START + 5 * HOUR]}),
    )
    added = pd.DataFrame(
        {
            "resource_id": ["a", "a"],
            "start": [START + 3 * HOUR, START + 20 * HOUR],
            "end": pd.to_datetime([None, None], utc=True),
        }
    )
    found = join(own, {"incidents": added}, "failure").dataset.tables["incidents"]
    assert ((found["end"] - found["start"]) / HOUR).tolist() == [2, 1]


def test_the_reference_of_the_anomaly_detector_leaves_incidents_out() -> None:
    rows = pd.concat([hours("a", 0, 6, cpu=1.0), hours("b", 0, 6, cpu=1.0)], ignore_index=True)
    periods = pd.DataFrame(
        {"resource_id": ["b", "c"], "start": [START + HOUR, START], "end": [START + 3 * HOUR, START + HOUR]}
    )
    assert np.flatnonzero(within(rows, periods)).tolist() == [7, 8]


# Real runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Servable of a threat detector, and the folder of tables it was trained on."""
    home = tmp_path_factory.mktemp("champion")
    made = tiny.dataset("threat")
    tables = folder.save_folder(made, home / "tables")
    return tiny.train("threat", home / "servable"), tables


@pytest.fixture
def served(store: Path, champion: tuple[Path, Path], tmp_path: Path) -> Path:
    """State folder of a service whose champion answered 300 rows, the classes of which are known by now."""
    tracking.prepare_store()
    module = __import__("aiops_core.tasks.threat", fromlist=["defaults"])
    data = module.prepare(tiny.dataset("threat"), seed=3)
    best = {**module.defaults(data)[0]}
    servable.update_card(
        champion[0], lineage={"source": str(champion[1]), "seed": 3, "best_params": best, "title": "tiny"}
    )
    search = tracking.open_search("threat", tmp_path / "search", name="tiny", params={}, tags={})
    tracking.register("threat", search.run_id, "champion", model_uri=tracking.log_servable(search.run_id, champion[0]))
    where = tmp_path / "state"
    fresh = synthetic.dataset(1500, seed=11, tasks=("threat",))
    asked = journalled.threats(where, servable.load(champion[0]), fresh, rows=300)
    labels = [{"kind": "class", "request_id": f"t{i}", "label": label} for i, label in enumerate(asked["threat_type"])]
    journal.add_feedback(where, labels, who="test")
    return where


def test_no_second_retraining_begins_while_one_runs_or_before_the_cool_down_is_over(served: Path) -> None:
    with state.alone(served), pytest.raises(UsageError, match="another retraining is running"):
        run.retrain(run.Options("threat"), state=served)
    state.remember(served, "threat", {"began": time.time() - 3600})
    with pytest.raises(UsageError, match=r"began 1\.0 h ago, and 24 h are to lie between two; --cool-down 0"):
        run.retrain(run.Options("threat"), state=served)
    with pytest.raises(UsageError, match="model 'failure_predictor' has no champion to go on from"):
        run.retrain(run.Options("failure"), state=served)
    assert sorted(p.name for p in (served / "retraining").iterdir()) == ["lock", "threat.json"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "threads"}, "unknown task 'threads'"),
        ({"policy": "always"}, "--policy always is none of never, better"),
        ({"n_trials": 0}, "--trials 0 must be at least 1"),
        ({"cool_down": -1}, "--cool-down -1 must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run.retrain(run.Options(**options))


def test_a_retraining_that_fails_says_so_in_its_report_and_changes_nothing(served: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown source 'nowhere'"):
        run.retrain(run.Options("threat", source="nowhere"), tmp_path / "out", state=served)
    found = json.loads((tmp_path / "out" / "retraining.json").read_text())
    assert found["state"] == "failed" and "unknown source 'nowhere'" in found["error"]
    assert state.last(served, "threat") == found
    assert "It failed" in (tmp_path / "out" / "retraining.html").read_text()
    assert [v.alias for v in tracking.list_models()] == ["champion"]
    # It counts for the cool-down: what fails at once would fail again and again.
    with pytest.raises(UsageError, match="h ago"):
        run.retrain(run.Options("threat"), state=served)


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.timeout(900)
def test_a_retraining_learns_from_the_journal_too_and_ends_in_the_shadow(
    served: Path, champion: tuple[Path, Path], tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOPS_STATE_DIR", str(served))
    content = run.retrain(run.Options("threat", n_trials=1, trigger="a test"), state=served)
    assert content["state"] == "succeeded" and content["rows"]["activity"]["journal"] == 300
    report = Path(content["report"])
    assert (report / "report.html").is_file() and "a test" in (report / "retraining.html").read_text()
    tried = pd.read_csv(report / "threat" / "trials.csv")
    best = servable.read_card(champion[0])["lineage"]["best_params"]
    for name, value in content["start"].items():
        assert value == best[name] and (f"{name}" not in tried or str(tried[name][0]) == str(value)), name
    by_alias = {v.version: v.aliases for v in tracking.list_models()}
    assert by_alias == {1: ("champion",), 2: ("challenger", "shadow")}
    # The policy names no verdict: it is judged, and stays where it is.
    settled = settle("threat", state=served)
    assert settled["verdict"] and not settled["promoted"]
    assert tracking.champions()["threat_detector"].version == 1


def test_what_came_of_it_is_said_in_words() -> None:
    content: dict[str, Any] = {
        "task": "threat",
        "state": "succeeded",
        "champion": 1,
        "version": 2,
        "options": {"policy": "better"},
    }
    assert page.sentences(content)[-1] == "It is promoted when the verdict on live traffic is that it is better."
    assert "operator only" in page.sentences({**content, "options": {"policy": "never"}})[-1]
    assert page.sentences({**content, "version": None}) == ["The gate refused it: version 1 stays."]
    settled = {"promoted": True, "words": "Version 2 is better."}
    assert page.sentences({**content, "settled": settled}) == ["Version 2 was promoted: Version 2 is better."]
