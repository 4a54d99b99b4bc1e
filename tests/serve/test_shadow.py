"""A shadow answers everything once more, unheard, and what it says is judged by what turned out true."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RUN, Service, point

from aiops_core import journal, servable
from aiops_core.facts import MODELS
from serve_app.answers import shadow as shadowing
from serve_app.answers.second import second
from serve_app.answers.service import Champion
from serve_app.champions.node import POINTER, node_folder
from serve_app.journal.entries import About, Entry

THREAT = MODELS["threat"]


def accompany(state: Path, companions: dict[str, tuple[Path, str, float | None]]) -> None:
    """Name companions in the pointer file as the follower would: slot to folder, version and share."""
    path = node_folder(state) / POINTER
    content = json.loads(path.read_text())
    content["companions"] = {
        place: {
            "version": version, "run_id": RUN, "alias": place.partition("@")[2], "created": None, "folder": str(folder),
            "share": share,
        }
        for place, (folder, version, share) in companions.items()
    }  # fmt: skip
    path.with_name("fresh").write_text(json.dumps(content))
    os.replace(path.with_name("fresh"), path)


@pytest.fixture
def service(make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path) -> Service:
    """A service whose champions are versions 1, each with version 2, the same model, as shadow."""
    state = tmp_path / "state"
    point(state, {MODELS[task]: (path, "1") for task, path in servables.items()})
    accompany(state, {f"{MODELS[task]}@shadow": (path, "2", None) for task, path in servables.items()})
    found = make_service(journal={"": "on"})
    found.journal.start()
    found.models._shadows.start()
    return found


def written(service: Service, task: str, count: int) -> Any:
    """Return the records of a task as soon as there are so many."""
    deadline = time.monotonic() + 30
    while len(frame := journal.read(service.state, task)) < count:
        assert time.monotonic() < deadline, f"{len(frame)} of {count} records"
        time.sleep(0.05)
    return frame


def requests(servables: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return a request for each task."""
    rng = np.random.default_rng(0)
    failure: Any = servable.load(servables["failure"])
    rows = [{name: round(float(rng.random() * 50), 3) for name in failure.features} for _ in range(failure.window)]
    return {
        "failure": {"resource_id": "web-01", "time_series": rows},
        "threat": {"source_ip": "10.0.0.1", "failed_auth_count": 25, "request_rate": 1500},
        "capacity": {"resource_id": "web-01", "historical_data": {"cpu_usage": [50 + k % 24 for k in range(48)]}},
    }


def test_the_shadow_says_the_same_on_the_same_inputs_and_nobody_hears_it(
    service: Service, servables: dict[str, Path]
) -> None:
    for task, body in requests(servables).items():
        answer = service.client.post(f"predict/{task}", body)
        assert answer.status == 200 and answer.json()["model"]["version"] == "1", answer.body
        batch = service.client.post(f"predict/{task}", {"instances": [body, body]}).json()["predictions"]
        assert {one["model"]["version"] for one in batch} == {"1"}
        frame = written(service, task, 3)
        assert (
            set(frame["version"]) == {1} and set(frame["shadow_version"]) == {2} and set(frame["role"]) == {"champion"}
        )
        assert frame["latency_ms"].between(0, 60_000, inclusive="neither").all()
        if task == "failure":
            np.testing.assert_allclose(frame["shadow_probability"], frame["probability"], atol=1e-7)
            assert (frame["shadow_alarm"] == frame["alarm"]).all()
        elif task == "threat":
            assert (frame["shadow_threat_type"] == frame["threat_type"]).all()
            np.testing.assert_allclose(
                np.stack(frame["shadow_probabilities"].tolist()), np.stack(frame["probabilities"].tolist()), atol=1e-6
            )
        else:
            for own, other in zip(frame["forecast"], frame["shadow_forecast"], strict=True):
                np.testing.assert_allclose(other, own, rtol=1e-5)
        assert service.total("aiops_shadow_total", model=MODELS[task], result="answered") == 3
        # What its answers mean is kept, though it is not heard.
        assert journal.versions(service.state, task).keys() == {1, 2}


