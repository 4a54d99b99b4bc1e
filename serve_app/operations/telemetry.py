"""Prometheus metrics that stay correct with any number of replicas.

Every process writes its own memory-mapped file in one folder; whichever replica is asked adds all files up. A counter
incremented in one replica is therefore in the very next answer of another one on the same machine, whatever
replica the proxy picks. Files of processes that have ended stay in the sums, so counters never go backwards; gauges
of ended processes disappear. With several nodes the folder lies on the shared volume of ``AIOPS_STATE_DIR``
and is at most `FLUSH_SECONDS` behind.

A process that finds no room for its file counts in its own memory and says so in its log; its numbers are then missing
from the answers of the others.

Incrementing costs one addition in shared memory: no lock, no system call.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["BUCKETS", "Histogram", "Metrics", "Slot"]

#: Upper bounds of the latency histogram, seconds.
BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
FLUSH_SECONDS = 1.0

_SLOTS = 4096
#: The last slots are never read: they take what no longer fits.
_TRASH = _SLOTS - 32
_KEY_BYTES = 320
_log = logging.getLogger("serve_app")
_SIZE = 16 + 8 * _SLOTS + _KEY_BYTES * _SLOTS

#: name -> (type, help); the first four names are fixed, dashboards rely on them.
CATALOGUE: dict[str, tuple[str, str]] = {
    "aiops_predictions_total": ("counter", "Predictions answered, by task, kind of model and predicted label."),
    "aiops_anomalies_detected_total": ("counter", "Anomalies found by analyze/anomaly, by metric."),
    "aiops_remediations_executed_total": ("counter", "Remediation webhooks delivered, by action."),
    "aiops_uptime_seconds": ("gauge", "Seconds since the oldest running replica started."),
    "aiops_requests_total": ("counter", "HTTP requests, by route, method and status."),
    "aiops_request_seconds": ("histogram", "Time to answer a request inside the replica, by route."),
    "aiops_model_info": ("gauge", "1 for the model version that a replica serves."),
    "aiops_reloads_total": ("counter", "Models taken into service or refused, by model and result."),
    "aiops_registry_up": ("gauge", "1 while the model registry answers."),
    "aiops_jobs_total": ("counter", "Training jobs, by event."),
    "aiops_remediations_refused_total": ("counter", "Remediation webhooks that failed or were not configured."),
    "aiops_errors_total": ("counter", "Requests that ended in an internal error."),
}


class Slot:
    """One number of this process in shared memory."""

    __slots__ = ("_index", "_values")

    def __init__(self, values: memoryview[float], index: int) -> None:
        self._values = values
        self._index = index

    def inc(self, amount: float = 1.0) -> None:
        """Add to the number."""
        self._values[self._index] += amount  # type: ignore[call-overload]  # typeshed: integers only

    def set(self, value: float) -> None:
        """Replace the number."""
        self._values[self._index] = value  # type: ignore[call-overload]

    @property
    def value(self) -> float:
        """The number as this process wrote it."""
        return float(self._values[self._index])


class Histogram:
    """Latency histogram of one label set."""

    __slots__ = ("_buckets", "_first", "_sum", "_values")

    def __init__(self, values: memoryview[float], first: int, total: int) -> None:
        self._values = values
        self._first = first
        self._sum = total

    def observe(self, seconds: float) -> None:
        """Count one observation; buckets are stored apart and accumulated when rendered."""
        self._values[self._first + bisect_left(BUCKETS, seconds)] += 1.0  # type: ignore[call-overload]
        self._values[self._sum] += seconds  # type: ignore[call-overload]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _key(name: str, labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{k}="{_escape(v[:64])}"' for k, v in labels.items())
    return f"{name}{{{inner}}}" if inner else name


def _process_started(pid: int) -> str | None:
    """Kernel start time of a process: with the pid it names one process for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[19].decode()
    except (OSError, IndexError):
        return None


