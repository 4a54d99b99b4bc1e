"""The connection to Ray: one a process, to a given cluster or to a local one on the loopback interface."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from aiops_core import files, settings
from aiops_core.errors import ClusterError

__all__ = ["ONE_THREAD", "check_address", "cluster", "connect"]

ATTEMPTS = 3
#: Read by Ray, whatever the system is called.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
#: Worker threads of every numerical library: one trial uses one core.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONHASHSEED": "0",
}
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_COLOR_PREFIX": "0",
}


def connect(address: str | None = None) -> str:
    """Connect this process to Ray for the rest of its life, once; see `cluster`.

    Returns
    -------
    str
        Address that others can join.
    """
    if not ray.is_initialized():
        _join(address or settings.load().ray_address)
    return str(ray.get_runtime_context().gcs_address)


@contextlib.contextmanager
def cluster(address: str | None = None) -> Iterator[str]:
    """Connect to Ray for the duration of the block and yield the address that others can join.

    Parameters
    ----------
    address : str, optional
        Cluster to join; by default ``RAY_ADDRESS``, and without it a local cluster on the loopback interface that
        is shut down with the block. A connection that already exists is used and left open.

    Raises
    ------
    ClusterError
        If the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield connect()
        return
    try:
        yield connect(address)
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    os.environ.update({k: v for k, v in _QUIET.items() if k not in os.environ})
    # A local cluster makes its own token; Ray announces it at every start.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address:
        check_address(address)
        options["address"] = address
    else:
        options["include_dashboard"] = False
        _stay_on_loopback()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Ray raises bare Exception when its node agent misses a fixed 15 s deadline, as it does on a busy machine.
            ray.shutdown()
            if attempt < ATTEMPTS and not address:
                continue
            where = f"at '{address}' (RAY_ADDRESS)" if address else f"on this machine in {ATTEMPTS} attempts"
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(f"no Ray cluster can be reached {where}: {text[0]}") from error


def _stay_on_loopback() -> None:
    """Have the processes of a local cluster listen on the loopback interface only, and its token be this user's.

    Ray replaces a node's address 127.0.0.1 by one that others can reach, unless told that clusters are not possible
    here. It reads that at import, in this process and in those that it starts.
    """
    os.environ.setdefault(LOOPBACK, "0")
    if os.environ[LOOPBACK] == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False
    if "RAY_AUTH_MODE" not in os.environ:
        files.private_token(Path.home() / ".ray" / "auth_token")


def check_address(address: str) -> None:
    """Refuse a Ray address where nothing listens, at once instead of after Ray's minutes of retries.

    Raises
    ------
    ClusterError
    """
    if address in ("auto", "local"):
        return
    plain = address.removeprefix("ray://")
    host, _, port = plain.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"RAY_ADDRESS '{address}' is not of the form host:port")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at RAY_ADDRESS '{address}' ({error.strerror or error})") from error
