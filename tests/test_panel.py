"""The table that a notebook shows while it searches."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from aiops_core.study.panel import trial_table
from aiops_core.study.progress import followed


def state(values: list[float | None], **changes: Any) -> dict[str, Any]:
    trials = [
        {"number": i, "params": {"rate": 0.123456, "kind": "a"}, "step": 4, "value": value, "status": "completed"}
        for i, value in enumerate(values, start=1)
    ]
    known = [value for value in values if value is not None]
    counts = {"done": len(values), "total": 40, "running": 0, "pruned": 0, "errored": 0, "eta": None}
    return {**counts, "objective": "f1", "best": max(known, default=None), "trials": trials, **changes}


def rows(html: str) -> list[list[str]]:
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in found]


def test_the_table_shows_number_state_step_objective_and_parameters_of_a_trial() -> None:
    header, first, second = rows(trial_table("line", state([0.5, None]), ["rate", "kind"]))
    assert header == ["trial", "state", "step", "f1", "rate", "kind"]
    assert first == ["★ 1", "completed", "4", "0.5", "0.123", "a"]
    assert second == ["2", "completed", "4", "", "0.123", "a"]


def test_a_long_search_shows_its_newest_trials_and_the_best_and_counts_the_others() -> None:
    html = trial_table("line", state([0.1, 0.9, *[0.2] * 28]), ["rate"])
    numbers = [row[0] for row in rows(html)[1:]]
    assert numbers == ["★ 2", *[str(i) for i in range(20, 31)]]
    assert "Not shown: 18 earlier trials." in html
    newest = rows(trial_table("line", state([*[0.2] * 29, 0.9]), ["rate"]))[1:]
    assert [row[0] for row in newest] == [*[str(i) for i in range(19, 30)], "★ 30"]


def test_the_best_trial_is_the_one_of_the_lowest_value_where_that_is_searched() -> None:
    shown = rows(trial_table("line", state([0.3, 0.1, 0.2], best=0.1), []))
    assert [row[0] for row in shown[1:]] == ["1", "★ 2", "3"]


def test_parameters_that_do_not_fit_are_counted_and_text_is_escaped() -> None:
    names = [f"<{i}>" for i in range(8)]
    html = trial_table("<line>", state([0.5]), names)
    assert "&lt;line&gt;" in html and "&lt;4&gt;" in html and "&lt;5&gt;" not in html and "<4>" not in html
    assert "Not shown: 3 more parameters." in html
    assert "<table" not in trial_table("line", state([]), names)


def test_without_a_notebook_the_state_goes_to_the_file_alone(tmp_path: Path) -> None:
    with followed(tmp_path, ["rate"]) as progress:
        progress.show(state([0.5]))
        progress.show(state([0.5, 0.6]))
    written = json.loads((tmp_path / "progress.json").read_text())
    # The last state is written, however soon it came after the one before; the trials are in the search's own file.
    assert written["done"] == 2 and written["stage"] == "search" and "trials" not in written


def test_the_button_asks_for_the_end_and_plain_html_stays_in_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiops_core.study import panel

    shown: list[Any] = []

    class Handle:
        def update(self, what: Any) -> None:
            shown.append(what)

    monkeypatch.setattr(panel, "display", lambda what, display_id: shown.append(what) or Handle())
    stop = threading.Event()
    live = panel.Panel(["rate"], stop)
    live.update("one of 40", state([0.5]))
    button, table = shown[0].children
    assert "one of 40" in table.value and not stop.is_set()
    button.click()
    assert stop.is_set() and button.disabled
    live.close()
    assert shown[-1].data == trial_table("one of 40", state([0.5]), ["rate"])
    assert button.comm is None
