"""Writes during the faults, and their reconciliation: none that was answered with success is lost or done twice."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import httpx

from chaos.stand import Stand

__all__ = ["Receiver", "Writes"]

PAUSE_SECONDS = 0.4
#: How long a write is tried.
AGAIN_SECONDS = 60.0
THREAT = "threat_detector"


class Receiver:
    """A webhook that counts what it is sent, by resource."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.received[body["resource_id"]] += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class Writes:
    """Execute a remediation and, now and then, a promotion, over and over, and keep what was answered.

    Every write carries an ``Idempotency-Key``, and is sent again with it until it is answered.

    Parameters
    ----------
    stand : Stand
    receiver : Receiver
    versions : sequence of int
        Of the threat detector, promoted in turn; none for no promotions.
    """

    _serial = count()

    def __init__(self, stand: Stand, receiver: Receiver, versions: list[int]) -> None:
        self._stand, self._receiver, self._versions = stand, receiver, versions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: Resource to whether the remediation was answered with success.
        self.remediated: dict[str, bool] = {}
        #: Version and whether its promotion was answered with success, oldest first.
        self.promoted: list[tuple[int, bool]] = []
        self.refused: Counter[int] = Counter()

    def __enter__(self) -> Writes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            number = next(self._serial)
            resource = f"write-{number}"
            body = {"action": "scale_horizontal", "resource_id": resource, "dry_run": False}
            self.remediated[resource] = self._send("remediate", body, resource)
            if self._versions and number % 4 == 0:
                version = self._versions[(number // 4) % len(self._versions)]
                done = self._send("models/promote", {"name": THREAT, "version": version}, f"promote-{number}")
                self.promoted.append((version, done))

    def _send(self, path: str, body: dict[str, Any], key: str) -> bool:
        """Send a write until it is answered one way or the other; says whether with success."""
        headers = {**self._stand.headers, "Idempotency-Key": key}
        options: Any = {"json": body, "headers": headers, "timeout": 70, "trust_env": False}
        deadline = time.monotonic() + AGAIN_SECONDS
        while time.monotonic() < deadline and not self._stop.is_set():
            try:
                answer = httpx.post(f"http://127.0.0.1:{self._stand.port}/api/v3/aiops/{path}", **options)
            except httpx.HTTPError:
                answer = None
            if answer is not None and not (answer.status_code == 503 or "retry-after" in answer.headers):
                if answer.status_code >= 400:
                    self.refused[answer.status_code] += 1
                return answer.status_code < 400
            time.sleep(0.3)
        return False

    def faults(self) -> list[str]:
        """Say what was lost or doubled; empty if nothing was."""
        found = []
        for resource, done in self.remediated.items():
            sent = self._receiver.received[resource]
            if done and sent == 0:
                found.append(f"{resource} was answered with success and never delivered")
            if sent > 1:
                found.append(f"{resource} was delivered {sent} times")
        # What came after the last success and got no answer may have happened or not.
        possible = set()
        for version, done in reversed(self.promoted):
            possible.add(version)
            if done:
                break
        if any(done for _, done in self.promoted):
            versions = [v for v in self._stand.get("models/versions").json()["versions"] if v["name"] == THREAT]
            champion = next((v["version"] for v in versions if v["alias"] == "champion"), None)
            if champion not in possible:
                found.append(f"version {champion} is the champion, {sorted(possible)} was promoted last")
        return found

    def __str__(self) -> str:
        done = sum(self.remediated.values()), sum(ok for _, ok in self.promoted)
        return f"{done[0]} of {len(self.remediated)} webhooks, {done[1]} of {len(self.promoted)} promotions"
