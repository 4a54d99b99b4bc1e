"""The bookkeeping of one task of one run: folders, the MLflow run, the registry, and what the report reads."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution

import aiops_core
from aiops_core import search, servable, tracking
from aiops_core.data.seen import write_seen
from aiops_core.data.tables import TASK_TABLES, TASKS, Dataset
from aiops_core.errors import SearchStopped, UsageError
from aiops_core.files import write_csv, write_json
from aiops_core.judge import gate
from aiops_core.judge.intervals import ExtraMetrics
from aiops_core.markup import Link, html_table
from aiops_core.search import SearchResult
from aiops_core.study import pictures
from aiops_core.study.ablation import derived_features, with_table
from aiops_core.study.champion import against_champion
from aiops_core.study.measured import details_of, largest_difference, metric_table, shown, way_to_oracle
from aiops_core.study.model_card import model_card, version_page, version_tags
from aiops_core.study.origin import anomaly_reference, folder_of, lineage_of
from aiops_core.study.policy import check_policy, follow_policy
from aiops_core.study.progress import followed, note_stage
from aiops_core.study.section import section_of
from aiops_core.study.trainings import over_trainings

PROMOTE = (True, False, "first")


class Study:
    """The bookkeeping of one task of one run: its folder, its MLflow run, its verdict and what is written of it.

    Nothing is modelled here: data, search space, baselines and predictions are made by the caller and handed in.

    Parameters
    ----------
    task : {"failure", "threat", "capacity"}
    dataset : Dataset
        What ``data`` was prepared from.
    data : FailureData, ThreatData or CapacityData
        What the task's ``prepare`` returned.
    source : str
        Where the data set is from, for the lineage and the name of the folder.
    seed : int
        Fixes search, final model and bootstrap.
    out : path
        Folder of the run. A search that was interrupted there is continued.
    promote : {True, False, "first"}
        Whether a candidate that passes the gate becomes champion: always, never, or only where there is none yet.
    seeds : int, default 1
        How often the final model is fitted, with ``seed`` and those after it; only the first is registered.

    Attributes
    ----------
    metrics, baselines, oracle, share, trainings, looks
        Filled by `evaluate`; ``trainings``: what other seeds change; ``looks``: how often these test rows were scored.
    details : dict
        What the pictures show; filled by `evaluate`.
    """

    def __init__(
        self,
        task: str,
        dataset: Dataset,
        data: Any,
        *,
        source: str = "synthetic",
        seed: int = 7,
        out: str | Path | None = None,
        promote: bool | str = True,
        seeds: int = 1,
    ) -> None:
        if promote not in PROMOTE:
            raise UsageError(f"promote = {promote!r} is none of True, False and 'first'")
        if seeds < 1:
            raise UsageError(f"seeds = {seeds} must be at least 1")
        if task not in TASKS:
            raise UsageError(f"unknown task '{task}'; known: {', '.join(TASKS)}")
        check_policy(dataset.config.get(task, {}).get("decision") or {})
        self.began = time.monotonic()
        self.task: ModuleType = importlib.import_module(f"aiops_core.tasks.{task}")
        self.name, self.source, self.seed, self.promote = task, source, int(seed), promote
        self.out, self.digest = folder_of(out, source), dataset.digest(task)
        self.dataset, self.data, self.seeds = dataset, data, int(seeds)
        self.result: SearchResult | None = None
        self.run_id = ""
        self.metrics: dict[str, Any] = {}
        self.baselines: dict[str, dict[str, Any]] = {}
        self.oracle: dict[str, Any] | None = None
        self.share: dict[str, Any] | None = None
        self.trainings: dict[str, Any] | None = None
        self.looks = 0
        self.details: dict[str, Any] = {}
        self.ablation: list[dict[str, Any]] = []
        self.parity = math.nan
        self.verdict: gate.Verdict | None = None
        self._extra: tuple[str, ...] = ()
        self._predictions: dict[str, Any] = {}
        self.drawn: dict[str, Figure] = {}
        self._section: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Study of {self.task.MODEL} in {self.folder}"

    def _repr_html_(self) -> str:
        trials = "not searched" if self.result is None else f"{self.result.counts['trials']} trials"
        best = "" if self.result is None else f", best {self.result.objective} {self.result.best_score:.4g}"
        main = self.metrics.get(self.task.MAIN_METRIC)
        rows = {
            "data": f"{self.dataset.title} ({self.data.info['train_rows']:,} training rows)",
            "search": trials + best,
            "test": f"{self.task.MAIN_METRIC} {shown(main)}" if main else "not measured",
            "gate": self.verdict.decision if self.verdict else "not judged",
            "MLflow run": self.run_id or "none yet",
            "folder": Link(self.folder),
            "servable": Link(self.servable),
            "report": Link(self.out / "report.html"),
        }
        return html_table(f"Study of {self.task.MODEL}", rows)

    @property
    def folder(self) -> Path:
        """Folder of this task's files within the run."""
        return self.out / self.name

    @property
    def servable(self) -> Path:
        """Folder of the servable that `fit_final` writes."""
        return self.folder / "servable"

    def search(
        self,
        space: Mapping[str, BaseDistribution] | None = None,
        *,
        n_trials: int = 20,
        deterministic: bool = False,
    ) -> SearchResult:
        """Search a space, by default the task's, with a live view; every trial is an MLflow run.

        Finished trials of the same search in the run's folder are taken over, which is said. With ``deterministic`` one
        trial runs at a time, so that the result repeats. The default point stays the first unless another is better by
        more than noise, which is said. In a notebook run by hand a Stop button ends the search with
        the trials that have ended.

        Raises
        ------
        UsageError
            If ``n_trials`` is below 1 or the space does not fit the task.
        SearchStopped
            If it was stopped before any trial had ended.
        """
        if n_trials < 1:
            raise UsageError(f"n_trials = {n_trials} must be at least 1")
        folder = self.folder / "search"
        found = search.reusable(self.task, self.data, seed=self.seed, folder=folder, space=space)
        if found:
            print(f"{found} finished trials of the same search are reused; another out, seed or space starts anew")
        search.connect()
        start = self.dataset.config.get(self.name, {}).get("start")
        log = self._open_run(n_trials)
        self.drawn.clear()
        varied = [name for name, one in (space or self.task.space(self.data)).items() if not one.single()]
        try:
            with followed(self.folder, varied) as progress:
                result = search.search(
                    self.task,
                    self.data,
                    space=space,
                    n_trials=n_trials,
                    seed=self.seed,
                    folder=folder,
                    start=start,
                    log=log,
                    deterministic=deterministic,
                    progress=progress.show,
                    stop=progress.stop,
                )
            note_stage(self.folder, "default or found")
            self.result = search.chosen(self.task, self.data, result, space=space, start=start, seed=self.seed)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SearchStopped)
            tracking.fail_run(self.run_id, str(error) or type(error).__name__, "KILLED" if interrupted else "FAILED")
            raise
        # Not left open: nobody may ever go on from here.
        tracking.close_search(self.run_id)
        if (done := self.result.counts["trials"]) < n_trials:
            print(f"stopped after {done} of {n_trials} trials, which are used from here on; run this again to go on")
        if self.result.choice is not None:
            print(f"default or found? {self.result.choice.why}")
        return self.result

    def _open_run(self, n_trials: int) -> tracking.SearchLog:
        """Open the MLflow run of the search, or go on in that of the same search."""
        info = self.data.info
        log = tracking.open_search(
            self.name,
            self.folder / "search",
            name=f"{self.name} on {self.dataset.name}",
            params={
                "source": self.source,
                "seed": self.seed,
                "n_trials": n_trials,
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
        return log

    def fit_final(self, ranked: list[dict[str, Any]]) -> dict[str, Any]:
        """Let a worker fit the final model from parameter sets, best first; write the servable and return its card."""
        result = _need(self.result, "search")
        note_stage(self.folder, "final model")
        native = search.final_model(self.task, ranked, self.data, self.servable, seed=self.seed)
        policy = self.dataset.config.get(self.name, {}).get("decision")
        others = range(self.seed + 1, self.seed + self.seeds)
        again = search.refits(self.task, ranked, self.data, seeds=others, policy=policy)
        self._predictions = {"native": native, "again": again}
        self.ablation = derived_features(self.task, self.dataset, self.data, seed=self.seed)
        if self.name == "failure":
            servable.update_card(self.servable, anomaly=anomaly_reference(self.dataset, self.data))
        follow_policy(self.servable, policy)
        lineage = lineage_of(self.dataset, self.data, task=self.name, source=self.source, seed=self.seed)
        lineage |= {"run_id": self.run_id, "trials": result.counts, "best_params": ranked[0]}
        servable.update_card(self.servable, lineage=lineage)
        write_seen(self.servable, self.task.seen(self.data))
        return servable.load(self.servable).card

    def evaluate(
        self,
        prediction: Mapping[str, Any],
        baselines: Mapping[str, Mapping[str, Any]],
        *,
        extra_metrics: ExtraMetrics | None = None,
    ) -> pd.DataFrame:
        """Measure the servable's prediction of the test part beside the baselines' and the oracle's.

        Parameters
        ----------
        prediction : mapping
            What the task's ``score`` returned for the servable.
        baselines : mapping of str to prediction
            What the task's ``baselines`` returned, and any other.
        extra_metrics : mapping of str to callable, optional
            Metrics of one's own, ``f(truth, prediction) -> float``; see the task's ``evaluate``. They stand in the
            tables and in MLflow, and decide nothing.

        Returns
        -------
        DataFrame
            One row each for the candidate, the baselines and the oracle; columns are metrics.
        """
        _need(self._predictions, "fit_final")
        note_stage(self.folder, "test set")
        self._predictions |= {"candidate": dict(prediction), "baselines": dict(baselines)}
        self.parity = largest_difference(prediction, self._predictions["native"])
        best = self.task.oracle(self.data)
        self._extra = tuple(extra_metrics or ())
        self.looks = tracking.count_look(self.name, self.task.seen(self.data).test_digest)
        self.metrics = self._measured(prediction, extra_metrics)
        self.baselines = {name: self._measured(other, extra_metrics) for name, other in baselines.items()}
        self.oracle = None if best is None else self._measured(best, extra_metrics)
        self.share = way_to_oracle(self.task, self.data, prediction, baselines, best, self.seed)
        again = self._predictions["again"]
        self.trainings = over_trainings(self.task, self.data, self.metrics, again, seed=self.seed)
        self.details = with_table(details_of(self, prediction, baselines, best), self.ablation, self.task.OBJECTIVE)
        self.drawn = {name: figure for name, figure in self.drawn.items() if name in pictures.OF_SEARCH}
        return self.table()

    def _measured(self, prediction: Mapping[str, Any], extra_metrics: ExtraMetrics | None) -> dict[str, Any]:
        found: dict[str, Any] = self.task.evaluate(self.data, prediction, seed=self.seed, extra_metrics=extra_metrics)
        return found

    def table(self) -> pd.DataFrame:
        """Return the metrics of candidate, baselines and oracle as ``value (low to high)``."""
        oracle = {} if self.oracle is None else {"oracle": self.oracle}
        return metric_table({self.task.MODEL: self.metrics, **self.baselines, **oracle})

    def decide(self) -> gate.Verdict:
        """Let the gate compare the candidate with the baselines and with the champion of the registry."""
        _need(self.metrics, "evaluate")
        rival = against_champion(self.task, self.data, self.servable, promote=self.promote)
        self.verdict = gate.decide(
            self.task,
            self.data,
            self._predictions["candidate"],
            self._predictions["baselines"],
            champion=rival.prediction,
            champion_name=rival.name,
            champion_rows=rival.rows,
            obstacles=rival.obstacles,
            units=self.task.units(self.data),
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
        judged = {"gate": verdict.as_dict(), "metrics": self.metrics}
        # As text, in which a NaN equals a NaN.
        if self._section and str({key: self._section[key] for key in judged}) == str(judged):
            # The cell was run again: the same servable needs no second version, but a search run again opened its run.
            self.log()
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
        self.log()
        uri = tracking.log_servable(self.run_id, self.servable)
        version = None
        if verdict.decision != "refused":
            version = tracking.register(self.name, self.run_id, verdict.decision, model_uri=uri).version
        self._section = section_of(self, result, verdict, version)
        if version is not None:
            page, tags = version_page(self._section), version_tags(self._section, self.source)
            tracking.describe_version(self.task.MODEL, version, page, tags)
        write_csv(self.folder / "trials.csv", result.trials)
        write_csv(self.folder / "curves.csv", result.curves)
        write_json(self.folder / "details.json", self.details)
        write_json(self.folder / "section.json", self._section)
        return self._section

    def log(self) -> str:
        """Log what was measured to the search's MLflow run and close it; nothing is registered.

        Returns
        -------
        str
            Id of the run.
        """
        result = _need(self.result, "search")
        main, flat = self.task.MAIN_METRIC, {f"test_{k}": v["value"] for k, v in self.metrics.items()}
        for base, values in self.baselines.items():
            flat |= {f"test_{name}_{base}": values[name]["value"] for name in (main, *self._extra)}
        verdict = self.verdict
        judged = {} if verdict is None else {"gate": verdict.decision, "reasons": " | ".join(verdict.reasons)}
        tracking.log_results(
            self.run_id,
            metrics=flat,
            params={f"best_{k}": v for k, v in result.best_params.items()},
            folders={n: self.folder / n for n in ("figures", "native") if (self.folder / n).is_dir()},
            tags={"best_params": str(result.best_params), **judged},
        )
        return self.run_id


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
