"""A champion is compared on rows that neither model has seen: what was seen is kept, found again, and told."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from types import SimpleNamespace
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
from aiops_core.study.champion import _fair_rows, _other_protocol, against_champion
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


GOLDEN, DIGEST = [12962936196965965028, 11744885849056431828], "1a2e65a354550fa6"


def test_hashes_of_a_row_are_those_that_cards_of_earlier_releases_hold() -> None:
    when = np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]")
    columns = [np.array(["a", "b"], dtype=object), when, np.array([1.5, np.nan]), np.array([True, False])]
    assert seen.row_hashes(columns).tolist() == GOLDEN
    # The unit of a time, the payload of a NaN and a column that is hashed already change nothing.
    odd = np.array([0, 0x7FC00123], dtype=np.uint32).view(np.float32)
    odd[0] = 1.5
    finer = [columns[0], when.astype("datetime64[ms]"), odd, columns[3].astype(np.int8)]
    assert seen.row_hashes(finer).tolist() == GOLDEN
    own = seen.row_hashes(columns[:1])
    assert seen.row_hashes([own]).tolist() != own.tolist()
    assert seen.row_hashes([own[[1, 0]], when]).tolist() != seen.row_hashes([own, when]).tolist()
    assert seen.row_hashes([columns[2], columns[3]]).tolist() != seen.row_hashes([columns[3], columns[2]]).tolist()


def test_bits_of_a_hash_are_even_and_no_two_of_many_rows_share_one() -> None:
    found = seen.row_hashes([np.arange(20_000)])
    assert len(np.unique(found)) == 20_000
    share = ((found[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).mean(axis=0)
    assert np.abs(share - 0.5).max() < 0.02


def test_what_was_learned_from_and_what_chose_is_read_back_as_one_and_the_test_rows_are_not_kept(
    tmp_path: Path,
) -> None:
    assert seen.read_seen(tmp_path) is None
    train, validation, test = (np.array(x, dtype=np.uint64) for x in ([1, 5], [3, 5], [9]))
    kept = seen.Seen(train, validation, test)
    seen.write_seen(tmp_path, kept)
    found = seen.read_seen(tmp_path)
    assert found is not None and found.tolist() == kept.known.tolist() == [1, 3, 5]
    assert kept.test_digest == DIGEST
    assert seen.Seen(train, validation, test + np.uint64(1)).test_digest != kept.test_digest


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


def fair(tmp_path: Path, rows: list[bool], few: str | None = None) -> tuple[Any, str | None]:
    def unseen(data: Any, known: np.ndarray) -> np.ndarray:
        assert (data, known.tolist()) == ("data", [1, 2])
        return np.array(rows)

    task: Any = SimpleNamespace(unseen=unseen, too_few=lambda data, left: few)
    champion: Any = SimpleNamespace(folder=tmp_path)
    return _fair_rows(task, "data", champion)


def test_only_rows_that_the_champion_is_known_not_to_have_seen_are_fair(tmp_path: Path) -> None:
    unknown = "its training rows are unknown, so it may have learned from the test rows"
    assert fair(tmp_path, []) == (None, unknown)
    one, two, none = np.array([1], np.uint64), np.array([2], np.uint64), np.array([], np.uint64)
    seen.write_seen(tmp_path, seen.Seen(one, two, none))
    assert fair(tmp_path, [True, True]) == (None, None)
    rows, reason = fair(tmp_path, [True, False])
    assert rows.tolist() == [True, False] and reason is None
    assert fair(tmp_path, [True] + [False] * 1200, "1 row") == (
        None, "it has learned from 1,200 of the 1,201 test rows, and what is left is too little: 1 row",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("candidate", "champion", "said"),
    [
        ({"protocol": "resource"}, {"protocol": "time"}, True),
        ({"protocol": "resource"}, {}, True),
        ({"protocol": "resource"}, {"protocol": "resource"}, False),
        ({"protocol": "time"}, {"protocol": "resource"}, False),
        ({}, {"protocol": "resource"}, False),
        ({}, {}, False),
    ],
)
def test_a_model_that_was_made_to_measure_generalisation_replaces_no_other(
    candidate: dict[str, Any], champion: dict[str, Any], said: bool
) -> None:
    found = _other_protocol(candidate, champion, "version 4")
    assert [words.endswith("learned from all of them, as version 4 has") for words in found] == [True] * said


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
@pytest.mark.parametrize("seed", [7, 9])
def test_a_champion_whose_training_rows_are_unknown_stays_even_if_both_cards_name_the_same_split(
    store: Path, tmp_path: Path, seed: int
) -> None:
    found = dataset("threat")
    crowned(servable_of(tmp_path / "old" / "servable", found, prepared("threat"), kept=False))
    data = prepared("threat", seed=seed)
    mine = servable_of(tmp_path / "new" / "servable", found, data, seed=seed)
    rival = against_champion(threat, data, mine, promote=True)
    assert rival.prediction is None
    assert rival.obstacles[-1] == (
        "cannot be compared with the champion (version 1): its training rows are unknown, so it may have learned from the "
        "test rows"
    )


@pytest.mark.slow
def test_a_champion_that_learned_from_test_rows_is_not_believed_for_the_split_that_its_card_names(
    store: Path, tmp_path: Path
) -> None:
    found, data = dataset("threat"), prepared("threat")
    folder = servable_of(tmp_path / "old" / "servable", found, data)
    known, learned = threat.seen(data), data.index("test")[:20]
    also = np.union1d(known.train, data.row_hashes[learned])
    seen.write_seen(folder, dataclasses.replace(known, train=also))
    crowned(folder)
    mine = servable_of(tmp_path / "new" / "servable", found, data)
    rival = against_champion(threat, data, mine, promote=True)
    assert rival.rows is not None
    np.testing.assert_array_equal(rival.rows, ~np.isin(data.index("test"), learned))


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
