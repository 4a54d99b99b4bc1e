"""Dependencies point one way; asserted from the syntax trees, imports inside functions included.

`ROOMS` lists every module of both packages: a new file must be given its place. A room may import the rooms named with
it, and nothing in the two packages goes round in a circle.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Room: (what it may import, its modules below the room). "." is the room itself.
# fmt: off
ROOMS: dict[str, tuple[str, str]] = {
    "aiops_core.redact": ("", "."),
    "aiops_core.errors": ("redact", "."),
    "aiops_core.facts": ("", "."),
    "aiops_core.files": ("", "."),
    "aiops_core.markup": ("", "."),
    "aiops_core.units": ("", "."),
    "aiops_core.settings": ("errors", "."),
    "aiops_core.judge": ("errors markup", ". curves gate intervals metrics seeds sequence shares sizes summed units"),
    "aiops_core.derive": ("errors", ". expression graph values"),
    "aiops_core.rules": ("errors", ". actions anomaly anomaly.detector anomaly.past anomaly.reference failure inputs threat"),
    "aiops_core.servable": (
        "errors markup files derive",
        ". capacity capacity_features capacity_layout changes failure folder recalibration seal series threat",
    ),
    "aiops_core.journal": (
        "errors facts files",
        ". export feedback labels privacy reading schema segments statements usage versions",
    ),
    "aiops_core.data": (
        "errors redact markup facts files settings units rules servable derive",
        ". derive folder overview periods seen sources sources.prometheus sources.public splits synthetic synthetic.capacity "
        "synthetic.capacity_filter synthetic.capacity_parts synthetic.draws synthetic.drift synthetic.failure synthetic.failure_chain "
        "synthetic.failure_effects synthetic.failure_filter synthetic.failure_metrics synthetic.threat "
        "synthetic.threat_tactics tables validation",
    ),
    "aiops_core.tasks.cards": ("facts units", "."),
    "aiops_core.tasks.failure": (
        "errors facts units judge rules servable data tasks.cards derive",
        ". baselines data decision evaluation export findings model network prepare recurrence seen split stack "
        "training tree_graph trees units validated window_statistics",
    ),
    "aiops_core.tasks.threat": (
        "errors facts units judge rules servable data tasks.cards derive",
        ". alarms baselines data decision evaluation export findings forest inputs learners model prepare rows seen split "
        "units validated",
    ),
    "aiops_core.tasks.capacity": (
        "errors facts units judge rules servable data tasks.cards derive",
        ". backbone band baselines booster data evaluation export findings model naive pairs prediction prepare "
        "scale seen split theta units validated",
    ),
    "aiops_core.tasks": ("", "."),
    "aiops_core.tracking": (
        "errors redact facts files settings servable data",
        ". corrections looks native recalibrations registry runs scoring servables snapshot store",
    ),
    "aiops_core.monitor": (
        "errors facts files settings servable journal tasks.cards tracking",
        ". alerts drift estimate look quality records sensors traffic verdict",
    ),
    "aiops_core.search": (
        "errors files settings data tracking judge",
        ". ablation choice connection events final result run space",
    ),
    "aiops_core.study": (
        "errors markup facts files settings judge rules servable data tracking search monitor",
        ". ablation champion first_screen measured model_card monitoring notebook origin panel pictures pictures.capacity pictures.common "
        "pictures.data pictures.failure pictures.monitoring pictures.of_study pictures.search pictures.threat policy progress report "
        "section study trainings words",
    ),
    "aiops_core.replay": (
        "errors markup facts files settings servable journal tracking study",
        ". alerts answers commands measures page run why",
    ),
    "aiops_core.job": (
        "errors redact facts files settings data tracking search study monitor",
        ". environment lanes monitoring notebooks workspace",
    ),
    "aiops_core.retrain": (
        "errors redact facts files settings judge journal data tracking job live console",
        ". commands page run settle state tables",
    ),
    "aiops_core.console": ("facts tracking study", "."),
    "aiops_core.data_commands": ("errors data console", "."),
    "aiops_core.commands": ("facts job", "."),
    "aiops_core.journal_commands": ("errors facts settings journal", "."),
    "aiops_core.backup": ("errors redact files settings tracking", ". commands create places restore state"),
    "aiops_core.live": (
        "audited errors facts files settings judge servable journal tracking console", ". commands pairs verdict"
    ),
    "aiops_core.recalibrate": (
        "audited errors facts settings servable journal tracking live replay", ". commands evidence learn"
    ),
    "aiops_core.audited": ("errors", "."),
    "aiops_core.cli": (
        "audited commands data_commands replay retrain recalibrate backup journal_commands live errors redact files settings servable data "
        "tracking job console",
        ".",
    ),
    "serve_app.wire": (
        "aiops_core.facts aiops_core.units",
        ". decoding features first limits problems requests responses times violations wording",
    ),
    "serve_app.files": ("", "."),
    "serve_app.cluster": ("files", ". haproxy leftovers"),
    "serve_app.guard": (
        "wire files aiops_core.errors aiops_core.facts aiops_core.redact aiops_core.settings",
        ". __main__ access audit commands keys rates replays sources",
    ),
    "serve_app.operations": (
        "wire files cluster guard aiops_core.errors aiops_core.facts aiops_core.journal aiops_core.redact aiops_core.settings",
        ". catalogue dashboard ended jobs load log monitored remediation retraining runner schedule telemetry tracing",
    ),
    "serve_app.journal": (
        "wire operations aiops_core.journal aiops_core.settings",
        ". entries recorder records watch",
    ),
    "serve_app.alerts": (
        "wire files journal operations aiops_core.facts aiops_core.journal aiops_core.settings", ". rules store watch"
    ),
    "serve_app.answers": (
        "wire journal operations aiops_core.errors aiops_core.facts aiops_core.rules aiops_core.servable",
        ". anomaly batches canary capacity capacity_input envelope failure failure_input legacy outlook rows second series "
        "service shadow threat window_journal windows",
    ),
    "serve_app.champions": (
        "wire files cluster guard operations answers aiops_core.errors aiops_core.redact aiops_core.facts aiops_core.settings "
        "aiops_core.servable aiops_core.tracking",
        ". beside client commands companions follower listening liveness neighbours node supervisor verify watcher",
    ),
    "serve_app.http": (
        "wire guard alerts answers journal operations champions aiops_core.facts aiops_core.errors aiops_core.journal "
        "aiops_core.live",
        ". alerting api bodies components docs examples feedback handlers judging meanings openapi ready request_ids router routes writes",
    ),
    "serve_app.backends": ("wire alerts answers journal operations champions http aiops_core.facts aiops_core.servable", "."),
    "serve_app.ray_serve": ("", "."),
    "serve_app.app": (
        "ray_serve wire guard alerts answers journal operations champions http backends aiops_core.errors aiops_core.facts "
        "aiops_core.journal aiops_core.settings",
        ".",
    ),
    "serve_app.run": (
        "app champions cluster guard operations aiops_core.errors aiops_core.files aiops_core.settings", "."
    ),
    "serve_app.__main__": ("run", "."),
}
# fmt: on
#: Third parties that few modules own.
OWNERS = {
    "papermill": ("aiops_core.job",),
    "mlflow": ("aiops_core.tracking",),
    "ray": ("aiops_core.search", "serve_app.app", "serve_app.ray_serve", "serve_app.run"),
    "pooch": ("aiops_core.data.sources",),
    "starlette": ("serve_app.http",),
    "prometheus_client": ("serve_app.operations",),
    "pydantic_settings": ("aiops_core.settings",),
    "tensorflow": ("aiops_core.tasks.failure",),
    "keras": ("aiops_core.tasks.failure",),
    "sklearn": ("aiops_core.tasks",),
    "xgboost": ("aiops_core.tasks",),
    "matplotlib": ("aiops_core.study", "aiops_core.replay"),
    "optuna": ("aiops_core.search", "aiops_core.study", "aiops_core.tasks"),
}
#: Lines of a file, and of a function without its docstring.
LIMIT, FUNCTION_LIMIT = 400, 60


def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name."""
    found = {}
    for package in ("aiops_core", "serve_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level else list(ast.walk(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name: str) -> set[str]:
    """Return the modules of the two packages that a module imports."""
    found = set()
    for target in imports(MODULES[name]):
        if target.split(".")[0] in ("aiops_core", "serve_app"):
            while target not in MODULES:
                target = target.rpartition(".")[0]
            found.add(target)
    return found - {name, "aiops_core", "serve_app"}


def room_of(name: str) -> str:
    inside = [room for room in ROOMS if name == room or name.startswith(room + ".")]
    assert inside, f"{name} has no room: list it in ROOMS"
    return max(inside, key=len)


def listed() -> set[str]:
    found = set()
    for room, (_, names) in ROOMS.items():
        found |= {f"{room}.{name}" if name != "." else room for name in names.split()}
    return found


def test_every_module_is_listed_and_every_listed_module_exists() -> None:
    assert set(MODULES) - {"aiops_core", "serve_app"} == listed()


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"aiops_core", "serve_app"}))
def test_a_module_imports_only_what_its_room_allows(name: str) -> None:
    room = room_of(name)
    package = room.split(".")[0]
    allowed = {room}
    for word in ROOMS[room][0].split():
        allowed.add(word if word.split(".")[0] in ("aiops_core", "serve_app") else f"{package}.{word}")
    strange = {target for target in ours(name) if room_of(target) not in allowed}
    assert not strange, f"{name} imports {sorted(strange)}"


