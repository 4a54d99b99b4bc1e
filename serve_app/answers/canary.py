"""A version that answers a share of the requests, and the guard rails that take it out by themselves.

Which requests are its own is fixed by a hash of the resource they name (or the source address, or else of the whole body):
a resource hears one version as long as nothing is changed. What the canary fails or refuses and the champion answers, the client gets
from the champion, and it speaks against the canary: `MOST_ERRORS` times, or `MOST_REFUSALS` times and in more than
`REFUSED_SHARE` of its requests, and it is out. So it is when its median time exceeds the champion's more than
`SLOWER` times.
"""

from __future__ import annotations

import statistics
from collections import deque
from hashlib import blake2b
from typing import Any

import msgspec

from serve_app.operations.telemetry import Metrics
from serve_app.wire.problems import Problem

__all__ = ["Canary"]

MOST_ERRORS = 3
MOST_REFUSALS, REFUSED_SHARE = 5, 0.01
#: Of the median time, beyond as many seconds, of the last answers of each.
SLOWER, SLACK_SECONDS, LAST = 2.0, 0.002, 200
#: Answers between two looks at the times.
EVERY = 50


class _Named(msgspec.Struct):
    resource_id: Any = None
    source_ip: Any = None


_NAMED = msgspec.json.Decoder(_Named)


class Canary:
    """The canary of one task.

    Parameters
    ----------
    champion : Champion
        The version.
    model : Any
        What `Service.prepare` made of it.
    share : float
        Of the requests, 0 to 1.
    metrics : Metrics

    Attributes
    ----------
    stopped : str
        Why it answers no more; empty while it does.
    """

    def __init__(self, champion: Any, model: Any, share: float, metrics: Metrics) -> None:
        self.champion = champion
        self.model = model
        self.share = share
        self.stopped = ""
        # Another canary is tried on other resources.
        self._key = f"{champion.name}/{champion.version}".encode()[-64:]
        self._edge = round(share * 2**32)
        self._own: deque[float] = deque(maxlen=LAST)
        self._others: deque[float] = deque(maxlen=LAST)
        self._counts = {"answered": 0, "error": 0, "refused": 0}
        self._slots = {
            result: metrics.counter("aiops_canary_total", model=champion.name, result=result) for result in self._counts
        }

    def takes(self, body: bytes) -> bool:
        """Say whether it is to answer this instance."""
        if self.stopped:
            return False
        try:
            named = _NAMED.decode(body)
            subject = named.resource_id if named.resource_id is not None else named.source_ip
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            subject = None
        said = body if subject is None else str(subject).encode("utf-8", "replace")
        return int.from_bytes(blake2b(said, digest_size=4, key=self._key).digest(), "big") < self._edge

    def answered(self, instances: int = 1, seconds: float | None = None) -> None:
        """Count what it answered; ``seconds`` if it was a single request."""
        self._count("answered", instances)
        if seconds is not None:
            self._own.append(seconds)
            if self._counts["answered"] % EVERY == 0:
                self._compare()

    def beside(self, seconds: float) -> None:
        """Take note of what the champion took for a single request."""
        self._others.append(seconds)

    def failed(self, error: Exception, instances: int = 1) -> None:
        """Count what it could not answer and the champion could."""
        kind = "refused" if isinstance(error, Problem) else "error"
        self._count(kind, instances)
        asked = sum(self._counts.values())
        errors, refused = self._counts["error"], self._counts["refused"]
        if errors >= MOST_ERRORS:
            self._stop(f"{errors} of {asked} requests failed that the champion answered, the last with {_short(error)}")
        elif refused >= MOST_REFUSALS and refused > REFUSED_SHARE * asked:
            self._stop(f"{refused} of {asked} requests were refused that the champion answered: {_short(error)}")

    def _count(self, result: str, instances: int) -> None:
        self._counts[result] += instances
        self._slots[result].inc(instances)

    def _compare(self) -> None:
        if len(self._own) < LAST or len(self._others) < LAST:
            return
        own, other = statistics.median(self._own), statistics.median(self._others)
        if own > SLOWER * other + SLACK_SECONDS:
            self._stop(f"it takes {1e3 * own:.1f} ms, the champion {1e3 * other:.1f} ms (medians of {LAST} requests)")

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why


def _short(error: Exception) -> str:
    text = error.detail if isinstance(error, Problem) else type(error).__name__
    return text[:200]
