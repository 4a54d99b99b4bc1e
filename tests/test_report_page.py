"""The report as a page: nothing hostile runs in it, nothing in it is wider than a phone, everything of it prints."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aiops_core import files
from aiops_core.judge.metrics import WORDS
from aiops_core.study import report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
SCORE = {"value": 0.5, "low": 0.4, "high": 0.6}


class Tags(HTMLParser):
    """Names and attributes of every tag, and how many tables lie outside a box that scrolls."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[bool] = []
        self.tables = self.loose = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "div":
            self.open.append(found.get("class") == "wide-table")
        if tag == "table":
            self.tables += 1
            self.loose += not any(self.open)

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self.open.pop()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose data set's title, classes, resources, columns and notes are as hostile as may be."""
    section: dict[str, Any] = {
        "model": "threat_detector", "status": "trained", "reason": None, "main_metric": "macro_f1",
        "kind": "random_forest", "metrics": {"macro_f1": SCORE, f"f1_{HOSTILE}": SCORE},
        "baselines": {"class_prior": {"macro_f1": SCORE}}, "oracle": None, "model_version": 1, "run_id": "r" * 32,
        "parity": 0.0, "gate": {"decision": "challenger", "reasons": [HOSTILE], "advice": HOSTILE, "gains": {}},
        "data": {"rows": 9, "train_rows": 5, "validation_rows": 2, "test_rows": 2, "split": HOSTILE,
                 "digest": "d" * 64, "notes": [HOSTILE]},
        "search": {"trials": 1, "completed": 1, "pruned": 0, "errored": 0, "seconds": 1.0,
                   "best_params": {HOSTILE: HOSTILE}, "objective": "selection", "best_score": 0.5},
    }  # fmt: skip
    per_class = {HOSTILE: {"precision": 0.5, "recall": 0.5, "support": 3, "taken_for": HOSTILE}}
    details = {
        "sentences": [HOSTILE],
        "tables": {HOSTILE: [{HOSTILE: HOSTILE, "resource": HOSTILE}]},
        "per_class": per_class,
    }
    failed = report.empty_section("capacity", "failed", HOSTILE)
    files.write_json(tmp_path / "threat" / "section.json", section)
    files.write_json(tmp_path / "threat" / "details.json", details)
    files.write_json(tmp_path / "capacity" / "section.json", failed)
    files.write_json(tmp_path / "facts.json", {"source": HOSTILE, "title": HOSTILE, "licence": HOSTILE, "seed": 7})
    (tmp_path / "threat" / "servable").mkdir()
    (tmp_path / "threat" / "servable" / "model-card.md").write_text(f"# Model card\n\n| {HOSTILE} |\n")
    report.render(tmp_path)
    return tmp_path


def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_hostile_names_in_the_data_are_text_in_the_report(run: Path) -> None:
    text = page(run)
    assert text.count("&lt;script&gt;alert(1)") >= 12
    tags = Tags(text).tags
    assert not [tag for tag, _ in tags if tag == "script"]
    assert not [found for _, found in tags if any(name.startswith("on") for name in found)]


def test_hostile_names_in_the_data_are_text_in_the_tables_of_the_notebook(run: Path) -> None:
    content = report.summarise(run)
    for shown in (report.words(content).to_html(), report.verdicts(content).to_html()):
        assert "&lt;script&gt;alert(1)" in shown
        assert not [tag for tag, _ in Tags(shown).tags if tag in ("script", "img")]


def test_every_table_scrolls_in_a_box_of_its_own(run: Path) -> None:
    tags = Tags(page(run))
    assert tags.tables >= 3
    assert tags.loose == 0


def test_model_cards_are_open_so_that_they_print(run: Path) -> None:
    cards = [found for tag, found in Tags(page(run)).tags if tag == "details"]
    assert len(cards) == 1
    assert all("open" in found for found in cards)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 320])
def test_the_page_does_not_scroll_sideways_on_a_phone(run: Path, tmp_path: Path, width: int) -> None:
    files.write_json(run / "threat" / "details.json", {
        "sentences": ["word" * 60],
        "tables": {"Wide": [{f"column {i}": "unbroken" * 4 for i in range(9)}]},
        "per_class": {name * 9: {"precision": 0.5, "recall": 0.5, "support": 3, "taken_for": "normal"}
                                 for name in ("data_exfiltration", "brute_force")},
    })  # fmt: skip
    section = read(run / "threat" / "section.json")
    section["metrics"] = dict.fromkeys([*WORDS, *(f"f1_{n * 9}" for n in ("data_exfiltration", "brute_force"))], SCORE)
    files.write_json(run / "threat" / "section.json", section)
    report.render(run)
    # A window cannot be as narrow as a phone, a frame in it can.
    (run / "frame.html").write_text(
        f'<iframe id="f" src="report.html" style="width:{width}px;height:800px;border:0"></iframe>'
        '<script>document.getElementById("f").onload = (e) => { const page = e.target.contentDocument'
        ".documentElement; document.title = `${page.scrollWidth}/${page.clientWidth}`; }</script>"
    )
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
         "--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'browser'}", (run / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    content, _, visible = done.stdout.partition("<title>")[2].partition("</title>")[0].partition("/")
    assert int(content) == int(visible), done.stdout[:300]


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
