"""Columns of a record of the journal, by task."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["SCHEMAS", "TIME"]

TIME = pa.timestamp("us", tz="UTC")
_LIST = pa.list_(pa.float32())
_COMMON: list[tuple[str, pa.DataType]] = [
    # As the answer says it: in a batch it ends with the place of the row, which `row` holds too.
    ("request_id", pa.string()),
    ("row", pa.int32()),
    ("resource_id", pa.string()),
    # The newest time that the model saw.
    ("event_time", TIME),
    ("arrival_time", TIME),
    # 0 stands for an untrained legacy model.
    ("version", pa.int32()),
    # Number of the correction from feedback that was in effect.
    ("recalibration", pa.int32()),
    ("role", pa.string()),
    ("latency_ms", pa.float32()),
    ("key", pa.string()),
    # float32, little endian, C order, raw units: `steps` rows of the features of that version.
    ("inputs", pa.binary()),
    ("steps", pa.int32()),
    ("shadow_version", pa.int32()),
]
_OUTPUTS: dict[str, list[tuple[str, pa.DataType]]] = {
    "failure": [
        ("probability", pa.float64()),
        ("threshold", pa.float64()),
        ("alarm", pa.bool_()),
        ("shadow_probability", pa.float64()),
        ("shadow_alarm", pa.bool_()),
    ],
    "threat": [
        ("threat_type", pa.string()),
        ("probabilities", _LIST),
        ("probability", pa.float64()),
        ("threshold", pa.float64()),
        ("alarm", pa.bool_()),
        ("shadow_threat_type", pa.string()),
        ("shadow_probabilities", _LIST),
    ],
    "capacity": [
        ("target", pa.string()),
        ("forecast", _LIST),
        ("low", _LIST),
        ("high", _LIST),
        ("shadow_forecast", _LIST),
    ],
}
#: Arrow schema by task.
SCHEMAS: dict[str, pa.Schema] = {task: pa.schema(_COMMON + outputs) for task, outputs in _OUTPUTS.items()}
