"""Requests drawn from the service's own description, with all checks of schemathesis; writes a table.

Run ``python tests/benchmarks/fuzz.py``: the application in this process, with all three models trained on very little.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "serve")]

BEGIN, END = "<!-- fuzz -->", "<!-- /fuzz -->"


def run(examples: int) -> tuple[str, bool]:
    """Return the table, and whether nothing broke."""
    import schemathesis
    import tiny
    from conftest import Service, point
    from fuzzing import NOT_CHECKED, fuzz

    from aiops_core.facts import MODELS
    from serve_app.guard import keys
    from serve_app.guard.rates import Failures

    folder = Path(tempfile.mkdtemp())
    point(folder / "state", {MODELS[task]: (tiny.train(task, folder / task), "1") for task in MODELS})
    service = Service(folder / "state")
    # Fuzzed jobs must not train.
    service.jobs.start = lambda *_, **__: {"job_id": "0123456789ab"}  # type: ignore[method-assign]
    path = folder / "state" / "keys.json"
    headers = {"Authorization": f"Bearer {keys.add(path, 'fuzz', keys.SCOPES)}"}
    service.guard.look()
    # Wrong keys are meant to be answered 401 here, however many there are.
    service.guard._failures = Failures(rate=1e9, burst=1e9)
    schema = schemathesis.openapi.from_asgi("/schema", service.api, headers=headers)
    lines = ["| operation | requests | answers | broken |", "| --- | --- | --- | --- |"]
    total = broken = 0
    # 503 is a state of the service (no registry here), not a reaction to what was sent.
    for row in fuzz(schema, examples, call=lambda case: case.call(headers=headers), allowed=frozenset({503})):
        answers = ", ".join(f"{n} × {status}" for status, n in sorted(row.statuses.items()))
        found = ", ".join(f"{n} × {check}" for check, n in row.broken.items()) or "none"
        lines.append(f"| `{row.operation}` | {row.requests} | {answers} | {found} |")
        total, broken = total + row.requests, broken + row.broken.total()
        for check, message in row.messages.items():
            print(f"{row.operation}: {check}: {message}", file=sys.stderr)
    left = "; ".join(f"`{name}`: {why}" for name, why in NOT_CHECKED.items())
    return "\n".join([f"{total:,} requests, {broken} broke a check. Left out: {left}.", "", *lines]), not broken


def write(path: Path, text: str) -> None:
    """Put a text between the markers of a file."""
    block = f"{BEGIN}\n{text}\n{END}"
    old = path.read_text(encoding="utf-8") if path.is_file() else "# Reliability\n"
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old}\n## Fuzzing (`make fuzz`)\n\n{block}\n"
    path.write_text(new, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--examples", type=int, default=600, help="for each operation, by the description and against it"
    )
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text, good = run(options.examples)
    print(text)
    if options.write:
        write(options.write, text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
