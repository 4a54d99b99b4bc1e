"""The notebook of the service, run against a service that needs a key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import papermill
import pytest
from conftest import Service, point
from test_docs import listening

from aiops_core.facts import MODELS
from serve_app.guard import keys

TOUR = Path(__file__).parents[2] / "notebooks" / "06_serving_tour.ipynb"


@pytest.mark.notebook
def test_the_tour_sends_the_key_of_the_environment_and_keeps_none(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_service().state
    point(state, {MODELS[task]: (folder, "1") for task, folder in servables.items()})
    key = keys.add(state / "keys.json", "notebook", ["read", "predict"])
    monkeypatch.setenv("AIOPS_KEY", key)
    with listening(make_service()) as url:
        parameters = {"url": url, "n_requests": 5}
        papermill.execute_notebook(str(TOUR), str(tmp_path / "tour.ipynb"), parameters, progress_bar=False)
    text = (tmp_path / "tour.ipynb").read_text(encoding="utf-8")
    assert key not in text and "aiops_predictions_total" in text
