"""The documentation page: Swagger UI from the files of the package ``fastapi-offline``, so that it works without a network."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import mimetypes
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["FILES", "Docs"]

#: What the page loads.
FILES = ("docs.js", "favicon.png", "swagger-ui-bundle.js", "swagger-ui.css")
#: Nothing comes from elsewhere, no script stands in the page. Icons in Swagger UI's styles are data:.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Docs:
    """The page and its files; each is read once, when somebody asks for it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, str]] = {}

    async def page(self, request: Request) -> Response:
        """Return the page."""
        return await self._answer(
            "docs.html", request, {"cache-control": "no-cache", "content-security-policy": _POLICY}
        )

    async def file(self, request: Request) -> Response:
        """Return one of `FILES`."""
        name = request.path_params["file"]
        if name not in FILES:
            raise HTTPException(404)
        return await self._answer(name, request, {"cache-control": "public, max-age=3600"})

    async def _answer(self, name: str, request: Request, headers: dict[str, str]) -> Response:
        """Return a file, or 304 to a browser that has it."""
        if name not in self._kept:
            content = await asyncio.to_thread(_read, name)
            self._kept[name] = content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        content, tag = self._kept[name]
        headers |= {"etag": tag, "x-content-type-options": "nosniff"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])


def _read(name: str) -> bytes:
    own = Path(__file__).with_name("static") / name
    if own.is_file():
        return own.read_bytes()
    # Found without importing the package, which would import FastAPI.
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None and spec.origin is not None, "fastapi-offline is a dependency of the project"
    return (Path(spec.origin).with_name("static") / name).read_bytes()
