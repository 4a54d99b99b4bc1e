"""Who is calling, and may they? Asked once a request, before its body is read.

What a request costs here are three look-ups in dictionaries: the name that it calls the service by, its key and its scope. The
keys file is looked at by a thread, once a second.

Without a keys file everything is allowed as long as nobody but this machine can reach the service. Where others can, or
once keys were read, a file that is missing or damaged closes the service until it is back: it never opens it.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiops_core.errors import UsageError
from serve_app.guard import keys
from serve_app.guard.rates import Bucket, Failures
from serve_app.wire.problems import Problem

__all__ = ["ANY", "KEY", "MARKER", "PUBLIC", "Caller", "Guard", "is_loopback"]

#: What a route needs, beside the scopes: nothing, or any key at all.
PUBLIC, ANY = "", "any"
#: Where the scope of a request holds the name of its key, for the log and the metrics.
KEY = "aiops.key"
#: File of the state folder that says that keys were read once.
MARKER = "keyed"
LOOK_SECONDS = 1.0
#: The names of the loopback interface.
_LOCAL = ("localhost", "127.0.0.1", "::1")
_BEARER = re.compile(rb"bearer +([\x21-\x7e]{1,256})", re.IGNORECASE)
#: An IPv6 address in brackets or a name, which may end in a dot, and a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]*?)\.?)(?::\d{1,5})?")
#: Spellings of allowed names that are remembered: clients may put any port behind one.
_SPELLINGS = 1000
_log = logging.getLogger("serve_app")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes
    ----------
    name : str or None
        Of the key; None while no keys are needed.
    scopes : frozenset of str
        What it may do.
    """

    name: str | None
    scopes: frozenset[str]
    key: keys.Key | None = None
    bucket: Bucket | None = None


_EVERYBODY = Caller(None, frozenset((*keys.SCOPES, ANY)))


@dataclass
class _State:
    """What the keys file said last; replaced as a whole, so that a request sees one of them."""

    #: Callers by digest; None while the service is closed.
    callers: Mapping[str, Caller] | None
    #: Callers by the value of their header, as far as they have come by; without keys, everybody is known.
    known: dict[bytes | None, Caller] = field(default_factory=dict)
    open: bool = False
    reason: str = ""


