"""Champion against candidate on the journal: pairs, units, verdicts in words, and the commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aiops_core import journal
from aiops_core.journal import segments
from aiops_core.journal.schema import SCHEMAS
from aiops_core.journal.versions import keep_version
from aiops_core.live.pairs import pairs_of
from aiops_core.live.verdict import compare

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS: dict[str, dict[str, Any]] = {
    "failure": {"step_seconds": 3600, "window": 3, "horizon": 4, "features": [{"name": "cpu"}]},
    "threat": {"classes": ["normal", "scan"], "features": [{"name": "rate"}]},
    "capacity": {"step_seconds": 3600, "season": 24, "horizon": 2, "targets": ["cpu"], "features": [{"name": "cpu"}]},
}


def write(state: Path, task: str, records: list[dict[str, Any]]) -> None:
    segment = segments.Segment(segments.folder_of(state, task), SCHEMAS[task], "node")
    segment.append(pa.RecordBatch.from_pylist(records, SCHEMAS[task]))
    segment.close()
    for version in (1, 2):
        # Another version may have its classes in another order.
        card = CARDS[task] if version == 1 else {**CARDS[task], "classes": ["scan", "normal"]}
        keep_version(state, task, version, card)


def record(task: str, name: str, resource: str, hour: int, **more: Any) -> dict[str, Any]:
    when = START + hour * HOUR
    return {
        "request_id": name, "row": 0, "resource_id": resource, "event_time": when, "arrival_time": when, "version": 1,
        "role": "champion", "inputs": np.float32([50.0]).tobytes(), "steps": 1, "shadow_version": 2, **more,
    }  # fmt: skip


def failures(
    state: Path, own: float, other: float, *, resources: int = 60, hours: int = 48, turned: bool = False
) -> None:
    """Write answers whose chances of failure are off by `own` and `other` on the logit's scale, and what came true."""
    rng = np.random.default_rng(0)
    records, incidents = [], []
    for k in range(resources):
        for block in range(hours // 4):
            failing = rng.random() < 0.3
            logit = np.where(failing, 1.0, -2.0)
            for hour in range(block * 4, block * 4 + 4):
                p, q = (1 / (1 + np.exp(-(logit + rng.normal(0, size)))) for size in (own, other))
                heard = {"version": 2, "shadow_version": 1, "probability": q, "shadow_probability": p, "role": "canary"}
                spoke = heard if turned and k % 2 else {"probability": p, "shadow_probability": q}
                records.append(
                    record("failure", f"r{k}-{hour}", f"host-{k}", hour, threshold=0.5, alarm=False, **spoke)
                )
                verdict = "confirmed" if failing else "false_alarm"
                incidents.append({"request_id": f"r{k}-{hour}", "verdict": verdict})
    write(state, "failure", records)
    journal.add_feedback(state, incidents, at=START + 100 * HOUR)


@pytest.mark.parametrize(
    ("own", "other", "verdict"), [(2.5, 0.3, "better"), (0.3, 2.5, "worse"), (0.02, 0.02, "equivalent")]
)
def test_labelled_answers_of_both_versions_say_which_is_better(
    tmp_path: Path, own: float, other: float, verdict: str
) -> None:
    # That nothing matters takes the most labels.
    hours = 160 if verdict == "equivalent" else 48
    failures(tmp_path, own, other, hours=hours)
    found = compare(tmp_path, "failure", 1, 2)
    assert found.verdict == verdict, found.words
    assert found.rows == 60 * hours and found.waiting == 0
    # Windows of the same four hours are one unit.
    assert [loss.judged.units for loss in found.losses] == [60 * hours // 4] * 2
    assert {"better": "Version 2 is better", "worse": "Version 2 is worse", "equivalent": "No difference"}[
        verdict
    ] in found.words
    plain = found.as_dict()
    assert plain["verdict"] == verdict and plain["losses"][0]["name"] == "Brier score"


def test_it_does_not_matter_which_version_was_heard(tmp_path: Path) -> None:
    failures(tmp_path / "a", 2.0, 0.5)
    failures(tmp_path / "b", 2.0, 0.5, turned=True)
    straight, turned = (pairs_of(tmp_path / name, "failure", 1, 2).losses["Brier score"] for name in "ab")
    np.testing.assert_allclose(straight[0], turned[0])
    np.testing.assert_allclose(straight[1], turned[1])
    # And the other way round.
    backwards = pairs_of(tmp_path / "a", "failure", 2, 1).losses["Brier score"]
    np.testing.assert_allclose(backwards[0], straight[1])


def test_without_labels_or_pairs_it_says_go_on_collecting(tmp_path: Path) -> None:
    write(tmp_path, "failure", [record("failure", "a", "x", 0, probability=0.1, shadow_probability=0.2, threshold=0.5)])
    found = compare(tmp_path, "failure", 1, 2)
    assert found.verdict == "go on collecting" and found.waiting == 1 and "1 answers of both wait" in found.words
    assert compare(tmp_path, "failure", 1, 3).waiting == 0
    assert compare(tmp_path / "empty", "threat", 1, 2).verdict == "go on collecting"
    assert found.as_dict()["losses"][0]["champion"] is None


def test_a_block_counts_when_all_of_it_is_labelled_or_it_is_long_over(tmp_path: Path) -> None:
    outputs = {"probability": 0.2, "shadow_probability": 0.3, "threshold": 0.5, "alarm": False}
    write(tmp_path, "failure", [record("failure", f"r{hour}", "x", hour, **outputs) for hour in range(8)])
    journal.add_feedback(tmp_path, [{"request_id": f"r{h}", "verdict": "confirmed"} for h in (0, 1, 2, 4, 5, 6, 7)])
    assert len(pairs_of(tmp_path, "failure", 1, 2).losses["Brier score"][0]) == 1
    write(tmp_path, "failure", [record("failure", "late", "x", 12, **outputs)])
    own, _ = pairs_of(tmp_path, "failure", 1, 2).losses["Brier score"]
    np.testing.assert_allclose(own, [0.64, 0.64])


def test_threats_are_judged_by_the_class_that_came_true(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records, said = [], []
    for k in range(400):
        attack = bool(rng.random() < 0.5)
        right = rng.random() < 0.95
        mine = 0.6 if attack else 0.4
        theirs = (0.9 if attack else 0.1) if right else 0.5
        records.append(
            record(
                "threat", f"r{k}", f"10.0.0.{k}", k, threat_type="scan" if mine > 0.5 else "normal",
                probabilities=[1 - mine, mine], probability=mine, alarm=attack,
                shadow_threat_type="scan" if theirs > 0.5 else "normal", shadow_probabilities=[theirs, 1 - theirs],
            )
        )  # fmt: skip
        said.append({"request_id": f"r{k}", "label": "scan" if attack else "normal"})
    write(tmp_path, "threat", records)
    journal.add_feedback(tmp_path, said)
    found = compare(tmp_path, "threat", 1, 2)
    assert found.verdict == "better" and found.losses[0].name == "log loss", found.words
    assert found.losses[0].champion == pytest.approx(np.log(0.6) / np.log(0.01))
    assert found.losses[1].name == "share of wrong classes" and found.losses[1].champion == 0


def test_forecasts_are_judged_by_the_error_that_both_share(tmp_path: Path) -> None:
    records, usage = [], []
    for k in range(8):
        for hour in range(0, 60, 2):
            forecast = {"forecast": [14.0, 14.0], "low": [9.0] * 2, "high": [15.0] * 2, "shadow_forecast": [11.0, 11.0]}
            records.append(record("capacity", f"r{k}-{hour}", f"host-{k}", hour, target="cpu", **forecast, steps=0))
            when = START + (hour + 1) * HOUR
            usage += [
                {"resource_id": f"host-{k}", "target": "cpu", "timestamp": (when + n * HOUR).isoformat(), "value": 10.0}
                for n in range(2)
            ]
    write(tmp_path, "capacity", records)
    journal.add_feedback(tmp_path, usage)
    found = compare(tmp_path, "capacity", 1, 2)
    assert found.verdict == "better", found.words
    assert (found.losses[0].champion, found.losses[0].candidate) == pytest.approx((0.8, 0.2))
    assert found.losses[0].judged.units == 8 * 30
