"""Keep the node's follower running, from whichever serving process finds none."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from aiops_core import settings
from serve_app.champions.node import LOCK
from serve_app.cluster.leftovers import MARK
from serve_app.files import only_ours

__all__ = ["Supervisor"]

_log = logging.getLogger("serve_app")

_LOG_BYTES = 1_000_000


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
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        with open(self._folder / LOCK, "a", opener=only_ours) as lock:
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
        # By it the next service ends what a killed one left.
        mark = {MARK: os.environ[MARK]} if MARK in os.environ else {}
        # What made the last one end stands in its log: begun anew only when it is long.
        mode = "wb" if path.exists() and path.stat().st_size > _LOG_BYTES else "ab"
        with open(path, mode, opener=only_ours) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "serve_app.champions.follower", "--folder", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**settings.for_children(), **mark, **self._environment, "OMP_NUM_THREADS": "1"},
                cwd=self._folder,
            )
