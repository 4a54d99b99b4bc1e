"""One task from data to verdict: what a task notebook calls, one method a cell."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import aiops_core
from aiops_core import files, servable, settings, tracking
from aiops_core import search as tuning
from aiops_core.data import sources as datasets
from aiops_core.data.tables import DEFAULT_CONFIG, TASK_TABLES, TASKS, Dataset, suggestion
from aiops_core.errors import ServableError, UsageError
from aiops_core.judge import gate
from aiops_core.rules import StatisticalAnomalyDetector
from aiops_core.servable.failure import choose_threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "SCHEMA_VERSION",
    "Study",
    "describe",
    "folder_of",
    "notes",
    "open_dataset",
    "open_study",
    "parameters",
    "progress_words",
    "versions",
]

SCHEMA_VERSION = 1
PROMOTE = (True, False, "first")
PACKAGES = ("ray", "tensorflow", "scikit-learn", "xgboost", "mlflow", "onnxruntime", "pandas", "numpy", "optuna")


class Study:
    """One task of one run: data, search, final model, evaluation, verdict, registration.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    source : str
        As in `aiops_core.data.sources.load`.
    n_samples : int or None
        Examples, synthetic data only.
    n_trials : int
        Trials of the search.
    seed : int
        Fixes data, split, search, baselines and bootstrap.
    signal : float
        Strength of the signal in synthetic data.
    out : path
        Folder of the run. A search that was interrupted there is continued.
    config : mapping, optional
        Settings of the task that override those of the data set.
    deterministic : bool
        One trial at a time, so that the result repeats.
    promote : {True, False, "first"}
        Whether a candidate that passes the gate becomes champion: always, never, or only where there is none yet.

    Attributes
    ----------
    dataset : Dataset
    data : FailureData, ThreatData or CapacityData
    metrics, baselines, oracle : dict
        Filled by `evaluate`.
    details : dict
        What the plots show; filled by `evaluate`.
    """

    def __init__(
        self,
        task: str,
        *,
        source: str = "synthetic",
        n_samples: int | None = None,
        n_trials: int = 20,
        seed: int = 7,
        signal: float = 1.0,
        out: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        deterministic: bool = False,
        promote: bool | str = True,
    ) -> None:
        if promote not in PROMOTE:
            raise UsageError(f"promote = {promote!r} is none of True, False and 'first'")
        if task not in TASKS:
            raise UsageError(f"unknown task '{task}'; known: {', '.join(TASKS)}")
        if n_trials < 1:
            raise UsageError(f"n_trials = {n_trials} must be at least 1")
        self.began = time.monotonic()
        self.task: ModuleType = importlib.import_module(f"aiops_core.tasks.{task}")
        self.name, self.source, self.seed = task, source, int(seed)
        self.n_trials, self.deterministic, self.promote = int(n_trials), bool(deterministic), promote
        self.out = folder_of(out, source)
        unknown = set(dict(config or {}).get("decision", {})) - {
            "rule",
            "cost_missed",
            "cost_false_alarm",
            "alerts_per_day",
        }
        if unknown:
            raise UsageError(
                f"config: decision has no key '{min(unknown)}'; known: rule, cost_missed, cost_false_alarm, alerts_per_day"
            )
        loaded = datasets.load(source, n_samples=n_samples, seed=seed, signal=signal, tasks=[task])
        self.dataset = loaded.configured(task, **dict(config or {}))
        if not self.dataset.has(task):
            wanted = " and ".join(TASK_TABLES[task])
            raise UsageError(f"source '{source}' has no {wanted} table: task '{task}' has nothing to learn from")
        self.digest = self.dataset.digest(task)
        self.data = self.task.prepare(self.dataset, seed=self.seed)
        self.result: tuning.SearchResult | None = None
        self.run_id = ""
        self.metrics: dict[str, Any] = {}
        self.baselines: dict[str, dict[str, Any]] = {}
        self.oracle: dict[str, Any] | None = None
        self.details: dict[str, Any] = {}
        self.parity = math.nan
        self.verdict: gate.Verdict | None = None
        self._predictions: dict[str, Any] = {}
        self._figures: dict[str, Figure] = {}
        self._section: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        """Folder of this task's files within the run."""
        return self.out / self.name

    @property
    def servable(self) -> Path:
        """Folder of the servable that `finish` writes."""
        return self.folder / "servable"

    def search(self) -> tuning.SearchResult:
        """Search, with a live line; every trial is an MLflow run.

        Finished trials of the same search in the run's folder are taken over, which is said.
        """
        tuning.connect()
        found = tuning.reusable(self.task, self.data, seed=self.seed, folder=self.folder / "search")
        if found:
            print(f"{found} finished trials of the same search are reused; another out or seed starts anew")
        info = self.data.info
        log = tracking.open_search(
            self.name,
            self.folder / "search",
            name=f"{self.name} on {self.dataset.name}",
            params={
                "source": self.source,
                "seed": self.seed,
                "n_trials": self.n_trials,
                "model": self.task.MODEL,
                "data_digest": self.digest,
                "split": info["split"],
                "train_rows": info["train_rows"],
                "validation_rows": info["validation_rows"],
                "test_rows": info["test_rows"],
            },
            tags={"model": self.task.MODEL, "code_version": aiops_core.__version__},
        )
        self.run_id = log.run_id
        try:
            self.result = tuning.search(
                self.task,
                self.data,
                n_trials=self.n_trials,
                seed=self.seed,
                folder=self.folder / "search",
                log=log,
                deterministic=self.deterministic,
                progress=live_line(self.folder),
            )
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            tracking.fail_run(self.run_id, str(error) or type(error).__name__, "KILLED" if interrupted else "FAILED")
            raise
        return self.result

    def finish(self) -> dict[str, Any]:
        """Fit the final model and the baselines side by side, write the servable, and return its card."""
        result = self._need(self.result, "search")
        _note(self.folder, "final model and baselines")
        _, baselines, native = tuning.conclude(self.task, result, self.data, self.servable, seed=self.seed)
        self._predictions = {"native": native["prediction"], "baselines": baselines}
        if self.name == "failure":
            reference = StatisticalAnomalyDetector().learn(self._training_telemetry(), max_resources=0)
            servable.update_card(self.servable, anomaly=reference)
        policy = self.dataset.config.get(self.name, {}).get("decision")
        if policy:
            chosen = choose_threshold(servable.load(self.servable, verify=False).card["decision"]["curve"], **policy)
            servable.update_card(self.servable, decision={"rule": "max_f1", **policy, "threshold": chosen})
        servable.update_card(
            self.servable,
            lineage={
                "source": self.source,
                "title": self.dataset.title,
                "licence": self.dataset.licence,
                "digest": self.digest,
                "split": self.data.info["split"],
                "seed": self.seed,
                "run_id": self.run_id,
                "code_version": aiops_core.__version__,
                "versions": versions(),
                "trials": result.counts,
                "train_rows": self.data.info["train_rows"],
                **self._incidents(),
                "best_params": result.best_params,
            },
        )
        return servable.load(self.servable).card

    def evaluate(self) -> pd.DataFrame:
        """Score the test part once, through the servable; baselines and oracle on the same rows.

        Returns
        -------
        DataFrame
            One row each for the candidate, the baselines and the oracle; columns are metrics.
        """
        self._need(self._predictions, "finish")
        _note(self.folder, "test set")
        loaded = servable.load(self.servable)
        candidate = self._predictions["candidate"] = self.task.score(loaded, self.data, "test")
        self.parity = _largest_difference(candidate, self._predictions["native"])
        self.metrics = self.task.evaluate(self.data, candidate, seed=self.seed)
        self.baselines = {
            name: self.task.evaluate(self.data, prediction, seed=self.seed)
            for name, prediction in self._predictions["baselines"].items()
        }
        best = self.task.oracle(self.data)
        self.oracle = None if best is None else self.task.evaluate(self.data, best, seed=self.seed)
        self.details = findings(self.name, self.task.details(self.data, candidate))
        return self.table()

    def table(self) -> pd.DataFrame:
        """Return the metrics of candidate, baselines and oracle as ``value (low to high)``."""
        rows = {self.task.MODEL: self.metrics, **self.baselines}
        if self.oracle is not None:
            rows["oracle"] = self.oracle
        shown = {
            name: {metric: _shown(value) for metric, value in values.items() if not metric.startswith("f1_")}
            for name, values in rows.items()
        }
        return pd.DataFrame(shown).T.fillna("")

    def decide(self) -> gate.Verdict:
        """Let the gate compare the candidate with the baselines and with the champion of the registry."""
        self._need(self.metrics, "evaluate")
        champion, name, obstacles = self._champion()
        self.verdict = gate.decide(
            self.task,
            self.data,
            self._predictions["candidate"],
            self._predictions["baselines"],
            champion=champion,
            champion_name=name,
            obstacles=obstacles,
            seed=self.seed,
        )
        return self.verdict

    def register(self) -> dict[str, Any]:
        """Log everything to MLflow, register what the gate lets pass, and write this task's part of the report.

        Returns
        -------
        dict
            The task's section of ``report.json``.
        """
        from aiops_core.study import plots, report

        if self._section and self._section["gate"] == self._need(self.verdict, "decide").as_dict():
            # The cell was run again: the same servable needs no second version.
            return self._section
        verdict = self._need(self.verdict, "decide")
        result = self._need(self.result, "search")
        _note(self.folder, "registration")
        servable.update_card(
            self.servable,
            metrics=self.metrics,
            baselines=self.baselines,
            oracle=self.oracle or {},
            gate=verdict.as_dict(),
        )
        (self.servable / "model-card.md").write_text(
            report.model_card(servable.load(self.servable).card), encoding="utf-8"
        )
        figures = plots.figures(self)
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            plots.save(figure, folder / f"{name}.png")
        flat = {f"test_{k}": v["value"] for k, v in self.metrics.items()}
        main = self.task.MAIN_METRIC
        flat |= {f"test_{main}_{base}": values[main]["value"] for base, values in self.baselines.items()}
        tracking.log_results(
            self.run_id,
            metrics=flat,
            params={f"best_{k}": v for k, v in result.best_params.items()},
            folders={n: self.folder / n for n in ("figures", "native") if (self.folder / n).is_dir()},
            tags={"gate": verdict.decision, "reasons": " | ".join(verdict.reasons)},
        )
        uri = tracking.log_servable(self.run_id, self.servable)
        version = None
        if verdict.decision != "refused":
            version = tracking.register(self.name, self.run_id, verdict.decision, model_uri=uri)
        section = {
            "model": self.task.MODEL,
            "status": "trained",
            "reason": None,
            "data": {**self.data.info, "digest": self.digest, "title": self.dataset.title, "notes": self._notes()},
            "search": {
                **result.summary(),
                "objective": result.objective,
                "best_score": _best(result),
                "errors": result.errors,
            },
            "metrics": self.metrics,
            "baselines": self.baselines,
            "oracle": self.oracle,
            "gate": verdict.as_dict(),
            "main_metric": self.task.MAIN_METRIC,
            "kind": self.task.KIND,
            "parity": self.parity,
            "seconds": round(time.monotonic() - self.began, 1),
            "run_id": self.run_id,
            "model_version": version.version if version else None,
        }
        result.trials.to_csv(self.folder / "trials.csv", index=False)
        result.curves.to_csv(self.folder / "curves.csv", index=False)
        files.write_json(self.folder / "details.json", self.details)
        files.write_json(self.folder / "section.json", section)
        self._section = section
        return section

    def _training_telemetry(self) -> pd.DataFrame:
        """Return the telemetry that the anomaly detector's reference may be learned from: no test row is in it."""
        telemetry: pd.DataFrame = self.dataset.tables["telemetry"]
        if "split" in telemetry.columns:
            return telemetry.loc[telemetry["split"] == "train"]
        fraction = {**DEFAULT_CONFIG["failure"], **self.dataset.config.get("failure", {})}["test_fraction"]
        place = telemetry.groupby("resource_id")["timestamp"].rank(method="first", pct=True)
        early: pd.DataFrame = telemetry.loc[place <= 1 - fraction]
        return early

    def _incidents(self) -> dict[str, dict[str, int]]:
        info = self.data.info
        return (
            {"incidents": {part: info[f"{part}_incidents"] for part in ("train", "test")}}
            if "incidents" in info
            else {}
        )

    def _notes(self) -> list[str]:
        return [f"{table}: {note}" for table in TASK_TABLES[self.name] for note in self.dataset.notes.get(table, [])]

    def _champion(self) -> tuple[Any, str, list[str]]:
        """Return the champion's prediction on these test rows, its name, and what speaks against replacing it."""
        obstacles = [] if self.promote else ["was not to be promoted (promote=False, --no-promote)"]
        current = tracking.champions().get(self.task.MODEL)
        if current is None:
            return None, "the champion", obstacles
        name = f"the champion (version {current.version})"
        if self.promote == "first":
            obstacles.append(f"was not to replace {name} by itself")
        mine = servable.load(self.servable, verify=False).card
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            try:
                loaded = servable.load(tracking.fetch(current.name, current.version, Path(scratch) / "champion"))
            except ServableError as error:
                return None, name, [*obstacles, f"cannot be compared with {name}: {error}"]
            obstacles += gate.lesser(mine.get("lineage") or {}, loaded.card.get("lineage") or {}, name)
            reason = gate.comparable(mine, loaded.card)
            if reason:
                return None, name, [*obstacles, f"cannot be compared with {name}: {reason}"]
            return self.task.score(loaded, self.data, "test"), name, obstacles

    @staticmethod
    def _need(value: Any, step: str) -> Any:
        if not value:
            raise UsageError(f"call {step}() first")
        return value


