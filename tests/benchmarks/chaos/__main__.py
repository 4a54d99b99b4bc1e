"""Hurt a real service of tiny models under a steady load, fault by fault, and write the table of `reports/reliability.md`.

``python tests/benchmarks/chaos --only replica`` runs one fault, ``--only process`` one group; what was measured before stays in the
table. ``make chaos`` runs all. Everything stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[3])]

from chaos.load import Load, Outcome  # noqa: E402
from chaos.registry import Registry  # noqa: E402
from chaos.report import render, write  # noqa: E402
from chaos.scenarios import SCENARIOS, Context, NotRun, Scenario  # noqa: E402
from chaos.stand import ROOT, Stand, build_registry, register  # noqa: E402
from chaos.writes import Receiver, Writes  # noqa: E402

import httpx  # noqa: E402  isort: skip

WARM_SECONDS, AFTER_SECONDS = 2.0, 3.0


@dataclass
class Watch:
    """What an operator sees meanwhile: reasons and warnings of ``health/ready``, gauges that fell, lines of the log."""

    stand: Stand
    said: dict[str, None] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._before = len(self.stand.log_lines())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        url = f"http://127.0.0.1:{self.stand.port}/api/v3/aiops/"
        while not self._stop.wait(0.5):
            options: Any = {"timeout": 3, "trust_env": False, "headers": self.stand.headers}
            try:
                body = httpx.get(url + "health/ready", **options).json()
            except (httpx.HTTPError, ValueError):
                self.said["ready: no answer"] = None
                continue
            with contextlib.suppress(httpx.HTTPError, ValueError):
                for text in (*body.get("reasons", []), *body.get("warnings", [])):
                    self.said[f"ready: {text[:70]}"] = None
                for line in httpx.get(url + "metrics", **options).text.splitlines():
                    name, _, value = line.rpartition(" ")
                    if name.startswith(("aiops_follower_up{", "aiops_registry_up{")) and value == "0.0":
                        self.said[f"`{name.split('{')[0]}` 0"] = None

    def __str__(self) -> str:
        events: dict[str, int] = {}
        for line in self.stand.log_lines()[self._before :]:
            if line["event"] in ("failed", "refused", "slow"):
                events[line["event"]] = events.get(line["event"], 0) + 1
        lines = ", ".join(f"{number} {event}" for event, number in events.items())
        return "; ".join([*self.said, *([f"log: {lines}"] if lines else [])][:5]) or "nothing, it went on"


def run(scenario: Scenario, context: Context, receiver: Receiver) -> dict[str, Any]:
    """Do one fault under load and return its row."""
    stand = context.stand
    versions = [context.versions["first"], context.versions["second"]]
    if scenario.group != "process":
        # Elsewhere the faults promote by themselves.
        versions = []
    found, error = "", ""
    with Load(stand.port, headers=stand.headers) as load, Writes(stand, receiver, versions) as writes:
        with Watch(stand) as watch:
            threading.Event().wait(WARM_SECONDS)
            try:
                found = scenario.do(context)
            except NotRun as reason:
                return {"title": scenario.title, "not_run": str(reason)}
            except (TimeoutError, AssertionError, httpx.HTTPError) as reason:
                error = f"{type(reason).__name__}: {reason}"
            threading.Event().wait(AFTER_SECONDS)
    faults = writes.faults()
    return {
        **row(scenario, load.outcome, faults, error),
        "found": found or error,
        "writes": str(writes),
        "seen": str(watch),
    }


def row(scenario: Scenario, outcome: Outcome, faults: list[str], error: str) -> dict[str, Any]:
    """Return the numbers of one fault, and what of its target was missed."""
    missed = [f"{outcome.answers[kind]} {kind}" for kind in ("plain", "hung") if outcome.answers[kind]]
    if outcome.gap > scenario.gap:
        missed.append(f"{outcome.gap:.1f} s without an answer")
    missed += [*faults, *([error] if error else [])]
    failed = {kind: number for kind, number in outcome.answers.items() if kind != "ok"}
    return {
        "title": scenario.title,
        "requests": outcome.requests,
        "failed": failed,
        "statuses": {str(status): number for status, number in outcome.statuses.items()},
        "gap": round(outcome.gap, 1),
        "lost": "; ".join(faults) or "none",
        "missed": "; ".join(missed),
    }


@contextlib.contextmanager
def prepared(group: str, folder: Path, receiver: Receiver, keys: bool) -> Iterator[Context]:
    """Start the service of a group, with a registry of its own."""
    store = folder / f"store-{group}"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    build_registry(folder / "models")
    with contextlib.ExitStack() as stack:
        # A server where it is the server that is hurt, the database alone otherwise.
        registry = stack.enter_context(Registry(store)) if group == "registry" else None
        uri = f"sqlite:///{store / 'mlflow.db'}" if registry is None else registry.uri
        versions = register(folder / "models", uri, store)
        state = store / "state"
        disk = None
        if group == "disk":
            disk = state
            state.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", state], check=False).returncode:
                raise NotRun("no disk can be mounted here")
            stack.callback(lambda: subprocess.run(["umount", "-l", state], check=True))
        environment = {
            "AIOPS_WEBHOOKS": json.dumps({"scale_horizontal": receiver.url}),
            "AIOPS_WEBHOOK_SECRET": "chaos",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        }
        clock = store / "clock" if group == "clock" else None
        if clock is not None:
            clock.write_text("+0")
            environment |= faked(clock)
        stand = Stand(store, uri, state=state, **environment)
        if keys:
            stand.headers = {"Authorization": f"Bearer {key(state)}"}
        stack.enter_context(stand)
        yield Context(stand, registry, store, versions, disk, clock)


def faked(clock: Path) -> dict[str, str]:
    """Return the environment of processes whose clock is off by what a file says."""
    named = os.environ.get("CHAOS_FAKETIME")
    found = [Path(named)] if named else sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise NotRun("libfaketime is not installed")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        # A machine's clock that is set leaves the monotonic one alone.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def key(state: Path) -> str:
    """Make a key for the load."""
    command = [sys.executable, "-m", "aiops_core.cli", "keys", "add", "chaos", "--scope", "read,predict,operate"]
    environment = {**os.environ, "AIOPS_STATE_DIR": str(state), "PYTHONPATH": str(ROOT)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return made.stdout.strip().splitlines()[-1]


def main() -> int:
    """Run the faults; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    groups = list(dict.fromkeys(s.group for s in SCENARIOS))
    parser.add_argument("--only", action="append", choices=[*groups, *(s.name for s in SCENARIOS)], default=[])
    parser.add_argument("--keys", action=argparse.BooleanOptionalAction, default=True, help="with a keys file")
    parser.add_argument("--folder", type=Path, help="kept, with the tiny models, for the next time")
    parser.add_argument("--report", type=Path, default=ROOT / "reports" / "reliability.md")
    options = parser.parse_args()
    # Ended from outside, it ends what it started all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [s for s in SCENARIOS if not options.only or {s.name, s.group} & set(options.only)]
    receiver, rows = Receiver(), {}
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiops-chaos-")))
        for group in groups:
            mine = [s for s in chosen if s.group == group]
            if not mine:
                continue
            try:
                with prepared(group, folder, receiver, options.keys) as context:
                    for scenario in mine:
                        rows[scenario.name] = run(scenario, context, receiver)
                        print(render({scenario.name: rows[scenario.name]}).splitlines()[-1], flush=True)
                        write(options.report, rows)
            except NotRun as reason:
                rows |= {s.name: {"title": s.title, "not_run": str(reason)} for s in mine}
                write(options.report, rows)
    receiver.close()
    return 1 if any(row.get("missed") for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
