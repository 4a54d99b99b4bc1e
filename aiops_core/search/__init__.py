"""Ray Tune searches: the only user of ``ray.tune``, and the owner of the cluster connection.

The search loop never knows which model it tunes: a task module brings its space, its defaults and its ``fit``.
TensorFlow is imported by the trial workers only, never by the process that calls `search`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import joblib
import optuna
import pandas as pd
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from threadpoolctl import threadpool_limits

from aiops_core import files, settings
from aiops_core.errors import AiopsError, ClusterError, UsageError

__all__ = ["SearchResult", "TrialLog", "cluster", "conclude", "connect", "disconnect", "reusable", "search"]

GRACE_STEPS = 3
ATTEMPTS = 3
REDUCTION = 3
#: Worker threads of every numerical library: one trial uses one core.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONHASHSEED": "0",
}
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_COLOR_PREFIX": "0",
}


class TrialLog(Protocol):
    """Receiver of live trial events; `aiops_core.tracking` has the one that writes to MLflow."""

    def started(self, trial: str, params: dict[str, Any]) -> None:
        """Announce a trial."""

    def reported(self, trial: str, step: int, metrics: dict[str, float]) -> None:
        """Pass on the validation numbers of one step."""

    def ended(self, trial: str, status: str, error: str | None) -> None:
        """Close a trial as ``completed``, ``pruned``, ``errored`` or ``interrupted``."""


@dataclass(frozen=True)
class SearchResult:
    """Outcome of one search.

    Attributes
    ----------
    task : str
    objective, mode : str
        Validation number that was optimised, and its direction ("max" or "min").
    trials : DataFrame
        One row a trial: ``trial, status, steps, seconds, <objective>`` and one ``param:<name>`` column each.
    curves : DataFrame
        Columns ``trial, step`` and the validation numbers of every step.
    ranked : list of dict
        Parameter sets of the trials that reported, best first.
    counts : dict
        ``trials, completed, pruned, errored``.
    seconds : float
        Wall time, summed over interrupted sittings.
    reused : int
        Trials of earlier sittings that were not run again.
    """

    task: str
    objective: str
    mode: str
    trials: pd.DataFrame
    curves: pd.DataFrame
    ranked: list[dict[str, Any]]
    counts: dict[str, int]
    seconds: float
    errors: dict[str, str] = field(default_factory=dict)
    reused: int = 0

    @property
    def best_params(self) -> dict[str, Any]:
        """Parameters of the best trial."""
        return self.ranked[0]

    def summary(self) -> dict[str, Any]:
        """Return the ``search`` section of ``report.json``."""
        return {**self.counts, "seconds": round(self.seconds, 2), "best_params": self.best_params}


def connect(address: str | None = None) -> str:
    """Connect this process to Ray for the rest of its life, once; see `cluster`.

    Returns
    -------
    str
        Address that others can join.
    """
    if not ray.is_initialized():
        _join(address or settings.load().ray_address)
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leave the cluster; one that this process started ends with it."""
    if ray.is_initialized():
        ray.shutdown()


