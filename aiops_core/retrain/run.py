"""``aiops retrain``: one more training on everything that is known by now, which ends in the shadow of the champion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiops_core import files, job, journal, settings, tracking
from aiops_core.data import folder as folders
from aiops_core.errors import AiopsError, UsageError
from aiops_core.facts import MODELS, TASKS
from aiops_core.job.notebooks import Progress
from aiops_core.redact import redacted
from aiops_core.retrain import page
from aiops_core.retrain.state import alone, last, remember
from aiops_core.retrain.tables import Joined, joined_source

__all__ = ["POLICIES", "Options", "retrain"]

#: What promotes: nobody but an operator, or the verdict "better" on live traffic.
POLICIES = ("never", "better")
SCHEMA_VERSION = 1
HOUR = 3600.0


@dataclass(frozen=True)
class Options:
    """How a task is trained again.

    Attributes
    ----------
    task : {"failure", "threat", "capacity"}
    source : str, optional
        The original source; by default what the champion was trained on.
    since : str, optional
        Event time from which the journal is taken.
    policy : {"never", "better"}
    n_trials : int
        The champion's parameters are the first.
    n_samples : int, optional
        Of synthetic data.
    seed : int
    cool_down : float
        Hours after the last retraining in which none begins.
    trigger : str
        What it was started by, for the report.
    """

    task: str = "failure"
    source: str | None = None
    since: str | None = None
    policy: str = "never"
    n_trials: int = 5
    n_samples: int | None = None
    seed: int = 7
    cool_down: float = 24.0
    trigger: str = "by hand"

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises
        ------
        UsageError
        """
        if self.task not in TASKS:
            raise UsageError(f"--task: unknown task '{self.task}'; known: {', '.join(TASKS)}")
        if self.policy not in POLICIES:
            raise UsageError(f"--policy {self.policy} is none of {', '.join(POLICIES)}")
        if self.n_trials < 1:
            raise UsageError(f"--trials {self.n_trials} must be at least 1")
        if self.cool_down < 0:
            raise UsageError(f"--cool-down {self.cool_down:g} must not be negative")


def retrain(
    options: Options, out: Path | None = None, *, state: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Train a task again and put what passes the gate into the shadow of the champion.

    Parameters
    ----------
    options : Options
    out : Path, optional
        Folder of the report; by default one of its own below ``retraining`` in the state folder.
    state : Path, optional
        State folder; by default that of the settings.
    progress : callable, optional
        As of `aiops_core.job.run`.

    Returns
    -------
    dict
        The content of ``retraining.json``.

    Raises
    ------
    AiopsError
        For everything a user can act on. Once it has begun, the report says so too, and the champion is as it was.
    """
    options.check()
    state = state or settings.load().state_dir
    with alone(state) as folder:
        champion = _champion(options)
        _cooled_down(options, last(state, options.task))
        began = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began))
        own = folder / f"{options.task}-{stamp}"
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "task": options.task,
            "state": "running",
            "trigger": options.trigger,
            "began": began,
            "options": asdict(options),
            "champion": champion.version,
            "labels": len(journal.feedback(state, options.task)),
            "report": str((out or own / "report").resolve()),
        }
        remember(state, options.task, content)
        try:
            content |= _train(options, champion, own, Path(content["report"]), state, progress)
            content["state"] = "succeeded"
        except BaseException as error:
            words = str(error) or type(error).__name__
            content |= {"state": "failed", "error": redacted(words if isinstance(error, Exception) else "stopped")}
            raise
        finally:
            content["ended"] = time.time()
            remember(state, options.task, content)
            page.write(Path(content["report"]), content)
    return content


def _champion(options: Options) -> tracking.ModelVersion:
    name = MODELS[options.task]
    champion = tracking.champions().get(name)
    if champion is None:
        raise UsageError(f"model '{name}' has no champion to go on from; train one with: aiops report")
    return champion


def _cooled_down(options: Options, before: Mapping[str, Any]) -> None:
    hours = (time.time() - float(before.get("began", 0.0))) / HOUR
    if hours < options.cool_down:
        raise UsageError(
            f"the last retraining of {options.task} began {hours:.1f} h ago, and {options.cool_down:g} h are to lie between two; "
            "--cool-down 0 trains all the same"
        )


def _train(
    options: Options,
    champion: tracking.ModelVersion,
    own: Path,
    out: Path,
    state: Path,
    progress: Progress | None,
) -> dict[str, Any]:
    """Join the sources, run the job, register what passes and put it into the shadow."""
    name = MODELS[options.task]
    with files.private_files():
        card = tracking.fetch_verified(name, champion.version, state / "servables" / f"{name}-{champion.version}").card
    lineage = card.get("lineage") or {}
    source = options.source or str(lineage.get("source") or "")
    if not source:
        raise UsageError(
            f"version {champion.version} of {name} does not say what it was trained on: name it with --source"
        )
    joined = joined_source(
        state,
        options.task,
        source,
        since=options.since,
        n_samples=options.n_samples,
        seed=lineage.get("seed", options.seed),
    )
    start = dict(lineage.get("best_params") or {})
    tables = _kept(joined, options.task, start, own / "tables")
    wanted = job.Options(
        source=str(tables), n_trials=options.n_trials, seed=options.seed, tasks=(options.task,), promote="never"
    )
    _, report = job.run(wanted, out, progress=progress)
    section = report["tasks"][options.task]
    if section["status"] != "trained":
        raise TrainingFailed(f"the training failed: {section['reason']}")
    version = section["model_version"]
    found: dict[str, Any] = {
        "source": source,
        "rows": joined.rows,
        "start": start,
        "decision": section["gate"]["decision"],
        "reasons": section["gate"]["reasons"],
        "metrics": {name: value["value"] for name, value in section["metrics"].items()},
        "version": version,
        "shadow": False,
    }
    if version is not None:
        tracking.set_companion(name, "shadow", int(version))
        found["shadow"] = True
    return found


class TrainingFailed(AiopsError):
    """The main job ended without a model."""


def _kept(joined: Joined, task: str, start: Mapping[str, Any], target: Path) -> Path:
    """Write the joined tables: the next retraining begins from them."""
    dataset = joined.dataset
    if start:
        dataset = dataset.configured(task, start=dict(start))
    with files.private_files():
        return folders.save_folder(dataset, target)
