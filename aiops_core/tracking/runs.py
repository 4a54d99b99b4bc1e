"""The runs of a search, logged live: one parent run, and a child run for every trial."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiops_core.files import write_text
from aiops_core.redact import redacted
from aiops_core.tracking.store import experiment_id, open_client

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput


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
        write_text(self._state, json.dumps({"run_id": self.run_id, "children": self._children}))


def open_search(
    task: str,
    folder: str | Path,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    dataset: DatasetInput | None = None,
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
    dataset : DatasetInput, optional
        What the search learns from, see `dataset_input`.
    """
    from mlflow.entities import Param

    state = Path(folder) / "runs.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    with open_client() as client:
        log = SearchLog(client, experiment_id(client), state)
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
        if dataset is not None:
            client.log_inputs(log.run_id, [dataset])
        log._save()
        return log


def dataset_input(name: str, digest: str, source: str, tables: Mapping[str, pd.DataFrame]) -> DatasetInput:
    """Return a data set as MLflow shows it beside a run: name, digest, source, columns and numbers of rows.

    Parameters
    ----------
    name, digest, source : str
    tables : mapping of str to DataFrame
        Validated tables of the task.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [
        # A name may be in several tables, and means the same in all of them.
        {"name": f"{table}.{column}" if len(tables) > 1 else str(column), "type": _mlflow_type(frame[column])}
        for table, frame in tables.items()
        for column in frame.columns
    ]
    profile = {"num_rows": len(next(iter(tables.values()))), **{f"{t}_rows": len(f) for t, f in tables.items()}}
    found = Dataset(
        name=name[:500],
        # MLflow's column is 36 wide.
        digest=digest[:36],
        source_type="local",
        source=json.dumps({"uri": source}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def _mlflow_type(values: pd.Series) -> str:
    return {"f": "double", "i": "long", "u": "long", "b": "boolean", "M": "datetime"}.get(values.dtype.kind, "string")


def close_search(run_id: str) -> None:
    """Close the parent run of a search that ended; whoever fits a final model logs to it later all the same."""
    with open_client() as client:
        client.set_tag(run_id, "stage", "searched")
        client.set_terminated(run_id)


def log_pages(run_id: str, pages: Iterable[Path]) -> None:
    """Put files on the top level of a run's artifacts; those of the same name are replaced."""
    with open_client() as client:
        for page in pages:
            client.log_artifact(run_id, str(page))


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
    with open_client() as client:
        # MLflow lets a parameter be written once, and a search may have gone on after it was logged.
        written = client.get_run(run_id).data.params
        client.log_batch(
            run_id,
            metrics=[Metric(k, float(v), now, 0) for k, v in _named(metrics).items() if v == v],
            params=[Param(k, str(v)) for k, v in _named(params).items() if k not in written],
            tags=[RunTag(k, str(v)[:5000]) for k, v in {"stage": "evaluated", **tags}.items()],
        )
        for name, folder in folders.items():
            client.log_artifacts(run_id, str(folder), name)
        client.set_terminated(run_id)


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values under names that MLflow accepts: classes and columns may be called anything.

    Two names that become one are told apart by a number.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = re.sub(r"[^\w.\- ]", "_", name).strip() or "_"
        plain = unique = plain[:200]
        number = 2
        while unique in found:
            unique, number = f"{plain}_{number}", number + 1
        found[unique] = value
    return found


def fail_run(run_id: str, reason: str, status: str = "FAILED") -> None:
    """Close a parent run as ``FAILED`` or ``KILLED``, with the reason as a tag."""
    with open_client() as client:
        client.set_tag(run_id, "reason", redacted(reason)[:500])
        client.set_terminated(run_id, status=status)