def test_nothing_goes_round_in_a_circle() -> None:
    graph = {name: ours(name) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_tasks_are_built_alike_and_do_not_know_each_other() -> None:
    public = []
    for task in ("failure", "threat", "capacity"):
        room = f"aiops_core.tasks.{task}"
        mine = {target for module in MODULES if module.startswith(room) for target in ours(module)}
        assert {room_of(t) for t in mine if t.startswith("aiops_core.tasks")} <= {room, "aiops_core.tasks.cards"}
        public.append(set(__import__(room, fromlist=["__all__"]).__all__))
    common = public[0] & public[1] & public[2]
    assert common >= {
        "Effort", "GATE_METRICS", "KIND", "MAIN_METRIC", "MODE", "MODEL", "NAME", "OBJECTIVE", "SIMPLE_BASELINES",
        "STRONG_BASELINES", "baselines", "compare", "defaults", "details", "evaluate", "export", "finish", "fit", "oracle",
        "predict", "prepare", "score", "seen", "share", "space", "steps", "too_few", "units", "unseen", "NAIVE_BASELINES",
    }  # fmt: skip
    for task in ("failure", "threat", "capacity"):
        files = {m.rsplit(".", 1)[1] for m in MODULES if m.startswith(f"aiops_core.tasks.{task}.")}
        assert files >= {"data", "split", "prepare", "model", "export", "baselines", "evaluation"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_each_heavy_library_has_one_owner(name: str) -> None:
    for library in {i.split(".")[0] for i in imports(MODULES[name])} & set(OWNERS):
        assert name.startswith(OWNERS[library]), f"{name} imports {library}"


@pytest.mark.parametrize("name", sorted(m for m in MODULES if m.startswith("serve_app")))
def test_serving_never_sees_what_trains(name: str) -> None:
    assert not {
        t
        for t in ours(name)
        if t.startswith(("aiops_core.tasks", "aiops_core.search", "aiops_core.study", "aiops_core.data"))
    }


@pytest.mark.parametrize("name", sorted(MODULES))
def test_tensorflow_is_never_imported_at_module_level(name: str) -> None:
    assert not {i for i in imports(MODULES[name], top_level=True) if i.split(".")[0] in ("tensorflow", "keras")}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_file_is_longer_than_a_reader_can_hold(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LIMIT


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_function_is_longer_than_a_screen(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    lengths = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = node.body[0] if ast.get_docstring(node) else None
            inside = (told.end_lineno or 0) - told.lineno + 1 if told else 0
            lengths[node.name] = (node.end_lineno or 0) - node.lineno + 1 - inside
    assert {function: lines for function, lines in lengths.items() if lines > FUNCTION_LIMIT} == {}


def test_the_environment_is_read_in_settings_only() -> None:
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if name != "aiops_core.settings":
            assert "os.environ.get(" not in text.replace("saved = {key: os.environ.get(key)", ""), name
            assert "getenv(" not in text, name


def test_a_servable_needs_only_numpy_and_onnxruntime() -> None:
    found = {i.split(".")[0] for m in MODULES if m.startswith("aiops_core.servable") for i in imports(MODULES[m])}
    assert {t for t in found if t not in sys.stdlib_module_names} <= {"numpy", "onnxruntime", "aiops_core"}
