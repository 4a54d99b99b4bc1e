from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import folder, tables, validation
from aiops_core.errors import DataError, UsageError

STAMPS = pd.date_range("2026-01-01", periods=6, freq="h", tz="UTC")


def telemetry(**changes: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"resource_id": "a", "timestamp": STAMPS, "cpu_usage": np.arange(6.0), "errors": [0, 1, 0, 2, 0, 3]}
    )
    return frame.assign(**changes)


def incidents(**changes: object) -> pd.DataFrame:
    return pd.DataFrame({"resource_id": ["a"], "start": [STAMPS[3]], "end": [STAMPS[4]]}).assign(**changes)


def test_a_valid_table_comes_back_sorted_and_counted() -> None:
    shuffled = telemetry().iloc[[3, 0, 1, 5, 2]]
    frame, notes = validation.validate("telemetry", shuffled)
    assert frame["timestamp"].is_monotonic_increasing
    assert any("came late" in note for note in notes)
    assert any("1 rows are missing on the 3600 s grid" in note for note in notes)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (telemetry().drop(columns="timestamp"), "table 'telemetry', column 'timestamp': is missing"),
        (telemetry().rename(columns={"resource_id": "resource"}), "'resource' looks like it"),
        (telemetry(timestamp=STAMPS.tz_localize(None)), "without a time zone"),
        (telemetry(timestamp=STAMPS.strftime("%Y-%m-%d %H:%M")), "without a time zone"),
        (telemetry(timestamp=["2026-01-01T00:00Z"] * 5 + ["noon"]), "cannot be parsed, first 'noon'"),
        (telemetry(timestamp=range(6)), "holds numbers"),
        (telemetry(timestamp=[STAMPS[0], *STAMPS[:5]]), "2 rows share a (resource_id, timestamp), first a at"),
        (
            telemetry(cpu_usage=["1", "2", "high", "4", "5", "6"]),
            "column 'cpu_usage': row 2 has text in a metric column, first 'high'",
        ),
        (telemetry(cpu_usage=[1, 2, np.inf, 4, 5, 6]), "column 'cpu_usage': row 2 has an infinite value"),
        (telemetry(cpu_usage=np.nan), "holds only missing values (NaN)"),
        (telemetry(cpu_usage=1.0, errors=0), "all 2 feature columns are constant"),
        (telemetry(resource_id=["a"] * 5 + [None]), "row 5 has no value"),
        (telemetry(split="train"), "must hold both 'train' and 'test'"),
        (telemetry().iloc[:0], "has no rows"),
        (telemetry()[["resource_id", "timestamp"]], "has no feature column"),
    ],
)
def test_broken_telemetry_is_refused_in_one_sentence(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(DataError) as caught:
        validation.validate("telemetry", frame)
    assert words in str(caught.value)
    assert "telemetry" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_timestamps_with_an_offset_become_utc() -> None:
    frame, _ = validation.validate("telemetry", telemetry(timestamp=[f"2026-01-01T0{h}:00:00+02:00" for h in range(6)]))
    assert str(frame["timestamp"].iloc[0]) == "2025-12-31 22:00:00+00:00"


def test_incidents_of_unknown_resources_are_refused() -> None:
    with pytest.raises(
        DataError, match="table 'incidents', column 'resource_id': 1 resources are not in telemetry, first b"
    ):
        validation.validate_all({"telemetry": telemetry(), "incidents": incidents(resource_id=["b"])})


def test_incidents_that_end_before_they_start_are_refused() -> None:
    with pytest.raises(DataError, match="end before the start"):
        validation.validate("incidents", incidents(end=[STAMPS[1]]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [(["normal", "normal", "ddos"], "class 'ddos' has one member"), (["normal"] * 3, "holds one class only")],
)
def test_activity_needs_two_members_of_two_classes(labels: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        validation.validate("activity", pd.DataFrame({"x": [1.0, 2.0, 3.0], "threat_type": labels}))


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no contract table"):
        folder.load_folder(tmp_path)


def test_a_table_in_two_formats_is_refused(tmp_path: Path) -> None:
    telemetry().to_csv(tmp_path / "telemetry.csv", index=False)
    telemetry().to_parquet(tmp_path / "telemetry.parquet")
    with pytest.raises(DataError, match="both telemetry.parquet and telemetry.csv"):
        folder.load_folder(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "telemetry.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="telemetry.parquet cannot be read"):
        folder.load_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[failure]\nwindwo = 3", "no key 'windwo'; did you mean 'window'"),
        ("[failure]\nwindow = 0", "window = 0 must be a whole number of at least 2"),
        ("[failure]\ntest_fraction = 1.5", "must be a number from 0.01 to below 1"),
        ("[faliure]\nwindow = 3", "unknown entry 'faliure'"),
        ("window = ", "not valid TOML"),
    ],
)
def test_a_wrong_dataset_toml_is_refused(tmp_path: Path, text: str, words: str) -> None:
    telemetry().to_csv(tmp_path / "telemetry.csv", index=False)
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        folder.load_folder(tmp_path)


def test_a_saved_folder_loads_back_equal(tmp_path: Path) -> None:
    checked, notes = validation.validate_all({"telemetry": telemetry(), "incidents": incidents()})
    config = {"failure": {"window": 3, "horizon": 2, "decision": {"rule": "alert_budget", "alerts_per_day": 2}}}
    dataset = tables.Dataset("x", 'a "title"', "MIT", checked, config, {}, notes)
    loaded = folder.load_folder(folder.save_folder(dataset, tmp_path / "x"))
    assert loaded.config == dataset.config
    assert loaded.title == dataset.title
    assert loaded.digest("failure") == dataset.digest("failure")


def test_the_digest_moves_with_any_value_and_any_setting() -> None:
    checked, notes = validation.validate_all({"telemetry": telemetry(), "incidents": incidents()})
    dataset = tables.Dataset("x", "x", "MIT", checked, {}, {}, notes)
    changed = {**checked, "telemetry": checked["telemetry"].assign(errors=[0, 1, 0, 2, 0, 4])}
    assert tables.Dataset("x", "x", "MIT", changed).digest("failure") != dataset.digest("failure")
    assert dataset.configured("failure", window=5).digest("failure") != dataset.digest("failure")
    assert dataset.configured("failure", window=None).digest("failure") == dataset.digest("failure")


def test_the_grid_keeps_gaps_as_rows_without_values() -> None:
    frame, _ = validation.validate("telemetry", telemetry().iloc[[0, 1, 4, 5]])
    grid = tables.to_grid(frame, ["cpu_usage"])
    np.testing.assert_array_equal(grid.values[:, 0], [0, 1, np.nan, np.nan, 4, 5])
    assert grid.present.tolist() == [True, True, False, False, True, True]
    assert grid.step_seconds == 3600


def test_off_grid_rows_move_to_the_grid_point_before_them() -> None:
    stamps = STAMPS.to_series().reset_index(drop=True)
    stamps[2] += pd.Timedelta(minutes=7)
    frame, notes = validation.validate("telemetry", telemetry(timestamp=stamps))
    assert any("off the 3600 s grid" in note for note in notes)
    np.testing.assert_array_equal(tables.to_grid(frame, ["cpu_usage"]).values[:, 0], np.arange(6))
