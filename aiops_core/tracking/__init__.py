"""MLflow: searches are logged live, servables registered, champions resolved. Nothing else talks to it.

Importing this package does not import mlflow, which takes seconds that neither ``--help`` nor a request should pay.
"""

from aiops_core.facts import MODELS
from aiops_core.tracking.corrections import corrections, recalibrate
from aiops_core.tracking.looks import count_look
from aiops_core.tracking.native import save_native
from aiops_core.tracking.registry import (
    ModelVersion,
    champions,
    companions,
    describe_version,
    get_version,
    list_models,
    previous_champion,
    promote,
    register,
    remove_companion,
    rollback,
    set_companion,
)
from aiops_core.tracking.runs import (
    SearchLog,
    close_search,
    dataset_input,
    fail_run,
    log_pages,
    log_results,
    open_search,
)
from aiops_core.tracking.servables import fetch, fetch_verified, log_servable
from aiops_core.tracking.store import EXPERIMENT, check, prepare_store

__all__ = [
    "EXPERIMENT",
    "MODELS",
    "ModelVersion",
    "SearchLog",
    "champions",
    "check",
    "close_search",
    "companions",
    "corrections",
    "count_look",
    "dataset_input",
    "describe_version",
    "fail_run",
    "fetch",
    "fetch_verified",
    "get_version",
    "list_models",
    "log_pages",
    "log_results",
    "log_servable",
    "open_search",
    "prepare_store",
    "previous_champion",
    "promote",
    "recalibrate",
    "register",
    "remove_companion",
    "rollback",
    "save_native",
    "set_companion",
]
