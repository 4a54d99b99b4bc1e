"""The glue between notebooks and library: parameters, warnings, what is said first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from aiops_core import files
from aiops_core.errors import UsageError
from aiops_core.job import notebooks
from aiops_core.study import notebook, pictures, report, words

KNOWN = ("source", "seed", "n_trials")


def test_scratch_variables_are_nobodys_business() -> None:
    namespace = {"source": "smd", "seed": 3, "section": {}, "i": 4, "result": [1], "In": ["", "source = 'smd'"]}
    assert notebook.parameters(namespace, KNOWN) == {"source": "smd", "seed": 3}


def test_a_parameter_that_papermill_injects_by_mistake_is_refused() -> None:
    injected = ["", "seed: int = 7", "# Parameters\nseed = 3\nn_trails = 2\n"]
    with pytest.raises(UsageError, match="no parameter 'n_trails'; did you mean 'n_trials'"):
        notebook.parameters({"seed": 3, "n_trails": 2, "In": injected}, KNOWN)
    assert notebook.parameters({"seed": 3, "In": [injected[2].replace("n_trails", "n_trials")]}, KNOWN) == {"seed": 3}


def test_a_run_sets_every_parameter_of_its_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A default that somebody saved in a notebook must not leak into a report.
    book = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("out: str = None\nn_samples: int = 1500")
    cell.metadata["tags"] = ["parameters"]
    book.cells.append(cell)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "x.ipynb")
    monkeypatch.setattr(notebooks, "notebook_folder", lambda: tmp_path)
    with pytest.raises(UsageError, match="has a parameter 'n_samples' that this run does not set"):
        notebooks.execute("x", tmp_path / "done.ipynb", {"out": None})


def test_a_parameter_of_none_overrides_what_is_saved_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("n_samples: int = 1500")
    cell.metadata["tags"] = ["parameters"]
    book.cells += [cell, nbformat.v4.new_code_cell("print(n_samples)")]
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "x.ipynb")
    monkeypatch.setattr(notebooks, "notebook_folder", lambda: tmp_path)
    notebooks.execute("x", tmp_path / "done.ipynb", {"n_samples": None})
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert done.cells[-1].outputs[0].text == "None\n"


def test_an_executed_notebook_becomes_a_page_that_needs_no_network(tmp_path: Path) -> None:
    book = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output("stream", text="ninety-nine <trials>\n")
    book.cells += [nbformat.v4.new_markdown_cell("# A title"), nbformat.v4.new_code_cell("print(x)", outputs=[output])]
    nbformat.write(book, tmp_path / "x.ipynb")
    notebooks.write_page(tmp_path / "x.ipynb", tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "A title" in page
    assert "ninety-nine &lt;trials&gt;" in page
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', page)


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
    assert (f"Only {incidents} incidents in the test part" in cards) == warned
    # The warning is read before the figure.
    assert not warned or cards.index("Only") < cards.index("ROC AUC")
    said = words.verdict_words(json.loads((tmp_path / "report.json").read_text())["tasks"]["failure"])
    assert ("no figure of this model is reliable" in said) == warned


def test_a_picture_of_a_search_says_that_there_was_none() -> None:
    study = SimpleNamespace(name="threat", result=None, details={"abstain": [1]}, drawn={})
    assert pictures.available(study) == ["comparison", "abstain", "search_progress", "learning_curves", "parameters"]
    with pytest.raises(UsageError, match=r"call search\(\) first"):
        pictures.draw(study, "parameters")


def test_the_command_line_checks_and_reports_without_loading_what_trains_and_draws() -> None:
    code = "import sys, aiops_core.cli, aiops_core.console, aiops_core.job; print(sorted(HEAVY & set(sys.modules)))"
    heavy = "HEAVY = {'ray', 'mlflow', 'matplotlib', 'optuna', 'tensorflow', 'sklearn'}; "
    found = subprocess.run([sys.executable, "-c", heavy + code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
