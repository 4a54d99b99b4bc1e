"""One task from data to verdict: what a task notebook calls, one method a cell."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import aiops_core
from aiops_core import search, servable, tracking
from aiops_core.data import sources
from aiops_core.data.tables import DEFAULT_CONFIG, TASK_TABLES, TASKS
from aiops_core.errors import UsageError
from aiops_core.files import write_json
from aiops_core.judge import gate
from aiops_core.rules import StatisticalAnomalyDetector
from aiops_core.search import SearchResult
from aiops_core.servable.failure import choose_threshold
from aiops_core.study import pictures
from aiops_core.study.champion import against_champion
from aiops_core.study.model_card import model_card, version_page, version_tags
from aiops_core.study.origin import folder_of, versions
from aiops_core.study.progress import live_line, note_stage

__all__ = ["Study"]

PROMOTE = (True, False, "first")
DECISION_KEYS = ("rule", "cost_missed", "cost_false_alarm", "alerts_per_day")


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
        What the pictures show; filled by `evaluate`.
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
        _check_decision(dict(config or {}).get("decision", {}))
        loaded = sources.load(source, n_samples=n_samples, seed=seed, signal=signal, tasks=[task])
        self.dataset = loaded.configured(task, **dict(config or {}))
        if not self.dataset.has(task):
            wanted = " and ".join(TASK_TABLES[task])
            raise UsageError(f"source '{source}' has no {wanted} table: task '{task}' has nothing to learn from")
        self.digest = self.dataset.digest(task)
        self.data = self.task.prepare(self.dataset, seed=self.seed)
        self.result: SearchResult | None = None
        self.run_id = ""
        self.metrics: dict[str, Any] = {}
        self.baselines: dict[str, dict[str, Any]] = {}
        self.oracle: dict[str, Any] | None = None
        self.details: dict[str, Any] = {}
        self.parity = math.nan
        self.verdict: gate.Verdict | None = None
        self._predictions: dict[str, Any] = {}
        self.drawn: dict[str, Figure] = {}
        self._section: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        """Folder of this task's files within the run."""
        return self.out / self.name

    @property
    def servable(self) -> Path:
        """Folder of the servable that `fit_final` writes."""
        return self.folder / "servable"

    def search(self) -> SearchResult:
        """Search, with a live line; every trial is an MLflow run.

        Finished trials of the same search in the run's folder are taken over, which is said.
        """
        search.connect()
        found = search.reusable(self.task, self.data, seed=self.seed, folder=self.folder / "search")
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
            dataset=tracking.dataset_input(
                self.dataset.name,
                self.digest,
                self.source,
                {name: self.dataset.tables[name] for name in TASK_TABLES[self.name]},
            ),
        )
        self.run_id = log.run_id
        try:
            self.result = search.search(
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
        # Not left open: nobody may ever go on from here.
        tracking.close_search(self.run_id)
        return self.result

    def fit_final(self) -> dict[str, Any]:
        """Fit the final model and the baselines side by side, write the servable, and return its card."""
        result = _need(self.result, "search")
        note_stage(self.folder, "final model and baselines")
        _, baselines, native = search.final_and_baselines(self.task, result, self.data, self.servable, seed=self.seed)
        self._predictions = {"native": native["prediction"], "baselines": baselines}
        if self.name == "failure":
            reference = StatisticalAnomalyDetector().learn(self._training_telemetry(), max_resources=0)
            servable.update_card(self.servable, anomaly=reference)
        policy = self.dataset.config.get(self.name, {}).get("decision")
        if policy:
            chosen = choose_threshold(servable.load(self.servable, verify=False).card["decision"]["curve"], **policy)
            servable.update_card(self.servable, decision={"rule": "max_f1", **policy, "threshold": chosen})
        servable.update_card(self.servable, lineage=self._lineage(result))
        return servable.load(self.servable).card

    def evaluate(self) -> pd.DataFrame:
        """Score the test part once, through the servable; baselines and oracle on the same rows.

        Returns
        -------
        DataFrame
            One row each for the candidate, the baselines and the oracle; columns are metrics.
        """
        _need(self._predictions, "fit_final")
        note_stage(self.folder, "test set")
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
        self.details = self.task.details(self.data, candidate)
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
        _need(self.metrics, "evaluate")
        champion, name, obstacles = against_champion(self.task, self.data, self.servable, promote=self.promote)
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
        verdict = _need(self.verdict, "decide")
        result = _need(self.result, "search")
        if self._section and self._section["gate"] == verdict.as_dict():
            # The cell was run again: the same servable needs no second version.
            return self._section
        note_stage(self.folder, "registration")
        servable.update_card(
            self.servable,
            metrics=self.metrics,
            baselines=self.baselines,
            oracle=self.oracle or {},
            gate=verdict.as_dict(),
        )
        (self.servable / "model-card.md").write_text(model_card(servable.load(self.servable).card), encoding="utf-8")
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in pictures.figures(self).items():
            pictures.save(figure, folder / f"{name}.png")
        self._log(result, verdict)
        uri = tracking.log_servable(self.run_id, self.servable)
        version = None
        if verdict.decision != "refused":
            version = tracking.register(self.name, self.run_id, verdict.decision, model_uri=uri).version
        self._section = self._section_of(result, verdict, version)
        if version is not None:
            page, tags = version_page(self._section), version_tags(self._section, self.source)
            tracking.describe_version(self.task.MODEL, version, page, tags)
        result.trials.to_csv(self.folder / "trials.csv", index=False)
        result.curves.to_csv(self.folder / "curves.csv", index=False)
        write_json(self.folder / "details.json", self.details)
        write_json(self.folder / "section.json", self._section)
        return self._section

    def _log(self, result: SearchResult, verdict: gate.Verdict) -> None:
        """Log what came of the search to its run, and close it."""
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

    def _section_of(self, result: SearchResult, verdict: gate.Verdict, version: int | None) -> dict[str, Any]:
        return {
            "model": self.task.MODEL,
            "status": "trained",
            "reason": None,
            "data": {**self.data.info, "digest": self.digest, "title": self.dataset.title, "notes": self._notes()},
            "search": result.summary(),
            "metrics": self.metrics,
            "baselines": self.baselines,
            "oracle": self.oracle,
            "gate": verdict.as_dict(),
            "main_metric": self.task.MAIN_METRIC,
            "kind": self.task.KIND,
            "parity": self.parity,
            "seconds": round(time.monotonic() - self.began, 1),
            "run_id": self.run_id,
            "model_version": version,
        }

    def _training_telemetry(self) -> pd.DataFrame:
        """Return the telemetry that the anomaly detector's reference may be learned from: no test row is in it."""
        telemetry: pd.DataFrame = self.dataset.tables["telemetry"]
        if "split" in telemetry.columns:
            return telemetry.loc[telemetry["split"] == "train"]
        fraction = {**DEFAULT_CONFIG["failure"], **self.dataset.config.get("failure", {})}["test_fraction"]
        place = telemetry.groupby("resource_id")["timestamp"].rank(method="first", pct=True)
        early: pd.DataFrame = telemetry.loc[place <= 1 - fraction]
        return early

    def _lineage(self, result: SearchResult) -> dict[str, Any]:
        return {
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
        }

    def _incidents(self) -> dict[str, dict[str, int]]:
        info = self.data.info
        if "incidents" not in info:
            return {}
        return {"incidents": {part: info[f"{part}_incidents"] for part in ("train", "test")}}

    def _notes(self) -> list[str]:
        return [f"{table}: {note}" for table in TASK_TABLES[self.name] for note in self.dataset.notes.get(table, [])]


def _check_decision(policy: Mapping[str, Any]) -> None:
    """Refuse a decision policy with unknown keys before anything is trained for it."""
    unknown = set(policy) - set(DECISION_KEYS)
    if unknown:
        raise UsageError(f"config: decision has no key '{min(unknown)}'; known: {', '.join(DECISION_KEYS)}")


def _need(value: Any, step: str) -> Any:
    """Return a value that an earlier step made.

    Raises
    ------
    UsageError
        If the step has not been taken.
    """
    if not value:
        raise UsageError(f"call {step}() first")
    return value


def _shown(metric: Mapping[str, float]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _largest_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    gaps = [
        float(np.max(np.abs(np.asarray(a[k], dtype=float) - np.asarray(b[k], dtype=float)), initial=0.0))
        for k in a
        if k in b and k not in ("alarm", "label") and np.shape(a[k]) == np.shape(b[k])
    ]
    return max(gaps, default=math.nan)
