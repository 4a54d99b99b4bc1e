"""HAProxy as the service starts it: what it answers before it knows a replica."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from conftest import free_port

from serve_app.cluster import haproxy

#: The lines of Ray Serve's configuration that answer while there is no application.
CONFIGURATION = """\
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found. Ping http://.../-/routes for available routes."
"""


def test_rays_template_still_has_the_line_that_is_replaced() -> None:
    from ray.serve._private import haproxy_templates

    line = CONFIGURATION.splitlines()[-1].strip()
    assert line in Path(haproxy_templates.__file__).read_text(encoding="utf-8")


def test_before_it_knows_a_replica_haproxy_says_try_again_and_not_that_nothing_is_there(tmp_path: Path) -> None:
    binary = haproxy.settings()[1].get(haproxy.BINARY)
    if binary is None:
        pytest.skip("HAProxy is not on this machine")
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIGURATION.replace("{port}", str(port)))
    process = subprocess.Popen([binary, "-f", str(config)])
    try:
        answer = None
        deadline = time.time() + 20
        while answer is None and time.time() < deadline:
            with contextlib.suppress(httpx.ConnectError):
                answer = httpx.post(f"http://127.0.0.1:{port}/api/v3/aiops/predict/threat", trust_env=False, json={})
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert answer is not None and answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json" and answer.headers["retry-after"] == "1"
    assert answer.json()["instance"] == "/api/v3/aiops/predict/threat" and answer.headers["x-request-id"]
