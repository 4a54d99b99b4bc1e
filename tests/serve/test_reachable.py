"""The real service with keys: behind the proxy of `serve_app/README.md`, at HAProxy, and on the replicas' own ports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Running, free_port, serve
from test_cluster import listening, serving_processes

from serve_app.guard import audit, keys

pytestmark = pytest.mark.serve
README = Path(__file__).parents[2] / "serve_app" / "README.md"
NAME = "aiops.example.org"
ROW = {"request_rate": 1500}


@pytest.fixture(scope="module")
def guarded(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """The service with one replica, and a key of each scope."""
    folder = tmp_path_factory.mktemp("guarded")
    made = {scope: keys.add(folder / "state" / "keys.json", scope, [scope]) for scope in keys.SCOPES}
    with serve(folder, registry, "--replicas", "1", AIOPS_ALLOWED_HOSTS=NAME) as found:
        # Its models come from the registry, which takes a while on a busy machine.
        until(lambda: httpx.get(f"{found.url}/api/v3/aiops/health", trust_env=False).json()["ready"], 120)
        yield found, made


@pytest.fixture
def proxy(guarded: tuple[Running, dict[str, str]], tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the proxy of the README."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    certificate, key, port = tmp_path / "aiops.pem", tmp_path / "aiops.key", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    (block,) = re.findall(r"```nginx\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for written, here in (
        ("127.0.0.1:8100", guarded[0].url.removeprefix("http://")),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/certs/aiops.pem", str(certificate)),
        ("/etc/ssl/private/aiops.key", str(key)),
    ):
        assert block.count(written) == 1
        block = block.replace(written, here)
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{block}\n}}\n"
    )
    process = subprocess.Popen(
        [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    )
    try:
        url = f"https://127.0.0.1:{port}/api/v3/aiops/"
        with httpx.Client(
            base_url=url, verify=str(certificate), trust_env=False, timeout=60, headers={"host": NAME}
        ) as client:
            deadline = time.time() + 20
            while time.time() < deadline:
                try:
                    client.get("health")
                    break
                except httpx.ConnectError:
                    assert process.poll() is None, (tmp_path / "error.log").read_text()
                    time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def own_ports(running: Running) -> list[str]:
    """Addresses that the replicas themselves listen on for HTTP."""
    replicas = [pid for pid, name in serving_processes(running).items() if "ingress" in name]
    return [at for pid in replicas for at in listening(pid) if 30000 <= int(at.rsplit(":", 1)[1]) <= 31000]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.1)


def test_the_proxy_of_the_readme_encrypts_and_hands_keys_on(
    guarded: tuple[Running, dict[str, str]], proxy: httpx.Client
) -> None:
    running, made = guarded
    assert proxy.get("health").json() == {"status": "healthy", "ready": True}
    assert proxy.post("predict/threat", json=ROW).status_code == 401
    answer = proxy.post("predict/threat", json=ROW, headers=bearer(made["predict"]))
    assert answer.status_code == 200 and answer.json()["prediction"] and answer.headers["x-request-id"]
    assert proxy.get("models/status", headers=bearer(made["predict"])).status_code == 403
    with pytest.raises(httpx.HTTPError):
        httpx.get(str(proxy.base_url).replace("https", "http") + "health", trust_env=False).raise_for_status()
    large = proxy.post(
        "predict/threat",
        content=b" " * (17 << 20),
        headers={**bearer(made["predict"]), "content-type": "application/json"},
    )
    assert large.status_code == 413 and large.headers["content-type"] == "application/problem+json"
    assert large.json()["status"] == 413 and large.headers["x-request-id"] in large.text
    # A name that is not the service's, and an address that the client claims to be.
    assert proxy.get("models/status", headers={**bearer(made["read"]), "host": "evil.example"}).status_code == 421
    body = {"action": "scale_horizontal", "resource_id": "s"}
    headers = {**bearer(made["operate"]), "x-forwarded-for": "192.0.2.1"}
    assert proxy.post("remediate", json=body, headers=headers).status_code == 200
    (entry,) = [e for e in audit.last(running.state / audit.NAME, 2) if e["phase"] == "begun"]
    assert (entry["who"], entry["address"]) == ("operate", "127.0.0.1")


def test_the_replicas_own_ports_obey_the_same_rules(guarded: tuple[Running, dict[str, str]]) -> None:
    running, made = guarded
    addresses = own_ports(running)
    assert addresses
    for url in (running.url, *(f"http://{at}" for at in addresses)):
        with httpx.Client(base_url=f"{url}/api/v3/aiops/", trust_env=False, timeout=30) as client:
            for headers, status in (
                ({}, 401),
                (bearer("aiops_x"), 401),
                (bearer(made["read"]), 403),
                (bearer(made["predict"]), 200),
            ):
                answer = client.post("predict/threat", json=ROW, headers=headers)
                assert answer.status_code == status, (url, answer.text)
                assert len(answer.headers.get_list("x-request-id")) == 1
            assert client.get("health", headers={"host": "evil.example"}).status_code == 200
            assert client.get("metrics", headers={"host": "evil.example", **bearer(made["read"])}).status_code == 421
            # A body that nobody will read does not hold the answer up.
            assert client.post("predict/threat", content=b" " * (8 << 20), headers=bearer("aiops_x")).status_code == 401


def test_keys_are_followed_without_a_restart_and_without_the_file_every_port_is_closed(
    guarded: tuple[Running, dict[str, str]],
) -> None:
    running, made = guarded
    path = running.state / "keys.json"
    content = path.read_bytes()
    urls = [f"{url}/api/v3/aiops/actions" for url in (running.url, *(f"http://{at}" for at in own_ports(running)))]

    def statuses(key: str) -> set[int]:
        return {httpx.get(url, headers=bearer(key), trust_env=False).status_code for url in urls}

    new = keys.rotate(path, "read")
    until(lambda: statuses(new) == {200})
    assert statuses(made["read"]) == {401}
    path.unlink()
    until(lambda: statuses(new) == {503})
    assert httpx.get(f"{running.url}/api/v3/aiops/health", trust_env=False).status_code == 200
    path.write_bytes(content)
    path.chmod(0o600)
    until(lambda: statuses(made["read"]) == {200})
    assert statuses(new) == {401}


def test_a_refused_promotion_and_a_done_one_are_in_the_audit_log(guarded: tuple[Running, dict[str, str]]) -> None:
    running, made = guarded
    headers = {**bearer(made["operate"]), "idempotency-key": "one"}
    url = f"{running.url}/api/v3/aiops/models/promote"
    wrong = httpx.post(url, json={"name": "threat_detector", "version": 1, "expected_version": 1}, headers=bearer(made["operate"]),
                       trust_env=False, timeout=60)  # fmt: skip
    assert wrong.status_code == 409 and "version 2" in wrong.json()["detail"]
    body = {"name": "threat_detector", "version": 2, "expected_version": 2}
    first, again = (httpx.post(url, json=body, headers=headers, trust_env=False, timeout=60) for _ in range(2))
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    log = audit.last(running.state / audit.NAME, 4)
    assert [(entry["phase"], entry.get("status")) for entry in log] == [
        ("begun", None),
        ("failed", 409),
        ("begun", None),
        ("done", 200),
    ]
    assert json.dumps(log).count(first.headers["x-request-id"]) == 1
    audit.verify(running.state / audit.NAME)
