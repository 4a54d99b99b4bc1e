"""Default parameters, without a search, tested on later times and on resources left out whole; failure also without a clock."""

from __future__ import annotations

import importlib
import time
from typing import Any

from ordinary import rounded
from plan import argument_of, tasks_of

from aiops_core.data.sources import load
from aiops_core.errors import AiopsError

PROTOCOLS = ("time", "resource")


def measure(source: str, *, seed: int, less: dict[str, Any]) -> dict[str, Any]:
    """Fit and test the default parameters of every task of a source under both protocols.

    Parameters
    ----------
    less : dict
        Arguments of the task's ``Effort``, for a quick look.

    Returns
    -------
    dict
        ``seconds`` and ``rows``: ``task, protocol, clock`` (None where there is none), ``metrics`` and ``units``, or why
        it could not be.
    """
    began, rows = time.monotonic(), []
    for name in tasks_of(source):
        task: Any = importlib.import_module(f"aiops_core.tasks.{name}")
        dataset = load(argument_of(source), seed=seed, tasks=[name])
        for protocol in PROTOCOLS:
            try:
                data = task.prepare(dataset, seed=seed, protocol=protocol, effort=task.Effort(**less))
            except AiopsError as error:
                rows.append({"task": name, "protocol": protocol, "clock": None, "why": " ".join(str(error).split())})
                continue
            point = task.defaults(data)[0]
            for clock in (1, 0) if "clock" in point else (None,):
                params = point if clock is None else {**point, "clock": clock}
                model = task.finish([params], data, seed=seed)
                found = task.evaluate(data, task.predict(model, data, "test"), seed=seed)
                told = {"metrics": dict(found), "units": task.units(data).words, "split": data.info["split"]}
                rows.append({"task": name, "protocol": protocol, "clock": clock, **rounded(told)})
                main = found[task.MAIN_METRIC]["value"]
                print(f"{source} {name} {protocol} clock {clock}: {task.MAIN_METRIC} {main:.3f}", flush=True)
    return {"seconds": round(time.monotonic() - began), "rows": rows}