def open_study(task: str, namespace: Mapping[str, Any]) -> Study:
    """Start a study from a notebook's parameters.

    Parameters
    ----------
    task : str
    namespace : mapping
        ``globals()`` of the notebook, called right after its parameters and imports.

    Raises
    ------
    UsageError
        If the notebook was given a parameter that it does not have: papermill itself would only warn.
    """
    return Study(task, **parameters(namespace, inspect.signature(Study).parameters))


def open_dataset(namespace: Mapping[str, Any]) -> Dataset:
    """Load the data set that a notebook's parameters name; see `open_study` for the refusal of unknown ones."""
    given = parameters(namespace, ("source", "n_samples", "seed", "signal", "tasks", "out"))
    given.pop("out", None)
    return datasets.load(given.pop("source", "synthetic"), **given)


def describe(dataset: Dataset) -> pd.DataFrame:
    """Return one row a table: rows, columns, resources or classes, first and last timestamp."""
    rows = []
    for name, frame in dataset.tables.items():
        row: dict[str, Any] = {"table": name, "rows": len(frame), "columns": len(frame.columns)}
        if "resource_id" in frame.columns:
            row["resources"] = frame["resource_id"].nunique()
        if "threat_type" in frame.columns:
            row["classes"] = frame["threat_type"].nunique()
        time_column = next((c for c in ("timestamp", "start") if c in frame.columns), None)
        if time_column:
            row |= {"from": str(frame[time_column].min()), "to": str(frame[time_column].max())}
        rows.append(row)
    return pd.DataFrame(rows).set_index("table").fillna("")


