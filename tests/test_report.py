"""What a reader gets: the report's page, the model card, the next steps, and the lines of the terminal."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aiops_core import console, files
from aiops_core.errors import UsageError
from aiops_core.study import report, words
from aiops_core.study.first_screen import first_screen
from aiops_core.study.model_card import model_card
from aiops_core.tracking import ModelVersion

HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>&lt;{{ 7 * 7 }}"""


def metric(value: float | None) -> dict[str, float | None]:
    if value is None:
        return dict.fromkeys(("value", "low", "high"))
    return {"value": value, "low": value - 0.1, "high": value + 0.05}


def section(task: str = "failure", decision: str = "champion", **more: Any) -> dict[str, Any]:
    """Return the section of a trained task."""
    model, kind, main = {
        "failure": ("failure_predictor", "lstm", "roc_auc"),
        "threat": ("threat_detector", "random_forest", "macro_f1"),
        "capacity": ("capacity_forecaster", "xgboost", "r2"),
    }[task]
    return {
        "model": model, "status": "trained", "reason": None, "main_metric": main, "kind": kind,
        "metrics": {main: metric(0.8)}, "baselines": {"trees": {main: metric(0.7)}, "prior": {main: metric(0.5)}},
        "oracle": None, "model_version": 3, "run_id": "r", "parity": 1e-6,
        "gate": {"decision": decision, "reasons": ["is as it is"], "advice": "Search again.", "gains": {}},
        "data": {"rows": 9, "train_rows": 5, "validation_rows": 2, "test_rows": 2, "split": "by time", "digest": "d" * 64,
                 "notes": []},
        "search": {"trials": 1, "completed": 1, "pruned": 0, "errored": 0, "seconds": 1.0, "best_params": {},
                   "objective": "average_precision", "best_score": 0.5},
        **more,
    }  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(folder: Path) -> Page:
    report.render(folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


# The page ------------------------------------------------------------------------------------------------------------


def test_names_from_the_data_are_shown_as_text_wherever_they_stand(tmp_path: Path) -> None:
    files.write_json(tmp_path / "facts.json", {"source": HOSTILE, "title": HOSTILE, "licence": HOSTILE, "seed": 1})
    hostile = section("threat", metrics={"macro_f1": metric(0.8), f"f1_{HOSTILE}": metric(0.5)})
    hostile["baselines"] = {HOSTILE: {"macro_f1": metric(0.7)}}
    hostile["data"].update(notes=[HOSTILE], split=HOSTILE)
    hostile["gate"].update(reasons=[HOSTILE], advice=HOSTILE)
    hostile["search"].update(best_params={HOSTILE: HOSTILE})
    files.write_json(tmp_path / "threat" / "section.json", hostile)
    details = {
        "per_class": {HOSTILE: {"precision": 0.5, "recall": 0.5, "support": 3, "taken_for": HOSTILE}},
        "sentences": [HOSTILE],
        "tables": {HOSTILE: [{HOSTILE: HOSTILE, "resource_id": HOSTILE}], "empty": []},
    }
    files.write_json(tmp_path / "threat" / "details.json", details)
    files.write_json(tmp_path / "failure" / "section.json", report.empty_section("failure", "failed", HOSTILE))
    (tmp_path / "threat" / "servable").mkdir()
    (tmp_path / "threat" / "servable" / "model-card.md").write_text(HOSTILE, encoding="utf-8")
    page = rendered(tmp_path)
    assert not {"script", "img", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 14
    assert "49" not in page.text


def test_the_page_needs_nothing_from_elsewhere_and_carries_its_pictures(tmp_path: Path) -> None:
    files.write_json(tmp_path / "capacity" / "section.json", section("capacity"))
    figures = tmp_path / "capacity" / "figures"
    figures.mkdir()
    (figures / "07_examples.png").write_bytes(b"a picture")
    page = rendered(tmp_path)
    links = [value for name, value in page.attributes if name in ("src", "href")]
    assert links.pop(0) == "#capacity"
    assert links == [f"data:image/png;base64,{base64.b64encode(b'a picture').decode()}"]
    assert ("alt", "Capacity forecast: examples") in page.attributes
    assert ("class", "wide") in page.attributes


def test_tables_and_sentences_of_the_details_are_printed_and_empty_tables_are_not(tmp_path: Path) -> None:
    files.write_json(tmp_path / "failure" / "section.json", section())
    tables = {"The surest mistakes": [{"resource_id": "host-1", "rows": 1234, "mae": None}], "Nothing": []}
    files.write_json(tmp_path / "failure" / "details.json", {"sentences": ["It catches 3."], "tables": tables})
    text = rendered(tmp_path).text
    assert "It catches 3." in text and "The surest mistakes" in text and "Nothing" not in text
    assert re.search(r"resource id\s*rows\s*MAE\s*host-1\s*1,234\s*–", text)


def test_the_first_screen_says_what_was_caught_before_any_metric_and_gives_one_reason(tmp_path: Path) -> None:
    share = {"value": 0.654, "low": 0.5, "high": 0.75, "naive": "prior"}
    told = section("failure", "challenger", oracle={"roc_auc": metric(0.9)}, share_of_oracle=share,
                   intervals_over="25 resources")  # fmt: skip
    told["gate"]["reasons"] = ["is inferior to boosted trees", "beats the prior"]
    files.write_json(tmp_path / "failure" / "section.json", told)
    facts = {"incidents": 20, "caught": 12, "median_hours_ahead": 9.5, "false_alarms_per_day": 0.2, "resources": 25}
    files.write_json(tmp_path / "failure" / "details.json", {"first_screen": facts})
    first, _, rest = rendered(tmp_path).text.partition("What to do next")
    caught, alarms, reason, table = (
        first.index(part)
        for part in (
            "12 of 20 incidents in the test were announced, half of them 9.5 hours or more ahead.",
            "One false alarm every 5 days over all 25 resources.",
            "not served: it is inferior to boosted trees. Search again.",
            "Measured on the test part, with 95 % intervals",
        )
    )
    assert caught < alarms < reason < table < first.index("ROC AUC")
    assert "beats the prior" not in first and "beats the prior" in rest
    assert "65% (50% to 75%) from prior" in first and "25 resources" in first
    assert "trees" in first and "0.800 (0.700 to 0.850)" in first


def test_a_report_without_such_facts_shows_the_metric_in_their_place(tmp_path: Path) -> None:
    files.write_json(tmp_path / "failure" / "section.json", section())
    first = rendered(tmp_path).text.partition("What to do next")[0]
    assert "ROC AUC 0.800" in first and "announced" not in first and "None" not in first.partition("Measured")[2]
    assert "way from a naive baseline" not in first


def test_the_page_says_once_that_intervals_leave_out_what_another_training_would_change(tmp_path: Path) -> None:
    for task in ("failure", "threat", "capacity"):
        files.write_json(tmp_path / task / "section.json", section(task))
        files.write_json(tmp_path / task / "details.json", {"per_class": {}})
    text = rendered(tmp_path).text
    assert text.count("another training would change is not in it.") == 1
    found = {"mean": 0.79, "low": 0.76, "high": 0.82, "spread": 0.02}
    several = section("failure", seeds={"seeds": [7, 8, 9], "metrics": {"roc_auc": found}})
    files.write_json(tmp_path / "failure" / "section.json", several)
    text = rendered(tmp_path).text
    assert text.count("is not in it, but said with the figures of each task.") == 1
    assert "trained 3 times" in text.partition("Test metrics")[2]


def test_a_folder_without_a_section_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no section of a task"):
        report.render(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tasks_that_did_not_run_are_in_the_report_with_their_reason(tmp_path: Path) -> None:
    files.write_json(tmp_path / "failure" / "section.json", section(oracle={"roc_auc": metric(0.9)}))
    content = report.render(tmp_path)
    assert list(content["tasks"]) == ["failure", "threat", "capacity"]
    assert content["tasks"]["threat"]["reason"] == "not run"
    rows = report.verdicts(content).set_index("task")
    assert rows.loc["Failure prediction"].to_dict() == {
        "status": "trained", "decision": "champion", "reason": "is as it is", "metric": words.METRIC_WORDS["roc_auc"],
        "model": "0.800 (0.700 to 0.850)", "best baseline": "trees 0.700", "oracle": "0.900",
        "way to the oracle": "",
    }  # fmt: skip
    assert rows.loc["Threat detection", ["status", "decision", "reason"]].tolist() == ["skipped", "", "not run"]


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "facts", "said"),
    [
        ("failure", {"incidents": 0, "caught": 0}, ["No incident happened in the test."]),
        ("failure", {"incidents": 7, "caught": 0, "false_alarms_per_day": 0.0, "resources": 3},
         ["None of the 7 incidents in the test was announced.", "No false alarm was raised over all 3 resources."]),
        ("failure", {"incidents": 7, "caught": 2, "median_hours_ahead": 0.5, "false_alarms_per_day": 234.4},
         ["2 of 7 incidents in the test were announced, half of them 30 minutes or more ahead.",
          "234 false alarms a day."]),
        ("failure", {"incidents": 3, "caught": 3, "median_hours_ahead": 1.0, "false_alarms_per_day": 1.02, "resources": 2},
         ["3 of 3 incidents in the test were announced, half of them 1 hour or more ahead.",
          "1 false alarm a day over all 2 resources."]),
        ("failure", {"incidents": 7, "caught": 7, "median_hours_ahead": None, "false_alarms_per_day": float("nan")},
         ["7 of 7 incidents in the test were announced."]),
        ("threat", {"attacks": 1200, "caught": 900, "share": 0.75, "low": 0.72, "high": 0.78, "ordinary_rows": 4000,
                    "false_alarms": 14, "false_alarms_per_1000": 3.5},
         ["900 of 1,200 attacks in the test were recognised as an attack: 75% (72% to 78%).",
          "3.5 of 1,000 ordinary rows raised a false alarm (14 of 4,000)."]),
        ("threat", {"attacks": 0, "caught": 0, "ordinary_rows": 0, "false_alarms": 0, "false_alarms_per_1000": None},
         ["No attack is among the rows of the test."]),
        ("capacity", {"typical_error": [{"target": "cpu", "half_below": 3.14, "typical_value": 512.3},
                                        {"target": "disk", "half_below": 0.5, "typical_value": None}],
                      "inside_band": 0.787},
         ["Half of the forecasts are off by less than 3.1 for cpu (usually around 512), 0.5 for disk.",
          "79% of the values fell inside the band that should hold 80%."]),
        ("capacity", {"typical_error": [{"target": str(i), "half_below": 1.0} for i in range(5)], "inside_band": None},
         ["Half of the forecasts are off by less than 1 for 0, 1 for 1, 1 for 2, and 2 more below."]),
        *[(task, facts, []) for task in ("failure", "threat", "capacity") for facts in ({}, None)],
    ],
)  # fmt: skip
def test_facts_are_said_plainly_and_what_is_unknown_is_not(task: str, facts: Any, said: list[str]) -> None:
    assert first_screen(task, {"first_screen": facts}) == said


def test_rows_that_validate_out_of_fold_are_not_counted_twice() -> None:
    def of(**counts: int) -> str:
        return words.rows_words({"data": counts})

    apart = of(rows=1000, train_rows=600, validation_rows=200, test_rows=200)
    assert apart.startswith("1,000 rows: 600 for training, 200 for validation, 200 for the test")
    folds = of(rows=8000, train_rows=6000, validation_rows=6000, test_rows=2000)
    assert folds.startswith("8,000 rows: 6,000 for training and 2,000 for the test")
    assert "also validate, all of them, out of fold" in folds
    some = of(rows=8000, train_rows=6000, validation_rows=1500, test_rows=2000)
    assert "also validate, 1,500 of them, out of fold" in some
    pairs = of(rows=2000, train_rows=40000, validation_rows=500, test_rows=700, origins=8)
    assert pairs.startswith("2,000 rows of usage make 41,200 forecast values: 40,000 for training")
    band = of(rows=2000, train_rows=40000, validation_rows=500, calibration_rows=600, test_rows=700, origins=8)
    assert "make 41,800 forecast values" in band
    assert "500 for validation, 600 for the width of the band, 700 for the test" in band


def test_next_steps_follow_the_decisions() -> None:
    content = {
        "source": "synthetic",
        "tasks": {
            "failure": section("failure"),
            "threat": section("threat", "challenger"),
            "capacity": section("capacity", "refused"),
        },
    }
    serve, challenger, refused, own, trials = words.next_steps(content)
    assert serve == "Serve failure_predictor: <code>make serve</code>."
    assert "<code>aiops models promote threat_detector 3</code>" in challenger
    assert refused.startswith("capacity_forecaster learned nothing worth serving")
    assert "--source FOLDER" in own and "mlflow ui" in trials
    failed = {"source": "own", "tasks": {"threat": report.empty_section("threat", "failed", "it broke")}}
    assert [s.split(";")[0] for s in words.next_steps(failed)] == [
        "Threat detection failed",
        "Every trial behind these numbers: <code>mlflow ui --backend-store-uri sqlite:///mlflow.db</code>.",
    ]


def test_next_steps_take_no_text_from_the_data() -> None:
    # The page prints them as HTML.
    hostile = section("threat", "challenger", reason=HOSTILE)
    hostile["gate"].update(reasons=[HOSTILE], advice=HOSTILE)
    failed = report.empty_section("failure", "failed", HOSTILE)
    content = {"source": HOSTILE, "title": HOSTILE, "tasks": {"threat": hostile, "failure": failed}}
    for step in words.next_steps(content):
        assert set(Page(step).tags) <= {"code"}
        assert "alert" not in step


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (True, "True"), ("a", "a"), (1234, "1,234"), (0.00012, "0.0001"), (0.5, "0.500"), (3.0, "3"),
     (1.0, "1.000"), (12.345, "12.345"), (1234.56, "1,234.6"), (0, "0"), (0.0, "0.000"), (-2.5, "-2.500")],
)  # fmt: skip
def test_numbers_are_as_short_as_a_table_needs(value: object, said: str) -> None:
    assert words.short(value) == said


