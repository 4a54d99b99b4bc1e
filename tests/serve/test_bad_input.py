"""What a client is told when its request cannot be answered: never a 5xx, always the path and the rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import hypothesis
import jsonschema
import msgspec
import pytest
import schemathesis
from client import Client
from conftest import Service
from mutations import mutated

from serve_app.http.api import build_api
from serve_app.http.examples import EXAMPLES
from serve_app.http.request_ids import Border, middlewares
from serve_app.wire.decoding import decode
from serve_app.wire.problems import Problem
from serve_app.wire.requests import CapacityRequest

POST = ["predict/failure", "predict/threat", "predict/capacity", "analyze/anomaly", "models/train", "models/register",
        "models/promote", "models/rollback", "models/shadow", "models/canary", "alerts/mute",
        "remediate"]  # fmt: skip
ROW = {"cpu_usage": 50}


@pytest.fixture
def under_ray(shared: Service) -> Client:
    """Client of the shared service behind what Ray Serve puts around it."""
    from ray.serve._private.http_util import _apply_middlewares

    return Client(_apply_middlewares(build_api(shared.services, header=False), middlewares()))


def check(answer: Any, status: int, *words: str) -> None:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == status and content["type"] and content["title"] and content["instance"]
    for word in words:
        assert word in answer.body.decode(), (word, content)


@pytest.mark.parametrize("route", POST)
@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_broken_json_is_400(client: Client, route: str, body: bytes) -> None:
    check(client.post(route, body), 400)


@pytest.mark.parametrize("route", POST)
@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"x"'])
def test_another_kind_of_json_is_422(client: Client, route: str, body: bytes) -> None:
    check(client.post(route, body), 422)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""]
)
def test_another_content_type_is_415(client: Client, kind: str) -> None:
    check(client.post("predict/threat", {"xss_score": 1}, headers={"content-type": kind}), 415)


def test_json_with_its_charset_is_read(client: Client) -> None:
    kind = {"content-type": "application/json; charset=UTF-8"}
    assert client.post("predict/threat", {"xss_score": 1}, headers=kind).status == 200


def test_a_body_in_pieces_is_read(client: Client) -> None:
    assert client.post("predict/threat", {"xss_score": 1, "failed_auth_count": 3}, chunks=5).status == 200


@pytest.mark.parametrize(
    ("route", "body", "words"),
    [
        ("predict/threat", {"failed_auth_count": "many"}, ["$.failed_auth_count", "a number"]),
        ("predict/threat", {"failed_auth_count": True}, ["$.failed_auth_count"]),
        ("predict/threat", {"failed_auth_count": -1}, ["$.failed_auth_count", ">= 0"]),
        ("predict/threat", {"xss_score": 1.5}, ["$.xss_score", "<= 1"]),
        ("predict/threat", b'{"request_rate": 1e999}', ["$.request_rate"]),
        ("predict/threat", {"fail_count": 1, "ips": 2}, ["fail_count", "ips", "unknown", "failed_auth_count"]),
        ("predict/threat", {"source_ip": "1.2.3.4"}, ["at least one feature"]),
        ("predict/threat", {"instances": []}, ["instances"]),
        ("predict/threat", {"instances": [{"xss_score": 1}, {"xss": 1}]}, ["$.instances[1].xss"]),
        ("predict/threat", {"instances": [{"xss_score": 0.5}] * 10_001}, ["instances", "10000"]),
        ("predict/failure", {"metrics": ROW}, ["resource_id"]),
        ("predict/failure", {"resource_id": "r"}, ["metrics", "time_series"]),
        ("predict/failure", {"resource_id": "r", "metrics": ROW, "time_series": [ROW]}, ["either"]),
        ("predict/failure", {"resource_id": "r", "metrics": {}}, ["at least one metric"]),
        ("predict/failure", {"resource_id": "r", "metrics": {"cpu": 1, "ram": 2}}, ["cpu", "ram", "cpu_usage"]),
        ("predict/failure", {"resource_id": "r", "metrics": {"cpu_usage": 1, "disk_io": "x"}}, ["$.metrics.disk_io"]),
        (
            "predict/failure",
            {"instances": [{"resource_id": "r", "time_series": [{"disk_io": 1}, {"disk_io": []}]}]},
            ["$.instances[0].time_series[1].disk_io"],
        ),
        ("predict/failure", {"resource_id": "r", "metrics": {"cpu_usage": 101}}, ["$.metrics.cpu_usage", "100"]),
        ("predict/failure", {"resource_id": "r", "time_series": []}, ["$.time_series"]),
        ("predict/failure", {"resource_id": "r", "time_series": [ROW] * 20_001}, ["$.time_series", "20000"]),
        ("predict/failure", {"resource_id": "r", "time_series": [ROW, {"x": 1}]}, ["$.time_series[1].x"]),
        ("predict/failure", {"resource_id": "r", "time_series": [{"cpu_usage": None}]}, ["at least one value"]),
        (
            "predict/failure",
            {"resource_id": "r", "metrics": ROW, "timestamp": "yesterday"},
            ["$.timestamp", "ISO 8601"],
        ),
        ("predict/capacity", {"resource_id": "r"}, ["historical_data", "current_metrics"]),
        ("predict/capacity", {"resource_id": "r", "historical_data": {"cpu_usage": []}}, ["cpu_usage"]),
        ("predict/capacity", {"resource_id": "r", "historical_data": {"cpu_usage": [1] * 20_001}}, ["20000"]),
        ("predict/capacity", {"resource_id": "r", "historical_data": {"gpu": [1]}}, ["gpu", "cpu_usage"]),
        ("predict/capacity", {"resource_id": "r", "historical_data": {"cpu_usage": [None]}}, ["at least one value"]),
        ("predict/capacity", {"resource_id": "r", "historical_data": {"cpu_usage": [1, 200]}}, ["cpu_usage[1]", "100"]),
        ("predict/capacity", {"resource_id": "r", "current_metrics": ROW, "forecast_days": 0}, ["forecast_days"]),
        ("predict/capacity", {"resource_id": "r", "current_metrics": ROW, "thresholds": {"x": 1}}, ["$.thresholds.x"]),
        (
            "predict/capacity",
            {"resource_id": "r", "historical_data": {"cpu_usage": [1, 2]}, "timestamps": [1]},
            ["2 values", "1 timestamps"],
        ),
        (
            "predict/capacity",
            {"instances": [{"resource_id": "r", "historical_data": {"\ua35a$": {"\ua35a": [1]}}}]},
            ["unknown"],
        ),
        ("analyze/anomaly", {"resource_id": "r"}, ["metrics", "time_series"]),
        ("analyze/anomaly", {"resource_id": "r", "metrics": ROW, "sensitivity": 0}, ["$.sensitivity"]),
        (
            "predict/failure",
            {"resource_id": "r", "metrics": ROW, "decision": {"rule": "cost", "cost_mised": 3}},
            ["$.decision: unknown field 'cost_mised'; known are rule, cost_missed, cost_false_alarm, alerts_per_day"],
        ),
        (
            "predict/failure",
            {"instances": [{"resource_id": "r", "metrics": ROW}, {"resource_id": "r", "decision": {"rule": "costs"}}]},
            ["$.instances[1].decision.rule: 'costs' is not one of max_f1, cost, alert_budget"],
        ),
        (
            "predict/capacity",
            {"resource_id": "r", "historical_data": {"cpu_usage": [1, {"valu": 2}]}},
            ["$.historical_data.cpu_usage[1]: unknown field 'valu'; known are value, timestamp"],
        ),
        (
            "predict/capacity",
            b'{"resource_id": "r", "current_metrics": {"cpu_usage": 1e999}}',
            ["$.current_metrics.cpu"],
        ),
        (
            "predict/failure",
            {"resource_id": [], "metrics": {"a": {}, "b": []}},
            ["$.resource_id", "metrics.a", "metrics.b"],
        ),
        ("predict/threat", {"xss_score": 1, "instances": 1}, ["$.instances"]),
        ("models/promote", {"name": "threat_detector", "instances": 1}, ["$.instances", "known are name, version"]),
        ("models/promote", {"name": "threat_detector", "instances": [{"name": 1}]}, ["$.instances", "$.version"]),
        ("models/promote", b'{"name": "a", "version": "1", "version": 1}', ["$.version"]),
        ("models/train", {"models": []}, ["$.models"]),
        ("models/train", {"models": ["rule_based_failure_predictor"]}, ["is not trained"]),
        ("models/train", {"n_samples": 5}, ["$.n_samples"]),
        ("models/train", {"use_synthetic_data": False}, ["$.source"]),
        ("models/train", {"source": "--out"}, ["$.source"]),
        ("models/promote", {"name": "threat_detector", "version": 0}, ["$.version"]),
        ("models/register", {"name": "threat_detector", "run_id": "../x"}, ["$.run_id"]),
    ],
)
def test_what_breaks_a_rule_is_422_with_path_and_rule(client: Client, route: str, body: Any, words: list[str]) -> None:
    check(client.post(route, body), 422, *words)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nothing", 404),
        ("GET", "/", 404),
        ("POST", "predict", 404),
        ("GET", "models/train/000000000000", 404),
        ("GET", "models/train/..%2fx", 404),
        ("DELETE", "models/train/000000000000", 404),
        ("GET", "predict/threat", 405),
        ("DELETE", "health", 405),
        ("BREW", "health", 405),
    ],
)
def test_unknown_paths_and_methods_are_said(client: Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    check(answer, status)
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("models/promote", {"name": "nobody", "version": 1}),
        ("models/rollback", {"name": "nobody"}),
        ("models/train", {"models": ["nobody"]}),
        ("remediate", {"action": "reboot_the_moon", "resource_id": "r"}),
    ],
)
def test_unknown_models_and_actions_are_404(client: Client, route: str, body: Any) -> None:
    check(client.post(route, body), 404)


def test_a_request_id_comes_back(client: Client) -> None:
    answer = client.post("predict/threat", {"xss_score": 1}, headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1" and answer.json()["request_id"] == "abc-1"
    strange = client.post("predict/threat", {"xss_score": 1}, headers={"x-request-id": "a\tb<"})
    assert strange.json()["request_id"] != "a\tb<"


def ids(answer: Any) -> list[str]:
    return [value for name, value in answer.every_header if name == "x-request-id"]


@pytest.mark.parametrize("given", [None, "abc-1", "\xff", "a b", "", "x" * 200])
@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "predict/threat", {"xss_score": 1}, {}, 200),
        ("GET", "health", None, {}, 200),
        ("HEAD", "health", None, {}, 200),
        ("OPTIONS", "health", None, {}, 204),
        ("POST", "predict/threat", b"{", {}, 400),
        ("GET", "nothing", None, {}, 404),
        ("GET", "predict/threat", None, {}, 405),
        ("POST", "predict/threat", b"{}", {"content-length": str(10**9)}, 413),
        ("POST", "predict/threat", b"{}", {"content-type": "text/plain"}, 415),
        ("POST", "predict/threat", {"x": 1}, {}, 422),
        ("POST", "models/rollback", {"name": "threat_detector"}, {}, 503),
    ],
)
def test_every_answer_has_one_request_id(
    shared: Service, under_ray: Client, method: str, path: str, body: Any, headers: dict[str, str], status: int,
    given: str | None,
) -> None:  # fmt: skip
    named = headers if given is None else {**headers, "x-request-id": given}
    for client in (shared.client, under_ray):
        answer = client.request(method, path, body, headers=named)
        assert answer.status == status
        (name,) = ids(answer)
        assert name == given if given == "abc-1" else name and name != given


@pytest.mark.parametrize("name", ["x-request-id", "x-request-timeout-seconds", "serve_multiplexed_model_id", "accept"])
def test_a_header_that_is_not_ascii_does_not_reach_ray(shared: Service, name: str) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await shared.api(scope, receive, send)

    assert Client(Border(app)).request("GET", "health", headers={name: "\xff", "x": "y"}).status == 200
    assert seen == [[(b"host", b"localhost"), (b"x", b"y")]]


def test_an_internal_error_says_nothing_about_the_inside(shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> bytes:
        raise RuntimeError("secret")

    monkeypatch.setattr(shared.models, "answer", fail)
    answer = shared.client.post("predict/threat", {"xss_score": 1})
    check(answer, 500)
    assert b"secret" not in answer.body


class Counting:
    """A decoder that counts its calls."""

    def __init__(self, kind: Any) -> None:
        self.inner = msgspec.json.Decoder(kind)
        self.type = self.inner.type
        self.calls = 0

    def decode(self, body: bytes) -> Any:
        self.calls += 1
        return self.inner.decode(body)


def test_the_wrong_one_of_many_metrics_is_named_without_reading_the_body_again_for_each() -> None:
    decoder: Any = Counting(CapacityRequest)
    history: dict[str, Any] = {f"m{i}": [1, 2] for i in range(1000)}
    body = msgspec.json.encode({"resource_id": "r", "historical_data": {**history, "m700": [1, "x"]}})
    with pytest.raises(Problem, match=r"\$\.historical_data\.m700\[1\]"):
        decode(decoder, body)
    assert decoder.calls == 1


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[msgspec.Raw]
    explain: bool = False


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"instances": [1, {"a": 1e999}], "explain": 1}', "$.explain"),
        (b'{"instances": [1%s], "explain": 1}' % (b"0" * 30), "$.explain"),
        (b'{"instances": 1}', "$.instances"),
        (b'{"instances": [{}], "partal": true}', "$.partal"),
    ],
)
def test_what_stands_beside_parts_kept_as_they_came_is_named(body: bytes, path: str) -> None:
    with pytest.raises(Problem) as caught:
        decode(msgspec.json.Decoder(Kept), body)
    assert [error["path"] for error in caught.value.errors] == [path]


def test_every_wrong_row_of_a_batch_is_named_up_to_a_hundred(client: Client) -> None:
    rows: list[dict[str, Any]] = [{"xss_score": 0.5} for _ in range(1000)]
    for i in (3, 500, 999):
        rows[i] = {"xss_score": "high"}
    found = client.post("predict/threat", {"instances": rows}).json()
    assert [e["path"] for e in found["errors"]] == [f"$.instances[{i}].xss_score" for i in (3, 500, 999)]
    many = client.post("predict/threat", {"instances": [{"xss_score": "high"}] * 1000}).json()
    assert len(many["errors"]) == 100 and len(many["detail"]) < 2000


_FUZZ = hypothesis.settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)

# The whole schema ----------------------------------------------------------------------------------------------------


def test_the_document_describes_every_route_with_units_ranges_and_examples(client: Client) -> None:
    document = client.get("/schema").json()
    assert document["openapi"] == "3.1.0"
    for route in POST:
        content = document["paths"][f"/api/v3/aiops/{route}"]["post"]["requestBody"]["content"]["application/json"]
        assert "example" in content or "examples" in content
    cpu = document["components"]["schemas"]["Snapshot"]["properties"]["cpu_usage"]
    assert (cpu["minimum"], cpu["maximum"]) == (0, 100) and "Unit: %" in cpu["description"]
    assert (
        "Training range"
        in document["components"]["schemas"]["ThreatRequest"]["properties"]["unique_ips"]["description"]
    )


@pytest.mark.parametrize(
    "body",
    [
        {"resource_id": "a", "metrics": {"queue": 3.0}},
        {"resource_id": "a", "metrics": {"cpu_usage": 3.0, "queue": None}},
        {"resource_id": "a", "time_series": [{"queue": 3.0 + i % 2} for i in range(12)]},
        {"resource_id": "a", "queue": 3.0, "sensitivity": 4.0},
        {"instances": [{"resource_id": "a", "metrics": {"queue": 3.0}}, {"resource_id": "b", "queue": 1}]},
    ],
)
def test_the_description_allows_the_metrics_that_anomalies_are_looked_for_in(client: Client, body: Any) -> None:
    document = client.get("/schema").json()
    content = document["paths"]["/api/v3/aiops/analyze/anomaly"]["post"]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": document["components"]}
    assert client.post("analyze/anomaly", body).status == 200
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(body)) == []
    for wrong in ("text", True, 1e300):
        row = {"resource_id": "a", "metrics": {"queue": wrong}}
        assert client.post("analyze/anomaly", row).status == 422
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(row))


def test_every_example_of_the_description_is_answered(client: Client) -> None:
    for route in POST[:4]:
        assert client.post(route, EXAMPLES[route]).status == 200


def test_the_description_reads_well(client: Client) -> None:
    document = client.get("/schema").json()
    said = [str(value) for value in _descriptions(document)]
    assert len(said) > 100 and "" not in said
    assert [text for text in said if "serve_app" in text or re.search(r"\d[eE][-+]?\d+(?![\w-])", text)] == []
    assert any("Probability that the stated prediction is right" in text for text in said)


def _descriptions(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("description"), str):
            yield part["description"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else []:
        yield from _descriptions(inner)


def test_every_field_of_the_schema_says_what_it_means(client: Client) -> None:
    parts = client.get("/schema").json()["components"]["schemas"]
    fields = {f"{s}.{name}": field for s, part in parts.items() for name, field in part.get("properties", {}).items()}
    assert [name for name, field in fields.items() if not field.get("description")] == []


def _conforms(context: Any, response: Any, case: Any) -> None:
    from schemathesis.specs.openapi.checks import response_schema_conformance

    response_schema_conformance(context, response, case)


def test_no_request_of_the_schema_is_answered_by_5xx(shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fuzzed jobs must not train.
    monkeypatch.setattr(shared.jobs, "_command", ["false"])
    monkeypatch.setattr(shared.jobs, "start", lambda *_: {"job_id": "0123456789ab"})
    schema = schemathesis.openapi.from_asgi("/schema", shared.api)
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(operation.path)

        @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
        @_FUZZ
        def answered(case: Any) -> None:
            answer = case.call()
            # 503 is a state of the service (no registry here), not a reaction to what was sent.
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if case.path.split("/v3/aiops/")[-1] in POST[:4]:
                assert answer.status_code in (200, 422), answer.text
                if answer.status_code == 200:
                    case.validate_response(answer, checks=[_conforms])

        @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        @_FUZZ
        def refused(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500 or answer.status_code == 503, answer.text

        answered()
        if operation.body or operation.path_parameters:
            refused()
    assert seen == set(shared.client.get("/schema").json()["paths"]) - {"/schema"}


@pytest.mark.parametrize("route", POST)
def test_misspelt_misplaced_and_mistyped_fields_are_never_answered_by_5xx(
    shared: Service, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setattr(shared.jobs, "start", lambda *_: {"job_id": "0123456789ab"})
    document = shared.client.get("/schema").json()
    refused = 0
    for body in mutated(document, f"/api/v3/aiops/{route}", 250):
        answer = shared.client.post(route, body)
        # 503: no registry here.
        assert answer.status < 500 or answer.status == 503, (body, answer.body)
        if answer.status >= 400:
            check(answer, answer.status)
            refused += 1
        if answer.status == 422:
            assert all(error["path"].startswith("$") and error["rule"] for error in answer.json()["errors"])
    assert refused > 100