def notes(dataset: Dataset) -> pd.DataFrame:
    """Return what validation counted, one row a note."""
    rows = [{"table": table, "counted": note} for table, found in dataset.notes.items() for note in found]
    return pd.DataFrame(rows or [{"table": "all", "counted": "nothing irregular"}])


def parameters(namespace: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return a notebook's parameters from its namespace; other variables are nobody's business.

    Raises
    ------
    UsageError
        If papermill injected a parameter that the notebook does not have: papermill itself would only warn.
    """
    known = [name for name in known if name not in ("self", "task")]
    for name in _injected(namespace.get("In") or []):
        if name not in known:
            raise UsageError(f"this notebook has no parameter '{name}'{suggestion(name, known)}")
    return {name: namespace[name] for name in known if name in namespace}


def _injected(cells: Iterable[str]) -> list[str]:
    """Return the names that papermill's own cell assigns; it begins with a comment of papermill's."""
    found: list[str] = []
    for source in cells:
        if source.lstrip().startswith("# Parameters\n"):
            targets = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
            found += [target.id for group in targets for target in group if isinstance(target, ast.Name)]
    return found


def folder_of(out: str | Path | None, source: str) -> Path:
    """Return the absolute folder of a run: ``out``, or ``reports/<source>`` in the project's folder."""
    home = settings.load().home
    if out is None or str(out) == "":
        name = source if source in ("synthetic", *datasets.PUBLIC) else Path(source).resolve().name
        return home / "reports" / name
    return home / Path(out)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape results."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def findings(task: str, details: dict[str, Any]) -> dict[str, Any]:
    """Add to a task's details the sentences and the tables that a report prints."""
    sentences: list[str] = []
    tables: dict[str, Any] = {}
    if task == "failure":
        sentences.append(f"At the chosen threshold: {details['sentence']}.")
        curve = details["policies"]
        for budget in (0.25, 1.0, 2.0):
            within = [i for i, alerts in enumerate(curve["alerts_per_resource_day"]) if alerts <= budget]
            if within:
                best = max(within, key=lambda i: curve["share_caught"][i])
                sentences.append(
                    f"At most {budget:g} alerts a day a resource: catches {curve['share_caught'][best]:.0%} of incidents, "
                    f"median {curve['median_lead_hours'][best]:.3g} h ahead (threshold {curve['threshold'][best]:.3f})."
                )
        tables["Resources with the largest errors"] = details["by_resource"][:8]
        tables["The surest mistakes"] = details["worst"][:8]
    elif task == "threat":
        details = {**details, "confusion_matrix": {"classes": details["classes"], "confusion": details["confusion"]}}
        if "attack_cost" in details:
            sentences.append(f"Attack or normal: {details['attack_cost']['words']}.")
        sentences.append(f"Weakest classes: {', '.join(details['worst_classes'])}.")
        tables["The surest mistakes"] = [
            {**{k: v for k, v in row.items() if k not in ("values", "group")}, "unusual values": _pairs(row["values"])}
            for row in details["worst_cases"][:8]
        ]
        tables["Groups found least"] = details.get("groups", [])[:10]
    else:
        tables["By target"] = details["by_target"]
        tables["Errors and coverage by steps ahead"] = details["by_step"][:16]
        tables["Resources with the largest errors"] = details["worst_resources"][:8]
    return {**details, "sentences": sentences, "tables": tables}


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def _shown(metric: Mapping[str, float]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _best(result: tuning.SearchResult) -> float | None:
    scores = result.trials[result.objective].dropna()
    if scores.empty:
        return None
    return float(scores.max() if result.mode == "max" else scores.min())


def _largest_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    gaps = [
        float(np.max(np.abs(np.asarray(a[k], dtype=float) - np.asarray(b[k], dtype=float)), initial=0.0))
        for k in a
        if k in b and k not in ("alarm", "label") and np.shape(a[k]) == np.shape(b[k])
    ]
    return max(gaps, default=math.nan)


def _note(folder: Path, stage: str) -> None:
    files.write_json(folder / "progress.json", {"stage": stage})


def live_line(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Return a progress receiver: a file for the command line, and one self-updating line in a notebook."""
    handle: Any = None
    last = 0.0

    def show(state: dict[str, Any]) -> None:
        nonlocal handle, last
        now = time.monotonic()
        if now - last < 0.5 and state["done"] < state["total"]:
            return
        last = now
        files.write_json(folder / "progress.json", {**state, "stage": "search"})
        line = progress_words(state)
        shell = _shell()
        if shell is None:
            return
        from IPython.display import display

        if handle is None:
            handle = display({"text/plain": line}, raw=True, display_id=True)
        else:
            handle.update({"text/plain": line}, raw=True)

    return show


def _shell() -> Any:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def progress_words(state: Mapping[str, Any]) -> str:
    """Return a search's state in one line."""
    best = "none yet" if state.get("best") is None else f"{state['best']:.4g}"
    left = "" if state.get("eta") is None else f", about {state['eta']:.0f} s left"
    return (
        f"{state['done']}/{state['total']} trials done, {state['running']} running, {state['pruned']} pruned, "
        f"{state['errored']} failed, best {state['objective']} {best}{left}"
    )
