"""Corrections from feedback: learned from earlier answers, judged on later ones, numbered, and taken back."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent / "serve"))

import journalled
import tiny
from typer.testing import CliRunner

from aiops_core import journal, servable, tracking
from aiops_core.cli import app
from aiops_core.data import synthetic
from aiops_core.errors import ServableError, TrackingError, UsageError
from aiops_core.journal import segments
from aiops_core.journal.schema import SCHEMAS
from aiops_core.journal.versions import keep_version
from aiops_core.recalibrate import learn as learning
from aiops_core.recalibrate.evidence import UNKNOWN, Evidence, evidence_of
from aiops_core.servable import Recalibration
from aiops_core.servable.recalibration import shifted
from aiops_core.tracking import recalibrations

DAY = 86_400
START = pd.Timestamp("2026-03-01T00:00Z")
MAX_F1 = {"rule": "max_f1", "threshold": 0.5}


def aiops(*arguments: str) -> str:
    """Return what a command prints."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def evidence(
    *, slope: float, offset: float, units: int = 120, rows: int = 8, seed: int = 0, late: float | None = None
) -> Evidence:
    """Answers whose true log odds are a stretched and shifted version of what the model says; ``late``: of the later half."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.0, 1.6, units)
    shift = np.where(np.arange(units) < 0.62 * units, offset, offset if late is None else late)
    happened = rng.random(units) < 1 / (1 + np.exp(-(slope * logits + shift)))
    said = 1 / (1 + np.exp(-(np.repeat(logits, rows) + rng.normal(0, 0.05, units * rows))))
    unit = np.repeat(np.arange(units), rows)
    return Evidence(
        unit=unit,
        second=unit * 2 * DAY + np.tile(np.arange(rows) * 3600, units),
        alarm=said >= 0.5,
        probability=said,
        truth=np.repeat(happened, rows).astype(np.int64),
        length=DAY,
        weight=np.ones(len(unit)),
    )


def learned(
    monkeypatch: pytest.MonkeyPatch,
    found: Evidence,
    current: Recalibration | None = None,
    decision: dict[str, Any] = MAX_F1,
) -> learning.Learned:
    monkeypatch.setattr(learning, "evidence_of", lambda *given, **options: found)
    card = {"task": "failure", "decision": decision}
    return learning.learn(Path(), card, 1, (), current.as_dict() if current else None)


def test_a_model_that_is_far_too_sure_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, evidence(slope=0.5, offset=-1.5, units=400))
    assert found.better, found.words
    assert found.record.slope == pytest.approx(0.5, abs=0.2) and found.record.offset == pytest.approx(-1.5, abs=0.5)
    loss = found.measured["log loss"]
    assert 0 < loss["low"] <= loss["before"] - loss["after"] <= loss["high"]
    # Where other alarms are not shown to be better, they stay as they are on the corrected scale.
    kept = float(shifted(np.array([0.5]), found.record.slope, found.record.offset)[0])
    assert found.record.threshold == pytest.approx(kept)
    assert found.words.startswith(
        "better on 1,336 later answers in 167 independent blocks of time: log loss 0.3 instead"
    )
    assert "tried and dropped: F1" in found.words and set(found.measured) == {"log loss"}


def test_alarms_that_come_far_too_late_come_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, evidence(slope=1.0, offset=0.0, units=400), Recalibration(0, threshold=0.9))
    assert found.better and found.measured["F1"]["low"] > 0, found.words
    assert found.record.threshold is not None and 0.2 < found.record.threshold < 0.6
    assert (found.record.slope, found.record.offset) == (1.0, 0.0)


def test_costs_decide_where_the_rule_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=1.0, offset=1.0, units=400)
    card = {"rule": "cost", "cost_missed": 3.0, "cost_false_alarm": 1.0, "threshold": 0.8}
    found = learned(monkeypatch, told, decision=card)
    assert found.better and found.record.threshold == 0.25 and found.measured["mean cost"]["low"] > 0, found.words
    budget = {"rule": "alert_budget", "threshold": 0.25}
    found = learned(monkeypatch, told, decision=budget)
    moved = float(shifted(np.array([0.25]), found.record.slope, found.record.offset)[0])
    assert (
        found.better
        and found.record.threshold == pytest.approx(moved)
        and set(found.measured) == {"log loss"}
        and not found.dropped
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_is_right_is_left_alone(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    # The threshold is where F1 is highest, as that of a trained version: only chance is left to learn.
    right = Recalibration(0, threshold=0.33)
    found = learned(monkeypatch, evidence(slope=1.0, offset=0.0, units=300, seed=seed), right)
    assert not found.better, found.words
    assert found.words.startswith("no correction is better beyond chance")


def test_what_later_feedback_contradicts_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, evidence(slope=1.0, offset=-2.0, units=400, late=2.0))
    assert found.dropped["log loss"]["after"] > found.dropped["log loss"]["before"]
    assert (found.record.slope, found.record.offset) == (1.0, 0.0)


def test_a_correction_in_effect_is_what_a_new_one_must_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=0.5, offset=-1.5, units=400)
    first = learned(monkeypatch, told)
    again = learned(monkeypatch, told, first.record)
    assert first.better and not again.better


def test_too_few_incidents_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the part of it that teaches has . independent blocks with an incident"):
        learned(monkeypatch, evidence(slope=1.0, offset=-3.0, units=60))


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"task": "capacity"}, "the answers of capacity cannot be corrected from feedback: train again"),
        ({"task": "threat", "decision": {"costs": [[0, 1], [5, 0]]}}, "this version decides by costs: change these"),
    ],
)
def test_what_cannot_be_corrected_is_refused(card: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        learning.learn(Path(), card, 1)


def test_quiet_answers_weigh_what_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=1.0, offset=0.0, units=400)
    some = told.alarm | (np.arange(len(told.alarm)) % 4 == 0)
    part = dataclasses.replace(told, truth=np.where(some, told.truth, UNKNOWN))
    # Only a quarter of the quiet answers is labelled: without weights an incident would look twice as likely.
    whole, found = learned(monkeypatch, told), learned(monkeypatch, part)
    tried = [one.measured | one.dropped for one in (whole, found)]
    assert tried[1]["log loss"]["before"] == pytest.approx(tried[0]["log loss"]["before"], rel=0.05)
    kept = part.told(None, "teaches")
    assert kept.weight.sum() == pytest.approx(len(told.alarm)) and set(kept.weight[kept.alarm]) == {1.0}


def test_misses_alone_are_no_sample_of_quiet_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=1.0, offset=0.0, units=400)
    spoken = told.alarm | (told.truth == 1)
    with pytest.raises(UsageError, match="100% of the labelled quiet answers were wrong to be quiet"):
        learned(monkeypatch, dataclasses.replace(told, truth=np.where(spoken, told.truth, UNKNOWN)))
    none = dataclasses.replace(told, truth=np.where(told.alarm, told.truth, UNKNOWN))
    with pytest.raises(UsageError, match=r"0 of [\d,]+ answers that were no alarm are labelled, and 20 are needed"):
        none.told(None, "judges")


def failures(state: Path, hours: int, number: int | None = None) -> None:
    """Keep a journal of one machine that is asked every hour, with an alarm every second time."""
    card = {"features": [{"name": "a"}], "window": 1, "horizon": 24, "step_seconds": 3600}
    keep_version(state, "failure", 1, card)
    segment = segments.Segment(segments.folder_of(state, "failure"), SCHEMAS["failure"], "node-a")
    at = [START + pd.Timedelta(hours=k) for k in range(hours)]
    rows = [
        {"request_id": f"r{k}", "row": 0, "resource_id": "db", "event_time": t, "arrival_time": t, "version": 1,
         "role": "champion", "probability": 0.8, "threshold": 0.5, "alarm": k % 2 == 0, "steps": 0,
         "recalibration": number}
        for k, t in enumerate(at)
    ]  # fmt: skip
    segment.append(pa.RecordBatch.from_pylist(rows, SCHEMAS["failure"]))
    segment.close()


def test_answers_that_announce_the_same_incident_are_one_unit(tmp_path: Path) -> None:
    failures(tmp_path, 96)
    start = START + pd.Timedelta(hours=30)
    journal.add_feedback(
        tmp_path,
        [
            {"kind": "incident", "resource_id": "db", "start": start.isoformat()},
            {"kind": "covered", "end": (START + pd.Timedelta(hours=200)).isoformat()},
            # Somebody noticed: verdicts on quiet answers say nothing of the others.
            {"kind": "verdict", "request_id": "r61", "row": 0, "verdict": "missed"},
        ],
        who="test",
    )
    found = evidence_of(tmp_path, "failure", 1)
    announcing = found.truth == 1
    # From hour 6 on, across the border of two days.
    assert announcing.sum() == 24 and len(np.unique(found.unit[announcing])) == 1
    assert found.truth[61] == UNKNOWN and found.truth[60] == 0
    assert not set(found.unit[announcing]) & set(found.unit[found.truth == 0])


def test_corrected_answers_are_taken_back_to_the_servables_scale(tmp_path: Path) -> None:
    failures(tmp_path, 3, number=2)
    known = [Recalibration(1).as_dict(), Recalibration(2, slope=0.5, offset=-1.0).as_dict()]
    found = evidence_of(tmp_path, "failure", 1, known)
    np.testing.assert_allclose(shifted(found.probability, 0.5, -1.0), 0.8)
    with pytest.raises(UsageError, match="the journal holds no answer of version 7 of failure"):
        evidence_of(tmp_path, "failure", 7)


# Servables and the registry ------------------------------------------------------------------------------------------


def test_corrections_are_numbered_and_taken_back_one_by_one() -> None:
    tags: dict[str, str] = {}
    assert recalibrations.current(tags) is None
    for offset in (0.5, 0.7):
        tags |= recalibrations.changed(tags, Recalibration(0, offset=offset).as_dict(), "version 1 of m")
    assert [r["offset"] for r in recalibrations.history(tags)] == [0.5, 0.7]
    for expected in (0.5, None):
        tags |= recalibrations.changed(tags, None, "version 1 of m")
        now = recalibrations.current(tags)
        assert (now and now["offset"]) == expected
    with pytest.raises(TrackingError, match="version 1 of m has no correction that could be taken back"):
        recalibrations.changed(tags, None, "version 1 of m")
    tags |= recalibrations.changed(tags, Recalibration(0, offset=0.9).as_dict(), "version 1 of m")
    now = recalibrations.current(tags)
    assert now is not None and (now["number"], now["before"], now["offset"]) == (3, 0, 0.9)


@pytest.mark.parametrize(
    "tags", [{"recalibration": "x"}, {"recalibration": "2"}, {"recalibration": "1", "recalibration_1": "{"}]
)
def test_damaged_tags_concern_their_version_and_can_be_left_behind(tags: dict[str, str]) -> None:
    now = recalibrations.current(tags)
    assert now is not None and "damaged" in now
    with pytest.raises(ServableError, match="the correction from feedback cannot be read"):
        Recalibration.of(now)
    assert recalibrations.current(tags | recalibrations.changed(tags, None, "version 1 of m")) is None


@pytest.mark.parametrize(
    "bad", [{"slope": -1.0}, {"offset": float("nan")}, {"threshold": "0.3"}, {"threshold": 0.0}, {"normal_weight": 0}]
)
def test_a_correction_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ServableError, match="the correction from feedback"):
        Recalibration.of({"number": 1, **bad})


@pytest.mark.slow
def test_a_corrected_failure_servable_moves_all_that_is_on_its_scale(tmp_path: Path) -> None:
    loaded = servable.load(tiny.train("failure", tmp_path / "failure"))
    assert isinstance(loaded, servable.FailureServable)
    record = Recalibration(2, slope=0.7, offset=-0.4, threshold=0.31)
    found = servable.as_answering(loaded, {**record.as_dict(), "created": "2026-01-01", "before": 1})
    assert isinstance(found, servable.FailureServable)
    windows = np.random.default_rng(0).normal(40, 20, (50, loaded.window, len(loaded.features))).astype(np.float32)
    base = loaded.predict(windows)
    np.testing.assert_allclose(found.predict(windows), shifted(base, 0.7, -0.4), atol=1e-9)
    assert (np.argsort(found.predict(windows)) == np.argsort(base)).all()
    assert found.threshold == 0.31 and found.card["recalibration"]["number"] == 2
    # What the card promises is on the new scale; the files and the version itself are as they were.
    before, after = (m.card["decision"]["curve"]["threshold"] for m in (loaded, found))
    np.testing.assert_allclose(after, np.where(np.array(before) < 1, shifted(np.array(before), 0.7, -0.4), before))
    edges = found.card["watch"]["score"]["edges"]
    assert edges[0] == 0 and edges[-1] == 1 and (np.diff(edges) > 0).all()
    # Monitoring counts alarms by bins: there is an edge at the threshold, and nothing is lost or believed anew without need.
    kept, base_kept = found.card["watch"]["calibration"], loaded.card["watch"]["calibration"]
    assert 0.31 in kept["edges"] and (np.diff(kept["edges"]) > 0).all()
    assert sum(kept["counts"]) == pytest.approx(sum(base_kept["counts"])) and kept["rate"] == kept["mean"]
    assert len(kept["rate"]) == len(kept["counts"]) == len(kept["edges"]) - 1
    only = loaded.recalibrated(Recalibration(1, threshold=0.31)).card["watch"]["calibration"]
    assert set(only["rate"]) == set(base_kept["rate"])
    assert "recalibration" not in loaded.card
    loaded.verify()
    assert servable.as_answering(loaded, None) is loaded


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.train("threat", tmp_path_factory.mktemp("detector") / "servable")


def test_what_is_normal_weighs_more_and_nothing_else_changes(detector: Path) -> None:
    loaded = servable.load(detector)
    assert isinstance(loaded, servable.ThreatServable)
    found = loaded.recalibrated(Recalibration(1, normal_weight=4.0))
    normal = loaded.classes.index("normal")
    assert found.weights[normal] == pytest.approx(4 * loaded.weights[normal])
    X = np.tile(loaded.reference, (3, 1))
    np.testing.assert_array_equal(found.predict(X), loaded.predict(X))
    P = np.zeros((1, len(loaded.classes)))
    other = (normal + 1) % len(loaded.classes)
    P[0, normal], P[0, other] = loaded.weights[other], 2 * loaded.weights[normal]
    assert loaded.decide(P)[0] == other and found.decide(P)[0] == normal


def test_forecasts_cannot_be_corrected() -> None:
    loaded = servable.Servable(Path(), {"task": "capacity", "features": []})
    with pytest.raises(ServableError, match="capacity cannot be corrected from feedback: train again"):
        servable.as_answering(loaded, {"number": 1})


@pytest.mark.slow
def test_false_alarms_that_feedback_names_make_a_detector_more_careful(
    store: Path, detector: Path, tmp_path: Path
) -> None:
    tracking.prepare_store()
    search = tracking.open_search("threat", tmp_path / "search", name="tiny", params={}, tags={})
    uri = tracking.log_servable(search.run_id, detector)
    tracking.register("threat", search.run_id, "champion", model_uri=uri)
    state, loaded = tmp_path / "state", servable.load(detector)
    assert isinstance(loaded, servable.ThreatServable)
    asked = journalled.threats(state, loaded, synthetic.dataset(1500, seed=11, tasks=("threat",)), rows=900)
    kept = journal.read(state, "threat")
    sure = np.array([max(p) for p in kept["probabilities"]])
    # Here, what looks a little like an attack is what the machines do every night.
    truth = np.where(sure < 0.75, "normal", asked["threat_type"].to_numpy())
    journal.add_feedback(
        state,
        [{"kind": "class", "request_id": r, "label": t} for r, t in zip(kept["request_id"], truth, strict=True)],
        who="test",
    )
    said = aiops("models", "recalibrate", "threat", "--dry-run")
    assert ": better on" in said and "in effect" not in said
    assert tracking.champions()["threat_detector"].recalibration is None
    assert "correction 1 is in effect" in aiops("models", "recalibrate", "threat")
    champion = tracking.champions()["threat_detector"]
    record = champion.recalibration
    assert record is not None and record["normal_weight"] > 1 and record["measured"]["macro-F1"]["low"] > 0
    assert "champion, correction 1" in aiops("models", "list")
    assert "no correction is better beyond chance" in aiops("models", "recalibrate", "threat")
    assert '"route": "models recalibrate"' in (state / "audit.jsonl").read_text()
    with pytest.raises(TrackingError, match="was corrected meanwhile: nothing was changed"):
        tracking.recalibrate("threat_detector", champion.version, Recalibration(0).as_dict(), expected=0)
    assert "answers as it was trained" in aiops("models", "recalibrate", "threat", "--undo")
    assert tracking.champions()["threat_detector"].recalibration is None
    with pytest.raises(TrackingError, match="version 7 of threat_detector is not the champion any more"):
        tracking.recalibrate("threat_detector", 7, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("capacity",), "'capacity' cannot be corrected from feedback; what can: failure, threat"),
        (("failure", "--undo", "--dry-run"), "--undo changes the registry and --dry-run nothing: leave one out"),
        (("failure",), "model 'failure_predictor' has no champion"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(store: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(app, ["models", "recalibrate", *arguments], catch_exceptions=False)
