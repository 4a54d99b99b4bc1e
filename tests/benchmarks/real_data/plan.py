"""What is measured: sources, measures with their floors and targets, metrics of the tables, and the time it takes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STORE = ROOT / "reports" / "real-data.json"
TABLE = ROOT / "reports" / "real-data.md"

#: In place of a metric: how much of the way from the best naive baseline to the oracle the model goes, in its main one.
SHARE = "share_of_oracle"
#: Source, task, metric, floor of an afternoon's work, target, and whether the target is a least or a most.
MEASURES: dict[str, list[tuple[str, str, str, str, float | None, str]]] = {
    "cmapss": [
        ("failure", "average_precision", "average precision", "0.936", 0.960, "≥"),
        ("failure", "f1", "F1 at the validated threshold", "0.85", 0.87, "≥"),
        ("failure", "ece", "ECE", "–", 0.02, "≤"),
    ],
    "smd": [
        ("failure", "roc_auc", "ROC AUC", "0.727", 0.76, "≥"),
        ("failure", "average_precision", "average precision", "0.190", 0.24, "≥"),
    ],
    "asd": [("failure", "average_precision", "average precision", "0.037 (hardly predictable)", None, "")],
    "backblaze": [("failure", "average_precision", "average precision", "0.237 (0.10 to 0.39)", None, "")],
    "nsl-kdd": [
        ("threat", "accuracy", "accuracy", "0.742 (0.787 prior-corrected)", 0.80, "≥"),
        ("threat", "macro_f1", "macro-F1", "0.508 (0.612 prior-corrected)", 0.68, "≥"),
    ],
    "cicids2017": [("threat", "macro_f1", "macro-F1", "0.971 (random split)", 0.99, "≥")],
    "azure-v1": [
        ("capacity", "mae", "MAE", "1.717", 1.60, "≤"),
        ("capacity", "coverage_80", "coverage of the 80 % band", "–", 0.78, "0.82 ≥ x ≥"),
    ],
    "bizitobs-l2c": [("capacity", "mase", "MASE", "0.568 (the value of a week ago)", 0.42, "≤")],
    "synthetic": [
        ("failure", SHARE, "average precision, share of the way to the oracle", "–", 0.80, "≥"),
        ("threat", SHARE, "macro-F1, share of the way to the oracle", "–", 0.90, "≥"),
        ("capacity", SHARE, "MASE, share of the way to the oracle", "–", 0.65, "≥"),
    ],
}
#: Those that a user brings as a folder.
FOLDERS = ("smd", "asd", "backblaze", "azure-v1", "bizitobs-l2c")
#: What the tables of all baselines show.
SHOWN = {
    "failure": ("average_precision", "roc_auc", "f1", "precision", "recall", "brier", "ece"),
    "threat": ("macro_f1", "accuracy", "log_loss", "ece"),
    "capacity": ("mase", "mae", "nmae", "pinball", "coverage_80"),
}
#: Minutes on two cores that the ordinary command and the fits at default parameters are expected to take.
MINUTES = {
    "cmapss": (5, 3), "smd": (10, 6), "asd": (7, 4), "backblaze": (7, 4), "nsl-kdd": (4, 2), "cicids2017": (9, 4),
    "azure-v1": (4, 2), "bizitobs-l2c": (3, 1), "synthetic": (14, 6),
}  # fmt: skip
#: Of the library, what a figure depends on beside its task.
SHARED_CODE = ("data", "derive", "judge", "servable", "search", "study")


def tasks_of(source: str) -> list[str]:
    """Return the tasks of a source, in the order of its measures."""
    return list(dict.fromkeys(task for task, *_ in MEASURES[source]))


def code_digest(source: str) -> str:
    """Return what a source's figures depend on in the code, 12 hexadecimal digits."""
    library = ROOT / "aiops_core"
    folders = [library / name for name in SHARED_CODE] + [library / "tasks" / task for task in tasks_of(source)]
    found = sorted(path for folder in folders for path in folder.rglob("*.py"))
    found += sorted((ROOT / "notebooks").glob("0[234]*.ipynb"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in found)).hexdigest()[:12]


def datasets_folder() -> Path:
    """Return the folder of the data sets: ``AIOPS_DATASETS_DIR``, or ``../shared/datasets`` beside the repository."""
    return Path(os.environ.get("AIOPS_DATASETS_DIR", ROOT.parent / "shared" / "datasets")).resolve()


def argument_of(source: str) -> str:
    """Return what the command's ``--source`` takes."""
    return str(datasets_folder() / source) if source in FOLDERS else source
