"""The socket of the follower: one command a line, one answer a line."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from pathlib import Path
from typing import Any

__all__ = ["listen"]


def listen(follower: Any, path: Path) -> socketserver.ThreadingUnixStreamServer:
    """Carry out the commands that arrive at a socket, one JSON object a line, until the server is shut down."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline(1 << 20)
            try:
                answer = follower.execute(json.loads(line))
            except (ValueError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}", "kind": "internal"}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    path.unlink(missing_ok=True)
    old = os.umask(0o177)
    try:
        server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    finally:
        os.umask(old)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="aiops-follower-socket", daemon=True).start()
    return server
