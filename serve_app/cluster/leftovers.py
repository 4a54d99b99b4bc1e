"""What a killed `aiops serve` leaves running: HAProxy, which holds the port, and parts of its Ray cluster.

Every service gives the processes it starts a mark of its own in their environment, and keeps a record of them, by pid
and the kernel's start time, in the state folder until it ends by itself. The next service ends what the records of
services that are no more name, and what carries their marks (HAProxy may have been started anew since the last line
of the record). A pid in use again has another start time; nothing else is touched.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.cluster.haproxy import FOLDER
from serve_app.files import read_json, write_json

__all__ = ["MARK", "Record", "clear", "started"]

#: Environment variable that carries the mark.
MARK = "AIOPS_SERVE_ID"
RECORD_SECONDS = 1.0
#: How long leftovers may take to end after SIGTERM, and after SIGKILL. Ray's agents take no notice of the first.
END_SECONDS = (1.0, 5.0)

_FOLDER = "services"
_log = logging.getLogger("serve_app")


def started(pid: int) -> str | None:
    """Return the kernel's start time of a process: with the pid it names one process since boot; None without one."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    except (OSError, ValueError, IndexError):
        return None
    return None if state in (b"Z", b"X") else fields[18].decode()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _marked(mark: str) -> dict[int, str]:
    """Return pid and start time of this user's processes that carry a mark."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid != os.getuid() or wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
        except OSError:
            continue
        pid = int(folder.name)
        start = started(pid)
        if start is not None and pid != os.getpid():
            found[pid] = start
    return found


class Record:
    """The record of this service's processes, kept up to date until `close`.

    Parameters
    ----------
    folder : Path
        Of this node.
    haproxy : str
        The folder of HAProxy, removed with what is left.
    """

    def __init__(self, folder: Path, haproxy: str) -> None:
        self.mark = uuid.uuid4().hex
        self._path = folder / _FOLDER / f"{self.mark}.json"
        self._haproxy = haproxy
        self._processes: dict[int, str] | None = None
        self._said = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiops-record", daemon=True)

    def start(self) -> None:
        """Mark what this process starts from now on, and go on recording it."""
        os.environ[MARK] = self.mark
        self.refresh()
        self._thread.start()

    def refresh(self) -> None:
        """Write the record if anything changed."""
        known = self._processes or {}
        # What was marked once stays recorded while it lives, should it clear its environment.
        found = {pid: start for pid, start in known.items() if started(pid) == start} | _marked(self.mark)
        if found == self._processes:
            return
        owner = [os.getpid(), started(os.getpid())]
        content = {"boot": _boot(), "owner": owner, "haproxy": self._haproxy, "processes": list(found.items())}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, content)
        except OSError as error:
            if not self._said:
                _log.warning("the record of the service's processes cannot be written: %s", error)
            self._said = True
            return
        self._processes = found

    def _run(self) -> None:
        while not self._stop.wait(RECORD_SECONDS):
            self.refresh()

    def close(self) -> None:
        """Stop recording and remove the record: the service ended by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._path.unlink(missing_ok=True)
        os.environ.pop(MARK, None)


def clear(folder: Path) -> int:
    """End what killed services of this state folder left running on this node.

    Parameters
    ----------
    folder : Path
        Of this node.

    Returns
    -------
    int
        How many processes were ended.
    """
    ended = 0
    for path in sorted((folder / _FOLDER).glob("*.json")):
        record = read_json(path)
        pid, start = record.get("owner") or (0, None)
        if start is not None and record.get("boot") == _boot():
            if started(pid) == start:
                continue
            ended += _end(path.stem, record)
        haproxy = str(record.get("haproxy", ""))
        if haproxy.startswith(FOLDER) and Path(haproxy).is_dir():
            shutil.rmtree(haproxy, ignore_errors=True)
        path.unlink(missing_ok=True)
    return ended


def _end(mark: str, record: Mapping[str, Any]) -> int:
    recorded = {int(pid): str(start) for pid, start in record.get("processes", [])}

    def left() -> set[tuple[int, str]]:
        alive = {(pid, start) for pid, start in recorded.items() if started(pid) == start}
        return alive | set(_marked(mark).items())

    seen: set[tuple[int, str]] = set()
    for sign, seconds in zip((signal.SIGTERM, signal.SIGKILL), END_SECONDS, strict=True):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = left()
            if not found:
                return len(seen)
            # Again and again: an ending raylet or manager may start one more.
            for pid, start in found if sign is signal.SIGKILL else found - seen:
                _signal(pid, start, sign)
            seen |= found
            time.sleep(0.05)
    return len(seen)


def _signal(pid: int, start: str, sign: signal.Signals) -> None:
    """Signal a process, unless its pid came to mean another one in the meantime."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if started(pid) == start:
            signal.pidfd_send_signal(handle, sign)
    except OSError:
        pass
    finally:
        os.close(handle)
