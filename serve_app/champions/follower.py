"""The follower: the one process of a node that asks the registry, and changes it; see `serve_app.champions`."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import re
import shutil
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable, settings
from aiops_core.errors import AiopsError, ServableError, TrackingError
from aiops_core.facts import BY_MODEL
from aiops_core.redact import redacted
from serve_app.champions import neighbours
from serve_app.champions.node import LOCK, POINTER, POLL_SECONDS, read_pointer, socket_path
from serve_app.champions.verify import verify
from serve_app.files import stage_json, write_json

__all__ = ["Follower", "Refused", "listen"]

#: A registry in an unchanged SQLite file is asked this often all the same.
IDLE_SECONDS = 15.0
#: Versions of a model kept in the cache, beside the champion.
KEPT = 4

#: A champion that failed its verification is tried again this often.
REFUSED_SECONDS = 60.0
#: The cached files of the champions are compared with their digests this often.
CHECK_SECONDS = 15.0

#: Who asked for a version that was refused.
_ALIAS, _REQUEST = "alias", "request"
_log = logging.getLogger("serve_app")


class Refused(AiopsError):
    """A version that the service could not serve: nothing was promoted."""


class Follower:
    """Resolve the champions and keep their servables in the local cache.

    Parameters
    ----------
    folder : Path
        Of this node.
    tracking : module or object
        Offers ``champions, list_models, promote, rollback, register, fetch`` like `aiops_core.tracking`.
    database : Path, optional
        The registry's SQLite file: while it has not changed, it is asked only every `IDLE_SECONDS`.
    """

    def __init__(self, folder: Path, tracking: Any, database: Path | None = None) -> None:
        self._folder = folder
        self._tracking = tracking
        self._database = database
        self._stamp: tuple[tuple[int, int], ...] | None = None
        self._asked = 0.0
        self._lock = threading.Lock()
        self._retry: dict[str, float] = {}
        self._checked: dict[str, float] = {}
        self._unsaved: str | None = None
        self._content: dict[str, Any] = {"models": {}, "vacant": [], "refused": {}, "registry": {}}
        self._content.update(read_pointer(folder))
        folder.mkdir(parents=True, exist_ok=True)

    def poll(self) -> None:
        """Ask the registry once and write the pointer file; an unreachable registry changes nothing but its state."""
        with self._lock:
            models: dict[str, Any] = dict(self._content["models"])
            refused: dict[str, Any] = dict(self._content["refused"])
            vacant: list[str] = self._content["vacant"]
            error: str | None = None
            try:
                champions = self._champions()
                vacant = [name for name in BY_MODEL if name not in champions]
                for name in BY_MODEL:
                    self._follow(name, champions.get(name), models, refused)
            except (AiopsError, OSError) as reason:
                error = str(reason)
            except Exception as reason:
                # The registry's client raises many types; none may end the follower.
                error = redacted(f"{type(reason).__name__}: {reason}")
            if error is not None:
                vacant = neighbours.borrow(self._folder, self._content, models, self._retry)
            now = time.time()
            reached = now if error is None else self._content.get("registry", {}).get("reached")
            registry = {"reached": reached, "asked": now, "error": error, "pid": os.getpid()}
            self._content = {"models": models, "vacant": vacant, "refused": refused, "registry": registry}
            self._save()
            if error is None:
                self._prune(models)

    def _champions(self) -> dict[str, Any]:
        if self._database is not None and self._content["models"] and not self._database.exists():
            # A store made anew in its place would have no champions, and take every model out of service.
            raise TrackingError(f"the registry's file {self._database} is gone")
        found: dict[str, Any] = self._tracking.champions()
        return found

    def _follow(self, name: str, version: Any | None, models: dict[str, Any], refused: dict[str, Any]) -> None:
        """Bring the entry of one model up to what the registry says; what cannot be served leaves it as it is."""
        if version is None:
            if models.pop(name, None) is not None:
                _log.warning("%s has no champion in the registry any more: taken out of service", name)
            if refused.get(name, {}).get("by") == _ALIAS:
                del refused[name]
            return
        entry = _entry(version)
        known, last = models.get(name, {}), refused.get(name, {})
        by_alias = last.get("by") == _ALIAS
        if {k: known.get(k) for k in entry} == entry and self._whole(name, Path(known["folder"])):
            if by_alias:
                # The alias went back to what is served.
                del refused[name]
            return
        same = (last.get("version"), last.get("run_id")) == (entry["version"], entry["run_id"])
        if by_alias and same and time.monotonic() < self._retry.get(name, 0.0):
            return
        try:
            models[name] = self._take(name, entry)
        except (AiopsError, OSError, ValueError) as reason:
            # A network or a disk may get well within seconds, a servable hardly.
            self._retry[name] = time.monotonic() + (REFUSED_SECONDS if isinstance(reason, ServableError) else 0.0)
            refused[name] = self._refusal(name, entry, reason, _ALIAS)
        else:
            refused.pop(name, None)

    def _whole(self, name: str, folder: Path) -> bool:
        """Say whether the cached servable of a model is there, and now and then, whether it agrees with its digests."""
        if not folder.is_dir():
            return False
        if time.monotonic() < self._checked.get(name, 0.0):
            return True
        try:
            servable.check_seal(folder)
        except ServableError as reason:
            _log.warning("the copy of %s is damaged and fetched again: %s", name, reason)
            return False
        self._checked[name] = time.monotonic() + CHECK_SECONDS
        return True

    def _take(self, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch a version and verify it; returns its entry in the pointer file."""
        run = re.sub(r"[^A-Za-z0-9]", "", str(entry["run_id"]))[:8] or "none"
        target = self._folder / "servables" / f"{name}-{entry['version']}-{run}"
        fresh = not target.is_dir()
        while True:
            found = Path(self._tracking.fetch(name, int(entry["version"]), target)).resolve()
            try:
                verify(found, name, entry)
            except ServableError:
                shutil.rmtree(target, ignore_errors=True)
                if fresh:
                    raise
                # What lay in the cache may have been damaged there: once more, from the registry.
                fresh = True
                continue
            # Replicas that refused a damaged copy look at the new one.
            return {**entry, "folder": str(found), "fetched": time.time()}

    def _refusal(self, name: str, entry: Mapping[str, Any], reason: Exception, by: str) -> dict[str, Any]:
        text = redacted(str(reason)) or type(reason).__name__
        last = self._content["refused"].get(name, {})
        if (last.get("version"), last.get("reason")) != (entry["version"], text):
            _log.warning("%s version %s is refused: %s", name, entry["version"], text)
        return {"version": entry["version"], "run_id": entry["run_id"], "reason": text, "by": by}

    def _save(self) -> None:
        """Write the pointer file; on a full disk the old one stays, and the next poll tries again."""
        try:
            write_json(self._folder / POINTER, self._content)
        except OSError as error:
            if self._unsaved is None:
                _log.error("the pointer file cannot be written, replicas go on with the old one: %s", error)
            self._unsaved = str(error)
            return
        if self._unsaved is not None:
            _log.warning("the pointer file can be written again")
        self._unsaved = None

    def _prune(self, models: Mapping[str, Any]) -> None:
        used = {entry["folder"] for entry in models.values()}
        cache = self._folder / "servables"
        for name in BY_MODEL:
            folders = sorted(cache.glob(f"{name}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
            for old in [f for f in folders if str(f.resolve()) not in used][KEPT:]:
                shutil.rmtree(old, ignore_errors=True)

    def execute(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command of the socket and return the version it made champion, or the versions there are."""
        try:
            if command.get("do") == "list":
                return {"ok": [vars(v) for v in self._tracking.list_models()]}
            return {"ok": self._change(command, str(command["name"]))}
        except Refused as error:
            return {"error": str(error), "kind": "conflict"}
        except AiopsError as error:
            missing = re.search(r"not found|RESOURCE_DOES_NOT_EXIST|No run", str(error), re.IGNORECASE)
            refused = re.search(r"no earlier champion|holds no servable", str(error))
            kind = "missing" if missing else "conflict" if refused else "unreachable"
            return {"error": str(error), "kind": kind}
        except OSError as error:
            return {
                "error": f"nothing was promoted, the state folder cannot be written: {error}",
                "kind": "unreachable",
            }
        except Exception as error:
            return {"error": redacted(f"{type(error).__name__}: {error}"), "kind": "unreachable"}

    def _change(self, command: Mapping[str, Any], name: str) -> dict[str, Any]:
        what = command.get("do")
        if what == "promote":
            version = self._tracking.get_version(name, int(command["version"]))
            return self._promote(
                name, version, lambda: self._tracking.promote(name, version.version), command.get("expected")
            )
        if what == "rollback":
            version = self._tracking.previous_champion(name)
            return self._promote(name, version, lambda: self._tracking.rollback(name), command.get("expected"))
        if what != "register":
            raise ValueError(f"unknown command {what!r}")
        alias = command.get("alias")
        champion = alias == "champion"
        found = self._tracking.register(BY_MODEL[name], str(command["run_id"]), None if champion else alias)
        if not champion:
            return dict(vars(found))
        try:
            return self._promote(name, found, lambda: self._tracking.promote(name, found.version))
        except Refused as reason:
            raise Refused(f"registered as version {found.version}, without an alias: {reason}") from reason

    def _expect(self, name: str, expected: int | None) -> None:
        """Refuse a change that was decided on while another version was champion."""
        if expected is None:
            return
        current = self._tracking.champions().get(name)
        if current is None or current.version != expected:
            found = "no version" if current is None else f"version {current.version}"
            raise Refused(f"nothing was changed: {found} of {name} is champion, not version {expected}")

    def _promote(self, name: str, version: Any, move: Callable[[], Any], expected: int | None = None) -> dict[str, Any]:
        """Verify a version, then move the registry's alias to it, then the pointer; or change nothing.

        Returns
        -------
        dict
            The version, and under ``changes`` what requests and answers will be like from now on.

        Raises
        ------
        Refused
            If the service could not serve it, or another version than the expected one is champion.
        """
        with self._lock:
            served = _card(self._content["models"].get(name))
            entry = {**_entry(version), "alias": "champion"}
            try:
                taken = self._take(name, entry)
            except ServableError as reason:
                self._content["refused"] = {
                    **self._content["refused"],
                    name: self._refusal(name, entry, reason, _REQUEST),
                }
                self._save()
                raise Refused(f"version {entry['version']} of {name} cannot be served: {reason}") from reason
            content = {
                **self._content,
                "models": {**self._content["models"], name: taken},
                "vacant": [other for other in self._content["vacant"] if other != name],
                "refused": {other: r for other, r in self._content["refused"].items() if other != name},
            }
            # Written before the alias moves, so that a full disk leaves both where they were.
            try:
                staged = stage_json(self._folder / POINTER, content)
            except OSError as error:
                raise TrackingError(f"nothing was promoted: the pointer file cannot be written: {error}") from error
            try:
                # Last, because fetching and verifying took a while.
                self._expect(name, expected)
                found = move()
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            os.replace(staged, self._folder / POINTER)
            self._content = content
            return {**vars(found), "changes": servable.changes(served, _card(taken)) if served else []}

    def changed(self) -> bool:
        """Say whether the registry may have changed since it was last asked."""
        if self._database is None:
            return True
        stamp = []
        for suffix in ("", "-wal", "-journal"):
            try:
                state = os.stat(f"{self._database}{suffix}")
                stamp.append((state.st_mtime_ns, state.st_size))
            except OSError:
                stamp.append((0, 0))
        same = tuple(stamp) == self._stamp and time.monotonic() - self._asked < IDLE_SECONDS
        self._stamp = tuple(stamp)
        return not same

    def run(self, stop: threading.Event) -> None:
        """Poll until told to stop."""
        while not stop.is_set():
            if self._unsaved is not None or self.changed():
                self._asked = time.monotonic()
                self.poll()
            stop.wait(POLL_SECONDS)


def _entry(version: Any) -> dict[str, Any]:
    """Return what the pointer file says of a version, apart from its folder."""
    return {
        "version": str(version.version),
        "run_id": version.run_id,
        "alias": version.alias,
        "created": version.created,
    }


def _card(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the card of an entry of the pointer file; empty without one that can be read."""
    try:
        return servable.read_card(Path(entry["folder"])) if entry else {}
    except ServableError:
        return {}


def listen(follower: Follower, path: Path) -> socketserver.ThreadingUnixStreamServer:
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


def main(argv: list[str] | None = None) -> int:
    """Run the follower of one node until its parent is gone; at once if another one is running."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.champions.follower", description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args(argv).folder
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        from aiops_core import tracking

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
        uri = settings.load().mlflow_tracking_uri
        database = Path(uri.split("///", 1)[1]) if uri.startswith("sqlite:///") else None
        follower = Follower(folder, tracking, database)
        server = listen(follower, socket_path(folder))
        stop = threading.Event()

        def until_parent_ends() -> None:
            sys.stdin.buffer.read()
            stop.set()

        threading.Thread(target=until_parent_ends, daemon=True).start()
        follower.run(stop)
        server.shutdown()
        socket_path(folder).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