def test_features_are_found_by_name_and_missing_where_the_champion_has_none(servables: dict[str, Path]) -> None:
    loaded: Any = servable.load(servables["threat"])
    features = loaded.card["features"]
    turned = [*reversed(features[1:]), {"name": "another", "dtype": "number"}]
    about = About("threat", "1", {**loaded.card, "features": turned})
    rng = np.random.default_rng(0)
    rows = rng.random((5, len(turned))).astype(np.float32)
    entries = [Entry(about, "r", False, None, None, row, ([], 0, None)) for row in rows]
    found = second("threat", entries, Champion(loaded, THREAT, "2"))
    same = np.full((5, len(features)), np.nan, dtype=np.float32)
    same[:, 1:] = rows[:, :-1][:, ::-1]
    np.testing.assert_allclose([p for _, _, p in found], loaded.predict(same))
    assert {version for version, _, _ in found} == {"2"}


def test_where_a_canary_spoke_the_champion_answers_unheard(service: Service, servables: dict[str, Path]) -> None:
    accompany(service.state, {f"{THREAT}@canary": (servables["threat"], "3", 0.5)})
    service.models.watcher.look()
    for i in range(20):
        service.client.post("predict/threat", {"source_ip": f"10.0.0.{i}", "failed_auth_count": i})
    frame = written(service, "threat", 20)
    spoke = frame[frame["role"] == "canary"]
    assert 0 < len(spoke) < 20 and set(spoke["version"]) == {3} and set(spoke["shadow_version"]) == {1}
    # The shadow is gone: nobody answers beside the champion where it was heard.
    assert frame[frame["role"] == "champion"]["shadow_version"].isna().all()


def test_too_many_are_not_waited_for_and_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "MOST", 0)
    for i in range(5):
        assert service.client.post("predict/threat", {"failed_auth_count": i}).status == 200
    frame = written(service, "threat", 5)
    assert frame["shadow_version"].isna().all()
    assert service.total("aiops_shadow_total", model=THREAT, result="dropped") == 5


def test_a_shadow_that_cannot_answer_costs_nothing_but_its_answers(
    service: Service, servables: dict[str, Path], tmp_path: Path
) -> None:
    body = requests(servables)["failure"]
    odd = tmp_path / "odd"
    shutil.copytree(servables["failure"], odd)
    card = json.loads((odd / "card.json").read_text())
    card["step_seconds"] = 60
    (odd / "card.json").write_text(json.dumps(card))
    accompany(service.state, {f"{MODELS['failure']}@shadow": (odd, "5", None)})
    service.models.watcher.look()
    assert service.client.post("predict/failure", body).status == 200
    assert written(service, "failure", 1)["shadow_version"].isna().all()
    assert service.total("aiops_shadow_total", model=MODELS["failure"], result="failed") == 1


def test_the_verdict_is_asked_over_http(service: Service) -> None:
    get = service.client.get
    for i in range(12):
        answer = service.client.post(
            "predict/threat", {"source_ip": f"10.0.0.{i}", "failed_auth_count": 20}, headers={"x-request-id": f"r{i}"}
        )
        said = {"request_id": answer.json()["request_id"], "label": answer.json()["prediction"]}
        assert service.client.post("feedback", said).status == 200
    written(service, "threat", 12)
    everything = get("models/judge").json()["verdicts"]
    assert [v["task"] for v in everything] == ["failure", "threat", "capacity"]
    threat = everything[1]
    assert (threat["champion"], threat["candidate"], threat["verdict"]) == (1, 2, "go on collecting")
    assert threat["answers"] == {"labelled": 12, "waiting": 0} and threat["losses"][0]["units"] == 12
    assert threat["losses"][0]["mean"] == 0 and "Go on collecting" in threat["words"]
    accompany(service.state, {})
    nothing = get("models/judge").json()["verdicts"][0]
    assert nothing["verdict"] is None and "models/shadow" in nothing["words"]
