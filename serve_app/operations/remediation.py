"""Recommended actions and the signed webhooks behind them.

`actions.toml` is the catalogue. `Remediator.execute` posts a JSON body to the webhook configured for an action, with the
header ``X-AIOps-Signature: sha256=<hex>``: the HMAC-SHA256 of ``<X-AIOps-Timestamp>.<body>`` under
``AIOPS_WEBHOOK_SECRET``. Receivers should refuse old timestamps, and ids they have seen: a delivery whose answer was lost
is sent again with the same ``id``. It stands in the body, which is signed; ``X-AIOps-Delivery`` only repeats it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib import error as urlerror
from urllib import request as urlrequest
from urllib.parse import urlsplit

from aiops_core.redact import redacted
from serve_app.operations import tracing
from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem

__all__ = ["Action", "Remediator", "catalogue", "sign"]

ATTEMPTS = 3
TIMEOUT_SECONDS = 5.0
#: Waits between attempts, seconds.
PAUSES = (0.2, 1.0)


@dataclass(frozen=True)
class Action:
    """One entry of the catalogue."""

    id: str
    does: str
    when: str


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Action]:
    """Read `actions.toml`, once."""
    path = Path(__file__).with_name("actions.toml")
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return {key: Action(key, entry["does"], entry["when"]) for key, entry in content.items()}


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the signature header.

    Examples
    --------
    >>> sign("key", "1700000000", b"{}")[:14]
    'sha256=9d713ed'
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class _NoRedirect(urlrequest.HTTPRedirectHandler):
    """A signed body goes to the configured address and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Remediator:
    """Execute actions of the catalogue through webhooks.

    Parameters
    ----------
    webhooks : mapping of str to str
        URL by action id.
    secret : str or None
        Key of the signature; without one nothing is sent.
    metrics : Metrics
    """

    def __init__(self, webhooks: Mapping[str, str], secret: str | None, metrics: Metrics) -> None:
        self._webhooks = dict(webhooks)
        self._secret = secret
        self._metrics = metrics

    def reaches(self, action: str) -> bool:
        """Say whether a webhook is configured for an action, and signed."""
        return action in self._webhooks and bool(self._secret)

    async def execute(
        self, action: str, resource_id: str, *, dry_run: bool, reason: str | None, request_id: str | None
    ) -> dict[str, Any]:
        """Post the signed body of an action, or say what would be posted.

        Raises
        ------
        Problem
            404 for an action that is not in the catalogue, 409 when no webhook or no secret is configured, 502 when
            the webhook failed in every attempt.
        """
        known = catalogue()
        if action not in known:
            raise Problem(404, f"action {action!r} is not in the catalogue: {', '.join(known)}")
        url = self._webhooks.get(action)
        content = _content(known[action], resource_id, reason, request_id)
        answer = {
            "action": action,
            "resource_id": resource_id,
            "dry_run": dry_run,
            "webhook": _host(url),
            "body": content,
        }
        if dry_run:
            return {**answer, "status": "dry_run", "attempts": 0}
        if url is None:
            self._refused(action, "no_webhook")
            raise Problem(409, f"no webhook is configured for action {action!r}: set AIOPS_WEBHOOKS")
        if not self._secret:
            self._refused(action, "no_secret")
            raise Problem(409, "webhook bodies cannot be signed: set AIOPS_WEBHOOK_SECRET")
        body = json.dumps(content).encode()
        outcome = ""
        for attempt in range(1, ATTEMPTS + 1):
            status, outcome = await asyncio.to_thread(_post, url, body, self._secret, content["id"])
            if 200 <= status < 300:
                self._metrics.counter("aiops_remediations_executed_total", action=action).inc()
                return {**answer, "status": "executed", "http_status": status, "attempts": attempt}
            # Repeating what the receiver refused (4xx, a redirect) would not change its mind.
            if 300 <= status < 500 and status not in (408, 429):
                break
            if attempt < ATTEMPTS:
                await asyncio.sleep(PAUSES[attempt - 1])
        self._refused(action, "failed")
        raise Problem(502, f"the webhook of action {action!r} failed after {attempt} attempts: {outcome}")

    def _refused(self, action: str, reason: str) -> None:
        self._metrics.counter("aiops_remediations_refused_total", action=action, reason=reason).inc()


def _content(action: Action, resource_id: str, reason: str | None, request_id: str | None) -> dict[str, Any]:
    """Return the body of a delivery, with an id of its own."""
    return {
        "id": uuid.uuid4().hex,
        "action": action.id,
        "does": action.does,
        "resource_id": resource_id,
        "reason": reason,
        "request_id": request_id,
        "sent_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _host(url: str | None) -> str | None:
    """Return scheme and host only: the path of a webhook is often its password."""
    if url is None:
        return None
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}"


def _post(url: str, body: bytes, secret: str, delivery: str) -> tuple[int, str]:
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "aiops-remediation",
        "X-AIOps-Delivery": delivery,
        "X-AIOps-Timestamp": timestamp,
        "X-AIOps-Signature": sign(secret, timestamp, body),
    }
    # Runs in a thread with the context of the request.
    if (trace := tracing.current.get()) is not None:
        headers["traceparent"] = trace.header
    # An explicit empty proxy handler: internal webhooks must not leave through a proxy of the environment.
    opener = urlrequest.build_opener(_NoRedirect, urlrequest.ProxyHandler({}))
    try:
        with opener.open(urlrequest.Request(url, body, headers, method="POST"), timeout=TIMEOUT_SECONDS) as answer:
            return int(answer.status), f"status {answer.status}"
    except urlerror.HTTPError as error:
        error.close()
        return error.code, f"status {error.code}"
    except (ValueError, HTTPException) as error:
        # Their texts may hold the address, or what was answered instead of HTTP.
        return 0, type(error).__name__
    except OSError as error:
        return 0, redacted(f"{type(error).__name__}: {getattr(error, 'reason', error)}")
