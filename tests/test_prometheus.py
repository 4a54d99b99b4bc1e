"""Range queries against a server that answers as Prometheus' HTTP API documents it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pandas as pd
import pytest

from aiops_core.data import folder
from aiops_core.data import sources as datasets
from aiops_core.errors import DataError, UsageError

START, END = pd.Timestamp("2026-01-05T00:00Z"), pd.Timestamp("2026-01-25T23:00Z")


def answer(form: dict[str, str]) -> dict[str, Any]:
    first, last, step = float(form["start"]), float(form["end"]), float(form["step"])
    stamps = [first + i * step for i in range(int((last - first) / step) + 1)]
    if len(stamps) > 11_000:
        return {"status": "error", "errorType": "bad_data", "error": "exceeded maximum resolution of 11,000 points"}
    if form["query"] == "broken(":
        return {"status": "error", "errorType": "bad_data", "error": "1:8: parse error: unclosed left parenthesis"}
    labels = {"cpu": [{"instance": "a"}, {"instance": "b"}], "nothing": [], "unnamed": [{"job": "node"}]}
    labels["cores"] = [{"instance": "a", "core": "0"}, {"instance": "a", "core": "1"}]
    result = [
        {
            "metric": metric,
            "values": [[t, "NaN" if t % 36_000 == 0 else str(40 + i + t % 86_400 / 8640)] for t in stamps],
        }
        for i, metric in enumerate(labels[form["query"]])
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            body = json.dumps(answer({k: v[0] for k, v in form.items()})).encode()
            self.send_response(200 if self.path == "/api/v1/query_range" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_a_range_query_becomes_a_usage_table_that_a_report_takes(server: str, tmp_path: Path) -> None:
    made = datasets.prometheus.load(server, {"cpu_usage": "cpu"}, start=START, end=END)
    frame = made.tables["usage"]
    hours = int((END - START).total_seconds() // 3600) + 1
    assert len(frame) == 2 * hours and set(frame["resource_id"]) == {"a", "b"}
    row = frame[(frame["resource_id"] == "b") & (frame["timestamp"] == START + pd.Timedelta(hours=13))]
    assert row["cpu_usage"].item() == pytest.approx(41 + 13 / 2.4)
    assert math.isnan(frame.loc[frame["timestamp"] == pd.Timestamp(36_000 * 49_100, unit="s", tz="UTC")].iloc[0, 2])
    folder.save_folder(made, tmp_path / "own")
    again = datasets.load(str(tmp_path / "own"))
    assert again.has("capacity") and again.config["capacity"]["season"] == 24


def test_a_long_range_is_asked_for_in_parts(server: str) -> None:
    made = datasets.prometheus.load(server, {"cpu": "cpu"}, start=START, end=START + pd.Timedelta(seconds=60 * 25_000), step_seconds=60)  # fmt: skip
    assert len(made.tables["usage"]) == 2 * 25_001


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        ("broken(", UsageError, "refuses the query of 'cpu': 1:8: parse error"),
        ("nothing", DataError, "query 'cpu' gives no value"),
        ("cores", DataError, "several series of instance 'a'; aggregate it by \\(instance\\)"),
        ("unnamed", DataError, "without the label 'instance'"),
    ],
)
def test_what_does_not_fit_is_named(server: str, query: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        datasets.prometheus.load(server, {"cpu": query}, start=START, end=END)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(UsageError, match="no Prometheus server answers at 'http://127.0.0.1:1'"):
        datasets.prometheus.load("http://127.0.0.1:1", {"cpu": "cpu"}, start=START, end=END)