@contextlib.contextmanager
def cluster(address: str | None = None) -> Iterator[str]:
    """Connect to Ray for the duration of the block and yield the address that others can join.

    Parameters
    ----------
    address : str, optional
        Cluster to join; by default ``RAY_ADDRESS``, and without it a local cluster on the loopback interface that
        is shut down with the block. A connection that already exists is used and left open.

    Raises
    ------
    ClusterError
        If the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield connect()
        return
    try:
        yield connect(address)
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    os.environ.update({k: v for k, v in _QUIET.items() if k not in os.environ})
    # A local cluster makes its own token; Ray announces it at every start.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address:
        check_address(address)
        options["address"] = address
    else:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Ray raises bare Exception when its node agent misses a fixed 15 s deadline, as it does on a busy machine.
            ray.shutdown()
            if attempt < ATTEMPTS and not address:
                continue
            where = f"at '{address}' (RAY_ADDRESS)" if address else f"on this machine in {ATTEMPTS} attempts"
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(f"no Ray cluster can be reached {where}: {text[0]}") from error


def check_address(address: str) -> None:
    """Refuse a Ray address where nothing listens, at once instead of after Ray's minutes of retries.

    Raises
    ------
    ClusterError
    """
    if address in ("auto", "local"):
        return
    plain = address.removeprefix("ray://")
    host, _, port = plain.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"RAY_ADDRESS '{address}' is not of the form host:port")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at RAY_ADDRESS '{address}' ({error.strerror or error})") from error


def reusable(task: ModuleType, data: Any, *, seed: int, folder: str | Path) -> int:
    """Return how many finished trials of a folder belong to the very same search; clear the folder if it is another.

    Searches are the same when data, space, seed and the task's code are: a trial of other data or of another space says
    nothing about this one.

    Parameters
    ----------
    task, data, seed, folder
        As in `search`.
    """
    folder = Path(folder)
    key = {
        "data": joblib.hash(data),
        "space": {name: repr(distribution) for name, distribution in task.space(data).items()},
        "seed": seed,
        "code": _code_digest(Path(str(task.__file__))),
    }
    path = folder / "key.json"
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == key
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files.write_text(path, json.dumps(key))
        return 0
    events = folder / "events.jsonl"
    return events.read_text(encoding="utf-8").count('"event": "ended"') if events.is_file() else 0


def _code_digest(path: Path) -> str:
    """Return the sha256 of a task's code: all files of its package, or its one file."""
    files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def search(
    task: ModuleType,
    data: Any,
    *,
    n_trials: int = 20,
    seed: int = 7,
    folder: str | Path,
    log: TrialLog | None = None,
    deterministic: bool = False,
    resume: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> SearchResult:
    """Search a task's space with Optuna (TPE) and ASHA; trial errors are recorded and survived.

    Parameters
    ----------
    task : module
        `aiops_core.tasks.failure`, `aiops_core.tasks.threat` or `aiops_core.tasks.capacity`.
    data : object
        What the task's ``prepare`` returned.
    n_trials : int, default 20
        Number of trials, the task's default points first.
    seed : int
        Seed of the sampler and of every trial.
    folder : path
        State of the search; the same search found there is continued and its finished trials are not run again, any
        other is replaced (see `reusable`).
    log : TrialLog, optional
        Receiver of live events.
    deterministic : bool, default False
        One trial at a time: the order of results, and so every later suggestion, repeats exactly.
    resume : bool, default True
        False starts over even if the folder holds a search.
    progress : callable, optional
        Called with ``done, running, pruned, errored, total, best, seconds, eta`` after every event.

    Returns
    -------
    SearchResult

    Raises
    ------
    UsageError
        If ``n_trials`` is below 1.
    AiopsError
        If every trial failed; the first trial's error is quoted.
    KeyboardInterrupt
        If the search was interrupted, as by Ctrl-C or a notebook's stop button; the finished trials are kept.
    """
    if n_trials < 1:
        raise UsageError(f"n_trials = {n_trials} must be at least 1")
    folder = Path(folder).resolve()
    reusable(task, data, seed=seed, folder=folder)
    with cluster():
        return _search(task, data, n_trials, seed, folder, log, deterministic, resume, progress)


def _search(
    task: ModuleType,
    data: Any,
    n_trials: int,
    seed: int,
    folder: Path,
    log: TrialLog | None,
    deterministic: bool,
    resume: bool,
    progress: Callable[[dict[str, Any]], None] | None,
) -> SearchResult:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for noisy in ("ray.tune", "ray.tune.execution.tune_controller", "ray.tune.tune", "ray.tune.tuner"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    watcher = _Watcher(task, n_trials, folder, log, progress, resume)
    share = int(ray.cluster_resources().get("CPU", 1)) // settings.load().concurrent_searches
    concurrent = 1 if deterministic else max(1, share)
    trainable = tune.with_resources(
        tune.with_parameters(_trial, module=task.__name__, data=data, seed=seed, deterministic=deterministic),
        {"cpu": 1},
    )
    shutil.rmtree(folder / "tune", ignore_errors=True)
    run_config = tune.RunConfig(
        name="tune",
        storage_path=str(folder),
        callbacks=[watcher],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=0),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
    )
    points = watcher.interrupted + [p for p in task.defaults(data) if p not in watcher.params.values()]
    left = n_trials - len(watcher.params)
    if left > 0:
        sampler = optuna.samplers.TPESampler(seed=seed + len(watcher.params), n_startup_trials=8, multivariate=True)
        searcher = OptunaSearch(
            space=task.space(data),
            metric=task.OBJECTIVE,
            mode=task.MODE,
            points_to_evaluate=points[:left],
            sampler=sampler,
        )
        # Not Tune's own restore: its snapshots lag, and trials that ended after the last one would run again.
        for params, value in watcher.evaluated():
            searcher.add_evaluated_point(params, value)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Asha(
                    watcher.pruned,
                    time_attr="step",
                    metric=task.OBJECTIVE,
                    mode=task.MODE,
                    max_t=task.steps(data),
                    grace_period=min(GRACE_STEPS, task.steps(data)),
                    reduction_factor=REDUCTION,
                ),
                num_samples=left,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_dirname_creator=_trial_folder,
            ),
            run_config=run_config,
        )
        tuner.fit()
        watcher.settle()
        if len(watcher.ends) < n_trials:
            # Tune takes an interrupt for a request to return early with what there is.
            raise KeyboardInterrupt(f"{len(watcher.ends)} of {n_trials} trials are done; the same search goes on here")
    return watcher.result()


