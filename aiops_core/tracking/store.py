"""The MLflow store: is it usable, a client of it, the workbench's experiment.

mlflow is imported inside functions: importing it takes seconds that neither ``--help`` nor a request should pay.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from aiops_core import settings
from aiops_core.errors import TrackingError
from aiops_core.redact import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "aiops-models"
#: Without it MLflow's pages take the experiment for one of language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}


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
def open_client(uri: str | None = None) -> Iterator[MlflowClient]:
    """Yield a client of a store; what MLflow refuses is raised as a `TrackingError`.

    Parameters
    ----------
    uri : str, optional
        Of the store; by default the one that the settings name.

    Raises
    ------
    TrackingError
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    ours = uri is None
    uri = uri or settings.load().mlflow_tracking_uri
    check(uri)
    import logging

    import mlflow

    # After the import: mlflow configures its own loggers then.
    for noisy in ("mlflow", "mlflow.store.db.utils", "mlflow.tracking._model_registry.fluent", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from mlflow.exceptions import MlflowException

    if redacted(uri) != uri:
        # It prints the address of a run that ends, whole, and a notebook or a log would keep that.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    try:
        if ours:
            # For this process and, by its environment, for those that it starts.
            mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient(uri, uri)
    except MlflowException as error:
        # What MLflow says may hold the address whole, and a notebook would show it as the cause.
        cause = None if redacted(uri) != uri else error
        raise TrackingError(f"MLflow at '{uri}': {str(error).splitlines()[0]}") from cause


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the workbench's experiment, which is created if it is missing."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        for key, value in KIND.items():
            if key not in found.tags:
                client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)
    uri = settings.load().mlflow_tracking_uri
    location = None
    if uri.startswith("sqlite"):
        # Beside the database: MLflow's own default depends on the folder that a process happens to run in.
        location = (Path(uri.split("///", 1)[-1]).resolve().parent / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=KIND))


def prepare_store() -> None:
    """Create the store's tables and the experiment if they are missing (about 5 s once, for SQLite)."""
    with open_client() as client:
        experiment_id(client)
