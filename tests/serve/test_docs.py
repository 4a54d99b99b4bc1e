"""The documentation page: what it is allowed to load, and in a real browser that it shows and tries every route."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import websocket
from client import Client
from conftest import Service, free_port, point

from aiops_core.facts import MODELS
from serve_app.guard import keys
from serve_app.http.docs import FILES
from serve_app.http.routes import PREFIX, ROUTES


@pytest.mark.parametrize("path", ["/docs", "docs"])
def test_the_page_loads_its_own_files_and_nothing_else(client: Client, path: str) -> None:
    page = client.get(path)
    text = page.body.decode()
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {"schema", *(f"docs/{name}" for name in FILES)} == set(loaded)
    folder = path.rpartition("/")[0]
    for name in loaded:
        assert client.get(f"{folder}/{name}" if folder or path.startswith("/") else name).status == 200


def test_the_policy_allows_no_script_but_files_of_the_service(client: Client) -> None:
    page = client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert re.findall(r"<script[^>]*>(.+?)</script>| on\w+=", page.body.decode()) == []


def test_the_files_are_kept_by_the_browser_and_asked_for_again_by_their_tag(client: Client) -> None:
    kinds = {
        "docs.js": "javascript",
        "swagger-ui-bundle.js": "javascript",
        "swagger-ui.css": "css",
        "favicon.png": "png",
    }
    for name in FILES:
        answer = client.get(f"/docs/{name}")
        assert answer.status == 200 and kinds[name] in answer.headers["content-type"]
        assert answer.headers["cache-control"] == "public, max-age=3600"
        again = client.get(f"/docs/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = client.request("HEAD", f"/docs/{name}")
        assert (head.body, head.headers["content-length"]) == (b"", str(len(answer.body)))
    assert client.get("/docs").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name", ["redoc.standalone.js", "docs.html", "..%2fdocs.py", "../docs.py", "docs.py", "%00", ""]
)
def test_no_other_file_is_given_away(client: Client, name: str) -> None:
    answer = client.get(f"/docs/{name}")
    assert answer.status == 404 and answer.headers["content-type"] == "application/problem+json"


class Browser:
    """A tab of a headless browser, driven by its DevTools protocol."""

    def __init__(self, port: int) -> None:
        tabs = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = websocket.create_connection(url, timeout=30, suppress_origin=True)
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; what happens meanwhile is kept in `events`."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv())
            if message.get("id") == self._last:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> Any:
        """Return the value of an expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < deadline, f"{script} never came true: {self.events[-5:]}"
            time.sleep(0.1)
        return found

    def execute(self, block: str) -> None:
        """Press Execute of a route once its answers are described, and wait for one: sooner, the page knows no route."""
        self.wait(f'!!document.querySelector("{block} .responses-inner .response")')
        self.value(f'document.querySelector("{block} .execute").click()')
        self.wait(f'!!document.querySelector("{block} .live-responses-table .response-col_status")')

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A headless browser without a page."""
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("chromium is not installed")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    with open(tmp_path / "chromium.log", "wb") as log:
        process = subprocess.Popen(
            [binary, *options, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        port = tmp_path / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port.is_file() or not port.read_text().strip():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "chromium.log").read_text()
            time.sleep(0.1)
        found = Browser(int(port.read_text().split()[0]))
        yield found
        found.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Put a service on a port of the loopback interface."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(service.api, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(shared: Service) -> Iterator[str]:
    """Address of the shared service."""
    with listening(shared) as found:
        yield found


@pytest.mark.slow
def test_a_browser_shows_every_route_breaks_no_policy_and_tries_a_prediction(browser: Browser, address: str) -> None:
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    listen = "violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective))"
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=listen)
    browser.call("Page.navigate", url=f"{address}/docs")
    browser.wait("document.querySelectorAll('.opblock').length")
    shown = browser.value(
        "[...document.querySelectorAll('.opblock')].map(e => e.querySelector('.opblock-summary-method').innerText + ' ' + "
        "e.querySelector('.opblock-summary-path').dataset.path)"
    )
    assert sorted(shown) == sorted(f"{route.method} {route.shown}" for route in ROUTES)

    block = f".opblock:has([data-path='{PREFIX}/predict/threat'])"
    browser.value(f'document.querySelector("{block} .opblock-summary-control").click()')
    browser.wait(f'!!document.querySelector("{block} .execute")')
    sent = f'document.querySelector("{block} textarea")?.value'
    assert "failed_auth_count" in browser.wait(sent)
    browser.execute(block)
    answer = browser.value(f'document.querySelector("{block} .live-responses-table").innerText')
    assert answer and re.search(r"\b200\b", answer) and "attack_probability" in answer

    assert browser.value("violations") == []
    assert [e for e in browser.events if e["params"].get("entry", {}).get("level") == "error"] == []
    asked = {e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    assert asked and all(url.startswith((f"{address}/", "data:", "blob:")) for url in asked), asked
    # A script in the page would have been noticed.
    browser.value("document.body.append(Object.assign(document.createElement('script'), {text: 'done = 1'}))")
    browser.wait("violations.includes('script-src-elem')")
    assert browser.value("typeof done") == "undefined"


@pytest.fixture
def guarded(make_service: Callable[..., Service], servables: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Address of a service that needs keys, and one that may read and predict."""
    state = make_service().state
    point(state, {MODELS["threat"]: (servables["threat"], "1")})
    key = keys.add(state / "keys.json", "reader", ["read", "predict"])
    with listening(make_service()) as found:
        yield found, key


@pytest.mark.slow
def test_the_page_takes_a_key_and_sends_it_with_what_is_tried_out(browser: Browser, guarded: tuple[str, str]) -> None:
    address, key = guarded
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    browser.call("Page.navigate", url=f"{address}/docs")
    browser.wait("document.querySelectorAll('.opblock').length")
    features = "JSON.stringify(page.specSelectors.specJson().toJS()).includes('port_scan_score')"
    assert browser.value(features) is False
    browser.value("document.querySelector('.btn.authorize').click()")
    browser.wait("!!document.querySelector('.auth-container input')")
    browser.value(
        "(() => { const input = document.querySelector('.auth-container input');"
        f"Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, '{key}');"
        "input.dispatchEvent(new Event('input', {bubbles: true})) })()"
    )
    browser.value("document.querySelector('.auth-btn-wrapper .authorize').click()")
    browser.wait(features)
    browser.value("document.querySelector('.btn-done').click()")
    block = f".opblock:has([data-path='{PREFIX}/models/status'])"
    browser.value(f'document.querySelector("{block} .opblock-summary-control").click()')
    browser.wait(f'!!document.querySelector("{block} .execute")')
    browser.execute(block)
    answer = browser.value(f'document.querySelector("{block} .live-responses-table").innerText')
    assert re.search(r"\b200\b", answer) and "threat_detector" in answer
    # Nowhere that outlives the page.
    assert browser.value("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie") == "{}{}"