class Guard:
    """Decide on requests.

    Parameters
    ----------
    path : Path
        Keys file; it need not exist.
    host : str, default "127.0.0.1"
        Address that the service listens on.
    allowed : iterable of str
        Names that requests may call it by, beside those of the loopback interface and `host`; ``*`` for any.
    keyed : bool, default False
        Whether keys are needed on the loopback interface too, because there were some when the service started.
    marker : Path, optional
        File that is made when keys are read: while it is there keys are needed, whatever became of the keys file.
    replicas : int, default 1
        Replicas that share the rates of the keys; each allows its part.
    metrics_open : bool, default False
        Whether the metrics need no key.
    """

    def __init__(
        self,
        path: Path,
        *,
        host: str = "127.0.0.1",
        allowed: Iterable[str] = (),
        keyed: bool = False,
        marker: Path | None = None,
        replicas: int = 1,
        metrics_open: bool = False,
    ) -> None:
        self._path = path
        self._marker = marker
        self._required = keyed or not is_loopback(host) or (marker is not None and marker.exists())
        self._replicas = replicas
        self.metrics_open = metrics_open
        self._names = {name.lower() for name in (*_LOCAL, host, *allowed)}
        self._spellings: set[bytes] = set()
        self._failures = Failures()
        self._stamp: tuple[int, ...] | None = None
        self._state = _State(None)
        self._stop = threading.Event()
        self.look()

    @property
    def closed(self) -> str | None:
        """Why the service is closed; None if it is not."""
        return self._state.reason or None

    def start(self) -> None:
        """Look at the keys file every second from now on."""
        threading.Thread(target=self._run, name="aiops-keys", daemon=True).start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Read the keys file if it has changed."""
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._install(keys.read(self._path))
        except FileNotFoundError:
            self._stamp = None
            if self._required:
                self._shut(f"there is no keys file {self._path}")
            else:
                self._state = _State({}, {None: _EVERYBODY}, open=True)
        except (UsageError, OSError) as error:
            self._required = True
            self._shut(str(error))

    def _install(self, found: Iterable[keys.Key]) -> None:
        before = {} if self._state.callers is None else self._state.callers
        callers = {}
        for key in found:
            same = before.get(key.sha256)
            callers[key.sha256] = same if same is not None and same.key == key else self._caller(key)
        if self._state.reason:
            _log.warning("the keys file can be read again: the service is open to those it names")
        self._required = True
        self._state = _State(callers)
        self._mark()

    def _mark(self) -> None:
        """Leave word for replicas that start later; without room on the disk those that run know it all the same."""
        if self._marker is None or self._marker.exists():
            return
        try:
            self._marker.touch(mode=0o600)
        except OSError as error:
            _log.error("it cannot be kept in mind that keys are needed: %s", error)

    def _caller(self, key: keys.Key) -> Caller:
        bucket = None
        if key.rate is not None:
            bucket = Bucket(key.rate / self._replicas, (key.burst or 2 * key.rate) / self._replicas)
        return Caller(key.name, frozenset((*key.scopes, ANY)), key, bucket)

    def _shut(self, reason: str) -> None:
        if self._state.reason != reason:
            # Said once, not every second.
            _log.error("the service is closed: %s", reason)
        self._state = _State(None, reason=reason)

    def check(self, scope: MutableMapping[str, Any], needed: str) -> Caller:
        """Return who sent a request.

        Parameters
        ----------
        scope : mapping
            Of ASGI; gets the name of the key.
        needed : {"read", "predict", "operate", "any"}
            Scope that the route needs.

        Raises
        ------
        Problem
            421 for a name that is not this service's, 401 without a valid key, 403 if it lacks the scope, 429 if it asks too
            often, 503 while the service is closed.
        """
        headers = scope["headers"]
        given = dict(headers)
        if len(given) < len(headers):
            _check_single(headers)
        host, token = given.get(b"host"), given.get(b"authorization")
        if host not in self._spellings:
            self._check_host(host)
        state = self._state
        caller = state.known.get(token)
        if caller is None:
            caller = self._identify(state, token, scope)
        if caller.name is not None:
            scope[KEY] = caller.name
        if needed not in caller.scopes:
            raise Problem(403, f"this key lacks the scope '{needed}'")
        if caller.bucket is not None:
            wait = caller.bucket.take(time.monotonic())
            if wait:
                raise _too_often("this key asks too often", wait)
        return caller

    def may(self, scope: MutableMapping[str, Any], needed: str) -> bool:
        """Say whether a request would be let through."""
        try:
            self.check(scope, needed)
        except Problem:
            return False
        return True

    def _check_host(self, host: bytes | None) -> None:
        """Refuse names that are not this service's: a page whose name was made to point here must not reach it."""
        if "*" in self._names:
            return
        text = (host or b"").decode("latin-1").lower()
        match = _HOST.fullmatch(text)
        if host is None or match is None or (match[1] or match[2]) not in self._names:
            raise Problem(421, f"this service is not called {text[:100]!r}: name it in AIOPS_ALLOWED_HOSTS")
        if len(self._spellings) < _SPELLINGS:
            self._spellings.add(host)

    def _identify(self, state: _State, token: bytes | None, scope: Mapping[str, Any]) -> Caller:
        """Return whose key a header holds."""
        if state.open:
            return _EVERYBODY
        if state.callers is None:
            raise Problem(503, "the service is closed: its keys file is missing or damaged")
        if token is None:
            raise _unknown()
        match = _BEARER.fullmatch(token)
        if match is not None:
            presented = keys.digest(match[1])
            caller = state.callers.get(presented)
            if caller is not None and caller.key is not None and hmac.compare_digest(caller.key.sha256, presented):
                # One spelling of each: others would be a way to fill the memory.
                if token == b"Bearer " + match[1]:
                    state.known[token] = caller
                return caller
        client = scope.get("client")
        wait = self._failures.take(client[0] if client else "")
        if wait:
            raise _too_often("too many wrong keys from this address", wait)
        raise _unknown()


def _check_single(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a header that decides and comes twice: whoever stands in front may have believed the other one."""
    names = [name for name, _ in headers]
    for name in (b"authorization", b"host"):
        if names.count(name) > 1:
            raise Problem(400, f"send one header {name.decode().title()}, not several")


def _unknown() -> Problem:
    return Problem(401, "send a valid key: Authorization: Bearer aiops_…", headers=[(b"www-authenticate", b"Bearer")])


def _too_often(what: str, wait: float) -> Problem:
    seconds = max(1, math.ceil(wait))
    return Problem(429, f"{what}: try again in {seconds} s", headers=[(b"retry-after", b"%d" % seconds)])


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