def test_a_metric_without_interval_or_value_says_so() -> None:
    assert words.with_interval(metric(0.8)) == "0.800 (0.700 to 0.850)"
    assert words.with_interval({"value": 0.8, "low": None, "high": None}) == "0.800"
    assert words.with_interval(metric(None)) == words.with_interval(None) == "–"


def test_a_verdict_says_how_far_a_model_goes_toward_the_oracle_and_not_what_share_of_its_value_it_has() -> None:
    oracle = {"oracle": {"roc_auc": metric(0.9)}}
    share = {"value": 0.654, "low": 0.5, "high": 0.75, "naive": "prior"}
    said = words.verdict_words(section(**oracle, share_of_oracle=share))
    assert "the oracle reaches 0.900, and the model goes 65% (50% to 75%) of the way there from prior" in said
    assert "89%" not in said
    for unknown in (None, {**share, "value": None}, {**share, "value": float("nan")}):
        assert "the oracle reaches 0.900. It passes" in words.verdict_words(section(**oracle, share_of_oracle=unknown))


def test_the_best_baseline_of_an_error_is_the_one_with_the_smallest() -> None:
    errors = {"last_value": {"mase": metric(0.9)}, "trees": {"mase": metric(0.7)}}
    assert words.best_baseline({"main_metric": "mase", "baselines": errors})[0] == "trees"
    assert words.best_baseline(section())[0] == "trees"


