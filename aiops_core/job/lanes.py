"""Run the notebooks of the tasks side by side."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from aiops_core import files
from aiops_core.job.notebooks import NotebookError, Progress, run_stage
from aiops_core.redact import redacted
from aiops_core.study import report

#: Task notebooks that run at the same time: while one fits its models in the cluster, another draws and logs.
LANES = 2


class Lanes:
    """Run notebooks side by side; leaving the block early ends those that still run."""

    def __init__(self, work: Path, tell: Progress) -> None:
        self._work, self._tell = work, tell
        self._kernels: list[Any] = []
        self._begun: list[Future[None]] = []
        self._ending = False
        self._pool = ThreadPoolExecutor(LANES, thread_name_prefix="aiops-lane")

    def __enter__(self) -> Lanes:
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
        return self._submit(run_stage, stage, self._work, parameters, self._tell, self._kernels)

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
            run_stage(task, self._work, parameters, self._tell, self._kernels)
        except NotebookError as error:
            if self._ending:
                return
            files.write_json(
                self._work / task / "section.json", report.empty_section(task, "failed", redacted(str(error)))
            )
            self._tell(task, "failed")
