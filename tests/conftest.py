"""Shared fixtures: isolated stores and homes, the folder of real data, one quiet environment for Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent

# Trial workers import the toy task of the tests.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; tests that need it are skipped where it is absent."""
    given = os.environ.get("AIOPS_DATASETS_DIR")
    folder = Path(given) if given else ROOT.parent / "shared" / "datasets"
    if not folder.is_dir():
        pytest.skip("no folder of real data sets (AIOPS_DATASETS_DIR)")
    return folder


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: creating its tables takes seconds, so tests copy this one."""
    from aiops_core.tracking.store import open_client

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        with open_client() as client:
            client.search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracking store of the test's own."""
    path = tmp_path / "mlflow.db"
    shutil.copy(store_template, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.setenv("AIOPS_STATE_DIR", str(tmp_path / "state"))
    return path


@pytest.fixture
def made_store(tmp_path: Path, store_template: Path) -> None:
    """Spare a run in `tmp_path` the seconds in which it would make its store."""
    shutil.copy(store_template, tmp_path / "mlflow.db")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One local Ray cluster for every test of this process that needs one."""
    from aiops_core import search as tuning

    with tuning.cluster() as address:
        yield address


class ByFile(LoadScopeScheduling):
    """Two processes share the suite (``-n 2 --dist loadscope``), but never a file, nor what starts the service.

    So fixtures are made once, and no two services look for ports at the same time.
    """

    def _split_scope(self, nodeid: str) -> str:
        # Those of all sources answer in their own process, and train for minutes before.
        listens = nodeid.startswith("tests/serve/") and "/test_sources.py" not in nodeid
        return "serve" if listens else nodeid.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Let xdist ask `ByFile` for the next tests, in the order in which they were collected."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest begin, so that both processes end at about the same time."""
    longest = ("test_pipeline.py", "serve", "test_runs.py", "test_sources.py", "test_browser.py", "test_tuning.py")
    place = {name: i for i, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.name, place.get(item.path.parent.name, len(place))))