def test_the_page_says_over_which_units_its_intervals_are_and_how_often_the_test_was_scored(tmp_path: Path) -> None:
    told = section(intervals_over="25 resources, 9 of them with an incident", test_looks=14)
    files.write_json(tmp_path / "failure" / "section.json", told)
    text = rendered(tmp_path).text
    assert "Test metrics, with 95 % intervals over 25 resources, 9 of them with an incident" in text
    assert "This test set has been scored 14 times" in text


# Model card ----------------------------------------------------------------------------------------------------------


def card(**more: Any) -> dict[str, Any]:
    return {
        "task": "failure", "model": "failure_predictor", "kind": "lstm", "created": "2026-01-01T00:00:00Z",
        "features": [{"name": "cpu"}, {"name": "disk"}], "metrics": {"roc_auc": metric(0.8), "brier": metric(0.1)},
        "baselines": {"trees": {"roc_auc": metric(0.7)}}, "oracle": {"roc_auc": metric(0.9)},
        "decision": {"rule": "max_f1", "threshold": 0.25, "curve": {"threshold": [1.0]}},
        "calibration": {"method": "platt", "slope": 1.5}, "gate": {"decision": "challenger", "reasons": ["is slow"]},
        "lineage": {"title": "T", "licence": "L", "digest": "d" * 64, "split": "by time", "run_id": "r", "seed": 7,
                    "code_version": "c", "incidents": {"train": 30, "test": 9}},
        **more,
    }  # fmt: skip


