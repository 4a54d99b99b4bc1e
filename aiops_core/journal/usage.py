"""What usage turned out to be: as it was stated, and as the histories of later capacity requests hold it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiops_core.journal.reading import inputs_of, read
from aiops_core.journal.versions import versions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["capacity_truth", "observed", "seconds_of"]

#: Histories joined at a time.
_MANY = 2_000


def seconds_of(times: pd.Series) -> np.ndarray:
    """Return whole seconds since 1970, (n,), int64."""
    naive = times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    return np.asarray(naive.astype("datetime64[s]").astype(np.int64))


def observed(frame: pd.DataFrame, found: dict[int, dict[str, Any]], step_seconds: int | None = None) -> pd.DataFrame:
    """Return what the windows or histories of records hold, one row a resource and step: the newest word on each counts.

    Parameters
    ----------
    frame : DataFrame
        Records of failure or capacity with resource and inputs; others are left out.
    found : dict of int to dict
        From `versions`.
    step_seconds : int, optional
        By default that of each version.

    Returns
    -------
    DataFrame
        ``resource_id``, ``second`` (start of the step, since 1970), ``arrival_time`` of the record that says it, and a
        float32 column for each feature, NaN where it was missing.
    """
    import pandas as pd

    parts: list[pd.DataFrame] = []
    usable = frame[frame["inputs"].notna() & frame["steps"].gt(0) & frame["resource_id"].notna()]
    for version, rows in usable.groupby("version"):
        known = found.get(int(str(version)))
        step = step_seconds or (known or {}).get("step_seconds")
        if known is not None and step:
            for start in range(0, len(rows), _MANY):
                part = _unfolded(rows.iloc[start : start + _MANY], [f["name"] for f in known["features"]], int(step))
                # Windows overlap: joined bit by bit, they never fill the memory.
                parts = [_newest([*parts, part])]
    return parts[0] if parts else pd.DataFrame({"resource_id": [], "second": [], "arrival_time": []})


def _unfolded(rows: pd.DataFrame, names: list[str], step: int) -> pd.DataFrame:
    import pandas as pd

    arrays = inputs_of(rows, len(names))
    lengths = np.array([len(values) for values in arrays])
    last = seconds_of(rows["event_time"].fillna(rows["arrival_time"])) // step * step
    back = np.concatenate([np.arange(n - 1, -1, -1) for n in lengths])
    values = pd.DataFrame(np.concatenate(arrays), columns=names)
    head = {
        "resource_id": np.repeat(rows["resource_id"].to_numpy(dtype=object), lengths),
        "second": np.repeat(last, lengths) - back * step,
        "arrival_time": rows["arrival_time"].iloc[np.repeat(np.arange(len(rows)), lengths)].array,
    }
    return pd.concat([pd.DataFrame(head), values], axis=1)[~values.isna().all(axis=1).to_numpy()]


def _newest(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return one row a resource and step; a value that the newest word lacks comes from the one before."""
    import pandas as pd

    joined = pd.concat(parts, ignore_index=True).sort_values("arrival_time", kind="stable")
    return joined.groupby(["resource_id", "second"], as_index=False, sort=True).last()


def capacity_truth(
    folder: Path, frame: pd.DataFrame, said: pd.DataFrame, moment: Any, step_seconds: int | None
) -> tuple[pd.Series, pd.Series]:
    """Return the usage that came true after each record, and since when it is known.

    Parameters
    ----------
    folder : Path
        State folder.
    frame : DataFrame
        Records of capacity.
    said : DataFrame
        From `feedback`.
    moment : Timestamp
        Later records do not count.
    step_seconds : int, optional
        By default that of each record's version.

    Returns
    -------
    truth : Series of ndarray, (steps of the forecast,), float32
    known_at : Series
    """
    import pandas as pd

    found = versions(folder, "capacity")
    values = _series(folder, frame, said, moment, found, step_seconds)
    truth: list[np.ndarray] = []
    known: list[Any] = []
    last = seconds_of(frame["event_time"].fillna(frame["arrival_time"]))
    for name, target, version, forecast, second in zip(
        frame["resource_id"], frame["target"], frame["version"], frame["forecast"], last, strict=True
    ):
        step = step_seconds or found.get(int(version), {}).get("step_seconds")
        out = np.full(0 if forecast is None else len(forecast), np.nan, dtype=np.float32)
        series = values.get((name, target))
        when = None
        if series is not None and step:
            wanted = second // step * step + step * np.arange(1, len(out) + 1)
            place = np.minimum(np.searchsorted(series[0], wanted), len(series[0]) - 1)
            hit = series[0][place] == wanted
            out[hit] = series[1][place][hit]
            when = series[2][place][hit].max() if hit.any() else None
        truth.append(out)
        known.append(when)
    stamps = pd.to_datetime(pd.Series(known, dtype="object"), utc=True).astype("datetime64[us, UTC]")
    # Item by item: of arrays of one length a table would be made.
    column = pd.Series([None] * len(truth), index=frame.index, dtype="object")
    for place, out in enumerate(truth):
        column.iat[place] = out  # type: ignore[assignment]
    return column, stamps.set_axis(frame.index)


def _series(
    folder: Path,
    frame: pd.DataFrame,
    said: pd.DataFrame,
    moment: Any,
    found: dict[int, dict[str, Any]],
    step_seconds: int | None,
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return seconds (ascending), values and when they became known, by resource and target."""
    import pandas as pd

    wanted = frame["target"].dropna().unique()
    needed = ["request_id", "resource_id", "event_time", "arrival_time", "version", "inputs", "steps"]
    since = frame["arrival_time"].min() if len(frame) else None
    later = read(folder, "capacity", since=since, until=moment, by="arrival_time", columns=needed)
    # A request leaves a record for each target, with the same history.
    seen = observed(later.drop_duplicates("request_id"), found, step_seconds)
    parts = [
        seen[["resource_id", "second", "arrival_time", target]]
        .dropna()
        .set_axis(["resource_id", "second", "at", "value"], axis=1)
        .assign(target=target)
        for target in wanted
        if target in seen
    ]
    stated = said[said["kind"] == "usage"]
    step = step_seconds or next((v["step_seconds"] for v in found.values() if v.get("step_seconds")), 1)
    if len(stated):
        seconds = seconds_of(stated["timestamp"]) // step * step
        parts.append(stated[["resource_id", "at", "value", "target"]].assign(second=seconds))
    if not parts:
        return {}
    # What was stated comes last: it counts.
    every = pd.concat(parts, ignore_index=True).drop_duplicates(["resource_id", "target", "second"], keep="last")
    every = every.sort_values("second", kind="stable")
    return {
        (str(name), str(target)): (
            rows["second"].to_numpy(),
            rows["value"].to_numpy(dtype=np.float32),
            rows["at"].to_numpy(),
        )
        for (name, target), rows in every.groupby(["resource_id", "target"])  # type: ignore[misc]
    }
