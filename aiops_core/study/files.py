"""The files of a run: their folder, JSON without NaN, the versions that are written into it."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from aiops_core import settings
from aiops_core.data import sources

__all__ = ["folder_of", "versions", "write_json"]

PACKAGES = ("ray", "tensorflow", "scikit-learn", "xgboost", "mlflow", "onnxruntime", "pandas", "numpy", "optuna")


def folder_of(out: str | Path | None, source: str) -> Path:
    """Return the absolute folder of a run: ``out``, or ``reports/<source>`` in the project's folder."""
    home = settings.load().home
    if out is None or str(out) == "":
        name = source if source in ("synthetic", *sources.PUBLIC) else Path(source).resolve().name
        return home / "reports" / name
    return home / Path(out)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape results."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, then rename; NaN becomes null, because JSON has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(_clean(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_clean(v) for v in value]
    if isinstance(value, np.ndarray):
        return _clean(value.tolist())
    if isinstance(value, np.generic):
        return _clean(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