class Metrics:
    """The numbers of this process, and the sum over all processes that share the folder.

    Parameters
    ----------
    folder : Path
        Shared by every replica of the service.
    flush : bool, default True
        Push the file to disk every second, for readers on other nodes.
    """

    def __init__(self, folder: Path, *, flush: bool = True) -> None:
        self._folder = folder
        self._host = socket.gethostname()
        try:
            self.path, self._map = self._own_file()
            self.shared = True
        except OSError as error:
            # A full disk, mostly. This replica's numbers are then in its own answers only, and the disk hurts nothing else.
            _log.error(
                "the numbers of this replica are counted in its memory only, %s cannot be written: %s", folder, error
            )
            self.path = folder / f"{self._host}-{os.getpid()}-0-memory.metrics"
            self._map = mmap.mmap(-1, _SIZE)
            self.shared = False
        view = memoryview(self._map)
        self._count = view[0:8].cast("Q")
        self._values = view[16 : 16 + 8 * _SLOTS].cast("d")
        self._keys = view[16 + 8 * _SLOTS :]
        self._index: dict[str, int] = {}
        self._histograms: dict[str, Histogram] = {}
        self._lock = threading.Lock()
        self.gauge("aiops_start_time", replica=self.replica).set(time.time())
        if flush and self.shared:
            threading.Thread(target=self._flush, name="aiops-metrics", daemon=True).start()

    def _own_file(self) -> tuple[Path, mmap.mmap]:
        """Make this process's file and map it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        started = _process_started(os.getpid()) or "0"
        serial = 0
        while True:
            # One process may hold several services, as the tests do.
            path = self._folder / f"{self._host}-{os.getpid()}-{started}-{serial}.metrics"
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                break
            except FileExistsError:
                serial += 1
        try:
            # Every page now: the first write to one that a full disk has no room for ends a process with SIGBUS.
            os.posix_fallocate(handle, 0, _SIZE)
            return path, mmap.mmap(handle, _SIZE)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)

    @property
    def replica(self) -> str:
        """Name of this process in labels."""
        return self.path.stem

    def _allocate(self, keys: Iterable[str]) -> int:
        """Give every key a slot, in a row, and return the first."""
        first = len(self._index)
        for key in keys:
            encoded = key.encode()
            if len(self._index) >= _TRASH or len(encoded) > _KEY_BYTES:
                # Full, or absurd labels: counting goes on in a slot that nobody reads rather than failing a request.
                return _TRASH
            at = len(self._index) * _KEY_BYTES
            self._keys[at : at + len(encoded)] = encoded
            self._index[key] = len(self._index)
            self._count[0] = len(self._index)
        return first

    def counter(self, name: str, **labels: str) -> Slot:
        """Return the counter of a label set; keep it, when it is used on every request."""
        key = _key(name, labels)
        with self._lock:
            index = self._index.get(key)
            if index is None:
                index = self._allocate([key])
        return Slot(self._values, index)

    #: A gauge is stored like a counter; the type in `CATALOGUE` decides how it is added up.
    gauge = counter

    def histogram(self, name: str, **labels: str) -> Histogram:
        """Return the histogram of a label set."""
        base = _key(name, labels)
        with self._lock:
            if base not in self._histograms:
                bounds = [*(repr(b) for b in BUCKETS), "+Inf"]
                keys = [_key(f"{name}_bucket", {**labels, "le": bound}) for bound in bounds]
                first = self._allocate([*keys, _key(f"{name}_sum", labels)])
                self._histograms[base] = Histogram(self._values, first, first + len(keys))
            return self._histograms[base]

    def _flush(self) -> None:
        while True:
            time.sleep(FLUSH_SECONDS)
            try:
                self._map.flush()
            except (OSError, ValueError):
                return

    def _alive(self, path: Path) -> bool:
        host, pid, started, _ = path.stem.rsplit("-", 3)
        if host != self._host:
            return time.time() - path.stat().st_mtime < 10 * FLUSH_SECONDS
        return _process_started(int(pid)) == started

    def totals(self) -> dict[str, float]:
        """Return the sum over all processes by sample; gauges count only while their process lives."""
        sums: dict[str, float] = {}
        for path in sorted(self._folder.glob("*.metrics")):
            try:
                alive = self._alive(path)
                samples = _read(path)
            except (OSError, ValueError):
                continue
            _add(sums, samples, alive)
        if not self.shared:
            _add(sums, _samples(self._map), True)
        return sums

    def render(self) -> bytes:
        """Return the Prometheus text format, version 0.0.4, summed over all processes."""
        sums = self.totals()
        starts = [sums.pop(key) for key in list(sums) if key.startswith("aiops_start_time")]
        sums["aiops_uptime_seconds"] = time.time() - min(starts, default=time.time())
        for name in ("aiops_remediations_executed_total", "aiops_anomalies_detected_total", "aiops_predictions_total"):
            if not any(key.startswith(name) for key in sums):
                sums[name] = 0.0
        families: dict[str, list[tuple[str, float]]] = {name: [] for name in CATALOGUE}
        for key, value in sums.items():
            name = key.split("{", 1)[0]
            for suffix in ("_bucket", "_sum"):
                if name.endswith(suffix) and name.removesuffix(suffix) in CATALOGUE:
                    name = name.removesuffix(suffix)
            if name in families:
                families[name].append((key, value))
        lines: list[str] = []
        for name, samples in families.items():
            if not samples:
                continue
            kind, text = CATALOGUE[name]
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += _cumulated(name, dict(samples)) if kind == "histogram" else [f"{k} {v!r}" for k, v in samples]
        return ("\n".join(lines) + "\n").encode()


def _add(sums: dict[str, float], samples: Mapping[str, float], alive: bool) -> None:
    for key, value in samples.items():
        name = key.split("{", 1)[0]
        if name == "aiops_start_time" or CATALOGUE.get(name, ("", ""))[0] == "gauge":
            if alive:
                sums[key] = value
        else:
            sums[key] = sums.get(key, 0.0) + value


def _read(path: Path) -> dict[str, float]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        return _samples(content)


def _samples(content: mmap.mmap) -> dict[str, float]:
    count = int.from_bytes(content[0:8], "little")
    values = memoryview(content[16 : 16 + 8 * count]).cast("d")
    at = 16 + 8 * _SLOTS
    return {
        content[at + i * _KEY_BYTES : at + (i + 1) * _KEY_BYTES].rstrip(b"\0").decode(): values[i] for i in range(count)
    }


def _cumulated(name: str, samples: dict[str, float]) -> list[str]:
    """Turn separate buckets into the cumulative ones of the text format, with a count that agrees with them."""
    lines = []
    for key in [k for k in samples if k.startswith(f"{name}_sum")]:
        labels = key[len(name) + 4 :].strip("{}")
        prefix = f"{labels}," if labels else ""
        running = 0.0
        for bound in (*(repr(b) for b in BUCKETS), "+Inf"):
            bucket = f'{name}_bucket{{{prefix}le="{bound}"}}'
            running += samples.get(bucket, 0.0)
            lines.append(f"{bucket} {running!r}")
        lines += [f"{name}_count{{{labels}}} {running!r}", f"{key} {samples[key]!r}"]
    return lines
