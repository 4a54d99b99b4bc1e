"""What the kernels of a run share: one store, one folder of data sets, one Ray cluster.

Ray is imported inside functions: a run that is refused for its data or its folder need not wait for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from aiops_core import settings


def check_cluster() -> None:
    """Refuse a cluster address of the settings where nothing listens.

    Raises
    ------
    ClusterError
    """
    given = settings.load().ray_address
    if given:
        from aiops_core import search

        search.check_address(given)


@contextlib.contextmanager
def kernel_environment() -> Iterator[Callable[[int], None]]:
    """Yield a function that starts the run's one Ray cluster for some searches; kernels share it, store and mirror."""
    from aiops_core import search

    current = settings.load()
    given = {"MLFLOW_TRACKING_URI": current.mlflow_tracking_uri, "AIOPS_HOME": str(current.home)}
    if current.datasets_dir is not None:
        given["AIOPS_DATASETS_DIR"] = str(current.datasets_dir.resolve())
    saved = {key: os.environ.get(key) for key in (*given, "RAY_ADDRESS", "AIOPS_CONCURRENT_SEARCHES")}
    os.environ.update(given)

    # A cluster that this process was connected to before stays connected.
    connection = contextlib.ExitStack()

    def start(searches: int) -> None:
        os.environ["AIOPS_CONCURRENT_SEARCHES"] = str(max(1, searches))
        os.environ["RAY_ADDRESS"] = connection.enter_context(search.cluster())

    try:
        yield start
    finally:
        connection.close()
        for key, value in saved.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
