"""MLflow: the only module that talks to it. Searches are logged live, servables registered, champions resolved.

mlflow is imported inside functions: importing it takes seconds that neither ``--help`` nor a request should pay.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from aiops_core import files, servable, settings
from aiops_core.errors import ServableError, TrackingError
from aiops_core.facts import MODELS

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "EXPERIMENT",
    "MODELS",
    "ModelVersion",
    "SearchLog",
    "champions",
    "check",
    "fetch",
    "list_models",
    "log_results",
    "open_search",
    "promote",
    "register",
    "rollback",
    "save_native",
]

EXPERIMENT = "aiops-models"
CHAMPION, CHALLENGER = "champion", "challenger"
#: Tag of a registered model: versions that were champion, oldest first, comma separated.
HISTORY = "champion_history"
SERVABLE = "servable"
#: Types that a random forest's skops file holds beyond those trusted by default; reviewed: trees and numpy only.
SKOPS_TRUSTED = [
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._forest.RandomForestClassifier",
    "sklearn.tree._classes.DecisionTreeClassifier",
]
REQUIREMENTS = ["numpy", "onnxruntime", "pandas"]


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes
    ----------
    name : str
    version : int
    run_id : str
    alias : str or None
        "champion", "challenger" or None.
    created : str
        ISO 8601, UTC.
    source : str
        Where the registered artefact lies.
    """

    name: str
    version: int
    run_id: str
    alias: str | None
    created: str
    source: str = ""


def check(uri: str | None = None) -> None:
    """Refuse a tracking store that cannot be used, without creating anything.

    Raises
    ------
    TrackingError
    """
    uri = uri or settings.load().mlflow_tracking_uri
    parsed = urlparse(uri)
    if parsed.scheme.startswith("sqlite"):
        path = Path(uri.split("///", 1)[-1])
        if not path.parent.is_dir():
            raise TrackingError(f"MLFLOW_TRACKING_URI '{uri}': folder {path.parent} does not exist")
        target = path if path.exists() else path.parent
        if not os.access(target, os.W_OK):
            raise TrackingError(f"MLFLOW_TRACKING_URI '{uri}': {target} cannot be written")
        return
    if parsed.scheme in ("http", "https"):
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        try:
            with socket.create_connection((parsed.hostname or "", port), timeout=5):
                return
        except OSError as error:
            raise TrackingError(
                f"no MLflow server answers at MLFLOW_TRACKING_URI '{uri}' ({error.strerror or error})"
            ) from error
    if parsed.scheme in ("", "file"):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI '{uri}' is a file store, which MLflow 3 no longer accepts; use sqlite:///mlflow.db"
        )


