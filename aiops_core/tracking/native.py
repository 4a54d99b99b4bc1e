"""The native parts of a model, each saved with its MLflow flavor beside the servable."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Types that a random forest's skops file holds beyond those trusted by default; reviewed: trees and numpy only.
SKOPS_TRUSTED = [
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._forest.RandomForestClassifier",
    "sklearn.tree._classes.DecisionTreeClassifier",
]
#: MLflow flavor of the parts of each library, and how it is to save them.
FLAVORS: dict[str, tuple[str, dict[str, Any]]] = {
    "keras": ("tensorflow", {"pip_requirements": ["tensorflow"]}),
    "xgboost": ("xgboost", {"pip_requirements": ["xgboost"], "model_format": "ubj"}),
    "sklearn": ("sklearn", {"pip_requirements": ["scikit-learn"], "skops_trusted_types": SKOPS_TRUSTED}),
}


def save_native(model: Any, folder: str | Path) -> dict[str, str]:
    """Save the native parts of a model, each with its MLflow flavor, under ``folder``.

    Parameters
    ----------
    model : object
        A task's model; its Keras models, scikit-learn estimators and XGBoost boosters are found among its attributes.
    folder : path

    Returns
    -------
    dict of str to str
        Part name to flavor.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging
    import warnings

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    parts = _native_parts(model)
    flavors: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, part in parts.items():
            kind = type(part).__module__.split(".")[0]
            if kind not in FLAVORS:
                raise TypeError(f"native part '{name}' of type {type(part).__name__} has no MLflow flavor")
            flavor, options = FLAVORS[kind]
            importlib.import_module(f"mlflow.{flavor}").save_model(part, str(folder / name), **options)
            flavors[name] = kind
    return flavors


def _native_parts(model: Any) -> dict[str, Any]:
    """Return the estimators a model is made of; a ``native`` mapping of its own settles it."""
    own = getattr(model, "native", None)
    if own:
        return dict(own)
    found: dict[str, Any] = {}

    def look(name: str, value: Any) -> None:
        if type(value).__name__ in ("RandomForestClassifier", "Booster"):
            found[name] = value
        elif isinstance(value, Mapping):
            for key, member in value.items():
                look(f"{name}_{key}", member)
        elif isinstance(value, (list, tuple)):
            for i, member in enumerate(value):
                look(f"{name}_{i}", member)

    for name, value in vars(model).items():
        look(name, value)
    return found
