"""Synthetic drifts change what they say, from when they say, and leave contract tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aiops_core.cli import app
from aiops_core.data import folder, synthetic
from aiops_core.data.synthetic.drift import DRIFTS, drifted
from aiops_core.data.tables import Dataset
from aiops_core.errors import UsageError


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return synthetic.dataset(600, seed=2)


def before(frame: pd.DataFrame, at: float) -> np.ndarray:
    """Return which rows lie before a share of the time of a table."""
    begin, end = frame["timestamp"].min(), frame["timestamp"].max()
    return (frame["timestamp"] < begin + at * (end - begin)).to_numpy()


@pytest.mark.parametrize("kind", DRIFTS)
def test_a_drift_changes_its_tables_after_its_time_only_and_leaves_them_valid(
    whole: Dataset, kind: str, tmp_path: Path
) -> None:
    moved = drifted(whole, kind, 0.6, seed=1)
    assert moved.oracles == {} and kind in moved.title
    changed = {name for name in whole.tables if not whole.tables[name].equals(moved.tables[name])}
    assert changed and changed <= {*DRIFTS[kind], "incidents"}
    for name in changed & {"telemetry", "usage"}:
        old, new = whole.tables[name], moved.tables[name]
        early = before(old, 0.6)
        pd.testing.assert_frame_equal(old[early], new[early])
        assert (old.dtypes == new.dtypes).all()
    if "activity" in changed:
        first = int(0.6 * 600)
        pd.testing.assert_frame_equal(whole.tables["activity"][:first], moved.tables["activity"][:first])
    folder.save_folder(moved, tmp_path / kind)
    folder.load_folder(tmp_path / kind)


def test_a_frozen_sensor_holds_its_last_value_and_a_silent_one_none(whole: Dataset) -> None:
    late = ~before(whole.tables["usage"], 0.6)
    for kind in ("frozen_sensor", "missing_sensor"):
        usage = drifted(whole, kind, 0.6, seed=1).tables["usage"][late]
        values = usage.groupby("resource_id")["memory_usage"]
        failed = values.nunique() <= (1 if kind == "frozen_sensor" else 0)
        assert 0 < failed.mean() < 1
        assert values.count()[failed].max() == (0 if kind == "missing_sensor" else values.size().max())


def test_a_slow_drift_grows(whole: Dataset) -> None:
    old, new = (d.tables["usage"]["cpu_usage"] for d in (whole, drifted(whole, "covariates", 0.4, over=0.4)))
    stamps = whole.tables["usage"]["timestamp"]
    share = (stamps - stamps.min()) / (stamps.max() - stamps.min())
    gap = [(new - old)[(share >= a) & (share < a + 0.1)].mean() for a in (0.3, 0.4, 0.6, 0.9)]
    assert gap[0] == 0 and 0 < gap[1] < gap[2] < gap[3]


def test_the_wave_comes_earlier(whole: Dataset) -> None:
    old, new = (d.tables["usage"] for d in (whole, drifted(whole, "season", 0.0)))
    one = old["resource_id"] == old["resource_id"].iloc[0]
    np.testing.assert_array_equal(new[one]["cpu_usage"].to_numpy()[:100], old[one]["cpu_usage"].to_numpy()[8:108])


@pytest.mark.parametrize(
    ("kind", "at", "words"),
    [("weather", 0.5, "unknown drift 'weather'"), ("labels", 1.5, "shares, from 0 to 1")],
)
def test_a_drift_that_makes_no_sense_is_refused(whole: Dataset, kind: str, at: float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        drifted(whole, kind, at)


def test_a_data_set_without_the_table_of_a_drift_is_refused(whole: Dataset) -> None:
    with pytest.raises(UsageError, match="drift 'season' changes telemetry or usage"):
        drifted(synthetic.dataset(100, tasks=["threat"]), "season")


def test_the_command_line_generates_a_drift_and_takes_its_strength_as_before(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    run = CliRunner().invoke
    given = ["data", "generate", "--n-samples", "400"]
    assert run(app, [*given, str(tmp_path / "a"), "--drift", "covariates", "--drift-at", "0.5"]).exit_code == 0
    assert "drift covariates at 0.5" in (tmp_path / "a" / "dataset.toml").read_text()
    assert run(app, [*given, str(tmp_path / "b"), "--drift", "0.5"]).exit_code == 0
    refused = run(app, [*given, str(tmp_path / "c"), "--drift", "sideways"])
    assert isinstance(refused.exception, UsageError) and "neither a number nor one of" in str(refused.exception)
