"""Why one answer: the library behind notebook 08, and the notebook itself."""

from __future__ import annotations

from pathlib import Path

import journalled
import numpy as np
import pandas as pd
import papermill
import pytest
import tiny
from test_replay import register

from aiops_core import journal, servable, tracking
from aiops_core.errors import UsageError
from aiops_core.replay import why

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "08_why.ipynb"
ASK = {"failure": journalled.failures, "threat": journalled.threats, "capacity": journalled.forecasts}


@pytest.fixture
def state(store: Path, servables: dict[str, Path], tmp_path: Path) -> Path:
    """State folder with answers of the champions of all tasks, which are registered."""
    tracking.prepare_store()
    for task, folder in servables.items():
        register(folder, tmp_path)
        ASK[task](tmp_path / "state", servable.load(folder), tiny.dataset(task))
    return tmp_path / "state"


@pytest.mark.parametrize("task", ["failure", "threat", "capacity"])
def test_an_answer_is_explained_from_the_journal_alone(state: Path, task: str) -> None:
    asked = journal.read(state, task).iloc[7]
    record = why.find(asked["request_id"], int(asked["row"]), state=state)
    assert record.task == task and asked["request_id"] in record._repr_html_()
    seen = why.seen(record)
    if task == "threat":
        assert list(seen.index) == record.names and seen["ordinary"].notna().all()
    else:
        assert list(seen.columns) == record.names and seen.index[-1] == asked["event_time"]
    drivers = why.drivers(record, top=3)
    assert 0 < len(drivers) <= 3 and drivers["contribution"].abs().is_monotonic_decreasing
    near = why.neighbours(record, 4)
    assert len(near) == 4 and near["distance"].is_monotonic_increasing and np.isfinite(near["distance"]).all()
    other = why.others(record)
    assert list(other.index) == [1]
    if task == "failure":
        assert other["score"][1] == pytest.approx(asked["probability"], abs=1e-6)
    if task == "threat":
        assert other["said"][1] == asked["threat_type"]


def test_a_golden_example_is_its_own_nearest_neighbour(state: Path, servables: dict[str, Path]) -> None:
    loaded = servable.load(servables["threat"])
    with np.load(servables["threat"] / "golden.npz") as stored:
        x = stored["X"][3]
    journalled.write(state, loaded, 1, [
        {"request_id": "golden", "event_time": None, "arrival_time": pd.Timestamp("2026-03-01T00:00Z"), "steps": 1,
         "inputs": x.astype("<f4").tobytes(), "threat_type": "normal", "probabilities": [1.0], "probability": 1.0, "alarm": False}
    ])  # fmt: skip
    near = why.neighbours(why.find("golden", state=state), 1)
    assert near.index[0] == 3 and near["distance"].iloc[0] == pytest.approx(0, abs=1e-9)


def test_a_verdict_from_the_cell_is_feedback_and_the_newest_counts(state: Path) -> None:
    asked = journal.read(state, "threat").iloc[0]
    record = why.find(asked["request_id"], state=state)
    assert len(why.tell(record)) == 0
    why.tell(record, "false_alarm")
    said = why.tell(record, "confirmed", who="anna")
    assert said["verdict"].tolist() == ["confirmed"] and said["who"].tolist() == ["anna"]
    assert why.find(asked["request_id"], state=state).answer["truth"] == asked["threat_type"]


def test_an_answer_that_is_not_there_or_cannot_be_explained_is_named(state: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no answer 'nobody' with row 0"):
        why.find("nobody", state=state)
    with pytest.raises(UsageError, match="holds no answer of a trained model yet"):
        why.newest(tmp_path / "empty")


@pytest.mark.notebook
def test_the_notebook_runs_and_stores_the_verdict_it_was_given(state: Path, tmp_path: Path) -> None:
    asked = journal.read(state, "failure").iloc[5]
    parameters = {"request_id": asked["request_id"], "verdict": "expected"}
    papermill.execute_notebook(str(NOTEBOOK), str(tmp_path / "why.ipynb"), parameters, progress_bar=False)
    assert journal.feedback(state)["verdict"].tolist() == ["expected"]
    text = (tmp_path / "why.ipynb").read_text(encoding="utf-8")
    assert "contribution" in text and "image/png" in text
