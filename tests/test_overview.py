"""What `aiops data validate` says of a folder of own tables, and what a broken one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core import cli
from aiops_core.data import folder, overview, validation
from aiops_core.errors import DataError

RNG = np.random.default_rng(5)


def usage(step: str, rows: int, resources: str = "ab") -> pd.DataFrame:
    """Usage that repeats from Monday to Sunday."""
    stamps = pd.date_range("2025-01-06", periods=rows, freq=step, tz="UTC")
    level = 50 + 20 * (stamps.day_of_week < 5)
    parts = [
        pd.DataFrame({"resource_id": r, "timestamp": stamps, "cpu": level + RNG.normal(0, 1, rows)}) for r in resources
    ]
    return pd.concat(parts, ignore_index=True)


def activity(classes: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"x": RNG.random(len(classes)), "threat_type": classes})


def described(at: Path, **tables: pd.DataFrame) -> str:
    at.mkdir(exist_ok=True)
    for name, frame in tables.items():
        frame.to_csv(at / f"{name}.csv", index=False)
    return "\n".join(overview.lines(folder.load_folder(at)))


def test_tables_are_described_with_step_span_resources_incidents_and_classes(tmp_path: Path) -> None:
    metrics = usage("5min", 600)
    incidents = pd.DataFrame(
        {"resource_id": ["a"], "start": [metrics["timestamp"][300]], "end": [metrics["timestamp"][303]], "kind": "leak"}
    )
    said = described(tmp_path, telemetry=metrics, incidents=incidents, activity=activity(["normal"] * 6 + ["ddos"] * 2))
    assert "telemetry: 1,200 rows of 2 resources" in said
    assert "one row every 5 min, 2025-01-06 00:00 to 2025-01-08 01:55 UTC (2.1 days)" in said
    assert "incidents: 1 incident of 1 resource" in said
    assert "median duration 15 min" in said
    assert "kinds: leak 1" in said
    assert "classes: normal 6, ddos 2" in said
    assert "failure: window 24 (2 h), horizon 24 (2 h), stride 1, test_fraction 0.3" in said
    assert "capacity: no usage table" in said


@pytest.mark.parametrize(("step", "rows", "season"), [("D", 120, 7), ("5min", 4000, 288)])
def test_a_season_that_fits_the_step_better_than_the_default_is_suggested(
    tmp_path: Path, step: str, rows: int, season: int
) -> None:
    frame = usage(step, rows)
    frame["cpu"] = frame["cpu"] if step == "D" else np.sin(np.arange(len(frame)) % rows * 2 * np.pi / 288)
    said = described(tmp_path, usage=frame)
    assert "season 24 (" in said
    assert f"set [capacity] season = {season} in dataset.toml" in said


def test_no_season_is_suggested_where_it_was_chosen_or_the_data_speak_against_it(tmp_path: Path) -> None:
    assert "set [capacity]" not in described(tmp_path / "hourly", usage=usage("h", 400))
    frame = usage("D", 240)
    frame["cpu"] = np.sin(np.arange(len(frame)) % 240 * 2 * np.pi / 24)
    assert "set [capacity]" not in described(tmp_path / "other", usage=frame)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.toml").write_text("[capacity]\nseason = 14\n")
    said = described(tmp_path / "set", usage=usage("D", 120))
    assert "season 14 (14 days)" in said
    assert "set [capacity]" not in said


def test_a_class_that_may_mean_normal_is_asked_about(tmp_path: Path) -> None:
    said = described(tmp_path, activity=activity(["benign"] * 5 + ["ddos", "ddos", "DDoS", "DDoS"]))
    assert "did you mean 'normal' by 'benign'?" in said
    assert "classes 'ddos' and 'DDoS' differ in capitals or spaces only" in said


def test_mixed_and_wandering_intervals_are_pointed_out(tmp_path: Path) -> None:
    mixed = pd.concat([usage("5min", 100, "ab"), usage("h", 50, "c")], ignore_index=True)
    said = described(tmp_path / "mixed", usage=mixed)
    assert "steps differ: 5 min (2 resources), 1 h (1 resource); all go on a grid of 5 min" in said
    wandering = usage("5min", 400, "a")
    wandering["timestamp"] += pd.to_timedelta(RNG.integers(0, 20, 400), unit="s")
    said = described(tmp_path / "wandering", usage=wandering)
    assert "round the timestamps to a regular step" in said
    assert "steps differ" not in said


def test_a_file_with_nearly_the_right_name_is_pointed_out(tmp_path: Path) -> None:
    usage("h", 40).to_csv(tmp_path / "Telemetry.csv", index=False)
    wanted = "file Telemetry.csv is not read; its name must be telemetry.csv"
    with pytest.raises(DataError, match=wanted):
        folder.load_folder(tmp_path)
    (tmp_path / "notes.csv").write_text("mine\n")
    said = described(tmp_path, usage=usage("h", 400))
    assert f"note: {wanted}" in said
    assert "notes.csv" not in said


@pytest.mark.parametrize(("separator", "word"), [(";", "';'"), ("\t", "tabs"), ("|", "'|'")])
def test_another_separator_than_the_comma_is_recognised(tmp_path: Path, separator: str, word: str) -> None:
    usage("h", 40).to_csv(tmp_path / "usage.csv", index=False, sep=separator)
    with pytest.raises(DataError) as caught:
        folder.load_folder(tmp_path)
    assert str(caught.value) == f"table 'usage': file usage.csv is separated by {word}; write it with commas"


def test_every_fault_of_every_table_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = usage("h", 40)
    frame.assign(timestamp=1764000000, cpu="x").to_csv(tmp_path / "usage.csv", index=False)
    frame.to_csv(tmp_path / "telemetry.csv", index=False, sep=";")
    activity(["normal"] * 4).drop(columns="threat_type").to_csv(tmp_path / "activity.csv", index=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr("sys.argv", ["aiops", "data", "validate", str(tmp_path)])
        cli.main()
    assert stopped.value.code == 2
    found = sorted(line.split(": ")[1] for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert found == [
        "table 'activity', column 'threat_type'",
        "table 'telemetry'",
        "table 'usage', column 'cpu'",
        "table 'usage', column 'timestamp'",
    ]


def test_numbers_in_place_of_timestamps_are_shown_with_the_time_they_may_mean() -> None:
    for stamp in (1764000000, 1764000000000):
        with pytest.raises(DataError) as caught:
            validation.validate("usage", usage("h", 4).assign(timestamp=np.full(8, stamp)))
        assert f"such as {stamp} (" in str(caught.value)
        assert "2025-11-24T16:00:00Z" in str(caught.value)


def test_duplicates_say_whether_they_are_identical() -> None:
    frame = usage("h", 40, "a")
    copies = pd.concat([frame, frame.iloc[:3]], ignore_index=True)
    with pytest.raises(DataError, match=r"6 rows share .* they are identical: drop the copies"):
        validation.validate("usage", copies)
    other = copies.assign(cpu=np.arange(43.0))
    with pytest.raises(DataError, match="their values differ: keep one of each"):
        validation.validate("usage", other)
    other.loc[40, "cpu"] = other.loc[0, "cpu"]
    with pytest.raises(DataError, match="2 of them are identical copies, the others' values differ"):
        validation.validate("usage", other)


def test_lines_wrap_at_words_in_a_terminal_and_stay_whole_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiops_core import console

    line = f"  capacity: {'promotion ' * 20}--set capacity.season=7"
    console.paragraphs([line])
    assert capsys.readouterr().out == f"{line}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    console.paragraphs([line])
    wrapped = capsys.readouterr().out.splitlines()
    assert len(wrapped) > 2
    assert max(map(len, wrapped)) <= 80
    assert all(part.startswith("    ") for part in wrapped[1:])
    assert " ".join(part.strip() for part in wrapped) == line.strip()
