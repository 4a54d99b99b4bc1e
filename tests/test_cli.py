"""Every bad input ends with exit code 2, one sentence on stderr, and nothing changed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core import cli, console, tracking
from aiops_core.job.workspace import as_typed

STAMPS = pd.date_range("2026-01-01", periods=400, freq="h", tz="UTC")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with no cluster and no store configured."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.chdir(folder)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "AIOPS_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


def refused(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the command and return its one line of refusal, after checking that nothing was left behind."""
    before = sorted(str(p) for p in home.rglob("*"))
    monkeypatch.setattr("sys.argv", ["aiops", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    assert sorted(str(p) for p in home.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "cmaps"], "unknown source 'cmaps': neither a folder nor a data set; did you mean 'cmapss'?"),
        (["--trials", "0"], "--trials 0 must be at least 1"),
        (["--trials", "-3"], "--trials -3 must be at least 1"),
        (["--n-samples", "0"], "--n-samples 0 must be at least 1"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--protocol", "random"], "--protocol random is none of time, resource"),
        (["--seed", "-1"], "--seed -1 must not be negative"),
        (["--signal", "2"], "--signal 2.0 must lie from 0 to 1"),
        (["--tasks", "failur"], "unknown task 'failur'; did you mean 'failure'?"),
        (["--set", "failure.widnow=3"], "[failure] has no key 'widnow'; did you mean 'window'?"),
        (["--set", "window"], "is not of the form task.name=value"),
        (["--set", "failure.window=1"], "window = 1 must be a whole number of at least 2"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_report_refuses_options(
    arguments: list[str], words: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    n = [] if "--source" in arguments or "--n-samples" in arguments else ["--n-samples", "300"]
    assert words in refused(home, capsys, monkeypatch, "report", *n, *arguments)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--start": "2026-01-01"}, "--start '2026-01-01' has no timezone"),
        ({"--end": "soon"}, "--end 'soon' is no time"),
        ({"--end": "2025-01-01T00:00Z"}, "is no range"),
        ({"--metric": "cpu"}, "--metric 'cpu' is not of the form column=query"),
        ({"--table": "incidents"}, "--table incidents must be usage or telemetry"),
        ({}, "no Prometheus server answers at 'http://127.0.0.1:1'"),
    ],
)
def test_prometheus_refuses_what_makes_no_sense(
    changed: dict[str, str], words: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"--metric": "cpu=up", "--start": "2026-01-01T00:00Z", "--end": "2026-01-02T00:00Z"} | changed
    pairs = [part for pair in options.items() for part in pair]
    assert words in refused(home, capsys, monkeypatch, "data", "prometheus", "http://127.0.0.1:1", "out", *pairs)


def folder_of(home: Path, **tables: pd.DataFrame) -> str:
    folder = home / "own"
    folder.mkdir()
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return str(folder)


def telemetry(**changes: object) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"resource_id": "a", "timestamp": STAMPS, "cpu_usage": rng.random(400), "errors": rng.random(400)}
    )
    return frame.assign(**changes)


