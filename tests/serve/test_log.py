"""The request log and traces: what is written of which request, and that nothing waits for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Disk, Service, point

from aiops_core import settings
from aiops_core.errors import UsageError
from aiops_core.facts import MODELS
from serve_app.guard import keys
from serve_app.http.api import build_api
from serve_app.operations import log, tracing
from serve_app.operations.log import RequestLog

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
FIELDS = {
    "time", "level", "event", "request_id", "trace_id", "route", "method", "status", "milliseconds", "bytes", "key",
    "model_version",
}  # fmt: skip


@pytest.fixture
def logged(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> Callable[..., tuple[Service, Any]]:
    """A service with a request log of the options given, and a function that returns the lines so far."""

    def make(mode: str, slow: float = 60.0, path: Path | None = None, **options: Any) -> tuple[Service, Any]:
        point(tmp_path / "state", {MODELS["threat"]: (servables["threat"], "7")})
        service = make_service()
        found = RequestLog(path or tmp_path / "log.jsonl", mode, slow, service.metrics, **options)  # type: ignore[arg-type]
        service.api = service.client.app = build_api(replace(service.services, log=found))

        def lines() -> list[dict[str, Any]]:
            found.close()
            text = (tmp_path / "log.jsonl").read_text() if (tmp_path / "log.jsonl").exists() else ""
            return [json.loads(line) for line in text.splitlines()]

        return service, lines

    return make


def test_a_refusal_is_a_line_with_every_field_and_nothing_of_the_body(logged: Any) -> None:
    service, lines = logged("note")
    service.client.post("predict/threat", {"xss_score": 0.5})
    headers = {"traceparent": PARENT, "x-request-id": "mine-1"}
    answer = service.client.request("POST", "predict/threat", {"secret_name": "hunter2"}, headers=headers)
    (line,) = lines()
    assert line.keys() == FIELDS
    assert (line["level"], line["event"], line["status"]) == ("warning", "refused", 422)
    assert (line["request_id"], line["trace_id"]) == ("mine-1", TRACE)
    assert (line["route"], line["method"], line["model_version"]) == ("predict/threat", "POST", "7")
    assert (line["bytes"], line["key"]) == (len(answer.body), "-")
    assert line["milliseconds"] > 0 and line["time"].endswith("Z")
    assert "hunter2" not in json.dumps(line) and "secret_name" not in json.dumps(line)


def test_what_changes_something_is_written_and_what_only_asks_is_not(logged: Any) -> None:
    service, lines = logged("note")
    service.client.post("remediate", {"action": "scale_horizontal", "resource_id": "a"})
    for path in ("health", "models/train", "actions", "health/live"):
        service.client.get(path)
    assert [(line["event"], line["route"], line["status"]) for line in lines()] == [("written", "remediate", 200)]


def test_a_slow_request_is_written_and_a_failed_one_is_an_error(logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service, lines = logged("note", 0.05)
    answer = service.models.answer

    async def late(*args: Any) -> bytes:
        time.sleep(0.06)
        return bytes(await answer(*args))

    async def broken(*args: Any) -> bytes:
        raise ZeroDivisionError

    service.client.post("predict/threat", {"xss_score": 0.5})
    monkeypatch.setattr(service.models, "answer", late)
    service.client.post("predict/threat", {"xss_score": 0.5})
    monkeypatch.setattr(service.models, "answer", broken)
    service.client.post("predict/threat", {"xss_score": 0.5})
    found = [(line["event"], line["level"], line["status"]) for line in lines()]
    assert found[-2:] == [("slow", "warning", 200), ("failed", "error", 500)]


def test_all_requests_are_written_on_demand_and_none_when_it_is_off(logged: Any, tmp_path: Path) -> None:
    service, lines = logged("all")
    service.client.get("health")
    service.client.post("predict/threat", {"xss_score": 0.5})
    assert [line["event"] for line in lines()] == ["answered", "answered"]
    (tmp_path / "log.jsonl").unlink()
    service, lines = logged("off")
    service.client.get("nothing")
    assert lines() == []


def test_the_name_of_the_key_is_written_and_counted(logged: Any, tmp_path: Path) -> None:
    key = keys.add(tmp_path / "state" / "keys.json", "grafana", ["read"])
    service, lines = logged("all")
    headers = {"authorization": f"Bearer {key}"}
    statuses = [
        service.client.get("actions", headers=headers).status,
        service.client.post("predict/threat", {"xss_score": 0.5}, headers=headers).status,
        service.client.get("actions").status,
    ]
    assert statuses == [200, 403, 401]
    text = service.client.get("metrics", headers=headers).body.decode()
    assert [line["key"] for line in lines()] == ["grafana", "grafana", "-", "grafana"]
    assert 'aiops_key_requests_total{key="grafana"} 2.0' in text


def test_a_full_disk_drops_lines_and_counts_them_and_no_request_notices(disk: Disk, logged: Any) -> None:
    service, lines = logged("all", path=disk.path / "log.jsonl")
    disk.fill()
    assert service.client.get("health").status == 200
    lines()
    assert service.total("aiops_log_dropped_total", to="file") == 1


def test_a_full_queue_drops_lines_and_counts_them(logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "WAITING", 3)
    monkeypatch.setattr(log, "GATHER_SECONDS", 5.0)
    service, lines = logged("all")
    for _ in range(10):
        service.client.get("health/live")
    assert service.total("aiops_log_dropped_total", to="file") == 7
    assert len(lines()) == 3


def test_a_long_file_is_turned_once_and_no_line_is_lost(
    logged: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 2_000)
    (tmp_path / "log.jsonl").write_text("x" * 3_000)
    service, lines = logged("all")
    service.client.get("health/live")
    assert len(lines()) == 1
    assert (tmp_path / "log.jsonl.1").stat().st_size == 3_000
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "header",
    [b"", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", f"ff-{TRACE}-b7ad6b7169203331-01".encode(),
     f"00-{TRACE}-{'0' * 16}-01".encode(), f"00-{TRACE.upper()}-b7ad6b7169203331-01".encode(),
     PARENT.encode() + b"-more", b"\xff\xfe"],
)  # fmt: skip
def test_an_invalid_traceparent_begins_a_trace_of_its_own(header: bytes) -> None:
    found = tracing.of([(b"traceparent", header)])
    assert found.trace_id != TRACE and found.parent == "" and len(found.trace_id) == 32


def test_a_valid_traceparent_is_kept_of_later_versions_too_and_two_of_them_are_not() -> None:
    later = b"01" + PARENT.encode()[2:] + b"-more"
    for header in (PARENT.encode(), later):
        found = tracing.of([(b"traceparent", header)])
        assert (found.trace_id, found.parent) == (TRACE, "b7ad6b7169203331")
    assert tracing.of([(b"traceparent", PARENT.encode())] * 2).trace_id != TRACE


class Collector:
    """An OTLP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        scopes = [s for _, _, body in self.received for r in body["resourceSpans"] for s in r["scopeSpans"]]
        return [span for scope in scopes for span in scope["spans"]]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_collector_gets_a_span_of_every_request_that_the_caller_records(logged: Any, collector: Collector) -> None:
    service, lines = logged("note", endpoint=collector.url + "/", headers="authorization=Bearer x")
    service.client.request("POST", "predict/threat", {"xss_score": 0.5}, headers={"traceparent": PARENT})
    service.client.request("GET", "health", headers={"traceparent": PARENT[:-1] + "0"})
    service.client.request("GET", "nothing")
    assert [line["status"] for line in lines()] == [404]
    first, second = collector.spans()
    assert (first["traceId"], first["parentSpanId"], first["name"]) == (
        TRACE,
        "b7ad6b7169203331",
        "POST predict/threat",
    )
    assert int(first["endTimeUnixNano"]) > int(first["startTimeUnixNano"])
    attributes = {a["key"]: a["value"] for a in first["attributes"]}
    assert attributes["http.response.status_code"] == {"intValue": "200"}
    assert attributes["http.route"] == {"stringValue": "predict/threat"}
    assert second["name"] == "GET unknown" and "parentSpanId" not in second
    path, headers, _ = collector.received[0]
    assert path == "/v1/traces" and headers["authorization"] == "Bearer x"


def test_a_collector_that_is_gone_costs_spans_and_nothing_else(logged: Any, collector: Collector) -> None:
    collector.server.shutdown()
    collector.server.server_close()
    service, lines = logged("note", endpoint=collector.url)
    assert service.client.get("health").status == 200
    lines()
    assert service.total("aiops_log_dropped_total", to="otlp") == 1


def test_a_setting_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().log == "note" and settings.load().otlp_endpoint == ""
    monkeypatch.setenv("AIOPS_LOG", "loud")
    with pytest.raises(UsageError, match="AIOPS_LOG"):
        settings.load()
