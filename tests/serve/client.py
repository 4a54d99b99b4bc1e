"""A tiny ASGI client: one request, no socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

PREFIX = "/api/v3/aiops"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    every_header: list[tuple[str, str]] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Call an ASGI application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        chunks: int = 1,
    ) -> Answer:
        """Send one request; a body that is not bytes is sent as JSON. Paths without a slash lie below the prefix."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", "content-length": str(len(raw))} if method == "POST" else {}
        sent = {"host": "localhost", **sent, **(headers or {})}
        size = max(1, -(-len(raw) // chunks))
        parts = [raw[i : i + size] for i in range(0, len(raw), size)] or [b""]
        incoming = [
            {"type": "http.request", "body": part, "more_body": i < len(parts) - 1} for i, part in enumerate(parts)
        ]
        outgoing: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop(0)
            # Like a server with a client that waits for its answer.
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            outgoing.append(dict(message))

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path if path.startswith("/") else f"{PREFIX}/{path}",
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in sent.items()],
        }
        asyncio.run(self.app(scope, receive, send))
        start, *rest = outgoing
        every = [(k.decode().lower(), v.decode()) for k, v in start["headers"]]
        return Answer(start["status"], dict(every), b"".join(m.get("body", b"") for m in rest), every)

    def get(self, path: str, **kwargs: Any) -> Answer:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> Answer:
        return self.request("POST", path, body, **kwargs)
