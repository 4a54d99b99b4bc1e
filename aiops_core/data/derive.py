"""Domain features of a data set: the ``[<task>.derive]`` sections of its settings, read against its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from aiops_core.data.tables import RESERVED, TASK_TABLES, Dataset, feature_columns
from aiops_core.derive import Derived

__all__ = ["check_derived", "derived_of"]


def derived_of(dataset: Dataset, task: str) -> Derived:
    """Return the derived features of a task.

    Raises
    ------
    UsageError
        Naming the feature and what is wrong with its expression.
    """
    return _read(task, dataset.tables[TASK_TABLES[task][0]], dataset.config.get(task, {}).get("derive") or {}, "")


def check_derived(config: Mapping[str, Mapping[str, Any]], tables: Mapping[str, pd.DataFrame], where: str) -> None:
    """Refuse expressions that cannot be read, or do not fit the tables, of every task whose table is there.

    Raises
    ------
    UsageError
    """
    for task, (table, *_) in TASK_TABLES.items():
        expressions = config.get(task, {}).get("derive")
        if expressions and table in tables:
            _read(task, tables[table], expressions, f"{where}: ")


def _read(task: str, frame: pd.DataFrame, expressions: Mapping[str, str], where: str) -> Derived:
    table = TASK_TABLES[task][0]
    columns = feature_columns(table, frame)
    numeric = [name for name in columns if pd.api.types.is_numeric_dtype(frame[name])]
    unusable = {
        **dict.fromkeys(RESERVED[table], f"which is no feature of {table}"),
        **{name: "which holds categories, not numbers" for name in columns if name not in numeric},
    }
    place = f"{where}[{task}.derive]"
    return Derived.read(expressions, numeric, where=place, series=table != "activity", unusable=unusable)
