"""Problem details (RFC 9457): what a client is told when its request cannot be answered."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["TYPE", "Problem", "busy", "invalid"]

TYPE = b"application/problem+json"

_TITLES = {
    400: "Bad request",
    401: "No valid key",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported content type",
    421: "Wrong host",
    422: "Invalid request",
    429: "Too many requests",
    431: "Header too large",
    499: "Client hung up",
    500: "Internal error",
    502: "Webhook failed",
    503: "Not available",
}


class Problem(Exception):
    """An answer other than success.

    Parameters
    ----------
    status : int
        HTTP status.
    detail : str
        One sentence: what is wrong and what to do.
    errors : list of dict, optional
        ``{"path": "$.metrics.cpu_usage", "rule": "..."}`` for every place that breaks a rule.
    headers : list of (bytes, bytes), optional
        Extra response headers.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: list[dict[str, str]] | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or []

    def __reduce__(self) -> tuple[Any, ...]:
        # Crosses process borders when the models run in deployments of their own.
        return (Problem, (self.status, self.detail, self.errors, self.headers))

    def body(self, instance: str) -> bytes:
        """Render the problem as JSON.

        Parameters
        ----------
        instance : str
            Path of the request.
        """
        return msgspec.json.encode(self.content(instance))

    def content(self, instance: str) -> dict[str, Any]:
        """Return the members of the problem, see `body`."""
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            content["errors"] = self.errors
        return content


def busy(why: str) -> Problem:
    """Return the 503 that asks to come again."""
    return Problem(503, f"too much at once: {why}; try again", headers=[(b"retry-after", b"1")])


def invalid(path: str, rule: str) -> Problem:
    """Return the 422 for one place that breaks one rule."""
    return Problem(422, f"{path}: {rule}", [{"path": path, "rule": rule}])
