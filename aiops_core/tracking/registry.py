"""The registry: versions of the three models, which of them is champion, which were before, and which answer beside it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiops_core import files, settings
from aiops_core.errors import TrackingError
from aiops_core.facts import MODELS
from aiops_core.tracking import recalibrations
from aiops_core.tracking.store import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
#: Versions that answer beside the champion: unheard, or a share of the requests.
SHADOW, CANARY = "shadow", "canary"
#: Tag of a version: the share of the requests that it answers as canary.
SHARE = "canary_share"
DEFAULT_SHARE = 0.1
#: Tag of a registered model: versions that were champion, oldest first, comma separated.
HISTORY = "champion_history"
#: File of the state folder that is locked while an alias and its history are changed, and how long others wait.
LOCK = "registry.lock"
LOCK_SECONDS = 45.0


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes
    ----------
    name : str
    version : int
    run_id : str
    alias : str or None
        "champion", "challenger", "shadow", "canary" or None; of several the first in the alphabet.
    created : str
        ISO 8601, UTC.
    source : str
        Where the registered artefact lies.
    aliases : tuple of str
        All of them.
    share : float or None
        Of a canary: the share of the requests that it answers, 0 to 1.
    recalibration : dict or None
        What feedback corrected, see `aiops_core.tracking.recalibrations`.
    """

    name: str
    version: int
    run_id: str
    alias: str | None
    created: str
    source: str = ""
    aliases: tuple[str, ...] = ()
    share: float | None = None
    recalibration: dict[str, Any] | None = None


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
    with open_client() as client:
        if model_uri is None:
            run = client.get_run(run_id)
            outputs = run.outputs.model_outputs if run.outputs else []
            if not outputs:
                raise TrackingError(f"run '{run_id}' holds no servable")
            model_uri = f"models:/{outputs[-1].model_id}"
        ensure_model(client, name)
        # MLflow writes what it did to the error stream, which a notebook shows in red.
        with contextlib.redirect_stderr(io.StringIO()):
            version = mlflow.register_model(model_uri, name, tags={"run_id": run_id})
        number = int(version.version)
    if alias == CHAMPION:
        return promote(name, number)
    if alias:
        with open_client() as client:
            client.set_registered_model_alias(name, alias, str(number))
    return get_version(name, number)


def describe_version(name: str, version: int, description: str, tags: Mapping[str, Any]) -> None:
    """Write what the page of a registered version shows.

    Parameters
    ----------
    name : str
    version : int
    description : str
        Markdown; cut at the 5,000 characters that a store holds.
    tags : mapping
    """
    with open_client() as client:
        client.update_model_version(name, str(version), description[:5000])
        for key, value in tags.items():
            client.set_model_version_tag(name, str(version), key, str(value))


def ensure_model(client: MlflowClient, name: str) -> None:
    """Create a registered model if it does not exist yet."""
    if _registered(client, name) is None:
        client.create_registered_model(name)


def promote(name: str, version: int) -> ModelVersion:
    """Make a version the champion and remember the one before it for `rollback`.

    Raises
    ------
    TrackingError
        If there is no such version, or another promotion goes on for too long.
    """
    with open_client() as client, alone():
        client.get_model_version(name, str(version))
        model = client.get_registered_model(name)
        history = _history(model)
        for number in (model.aliases.get(CHAMPION), version):
            if number is not None and history[-1:] != [str(number)]:
                history.append(str(number))
        client.set_registered_model_alias(name, CHAMPION, str(version))
        _only_champion(client, model, version)
        client.set_registered_model_tag(name, HISTORY, ",".join(history[-50:]))
    return get_version(name, version)


