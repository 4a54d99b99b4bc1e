"""The Grafana dashboard, made from the catalogue of the metrics: a metric that is new there has a panel here.

``python -m serve_app.operations.dashboard`` prints what is kept in ``serve_app/deploy/grafana-dashboard.json``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from serve_app.operations.catalogue import CATALOGUE, Family

__all__ = ["dashboard", "queries"]

#: Of Grafana's 24 columns.
WIDTH, HEIGHT = 12, 8
QUANTILES = (0.5, 0.95, 0.99)
#: What is asked first when somebody is woken: title, query, unit.
GLANCE = (
    ("requests per second", "sum(rate(aiops_requests_total[$__rate_interval]))", "reqps"),
    (
        "share of requests that end in a 5xx",
        'sum(rate(aiops_requests_total{status=~"5.."}[$__rate_interval])) / sum(rate(aiops_requests_total[$__rate_interval]))',
        "percentunit",
    ),
    (
        "time of 99 % of the requests",
        "histogram_quantile(0.99, sum by (le) (rate(aiops_request_seconds_bucket[$__rate_interval])))",
        "s",
    ),
    ("replicas whose registry answers", "sum(aiops_registry_up)", "short"),
)
SOURCE = {"type": "prometheus", "uid": "${source}"}


def queries(name: str, family: Family) -> list[tuple[str, str]]:
    """Return the PromQL of a metric's panel, each with the legend of its series.

    Counters are shown as rates and histograms as quantiles; samples that differ in labels of the catalogue only.
    """
    legend = " ".join(f"{{{{{label}}}}}" for label in family.labels) or name
    if family.kind == "gauge":
        return [(f"max by ({', '.join(family.labels)}) ({name})" if family.labels else name, legend)]
    by = f" by ({', '.join(family.labels)})" if family.labels else ""
    if family.kind == "counter":
        return [(f"sum{by} (rate({name}[$__rate_interval]))", legend)]
    by = ", ".join((*family.labels, "le"))
    rate = f"sum by ({by}) (rate({name}_bucket[$__rate_interval]))"
    return [(f"histogram_quantile({q}, {rate})", f"{legend} {q:.0%}") for q in QUANTILES]


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    width = 24 // len(GLANCE)
    for i, (title, query, unit) in enumerate(GLANCE):
        panels.append(
            _panel(i + 1, "stat", title, "", [(query, title)], unit, {"x": i * width, "y": 0, "w": width, "h": 4})
        )
    for i, (name, family) in enumerate(CATALOGUE.items()):
        place = {"x": WIDTH * (i % 2), "y": 4 + HEIGHT * (i // 2), "w": WIDTH, "h": HEIGHT}
        panels.append(
            _panel(len(panels) + 1, "timeseries", name, family.text, queries(name, family), _unit(name, family), place)
        )
    return {
        "uid": "aiops",
        "title": "AIOps service",
        "tags": ["aiops"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }  # fmt: skip


def _unit(name: str, family: Family) -> str:
    if name.endswith("_seconds"):
        return "s"
    return "cps" if family.kind == "counter" else "short"


def _panel(
    number: int, kind: str, title: str, text: str, asked: list[tuple[str, str]], unit: str, place: dict[str, int]
) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(asked)
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
