"""A champion is compared on rows that neither model has seen: what was seen is kept, found again, and told."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aiops_core import servable, tracking
from aiops_core.data import seen, sources
from aiops_core.data.tables import Dataset
from aiops_core.judge import gate
from aiops_core.rules import StatisticalAnomalyDetector
from aiops_core.study import words
from aiops_core.study.champion import against_champion
from aiops_core.study.origin import anomaly_reference, lineage_of
from aiops_core.tasks import capacity, failure, threat


@cache
def dataset(task: str, seed: int = 7) -> Dataset:
    return sources.load(
        "synthetic", n_samples={"failure": 1500, "threat": 900, "capacity": 300}[task], seed=seed, tasks=[task]
    )


def prepared(task: str, found: Dataset | None = None, seed: int = 7) -> Any:
    found = dataset(task) if found is None else found
    if task == "failure":
        return failure.prepare(found, seed=seed)
    if task == "threat":
        return threat.prepare(found, seed=seed, effort=threat.Effort(max_rows=300, final_trees=10))
    least = capacity.Effort(search_rows=200, linear_rows=100, scored_rows=100)
    return capacity.prepare(found, seed=seed, effort=least)


TASKS: Any = {"failure": failure, "threat": threat, "capacity": capacity}


# What was seen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_no_test_row_of_a_split_was_seen_by_its_own_model(task: str) -> None:
    data = prepared(task)
    found = TASKS[task].seen(data)
    assert len(found.known) and len(found.test)
    assert not np.isin(found.test, found.known).any()
    assert TASKS[task].unseen(data, found.known).all()


@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_other_data_has_seen_none_of_the_rows(task: str) -> None:
    other = TASKS[task].seen(prepared(task, dataset(task, 8)))
    assert TASKS[task].unseen(prepared(task), other.known).all()


def test_rows_of_a_longer_record_are_known_again_and_those_after_the_first_record_are_new() -> None:
    whole = dataset("failure").tables["telemetry"]
    middle = whole["timestamp"].min() + 0.5 * (whole["timestamp"].max() - whole["timestamp"].min())
    first = dataclasses.replace(
        dataset("failure"),
        tables={**dataset("failure").tables, "telemetry": whole[whole["timestamp"] < middle]},
        oracles={},
    )
    champion, data = failure.seen(prepared("failure", first)), prepared("failure")
    new = failure.unseen(data, champion.known)
    later = data.keys("test")["timestamp"] > middle + pd.Timedelta("3D")
    assert later.any() and new[later.to_numpy()].all()
    everything = failure.unseen(data, failure.seen(data).known)
    assert everything.all()
    learned = data.ends["train"]
    late = dataclasses.replace(data, ends={**data.ends, "test": learned})
    # Tested on what a model learned from, nothing is left.
    assert not failure.unseen(late, failure.seen(data).known).any()
    assert "0 rows with 0 incidents, fewer than 100 rows" in str(
        failure.too_few(late, np.zeros(len(learned), dtype=bool))
    )


@pytest.mark.parametrize(
    ("task", "expression"), [("failure", "log1p(disk_io)"), ("capacity", "request_rate / user_count")]
)
def test_rows_are_known_again_whatever_is_derived_from_them(task: str, expression: str) -> None:
    plain = TASKS[task].seen(prepared(task))
    data = prepared(task, dataset(task).configured(task, derive={"made": expression}))
    assert data.derived.names == ("made",)
    found = TASKS[task].seen(data)
    assert found.test_digest == plain.test_digest
    np.testing.assert_array_equal(found.known, plain.known)


@pytest.mark.parametrize("protocol", failure.PROTOCOLS)
def test_the_reference_of_anomalies_holds_no_row_of_the_test(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataset("failure")
    data = failure.prepare(found, seed=7, protocol=protocol)
    learned: list[pd.DataFrame] = []
    monkeypatch.setattr(
        StatisticalAnomalyDetector, "learn", lambda self, early, max_resources: learned.append(early) or {}
    )
    anomaly_reference(found, data)
    (early,) = learned
    assert len(early) > 0.5 * len(found.tables["telemetry"])
    assert len(early.merge(data.keys("test"), on=["resource_id", "timestamp"])) == 0
    assert len(early.merge(data.keys("train"), on=["resource_id", "timestamp"])) > 0


def test_a_window_next_to_a_learned_row_is_not_new() -> None:
    data = prepared("failure")
    rows = data.ends["test"]
    hashes = seen.row_hashes([np.arange(3)])
    assert failure.unseen(data, hashes).all()
    from aiops_core.tasks.failure.seen import _hashes

    one = int(rows[len(rows) // 2])
    new = failure.unseen(data, np.sort(_hashes(data)[[one]]))
    near = (np.abs(rows - one) <= data.window + data.horizon) & (data.resource[rows] == data.resource[one])
    np.testing.assert_array_equal(new, ~near)


def test_a_row_is_known_by_its_values_and_not_by_its_place_or_its_number_format() -> None:
    names = np.array(["a", "b", "b", None], dtype=object)
    values = np.array([1.5, np.nan, 0.1, -0.0])
    found = seen.row_hashes([names, values])
    assert len(np.unique(found)) == 4
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(seen.row_hashes([names[order], values[order]]), found[order])
    np.testing.assert_array_equal(seen.row_hashes([names, values.astype(np.float32)]), found)
    assert found[3] == seen.row_hashes([names[3:], np.array([0.0])])[0]
    # Fixed: a card of today must be read by tomorrow's release.
    assert seen.row_hashes([np.array([1.0, 2.0])]).tolist() == seen.row_hashes([np.array([1, 2])]).tolist()


# Beside a champion ---------------------------------------------------------------------------------------------------


def servable_of(folder: Path, found: Dataset, data: Any, *, kept: bool = True, seed: int = 7) -> Path:
    threat.export(threat.finish(threat.defaults(data)[:1], data, seed=seed), data, folder)
    servable.update_card(folder, lineage=lineage_of(found, data, task="threat", source="own", seed=seed))
    if kept:
        seen.write_seen(folder, threat.seen(data))
    return folder


def crowned(folder: Path) -> None:
    log = tracking.open_search("threat", folder.parent / "s", name="x", params={}, tags={})
    uri = tracking.log_servable(log.run_id, folder)
    tracking.register("threat", log.run_id, "champion", model_uri=uri)


@pytest.mark.slow
def test_a_champion_is_scored_on_the_rows_that_it_has_not_seen(store: Path, tmp_path: Path) -> None:
    found = dataset("threat")
    old = prepared("threat")
    crowned(servable_of(tmp_path / "old" / "servable", found, old))
    mine = servable_of(tmp_path / "new" / "servable", found, old)
    same = against_champion(threat, old, mine, promote=True)
    assert (same.rows, same.obstacles) == (None, []) and same.prediction is not None

    # Another cut of the same rows: most of its test rows trained the champion.
    other = prepared("threat", seed=9)
    mine = servable_of(tmp_path / "other" / "servable", found, other, seed=9)
    rival = against_champion(threat, other, mine, promote=True)
    learned = np.isin(other.index("test"), np.flatnonzero(old.part == 0))
    few = int((~learned).sum())
    if few < 100:
        assert rival.prediction is None
        assert rival.obstacles[-1].startswith(
            f"cannot be compared with the champion (version 1): it has learned from {learned.sum()} of the {len(learned)} "
            f"test rows, and what is left is too little: {few} rows"
        )
    else:
        assert rival.rows is not None
        np.testing.assert_array_equal(rival.rows, ~learned)

    # More of the same source: its rows are new to the champion, in part.
    more = dataset("threat", 8)
    both = dataclasses.replace(
        found,
        tables={"activity": pd.concat([found.tables["activity"], more.tables["activity"]], ignore_index=True)},
        oracles={},
    )
    wider = prepared("threat", both)
    mine = servable_of(tmp_path / "wider" / "servable", both, wider)
    rival = against_champion(threat, wider, mine, promote=True)
    assert rival.rows is not None and rival.prediction is not None
    learned = np.isin(wider.index("test"), np.flatnonzero(old.part == 0))
    np.testing.assert_array_equal(rival.rows, ~learned)
    baselines = threat.baselines(wider, seed=7)
    own = threat.score(servable.load(mine), wider, "test")
    verdict = gate.decide(
        threat, wider, own, baselines, champion=rival.prediction, champion_name=rival.name, champion_rows=rival.rows,
        units=threat.units(wider),
    )  # fmt: skip
    part = f"the champion (version 1) on the {rival.rows.sum()} of {len(rival.rows)} test rows new to both"
    assert any(part in reason for reason in verdict.reasons)
    some = threat.compare(wider, own, {"c": rival.prediction}, rows=rival.rows)["c"]["macro_f1"]
    assert verdict.gains[rival.name]["macro_f1"] == some
    assert some["own"] != threat.compare(wider, own, {"c": rival.prediction})["c"]["macro_f1"]["own"]


@pytest.mark.slow
def test_a_champion_whose_training_rows_are_unknown_stays_unless_the_test_rows_are_its_own(
    store: Path, tmp_path: Path
) -> None:
    found, data = dataset("threat"), prepared("threat")
    crowned(servable_of(tmp_path / "old" / "servable", found, data, kept=False))
    mine = servable_of(tmp_path / "new" / "servable", found, data)
    assert against_champion(threat, data, mine, promote=True).prediction is not None
    other = prepared("threat", seed=9)
    mine = servable_of(tmp_path / "other" / "servable", found, other, seed=9)
    rival = against_champion(threat, other, mine, promote=True)
    assert rival.prediction is None
    assert rival.obstacles[-1] == (
        "cannot be compared with the champion (version 1): its training rows are unknown, so it may have learned from the "
        "test rows"
    )


@pytest.mark.slow
def test_every_look_at_the_same_test_rows_is_counted_and_told(store: Path) -> None:
    one, other = "a" * 16, "b" * 16
    assert [tracking.count_look("threat", key) for key in (one, one, other, one)] == [1, 2, 1, 3]
    assert tracking.count_look("failure", one) == 1
    assert words.looks_words({"test_looks": 3}).startswith("This test set has been scored 3 times")
    assert words.looks_words({"test_looks": 1}) == "This test set has been scored once."


def test_the_same_test_rows_are_known_by_one_digest_and_others_by_another() -> None:
    first, again = (threat.seen(prepared("threat")).test_digest for _ in range(2))
    assert first == again
    assert first != threat.seen(prepared("threat", seed=9)).test_digest