def _trial_folder(trial: Any) -> str:
    return str(trial.trial_id)


def _trial(config: dict[str, Any], *, module: str, data: Any, seed: int, deterministic: bool) -> None:
    os.environ.update(_ONE_THREAD)
    task = importlib.import_module(module)
    task.fit(config, data, seed=seed, report=lambda step, metrics: tune.report({"step": int(step), **metrics}))


def conclude(
    task: ModuleType, result: SearchResult, data: Any, folder: str | Path, *, seed: int
) -> tuple[Path, dict[str, dict[str, Any]], dict[str, Any]]:
    """Make the final model in a worker, and the baselines in this process meanwhile.

    Parameters
    ----------
    task, data, seed
        As in `search`.
    result : SearchResult
    folder : path
        Where the servable is written.

    Returns
    -------
    servable : Path
        The written servable folder.
    baselines : dict of str to prediction
        Predictions of every baseline on the test part.
    native : dict
        ``prediction`` of the native model on test, for comparison with the servable, and ``files``, the folder
        with the native model.
    """
    with cluster():
        shared = ray.put(data)
        work = ray.remote(num_cpus=1)(_finish)
        folder = Path(folder).resolve()
        final = work.remote(task.__name__, result.ranked, shared, str(folder), seed)
        # A worker of their own would spend longer on imports than on most baselines.
        with threadpool_limits(1):
            others = dict(task.baselines(data, seed=seed))
        return folder, others, ray.get(final)


def _finish(module: str, ranked: list[dict[str, Any]], data: Any, folder: str, seed: int) -> dict[str, Any]:
    os.environ.update(_ONE_THREAD)
    task = importlib.import_module(module)
    model = task.finish(ranked, data, seed=seed)
    task.export(model, data, Path(folder))
    from aiops_core import tracking

    files = tracking.save_native(model, Path(folder).with_name("native"))
    return {"prediction": task.predict(model, data, "test"), "files": files}


class _Asha(ASHAScheduler):
    """ASHA that notes which trials it stopped: Tune closes them like trials that ended by themselves."""

    def __init__(self, pruned: set[str], **options: Any) -> None:
        super().__init__(**options)
        self._stopped = pruned

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide as ASHA does, and note a stop before the last step."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP and result[self._time_attr] < self._max_t:
            self._stopped.add(str(trial.trial_id))
        return decision


