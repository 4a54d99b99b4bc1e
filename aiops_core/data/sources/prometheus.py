"""A Prometheus server as a source: one range query a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.tables import Dataset
from aiops_core.data.validation import validated
from aiops_core.errors import DataError, UsageError


def load(
    url: str,
    queries: Mapping[str, str],
    *,
    start: pd.Timestamp,
    end: pd.Timestamp,
    step_seconds: int = 3600,
    label: str = "instance",
    table: str = "usage",
) -> Dataset:
    """Read a table from a Prometheus server, one range query a metric.

    Parameters
    ----------
    url : str
        Of the server, without the path of its API.
    queries : mapping of str to str
        Column to PromQL expression, whose result holds one series a resource.
    start, end : Timestamp
        With timezone; both ends are included.
    step_seconds : int, default 3600
    label : str, default "instance"
        Label that names the resource.
    table : {"usage", "telemetry"}

    Returns
    -------
    Dataset
        With the one table; a value that the server does not have stays missing.

    Raises
    ------
    UsageError
        If the server cannot be reached, refuses a query, or an option makes no sense.
    DataError
        If a query gives no series, several series of a resource, or a series without the label.
    """
    if table not in ("usage", "telemetry"):
        raise UsageError(f"--table {table} must be usage or telemetry")
    if not queries:
        raise UsageError("name at least one metric and its query, such as cpu_usage='avg by (instance) (cpu)'")
    if step_seconds < 1 or start >= end:
        raise UsageError(f"from {start} to {end} in steps of {step_seconds} s is no range")
    columns = [_series(url, name, query, start, end, step_seconds, label) for name, query in queries.items()]
    frame = pd.concat(columns, axis=1).reset_index()
    config: dict[str, dict[str, object]] = {}
    if table == "usage":
        config["capacity"] = {"target": list(queries), "season": max(2, 86_400 // step_seconds)}
    return validated("prometheus", f"Prometheus at {url}", "own data", {table: frame}, config)


def _series(
    url: str, name: str, query: str, start: pd.Timestamp, end: pd.Timestamp, step_seconds: int, label: str
) -> pd.Series:
    """Return the values of one query by resource and time."""
    rows: dict[tuple[str, pd.Timestamp], float] = {}
    # A server refuses more than 11,000 points a series in one answer.
    length = pd.Timedelta(seconds=step_seconds * 10_000)
    first = start
    while first <= end:
        last = min(end, first + length)
        for series in _range(url, name, query, first, last, step_seconds):
            resource = series["metric"].get(label)
            if resource is None:
                raise DataError(f"query '{name}' gives a series without the label '{label}'")
            for stamp, value in series["values"]:
                key = (resource, pd.Timestamp(float(stamp), unit="s", tz="UTC"))
                if key in rows:
                    raise DataError(
                        f"query '{name}' gives several series of {label} '{resource}'; aggregate it by ({label})"
                    )
                rows[key] = float(value)
        first = last + pd.Timedelta(seconds=step_seconds)
    if not rows:
        raise DataError(f"query '{name}' gives no value from {start} to {end}")
    index = pd.MultiIndex.from_tuples(rows, names=["resource_id", "timestamp"])
    return pd.Series(list(rows.values()), index=index, name=name, dtype=float).replace([np.inf, -np.inf], np.nan)


def _range(
    url: str, name: str, query: str, first: pd.Timestamp, last: pd.Timestamp, step_seconds: int
) -> list[dict[str, Any]]:
    import httpx

    options = {"query": query, "start": first.timestamp(), "end": last.timestamp(), "step": step_seconds}
    try:
        answer = httpx.post(f"{url.rstrip('/')}/api/v1/query_range", data=options, timeout=60)
        content = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"no Prometheus server answers at '{url}' ({type(error).__name__})") from error
    if content.get("status") != "success":
        raise UsageError(f"Prometheus refuses the query of '{name}': {content.get('error', answer.status_code)}")
    data = content["data"]
    if data.get("resultType") != "matrix":
        raise DataError(f"query '{name}' gives a {data.get('resultType')} instead of series")
    found: list[dict[str, Any]] = data["result"]
    return found
