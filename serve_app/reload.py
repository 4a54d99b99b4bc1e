"""Follow the registry: every replica serves the champions within seconds of a promotion, without a restart.

Two halves, so that no serving process ever imports MLflow:

- the **follower**, one small process on each node (`python -m serve_app.reload`), asks the registry for the champions every
  `POLL_SECONDS`, fetches their servable folders into a local cache, does with each what a replica does before it
  answers with it, and only then writes it into a pointer file, in one step. A version that fails is refused: the pointer
  file keeps the last good one, for restarted replicas too. A model whose alias was removed goes out of service. It also
  carries out promotions, rollbacks and registrations asked for over its socket.
- the **watch**, a thread in every serving process, looks at the pointer file every `WATCH_SECONDS`, loads what
  changed, replays its golden examples and only then swaps it in. A servable that fails is refused, the old one
  stays, and the refusal is in `models/status`.

While the registry is unreachable the pointer file stays as it is, over restarts too: predictions go on. Whichever serving
process finds no follower running on its node starts one; a lock file makes it one a node, and it ends with
the process that started it, after which another one takes over.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable, settings
from aiops_core.errors import AiopsError, ServableError, TrackingError
from serve_app.files import private_folder, read_json, stage_json, write_json
from serve_app.problems import Problem
from serve_app.services import TASKS, Live, Service
from serve_app.telemetry import Metrics
from serve_app.verify import verify

__all__ = ["Follower", "Registry", "Supervisor", "Watch", "node_folder", "read_pointer"]

POLL_SECONDS = 1.5
WATCH_SECONDS = 0.2
#: The registry counts as unreachable when the follower has not reached it for this long.
STALE_SECONDS = 45.0
#: A registry in an unchanged SQLite file is asked this often all the same.
IDLE_SECONDS = 15.0
#: Versions of a model kept in the cache, beside the champion.
KEPT = 4

#: A champion that failed its verification is tried again this often.
REFUSED_SECONDS = 60.0
_LOG_BYTES = 1_000_000

_POINTER = "champions.json"
_LOCK = "follower.lock"
#: Who asked for a version that was refused.
_ALIAS, _REQUEST = "alias", "request"
_log = logging.getLogger("serve_app")


class Refused(AiopsError):
    """A version that the service could not serve: nothing was promoted."""


def node_folder(state_dir: Path) -> Path:
    """Return the folder of this node inside the state folder, which several nodes may share."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "_", socket.gethostname()) or "node"
    return state_dir / "nodes" / host


def socket_path(folder: Path) -> Path:
    """Return the address of the follower: in the temporary folder, since socket paths are short.

    Raises
    ------
    OSError
        If somebody else took the name of the folder there that only this user may enter.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return private_folder(Path(tempfile.gettempdir()) / f"aiops-{os.getuid()}") / f"{digest}.sock"


def read_pointer(folder: Path) -> dict[str, Any]:
    """Return the content of the pointer file; empty if there is none yet."""
    return read_json(folder / _POINTER)


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
                vacant = [name for name in TASKS if name not in champions]
                for name in TASKS:
                    self._follow(name, champions.get(name), models, refused)
            except (AiopsError, OSError) as reason:
                error = str(reason)
            except Exception as reason:
                # The registry's client raises many types; none may end the follower.
                error = f"{type(reason).__name__}: {reason}"
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
        if {k: known.get(k) for k in entry} == entry and Path(known["folder"]).is_dir():
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
            return {**entry, "folder": str(found)}

    def _refusal(self, name: str, entry: Mapping[str, Any], reason: Exception, by: str) -> dict[str, Any]:
        text = str(reason) or type(reason).__name__
        last = self._content["refused"].get(name, {})
        if (last.get("version"), last.get("reason")) != (entry["version"], text):
            _log.warning("%s version %s is refused: %s", name, entry["version"], text)
        return {"version": entry["version"], "run_id": entry["run_id"], "reason": text, "by": by}

    def _save(self) -> None:
        """Write the pointer file; on a full disk the old one stays, and the next poll tries again."""
        try:
            write_json(self._folder / _POINTER, self._content)
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
        for name in TASKS:
            folders = sorted(cache.glob(f"{name}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
            for old in [f for f in folders if str(f.resolve()) not in used][KEPT:]:
                shutil.rmtree(old, ignore_errors=True)

    def execute(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command of the socket and return the version it made champion, or the versions there are."""
        try:
            if command.get("do") == "list":
                return {"ok": [vars(v) for v in self._tracking.list_models()]}
            return {"ok": vars(self._change(command, str(command["name"])))}
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
            return {"error": f"{type(error).__name__}: {error}", "kind": "unreachable"}

    def _change(self, command: Mapping[str, Any], name: str) -> Any:
        what = command.get("do")
        if what == "promote":
            version = self._tracking.get_version(name, int(command["version"]))
            return self._promote(name, version, lambda: self._tracking.promote(name, version.version))
        if what == "rollback":
            version = self._tracking.previous_champion(name)
            return self._promote(name, version, lambda: self._tracking.rollback(name))
        if what != "register":
            raise ValueError(f"unknown command {what!r}")
        alias = command.get("alias")
        champion = alias == "champion"
        found = self._tracking.register(TASKS[name], str(command["run_id"]), None if champion else alias)
        if not champion:
            return found
        try:
            return self._promote(name, found, lambda: self._tracking.promote(name, found.version))
        except Refused as reason:
            raise Refused(f"registered as version {found.version}, without an alias: {reason}") from reason

    def _promote(self, name: str, version: Any, move: Callable[[], Any]) -> Any:
        """Verify a version, then move the registry's alias to it, then the pointer; or change nothing.

        Raises
        ------
        Refused
            If the service could not serve it.
        """
        with self._lock:
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
                staged = stage_json(self._folder / _POINTER, content)
            except OSError as error:
                raise TrackingError(f"nothing was promoted: the pointer file cannot be written: {error}") from error
            try:
                found = move()
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            os.replace(staged, self._folder / _POINTER)
            self._content = content
            return found

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


