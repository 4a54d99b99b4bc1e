"""One table of routes drives the application, the OpenAPI description and the README's list."""

from __future__ import annotations

import json
import re
from pathlib import Path

from client import Client

from serve_app.http.examples import EXAMPLES
from serve_app.http.routes import JOB, ROUTES, listing

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_lists_every_route_of_the_table() -> None:
    assert listing() in README.read_text(encoding="utf-8"), "print it with python -m serve_app.http.routes"


def test_the_description_names_every_route_of_the_table_and_no_other(client: Client) -> None:
    paths = client.get("/schema").json()["paths"]
    described = {(method.upper(), path) for path, entry in paths.items() for method in entry if method != "parameters"}
    assert described == {(route.method, route.shown) for route in ROUTES}
    operations = [entry[m]["operationId"] for entry in paths.values() for m in entry if m != "parameters"]
    assert len(operations) == len(set(operations))


def test_every_path_of_the_table_allows_the_methods_of_the_table(client: Client) -> None:
    for route in ROUTES:
        path = route.shown.replace("{job_id}", "0123456789ab")
        allowed = client.request("OPTIONS", path).headers["allow"].split(", ")
        methods = {other.method for other in ROUTES if other.path == route.path}
        assert set(allowed) == methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())


def test_a_route_without_a_model_has_a_handler_and_a_post_an_example() -> None:
    for route in ROUTES:
        assert bool(route.handler) != bool(route.task)
        assert (route.path in EXAMPLES) == (route.method == "POST" or route.path == "models/train")
    assert [route.method for route in ROUTES if route.path == JOB] == ["GET", "DELETE"]


def test_every_schema_that_the_description_refers_to_is_in_it(client: Client) -> None:
    text = client.get("/schema").body.decode()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert {route.request.__name__ for route in ROUTES if route.request is not None} <= named
    assert named <= set(json.loads(text)["components"]["schemas"])
