"""Score tables in bulk through a servable: ``aiops score`` and the MLflow model of a servable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd

from aiops_core import files, servable
from aiops_core.data.validation import validate
from aiops_core.errors import DataError, UsageError
from aiops_core.servable.capacity import CapacityServable
from aiops_core.servable.failure import FailureServable
from aiops_core.servable.series import means_by_step, windows_ending_at
from aiops_core.servable.threat import ThreatServable

CHUNK = 20_000


def score_file(loaded: servable.Servable, source: str | Path, target: str | Path) -> int:
    """Score a Parquet or CSV file and write the result beside a temporary name first.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    UsageError
        If a file has another ending or cannot be written.
    DataError
        If the table does not fit the servable.
    """
    source, target = Path(source), Path(target)
    for path in (source, target):
        if path.suffix not in (".parquet", ".csv"):
            raise UsageError(f"file {path.name}: the ending must be .parquet or .csv")
    if not source.is_file():
        raise UsageError(f"file {source} does not exist")
    try:
        frame = pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source)
    except Exception as error:
        raise DataError(f"file {source.name} cannot be read ({str(error).splitlines()[0]})") from error
    result = score_table(loaded, frame)
    temporary = target.with_name(f".{target.name}")
    try:
        if target.suffix == ".parquet":
            result.to_parquet(temporary, index=False)
        else:
            files.write_csv(temporary, result)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"file {target} cannot be written ({error.strerror})") from error
    return len(result)


def score_table(loaded: servable.Servable, frame: pd.DataFrame) -> pd.DataFrame:
    """Score a contract table.

    Parameters
    ----------
    loaded : Servable
    frame : DataFrame
        ``telemetry`` for a failure servable, ``activity`` rows (any subset of the features) for a threat servable,
        ``usage`` for a capacity servable.

    Returns
    -------
    DataFrame
        failure: ``resource_id, timestamp, probability, alarm``, one row for every row of telemetry, by resource and time;
        threat: the decision and one probability column a class, in the order of the rows;
        capacity: ``resource_id, target, step, timestamp, p10, p50, p90`` for every step up to the horizon, from the end of
        every resource that has a value of the target.

    Notes
    -----
    A row is scored as the service answers it: the same windows, gaps and clock, and other columns are ignored.
    """
    if isinstance(loaded, FailureServable):
        return _failure(loaded, frame)
    if isinstance(loaded, ThreatServable):
        return _threat(loaded, frame)
    if isinstance(loaded, CapacityServable):
        return _capacity(loaded, frame)
    raise TypeError(type(loaded).__name__)


def _need(frame: pd.DataFrame, table: str, columns: list[str]) -> None:
    for column in columns:
        if column not in frame.columns:
            raise DataError("is missing; the servable reads it", table=table, column=column)


def _failure(loaded: FailureServable, frame: pd.DataFrame) -> pd.DataFrame:
    _need(frame, "telemetry", ["resource_id", "timestamp", *loaded.features])
    checked, _ = validate("telemetry", frame[["resource_id", "timestamp", *loaded.features]], learning=False)
    seconds, first = _series(checked)
    values = checked[loaded.features].to_numpy(dtype=np.float32, na_value=np.nan)
    probability = np.empty(len(checked))
    for at in range(0, len(checked), CHUNK):
        ends = np.arange(at, min(at + CHUNK, len(checked)))
        windows = windows_ending_at(ends, seconds, values, first, loaded.window, loaded.step_seconds)
        whose = checked["resource_id"].iloc[ends].tolist()
        probability[ends] = loaded.predict(windows, last=seconds[ends].astype("datetime64[s]"), resources=whose)
    return pd.DataFrame(
        {
            "resource_id": checked["resource_id"],
            "timestamp": checked["timestamp"],
            "probability": probability,
            "alarm": probability >= loaded.threshold,
        }
    )


def _series(checked: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of each row of a sorted table, and the position of its resource's first row."""
    stamps = checked["timestamp"].dt.tz_localize(None).to_numpy()
    codes, _ = pd.factorize(checked["resource_id"])
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return (
        np.asarray(stamps.astype("datetime64[s]").astype(np.int64)),
        np.repeat(starts, np.diff(np.r_[starts, len(codes)])),
    )


