"""Dependencies point one way; asserted from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"failure", "threat", "capacity"}
#: What each module of the library may import from it.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "tables": {"errors"},
    "synthetic": {"errors", "tables"},
    "datasets": {"errors", "settings", "synthetic", "tables"},
    "splits": {"errors"},
    "metrics": set(),
    "rules": {"errors"},
    "servable": {"errors", "servable"},
    "tracking": {"errors", "settings", "servable", "scoring"},
    "scoring": {"errors", "servable", "tables"},
    "tuning": {"errors", "settings", "tracking"},
    "gate": {"metrics"},
    "plots": {"experiment", "tables"},
    "console": {"experiment", "report", "tracking"},
    **{task: {"errors", "metrics", "rules", "servable", "splits", "synthetic", "tables"} for task in TASKS},
}
#: Third parties that one module owns.
OWNERS = {
    "papermill": {"pipeline"},
    "mlflow": {"tracking", "scoring"},
    "ray": {"tuning"},
    "pooch": {"datasets"},
    "pydantic_settings": {"settings"},
    "tensorflow": {"failure"},
    "keras": {"failure"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1]


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("aiops_core.")} - {"__version__"}


@pytest.mark.parametrize("path", modules("aiops_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_modules_import_only_what_lies_below_them(path: Path) -> None:
    name = name_of(path)
    if name in ALLOWED:
        assert ours(path) - {name} <= ALLOWED[name]
    assert not {i for i in imports(path) if i.split(".")[0] == "serve_app"}


@pytest.mark.parametrize("path", modules("aiops_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_each_heavy_library_has_one_owner(path: Path) -> None:
    for library, owners in OWNERS.items():
        if library in {i.split(".")[0] for i in imports(path)}:
            assert name_of(path) in owners, f"{path.name} imports {library}"


@pytest.mark.parametrize("path", modules("serve_app"), ids=lambda p: str(p.relative_to(ROOT)))
def test_serving_sees_only_the_light_part_of_the_library(path: Path) -> None:
    assert ours(path) <= {"servable", "tracking", "rules", "settings", "errors"}
    assert not {i for i in imports(path) if i.split(".")[0] in ("tensorflow", "keras", "sklearn", "xgboost")}


@pytest.mark.parametrize("package", ["aiops_core", "serve_app"])
def test_tensorflow_is_never_imported_at_module_level(package: str) -> None:
    for path in modules(package):
        assert not {i for i in imports(path, top_level=True) if i.split(".")[0] in ("tensorflow", "keras")}, path


@pytest.mark.parametrize("package", ["aiops_core", "serve_app"])
def test_the_environment_is_read_in_settings_only(package: str) -> None:
    for path in modules(package):
        text = path.read_text(encoding="utf-8")
        if path.name != "settings.py":
            assert "os.environ.get(" not in text.replace("saved = {key: os.environ.get(key)", "")
            assert "getenv(" not in text, path


def test_a_servable_needs_only_numpy_and_onnxruntime() -> None:
    third_parties = {
        i.split(".")[0] for path in modules("aiops_core") if name_of(path) == "servable" for i in imports(path)
    }
    known = {"numpy", "onnxruntime", "aiops_core"}
    import sys

    assert {t for t in third_parties if t not in sys.stdlib_module_names} <= known
