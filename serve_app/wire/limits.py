"""What one request may cost, in one table: the OpenAPI description and the README quote it.

``python -m serve_app.wire.limits`` prints the table.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = [
    "LARGE",
    "MAX_HEADER",
    "MAX_BATCH_VALUES",
    "MAX_ID",
    "MAX_INSTANCES",
    "MAX_METRICS",
    "MAX_NAME",
    "MAX_ORDER",
    "MAX_SERIES",
    "MAX_STAMP",
    "MAX_TEXT",
    "MAX_VALUES",
    "MB",
    "TABLE",
    "Limits",
    "listing",
]

MB = 2**20
#: From here on a body counts as large: its work is cancelled when the client hangs up, and one is answered at a time.
LARGE = 16 * 1024
MAX_INSTANCES = 10_000
#: Rows of a time series or history.
MAX_SERIES = 20_000
#: Values of one instance, and of a whole batch.
MAX_VALUES, MAX_BATCH_VALUES = 400_000, 4_000_000
#: Metrics of one row.
MAX_METRICS = 1_000
#: Characters of the name of a metric.
MAX_NAME = 256
#: Characters of the name of a resource or address.
MAX_ID = 256
#: Characters of a time.
MAX_STAMP = 64
#: Characters of a category.
MAX_TEXT = 10_000
#: Bytes of the value of a header.
MAX_HEADER = 8 * 1024
#: Bytes of a body that is no prediction.
MAX_ORDER = MB


@dataclass(frozen=True)
class Limits:
    """The limits that a setting may move.

    Attributes
    ----------
    body : int
        Bytes of a body.
    answer : int
        Bytes of an answer.
    held : int
        Bytes of bodies and large answers that one replica holds at a time.
    requests : int
        Requests that one replica has under way at a time.
    body_seconds : float
        From the first to the last byte of a body, and of a large answer.
    answer_seconds : float
        For the work on a large body.
    """

    body: int = 16 * MB
    answer: int = 160 * MB
    held: int = 256 * MB
    requests: int = 512
    body_seconds: float = 60.0
    answer_seconds: float = 300.0


_BUILT_IN = Limits()
#: What, its default, its setting, and why it is there.
TABLE: tuple[tuple[str, str, str, str], ...] = (
    ("body of a request", f"{_BUILT_IN.body // MB} MB", "AIOPS_MAX_BODY_MB", "10,000 rows of any table fit"),
    ("body of any other POST", f"{MAX_ORDER // MB} MB", "", "orders are short"),
    ("body, first to last byte", f"{_BUILT_IN.body_seconds:g} s", "", "a slow sender holds memory"),
    ("instances", f"{MAX_INSTANCES:,}", "", "a batch is answered as a whole"),
    ("rows of a series", f"{MAX_SERIES:,}", "", "models read far fewer"),
    ("values of an instance", f"{MAX_VALUES:,}", "", "read in one go, while others wait"),
    ("values of a batch", f"{MAX_BATCH_VALUES:,}", "", "as sent, and once more as windows of the models"),
    ("metrics of a row", f"{MAX_METRICS:,}", "", "every one is judged by itself"),
    ("name of a metric", f"{MAX_NAME} characters", "", "answers repeat it"),
    ("name of a resource or address", f"{MAX_ID} characters", "", "answers repeat it"),
    ("a category", f"{MAX_TEXT:,} characters", "", "texts of tables are short"),
    ("a time", f"{MAX_STAMP} characters", "", "ISO 8601 needs no more"),
    ("a header", f"{MAX_HEADER // 1024} KB", "", "none that is read is long"),
    ("nesting", "as the schema, 5 levels", "", "deeper values break the schema"),
    ("answer", f"{_BUILT_IN.answer // MB} MB", "AIOPS_MAX_ANSWER_MB", "10,000 forecasts of a metric for a week fit"),
    ("work on a large body", f"{_BUILT_IN.answer_seconds:g} s", "", "nobody waits longer"),
    ("bodies and answers in a replica", f"{_BUILT_IN.held // MB} MB", "AIOPS_MAX_HELD_MB", "memory"),
    ("requests in a replica", f"{_BUILT_IN.requests}", "AIOPS_MAX_REQUESTS", "a queue without end helps nobody"),
)


def listing() -> str:
    """Return the table as Markdown."""
    lines = ["| limit | default | setting | why |", "| --- | --- | --- | --- |"]
    lines += [f"| {what} | {most} | {f'`{name}`' if name else ''} | {why} |" for what, most, name, why in TABLE]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(listing() + "\n")
