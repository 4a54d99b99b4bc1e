"""Domain features: expressions over the columns of a table, the same in training, in tables and in the served graph."""

from aiops_core.derive.values import Derived

__all__ = ["Derived"]
