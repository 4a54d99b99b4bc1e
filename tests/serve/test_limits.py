"""What one request may cost: every limit of the table, and that others are answered beside a large one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from client import PREFIX, Client
from conftest import Service, point
from test_bad_input import check

from aiops_core import servable, settings
from aiops_core.errors import UsageError
from aiops_core.facts import MODELS
from aiops_core.rules import StatisticalAnomalyDetector
from serve_app.answers.batches import Work
from serve_app.app import build
from serve_app.http.api import Api
from serve_app.wire.decoding import decode
from serve_app.wire.limits import (
    MAX_BATCH_VALUES,
    MAX_ID,
    MAX_INSTANCES,
    MAX_METRICS,
    MAX_NAME,
    MAX_ORDER,
    MAX_SERIES,
    MAX_STAMP,
    MAX_VALUES,
    MB,
    TABLE,
    Limits,
    listing,
)
from serve_app.wire.problems import Problem
from serve_app.wire.requests import AnomalyRequest, CapacityRequest, ThreatBatch

THREAT = {"failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}
Limited = Callable[..., Service]


@pytest.fixture
def limited(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> Limited:
    """Build a service with all three models and limits of its own."""

    def build_service(**limits: Any) -> Service:
        point(tmp_path / "state", {MODELS[task]: (path, "1") for task, path in servables.items()})
        service: Service = make_service(limits=Limits(**limits))
        return service

    return build_service


async def never() -> None:
    """A client that waits for its answer."""
    await asyncio.Event().wait()


@dataclass
class Connection:
    """One request to the application, piece by piece, and what has come back so far."""

    api: Api
    path: str
    pieces: list[bytes]
    #: Awaited where the server asks for more than there is; returning means that the client hung up.
    then: Callable[[], Awaitable[Any]] = never
    announced: int | None = None
    read: int = 0
    sent: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self) -> int:
        """Send the request; return the status."""
        await self.api(self._scope(), self._receive, self._send)
        return self.status

    def _scope(self) -> dict[str, Any]:
        headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
        if self.announced is not None:
            headers.append((b"content-length", b"%d" % self.announced))
        path = f"{PREFIX}/{self.path}"
        return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}

    async def _receive(self) -> dict[str, Any]:
        if self.read == len(self.pieces):
            await self.then()
            return {"type": "http.disconnect"}
        self.read += 1
        more = self.read < len(self.pieces)
        return {"type": "http.request", "body": self.pieces[self.read - 1], "more_body": more}

    async def _send(self, message: Any) -> None:
        self.sent.append(dict(message))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def header(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


def batch(rows: list[Any], **options: Any) -> bytes:
    return msgspec.json.encode({"instances": rows, **options})


# The table -----------------------------------------------------------------------------------------------------------


def test_the_readme_quotes_the_table() -> None:
    assert listing() in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_description_quotes_every_limit(client: Client) -> None:
    said = client.get("/schema").json()["info"]["description"]
    for what, most, *_ in TABLE:
        assert f"{what}: {most}" in said


def test_every_setting_of_the_table_reaches_the_application(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [name for _, _, name, _ in TABLE if name]
    for i, name in enumerate(names):
        monkeypatch.setenv(name, str(i + 1))
    application: Any = build({"state_dir": str(tmp_path)})
    config = application._bound_deployment._deployment_config
    found: Limits = application._bound_deployment.init_args[0]["limits"]
    given = dict(zip(names, (1, 2, 3, 4), strict=True))
    assert found.body == given["AIOPS_MAX_BODY_MB"] * MB and found.answer == given["AIOPS_MAX_ANSWER_MB"] * MB
    assert found.held == given["AIOPS_MAX_HELD_MB"] * MB and found.requests == given["AIOPS_MAX_REQUESTS"]
    assert config.max_queued_requests == found.requests
    monkeypatch.setenv("AIOPS_MAX_BODY_MB", "0")
    with pytest.raises(UsageError, match="AIOPS_MAX_BODY_MB"):
        settings.load()


def _full(servables: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """One instance for each route, with every column that its model reads and long numbers."""
    cards = {task: servable.load(path).card for task, path in servables.items()}
    values = {task: {f["name"]: 12.3456789 for f in card["features"]} for task, card in cards.items()}
    unit = {f["name"]: 0.123456789 for f in cards["threat"]["features"]}
    named = {"resource_id": "rack-12/server-0042.example.com", "timestamp": "2026-01-31T12:00:00+00:00"}
    return {
        "predict/threat": {**unit, "source_ip": "2001:db8:85a3::8a2e:370:7334", "timestamp": named["timestamp"]},
        "predict/failure": {**named, "metrics": values["failure"]},
        "analyze/anomaly": {**named, "metrics": values["failure"]},
        "predict/capacity": {"resource_id": named["resource_id"], "current_metrics": values["capacity"], "forecast_days": 0.04},
    }  # fmt: skip


@pytest.mark.parametrize("route", ["predict/threat", "predict/failure", "analyze/anomaly", "predict/capacity"])
def test_ten_thousand_instances_fit(client: Client, servables: dict[str, Path], route: str) -> None:
    body = batch([_full(servables)[route]] * MAX_INSTANCES)
    assert MB < len(body) < Limits().body / 2
    answer = client.post(route, body)
    assert answer.status == 200, answer.body[:500]
    assert len(answer.json()["predictions"]) == MAX_INSTANCES


def test_ten_thousand_forecasts_of_a_metric_for_a_week_fit(client: Client) -> None:
    one = client.post("predict/capacity", {"resource_id": "server-0042", "current_metrics": {"cpu_usage": 50}})
    assert len(one.json()["forecast"]["cpu_usage"]) == 168
    assert MAX_INSTANCES * len(one.body) < Limits().answer


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(limited: Limited) -> None:
    service = limited()
    connection = Connection(service.api, "predict/threat", [b"{}"], announced=Limits().body + 1)
    assert asyncio.run(connection()) == 413 and connection.read == 0
    assert "16 MB" in json.loads(connection.body)["detail"]


def test_a_body_that_does_not_say_its_size_is_refused_while_it_is_read(limited: Limited) -> None:
    service = limited(body=10_000)
    connection = Connection(service.api, "predict/threat", [b" " * 1000] * 100)
    assert asyncio.run(connection()) == 413 and connection.read == 11
    lies = Connection(service.api, "predict/threat", [b" " * 1000] * 100, announced=10)
    assert asyncio.run(lies()) == 413


def test_an_order_is_short(client: Client) -> None:
    body = msgspec.json.encode({"name": "threat_detector", "x": "y" * MAX_ORDER})
    check(client.post("models/rollback", body), 413, "1 MB")


ROW = {"cpu_usage": 50.0}
TOO_MUCH: list[tuple[str, Any, int, str]] = [
    ("predict/threat", {"instances": [None] * (MAX_INSTANCES + 1)}, 422, "10000"),
    ("predict/failure", {"resource_id": "r", "time_series": [ROW] * (MAX_SERIES + 1)}, 422, "$.time_series"),
    ("predict/threat", {"x": [1] * (MAX_VALUES + 1)}, 413, "400,000 values"),
    ("predict/threat", {"instances": [{"x": [1] * (MAX_VALUES + 1)}]}, 413, "$.instances[0] holds more"),
    ("predict/threat", {"instances": [1] * (MAX_BATCH_VALUES + 1)}, 413, "4,000,000 values"),
    # A few bytes become a window.
    (
        "analyze/anomaly",
        {"instances": [{"resource_id": "r", "time_series": [{f"m{i}": 1} for i in range(600)]}] * 12},
        413,
        "4,000,000 values",
    ),
    ("analyze/anomaly", {"resource_id": "r", "metrics": {f"m{i}": 1 for i in range(MAX_METRICS + 1)}}, 422, "$.metrics"),
    (
        "analyze/anomaly",
        {"resource_id": "r", "time_series": [{f"m{i}-{k}": 1 for i in range(300)} for k in range(4)]},
        422,
        "1,000 metrics",
    ),
    ("analyze/anomaly", {"resource_id": "r", "metrics": {"m" * (MAX_NAME + 1): 1}}, 422, "256 characters"),
    ("predict/failure", {"resource_id": "r" * (MAX_ID + 1), "metrics": ROW}, 422, "$.resource_id"),
    ("predict/failure", {"resource_id": 10**17, "metrics": ROW}, 422, "$.resource_id"),
    ("predict/failure", b'{"resource_id": 1%s, "metrics": {}}' % (b"0" * 5000), 422, "$.resource_id"),
    ("predict/threat", {"source_ip": "1" * (MAX_ID + 1), "xss_score": 1}, 422, "$.source_ip"),
    ("predict/failure", {"resource_id": "r", "metrics": ROW, "timestamp": "1" * (MAX_STAMP + 1)}, 422, "$.timestamp"),
    (
        "predict/capacity",
        {"instances": [{"resource_id": "r", "current_metrics": {"cpu_usage": 1, "memory_usage": 1}}] * MAX_INSTANCES},
        413,
        "160 MB",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "status", "word"), TOO_MUCH)
def test_too_much_of_anything_is_refused_with_its_limit(
    client: Client, route: str, body: Any, status: int, word: str
) -> None:
    check(client.post(route, body), status, word)


def test_an_answer_that_grows_too_large_is_refused_while_it_is_made(limited: Limited) -> None:
    service = limited(answer=20_000)
    check(service.client.post("predict/threat", {"instances": [THREAT] * 100}), 413, "send fewer instances")
    assert service.client.post("predict/threat", {"instances": [THREAT] * 5}).status == 200
    with pytest.raises(Problem, match="at most 160 MB"):
        Work(Limits().answer).expect(161 * MB)


# Errors of large bodies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        (AnomalyRequest, {"resource_id": "r", "time_series": [ROW] * 9000 + [{"a": 1, "b": []}]}, "$.time_series[9000].b"),
        (CapacityRequest, {"resource_id": "r", "historical_data": {**{f"m{i}": [1, 2] for i in range(9000)}, "x": [1, "y"]}},
         "$.historical_data.x[1]"),
        (CapacityRequest, {"resource_id": "r", "thresholds": {**{f"m{i}": 1 for i in range(9000)}, "t": None}},
         "$.thresholds.t"),
        (CapacityRequest, {"resource_id": "r", "historical_data": {f"m{i}": 1 for i in range(9000)} | {"p": {"value": "x"}}},
         "$.historical_data.p.value"),
        (ThreatBatch, {"instances": [1] * 9000, "costs": {**{f"c{i}": {"n": 1} for i in range(9000)}, "z": {"n": -1}}},
         "$.costs.z.n"),
        (ThreatBatch, {"instances": [1] * 40_000}, "$.instances"),
        (ThreatBatch, {"x" * 70_000: 1, "instances": [1]}, "$"),
        (ThreatBatch, {"x.y[0]": "z" * 70_000, "instances": [1]}, "$"),
    ],
)  # fmt: skip
def test_of_a_large_body_the_first_bad_place_is_named(kind: Any, body: Any, path: str) -> None:
    raw = msgspec.json.encode(body)
    assert len(raw) > 64 * 1024
    with pytest.raises(Problem) as caught:
        decode(msgspec.json.Decoder(kind), raw)
    assert [error["path"] for error in caught.value.errors] == [path]
    assert len(caught.value.detail) < 400


def test_a_large_body_that_is_no_json_further_on_is_400() -> None:
    raw = b'{"instances": 1, "x": "' + b"a" * 100_000 + b'", }'
    with pytest.raises(Problem) as caught:
        decode(msgspec.json.Decoder(ThreatBatch), raw)
    assert caught.value.status == 400


# Time and room -------------------------------------------------------------------------------------------------------


def test_a_body_that_comes_too_slowly_is_408(limited: Limited) -> None:
    connection = Connection(limited(body_seconds=0.05).api, "predict/threat", [b"{", b"}"])

    async def run() -> int:
        receive = connection._receive

        async def slow() -> dict[str, Any]:
            if connection.read:
                await never()
            return await receive()

        connection._receive = slow  # type: ignore[method-assign]
        return await connection()

    assert asyncio.run(run()) == 408


def test_large_requests_beyond_the_room_are_503_and_the_room_is_given_back(limited: Limited) -> None:
    service = limited(held=100_000)
    body = batch([THREAT] * 500)
    pieces = [body[i : i + 10_000] for i in range(0, len(body), 10_000)]

    async def run() -> list[int]:
        connections = [Connection(service.api, "predict/threat", pieces) for _ in range(8)]
        found = await asyncio.gather(*(connection() for connection in connections))
        for connection in connections:
            if connection.status == 503:
                assert connection.header[b"retry-after"] == b"1"
                assert connection.header[b"content-type"] == b"application/problem+json"
        return found

    statuses = asyncio.run(run())
    assert set(statuses) == {200, 503}
    # Nothing is left behind: the same again, one after the other.
    for _ in range(8):
        assert asyncio.run(Connection(service.api, "predict/threat", pieces)()) == 200


def test_requests_beyond_the_most_are_503_and_small_ones_come_again(limited: Limited) -> None:
    service = limited(requests=3)

    async def run() -> list[int]:
        release = asyncio.Event()
        waiting = [Connection(service.api, "predict/threat", [b"{"], then=release.wait) for _ in range(3)]
        for connection in waiting:
            connection.pieces = [b"{", b"}"]
            receive = connection._receive

            async def held(receive: Any = receive, connection: Connection = connection) -> Any:
                if connection.read:
                    await release.wait()
                return await receive()

            connection._receive = held  # type: ignore[method-assign]
        tasks = [asyncio.create_task(connection()) for connection in waiting]
        await asyncio.sleep(0)
        extra = Connection(service.api, "predict/threat", [msgspec.json.encode(THREAT)])
        found = [await extra()]
        assert extra.header[b"retry-after"] == b"1"
        release.set()
        await asyncio.gather(*tasks)
        found.append(await Connection(service.api, "predict/threat", [msgspec.json.encode(THREAT)])())
        return found

    assert asyncio.run(run()) == [503, 200]


def test_a_client_that_hangs_up_stops_its_batch(limited: Limited) -> None:
    service = limited()
    rows: list[dict[str, Any]] = [{**THREAT, "explain": True}] * 10_000
    turns = 0

    async def a_little() -> None:
        nonlocal turns
        for _ in range(5):
            turns += 1
            await asyncio.sleep(0)

    connection = Connection(service.api, "predict/threat", [batch(rows)], then=a_little)
    assert asyncio.run(connection()) == 499
    assert service.total("aiops_predictions_total", task="threat") < 5000
    assert service.total("aiops_requests_total", status="499") == 1
    assert service.client.post("predict/threat", {"instances": rows[:200]}).status == 200


def test_a_client_that_hangs_up_while_it_waits_for_its_turn_is_never_begun(limited: Limited) -> None:
    service = limited()
    body = batch([THREAT] * 2000)

    async def run() -> list[int]:
        async def at_once() -> None:
            await asyncio.sleep(0)

        first = Connection(service.api, "predict/threat", [body])
        second = Connection(service.api, "predict/threat", [body], then=at_once)
        return await asyncio.gather(first(), second())

    assert asyncio.run(run()) == [200, 499]
    assert service.total("aiops_predictions_total", task="threat") == 2000


def test_an_answer_that_takes_too_long_is_503(limited: Limited) -> None:
    service = limited(answer_seconds=0.01)
    connection = Connection(service.api, "predict/threat", [batch([{**THREAT, "explain": True}] * 5000)])
    assert asyncio.run(connection()) == 503
    assert "fewer instances" in json.loads(connection.body)["detail"]


@pytest.mark.parametrize(
    ("route", "instance", "options"),
    [
        ("predict/threat", THREAT, {}),
        ("predict/threat", {"unknown": 1}, {}),
        ("predict/failure", {"resource_id": "r", "time_series": [ROW]}, {}),
        ("predict/failure", {"resource_id": "r", "metrics": ROW}, {}),
        ("predict/capacity", {"resource_id": "r", "current_metrics": ROW, "forecast_days": 1}, {}),
        ("analyze/anomaly", {"resource_id": "r", "metrics": ROW}, {}),
        ("analyze/anomaly", {"resource_id": "r", "metrics": 1}, {"partial": True}),
    ],
)
def test_small_requests_are_answered_while_a_batch_is(
    limited: Limited, route: str, instance: Any, options: dict[str, Any]
) -> None:
    service = limited()

    async def run() -> int:
        work = asyncio.create_task(Connection(service.api, route, [batch([instance] * 3000, **options)])())
        answered = 0
        while not work.done():
            assert await Connection(service.api, "predict/threat", [msgspec.json.encode(THREAT)])() == 200
            answered += 1
            await asyncio.sleep(0)
        assert (await work) in (200, 422)
        return answered

    assert asyncio.run(run()) > 10


def test_large_batches_are_answered_one_at_a_time(limited: Limited) -> None:
    service = limited()
    body = batch([THREAT] * 2000)
    order: list[int] = []

    async def run() -> None:
        async def one(i: int) -> None:
            await Connection(service.api, "predict/threat", [body])()
            order.append(i)

        tasks = [asyncio.create_task(one(i)) for i in range(3)]
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == [0, 1, 2]


def test_others_are_answered_while_long_series_are_judged(limited: Limited) -> None:
    service = limited()
    noise = np.random.default_rng(0).normal(size=(30, MAX_SERIES // 2)).round(3)
    rows = [{f"m{i}": x for i, x in enumerate(row)} for row in noise.T.tolist()]
    body = msgspec.json.encode({"resource_id": "never seen", "time_series": rows})
    judged: list[str] = []
    detect = StatisticalAnomalyDetector.detect

    def noted(*given: Any, **more: Any) -> Any:
        judged.append("begun")
        found = detect(*given, **more)
        judged.append("ended")
        return found

    async def run() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StatisticalAnomalyDetector, "detect", noted)
            work = asyncio.create_task(Connection(service.api, "analyze/anomaly", [body])())
            meanwhile = 0
            while not work.done():
                assert await Connection(service.api, "predict/threat", [msgspec.json.encode(THREAT)])() == 200
                meanwhile += judged == ["begun"]
                await asyncio.sleep(0)
            assert await work == 200
        return meanwhile

    assert asyncio.run(run()) > 3


def test_a_large_answer_goes_out_in_pieces(limited: Limited) -> None:
    service = limited()
    connection = Connection(service.api, "predict/threat", [batch([THREAT] * 3000)])
    assert asyncio.run(connection()) == 200
    assert len(connection.body) > 2 * MB
    assert int(connection.header[b"content-length"]) == len(connection.body)
    assert [message["more_body"] for message in connection.sent[1:]] == [True] * (len(connection.sent) - 2) + [False]
    assert max(len(message["body"]) for message in connection.sent[1:]) <= MB
    assert len(json.loads(connection.body)["predictions"]) == 3000


def test_the_answer_of_a_batch_is_the_same_as_of_single_requests(client: Client) -> None:
    answers = client.post("predict/threat", {"instances": [THREAT, {"x": 1}], "partial": True}).json()["predictions"]
    single = client.post("predict/threat", {**THREAT, "explain": False}).json()
    assert {**answers[0], "request_id": ""} == {**single, "request_id": ""}
    assert answers[1]["error"]["status"] == 422
