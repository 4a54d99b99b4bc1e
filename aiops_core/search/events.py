"""The events of a search, in a file that an interrupted search resumes from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from ray import tune

from aiops_core.errors import AiopsError
from aiops_core.search.result import SearchResult, TrialLog

__all__ = ["Watcher"]


class Watcher(tune.Callback):
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
        self.show()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial's parameters."""
        name, params = str(trial.trial_id), _plain(trial.config)
        self._write("started", name, params=params)
        self.params[name], self.steps[name] = params, []
        if self.log:
            self.log.started(name, params)
        self.show()

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
        self.show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close a trial that ran to its end or was stopped by the scheduler."""
        self._end(trial, "pruned" if str(trial.trial_id) in self.pruned else "completed", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a failed trial; the search goes on, and Tune writes the error down later."""
        self.failed[str(trial.trial_id)] = trial
        self.show()

    def settle(self) -> None:
        """Close the failed trials with the errors that Tune has written by now."""
        while self.failed:
            _, trial = self.failed.popitem()
            error = trial.get_pickled_error()
            text = str(getattr(error, "cause", None) or error or trial.get_error() or "unknown error").strip()
            # Ray wraps the trial's exception in a remote traceback, whose last line is the exception itself.
            self._end(trial, "errored", (text.splitlines() or ["unknown error"])[-1].strip())

    def abandon(self) -> None:
        """Drop the trials that were running when the search was told to end; they are tried again when it goes on."""
        for name in [n for n in self.params if n not in self.ends]:
            del self.params[name], self.steps[name]
            if self.log:
                self.log.ended(name, "interrupted", None)

    def evaluated(self) -> list[tuple[dict[str, Any], float]]:
        """Return parameters and best value of the trials that ended earlier, for the sampler to learn from."""
        sign = 1.0 if self.mode == "max" else -1.0
        return [
            (self.params[name], sign * max(sign * step[self.objective] for step in self.steps[name]))
            for name, end in self.ends.items()
            if end["status"] != "errored" and self.steps[name]
        ]

    def result(self) -> SearchResult:
        """Summarise the trials that ended.

        Raises
        ------
        AiopsError
            If no trial reported.
        """
        rows, curves = [], []
        for name, params in self.params.items():
            steps = self.steps[name]
            rows.append(
                {
                    "trial": name,
                    "status": self.ends[name]["status"],
                    "steps": steps[-1]["step"] if steps else 0,
                    "seconds": steps[-1]["seconds"] if steps else 0.0,
                    self.objective: self._best(name),
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

    def _trials(self) -> list[dict[str, Any]]:
        """Return one dict a trial, oldest first: ``number, params, step, value, status``, the value being its best."""
        failed = dict.fromkeys(self.failed, {"status": "errored"})
        return [
            {
                "number": number,
                "params": params,
                "step": steps[-1]["step"] if (steps := self.steps[name]) else 0,
                "value": self._best(name),
                "status": (self.ends | failed).get(name, {"status": "running"})["status"],
            }
            for number, (name, params) in enumerate(self.params.items(), start=1)
        ]

    def _best(self, name: str) -> float | None:
        """Return the best value that a trial reported, None where it reported none but NaN."""
        sign = 1.0 if self.mode == "max" else -1.0
        values = [step[self.objective] for step in self.steps[name]]
        return max((value for value in values if value == value), key=lambda value: sign * value, default=None)

    def _end(self, trial: Any, status: str, error: str | None) -> None:
        name = str(trial.trial_id)
        self._write("ended", name, status=status, error=error)
        self.ends[name] = {"status": status, "error": error}
        if self.log:
            self.log.ended(name, status, error)
        self.show()

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

    def show(self) -> None:
        """Tell the state of the search to whoever follows it."""
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
                "trials": self._trials(),
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
