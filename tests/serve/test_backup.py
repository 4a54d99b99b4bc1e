"""Backup and restore: everything is destroyed in between, and the service answers as before."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import ROW, THREAT, Service
from typer.testing import CliRunner

from aiops_core import journal, tracking
from aiops_core.backup import state as backup_state
from aiops_core.backup.create import backup
from aiops_core.backup.restore import restore
from aiops_core.cli import app
from aiops_core.errors import UsageError
from aiops_core.journal import segments
from serve_app.champions.follower import Follower
from serve_app.champions.node import node_folder
from serve_app.files import append_line, write_json
from serve_app.guard import keys

#: Of the service that is backed up.
KEY = ""
AUDIT = b'{"outcome": "executed"}\n'


def settle(home: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None = None) -> Path:
    """Make a folder the home of this test's process and return its state folder."""
    home.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("AIOPS_HOME", str(home))
    monkeypatch.setenv("AIOPS_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri or f"sqlite:///{home / 'mlflow.db'}")
    return home / "state"


def answers(state: Path) -> list[bytes]:
    """Return what a service over a state folder answers, without what differs from request to request."""
    found = []
    client = Service(state).client
    series = [{"cpu_usage": 50.0, "memory_usage": 60.0}] * 24
    history = {"cpu_usage": [52.1, 55.4, 61.0, 58.3]}
    for route, body in (
        ("predict/threat", ROW),
        ("predict/failure", {"resource_id": "a", "time_series": series}),
        ("predict/capacity", {"resource_id": "a", "historical_data": history}),
    ):
        answer = client.post(route, body, headers={"authorization": f"Bearer {KEY}"})
        assert answer.status == 200, answer.body
        content = answer.json()
        for key in ("request_id", "timestamp", "latency_ms"):
            content.pop(key, None)
        found.append(json.dumps(content, sort_keys=True).encode())
    return found


@pytest.fixture
def home(
    servables: dict[str, Path], store_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Home and state folder of a service with champions, a node, an audit log, a job and keys."""
    folder = tmp_path / "home"
    state = settle(folder, monkeypatch)
    shutil.copy(store_template, folder / "mlflow.db")
    tracking.prepare_store()
    for task, path in servables.items():
        run = tracking.open_search(task, tmp_path / f"search-{task}", name="tiny", params={}, tags={})
        uri = tracking.log_servable(run.run_id, path)
        for _ in range(2 if task == "threat" else 1):
            tracking.register(task, run.run_id, "champion", model_uri=uri)
        page = tmp_path / "report.html"
        page.write_text("<p>a report</p>")
        tracking.log_pages(run.run_id, [page])
    Follower(node_folder(state), tracking).poll()
    append_line(state / "audit.jsonl", AUDIT)
    (state / "jobs" / "0123456789ab").mkdir(parents=True)
    write_json(state / "jobs" / "0123456789ab" / "job.json", {"job_id": "0123456789ab", "created": 1.0})
    write_json(state / "jobs" / "0123456789ab" / "status.json", {"status": "failed", "exit_code": 1})
    global KEY
    KEY = keys.add(state / "keys.json", "ci", ("read", "predict"))
    segment = segments.Segment(segments.folder_of(state, "threat"), journal.SCHEMAS["threat"], "node")
    record = {"request_id": "r1", "row": 0, "arrival_time": 0, "threat_type": "normal", "inputs": b"", "steps": 0}
    segment.append(pa.RecordBatch.from_pylist([record], journal.SCHEMAS["threat"]))
    journal.add_feedback(state, [{"request_id": "r1", "label": "scan"}], who="ann")
    return folder, state


def aiops(*arguments: str) -> str:
    """Run the command in a process of its own, which has no connection to a database that is gone."""
    command = [sys.executable, "-m", "aiops_core.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.slow
def test_after_everything_was_destroyed_a_restored_service_answers_the_same(
    home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, state = home
    before = answers(state)
    versions = aiops("models", "list")
    archive = tmp_path / "backups" / "aiops.tar.gz"
    archive.parent.mkdir()
    done = CliRunner().invoke(app, ["backup", str(archive)])
    assert done.exit_code == 0 and "not in it: artifacts of runs" in done.output, done.output
    assert archive.stat().st_mode & 0o777 == 0o600 and list(archive.parent.iterdir()) == [archive]
    shutil.rmtree(folder)
    done = CliRunner().invoke(app, ["restore", str(archive)])
    assert done.exit_code == 0 and "files restored" in done.output, done.output
    assert answers(state) == before
    assert aiops("models", "list") == versions and "champion" in versions
    assert (state / "audit.jsonl").read_bytes() == AUDIT
    assert journal.labelled(state, "threat")[["request_id", "truth"]].values.tolist() == [["r1", "scan"]]
    job = Service(state).client.get("models/train/0123456789ab", headers={"authorization": f"Bearer {KEY}"}).json()
    assert job["status"] == "failed" and Service(state).client.get("models/train").status == 401
    assert [p for p in (state, *state.rglob("*")) if p.stat().st_mode & 0o077 and "metrics" not in p.parts] == []
    # Nothing but the archive was needed: what is promoted next comes from the registry.
    shutil.rmtree(state / "nodes")
    assert "version 1 is the champion again" in aiops("models", "rollback", THREAT)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_a_registry_is_restored_in_another_folder(
    home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, state = home
    before = answers(state)
    backup(tmp_path / "b.tar.gz")
    shutil.rmtree(folder)
    elsewhere = settle(tmp_path / "elsewhere", monkeypatch)
    restore(tmp_path / "b.tar.gz")
    shutil.rmtree(elsewhere / "nodes")
    Follower(node_folder(elsewhere), tracking).poll()
    assert answers(elsewhere) == before


@pytest.mark.slow
def test_what_is_there_is_replaced_only_by_force_and_set_aside(home: tuple[Path, Path], tmp_path: Path) -> None:
    folder, state = home
    archive = tmp_path / "b.tar.gz"
    backup(archive)
    append_line(state / "audit.jsonl", AUDIT)
    (folder / "mlflow.db-journal").write_bytes(b"")
    before = digests(folder)
    done = CliRunner().invoke(app, ["restore", str(archive)])
    assert isinstance(done.exception, UsageError) and "is not empty" in str(done.exception)
    assert digests(folder) == before
    node = node_folder(state)
    with open(node / "follower.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="a service is running"):
            restore(archive, force=True)
    _, aside = restore(archive, force=True)
    assert (state / "audit.jsonl").read_bytes() == AUDIT
    old = next(path for path in aside if path.name.startswith("state.before-restore-"))
    assert (old / "audit.jsonl").read_bytes() == AUDIT * 2
    assert not (folder / "mlflow.db-journal").exists()


@pytest.mark.slow
def test_of_a_registry_on_a_server_the_state_is_kept_and_the_rest_is_named(
    home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, state = home
    before = answers(state)
    settle(folder, monkeypatch, "http://svc:s3cret@127.0.0.1:9")
    manifest = backup(tmp_path / "b.tar.gz")
    assert manifest["left_out"][0].startswith("the registry at http://***@127.0.0.1:9: back it up where it runs")
    assert not [name for name in manifest["members"] if name.startswith("registry/")]
    shutil.rmtree(state)
    restore(tmp_path / "b.tar.gz")
    # The champions in the node's cache are enough to serve.
    assert answers(state) == before
    # A registry that the archive does not hold is left alone.
    settle(folder, monkeypatch)
    restore(tmp_path / "b.tar.gz", force=True)
    assert THREAT in tracking.champions()


def member(archive: tarfile.TarFile, name: str, content: bytes = b"x", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content) if not fields else 0
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def forged(
    path: Path, fill: Callable[[tarfile.TarFile], None], members: dict[str, str], manifest: dict[str, Any]
) -> Path:
    """Write an archive of one's own."""
    with tarfile.open(path, "w:gz") as archive:
        fill(archive)
        content = {"format": 1, "members": members, "artifacts": None, "left_out": [], **manifest}
        member(archive, "manifest.json", json.dumps(content).encode())
    return path


X = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("fill", "members", "manifest", "words"),
    [
        (lambda a: member(a, "state/../../out"), {"state/../../out": X}, {}, "would leave its folder"),
        (lambda a: member(a, "/etc/out"), {"/etc/out": X}, {}, "would leave its folder"),
        (lambda a: member(a, "state//out"), {"state//out": X}, {}, "would leave its folder"),
        (
            lambda a: member(a, "state/link", type=tarfile.SYMTYPE, linkname="/etc"),
            {"state/link": X},
            {},
            "is no file",
        ),
        (
            lambda a: member(a, "state/link", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
            {"state/link": X},
            {},
            "is no file",
        ),
        (lambda a: member(a, "state/pipe", type=tarfile.FIFOTYPE), {"state/pipe": X}, {}, "is no file"),
        (lambda a: member(a, "elsewhere/out"), {"elsewhere/out": X}, {}, "there is no place for 'elsewhere/out'"),
        (lambda a: member(a, "state/a", b"y"), {"state/a": X}, {}, "'state/a' is damaged"),
        (lambda a: None, {"state/a": X}, {}, "'state/a' is missing"),
        (lambda a: member(a, "state/a"), {}, {}, "'state/a' is not in its manifest"),
        (lambda a: (member(a, "state/a"), member(a, "state/a")), {"state/a": X}, {}, "is in it twice"),
        (lambda a: member(a, "state/a"), {"state/a": X}, {"format": 2}, "is of format 2"),
        (lambda a: member(a, "state/a"), {"state/a": X}, {"members": None}, "has no manifest"),
    ],
)
def test_a_forged_archive_is_refused_in_one_sentence_and_changes_nothing(
    fill: Callable[[tarfile.TarFile], None],
    members: dict[str, str],
    manifest: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle(tmp_path / "home", monkeypatch)
    archive = forged(tmp_path / "forged.tar.gz", fill, members, manifest)
    with pytest.raises(UsageError, match=words) as caught:
        restore(archive)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "home").iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == [
        "forged.tar.gz",
        "home",
    ]


def test_a_damaged_archive_is_refused_wherever_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = settle(tmp_path / "home", monkeypatch)
    append_line(state / "audit.jsonl", AUDIT)
    (state / "windows.journal").write_bytes(bytes(range(256)) * 2000)
    archive = tmp_path / "b.tar.gz"
    backup(archive)
    good = archive.read_bytes()
    shutil.rmtree(state)
    broken = [
        good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :] for at in range(0, len(good), max(1, len(good) // 40))
    ]
    refused = 0
    for content in [b"", b"no archive", *(good[:at] for at in (20, len(good) // 2, len(good) - 5)), *broken]:
        archive.write_bytes(content)
        try:
            restore(archive)
        except UsageError as error:
            refused += 1
            assert "\n" not in str(error) and not state.exists()
        else:
            # A byte of the gzip header, such as its time, says nothing about the content.
            assert (state / "audit.jsonl").read_bytes() == AUDIT
            shutil.rmtree(state)
    assert refused >= 5 + 0.8 * len(broken)
    with pytest.raises(UsageError, match="does not exist"):
        restore(tmp_path / "none.tar.gz")


def test_a_backup_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = settle(tmp_path / "home", monkeypatch)
    append_line(state / "audit.jsonl", AUDIT)
    with pytest.raises(UsageError, match="lies in the state folder"):
        backup(state / "b.tar.gz")
    with pytest.raises(UsageError, match="cannot be written"):
        backup(tmp_path / "missing" / "b.tar.gz")
    assert [p.name for p in state.iterdir()] == ["audit.jsonl"]


@pytest.mark.slow
def test_feedback_that_is_written_while_a_backup_runs_is_in_it_whole(home: tuple[Path, Path], tmp_path: Path) -> None:
    _, state = home
    # In the file beside the database only, as long as somebody has it open.
    open_one = sqlite3.connect(state / "feedback.sqlite")
    open_one.execute("select count(*) from statements").fetchone()
    journal.add_feedback(state, [{"request_id": "r2", "verdict": "missed"}])
    manifest = backup(tmp_path / "b.tar.gz")
    open_one.close()
    inside = [name for name in manifest["members"] if "feedback" in name]
    assert inside == ["state/feedback.sqlite"]
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        archive.extract("state/feedback.sqlite", tmp_path / "out", filter="data")
    assert journal.feedback(tmp_path / "out" / "state")["request_id"].tolist() == ["r1", "r2"]


@pytest.mark.slow
def test_a_segment_that_is_sealed_while_a_backup_runs_is_in_it_as_it_is_then(
    home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, state = home
    (segment,) = state.glob("journal/threat/*.segment")
    members = backup_state.members

    def sealing(folder: Path, work: Path) -> Any:
        found = list(members(folder, work))
        segments.seal(segment)
        return iter(found)

    monkeypatch.setattr(backup_state, "members", sealing)
    names = backup(tmp_path / "b.tar.gz")["members"]
    assert [Path(name).suffix for name in names if "journal/threat/2" in name] == [".parquet"]