def _threat(loaded: ThreatServable, frame: pd.DataFrame) -> pd.DataFrame:
    known = [name for name in loaded.features if name in frame.columns]
    if not known:
        raise DataError(
            f"holds none of the servable's features ({', '.join(loaded.features[:6])}, …)", table="activity"
        )
    records: list[Any] = frame[known].astype(object).where(frame[known].notna(), None).to_dict("records")
    probability = np.concatenate(
        [loaded.predict(loaded.encode(records[at : at + CHUNK])) for at in range(0, len(records), CHUNK)]
    )
    decided = np.array(loaded.classes)[loaded.decide(probability)]
    columns = {name: probability[:, i] for i, name in enumerate(loaded.classes)}
    # A class may be called as the first column is.
    return pd.DataFrame(
        {"prediction": decided, **{("p_" + n if n == "prediction" else n): p for n, p in columns.items()}}
    )


def _capacity(loaded: CapacityServable, frame: pd.DataFrame) -> pd.DataFrame:
    targets = [t for t in loaded.targets if t in frame.columns]
    if not targets:
        raise DataError(f"holds none of the servable's targets ({', '.join(loaded.targets)})", table="usage")
    _need(frame, "usage", ["resource_id", "timestamp"])
    columns = targets + [n for n in loaded.exogenous if n in frame.columns and n not in targets]
    checked, _ = validate("usage", frame[["resource_id", "timestamp", *columns]], learning=False)
    seconds, first = _series(checked)
    values = checked[columns].to_numpy(dtype=np.float64, na_value=np.nan)
    steps = np.arange(1, loaded.horizon + 1)
    starts = np.unique(first)
    out = []
    for start, end in zip(starts, np.r_[starts[1:], len(checked)], strict=True):
        last = int(seconds[end - 1])
        history = {
            name: means_by_step(seconds[start:end], values[start:end, j], last, loaded.step_seconds, loaded.context)
            for j, name in enumerate(columns)
        }
        for target in targets:
            if not np.isfinite(history[target]).any():
                # Nothing is known of it: the service forecasts nothing either.
                continue
            others = {name: history[name][None] for name in loaded.exogenous if name != target and name in history}
            when = np.array([last], dtype="datetime64[s]")
            bands = loaded.forecast(history[target][None], when, steps, target, others or None)[0]
            ahead = when[0] + steps * np.timedelta64(loaded.step_seconds, "s")
            out.append(
                pd.DataFrame(
                    {
                        "resource_id": checked["resource_id"].iloc[start],
                        "target": target,
                        "step": steps,
                        "timestamp": pd.to_datetime(ahead, utc=True),
                        "p10": bands[:, 0],
                        "p50": bands[:, 1],
                        "p90": bands[:, 2],
                    }
                )
            )
    if not out:
        raise DataError(f"holds no value of the servable's targets ({', '.join(targets)})", table="usage")
    return pd.concat(out, ignore_index=True)


class ServableModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A servable folder as an MLflow model: what ``mlflow models serve`` runs is what the workbench serves."""

    def load_context(self, context: Any) -> None:
        """Load and verify the servable that was logged with the model."""
        self._servable = servable.load(context.artifacts["servable"])

    # Of this type hint MLflow makes no signature, and does not complain; windows come as an array.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Score rows (threat, capacity) or windows (failure), as `score_table` and the servable do."""
        if isinstance(self._servable, FailureServable):
            return self._servable.predict(np.asarray(model_input, dtype=np.float32))
        return score_table(self._servable, pd.DataFrame(model_input))
