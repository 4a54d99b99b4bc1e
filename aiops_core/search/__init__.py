"""Searches with Ray Tune: its only user, and the owner of the connection to the cluster."""

from aiops_core.search.ablation import default_scores
from aiops_core.search.choice import chosen
from aiops_core.search.connection import check_address, cluster, connect
from aiops_core.search.final import final_model, refits
from aiops_core.search.result import SearchResult, TrialLog
from aiops_core.search.run import reusable, search

__all__ = [
    "SearchResult",
    "TrialLog",
    "check_address",
    "chosen",
    "cluster",
    "connect",
    "default_scores",
    "final_model",
    "refits",
    "reusable",
    "search",
]
