"""The cards of all three tasks hold what monitoring compares with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aiops_core import servable
from aiops_core.facts import TASKS

pytestmark = pytest.mark.serve


@pytest.mark.parametrize("task", TASKS)
def test_a_card_tells_how_its_features_scores_and_calibration_looked(servables: dict[str, Path], task: str) -> None:
    card = servable.load(servables[task]).card
    watch = card["watch"]
    assert list(watch["features"]) == [feature["name"] for feature in card["features"]]
    for name, kept in watch["features"].items():
        assert len(kept["edges"]) == len(kept["counts"]) + 1, name
        assert sum(kept["counts"]) <= watch["rows"] and 0 <= kept["missing"] < 1
        assert kept["scatter"]["size"] > 0
    assert len(watch["score"]["edges"]) == 21 and len(watch["score"]["counts"]) == 20
    calibration = watch["calibration"]
    assert len(calibration["edges"]) - 1 == len(calibration["counts"]) == len(calibration["rate"])
    assert sum(calibration["counts"]) == pytest.approx(sum(watch["score"]["counts"]), rel=1e-3)
    assert ("windows" in watch) == (task == "failure")
    assert ("classes" in watch) == (task == "threat")


def test_the_threshold_of_failure_is_an_edge_of_its_calibration(servables: dict[str, Path]) -> None:
    card = servable.load(servables["failure"]).card
    assert card["decision"]["threshold"] in card["watch"]["calibration"]["edges"]
    assert 0 < card["watch"]["alarm_rate"] < 1


def test_a_servable_without_these_entries_still_loads(servables: dict[str, Path], tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "old"
    shutil.copytree(servables["threat"], folder)
    card = json.loads((folder / "card.json").read_text())
    del card["watch"]
    (folder / "card.json").write_text(json.dumps(card))
    assert np.isfinite(servable.load(folder).predict(np.zeros((1, len(card["features"]))))).all()
