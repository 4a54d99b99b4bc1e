"""Run the notebooks in order: the only user of papermill.

A run works in ``<out>.partial`` and is renamed to ``<out>`` when it is complete, so that an error or a kill never
leaves half a report; `run` with ``resume`` goes on in what a killed run left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiops_core import errors, files, settings, tracking
from aiops_core.data import sources as datasets
from aiops_core.data.tables import TASK_TABLES, TASKS, Dataset, suggestion
from aiops_core.errors import AiopsError, UsageError
from aiops_core.facts import FACTS
from aiops_core.study import experiment, report

__all__ = ["NOTEBOOKS", "Options", "execute", "notebook_folder", "run"]

NOTEBOOKS = {
    "data": "01_data",
    **{task: facts.notebook for task, facts in FACTS.items()},
    "report": "05_training_report",
}
STATE = "run.json"
#: Task notebooks that run at the same time: while one fits its models in the cluster, another draws and logs.
LANES = 2
#: The longest first, so that the lanes end together.
ORDER = ("failure", "capacity", "threat")
#: Whether a candidate that passes the gate becomes champion, as the notebooks' parameter ``promote`` says it.
PROMOTE: dict[str, bool | str] = {"gate": True, "first": "first", "never": False}
Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Options:
    """What a run does; equal options (``out`` apart) may resume each other."""

    source: str = "synthetic"
    n_samples: int | None = None
    n_trials: int = 20
    seed: int = 7
    signal: float = 1.0
    tasks: tuple[str, ...] = TASKS
    deterministic: bool = False
    promote: str = "gate"
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        UsageError
        """
        if self.n_trials < 1:
            raise UsageError(f"--trials {self.n_trials} must be at least 1")
        if self.n_samples is not None and self.n_samples < 1:
            raise UsageError(f"--n-samples {self.n_samples} must be at least 1")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} must not be negative")
        if not 0 <= self.signal <= 1:
            raise UsageError(f"--signal {self.signal} must lie from 0 to 1")
        if self.promote not in PROMOTE:
            raise UsageError(f"--promote {self.promote} is none of {', '.join(PROMOTE)}")
        for task in self.tasks:
            if task not in TASKS:
                raise UsageError(f"--tasks: unknown task '{task}'{suggestion(task, TASKS)}")
        for task in self.config:
            if task not in TASKS:
                raise UsageError(f"--set: unknown task '{task}'{suggestion(task, TASKS)}")


def notebook_folder() -> Path:
    """Return the folder of the notebooks: beside the package in a checkout."""
    return Path(__file__).resolve().parents[2] / "notebooks"


