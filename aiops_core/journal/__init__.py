"""The journal: every answer of the service with the inputs as the model saw them, and what turned out true.

``STATE/journal/<task>/`` holds sealed Parquet files, the open ``*.segment`` files of running replicas beside them, and in
``versions/`` what the columns of each version's inputs mean. ``STATE/feedback.sqlite`` holds feedback. `read` gives the
answers, `labelled` the answers with what was true, `export_tables` both as contract tables.
"""

from __future__ import annotations

from aiops_core.journal.export import export_tables
from aiops_core.journal.feedback import KINDS, VERDICTS, add_feedback, feedback
from aiops_core.journal.labels import labelled
from aiops_core.journal.privacy import Privacy
from aiops_core.journal.reading import inputs_of, read
from aiops_core.journal.schema import SCHEMAS
from aiops_core.journal.versions import versions

__all__ = [
    "KINDS",
    "SCHEMAS",
    "VERDICTS",
    "Privacy",
    "add_feedback",
    "export_tables",
    "feedback",
    "inputs_of",
    "labelled",
    "read",
    "versions",
]
