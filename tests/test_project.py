"""The repository agrees with itself: locks, versions, notebooks, README."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest

import aiops_core
from aiops_core import job as pipeline

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(requirement: str) -> str:
    return re.split(r"[\[<>=;!~ ]", requirement.strip())[0].lower().replace("_", "-")


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    return {canonical(line): line for line in text.splitlines() if line and not line.startswith("#")}


def test_every_declared_package_is_locked_to_a_version_and_hashes_without_an_address() -> None:
    declared = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    pins = locked()
    assert {canonical(d) for d in declared} <= set(pins)
    for line in pins.values():
        pin, *options = line.split(" --")
        assert re.match(r"[\w.\[\]-]+==[\w.]+", pin), line
        assert options and all(re.fullmatch(r"hash=sha256:[0-9a-f]{64}", option.strip()) for option in options), pin
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_what_installs_the_lock_checks_its_hashes(tmp_path: Path) -> None:
    """The recipe that brings uv itself is run with a stand-in for python, which shows what pip would be given."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "pip sync --quiet --require-hashes" in text and "--generate-hashes --upgrade" in text
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    # Knows no uv yet; what else is asked for is written down.
    python.write_text(f'#!/bin/sh\ncase "$*" in *"uv --version"*) exit 1;; esac\necho "$*" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    made = ["make", f"VENV={tmp_path}", f"PYTHON={python}", f"{tmp_path}/.ready"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in asked] == ["pip", "uv", "uv"] and "--require-hashes" in asked[0]
    (line,) = (tmp_path / "uv.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert line == locked()["uv"]


def test_the_environment_file_is_a_door_to_the_same_lock() -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "-r requirements.lock" in text
    # Beside hashes pip takes no folder: that is a second step.
    assert not re.search(r"^\s+- -e", text, re.MULTILINE)
    for page in (text, (ROOT / "README.md").read_text(encoding="utf-8")):
        assert "pip install --no-deps -e ." in page
    assert f"python={PROJECT['project']['requires-python'].split('=')[1].split(',')[0]}" in text
    assert not re.search(r"^\s+- (ray|tensorflow|pandas|mlflow)", text, re.MULTILINE)


def test_the_packages_of_the_project_are_all_declared() -> None:
    declared = {canonical(d) for d in PROJECT["project"]["dependencies"]}
    wanted = {"ray", "tensorflow", "scikit-learn", "xgboost", "mlflow", "jupyterlab", "papermill", "pandas"}
    assert wanted <= declared


def test_version_and_changelog_agree() -> None:
    assert PROJECT["project"]["version"] == aiops_core.__version__
    assert f"## {aiops_core.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_top_level_is_the_agreed_one() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    allowed = {"notebooks", "aiops_core", "serve_app", "reports", "tests", "environment.yml", "README.md"} | {
        "pyproject.toml", "requirements.lock", "Makefile", "CHANGELOG.md", ".ci", ".pre-commit-config.yaml", ".gitignore"
    }  # fmt: skip
    assert top <= allowed


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("make test")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_thin_stripped_and_parameterized(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 14
        assert not re.search(r"^\s*(def|class) |sys\.path|^!|^%", cell.source, re.MULTILINE)
    for name, parameter in papermill.inspect_notebook(str(path)).items():
        assert parameter["inferred_type_name"] not in ("", "None"), name
        assert parameter["help"], f"{name} has no comment"


def test_notebooks_format_like_the_code() -> None:
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                ast.parse(cell.source)


def test_the_pipeline_knows_every_task_notebook() -> None:
    assert {p.stem for p in NOTEBOOKS} >= set(pipeline.NOTEBOOKS.values())


def test_an_unknown_notebook_parameter_is_refused(tmp_path: Path) -> None:
    from aiops_core.errors import UsageError

    with pytest.raises(UsageError, match="has no parameter 'n_trails'; did you mean 'n_trials'"):
        pipeline.execute("03_threat_detector", tmp_path / "out.ipynb", {"n_trails": 2})
    assert not (tmp_path / "out.ipynb").exists()


def test_a_notebook_refuses_what_papermill_only_warns_about() -> None:
    from aiops_core.errors import UsageError
    from aiops_core.study import notebook

    parameters = "n_samples: int = None  # examples\nn_trials: int = 20  # trials of the search"
    namespace = {"n_samples": 100, "n_trails": 2, "In": ["", parameters, "# Parameters\nn_trails = 2\n"]}
    with pytest.raises(UsageError, match="no parameter 'n_trails'; did you mean 'n_trials'"):
        notebook.check_parameters(namespace)
    notebook.check_parameters({**namespace, "In": ["", parameters, "# Parameters\nn_trials = 2\n"]})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_imports_only_what_exists(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aiops_core"):
                for alias in node.names:
                    module = importlib.import_module(str(node.module))
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