INCIDENTS = pd.DataFrame({"resource_id": ["a"], "start": [STAMPS[300]], "end": [STAMPS[302]]})


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "holds no contract table"),
        ({"notes": telemetry()}, "holds no contract table"),
        ({"telemetry": telemetry().drop(columns="resource_id")}, "table 'telemetry', column 'resource_id': is missing"),
        ({"telemetry": telemetry(timestamp=STAMPS.tz_localize(None))}, "without a time zone; they are not guessed"),
        ({"telemetry": telemetry(timestamp="soon")}, "a timestamp that cannot be parsed, first 'soon'"),
        ({"telemetry": telemetry(timestamp=STAMPS[0])}, "400 rows share a (resource_id, timestamp)"),
        ({"telemetry": telemetry(cpu_usage="high")}, "column 'cpu_usage': 400 rows (first: 0, 1, 2) have"),
        ({"telemetry": telemetry(cpu_usage=np.inf)}, "an infinite value"),
        ({"telemetry": telemetry(cpu_usage=1, errors=2)}, "all 2 feature columns are constant"),
        ({"telemetry": telemetry(), "incidents": INCIDENTS.assign(resource_id="b")}, "not in telemetry, first b"),
        ({"telemetry": telemetry(), "incidents": INCIDENTS.assign(end=STAMPS[0])}, "an end before the start"),
        ({"telemetry": telemetry().iloc[:10], "incidents": INCIDENTS}, "telemetry"),
        ({"activity": pd.DataFrame({"x": [1.0, 2, 3], "threat_type": ["a", "a", "b"]})}, "class 'b' has one member"),
        ({"telemetry": telemetry()}, "holds no table for the tasks asked for"),
        ({"usage": telemetry().iloc[:5]}, "usage"),
    ],
)
def test_report_refuses_broken_tables(
    tables: dict[str, pd.DataFrame],
    words: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aiops_core import search as tuning

    # The check of the data comes before the cluster is of use; starting one here would only cost time.
    monkeypatch.setattr(tuning, "cluster", lambda: contextlib.nullcontext("127.0.0.1:0"))
    assert words in refused(home, capsys, monkeypatch, "report", "--source", folder_of(home, **tables))


def test_report_refuses_an_unreachable_store(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "no MLflow server answers" in refused(home, capsys, monkeypatch, "report", "--n-samples", "300")


def test_report_refuses_an_unreachable_cluster(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    if ray.is_initialized():
        pytest.skip("this process is connected to a cluster already")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "no Ray cluster answers at RAY_ADDRESS" in refused(home, capsys, monkeypatch, "report", "--n-samples", "300")


@pytest.mark.parametrize(
    ("out", "words"), [("/proc/none/report", "cannot be written"), ("pyproject.toml", "is a file")]
)
def test_report_refuses_an_unwritable_folder(
    out: str, words: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in refused(home, capsys, monkeypatch, "report", "--n-samples", "300", "--out", out)


def test_report_refuses_to_replace_a_folder_that_is_no_report(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "precious").mkdir()
    (home / "precious" / "thesis.txt").write_text("years of work")
    line = refused(home, capsys, monkeypatch, "report", "--n-samples", "300", "--out", "precious")
    assert "holds files that are not a report" in line
    assert (home / "precious" / "thesis.txt").read_text() == "years of work"


def test_report_says_when_the_disk_is_full(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from aiops_core import files

    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_json", full)
    assert "is full" in refused(home, capsys, monkeypatch, "report", "--n-samples", "300")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "promote", "threat_detektor", "1"], "did you mean 'threat_detector'?"),
        (["score", "thread", "a.csv", "b.csv"], "unknown task 'thread'"),
        (["data", "fetch", "cicids"], "did you mean 'cicids2017'?"),
        (["data", "validate", "nowhere"], "unknown source 'nowhere'"),
    ],
)
def test_other_commands_refuse_unknown_names(
    arguments: list[str], words: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in refused(home, capsys, monkeypatch, *arguments)


def test_generated_data_validate_and_repeat(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["aiops", "data", "generate", name, "--n-samples", "400"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
    monkeypatch.setattr("sys.argv", ["aiops", "data", "validate", "one"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert "telemetry:" in capsys.readouterr().out
    assert (home / "one" / "activity.parquet").read_bytes() == (home / "two" / "activity.parquet").read_bytes()


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (["--trials", "9"], ["--trials", "3"], "was started with --trials 9, this one with --trials 3"),
        (["--n-samples", "400"], [], "was started with --n-samples 400, this one with --n-samples 300"),
        (["--deterministic"], [], "was started with --deterministic, this one without --deterministic"),
        (
            ["--tasks", "threat,failure"],
            [],
            "with --tasks threat,failure, this one with --tasks failure,threat,capacity",
        ),
        (["--set", "failure.window=48"], [], "with --set failure.window=48, this one without --set"),
    ],
)
def test_resume_names_the_option_that_differs_as_it_is_typed(
    before: list[str],
    now: list[str],
    words: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aiops_core import job

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    few = [] if "--n-samples" in before else ["--n-samples", "300"]

    with monkeypatch.context() as patch:
        patch.setattr(job, "_preflight", stopped)
        patch.setattr("sys.argv", ["aiops", "report", "--out", "out", *few, *before])
        with pytest.raises(SystemExit):
            cli.main()
    capsys.readouterr()
    line = refused(home, capsys, monkeypatch, "report", "--out", "out", "--resume", "--n-samples", "300", *now)
    assert words in line


VERSIONS = [
    tracking.ModelVersion("failure_predictor", 12, "a1" * 16, "champion", "2026-11-24T10:17:34Z"),
    tracking.ModelVersion("capacity_forecaster", 3, "b2" * 16, "challenger", "2026-11-23T08:00:01Z"),
]


def test_an_option_of_a_run_is_shown_as_it_is_typed() -> None:
    assert as_typed("n_samples", None) == "without --n-samples"
    assert as_typed("config", {}) == "without --set"
    assert as_typed("tasks", ["threat"]) == "with --tasks threat"


def test_a_list_of_models_loses_nothing_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.models(VERSIONS)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows[1:]] == [
        ["failure_predictor", "12", "champion", "2026-11-24", "10:17", "a1" * 16],
        ["capacity_forecaster", "3", "challenger", "2026-11-23", "08:00", "b2" * 16],
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    console.models(VERSIONS)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(len(row.rstrip()) for row in plain.splitlines()) <= 80
    assert "…" not in plain
    for version in VERSIONS:
        assert f"{version.name}\n" in plain
        assert version.run_id in plain


def test_a_verdict_wraps_at_words_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    skipped = {"status": "skipped", "gate": None, "reason": " ".join(["misgivings"] * 40)}
    console.verdicts({"tasks": {"threat": skipped}})
    rows = capsys.readouterr().out.splitlines()[1:]
    assert max(map(len, rows)) <= 80
    assert set(" ".join(rows).split()) == {"Skipped:", "misgivings", "misgivings."}
