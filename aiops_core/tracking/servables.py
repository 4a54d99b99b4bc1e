"""Servable folders as MLflow models: log one to a run, fetch one of a registered version."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from aiops_core import files, servable
from aiops_core.errors import ServableError
from aiops_core.facts import MODELS
from aiops_core.tracking.store import open_client

SERVABLE = "servable"
REQUIREMENTS = ["numpy", "onnxruntime", "pandas"]

_log = logging.getLogger("aiops")


def log_servable(run_id: str, folder: Path) -> str:
    """Log a servable folder as an MLflow model with a signature, so that ``mlflow models serve`` takes it.

    Returns
    -------
    str
        URI of the logged model.
    """
    import warnings

    with open_client(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        from aiops_core.tracking.scoring import ServableModel

        signature = _signature(servable.load(folder, verify=False))
        with (
            tempfile.TemporaryDirectory() as temporary,
            warnings.catch_warnings(),
            mlflow.start_run(run_id=run_id),
        ):
            warnings.simplefilter("ignore")
            # Sealed from here on: the folder itself may still be edited.
            sealed = Path(temporary) / SERVABLE
            shutil.copytree(folder, sealed)
            servable.seal(sealed)
            info = mlflow.pyfunc.log_model(
                name=SERVABLE,
                python_model=ServableModel(),
                artifacts={SERVABLE: str(sealed)},
                signature=signature,
                pip_requirements=REQUIREMENTS,
            )
        return str(info.model_uri)


def fetch(name: str, version: int, folder: str | Path) -> Path:
    """Copy the servable of a registered version into ``folder``; a whole one already there is kept, a damaged one replaced.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    TrackingError, ServableError
        If the version does not exist, holds no servable, or one that does not agree with its digests.
    """
    folder = Path(folder)
    if (folder / servable.SEAL).is_file():
        try:
            servable.check_seal(folder)
            return folder
        except ServableError:
            _log.warning("the copy of %s version %s in %s is damaged: it is fetched again", name, version, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open_client(), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        import mlflow

        mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=temporary)
        cards = sorted(Path(temporary).rglob(servable.CARD))
        if not cards:
            raise ServableError(f"model '{name}' version {version} holds no servable")
        found = cards[0].parent
        if (found / servable.SEAL).is_file():
            servable.check_seal(found)
        else:
            # Logged by an earlier release: what lies here from now on shows if it is damaged later.
            servable.seal(found)
        # Copied with the rights that the files have in the store.
        for path in (found, *found.rglob("*")):
            files.close(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(found, folder)
    return folder


def fetch_verified(name: str, version: int, folder: str | Path) -> servable.Servable:
    """Fetch the servable of a registered version, and open it if it does what its golden examples say.

    Parameters
    ----------
    name : str
    version : int
    folder : str or Path
        As for `fetch`.

    Raises
    ------
    TrackingError, ServableError
        As from `fetch`; also if it does not reproduce its golden examples or is of another model's task.
    """
    loaded = servable.load(fetch(name, version, folder))
    if MODELS[loaded.task] != name:
        raise ServableError(f"version {version} of {name} is for task '{loaded.task}'")
    return loaded


def _signature(loaded: servable.Servable) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    probability = Schema([TensorSpec(np.dtype("float64"), (-1,), "probability")])
    if loaded.task == "failure":
        shape = (-1, int(loaded.card["window"]), len(loaded.features))
        return ModelSignature(Schema([TensorSpec(np.dtype("float32"), shape, "windows")]), probability)
    if loaded.task == "threat":
        kinds = {f["name"]: f.get("dtype", "number") for f in loaded.card["features"]}
        columns: list[Any] = [
            ColSpec(DataType.string if kinds[n] == "category" else DataType.double, n, required=False)
            for n in loaded.features
        ]
        outputs: list[Any] = [ColSpec(DataType.double, str(c)) for c in loaded.card["classes"]]
        return ModelSignature(Schema(columns), Schema(outputs))
    history = Schema(
        [
            ColSpec(DataType.string, "resource_id"),
            ColSpec(DataType.datetime, "timestamp"),
            *[ColSpec(DataType.double, str(t)) for t in loaded.card["targets"]],
        ]
    )
    out = Schema(
        [ColSpec(DataType.string, "resource_id"), *[ColSpec(DataType.double, q) for q in ("p10", "p50", "p90")]]
    )
    return ModelSignature(history, out)