class _Watcher(tune.Callback):
    """Write every event to ``events.jsonl`` first, then pass it on: the file is what an interrupted search resumes from."""

    def __init__(
        self,
        task: ModuleType,
        total: int,
        folder: Path,
        log: TrialLog | None,
        progress: Callable[[dict[str, Any]], None] | None,
        resume: bool,
    ) -> None:
        self.name, self.objective, self.mode = task.NAME, task.OBJECTIVE, task.MODE
        self.total, self.log, self.progress = total, log, progress
        self.path = folder / "events.jsonl"
        self.params: dict[str, dict[str, Any]] = {}
        self.steps: dict[str, list[dict[str, Any]]] = {}
        self.ends: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, Any] = {}
        self.pruned: set[str] = set()
        self.interrupted: list[dict[str, Any]] = []
        self.earlier = 0.0
        self.reused = 0
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._replay()
        else:
            self.path.unlink(missing_ok=True)
        self.began = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the receivers behind: Tune pickles its callbacks, and a restored search brings its own."""
        return {**self.__dict__, "log": None, "progress": None, "failed": {}}

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        """Show the empty bar before the first worker is up."""
        self._show()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial's parameters."""
        name, params = str(trial.trial_id), _plain(trial.config)
        self._write("started", name, params=params)
        self.params[name], self.steps[name] = params, []
        if self.log:
            self.log.started(name, params)
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record the validation numbers of one step."""
        if "step" not in result or self.objective not in result:
            return
        name, step = str(trial.trial_id), int(result["step"])
        metrics = {k: float(v) for k, v in result.items() if k not in _TUNE_KEYS and isinstance(v, (int, float))}
        seconds = float(result.get("time_total_s", 0.0))
        self._write("reported", name, step=step, metrics=metrics, seconds=seconds)
        self.steps[name].append({"step": step, **metrics, "seconds": seconds})
        if self.log:
            self.log.reported(name, step, metrics)
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close a trial that ran to its end or was stopped by the scheduler."""
        self._end(trial, "pruned" if str(trial.trial_id) in self.pruned else "completed", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a failed trial; the search goes on, and Tune writes the error down later."""
        self.failed[str(trial.trial_id)] = trial
        self._show()

    def settle(self) -> None:
        """Close the failed trials with the errors that Tune has written by now."""
        while self.failed:
            _, trial = self.failed.popitem()
            error = trial.get_pickled_error()
            text = str(getattr(error, "cause", None) or error or trial.get_error() or "unknown error").strip()
            # Ray wraps the trial's exception in a remote traceback, whose last line is the exception itself.
            self._end(trial, "errored", (text.splitlines() or ["unknown error"])[-1].strip())

    def evaluated(self) -> list[tuple[dict[str, Any], float]]:
        """Return parameters and best value of the trials that ended earlier, for the sampler to learn from."""
        sign = 1.0 if self.mode == "max" else -1.0
        return [
            (self.params[name], sign * max(sign * step[self.objective] for step in self.steps[name]))
            for name, end in self.ends.items()
            if end["status"] != "errored" and self.steps[name]
        ]

    def result(self) -> SearchResult:
        """Summarise the events.

        Raises
        ------
        AiopsError
            If no trial reported.
        """
        rows, curves = [], []
        sign = 1.0 if self.mode == "max" else -1.0
        for name, params in self.params.items():
            steps = self.steps[name]
            best = max(
                (sign * s[self.objective] for s in steps if s[self.objective] == s[self.objective]), default=None
            )
            end = self.ends.get(name, {"status": "errored", "error": "did not end"})
            rows.append(
                {
                    "trial": name,
                    "status": end["status"],
                    "steps": steps[-1]["step"] if steps else 0,
                    "seconds": steps[-1]["seconds"] if steps else 0.0,
                    self.objective: None if best is None else sign * best,
                    **{f"param:{k}": v for k, v in params.items()},
                }
            )
            curves += [{"trial": name, **{k: v for k, v in s.items() if k != "seconds"}} for s in steps]
        trials = pd.DataFrame(rows)
        usable = trials[(trials["status"] != "errored") & trials[self.objective].notna()] if len(trials) else trials
        errors = {n: str(e["error"]) for n, e in self.ends.items() if e["status"] == "errored"}
        if usable.empty:
            first = next(iter(errors.values()), "no trial started")
            raise AiopsError(f"search of task '{self.name}': all {len(rows)} trials failed, the first with: {first}")
        # A completed trial outranks a pruned one of equal score; the sort is stable, so ties keep their order.
        ordered = usable.sort_values(self.objective, ascending=self.mode == "min", kind="stable")
        status = trials["status"].value_counts()
        return SearchResult(
            task=self.name,
            objective=self.objective,
            mode=self.mode,
            trials=trials,
            curves=pd.DataFrame(curves),
            ranked=[self.params[name] for name in ordered["trial"]],
            counts={
                "trials": len(trials),
                **{k: int(status.get(k, 0)) for k in ("completed", "pruned", "errored")},
            },
            seconds=self.earlier + time.monotonic() - self.began,
            errors=errors,
            reused=self.reused,
        )

    def _end(self, trial: Any, status: str, error: str | None) -> None:
        name = str(trial.trial_id)
        self._write("ended", name, status=status, error=error)
        self.ends[name] = {"status": status, "error": error}
        if self.log:
            self.log.ended(name, status, error)
        self._show()

    def _write(self, event: str, trial: str, **fields: Any) -> None:
        elapsed = self.earlier + time.monotonic() - self.began
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "trial": trial, "elapsed": elapsed, **fields}) + "\n")

    def _replay(self) -> None:
        """Read an earlier sitting back; the parameters of a trial without an end are tried again first."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                # The last line of a killed process may be cut short.
                continue
            name = event["trial"]
            self.earlier = max(self.earlier, float(event["elapsed"]))
            if event["event"] == "started":
                self.params[name], self.steps[name] = event["params"], []
            elif event["event"] == "reported":
                self.steps[name].append({"step": event["step"], **event["metrics"], "seconds": event["seconds"]})
            else:
                self.ends[name] = {"status": event["status"], "error": event["error"]}
        self.reused = len(self.ends)
        for name in [n for n in self.params if n not in self.ends]:
            self.interrupted.append(self.params.pop(name))
            del self.steps[name]
            if self.log:
                self.log.ended(name, "interrupted", None)

    def _show(self) -> None:
        if self.progress is None:
            return
        sign = 1.0 if self.mode == "max" else -1.0
        scores = [sign * s[self.objective] for steps in self.steps.values() for s in steps]
        statuses = [end["status"] for end in self.ends.values()] + ["errored"] * len(self.failed)
        elapsed = self.earlier + time.monotonic() - self.began
        done = len(statuses)
        self.progress(
            {
                "task": self.name,
                "total": self.total,
                "done": done,
                "running": len(self.params) - done,
                "pruned": statuses.count("pruned"),
                "errored": statuses.count("errored"),
                "objective": self.objective,
                "best": sign * max(scores) if scores else None,
                "seconds": elapsed,
                "eta": elapsed / done * (self.total - done) if done else None,
            }
        )


_TUNE_KEYS = frozenset(
    {
        "step", "done", "timestamp", "training_iteration", "trial_id", "date", "time_this_iter_s", "time_total_s", "pid",
        "hostname", "node_ip", "time_since_restore", "iterations_since_restore", "checkpoint_dir_name", "config",
        "experiment_tag", "should_checkpoint",
    }
)  # fmt: skip


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {k: (v.item() if hasattr(v, "item") else v) for k, v in config.items()}
