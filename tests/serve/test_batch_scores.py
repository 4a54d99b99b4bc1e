"""Batch scores of all tasks: a table, a file, and the MLflow model of a servable say what the servable says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import tiny

from aiops_core import servable
from aiops_core.data import synthetic
from aiops_core.errors import DataError, UsageError
from aiops_core.tracking.scoring import ServableModel, score_file, score_table


@pytest.fixture(scope="module")
def activity() -> pd.DataFrame:
    return synthetic.activity(60, seed=9)[0]


@pytest.fixture(scope="module")
def usage() -> pd.DataFrame:
    table = tiny.dataset("capacity").tables["usage"]
    some = table["resource_id"].unique()[:2]
    recent = table["timestamp"] > table["timestamp"].max() - pd.Timedelta(days=30)
    return table[table["resource_id"].isin(some) & recent].reset_index(drop=True)


def test_rows_of_activity_keep_their_order_and_get_the_decision_and_every_probability(
    servables: dict[str, Path], activity: pd.DataFrame
) -> None:
    loaded: Any = servable.load(servables["threat"])
    known = [name for name in loaded.features if name != loaded.features[0]]
    some = activity[[*known, "threat_type"]].iloc[::-1]
    some.iloc[0, 1] = np.nan
    found = score_table(loaded, some)
    assert list(found.columns) == ["prediction", *loaded.classes]
    rows = some[known].astype(object).where(some[known].notna(), None).to_dict("records")
    probability = loaded.predict(loaded.encode(rows))
    np.testing.assert_allclose(found[loaded.classes], probability, atol=1e-6)
    assert found["prediction"].tolist() == [loaded.classes[i] for i in loaded.decide(probability)]
    with pytest.raises(DataError, match="holds none of the servable's features"):
        score_table(loaded, activity[["threat_type"]])


def test_a_class_may_be_called_prediction(servables: dict[str, Path], activity: pd.DataFrame, tmp_path: Path) -> None:
    shutil.copytree(servables["threat"], tmp_path / "s")
    card = json.loads((tmp_path / "s" / "card.json").read_text())
    card["classes"][1] = "prediction"
    (tmp_path / "s" / "card.json").write_text(json.dumps(card))
    found = score_table(servable.load(tmp_path / "s", verify=False), activity)
    assert list(found.columns)[:3] == ["prediction", card["classes"][0], "p_prediction"]


def test_usage_is_forecast_from_the_end_of_every_resource_in_any_order_of_rows(
    servables: dict[str, Path], usage: pd.DataFrame
) -> None:
    loaded: Any = servable.load(servables["capacity"])
    found = score_table(loaded, usage)
    assert list(found.columns) == ["resource_id", "target", "step", "timestamp", "p10", "p50", "p90"]
    assert len(found) == 2 * len(loaded.targets) * loaded.horizon
    for name, part in found.groupby("resource_id"):
        end = usage.loc[usage["resource_id"] == name, "timestamp"].max()
        ahead = end + pd.to_timedelta(part["step"] * loaded.step_seconds, unit="s")
        assert (part["timestamp"] == ahead).all()
        assert part.groupby("target")["step"].apply(list).map(len).eq(loaded.horizon).all()
    assert (found["p10"] <= found["p50"]).all() and (found["p50"] <= found["p90"]).all()
    shuffled = score_table(loaded, usage.sample(frac=1.0, random_state=0))
    pd.testing.assert_frame_equal(shuffled, found)


def test_a_resource_without_a_value_gets_no_forecast_and_a_table_without_any_is_refused(
    servables: dict[str, Path], usage: pd.DataFrame
) -> None:
    loaded: Any = servable.load(servables["capacity"])
    first, second = usage["resource_id"].unique()
    one, other = loaded.targets
    partly = usage.copy()
    partly.loc[partly["resource_id"] == first, one] = np.nan
    found = score_table(loaded, partly)
    assert set(zip(found["resource_id"], found["target"], strict=True)) == {
        (first, other), (second, one), (second, other),
    }  # fmt: skip
    with pytest.raises(DataError, match="holds no value of the servable's targets"):
        score_table(loaded, usage.assign(**dict.fromkeys(loaded.targets, np.nan)))
    with pytest.raises(DataError, match="holds none of the servable's targets"):
        score_table(loaded, usage.drop(columns=list(loaded.targets)))
    with pytest.raises(DataError, match=r"timestamp.*is missing"):
        score_table(loaded, usage.drop(columns="timestamp"))


def test_windows_are_scored_as_those_of_their_resource(
    servables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = servable.load(servables["failure"])
    rows = tiny.dataset("failure").tables["telemetry"]
    some = pd.concat([rows[rows["resource_id"] == name].tail(30) for name in rows["resource_id"].unique()[:3]])
    told: list[str] = []
    honest = loaded.predict  # type: ignore[attr-defined]

    def noted(windows: np.ndarray, last: Any, resources: list[str]) -> np.ndarray:
        told.extend(resources)
        found: np.ndarray = honest(windows, last, resources)
        return found

    monkeypatch.setattr(loaded, "predict", noted)
    scored = score_table(loaded, some)
    # Habits of a resource are part of the model: a batch must know them as a request that names it does.
    assert told == scored["resource_id"].tolist() and len(set(told)) == 3


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_is_scored_into_a_file(
    ending: str, servables: dict[str, Path], activity: pd.DataFrame, tmp_path: Path
) -> None:
    loaded = servable.load(servables["threat"])
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    write, read = (activity.to_csv, pd.read_csv) if ending == "csv" else (activity.to_parquet, pd.read_parquet)
    write(source, index=False)
    assert score_file(loaded, source, target) == len(activity)
    found: pd.DataFrame = read(target)
    pd.testing.assert_frame_equal(found, score_table(loaded, activity), check_dtype=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name, target.name]


def test_files_that_cannot_be_read_or_written_are_named(servables: dict[str, Path], tmp_path: Path) -> None:
    loaded = servable.load(servables["threat"])
    (tmp_path / "in.csv").write_text("unique_ips\n3\n")
    (tmp_path / "broken.parquet").write_text("no table")
    with pytest.raises(UsageError, match=r"out\.json: the ending must be"):
        score_file(loaded, tmp_path / "in.csv", tmp_path / "out.json")
    with pytest.raises(UsageError, match=r"gone\.csv does not exist"):
        score_file(loaded, tmp_path / "gone.csv", tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read"):
        score_file(loaded, tmp_path / "broken.parquet", tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"out\.csv cannot be written"):
        score_file(loaded, tmp_path / "in.csv", tmp_path / "no folder" / "out.csv")


@pytest.mark.parametrize("task", ["failure", "threat", "capacity"])
def test_the_mlflow_model_of_a_servable_says_what_the_servable_says(
    task: str, servables: dict[str, Path], activity: pd.DataFrame, usage: pd.DataFrame, tmp_path: Path
) -> None:
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=ServableModel(),
        artifacts={"servable": str(servables[task])},
        pip_requirements=["numpy"],
    )
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    loaded: Any = servable.load(servables[task])
    if task == "failure":
        windows = np.random.default_rng(0).normal(50, 10, (4, loaded.window, len(loaded.features))).astype(np.float32)
        np.testing.assert_allclose(model.predict(windows), loaded.predict(windows), atol=1e-7)
        return
    table = activity.drop(columns="threat_type") if task == "threat" else usage
    pd.testing.assert_frame_equal(model.predict(table), score_table(loaded, table))
