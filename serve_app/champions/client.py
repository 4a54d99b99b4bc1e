"""Changes to the registry, asked of the node's follower over its socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from serve_app.champions.node import socket_path
from serve_app.wire.problems import Problem

__all__ = ["Registry"]


class Registry:
    """Changes to the registry, carried out by the node's follower.

    Parameters
    ----------
    folder : Path
        Of this node.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def ask(self, **command: Any) -> Any:
        """Send one command and return its result.

        Raises
        ------
        Problem
            404 unknown version or run, 409 refused, 503 if the registry or the follower cannot be reached.
        """
        sent = False
        try:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_unix_connection(str(socket_path(self._folder)), limit=1 << 24)
                sent = True
                writer.write(json.dumps(command).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
                writer.close()
        except (OSError, TimeoutError, ValueError) as error:
            # Nobody was asked, so nothing was done: it may be tried again.
            headers = [] if sent else [(b"retry-after", b"1")]
            raise Problem(
                503, f"the registry cannot be reached: {error or type(error).__name__}", None, headers
            ) from None
        if "ok" in answer:
            return answer["ok"]
        status = {"missing": 404, "conflict": 409}.get(answer.get("kind"), 503)
        raise Problem(status, str(answer["error"]))