def run(
    options: Options, out: str | Path | None = None, *, resume: bool = False, progress: Progress | None = None
) -> tuple[Path, dict[str, Any]]:
    """Run the main job: data, searches, verdicts, report.

    Parameters
    ----------
    options : Options
    out : path, optional
        Folder of the report; ``reports/<source>`` by default. An earlier report there is replaced at the end.
    resume : bool, default False
        Go on where a killed run of the same options stopped.
    progress : callable, optional
        Called with a stage and its state, ``running``, ``done``, ``skipped`` or ``failed``.

    Returns
    -------
    folder : Path
    content : dict
        What ``report.json`` holds.

    Raises
    ------
    AiopsError
        For everything a user can act on; reports, registry and database are then as they were.
    """
    began = time.monotonic()
    options.check()
    tell = progress or (lambda stage, state: None)
    # Resolved here: kernels run in the project's folder, where a relative path would mean something else.
    source = options.source
    if source not in ("synthetic", *datasets.PUBLIC) and Path(source).is_dir():
        source = str(Path(source).resolve())
    target = Path(out).resolve() if out else experiment.folder_of(None, source)
    tell("validation", "running")
    dataset = _load(options, source)
    tasks = [task for task in TASKS if task in options.tasks and dataset.has(task)]
    if not tasks:
        wanted = ", ".join(f"{task} needs {' and '.join(TASK_TABLES[task])}" for task in options.tasks)
        raise UsageError(f"source '{options.source}' holds no table for the tasks asked for: {wanted}")
    tracking.check()
    given = settings.load().ray_address
    if given:
        from aiops_core import search as tuning

        tuning.check_address(given)
    _refuse_foreign(target)
    with (
        _workspace(target, {**asdict(options), "source": source}, resume) as (work, state),
        _kernel_environment() as start,
    ):
        # Before Ray starts: a fork while another thread computes can stop both for good.
        _preflight(options, dataset, tasks)
        tell("validation", "done")
        common = {"source": source, "seed": options.seed, "out": str(work)}
        made = {"n_samples": options.n_samples, "signal": options.signal}
        search = {
            "n_trials": options.n_trials,
            "deterministic": options.deterministic,
            "promote": PROMOTE[options.promote],
        }
        waiting: list[tuple[str, dict[str, Any]]] = []
        for task in sorted(TASKS, key=ORDER.index):
            section = work / task / "section.json"
            if task not in tasks:
                asked = task in options.tasks
                absent = " and ".join(TASK_TABLES[task])
                reason = f"source has no {absent} table" if asked else "not asked for"
                files.write_json(section, report.empty_section(task, "skipped", reason))
                tell(task, "skipped")
            elif section.is_file() and json.loads(section.read_text())["status"] == "trained":
                tell(task, "done")
            else:
                config = dict(options.config.get(task, {}))
                waiting.append((task, {**common, **made, **search, "config": config}))
        with _Lanes(work, tell) as lanes:
            look = lanes.begin("data", {**common, **made, "tasks": list(options.tasks)})
            # Neither needs the other, and each keeps one core busy.
            start(min(LANES, len(waiting)))
            tracking.prepare_store()
            look.result()
            lanes.run(waiting)
        facts = {
            "source": options.source,
            "seed": options.seed,
            "n_samples": options.n_samples or (datasets.DEFAULT_SAMPLES if source == "synthetic" else None),
            "title": dataset.title,
            "licence": dataset.licence,
            "signal": options.signal,
            "deterministic": options.deterministic,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        files.write_json(work / "facts.json", {**facts, "wall_seconds": None})
        _stage("report", work, {"out": str(work)}, tell)
        seconds = float(state.get("seconds", 0.0)) + time.monotonic() - began
        files.write_json(work / "facts.json", {**facts, "wall_seconds": round(seconds, 1)})
        content = report.render(work)
        _replace(work, target)
    return target, content


def execute(name: str, output: Path, parameters: Mapping[str, Any], kernels: list[Any] | None = None) -> None:
    """Run one notebook with a value for every parameter it has.

    Parameters
    ----------
    name : str
        One of `NOTEBOOKS`' values.
    output : Path
        Where the executed notebook is written.
    parameters : mapping
        All of them: a default would be whatever somebody last saved in the notebook.
    kernels : list, optional
        Gets the manager of the kernel, so that the caller can end it.

    Raises
    ------
    UsageError
        If a parameter is unknown to the notebook (papermill alone would only warn and run with the default), or one
        of the notebook's is not given.
    AiopsError
        If the notebook stopped with one.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    path = notebook_folder() / f"{name}.ipynb"
    if not path.is_file():
        raise UsageError(f"notebook {path.name} is not in {path.parent}")
    known = papermill.inspect_notebook(str(path))
    for parameter in parameters:
        if parameter not in known:
            raise UsageError(f"notebook {path.name} has no parameter '{parameter}'{suggestion(parameter, known)}")
    absent = [parameter for parameter in known if parameter not in parameters]
    if absent:
        raise UsageError(f"notebook {path.name} has a parameter '{absent[0]}' that this run does not set")
    try:
        with tempfile.TemporaryDirectory(prefix="aiops-") as sockets:
            papermill.execute_notebook(
                str(path),
                str(output),
                parameters=dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                # A kernel logs the interrupt that ends it.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                cwd=str(settings.load().home),
                kernel_manager_class=_local_kernel(Path(sockets), [] if kernels is None else kernels),
            )
    except PapermillExecutionError as error:
        kind = getattr(errors, str(error.ename), None)
        if isinstance(kind, type) and issubclass(kind, AiopsError) and kind is not AiopsError:
            raise UsageError(str(error.evalue)) from None
        if error.ename == "OSError" and f"Errno {errno.ENOSPC}" in str(error.evalue):
            raise UsageError(f"the disk is full: {error.evalue}") from None
        raise _NotebookError(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise _NotebookError(f"{path.name}: its kernel was ended from outside, perhaps for want of memory") from error


def _local_kernel(folder: Path, started: list[Any]) -> type:
    """Return a kernel manager that talks over files in a folder, since every user of the machine could reach a port."""
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class LocalKernelManager(AsyncKernelManager):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

        @default("transport")
        def _transport_over_files(self) -> str:
            return "ipc"

        @default("ip")
        def _files_of_its_own(self) -> str:
            return str(folder / "kernel")

    return LocalKernelManager


class _NotebookError(Exception):
    """A notebook stopped with an error that is not the user's."""


def _stage(
    stage: str, work: Path, parameters: Mapping[str, Any], tell: Progress, kernels: list[Any] | None = None
) -> None:
    output = work / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    tell(stage, "running")
    execute(NOTEBOOKS[stage], output, parameters, kernels)
    tell(stage, "done")


class _Lanes:
    """Run notebooks side by side; leaving the block early ends those that still run."""

    def __init__(self, work: Path, tell: Progress) -> None:
        self._work, self._tell = work, tell
        self._kernels: list[Any] = []
        self._begun: list[Future[None]] = []
        self._ending = False
        self._pool = ThreadPoolExecutor(LANES, thread_name_prefix="aiops-lane")

    def __enter__(self) -> _Lanes:
        # Imported by one thread, before several need it.
        importlib.import_module("papermill")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            # The others are about to lose their kernels, which is no news.
            for name in ("papermill", "traitlets"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            self._ending = True
            self._pool.shutdown(wait=False, cancel_futures=True)
            # Again and again: a kernel may be just about to start.
            while not all(future.done() for future in self._begun):
                for kernel in self._kernels:
                    process = getattr(kernel.provisioner, "process", None)
                    if process is not None and process.poll() is None:
                        process.kill()
                time.sleep(0.2)
        self._pool.shutdown(wait=True)

    def begin(self, stage: str, parameters: Mapping[str, Any]) -> Future[None]:
        """Start one notebook as soon as a lane is free."""
        return self._submit(_stage, stage, self._work, parameters, self._tell, self._kernels)

    def _submit(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        future = self._pool.submit(work, *arguments)
        self._begun.append(future)
        return future

    def run(self, stages: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Run task notebooks; one that fails for itself is noted in the report, a user's error ends all."""
        running = [self._submit(self._task, task, parameters) for task, parameters in stages]
        for future in wait(running, return_when=FIRST_EXCEPTION).done:
            future.result()

    def _task(self, task: str, parameters: Mapping[str, Any]) -> None:
        try:
            _stage(task, self._work, parameters, self._tell, self._kernels)
        except _NotebookError as error:
            if self._ending:
                return
            files.write_json(self._work / task / "section.json", report.empty_section(task, "failed", str(error)))
            self._tell(task, "failed")


def _load(options: Options, source: str) -> Dataset:
    loaded = datasets.load(
        source, n_samples=options.n_samples, seed=options.seed, signal=options.signal, tasks=list(options.tasks)
    )
    for task, values in options.config.items():
        loaded = loaded.configured(task, **values)
    return loaded


def _preflight(options: Options, dataset: Dataset, tasks: list[str]) -> None:
    """Prepare every task once before anything is written, so that a data error of the last spares the first."""
    for task in tasks:
        importlib.import_module(f"aiops_core.tasks.{task}").prepare(dataset, seed=options.seed)


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"--out {target} is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / "report.json").is_file():
        raise UsageError(f"--out {target} holds files that are not a report; name another folder")


@contextlib.contextmanager
def _workspace(target: Path, options: dict[str, Any], resume: bool) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the working folder and the state an earlier sitting left in it; remove it after a user's error."""
    work = target.with_name(f"{target.name}.partial")
    wanted = json.loads(json.dumps(options))
    lock_path = target.with_name(f".{target.name}.lock")
    if resume and not (work / STATE).is_file():
        raise UsageError(f"nothing to resume: {work} holds no interrupted run")
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("w")
    except OSError as error:
        raise UsageError(f"--out {target} cannot be written ({error.strerror})") from error
    began = time.monotonic()
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another run is writing {target}; wait for it or name another --out") from None
        state: dict[str, Any] = {}
        if resume:
            state = json.loads((work / STATE).read_text(encoding="utf-8"))
            for key, value in wanted.items():
                if state["options"].get(key) != value:
                    raise UsageError(
                        f"--resume: the interrupted run had {key} = {state['options'].get(key)!r}, this one has {value!r}"
                    )
        elif work.exists():
            shutil.rmtree(work)
        try:
            with _no_space(target):
                files.write_json(work / STATE, {"options": wanted, "seconds": state.get("seconds", 0.0)})
                yield work, state
        except AiopsError:
            if not resume:
                shutil.rmtree(work, ignore_errors=True)
            raise
        except BaseException:
            if work.is_dir():
                seconds = float(state.get("seconds", 0.0)) + time.monotonic() - began
                files.write_json(work / STATE, {"options": wanted, "seconds": seconds})
            raise
    finally:
        lock.close()
        lock_path.unlink(missing_ok=True)
        for folder in made:
            # Still empty: nothing came of the run.
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _no_space(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(f"the disk of {target} is full") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise UsageError(f"--out {target} cannot be written ({error.strerror})") from error
        raise


@contextlib.contextmanager
def _kernel_environment() -> Iterator[Callable[[int], None]]:
    """Yield a function that starts the run's one Ray cluster for some searches; kernels share it, store and mirror."""
    from aiops_core import search as tuning

    current = settings.load()
    given = {"MLFLOW_TRACKING_URI": current.mlflow_tracking_uri, "AIOPS_HOME": str(current.home)}
    if current.datasets_dir is not None:
        given["AIOPS_DATASETS_DIR"] = str(current.datasets_dir.resolve())
    saved = {key: os.environ.get(key) for key in (*given, "RAY_ADDRESS", "AIOPS_CONCURRENT_SEARCHES")}
    os.environ.update(given)

    def start(searches: int) -> None:
        os.environ["AIOPS_CONCURRENT_SEARCHES"] = str(max(1, searches))
        os.environ["RAY_ADDRESS"] = tuning.connect()

    try:
        yield start
    finally:
        tuning.disconnect()
        for key, value in saved.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _replace(work: Path, target: Path) -> None:
    for name in (STATE, "facts.json"):
        (work / name).unlink(missing_ok=True)
    for progress in work.glob("*/progress.json"):
        progress.unlink()
    for search in work.glob("*/search"):
        shutil.rmtree(search, ignore_errors=True)
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.replace(target, old / "report")
    os.replace(work, target)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
