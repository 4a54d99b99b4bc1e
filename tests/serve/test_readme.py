"""Every curl line of the README, run against the real service."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Running

pytestmark = pytest.mark.serve
README = Path(__file__).parents[2] / "README.md"
PREFIX = "http://127.0.0.1:8100/api/v3/aiops/"


def curl_lines() -> list[str]:
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    return [line.strip() for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
            if line.strip().startswith("curl ")]  # fmt: skip


def check(route: str, content: Any) -> None:
    """Check what a route answered."""
    if route == "health":
        assert content["status"] == "healthy"
    elif route == "models/status":
        assert len(content["models"]) == 5
    elif route == "predict/failure":
        assert content["prediction"] in ("failure", "no_failure") and content["model"]["kind"] in ("lstm", "rule_based")
    elif route == "predict/threat":
        assert content["prediction"] != "normal" and content["severity"] in ("high", "critical")
    elif route == "predict/capacity":
        assert {"cpu_usage", "memory_usage"} <= content["forecast"].keys() and content["recommendation"]["reason"]
    elif route == "analyze/anomaly":
        assert content["prediction"] in ("anomaly", "normal")
    elif route == "feedback":
        assert content == {"new": 1, "changed": 0, "unchanged": 0}
    elif route == "journal":
        assert content["records"][0]["threat_type"] != "normal"
    elif route == "remediate":
        assert content["status"] == "dry_run"
    elif route == "models/train":
        assert content["job_id"]


def test_every_curl_line_of_the_readme_works(running: Running) -> None:
    lines = curl_lines()
    if not lines:
        pytest.skip("the README shows no curl line yet")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    routes = set()
    for line in lines:
        assert PREFIX in line, line
        line = line.split(" | ")[0]
        route = re.search(re.escape(PREFIX) + r"([\w/]+)", line)
        assert route is not None
        routes.add(route[1])
        command = [part.replace("http://127.0.0.1:8100", running.url) for part in shlex.split(line)]
        done = subprocess.run(
            [*command, "-sS", "--noproxy", "*"], capture_output=True, text=True, check=True, timeout=120
        )
        if route[1] == "metrics":
            assert "aiops_predictions_total" in done.stdout
            continue
        content = json.loads(done.stdout)
        check(route[1], content)
        if route[1] == "models/train" and "job_id" in content:
            running.http.delete(f"models/train/{content['job_id']}")
    assert {"health", "models/status", "metrics", "predict/failure", "predict/threat", "predict/capacity"} <= routes
