"""Run a search with Ray Tune: Optuna (TPE) suggests, ASHA stops, the task's ``fit`` trains.

The search never knows which model it tunes: a task brings its space, its defaults and its ``fit``. TensorFlow is
imported by the trial workers only, never by the process that calls `search`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import optuna
import ray
from optuna.distributions import BaseDistribution
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from aiops_core import settings
from aiops_core.errors import SearchStopped, UsageError
from aiops_core.search.connection import ONE_THREAD, cluster
from aiops_core.search.events import Watcher
from aiops_core.search.result import SearchResult, TrialLog
from aiops_core.search.space import checked_space, first_points

__all__ = ["reusable", "search"]

GRACE_STEPS = 3
REDUCTION = 3


def reusable(
    task: ModuleType, data: Any, *, seed: int, folder: str | Path, space: Mapping[str, BaseDistribution] | None = None
) -> int:
    """Return how many finished trials of a folder belong to the very same search; clear the folder if it is another.

    Searches are the same when data, space, seed and the task's code are: a trial of other data or of another space says
    nothing about this one.

    Parameters
    ----------
    task, data, seed, folder, space
        As in `search`.
    """
    folder = Path(folder)
    space = checked_space(task, data, space)
    key = {
        "data": joblib.hash(data),
        "space": {name: repr(distribution) for name, distribution in space.items()},
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
        temporary = folder / ".key.json"
        temporary.write_text(json.dumps(key), encoding="utf-8")
        os.replace(temporary, path)
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
    space: Mapping[str, BaseDistribution] | None = None,
    n_trials: int = 20,
    seed: int = 7,
    folder: str | Path,
    start: Mapping[str, Any] | None = None,
    log: TrialLog | None = None,
    deterministic: bool = False,
    resume: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
    stop: threading.Event | None = None,
) -> SearchResult:
    """Search a task's space with Optuna (TPE) and ASHA; trial errors are recorded and survived.

    Parameters
    ----------
    task : module
        `aiops_core.tasks.failure`, `aiops_core.tasks.threat` or `aiops_core.tasks.capacity`.
    data : object
        What the task's ``prepare`` returned.
    space : mapping of str to optuna distribution, optional
        What is searched, by the names of the task's own space, which is the default. The task's default points are
        moved into it.
    n_trials : int, default 20
        Number of trials, ``start`` and the task's default points first.
    seed : int
        Seed of the sampler and of every trial.
    folder : path
        State of the search; the same search found there is continued and its finished trials are not run again, any
        other is replaced (see `reusable`).
    start : mapping, optional
        Parameters of an earlier model, tried before the default points.
    log : TrialLog, optional
        Receiver of live events.
    deterministic : bool, default False
        One trial at a time: the order of results, and so every later suggestion, repeats exactly.
    resume : bool, default True
        False starts over even if the folder holds a search.
    progress : callable, optional
        Called with ``done, running, pruned, errored, total, best, seconds, eta`` and, a dict each, the ``trials`` after
        every event.
    stop : threading.Event, optional
        Ends the search soon after another thread sets it: the result is of the trials that have ended by then. Those
        that are running come first when the same search goes on.

    Returns
    -------
    SearchResult

    Raises
    ------
    UsageError
        If ``n_trials`` is below 1, or the space has other names than the task's.
    AiopsError
        If every trial failed; the first trial's error is quoted.
    SearchStopped
        If ``stop`` was set before any trial had ended.
    KeyboardInterrupt
        If the search was interrupted, as by Ctrl-C or a notebook's stop button; the finished trials are kept.
    """
    if n_trials < 1:
        raise UsageError(f"n_trials = {n_trials} must be at least 1")
    folder = Path(folder).resolve()
    space = checked_space(task, data, space)
    reusable(task, data, seed=seed, folder=folder, space=space)
    with cluster():
        return _search(task, data, space, start, n_trials, seed, folder, log, deterministic, resume, progress, stop)


def _search(
    task: ModuleType,
    data: Any,
    space: dict[str, BaseDistribution],
    start: Mapping[str, Any] | None,
    n_trials: int,
    seed: int,
    folder: Path,
    log: TrialLog | None,
    deterministic: bool,
    resume: bool,
    progress: Callable[[dict[str, Any]], None] | None,
    stop: threading.Event | None,
) -> SearchResult:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for noisy in ("ray.tune", "ray.tune.execution.tune_controller", "ray.tune.tune", "ray.tune.tuner"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    watcher = Watcher(task, n_trials, folder, log, progress, resume)
    shutil.rmtree(folder / "tune", ignore_errors=True)
    left = n_trials - len(watcher.params)
    if left <= 0:
        watcher.show()
    else:
        share = int(ray.cluster_resources().get("CPU", 1)) // settings.load().concurrent_searches
        tune_config = tune.TuneConfig(
            search_alg=_searcher(task, data, space, start, watcher, left, seed),
            scheduler=_scheduler(task, data, watcher),
            num_samples=left,
            max_concurrent_trials=1 if deterministic else max(1, share),
            reuse_actors=True,
            trial_dirname_creator=_trial_folder,
        )
        run_config = tune.RunConfig(
            name="tune",
            stop=_Request(stop),
            storage_path=str(folder),
            callbacks=[watcher],
            verbose=0,
            progress_reporter=_Silence(),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        )
        trainable = tune.with_parameters(_trial, module=task.__name__, data=data, seed=seed)
        tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), tune_config=tune_config, run_config=run_config).fit()
        watcher.settle()
        if len(watcher.ends) < n_trials:
            watcher.abandon()
            if stop is None or not stop.is_set():
                # Tune takes an interrupt for a request to return early with what there is.
                done = f"{len(watcher.ends)} of {n_trials} trials are done"
                raise KeyboardInterrupt(f"{done}; the same search goes on here")
            watcher.show()
            if not watcher.ends:
                raise SearchStopped(f"stopped before any of {n_trials} trials ended; run this again to search")
    return watcher.result()


def _searcher(
    task: ModuleType,
    data: Any,
    space: dict[str, BaseDistribution],
    start: Mapping[str, Any] | None,
    watcher: Watcher,
    left: int,
    seed: int,
) -> OptunaSearch:
    """Return the sampler: interrupted trials and the first points first, then what the ended trials suggest."""
    first = first_points(task, data, space, start)
    points = watcher.interrupted + [p for p in first if p not in watcher.params.values()]
    sampler = optuna.samplers.TPESampler(seed=seed + len(watcher.params), n_startup_trials=8, multivariate=True)
    searcher = OptunaSearch(
        space=space,
        metric=task.OBJECTIVE,
        mode=task.MODE,
        points_to_evaluate=points[:left],
        sampler=sampler,
    )
    # Not Tune's own restore: its snapshots lag, and trials that ended after the last one would run again.
    for params, value in watcher.evaluated():
        searcher.add_evaluated_point(params, value)
    return searcher


def _scheduler(task: ModuleType, data: Any, watcher: Watcher) -> _Asha:
    return _Asha(
        watcher.pruned,
        time_attr="step",
        metric=task.OBJECTIVE,
        mode=task.MODE,
        max_t=task.steps(data),
        grace_period=min(GRACE_STEPS, task.steps(data)),
        reduction_factor=REDUCTION,
    )


def _trial_folder(trial: Any) -> str:
    return str(trial.trial_id)


def _trial(config: dict[str, Any], *, module: str, data: Any, seed: int) -> None:
    os.environ.update(ONE_THREAD)
    task = importlib.import_module(module)
    task.fit(config, data, seed=seed, report=lambda step, metrics: tune.report({"step": int(step), **metrics}))


class _Silence(tune.ProgressReporter):  # type: ignore[misc]
    """Show nothing: Tune's own reporter of notebooks clears a cell's output even when it has nothing to say."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        return False


class _Request(tune.Stopper):
    """Ends all trials once it is asked to; Tune looks at it several times a second."""

    def __init__(self, stop: threading.Event | None) -> None:
        self._stop = stop

    def __getstate__(self) -> dict[str, Any]:
        """Leave the event behind: Tune pickles its settings, and threads share no event through a file."""
        return {"_stop": None}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by itself."""
        return False

    def stop_all(self) -> bool:
        """Return whether the search was asked to stop."""
        return self._stop is not None and self._stop.is_set()


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
