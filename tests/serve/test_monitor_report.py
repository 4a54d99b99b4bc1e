"""From journal and registry to the monitoring report: the notebook through papermill, its page and its figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiops_core import journal, servable
from aiops_core.data import synthetic
from aiops_core.errors import UsageError
from aiops_core.job import monitoring
from aiops_core.monitor import look, records

pytestmark = [pytest.mark.serve, pytest.mark.notebook]

ANSWERS = 700


@pytest.fixture
def state(tmp_path: Path, servables: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with a week of answers of version 3, and feedback on some of them."""
    folder = tmp_path / "state"
    monkeypatch.setenv("AIOPS_STATE_DIR", str(folder))
    monkeypatch.setenv("AIOPS_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    copy = folder / "servables" / "threat_detector-3"
    shutil.copytree(servables["threat"], copy)
    servable.seal(copy)
    model: Any = servable.load(copy)
    activity = synthetic.dataset(ANSWERS, seed=77, tasks=("threat",)).tables["activity"]
    rows = activity[model.features].to_numpy(dtype=np.float32)
    probability = model.predict(rows)
    label = model.decide(probability)
    said = np.asarray(model.classes, dtype=object)[label]
    stamps = pd.date_range("2026-03-02", periods=ANSWERS, freq="14min", tz="UTC")
    content: dict[str, Any] = {name: [None] * ANSWERS for name in journal.SCHEMAS["threat"].names}
    content |= {
        "request_id": [f"r{i}" for i in range(ANSWERS)],
        "row": [0] * ANSWERS,
        "event_time": stamps,
        "arrival_time": stamps,
        "version": [3] * ANSWERS,
        "role": ["champion"] * ANSWERS,
        "latency_ms": [0.2] * ANSWERS,
        "inputs": [row.astype("<f4").tobytes() for row in rows],
        "steps": [1] * ANSWERS,
        "threat_type": list(said),
        "probabilities": [p.astype(np.float32) for p in probability],
        "probability": probability[np.arange(ANSWERS), label],
        "alarm": said != "normal",
    }
    place = folder / "journal" / "threat"
    place.mkdir(parents=True)
    table = pa.Table.from_pandas(pd.DataFrame(content), schema=journal.SCHEMAS["threat"], preserve_index=False)
    pq.write_table(table, place / "week.parquet")
    truth = activity["threat_type"].to_numpy(dtype=object)
    entries = [{"kind": "class", "request_id": f"r{i}", "label": truth[i]} for i in range(0, ANSWERS, 4)]
    journal.add_feedback(folder, entries, who="test")
    return folder


def test_the_journal_becomes_a_report_with_a_verdict_for_each_task(state: Path, tmp_path: Path) -> None:
    folder, content = monitoring.run("10d", tmp_path / "out", tasks=("failure", "threat"))
    assert set(content["tasks"]) == {"failure", "threat"}
    assert content["tasks"]["failure"]["verdict"]["state"] == "unknown"
    found = content["tasks"]["threat"]
    assert found["version"] == 3 and found["answers"] == ANSWERS
    assert found["verdict"]["state"] in ("fine", "watch", "act")
    assert found["quality"]["share"] == pytest.approx(0.25, abs=0.01)
    assert found["latency_ms"]["p50"] == pytest.approx(0.2)
    page = (folder / "report.html").read_text()
    assert "Threat detection" in page and "What it cannot see" not in page
    assert "http://" not in page and "https://" not in page
    assert page.count("data:image/png;base64,") >= 4
    assert (folder / "notebooks" / "07_monitoring.ipynb").is_file()
    # What the service shows as metrics.
    assert json.loads((state / "monitor" / "report.json").read_text())["state"] == content["state"]
    assert (state / "monitor" / "report.json").stat().st_mode & 0o077 == 0
    # Again into the same folder: the report is replaced.
    monitoring.run("2d", tmp_path / "out", tasks=("failure",))
    assert set(json.loads((folder / "report.json").read_text())["tasks"]) == {"failure"}


def test_only_the_newest_version_is_judged_and_one_without_a_card_is_not(state: Path) -> None:
    frame, card, version = records("threat", "3d")
    assert version == 3 and card is not None and len(frame) == pytest.approx(3 * 24 * 60 / 14, abs=2)
    path = state / "journal" / "threat" / "week.parquet"
    table = pq.read_table(path)
    versions = pa.array([3] * 600 + [0] * 100, type=pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("version"), "version", versions), path)
    frame, card, version = records("threat", "10d")
    assert version == 0 and card is None and len(frame) == 100
    assert look(frame, card, task="threat", version=version)["verdict"]["state"] == "unknown"


def test_answers_whose_inputs_are_not_stored_are_judged_by_their_scores(state: Path) -> None:
    path = state / "journal" / "threat" / "week.parquet"
    table = pq.read_table(path)
    empty = pa.nulls(ANSWERS, type=pa.binary())
    pq.write_table(table.set_column(table.schema.get_field_index("inputs"), "inputs", empty), path)
    found = look(*records("threat", "10d")[:2], task="threat", version=3)
    assert found["estimate"] is not None and found["quality"] is not None
    assert {one["kind"] for one in found["drift"] if one["days"]} == {"score", "class"}
    assert found["broken"] == []


def test_a_task_a_time_or_a_folder_that_makes_no_sense_is_refused_before_anything_runs(
    state: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown task 'treat'; did you mean 'threat'"):
        monitoring.run(tasks=("treat",))
    with pytest.raises(UsageError, match="--since 'yesterday-ish' is no time"):
        monitoring.run("yesterday-ish")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are not a report"):
        monitoring.run(out=tmp_path / "mine")


def test_answers_given_with_another_correction_are_not_compared_with_the_card(state: Path) -> None:
    path = state / "journal" / "threat" / "week.parquet"
    table = pq.read_table(path)
    numbers = pa.array([None] * (ANSWERS - 100) + [1] * 100, type=pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("recalibration"), "recalibration", numbers), path)
    frame, card, _ = records("threat", "10d")
    assert card is not None and len(frame) == ANSWERS - 100 and frame["recalibration"].isna().all()
