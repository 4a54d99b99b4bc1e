"""The glue between notebooks and library: parameters, warnings, what is said first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from aiops_core import files
from aiops_core import job as pipeline
from aiops_core.errors import UsageError
from aiops_core.study import experiment, report

KNOWN = ("source", "seed", "n_trials")


def test_scratch_variables_are_nobodys_business() -> None:
    namespace = {"source": "smd", "seed": 3, "section": {}, "i": 4, "result": [1], "In": ["", "source = 'smd'"]}
    assert experiment.parameters(namespace, KNOWN) == {"source": "smd", "seed": 3}


def test_a_parameter_that_papermill_injects_by_mistake_is_refused() -> None:
    injected = ["", "seed: int = 7", "# Parameters\nseed = 3\nn_trails = 2\n"]
    with pytest.raises(UsageError, match="no parameter 'n_trails'; did you mean 'n_trials'"):
        experiment.parameters({"seed": 3, "n_trails": 2, "In": injected}, KNOWN)
    assert experiment.parameters({"seed": 3, "In": [injected[2].replace("n_trails", "n_trials")]}, KNOWN) == {"seed": 3}


def test_a_run_sets_every_parameter_of_its_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A default that somebody saved in a notebook must not leak into a report.
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("out: str = None\nn_samples: int = 1500")
    cell.metadata["tags"] = ["parameters"]
    notebook.cells.append(cell)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "x.ipynb")
    monkeypatch.setattr(pipeline, "notebook_folder", lambda: tmp_path)
    with pytest.raises(UsageError, match="has a parameter 'n_samples' that this run does not set"):
        pipeline.execute("x", tmp_path / "done.ipynb", {"out": None})


def test_a_parameter_of_none_overrides_what_is_saved_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("n_samples: int = 1500")
    cell.metadata["tags"] = ["parameters"]
    notebook.cells += [cell, nbformat.v4.new_code_cell("print(n_samples)")]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "x.ipynb")
    monkeypatch.setattr(pipeline, "notebook_folder", lambda: tmp_path)
    pipeline.execute("x", tmp_path / "done.ipynb", {"n_samples": None})
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert done.cells[-1].outputs[0].text == "None\n"


def section(**data: Any) -> dict[str, Any]:
    score = {"roc_auc": {"value": 1.0, "low": 1.0, "high": 1.0}}
    return {
        "model": "failure_predictor", "status": "trained", "reason": None, "main_metric": "roc_auc", "kind": "lstm",
        "metrics": score, "baselines": {}, "oracle": None, "model_version": 1, "run_id": "r", "parity": 0.0,
        "gate": {"decision": "champion", "reasons": ["beats class_prior"], "advice": "", "gains": {}},
        "data": {"rows": 9, "train_rows": 5, "validation_rows": 2, "test_rows": 2, "split": "by time", "digest": "d" * 64,
                 "notes": [], **data},
        "search": {"trials": 1, "completed": 1, "pruned": 0, "errored": 0, "seconds": 1.0, "best_params": {},
                   "objective": "average_precision", "best_score": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(("incidents", "warned"), [(2, True), (9, True), (10, False), (40, False)])
def test_a_test_of_few_incidents_gets_a_warning_instead_of_a_proud_number(
    tmp_path: Path, incidents: int, warned: bool
) -> None:
    files.write_json(tmp_path / "failure" / "section.json", section(test_incidents=incidents))
    files.write_json(tmp_path / "failure" / "details.json", {})
    report.render(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    cards = page[page.index('<div class="verdicts">') : page.index("What to do next")]
    assert f"with {incidents} incidents" in cards
    assert (f"Only {incidents} incidents in the test part" in cards) == warned
    assert ('<div class="big">' in cards) != warned
    words = report.verdict_words(json.loads((tmp_path / "report.json").read_text())["tasks"]["failure"])
    assert ("no figure of this model is reliable" in words) == warned
