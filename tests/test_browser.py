"""A notebook worked through by hand: in JupyterLab, in a real browser, with clicks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from notebooks_in_browser import text, walk

from aiops_core.tracking.store import experiment_id, open_client

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]


def trials_by_search(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Return the MLflow runs of the trials, a list for each search, oldest first."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    with open_client() as client:
        runs = client.search_runs([experiment_id(client)], order_by=["attributes.start_time ASC"])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    searches = [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return [[run for run in runs if run.data.tags.get("mlflow.parentRunId") == search] for search in searches]


def test_a_notebook_by_hand_searches_the_changed_space_stops_when_told_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = walk(tmp_path, tmp_path / "pictures")
    assert not found["errors"]
    assert not any(output["output_type"] == "error" for output in found["stopped"] + found["resumed"])

    first, changed = trials_by_search(found["home"], monkeypatch)
    assert len(first) == 3 and all(8 <= int(run.data.params["max_depth"]) <= 18 for run in first)
    assert all(3 <= int(run.data.params["max_depth"]) <= 4 for run in changed)

    ended = re.search(r"stopped after (\d+) of 200 trials", text(found["stopped"]))
    assert ended and 5 <= int(ended[1]) < 150
    gone_on = text(found["resumed"])
    assert f"{ended[1]} finished trials of the same search are reused" in gone_on
    assert f"{int(ended[1]) + 2}/{int(ended[1]) + 2} trials done" in gone_on and "stopped after" not in gone_on

    # What stays in the notebook needs no kernel.
    for outputs in (found["first"], found["changed"], found["stopped"], found["resumed"]):
        assert "trials done" in text(outputs) and "★" in text(outputs)
        assert not any("widget-view" in kind for output in outputs for kind in output.get("data", {}))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 6
