"""Sources by name and path: the public data sets as contract tables, checked against their files, and refusals."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import sources
from aiops_core.data.sources import public
from aiops_core.data.tables import Dataset
from aiops_core.errors import DataError, UsageError
from aiops_core.tasks import capacity, failure


@pytest.fixture
def mirror(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data, as the setting names it."""
    monkeypatch.setenv("AIOPS_DATASETS_DIR", str(real_data))
    return real_data


def load(name: str) -> Dataset:
    found = sources.load(name)
    assert found.name == name and found.title and found.licence
    return found


def test_cmapss_engines_fail_when_their_files_say(mirror: Path) -> None:
    found = load("cmapss")
    telemetry, incidents = found.tables["telemetry"], found.tables["incidents"].set_index("resource_id")
    assert telemetry.groupby("split")["resource_id"].nunique().to_dict() == {"train": 100, "test": 100}
    assert telemetry.groupby("split").size().to_dict() == {"train": 20_631, "test": 13_096}
    assert len(incidents) == 200 and not {"unit", "cycle"} & set(telemetry.columns)
    last = telemetry.groupby("resource_id")["timestamp"].max()
    left = (incidents["start"] - last) / pd.Timedelta("1h")
    lives = [int(life) for life in (mirror / "cmapss" / "RUL_FD001.txt").read_text().split()]
    assert left[left.index.str.startswith("train")].eq(0).all()
    assert left[[f"test-engine-{i:03d}" for i in range(1, 101)]].tolist() == lives
    raw = np.loadtxt(mirror / "cmapss" / "test_FD001.txt")
    mine = telemetry[telemetry["resource_id"] == "test-engine-007"].sort_values("timestamp")
    np.testing.assert_array_equal(mine["sensor_11"], raw[raw[:, 0] == 7, 4 + 11])


def test_the_last_thirty_cycles_of_a_cmapss_engine_are_positive(mirror: Path) -> None:
    data = failure.prepare(load("cmapss"), seed=0)
    assert (data.window, data.horizon, data.by_resource) == (60, 30, True)
    for name, remaining in (("train-engine-001", 0), ("test-engine-031", 8), ("test-engine-001", 112)):
        rows = np.flatnonzero(data.resource == data.resources.index(name))
        left = remaining + np.arange(len(rows))[::-1]
        assert data.until[rows][:-1].tolist() == left[:-1].tolist()
        assert data.label(rows)[:-1].tolist() == (left[:-1] <= 30).astype(int).tolist()
        # In the hour of the failure itself there is nothing left to foresee.
        assert data.example[rows].tolist() == (left > 0).tolist()


def test_nsl_kdd_keeps_the_official_files_and_attacks_unseen_in_training(mirror: Path) -> None:
    activity = load("nsl-kdd").tables["activity"]
    assert activity.groupby("split").size().to_dict() == {"train": 125_973, "test": 22_544}
    assert activity[activity["split"] == "test"]["threat_type"].value_counts().to_dict() == {
        "normal": 9_711, "dos": 7_460, "probe": 2_421, "r2l": 2_885, "u2r": 67,
    }  # fmt: skip
    assert "difficulty" not in activity.columns and len(public._KDD_COLUMNS) == 41
    attacks = {part: set(frame["group"]) for part, frame in activity.groupby("split")}
    assert len(attacks["train"]) == 23 and len(attacks["test"] - attacks["train"]) == 17
    named = {attack for attacks in public._KDD_CLASSES.values() for attack in attacks.split()}
    # Only normal traffic may be normal: an attack that no class names would become it silently.
    assert set(activity["group"]) - named == {"normal"}
    assert activity.groupby("group")["threat_type"].nunique().max() == 1
    with zipfile.ZipFile(mirror / "nsl-kdd" / "NSL_KDD.zip") as archive, archive.open("KDDTest+.txt") as file:
        first = file.readline().decode().split(",")
    row = activity[activity["split"] == "test"].iloc[0]
    assert [row["protocol_type"], row["service"], row["flag"], row["group"]] == [*first[1:4], first[41]]


def test_cicids_flows_have_nine_classes_and_no_column_that_names_the_attacker(mirror: Path) -> None:
    found = load("cicids2017")
    activity = found.tables["activity"]
    assert activity["threat_type"].value_counts().to_dict() == {
        "dos": 15_599, "portscan": 10_000, "brute_force": 6_933, "normal": 5_000, "ddos": 5_000, "botnet": 736,
        "web_attack": 104, "infiltration": 36, "heartbleed": 11,
    }  # fmt: skip
    assert not {"Src IP", "Dst IP", "Src Port", "Flow ID", "Timestamp", "Label"} & set(activity.columns)
    numbers = activity.select_dtypes("number")
    assert numbers.shape[1] == activity.shape[1] - 2
    assert not np.isinf(numbers.to_numpy(dtype=float, na_value=np.nan)).any()
    assert found.config["threat"] == {"test_fraction": 0.3, "whole_groups": False}
    assert activity["group"].nunique() == 16


