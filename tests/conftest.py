"""Shared fixtures: isolated stores and homes, the folder of real data, one quiet environment for Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One local Ray cluster for every test of this process that needs one."""
    from aiops_core import search as tuning

    with tuning.cluster() as address:
        yield address