@contextmanager
def _client() -> Iterator[MlflowClient]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = settings.load().mlflow_tracking_uri
    check(uri)
    import logging

    import mlflow

    # After the import: mlflow configures its own loggers then.
    for noisy in ("mlflow", "mlflow.store.db.utils", "mlflow.tracking._model_registry.fluent", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from mlflow.exceptions import MlflowException

    try:
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient(uri)
    except MlflowException as error:
        raise TrackingError(f"MLflow at '{uri}': {str(error).splitlines()[0]}") from error


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    uri = settings.load().mlflow_tracking_uri
    location = None
    if uri.startswith("sqlite"):
        # Beside the database: MLflow's own default depends on the folder that a process happens to run in.
        location = (Path(uri.split("///", 1)[-1]).resolve().parent / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def prepare_store() -> None:
    """Create the store's tables and the experiment if they are missing (about 5 s once, for SQLite)."""
    with _client() as client:
        _experiment(client)


class SearchLog:
    """Live log of one search: a parent run, and a child run for every trial.

    Made by `open_search`. Run ids are kept in a file beside the search, so that a resumed search goes on in the
    same runs.
    """

    def __init__(self, client: MlflowClient, experiment: str, state: Path) -> None:
        self._client = client
        self._experiment = experiment
        self._state = state
        self.run_id = ""
        self._children: dict[str, str] = {}

    def started(self, trial: str, params: dict[str, Any]) -> None:
        """Open the child run of a trial."""
        from mlflow.entities import Param

        run = self._client.create_run(
            self._experiment,
            run_name=f"trial {len(self._children) + 1}",
            tags={"mlflow.parentRunId": self.run_id, "trial": trial},
        )
        self._children[trial] = run.info.run_id
        self._client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
        self._save()

    def reported(self, trial: str, step: int, metrics: dict[str, float]) -> None:
        """Log one step's validation numbers to the child run."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._children[trial], metrics=[Metric(k, v, now, step) for k, v in metrics.items()])

    def ended(self, trial: str, status: str, error: str | None) -> None:
        """Close the child run; a pruned trial counts as finished, with a tag."""
        run_id = self._children.get(trial)
        if run_id is None:
            # Killed between the event file and the store.
            return
        self._client.set_tag(run_id, "trial_status", status)
        if error:
            self._client.set_tag(run_id, "error", error[:500])
        states = {"errored": "FAILED", "interrupted": "KILLED"}
        self._client.set_terminated(run_id, status=states.get(status, "FINISHED"))

    def _save(self) -> None:
        files.write_text(self._state, json.dumps({"run_id": self.run_id, "children": self._children}))


def open_search(
    task: str, folder: str | Path, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> SearchLog:
    """Open the parent run of a search, or go on in the one that the folder remembers.

    Parameters
    ----------
    task : str
    folder : path
        Folder of the search.
    name : str
        Name of the parent run.
    params, tags : mapping
        Logged to the parent run: source, seed, data digest, split.
    """
    from mlflow.entities import Param

    state = Path(folder) / "runs.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    with _client() as client:
        log = SearchLog(client, _experiment(client), state)
        if state.is_file():
            stored = json.loads(state.read_text(encoding="utf-8"))
            log.run_id, log._children = stored["run_id"], stored["children"]
            client.update_run(log.run_id, status="RUNNING")
            return log
        run = client.create_run(
            log._experiment, run_name=name, tags={"task": task, **{k: str(v) for k, v in tags.items()}}
        )
        log.run_id = run.info.run_id
        client.log_batch(log.run_id, params=[Param(k, str(v)[:6000]) for k, v in params.items()])
        log._save()
        return log


def log_results(
    run_id: str,
    *,
    metrics: Mapping[str, float],
    params: Mapping[str, Any],
    folders: Mapping[str, Path],
    tags: Mapping[str, str],
) -> None:
    """Log what a search ended with to its parent run and close it: test metrics, best parameters, folders."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    with _client() as client:
        client.log_batch(
            run_id,
            metrics=[Metric(k, float(v), now, 0) for k, v in metrics.items() if v == v],
            params=[Param(k, str(v)) for k, v in params.items()],
            tags=[RunTag(k, str(v)[:5000]) for k, v in tags.items()],
        )
        for name, folder in folders.items():
            client.log_artifacts(run_id, str(folder), name)
        client.set_terminated(run_id)


def fail_run(run_id: str, reason: str, status: str = "FAILED") -> None:
    """Close a parent run as ``FAILED`` or ``KILLED``, with the reason as a tag."""
    with _client() as client:
        client.set_tag(run_id, "reason", reason[:500])
        client.set_terminated(run_id, status=status)


def log_servable(run_id: str, folder: Path) -> str:
    """Log a servable folder as an MLflow model with a signature, so that ``mlflow models serve`` takes it.

    Returns
    -------
    str
        URI of the logged model.
    """
    import warnings

    with _client(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        signature = _signature(servable.load(folder, verify=False))
        with warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
            warnings.simplefilter("ignore")
            info = mlflow.pyfunc.log_model(
                name=SERVABLE,
                python_model=_pyfunc()(),
                artifacts={SERVABLE: str(folder)},
                signature=signature,
                pip_requirements=REQUIREMENTS,
            )
        return str(info.model_uri)


def register(task: str, run_id: str, alias: str | None, *, model_uri: str | None = None) -> ModelVersion:
    """Register the servable of a run as a new version of the task's model.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    run_id : str
    alias : {"champion", "challenger", None}
    model_uri : str, optional
        As returned by `log_servable`; by default the run's logged servable.

    Raises
    ------
    TrackingError
        If the run has no servable or the store refuses.
    """
    import mlflow

    name = MODELS[task]
    with _client() as client:
        if model_uri is None:
            run = client.get_run(run_id)
            outputs = run.outputs.model_outputs if run.outputs else []
            if not outputs:
                raise TrackingError(f"run '{run_id}' holds no servable")
            model_uri = f"models:/{outputs[-1].model_id}"
        _ensure_model(client, name)
        version = mlflow.register_model(model_uri, name, tags={"run_id": run_id})
        number = int(version.version)
    if alias == CHAMPION:
        return promote(name, number)
    if alias:
        with _client() as client:
            client.set_registered_model_alias(name, alias, str(number))
    return get_version(name, number)


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)


def promote(name: str, version: int) -> ModelVersion:
    """Make a version the champion and remember the one before it for `rollback`."""
    with _client() as client:
        client.get_model_version(name, str(version))
        model = client.get_registered_model(name)
        history = [v for v in (model.tags.get(HISTORY) or "").split(",") if v]
        current = model.aliases.get(CHAMPION)
        if current is not None and (not history or history[-1] != str(current)):
            history.append(str(current))
        if not history or history[-1] != str(version):
            history.append(str(version))
        client.set_registered_model_alias(name, CHAMPION, str(version))
        if str(model.aliases.get(CHALLENGER)) == str(version):
            client.delete_registered_model_alias(name, CHALLENGER)
        client.set_registered_model_tag(name, HISTORY, ",".join(history[-50:]))
    return get_version(name, version)


def rollback(name: str) -> ModelVersion:
    """Make the champion before the current one champion again.

    Raises
    ------
    TrackingError
        If there is no earlier champion.
    """
    with _client() as client:
        model = client.get_registered_model(name)
        current = str(model.aliases.get(CHAMPION, ""))
        history = [v for v in (model.tags.get(HISTORY) or "").split(",") if v]
        while history and history[-1] == current:
            history.pop()
        if not current or not history:
            raise TrackingError(f"model '{name}' has no earlier champion to roll back to")
        client.set_registered_model_alias(name, CHAMPION, history[-1])
        client.set_registered_model_tag(name, HISTORY, ",".join(history))
        number = int(history[-1])
    return get_version(name, number)


def get_version(name: str, version: int) -> ModelVersion:
    """Return one version of a registered model."""
    with _client() as client:
        aliases = {str(v): k for k, v in sorted(client.get_registered_model(name).aliases.items(), reverse=True)}
        return _version(client.get_model_version(name, str(version)), aliases)


def champions() -> dict[str, ModelVersion]:
    """Return the champion of every registered model of the workbench; models without one are left out."""
    return {v.name: v for v in list_models() if v.alias == CHAMPION}


def list_models() -> list[ModelVersion]:
    """Return every version of the workbench's models, newest first within a model."""
    found: list[ModelVersion] = []
    with _client() as client:
        models = {m.name: m for m in client.search_registered_models()}
        for name in MODELS.values():
            if name not in models:
                continue
            aliases = {str(v): k for k, v in sorted(models[name].aliases.items(), reverse=True)}
            versions = client.search_model_versions(f"name = '{name}'")
            ordered = sorted(versions, key=lambda v: -int(v.version))
            found += [_version(version, aliases) for version in ordered]
    return found


def _version(version: Any, aliases: Mapping[str, str]) -> ModelVersion:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(version.creation_timestamp / 1000))
    number = str(version.version)
    return ModelVersion(
        version.name, int(number), version.run_id or "", aliases.get(number), created, str(version.source)
    )


def fetch(name: str, version: int, folder: str | Path) -> Path:
    """Copy the servable of a registered version into ``folder``; a complete folder already there is kept.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    TrackingError, ServableError
        If the version does not exist or holds no servable.
    """
    folder = Path(folder)
    if (folder / servable.CARD).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _client(), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        import mlflow

        mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=temporary)
        cards = sorted(Path(temporary).rglob(servable.CARD))
        if not cards:
            raise ServableError(f"model '{name}' version {version} holds no servable")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(cards[0].parent, folder)
    return folder


