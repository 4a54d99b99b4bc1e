"""Services in this process, over real servables trained once for all tests."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny
from client import Client

from serve_app.api import Services, build_api
from serve_app.backends import Host
from serve_app.jobs import Jobs
from serve_app.reload import Registry, node_folder
from serve_app.remediation import Remediator
from serve_app.services import MODELS
from serve_app.telemetry import Metrics

RUN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="session")
def servables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a servable of each task."""
    folder = tmp_path_factory.mktemp("servables")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return {task: tiny.train(task, folder / task) for task in MODELS}


def point(state: Path, models: dict[str, tuple[Path, str]], **registry: Any) -> None:
    """Write the pointer file as the follower would: model name to folder and version."""
    folder = node_folder(state)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "models": {
            name: {"version": version, "run_id": RUN, "alias": "champion", "created": None, "folder": str(path)}
            for name, (path, version) in models.items()
        },
        "refused": {},
        "registry": {"asked": time.time(), "reached": time.time(), "error": None, **registry},
    }
    temporary = folder / "new"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, folder / "champions.json")


class Service:
    """One replica's worth of the service."""

    def __init__(self, state: Path, **options: Any) -> None:
        self.state = state
        self.metrics = Metrics(state / "metrics", flush=False)
        self.host = Host(list(MODELS), node_folder(state), self.metrics, options.get("windows"))
        self.host.watch.look()
        self.jobs = Jobs(state / "jobs", self.metrics, {}, options.get("command"))
        self.remediator = Remediator(
            options.get("webhooks", {}), options.get("secret"), state / "audit.jsonl", self.metrics
        )
        registry = Registry(node_folder(state))
        self.api = build_api(Services(self.host, self.metrics, registry, self.jobs, self.remediator))
        self.client = Client(self.api)

    def samples(self) -> dict[str, float]:
        """Return the samples of ``GET metrics`` by name and sorted labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.client.get("metrics").body.decode()
        return {
            sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that carry the labels."""
        found = 0.0
        for key, value in self.samples().items():
            sample, given = key.split("{", 1)
            if sample == name and labels.items() <= json.loads("{" + given).items():
                found += value
        return found


@pytest.fixture
def make_service(tmp_path: Path) -> Callable[..., Service]:
    """Build services over one state folder, empty until `point` names models."""
    return lambda **options: Service(tmp_path / "state", **options)


@pytest.fixture(scope="session")
def shared(servables: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service with all three models, for tests that leave nothing behind that others could see."""
    state = tmp_path_factory.mktemp("shared") / "state"
    point(state, {MODELS[task]: (path, "1") for task, path in servables.items()})
    return Service(state)


@pytest.fixture
def client(shared: Service) -> Client:
    """Client of the shared service."""
    return shared.client


@pytest.fixture
def broken(servables: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    """A threat servable whose golden examples do not come out."""
    import numpy as np

    folder = tmp_path / "broken"
    shutil.copytree(servables["threat"], folder)
    with np.load(folder / "golden.npz") as stored:
        arrays = dict(stored)
    arrays["expected_probability"] = arrays["expected_probability"][:, ::-1]
    np.savez_compressed(folder / "golden.npz", **arrays)
    yield folder
