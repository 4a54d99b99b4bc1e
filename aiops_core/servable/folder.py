"""The folder of a servable: written in one step, its card, its graphs and the check of its golden examples."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnxruntime as ort

from aiops_core import files
from aiops_core.errors import ServableError
from aiops_core.markup import Link, html_table
from aiops_core.servable.recalibration import Recalibration

CARD = "card.json"
GOLDEN = "golden.npz"
GOLDEN_PREFIX = "expected_"
SCHEMA_VERSION = 1


class Driver(TypedDict):
    """One reason behind a prediction.

    ``contribution`` is the change of the predicted number when ``feature`` is replaced by its reference value;
    positive means that the feature raised the prediction.
    """

    feature: str
    value: float | str | None
    contribution: float


class Servable:
    """A loaded servable: the card and lazily opened ONNX sessions.

    Parameters
    ----------
    folder : Path
        Servable folder, as made by `write`.
    card : dict
        Parsed ``card.json``.
    """

    #: Largest absolute difference to the golden outputs that is accepted, relative to ``max(1, |expected|)``.
    tolerance = 1e-4

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        self.folder = folder
        self.card = card
        self.task: str = card["task"]
        self.features: list[str] = [feature["name"] for feature in card["features"]]
        self._sessions: dict[str, ort.InferenceSession] = {}

    def _repr_html_(self) -> str:
        lineage, verdict = self.card.get("lineage") or {}, self.card.get("gate") or {}
        metrics = [f"{name} {value['value']:.3f}" for name, value in (self.card.get("metrics") or {}).items()]
        rows = {
            "features": ", ".join(self.features),
            "trained on": lineage.get("title", "unknown"),
            "MLflow run": lineage.get("run_id", "none"),
            "test": ", ".join(metrics[:8]) or "not measured",
            "gate": verdict.get("decision", "not judged"),
            "folder": Link(self.folder),
        }
        return html_table(f"Servable of {self.card.get('model', self.task)}", rows)

    def session(self, name: str) -> ort.InferenceSession:
        """Open (once) the graph ``name.onnx`` with one thread and no spinning: requests share the cores."""
        if name not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            path = self.folder / f"{name}.onnx"
            if not path.is_file():
                raise ServableError(f"servable {self.folder}: graph {path.name} is missing")
            self._sessions[name] = ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[name]

    def recalibrated(self, record: Recalibration) -> Servable:
        """Return the servable as a correction from feedback has it answer; it shares its graphs.

        Raises
        ------
        ServableError
            If answers of this task cannot be corrected.
        """
        raise ServableError(f"the answers of {self.task} cannot be corrected from feedback: train again")

    def golden(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replay the golden inputs; each task returns its outputs under the names stored in ``golden.npz``."""
        raise NotImplementedError

    def verify(self) -> None:
        """Compare the golden examples with what this machine computes.

        Raises
        ------
        ServableError
            If an output is missing, has another shape, or differs by more than `tolerance`.
        """
        with np.load(self.folder / GOLDEN, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        expected = {n.removeprefix(GOLDEN_PREFIX): a for n, a in arrays.items() if n.startswith(GOLDEN_PREFIX)}
        if not expected:
            raise ServableError(f"servable {self.folder}: {GOLDEN} holds no expected outputs")
        found = self.golden({n: a for n, a in arrays.items() if not n.startswith(GOLDEN_PREFIX)})
        for name, want in expected.items():
            got = found.get(name)
            if got is None or got.shape != want.shape:
                shape = None if got is None else got.shape
                raise ServableError(
                    f"servable {self.folder}: golden output '{name}' has shape {shape} instead of {want.shape}"
                )
            difference = np.abs(got.astype(float) - want.astype(float)) / np.maximum(1.0, np.abs(want.astype(float)))
            # A NaN on one side only must count as a difference.
            worst = float(np.max(np.where(np.isnan(got) & np.isnan(want), 0.0, np.nan_to_num(difference, nan=np.inf))))
            if worst > self.tolerance:
                raise ServableError(
                    f"servable {self.folder}: golden output '{name}' differs by {worst:.2g}, more than {self.tolerance:g}"
                )


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a folder.

    Raises
    ------
    ServableError
        If it is missing, cannot be read, or is of another schema version.
    """
    path = folder / CARD
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ServableError(f"servable {folder}: {CARD} is missing") from None
    except (OSError, ValueError) as error:
        raise ServableError(f"servable {folder}: {CARD} cannot be read ({error})") from error
    if card.get("schema_version") != SCHEMA_VERSION:
        raise ServableError(
            f"servable {folder}: card has schema_version {card.get('schema_version')!r}, this release reads {SCHEMA_VERSION}"
        )
    return card


def write(
    folder: str | Path, card: Mapping[str, Any], graphs: Mapping[str, bytes], golden: Mapping[str, np.ndarray]
) -> Path:
    """Write a servable folder in one step: a temporary folder, then a rename.

    Parameters
    ----------
    folder : str or Path
        Target; an existing servable there is replaced.
    card : mapping
        Content of ``card.json``; ``schema_version`` is added.
    graphs : mapping of str to bytes
        Serialized ONNX models by name, without ending.
    golden : mapping of str to ndarray
        Inputs by name, and the expected outputs under ``expected_<name>``.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, graph in graphs.items():
            (temporary / f"{name}.onnx").write_bytes(graph)
        arrays: dict[str, Any] = dict(golden)
        np.savez_compressed(temporary / GOLDEN, **arrays)
        (temporary / CARD).write_text(_json({"schema_version": SCHEMA_VERSION, **card}), encoding="utf-8")
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def update_card(folder: str | Path, **fields: Any) -> dict[str, Any]:
    """Set top-level keys of a card, keeping the rest; nested dicts are merged one level deep.

    Returns
    -------
    dict
        The new card.
    """
    folder = Path(folder)
    card = read_card(folder)
    for key, value in fields.items():
        card[key] = {**card[key], **value} if isinstance(card.get(key), dict) and isinstance(value, dict) else value
    files.write_text(folder / CARD, _json(card))
    return card


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not belong in a card")


def _json(card: Mapping[str, Any]) -> str:
    return json.dumps(card, indent=2, default=_plain, allow_nan=False) + "\n"
