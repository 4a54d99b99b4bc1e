"""A correction from feedback reaches the service without a restart, says its number, and goes as it came."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import ROW, THREAT, Service, Store, Version, point

from aiops_core import servable
from aiops_core.errors import TrackingError
from aiops_core.facts import MODELS
from aiops_core.servable.recalibration import shifted
from serve_app.champions.follower import Follower
from serve_app.champions.node import POINTER, node_folder, read_pointer

pytestmark = pytest.mark.serve


def correct(service: Service, task: str, record: dict[str, Any] | None) -> None:
    """Write a correction into the pointer file, as the follower does, and let the replica look."""
    path = node_folder(service.state) / POINTER
    content = json.loads(path.read_text())
    entry = {k: v for k, v in content["models"][MODELS[task]].items() if k != "recalibration"}
    content["models"][MODELS[task]] = entry if record is None else {**entry, "recalibration": record}
    path.with_name("fresh").write_text(json.dumps(content))
    os.replace(path.with_name("fresh"), path)
    service.models.watcher.look()


@pytest.fixture
def service(make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path) -> Service:
    point(tmp_path / "state", {MODELS[task]: (path, "3") for task, path in servables.items()})
    return make_service()


def ask(service: Service, route: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = service.client.post(route, body)
    assert answer.status == 200, answer.body[:500]
    found: dict[str, Any] = answer.json()
    return found


def test_probability_threshold_and_number_follow_a_correction_and_go_with_it(
    service: Service, servables: dict[str, Path]
) -> None:
    card = servable.read_card(servables["failure"])
    row = {f["name"]: f["reference"]["median"] for f in card["features"]}
    body = {"resource_id": "web-1", "time_series": [row] * card["window"]}
    before = ask(service, "predict/failure", body)
    assert "recalibration" not in before["model"]
    correct(service, "failure", {"number": 2, "slope": 0.5, "offset": 1.0, "threshold": 0.2, "created": "2026-01-01"})
    after = ask(service, "predict/failure", body)
    expected = shifted(np.array([before["probability"]]), 0.5, 1.0)[0]
    assert after["probability"] == pytest.approx(expected, abs=1e-5)
    assert after["threshold"] == 0.2 and after["model"]["recalibration"] == 2
    assert (after["prediction"] == "failure_expected") == (expected >= 0.2) or after["prediction"] != before[
        "prediction"
    ]
    status = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == MODELS["failure"])
    assert status["recalibration"] == 2 and status["version"] == "3"
    correct(service, "failure", None)
    assert ask(service, "predict/failure", body) | {"request_id": ""} == before | {"request_id": ""}


def test_a_detector_is_more_careful_with_what_is_normal(service: Service, servables: dict[str, Path]) -> None:
    names = [f["name"] for f in servable.read_card(servables["threat"])["features"]]
    rows = json.loads(tiny.dataset("threat").tables["activity"][names].tail(60).to_json(orient="records"))

    def attacks() -> int:
        found = ask(service, "predict/threat", {"instances": rows})["predictions"]
        return sum(a["prediction"] != "normal" for a in found)

    usual = attacks()
    correct(service, "threat", {"number": 1, "normal_weight": 1e6})
    assert usual > 0 and attacks() == 0
    correct(service, "threat", {"number": 2, "normal_weight": 1e-6})
    assert attacks() == len(rows)


def test_a_correction_that_cannot_be_used_leaves_the_model_in_service(service: Service) -> None:
    correct(service, "capacity", {"number": 1, "offset": 0.1})
    status = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == MODELS["capacity"])
    assert status["status"] == "loaded" and "cannot be corrected" in json.dumps(status)
    correct(service, "capacity", None)
    status = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == MODELS["capacity"])
    assert status["status"] == "loaded" and "cannot be corrected" not in json.dumps(status)


# The follower --------------------------------------------------------------------------------------------------------


class Correcting(Store):
    """A registry whose champion may be corrected."""

    record: dict[str, Any] | None = None

    def get_version(self, name: str, version: int) -> Version:
        found = super().get_version(name, version)
        found.recalibration = self.record
        return found


def test_a_correction_reaches_the_replicas_is_replaced_refused_and_taken_back(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path
) -> None:
    store, folder = Correcting(servables["threat"]), node_folder(tmp_path / "state")
    follower = Follower(folder, store)
    follower.poll()
    service = make_service()
    usual = service.client.post("predict/threat", ROW).json()

    def after(record: dict[str, Any] | None) -> dict[str, Any]:
        store.record = record
        follower.poll()
        service.models.watcher.look()
        found: dict[str, Any] = service.client.post("predict/threat", ROW).json()
        return found

    for number, weight in ((1, 1e6), (2, 1e-6)):
        said = after({"number": number, "normal_weight": weight, "before": number - 1})
        assert said["model"]["recalibration"] == number and (said["prediction"] == "normal") == (weight > 1)
    copies = sorted(path.name for path in (folder / "servables").iterdir())
    # What cannot be used is refused, and costs neither the copy of the version nor the correction before it.
    assert after({"number": 3, "normal_weight": -1.0})["model"]["recalibration"] == 2
    assert "out of range" in read_pointer(folder)["refused"][THREAT]["reason"]
    assert sorted(path.name for path in (folder / "servables").iterdir()) == copies
    assert after(None) | {"request_id": ""} == usual | {"request_id": ""}
    content = read_pointer(folder)
    assert content["refused"] == {} and content["models"][THREAT]["recalibration"] is None
    # Another one in effect while the registry cannot be reached: a promotion keeps what is asked of its own version.
    after({"number": 4, "normal_weight": 2.0})
    assert follower.execute({"do": "promote", "name": THREAT, "version": 2})["ok"]["recalibration"] == 4


def test_a_node_without_the_registry_takes_the_correction_from_its_neighbour(
    servables: dict[str, Path], tmp_path: Path
) -> None:
    nodes = tmp_path / "state" / "nodes"
    store = Correcting(servables["threat"])
    here = Follower(nodes / "here", store)
    here.poll()
    store.record = {"number": 1, "normal_weight": 3.0}
    Follower(nodes / "other", store).poll()
    store.error = TrackingError("no MLflow server answers")
    here.poll()
    assert read_pointer(nodes / "here")["models"][THREAT]["recalibration"] == store.record