def _serve(follower: Follower, path: Path) -> socketserver.ThreadingUnixStreamServer:
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
    parser = argparse.ArgumentParser(prog="python -m serve_app.reload", description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        from aiops_core import tracking

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
        uri = settings.load().mlflow_tracking_uri
        database = Path(uri.split("///", 1)[1]) if uri.startswith("sqlite:///") else None
        follower = Follower(folder, tracking, database)
        server = _serve(follower, socket_path(folder))
        stop = threading.Event()

        def until_parent_ends() -> None:
            sys.stdin.buffer.read()
            stop.set()

        threading.Thread(target=until_parent_ends, daemon=True).start()
        follower.run(stop)
        server.shutdown()
        socket_path(folder).unlink(missing_ok=True)
    return 0


class Supervisor:
    """Keep one follower running on this node.

    Parameters
    ----------
    folder : Path
        Of this node.
    environment : mapping
        Added to the environment of the follower: the tracking URI, absolute.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-supervisor", daemon=True)

    def start(self) -> None:
        """Start looking after the follower."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def close(self) -> None:
        """End the follower, if this process started it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        child = self._child
        if child is not None and child.poll() is None:
            if child.stdin:
                child.stdin.close()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _free(self) -> bool:
        with open(self._folder / _LOCK, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def _run(self) -> None:
        said = ""
        while not self._stop.is_set():
            try:
                if (self._child is None or self._child.poll() is not None) and self._free():
                    self._child = self._spawn()
                said = ""
            except OSError as error:
                # A full disk or no free process: promotions wait, predictions do not.
                if str(error) != said:
                    _log.error("the follower of the registry cannot be started, trying again: %s", error)
                said = str(error)
            self._stop.wait(1.0)

    def _spawn(self) -> subprocess.Popen[bytes]:
        path = self._folder / "follower.log"
        # What made the last one end stands in its log: begun anew only when it is long.
        mode = "wb" if path.exists() and path.stat().st_size > _LOG_BYTES else "ab"
        with open(path, mode) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "serve_app.reload", "--folder", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment, "OMP_NUM_THREADS": "1"},
                cwd=self._folder,
            )


class Watch:
    """Load the champions of some services as the pointer file names them.

    Parameters
    ----------
    folder : Path
        Of this node.
    services : mapping of str to Service
        By registered model name.
    metrics : Metrics
    loader : callable, optional
        Folder to verified servable; `aiops_core.servable.load` by default.
    """

    def __init__(
        self,
        folder: Path,
        services: Mapping[str, Service],
        metrics: Metrics,
        loader: Callable[[str], Any] = servable.load,
    ) -> None:
        self._folder = folder
        self._services = dict(services)
        self._metrics = metrics
        self._loader = loader
        self._seen: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-watch", daemon=True)
        self._tried: dict[str, tuple[str, str]] = {}
        #: Model name to version and reason of the last refusal, by the follower and by this process.
        self._by_follower: dict[str, dict[str, str]] = {}
        self._by_us: dict[str, dict[str, str]] = {}
        self.registry: dict[str, Any] = {}

    def start(self, wait_seconds: float = 30.0) -> None:
        """Load what the pointer file names, then go on watching.

        Parameters
        ----------
        wait_seconds : float
            How long to wait for the first answer of the follower. Models of an earlier run are served meanwhile.
        """
        started = time.time()
        self.look()
        while time.time() - started < wait_seconds:
            asked = self.registry.get("asked")
            if asked is not None and asked >= started - POLL_SECONDS:
                break
            time.sleep(0.1)
            self.look()
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        """Take what changed in the pointer file into service."""
        try:
            state = (self._folder / _POINTER).stat()
        except OSError:
            return
        seen = (state.st_mtime_ns, state.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        content = read_pointer(self._folder)
        if not content:
            # Not read, for want of a file handle say: looked at again.
            self._seen = None
            return
        self.registry = content.get("registry", {})
        self._metrics.gauge("aiops_registry_up", replica=self._metrics.replica).set(
            float(not self.registry.get("error"))
        )
        before, self._by_follower = self._by_follower, {}
        for name, reason in content.get("refused", {}).items():
            if name in self._services:
                self._by_follower[name] = {"version": reason["version"], "reason": reason["reason"]}
                if before.get(name) != self._by_follower[name]:
                    self._say(name, self._by_follower[name])
        for name in content.get("vacant", []):
            if name in self._services:
                self._vacate(name)
        for name, entry in content.get("models", {}).items():
            if name in self._services:
                self._take(name, entry)

    @property
    def refused(self) -> dict[str, dict[str, str]]:
        """Model name to version and reason of the last refusal."""
        return {**self._by_follower, **self._by_us}

    def _vacate(self, name: str) -> None:
        """Take a model out of service whose alias was removed."""
        service = self._services[name]
        self._by_us.pop(name, None)
        self._tried.pop(name, None)
        if service.live is not None:
            self._info(service.live).set(0.0)
            service.retire()
            _log.warning("%s has no champion in the registry any more: taken out of service", name)

    def _take(self, name: str, entry: Mapping[str, Any]) -> None:
        service = self._services[name]
        live = service.live
        version, run_id = str(entry["version"]), str(entry["run_id"])
        if live is not None and (live.version, live.run_id) == (version, run_id):
            if self._by_us.get(name, {}).get("version") != version:
                # Rolled back to what is served: nothing is refused any more.
                self._by_us.pop(name, None)
                self._tried.pop(name, None)
            return
        if self._tried.get(name) == (version, run_id):
            return
        self._tried[name] = (version, run_id)
        try:
            loaded = self._loader(entry["folder"])
            if loaded.task != service.task:
                raise AiopsError(f"the servable is for task '{loaded.task}', not '{service.task}'")
            fresh = Live(loaded, name, version, run_id, entry.get("alias"), entry.get("created"))
            service.install(fresh)
        except Exception as error:
            # Whatever is wrong with a new model, the old one goes on serving.
            refusal = {"version": version, "reason": str(error) or type(error).__name__}
            if self._by_us.get(name) != refusal:
                self._by_us[name] = refusal
                self._say(name, refusal)
            return
        self._by_us.pop(name, None)
        if live is not None:
            self._info(live).set(0.0)
        self._info(fresh).set(1.0)
        self._metrics.counter("aiops_reloads_total", model=name, result="loaded").inc()

    def _info(self, live: Live) -> Any:
        kind = str(live.servable.card.get("kind"))
        labels = {"model": live.name, "version": str(live.version), "kind": kind, "replica": self._metrics.replica}
        return self._metrics.gauge("aiops_model_info", **labels)

    def _say(self, name: str, refusal: Mapping[str, str]) -> None:
        _log.warning("%s version %s is refused: %s", name, refusal["version"], refusal["reason"])
        self._metrics.counter("aiops_reloads_total", model=name, result="refused").inc()

    def registry_status(self) -> dict[str, Any]:
        """Describe the registry for ``models/status``."""
        asked, error = self.registry.get("asked"), self.registry.get("error")
        fresh = asked is not None and time.time() - asked < STALE_SECONDS
        reachable = bool(fresh and not error)
        if error is None and not fresh:
            error = "the follower has not reported yet" if asked is None else "the follower has stopped reporting"
        return {"reachable": reachable, "error": error, "reached": self.registry.get("reached")}


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
        try:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_unix_connection(str(socket_path(self._folder)), limit=1 << 24)
                writer.write(json.dumps(command).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
                writer.close()
        except (OSError, TimeoutError, ValueError) as error:
            raise Problem(503, f"the registry cannot be reached: {error or type(error).__name__}") from None
        if "ok" in answer:
            return answer["ok"]
        status = {"missing": 404, "conflict": 409}.get(answer.get("kind"), 503)
        raise Problem(status, str(answer["error"]))


if __name__ == "__main__":
    sys.exit(main())