def test_the_model_card_says_use_data_limits_decision_and_numbers_beside_the_baselines() -> None:
    text = model_card(card())
    assert text.startswith("# Model card: failure_predictor\n")
    assert "- **Kind**: LSTM, created 2026-01-01T00:00:00Z" in text
    assert "- **Data**: T (licence: L), digest dddddddddddddddd\n" in text
    assert "- **Incidents**: 30 in training, 9 in the test (fewer than 10: no figure below is reliable)" in text
    assert "- **Features**: cpu, disk" in text
    assert "- **Decision**: rule max_f1, threshold 0.250" in text
    assert "- **Calibration**: method platt, slope 1.500" in text
    assert "- **Lineage**: run r, seed 7, code c" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| metric | value (95 % interval) | trees | oracle |"
    assert table[2].endswith("| 0.800 (0.700 to 0.850) | 0.700 | 0.900 |")
    assert table[3].endswith("| 0.100 (0.000 to 0.150) | – | – |")
    assert {line.count("|") for line in table} == {5}
    assert text.endswith("**Gate: challenger**\n\n- It is slow\n")
    enough = card(lineage={"incidents": {"train": 30, "test": 10}})
    assert "- **Incidents**: 30 in training, 10 in the test\n" in model_card(enough)


def test_the_model_card_names_the_f1_of_a_class_in_words() -> None:
    text = model_card(card(metrics={"f1": metric(0.7), "f1_brute_force": metric(0.8)}))
    assert "| F1 of brute_force | 0.800" in text and "| F1 | 0.700" in text and "f1_" not in text


