"""Credentials stay where they were put, and tables open in a spreadsheet without running anything."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from aiops_core import files
from aiops_core.data import folder, sources
from aiops_core.errors import AiopsError, DataError, TrackingError, UsageError
from aiops_core.redact import redacted
from aiops_core.tracking.store import open_client

SECRET = "s3cret"
START, END = pd.Timestamp("2026-01-01", tz="UTC"), pd.Timestamp("2026-01-02", tz="UTC")


@pytest.fixture
def prometheus() -> Iterator[str]:
    """Address, with credentials, of a server that answers range queries as Prometheus does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            stamps = [START.timestamp() + 3600 * i for i in range(24)]
            series = [{"metric": {"instance": "a"}, "values": [[s, str(i % 7)] for i, s in enumerate(stamps)]}]
            body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://svc:{SECRET}@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://svc:s3cret@host:5000/x", "http://***@host:5000/x"),
        ("(postgresql://svc:s3c@ret@db/mlflow) failed", "(postgresql://***@db/mlflow) failed"),
        ("two: ftp://a:b@c and 'https://d:e@f?x=g@h'", "two: ftp://***@c and 'https://***@f?x=g@h'"),
        ("a path /home/me@here, mail a@b.org, http://host/a@b", "a path /home/me@here, mail a@b.org, http://host/a@b"),
    ],
)
def test_credentials_of_addresses_are_left_out_and_nothing_else(text: str, expected: str) -> None:
    assert redacted(text) == expected
    for kind in (AiopsError, UsageError, TrackingError, DataError):
        assert str(kind(text)) == expected


def test_a_prometheus_servers_credentials_get_into_no_table_title_or_error(prometheus: str, tmp_path: Path) -> None:
    dataset = sources.prometheus.load(prometheus, {"cpu": "cpu"}, start=START, end=END)
    assert dataset.title.startswith("Prometheus at http://***@127.0.0.1:")
    folder.save_folder(dataset, tmp_path / "own")
    assert [p.name for p in (tmp_path / "own").iterdir() if SECRET.encode() in p.read_bytes()] == []
    # Written by an earlier release, or by hand.
    toml = tmp_path / "own" / "dataset.toml"
    toml.write_text(toml.read_text().replace("***", f"svc:{SECRET}"))
    assert SECRET not in sources.load(str(tmp_path / "own")).title
    with pytest.raises(UsageError) as caught:
        sources.prometheus.load(f"http://svc:{SECRET}@127.0.0.1:9", {"cpu": "cpu"}, start=START, end=END)
    assert "no Prometheus server answers" in str(caught.value) and SECRET not in str(caught.value)


def test_what_mlflow_refuses_is_told_without_credentials_and_without_its_cause(
    prometheus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", prometheus)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as caught, open_client() as client:
        # Something listens there, but it is no MLflow server.
        client.get_experiment_by_name("x")
    assert "MLflow at 'http://***@" in str(caught.value) and SECRET not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.fixture
def mlflow_server(tmp_path: Path, made_store: None) -> Iterator[str]:
    """Address, with credentials, of a real MLflow server that asks for none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    kept = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    kept |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=kept)
    deadline = time.monotonic() + 120
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        while True:
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://svc:{SECRET}@127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_search_at_a_server_with_credentials_leaves_none_in_what_a_notebook_keeps(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cell prints is in the executed notebook, in the page made of it and in the log of a job."""
    code = (
        "from pathlib import Path\nfrom aiops_core import tracking\ntracking.prepare_store()\n"
        f"search = tracking.open_search('threat', Path({str(tmp_path / 'search')!r}), name='a', params={{}}, tags={{}})\n"
        "tracking.close_search(search.run_id)\nprint('closed')\nsearch"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    NotebookClient(notebook, timeout=300).execute()
    page, _ = HTMLExporter().from_notebook_node(notebook)
    shown = nbformat.writes(notebook) + page
    assert notebook.cells[0].outputs and SECRET not in shown, notebook.cells[0].outputs
    written = [p.name for p in (tmp_path / "search").rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert written == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            f"http://svc:{SECRET}@127.0.0.1:9",
            "no MLflow server answers at MLFLOW_TRACKING_URI 'http://***@127.0.0.1:9'",
        ),
        (f"nonsense://svc:{SECRET}@127.0.0.1:9/db", ""),
    ],
)
def test_the_command_line_says_no_credentials_not_even_when_it_breaks(uri: str, words: str, tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "AIOPS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "aiops_core.cli", "models", "list"], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (1, 2) and words in done.stderr
    assert done.stderr and SECRET not in done.stdout + done.stderr


def test_a_table_runs_nothing_in_a_spreadsheet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "resource_id": ['=HYPERLINK("http://x")', "+1+cmd", "-2+3", "@SUM(A1)", "\tx", "x\r=1+1", "web-1", None],
            "value": [-1.5, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, None],
            "=class": [True, False] * 4,
        }
    )
    files.write_csv(tmp_path / "t.csv", frame)
    with open(tmp_path / "t.csv", newline="") as file:
        text = file.read()
    cells = pd.read_csv(tmp_path / "t.csv")
    assert list(cells.columns) == ["resource_id", "value", "'=class"]
    assert [c[:2] for c in cells["resource_id"][:6]] == ["'=", "'+", "'-", "'@", "'\t", "x\r"]
    assert '"x\r=1+1"' in text
    assert cells["resource_id"][6] == "web-1" and cells["resource_id"].isna()[7]
    assert cells["value"][0] == -1.5 and ",-3.0," in text
    assert list(frame.columns)[2] == "=class" and frame["resource_id"][3] == "@SUM(A1)"
