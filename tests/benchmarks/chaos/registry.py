"""An MLflow server that can be stopped, slowed down and made to fail."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from chaos.stand import free_port, wait

__all__ = ["Registry"]


class Registry:
    """An MLflow server behind a small proxy.

    Parameters
    ----------
    folder : Path
        With ``mlflow.db`` and ``artifacts``.

    Attributes
    ----------
    uri : str
        Of the proxy.
    mode : {"pass", "slow", "fail"}
        What the proxy does with a call: pass it on, pass it on after `delay` seconds, or answer 500.
    """

    def __init__(self, folder: Path, delay: float = 10.0) -> None:
        self._folder, self.delay, self.mode = folder, delay, "pass"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        outer, client = self, httpx.Client(trust_env=False, timeout=60)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if outer.mode == "slow":
                    time.sleep(outer.delay)
                status, content = 500, b'{"error_code": "INTERNAL_ERROR", "message": "made to fail"}'
                if outer.mode != "fail":
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                    with contextlib.suppress(httpx.HTTPError):
                        url = f"http://127.0.0.1:{outer._port}{self.path}"
                        answer = client.request(self.command, url, content=body, headers=headers)
                        status, content = answer.status_code, answer.content
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                return None

        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._proxy.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def __enter__(self) -> Registry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._proxy.shutdown()
        self._proxy.server_close()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "MLFLOW_TRACKING_URI": "",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        url = f"http://127.0.0.1:{self._port}/health"
        wait(lambda: httpx.get(url, trust_env=False, timeout=2).status_code == 200, 90, "the MLflow server")

    def stop(self) -> None:
        """End the server: nothing listens behind the proxy any more."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._process = None
