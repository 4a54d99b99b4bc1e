"""Where a run lies, and what made it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from aiops_core import settings
from aiops_core.data import sources

__all__ = ["folder_of", "versions"]

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