def test_datacenter_traces_come_in_one_unit_and_step(mirror: Path) -> None:
    found = load("datacenter-traces")
    usage = found.tables["usage"]
    assert usage.groupby("resource_id").size().to_dict() == {
        "alibaba-2018": 2_243, "azure-v2": 8_640, "google-2019": 8_064,
    }  # fmt: skip
    step = usage.groupby("resource_id")["timestamp"].diff().min()
    assert step == pd.Timedelta("300s")
    middle = usage.groupby("resource_id")[["cpu_usage", "memory_usage"]].median()
    assert ((middle > 1) & (middle < 100)).all().all()
    raw = pd.read_csv(mirror / "datacenter-traces" / "google2019_300s_month.csv")
    google = usage[usage["resource_id"] == "google-2019"]
    np.testing.assert_allclose(google["cpu_usage"].iloc[:50], 100 * raw["avg_cpu"].iloc[:50])
    assert found.config["capacity"]["season"] == 288
    assert found.config["capacity"]["score_steps"][-1] == found.config["capacity"]["horizon"]


def test_nab_has_a_series_a_file_and_the_last_value_of_a_repeated_stamp(mirror: Path) -> None:
    found = load("nab")
    usage = found.tables["usage"]
    files = sources.paths("nab")
    assert set(usage["resource_id"]) == {path.stem for path in files} and len(files) == 17
    assert not usage.duplicated(["resource_id", "timestamp"]).any()
    assert len(usage) == 67_718
    path = next(p for p in files if p.stem == "rds_cpu_utilization_e47b3b")
    mine = usage[usage["resource_id"] == path.stem].sort_values("timestamp")
    np.testing.assert_array_equal(mine["value"], pd.read_csv(path)["value"])
    few = usage[usage["resource_id"].isin([files[0].stem, files[1].stem])].reset_index(drop=True)
    data = capacity.prepare(
        Dataset("nab", "nab", "", {"usage": few}, found.config),
        seed=0,
        effort=capacity.Effort(search_rows=500, final_rows=500, linear_rows=500),
    )
    assert data.score_steps.tolist() == [1, 12, 72]
    assert data.layout.targets == ("value",)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_file_of_another_content_and_a_missing_one_are_refused(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOPS_DATASETS_DIR", str(tmp_path))
    shutil.copytree(real_data / "cmapss", tmp_path / "cmapss")
    assert len(sources.paths("cmapss")) == 3
    with (tmp_path / "cmapss" / "RUL_FD001.txt").open("a") as file:
        file.write("7\n")
    with pytest.raises(DataError, match=r"RUL_FD001\.txt in AIOPS_DATASETS_DIR has another content"):
        sources.load("cmapss")
    (tmp_path / "cmapss" / "RUL_FD001.txt").unlink()
    with pytest.raises(DataError, match=r"AIOPS_DATASETS_DIR holds no file cmapss/RUL_FD001\.txt"):
        sources.load("cmapss")


def test_every_public_data_set_has_pinned_files_and_every_file_a_data_set() -> None:
    pins = [line.split() for line in public.PINS.read_text().splitlines()]
    assert {file.split("/", 1)[0].removesuffix("-improved") for file, _, _ in pins} == set(sources.PUBLIC)
    assert all(len(sha256) == 64 and int(sha256, 16) for _, sha256, _ in pins)
    # A branch would change under the checksums.
    commits = [url.removeprefix("https://raw.githubusercontent.com/").split("/")[2] for _, _, url in pins]
    assert all(len(commit) == 40 and int(commit, 16) for commit in commits)


def test_a_cicids_label_that_is_not_known_is_named() -> None:
    with pytest.raises(DataError, match="unknown label 'Coinminer'"):
        public._cicids_class("Coinminer")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("synthetic", {"n_samples": 0}, "n_samples = 0 must be at least 1"),
        ("nab", {"n_samples": 5}, "source 'nab' is used whole"),
        ("nab", {"signal": 0.5}, "signal goes with synthetic data only"),
        ("cmaps", {}, "unknown source 'cmaps'.*cmapss"),
    ],
)
def test_options_that_do_not_fit_a_source_are_refused(source: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sources.load(source, **options)  # type: ignore[arg-type]


def test_a_file_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "telemetry.csv").write_text("a\n")
    with pytest.raises(UsageError, match="is a file; name the folder"):
        sources.load(str(tmp_path / "telemetry.csv"))