def save_native(model: Any, folder: str | Path) -> dict[str, str]:
    """Save the native parts of a model, each with its MLflow flavor, under ``folder``.

    Parameters
    ----------
    model : object
        A task's model; its Keras models, scikit-learn estimators and XGBoost boosters are found among its attributes.
    folder : path

    Returns
    -------
    dict of str to str
        Part name to flavor.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging
    import warnings

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    parts = _native_parts(model)
    flavors: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, part in parts.items():
            path = folder / name
            kind = type(part).__module__.split(".")[0]
            if kind == "keras":
                import mlflow.tensorflow

                mlflow.tensorflow.save_model(part, str(path), pip_requirements=["tensorflow"])
            elif kind == "xgboost":
                import mlflow.xgboost

                mlflow.xgboost.save_model(part, str(path), pip_requirements=["xgboost"], model_format="ubj")
            elif kind == "sklearn":
                import mlflow.sklearn

                mlflow.sklearn.save_model(
                    part, str(path), pip_requirements=["scikit-learn"], skops_trusted_types=SKOPS_TRUSTED
                )
            else:
                raise TypeError(f"native part '{name}' of type {type(part).__name__} has no MLflow flavor")
            flavors[name] = kind
    return flavors


def _native_parts(model: Any) -> dict[str, Any]:
    """Return the estimators a model is made of; a ``native`` mapping of its own settles it."""
    own = getattr(model, "native", None)
    if own:
        return dict(own)
    found: dict[str, Any] = {}

    def look(name: str, value: Any) -> None:
        if type(value).__name__ in ("RandomForestClassifier", "Booster"):
            found[name] = value
        elif isinstance(value, Mapping):
            for key, member in value.items():
                look(f"{name}_{key}", member)
        elif isinstance(value, (list, tuple)):
            for i, member in enumerate(value):
                look(f"{name}_{i}", member)

    for name, value in vars(model).items():
        look(name, value)
    return found


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


def _pyfunc() -> type:
    from aiops_core.tracking.scoring import ServableModel

    return ServableModel
