"""Corrections from feedback: learned from earlier answers, judged on later ones, numbered, and taken back."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "serve"))

import journalled
import tiny
from typer.testing import CliRunner

from aiops_core import journal, servable, tracking
from aiops_core.cli import app
from aiops_core.data import synthetic
from aiops_core.errors import ServableError, TrackingError, UsageError
from aiops_core.recalibrate import learn as learning
from aiops_core.recalibrate.evidence import Evidence
from aiops_core.servable import Recalibration
from aiops_core.servable.recalibration import shifted
from aiops_core.tracking import recalibrations

DAY = 86_400
MAX_F1 = {"decision": {"rule": "max_f1", "threshold": 0.5}}


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
    said = np.repeat(logits, rows) + rng.normal(0, 0.05, units * rows)
    unit = np.repeat(np.arange(units), rows)
    second = unit * 2 * DAY + np.tile(np.arange(rows) * 3600, units)
    weight = np.ones(len(unit))
    return Evidence(unit, second, weight, 1 / (1 + np.exp(-said)), np.repeat(happened, rows).astype(np.int64), DAY)


def learned(
    monkeypatch: pytest.MonkeyPatch,
    found: Evidence,
    current: Recalibration | None = None,
    card: dict[str, Any] = MAX_F1,
) -> learning.Learned:
    monkeypatch.setattr(learning, "evidence_of", lambda *given, **options: found)
    loaded: Any = SimpleNamespace(task="failure", card=card)
    return learning.learn(Path(), loaded, 1, current)


def test_a_model_that_is_far_too_sure_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, evidence(slope=0.5, offset=-1.5, units=400))
    assert found.better, found.words
    assert found.record.slope == pytest.approx(0.5, abs=0.2) and found.record.offset == pytest.approx(-1.5, abs=0.5)
    loss = found.measured["log loss"]
    assert 0 < loss["low"] <= loss["before"] - loss["after"] <= loss["high"]
    # Where other alarms are not shown to be better, they stay as they are on the corrected scale.
    kept = float(shifted(np.array([0.5]), found.record.slope, found.record.offset)[0])
    assert found.record.threshold == pytest.approx(kept)
    assert "the calibration is better corrected, the alarms stay as they are: on 1,336 later answers" in found.words


def test_alarms_that_come_far_too_late_come_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, evidence(slope=1.0, offset=0.0, units=400), Recalibration(0, threshold=0.9))
    assert found.better and found.measured["F1"]["low"] > 0, found.words
    assert found.record.threshold is not None and 0.2 < found.record.threshold < 0.6
    assert (found.record.slope, found.record.offset) == (1.0, 0.0)


def test_costs_decide_where_the_rule_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=1.0, offset=1.0, units=400)
    card = {"decision": {"rule": "cost", "cost_missed": 3.0, "cost_false_alarm": 1.0, "threshold": 0.8}}
    found = learned(monkeypatch, told, card=card)
    assert found.better and found.record.threshold == 0.25 and found.measured["mean cost"]["low"] > 0, found.words
    budget = {"decision": {"rule": "alert_budget", "threshold": 0.25}}
    found = learned(monkeypatch, told, card=budget)
    moved = float(shifted(np.array([0.25]), found.record.slope, found.record.offset)[0])
    assert found.better and found.record.threshold == pytest.approx(moved) and "F1" not in found.measured


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_is_right_is_left_alone(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    # The threshold is where F1 is highest, as that of a trained version: only chance is left to learn.
    right = Recalibration(0, threshold=0.33)
    found = learned(monkeypatch, evidence(slope=1.0, offset=0.0, units=300, seed=seed), right)
    assert not found.better, found.words
    assert "not better beyond chance" in found.words


def test_what_later_feedback_contradicts_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, evidence(slope=1.0, offset=-2.0, units=400, late=2.0))
    assert found.measured["log loss"]["after"] > found.measured["log loss"]["before"]
    assert (found.record.slope, found.record.offset) == (1.0, 0.0)


def test_a_correction_in_effect_is_what_a_new_one_must_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=0.5, offset=-1.5, units=400)
    first = learned(monkeypatch, told)
    again = learned(monkeypatch, told, first.record)
    assert first.better and not again.better


def test_too_few_incidents_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the part of it that teaches has . independent stretches with an incident"):
        learned(monkeypatch, evidence(slope=1.0, offset=-3.0, units=60))
    loaded: Any = SimpleNamespace(task="capacity", card={})
    with pytest.raises(UsageError, match="capacity cannot be corrected from feedback: train again"):
        learning.learn(Path(), loaded, 1)


def test_alarms_weigh_what_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = evidence(slope=1.0, offset=0.0, units=400)
    alarm = told.probability >= 0.5
    half = told.part(alarm | (np.arange(len(alarm)) % 4 == 0))
    # Only a quarter of the quiet answers is labelled: without weights an incident would look twice as likely.
    half.weight[half.probability < 0.5] = 4.0
    whole, found = learned(monkeypatch, told), learned(monkeypatch, half)
    assert found.record.offset == pytest.approx(whole.record.offset, abs=0.35)


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
    asked = journalled.threats(state, loaded, synthetic.dataset(1500, seed=11, tasks=("threat",)), rows=600)
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
    assert "what is normal is better weighed anew" in said and "in effect" not in said
    assert tracking.champions()["threat_detector"].recalibration is None
    assert "correction 1 is in effect" in aiops("models", "recalibrate", "threat")
    record = tracking.champions()["threat_detector"].recalibration
    assert record is not None and record["normal_weight"] > 1 and record["measured"]["macro-F1"]["low"] > 0
    assert "not better beyond chance" in aiops("models", "recalibrate", "threat")
    audit = (state / "audit.jsonl").read_text()
    assert '"route": "models recalibrate"' in audit
    assert "answers as it was trained" in aiops("models", "recalibrate", "threat", "--undo")
    assert tracking.champions()["threat_detector"].recalibration is None
