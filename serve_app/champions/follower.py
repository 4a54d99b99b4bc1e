"""The follower: the one process of a node that asks the registry, and changes it; see `serve_app.champions`."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable, settings
from aiops_core.errors import AiopsError, ServableError, TrackingError
from aiops_core.facts import BY_MODEL
from aiops_core.redact import redacted
from serve_app.champions import neighbours
from serve_app.champions.commands import ALIAS, Commands, Refused, entry_of
from serve_app.champions.companions import ALIASES, Stopped, parts, slot
from serve_app.champions.listening import listen
from serve_app.champions.node import LOCK, POINTER, POLL_SECONDS, read_pointer, socket_path
from serve_app.champions.verify import verify
from serve_app.files import write_json

__all__ = ["Follower", "Refused", "listen"]

#: A registry in an unchanged SQLite file is asked this often all the same.
IDLE_SECONDS = 15.0
#: Versions of a model kept in the cache, beside the champion.
KEPT = 4

#: A champion that failed its verification is tried again this often.
REFUSED_SECONDS = 60.0
#: The cached files of the champions are compared with their digests this often.
CHECK_SECONDS = 15.0

_log = logging.getLogger("serve_app")


class Follower(Commands):
    """Resolve the champions and keep their servables in the local cache.

    Parameters
    ----------
    folder : Path
        Of this node.
    tracking : module or object
        Offers ``champions, companions, list_models, promote, rollback, register, fetch, set_companion, remove_companion``
        like `aiops_core.tracking`.
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
        self._content: dict[str, Any] = {"models": {}, "companions": {}, "vacant": [], "refused": {}, "registry": {}}
        self._content.update(read_pointer(folder))
        # The state folder holds the folders of its nodes.
        self._stopped = Stopped(tracking, folder.parent.parent, self._content.get("stopped", {}))
        folder.mkdir(parents=True, exist_ok=True)

    def poll(self) -> None:
        """Ask the registry once and write the pointer file; an unreachable registry changes nothing but its state."""
        with self._lock:
            models: dict[str, Any] = dict(self._content["models"])
            refused: dict[str, Any] = dict(self._content["refused"])
            companions: dict[str, Any] = dict(self._content["companions"])
            vacant: list[str] = self._content["vacant"]
            error: str | None = None
            try:
                champions = self._champions()
                vacant = [name for name in BY_MODEL if name not in champions]
                for name in BY_MODEL:
                    self._follow(name, champions.get(name), models, refused)
                beside = self._tracking.companions()
                for name in BY_MODEL:
                    self._follow_beside(name, champions.get(name), beside.get(name, {}), companions, refused)
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
            self._content = {
                "models": models,
                "companions": companions,
                "vacant": vacant,
                "refused": refused,
                "registry": registry,
            }
            self._save()
            if error is None:
                self._prune([*models.values(), *companions.values()])

    def _champions(self) -> dict[str, Any]:
        if self._database is not None and self._content["models"] and not self._database.exists():
            # A store made anew in its place would have no champions, and take every model out of service.
            raise TrackingError(f"the registry's file {self._database} is gone")
        found: dict[str, Any] = self._tracking.champions()
        return found

    def _follow_beside(
        self,
        name: str,
        champion: Any | None,
        beside: Mapping[str, Any],
        companions: dict[str, Any],
        refused: dict[str, Any],
    ) -> None:
        """Bring the companions of one champion up to what the registry says."""
        for alias in ALIASES:
            place, version = slot(name, alias), beside.get(alias)
            out = self._stopped.holds(place, version) or champion is None
            same = version is not None and champion is not None and version.version == champion.version
            self._follow(place, None if out or same else version, companions, refused)

    def _follow(self, name: str, version: Any | None, models: dict[str, Any], refused: dict[str, Any]) -> None:
        """Bring the entry of one model up to what the registry says; what cannot be served leaves it as it is."""
        if version is None:
            if models.pop(name, None) is not None:
                what = parts(name)[1] or "champion"
                _log.warning("%s has no %s in the registry any more: taken out of service", parts(name)[0], what)
            if refused.get(name, {}).get("by") == ALIAS:
                del refused[name]
            return
        entry = entry_of(version)
        known, last = models.get(name, {}), refused.get(name, {})
        by_alias = last.get("by") == ALIAS
        if {k: known.get(k) for k in entry} == entry and self._whole(name, Path(known["folder"])):
            if by_alias:
                # The alias went back to what is served.
                del refused[name]
            return
        asked = (entry["version"], entry["run_id"], _number(entry))
        same = (last.get("version"), last.get("run_id"), last.get("recalibration")) == asked
        if by_alias and same and time.monotonic() < self._retry.get(name, 0.0):
            return
        try:
            models[name] = self._take(name, entry)
        except (AiopsError, OSError, ValueError) as reason:
            # A network or a disk may get well within seconds, a servable hardly.
            self._retry[name] = time.monotonic() + (REFUSED_SECONDS if isinstance(reason, ServableError) else 0.0)
            refused[name] = self._refusal(name, entry, reason, ALIAS)
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
        model, _ = parts(name)
        target = self._folder / "servables" / f"{model}-{entry['version']}-{run}"
        fresh = not target.is_dir()
        while True:
            found = Path(self._tracking.fetch(model, int(entry["version"]), target)).resolve()
            try:
                verify(found, model, {**entry, "recalibration": None})
            except ServableError:
                shutil.rmtree(target, ignore_errors=True)
                if fresh:
                    raise
                # What lay in the cache may have been damaged there: once more, from the registry.
                fresh = True
                continue
            if entry.get("recalibration"):
                # After the copy itself, which a correction that cannot be used leaves where it is.
                verify(found, model, entry)
            # Replicas that refused a damaged copy look at the new one.
            return {**entry, "folder": str(found), "fetched": time.time()}

    def _refusal(self, name: str, entry: Mapping[str, Any], reason: Exception, by: str) -> dict[str, Any]:
        text = redacted(str(reason)) or type(reason).__name__
        last = self._content["refused"].get(name, {})
        if (last.get("version"), last.get("reason")) != (entry["version"], text):
            _log.warning("%s version %s is refused: %s", name, entry["version"], text)
        number = {} if _number(entry) is None else {"recalibration": _number(entry)}
        return {"version": entry["version"], "run_id": entry["run_id"], "reason": text, "by": by, **number}

    def _save(self) -> None:
        """Write the pointer file; on a full disk the old one stays, and the next poll tries again."""
        try:
            write_json(self._folder / POINTER, {**self._content, "stopped": self._stopped.content})
        except OSError as error:
            if self._unsaved is None:
                _log.error("the pointer file cannot be written, replicas go on with the old one: %s", error)
            self._unsaved = str(error)
            return
        if self._unsaved is not None:
            _log.warning("the pointer file can be written again")
        self._unsaved = None

    def _prune(self, entries: Iterable[Mapping[str, Any]]) -> None:
        used = {entry["folder"] for entry in entries}
        cache = self._folder / "servables"
        for name in BY_MODEL:
            folders = sorted(cache.glob(f"{name}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
            for old in [f for f in folders if str(f.resolve()) not in used][KEPT:]:
                shutil.rmtree(old, ignore_errors=True)

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


def _number(entry: Mapping[str, Any]) -> int | None:
    """Return the number of the correction of an entry."""
    number: int | None = (entry.get("recalibration") or {}).get("number")
    return number


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
