"""Alert rules and dashboard: by promtool, and against a real Prometheus that scrapes the real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml
from conftest import Running, free_port
from test_requests import SNAPSHOT, THREAT

from aiops_core.data import folder
from aiops_core.data import sources as datasets
from serve_app.operations.catalogue import CATALOGUE
from serve_app.operations.dashboard import dashboard

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serve_app" / "deploy"
RULES = DEPLOY / "alert-rules.yaml"
NAME = re.compile(r"\baiops_\w+")
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Debian's package prometheus is not installed"
)


def rules() -> list[dict[str, Any]]:
    content = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def family(sample: str) -> str:
    """Return the metric of the catalogue that a sample is of."""
    return sample if sample in CATALOGUE else re.sub(r"_(bucket|sum|count)$", "", sample)


def asked() -> set[str]:
    """Return the names of all samples that rules and dashboard ask for."""
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return {name for expression in expressions for name in NAME.findall(expression)}


def test_rules_and_dashboard_ask_for_metrics_of_the_catalogue_only_and_the_dashboard_for_all() -> None:
    assert {family(name) for name in asked()} == set(CATALOGUE)


def test_the_kept_dashboard_is_the_one_that_the_catalogue_makes() -> None:
    kept = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert kept == dashboard(), "print it with python -m serve_app.operations.dashboard"
    panels = kept["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(taken)) == len(taken) and all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)


def test_every_alert_links_a_section_of_the_runbook_and_every_section_is_linked() -> None:
    page = (DEPLOY / "runbook.md").read_text(encoding="utf-8")
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", page, re.MULTILINE)}
    links = {rule["annotations"]["runbook_url"] for rule in rules() if "alert" in rule}
    assert links == {f"serve_app/deploy/runbook.md#{section}" for section in sections}
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= sections
    assert all(rule["labels"]["severity"] in ("page", "ticket") for rule in rules() if "alert" in rule)


@needs_prometheus
def test_every_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    tests = Path(__file__).with_name("alert-rules-test.yaml")
    for path in (RULES, tests):
        shutil.copy(path, tmp_path)
    found = subprocess.run(
        ["promtool", "test", "rules", tests.name], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stdout + found.stderr
    tried = yaml.safe_load(tests.read_text(encoding="utf-8"))["tests"]
    fired = {t["alertname"] for test in tried for t in test["alert_rule_test"] if t["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


@pytest.fixture(scope="module")
def prometheus(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that scrapes the running service every second and has the rules loaded."""
    home = tmp_path_factory.mktemp("prometheus")
    shutil.copy(RULES, home)
    target = running.url.removeprefix("http://")
    scrape = {"job_name": "aiops", "metrics_path": "/api/v3/aiops/metrics", "static_configs": [{"targets": [target]}]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [RULES.name],
        "scrape_configs": [scrape],
    }
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log, cwd=home,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(address: str, path: str, **options: str) -> Any:
    """Return the data of an answer of Prometheus' API, waiting until it answers at all."""
    deadline = time.time() + 60
    while True:
        try:
            answer = httpx.get(f"{address}/api/v1/{path}", params=options, timeout=10, trust_env=False).json()
            break
        except (httpx.HTTPError, ValueError):
            assert time.time() < deadline, "Prometheus does not answer"
            time.sleep(0.2)
    assert answer["status"] == "success", answer
    return answer["data"]


def until(address: str, query: str) -> list[dict[str, Any]]:
    """Return the result of a query as soon as there is one."""
    deadline = time.time() + 60
    while not (result := ask(address, "query", query=query)["result"]):
        assert time.time() < deadline, f"no answer to {query}"
        time.sleep(0.5)
    found: list[dict[str, Any]] = result
    return found


@needs_prometheus
@pytest.mark.serve
def test_a_real_prometheus_finds_every_metric_that_rules_and_dashboard_name(running: Running, prometheus: str) -> None:
    for _ in range(3):
        running.post("predict/threat", THREAT)
        running.post("predict/failure", SNAPSHOT)
    running.post("predict/threat", {"xss_score": "x"})
    until(prometheus, 'aiops_requests_total{status="422"}')
    described = ask(prometheus, "metadata")
    kinds = {name: entry[0]["type"] for name, entry in described.items()}
    assert {name: kinds.get(name) for name in map(family, asked())} == {
        name: CATALOGUE[name].kind for name in map(family, asked())
    }
    samples = set(ask(prometheus, "label/__name__/values"))
    ordinary = {
        name for name in asked() if "request" in name or name.endswith(("_up", "_info", "_bucket", "_in_flight"))
    }
    # Without keys, and with nothing beside the champion.
    ordinary -= {"aiops_key_requests_total", "aiops_companion_info"}
    assert len(ordinary) >= 7 and ordinary <= samples
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            ask(prometheus, "query", query=target["expr"].replace("$__rate_interval", "1m"))
    loaded = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in loaded} == {"ok"}
    firing = {rule["name"] for rule in loaded if rule.get("state") == "firing"}
    assert not firing, "a healthy service wakes nobody"


@needs_prometheus
@pytest.mark.serve
def test_a_usage_table_is_read_from_a_real_prometheus(running: Running, prometheus: str, tmp_path: Path) -> None:
    until(prometheus, "aiops_uptime_seconds offset 12s")
    running.post("predict/threat", THREAT)
    end = pd.Timestamp.now("UTC").floor("s")
    queries = {"uptime": "aiops_uptime_seconds", "requests": "sum by (instance) (aiops_requests_total)"}
    made = datasets.prometheus.load(prometheus, queries, start=end - pd.Timedelta(seconds=10), end=end, step_seconds=1)
    frame = made.tables["usage"]
    assert list(frame["resource_id"].unique()) == [running.url.removeprefix("http://")]
    assert len(frame) == 11 and frame["uptime"].is_monotonic_increasing and (frame["requests"] > 0).all()
    folder.save_folder(made, tmp_path / "own")
    assert datasets.load(str(tmp_path / "own")).has("capacity")
