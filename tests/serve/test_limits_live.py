"""The port itself: what HAProxy and Ray Serve answer by themselves, slow and vanishing clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Running
from test_cluster import haproxies, serving_processes, total, wait
from test_requests import THREAT

pytestmark = pytest.mark.serve
PATH = b"/api/v3/aiops/predict/threat"


def connect(running: Running, port: int | None = None) -> socket.socket:
    host, own = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, port or int(own)), timeout=60)


def raw(running: Running, request: bytes, port: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Send bytes; return status, headers and body of the answer, or 0 if the connection ended without one."""
    with connect(running, port) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    names = [line.split(":", 1)[0].lower() for line in lines]
    assert names.count("x-request-id") == 1, head
    return int(first.split()[1]), {n: line.split(":", 1)[1].strip() for n, line in zip(names, lines, strict=True)}, body


def check_problem(answer: tuple[int, dict[str, str], bytes], status: int) -> None:
    found, headers, body = answer
    assert found == status, (headers, body)
    assert headers["content-type"] == "application/problem+json" and re.fullmatch(r"[\w.:-]+", headers["x-request-id"])
    content = json.loads(body)
    assert content["status"] == status and content["title"] and content["detail"] and "instance" in content


def configuration(running: Running) -> Path:
    """HAProxy's configuration; while it changes hands, two of its processes have the same."""
    (config,) = set(haproxies(running.process.pid).values())
    return config


def replica_ports(running: Running) -> list[int]:
    """Ports of the replicas, from HAProxy's configuration."""
    config = configuration(running)
    return [int(p) for p in re.findall(r"^ *server .*:(3\d{4}) check", config.read_text(), re.MULTILINE)]


POST = b"POST " + PATH + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\nBad Header: y\r\n\r\n", 0),
        (b"NONSENSE\r\n\r\n", 0),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 0),
        (POST + b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n\r\n{}", 0),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 0),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 0),
        (POST + b"X-Long: " + b"a" * 9000 + b"\r\nContent-Length: 2\r\n\r\n{}", 431),
        (POST + b"X-Request-Id: \xff\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"X-Request-Id: a\r\nX-Request-Id: b\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"X-Request-Timeout-Seconds: inf\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"X-Request-Timeout-Seconds: nan\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"X-Request-Timeout-Seconds: 0.0000001\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"Serve_Multiplexed_Model_Id: \xfe\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n{}", 0),
        (POST + b"Content-Length: 999999999\r\n\r\n{}", 413),
        (POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"GET /%00%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        # uvicorn knows no such method, and says so in plain text: HAProxy puts a problem in its place.
        (b"BREW " + PATH + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"PUT " + PATH + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"GET " + PATH + b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", 0),
    ],
)  # fmt: skip
def test_the_port_answers_problems_with_an_id_or_hangs_up(running: Running, request_: bytes, status: int) -> None:
    answer = raw(running, request_)
    assert answer[0] == status, answer
    if status:
        check_problem(answer, status)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"X-Request-Timeout-Seconds: 0.0000001\r\nContent-Length: 2\r\n\r\n{}", 422),
        (POST + b"X-Long: " + b"a" * 9000 + b"\r\nContent-Length: 2\r\n\r\n{}", 431),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_a_replica_answers_the_same_without_the_proxy(running: Running, request_: bytes, status: int) -> None:
    ports = replica_ports(running)
    assert len(ports) == 2
    for port in ports:
        check_problem(raw(running, request_, port), status)


def test_a_client_that_stops_within_its_headers_is_hung_up_on(running: Running) -> None:
    started = time.time()
    assert raw(running, POST)[0] == 0
    assert 8 < time.time() - started < 40


@pytest.fixture
def half_open(running: Running) -> Iterator[list[socket.socket]]:
    """200 clients that stopped within their headers."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(running)) for _ in range(200)]
        for i, connection in enumerate(opened):
            connection.sendall(POST[: 20 + i % 60])
        yield opened


def test_half_sent_headers_keep_nobody_else_waiting(running: Running, half_open: list[socket.socket]) -> None:
    for _ in range(50):
        assert running.post("predict/threat", THREAT).status_code == 200
    # And they are gone after a while.
    half_open[0].settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        assert half_open[0].recv(1000) == b""


def test_half_sent_bodies_keep_nobody_else_waiting(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(connect(running))
            connection.sendall(POST + b'Content-Length: 500\r\n\r\n{"xss_score"')
        for _ in range(50):
            assert running.post("predict/threat", THREAT).status_code == 200


def test_a_client_that_hangs_up_during_a_batch_stops_its_work(running: Running) -> None:
    body = json.dumps({"instances": [{**THREAT, "explain": True}] * 10_000}).encode()
    before = total(running, "aiops_predictions_total", task="threat")
    gone = total(running, "aiops_requests_total", status="499")
    with connect(running) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.3)
    wait(lambda: total(running, "aiops_requests_total", status="499") == gone + 1, 30)
    done = total(running, "aiops_predictions_total", task="threat") - before
    assert done < 10_000
    # Nothing goes on.
    time.sleep(0.5)
    assert total(running, "aiops_predictions_total", task="threat") - before == done


def test_a_batch_of_ten_thousand_and_small_requests_go_through_side_by_side(running: Running) -> None:
    body = json.dumps({"instances": [{**THREAT, "explain": True}] * 10_000}).encode()
    with connect(running) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answered = 0
        connection.settimeout(0.001)
        answer = b""
        while not answer:
            assert running.post("predict/threat", THREAT).status_code == 200
            answered += 1
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(15)
    assert answer == b"HTTP/1.1 200 OK" and answered > 5


def test_without_replicas_the_port_still_answers_problems(running: Running) -> None:
    pids = [pid for pid, name in serving_processes(running).items() if "ingress" in name]
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    seen: set[int] = set()
    deadline = time.time() + 60
    while time.time() < deadline:
        answer = raw(running, b"GET /api/v3/aiops/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        seen.add(answer[0])
        if answer[0] == 200 and len(seen) > 1:
            break
        if answer[0] not in (0, 200):
            check_problem(answer, answer[0])
    assert seen <= {0, 200, 502, 503, 504} and 503 in seen, seen
    wait(lambda: len(replica_ports(running)) == 2 and running.http.get("health").status_code == 200, 60)


def test_the_configuration_of_haproxy_has_its_time_outs(running: Running) -> None:
    def ours() -> bool:
        text = configuration(running).read_text()
        limited = "timeout http-request 10s" in text and "timeout client 30s" in text
        return limited and not re.search(r"errorfile 50[234]", text)

    # Ray Serve writes the file anew when replicas change; before HAProxy reads it, it is put right.
    wait(ours, 10)