@pytest.mark.parametrize("task", ["failure", "threat", "capacity"])
def test_a_model_card_needs_no_more_than_what_every_card_has(task: str) -> None:
    text = model_card({"task": task, "model": "m", "kind": "own", "features": [{"name": "a"}]})
    assert "- **Intended use**: " in text and "- **Limits**: " in text
    assert "**Gate: not judged**" in text and "- **Decision**: none" in text
    assert "Incidents" not in text and "oracle" not in text


# Terminal ------------------------------------------------------------------------------------------------------------


def test_the_terminal_prints_verdicts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    sections = {
        "failure": section("failure"),
        "threat": section("threat", "challenger"),
        "capacity": report.empty_section("capacity", "failed", "[red]no[/red] column 'x'"),
    }
    console.verdicts({"tasks": sections})
    out = capsys.readouterr().out.splitlines()
    assert out[0::2] == ["Failure prediction: champion", "Threat detection: challenger", "Capacity forecast: failed"]
    for line, content in zip(out[1::2], sections.values(), strict=True):
        assert line == f"  {words.verdict_words(content)}"
    assert out[5] == "  Failed: [red]no[/red] column 'x'."


def test_the_terminal_lists_models_or_says_that_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    console.models([])
    assert capsys.readouterr().out == "no registered model yet; train with: aiops report\n"
    console.models(
        [ModelVersion("threat_detector", 2, "abc", "champion", "2026-01-01"), ModelVersion("x", 1, "d", None, "2025")]
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["model", "version", "alias", "created", "(UTC)", "run"],
        ["threat_detector", "2", "champion", "2026-01-01", "abc"],
        ["x", "1", "2025", "d"],
    ]


def test_outside_a_terminal_every_change_of_a_stage_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.live(tmp_path / "out", "synthetic") as tell:
        tell("validation", "running")
        tell("validation", "done")
        tell("threat", "skipped")
    lines = re.sub(r"after \d+ s", "after N s", capsys.readouterr().err).splitlines()
    assert lines == [
        "▶ Validate data: running",
        "✓ Validate data: done after N s",
        "– Threat detector (random forest): skipped after N s",
    ]