def _only_champion(client: MlflowClient, model: Any, version: int | str) -> None:
    """Take the other aliases from a version that is champion now."""
    for alias in (CHALLENGER, SHADOW, CANARY):
        if str(model.aliases.get(alias)) == str(version):
            client.delete_registered_model_alias(model.name, alias)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let one process at a time change aliases: the store cannot tell that a tag was changed since it was read."""
    path = files.private_folder(settings.load().state_dir) / LOCK
    deadline = time.monotonic() + LOCK_SECONDS
    with open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingError(f"another promotion has held {path} for {LOCK_SECONDS:g} s") from None
                time.sleep(0.05)
        yield


def rollback(name: str) -> ModelVersion:
    """Make the champion before the current one champion again.

    Raises
    ------
    TrackingError
        If there is no earlier champion, or another promotion goes on for too long.
    """
    with open_client() as client, alone():
        model = client.get_registered_model(name)
        history = _before(model)
        client.set_registered_model_alias(name, CHAMPION, history[-1])
        _only_champion(client, model, history[-1])
        client.set_registered_model_tag(name, HISTORY, ",".join(history))
        number = int(history[-1])
    return get_version(name, number)


def previous_champion(name: str) -> ModelVersion:
    """Return the version that `rollback` would make champion, and change nothing.

    Raises
    ------
    TrackingError
        If there is no earlier champion.
    """
    with open_client() as client:
        history = _before(client.get_registered_model(name))
    return get_version(name, int(history[-1]))


def _before(model: Any) -> list[str]:
    """Return the champions before the current one, oldest first."""
    current = str(model.aliases.get(CHAMPION, ""))
    history = _history(model)
    while history and history[-1] == current:
        history.pop()
    if not current or not history:
        raise TrackingError(f"model '{model.name}' has no earlier champion to roll back to")
    return history


def _history(model: Any) -> list[str]:
    return [v for v in (model.tags.get(HISTORY) or "").split(",") if v]


def get_version(name: str, version: int) -> ModelVersion:
    """Return one version of a registered model."""
    with open_client() as client:
        aliases = _aliases(client.get_registered_model(name))
        return _version(client.get_model_version(name, str(version)), aliases)


def champions() -> dict[str, ModelVersion]:
    """Return the champion of every registered model of the workbench; models without one are left out."""
    found: dict[str, ModelVersion] = {}
    with open_client() as client:
        for name in MODELS.values():
            model = _registered(client, name)
            number = model.aliases.get(CHAMPION) if model is not None else None
            if number is not None:
                version = client.get_model_version(name, str(number))
                found[name] = _version(version, {str(version.version): [CHAMPION]})
    return found


def companions() -> dict[str, dict[str, ModelVersion]]:
    """Return the versions that answer beside the champions: model name to alias (shadow, canary) to version."""
    found: dict[str, dict[str, ModelVersion]] = {}
    with open_client() as client:
        for name in MODELS.values():
            model = _registered(client, name)
            for alias in (SHADOW, CANARY):
                number = model.aliases.get(alias) if model is not None else None
                if number is not None:
                    version = client.get_model_version(name, str(number))
                    found.setdefault(name, {})[alias] = _version(version, {str(number): [alias]})
    return found


def set_companion(name: str, alias: str, version: int, share: float | None = None) -> ModelVersion:
    """Have a version answer beside the champion.

    Parameters
    ----------
    name : str
    alias : {"shadow", "canary"}
    version : int
    share : float, optional
        Of a canary: the share of the requests that it answers, above 0 and below 1; `DEFAULT_SHARE` by default.

    Raises
    ------
    TrackingError
        If there is no such version, no champion to be compared with, the version is champion itself, or the share is
        no share.
    """
    share = DEFAULT_SHARE if share is None else share
    if not 0 < share < 1:
        raise TrackingError(f"a canary's share lies above 0 and below 1, not at {share:g}")
    with open_client() as client, alone():
        client.get_model_version(name, str(version))
        champion = client.get_registered_model(name).aliases.get(CHAMPION)
        if champion is None:
            raise TrackingError(f"model '{name}' has no champion that version {version} could be compared with")
        if str(champion) == str(version):
            raise TrackingError(f"version {version} of {name} is the champion: another one can answer beside it")
        if alias == CANARY:
            client.set_model_version_tag(name, str(version), SHARE, f"{share:g}")
        client.set_registered_model_alias(name, alias, str(version))
    return get_version(name, version)


def remove_companion(name: str, alias: str, version: int | None = None) -> ModelVersion:
    """Have a version answer beside the champion no longer; returns which one did.

    Parameters
    ----------
    name : str
    alias : {"shadow", "canary"}
    version : int, optional
        Only if it is this one.

    Raises
    ------
    TrackingError
        If there is none, or another one than named.
    """
    with open_client() as client, alone():
        current = client.get_registered_model(name).aliases.get(alias)
        if current is None:
            raise TrackingError(f"model '{name}' has no {alias}")
        if version is not None and str(current) != str(version):
            raise TrackingError(f"version {current} of {name} is its {alias}, not version {version}")
        client.delete_registered_model_alias(name, alias)
    return get_version(name, int(current))


def list_models() -> list[ModelVersion]:
    """Return every version of the workbench's models, newest first within a model."""
    found: list[ModelVersion] = []
    with open_client() as client:
        for name in MODELS.values():
            model = _registered(client, name)
            if model is None:
                continue
            versions = client.search_model_versions(f"name = '{name}'")
            ordered = sorted(versions, key=lambda v: -int(v.version))
            found += [_version(version, _aliases(model)) for version in ordered]
    return found


def _registered(client: MlflowClient, name: str) -> Any | None:
    """Return a registered model, or None; asked by name, since a search answers with the first hundred of a shared store."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _aliases(model: Any) -> dict[str, list[str]]:
    """Return the aliases of each version that has some, in the order of the alphabet."""
    found: dict[str, list[str]] = {}
    for alias, version in sorted(model.aliases.items()):
        found.setdefault(str(version), []).append(alias)
    return found


def _version(version: Any, aliases: Mapping[str, list[str]]) -> ModelVersion:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(version.creation_timestamp / 1000))
    own = tuple(aliases.get(str(version.version), ()))
    share = float((version.tags or {}).get(SHARE, DEFAULT_SHARE)) if CANARY in own else None
    return ModelVersion(
        version.name,
        int(version.version),
        version.run_id or "",
        own[0] if own else None,
        created,
        str(version.source),
        own,
        share,
        recalibrations.current(version.tags or {}),
    )
