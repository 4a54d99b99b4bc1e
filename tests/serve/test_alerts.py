"""Alarms become alerts: after several, once a resource, until it is quiet; muted, told to webhooks, kept over a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Service, point
from test_remediation import Receiver

from aiops_core.errors import UsageError
from aiops_core.facts import MODELS
from aiops_core.settings import Settings, load
from serve_app.alerts.rules import Rules, Seen
from serve_app.alerts.store import Store

ATTACK, BENIGN = {"failed_auth_count": 60, "request_rate": 3000, "unique_ips": 1}, {"failed_auth_count": 0}
NOW = 1_800_000_000.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook."""
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def service(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path, receiver: Receiver
) -> Service:
    """A service with alerts whose openings and ends a webhook hears of."""
    point(tmp_path / "state", {MODELS[task]: (path, "1") for task, path in servables.items()})
    hooks = {"alert_opened": receiver.url, "alert_closed": receiver.url}
    return make_service(alerts={"alerts": "on"}, webhooks=hooks, secret="key")


def ask(service: Service, row: dict[str, Any], source: str = "10.0.0.1", times: int = 1) -> None:
    """Have activity of a source classified, and its answers looked at."""
    for _ in range(times):
        answer = service.client.post("predict/threat", {**row, "source_ip": source})
        assert answer.status == 200 and (answer.json()["prediction"] != "normal") == (row is ATTACK), answer.body
    service.journal.look()


def listed(service: Service, state: str = "open") -> list[dict[str, Any]]:
    answer = service.client.request("GET", "alerts", None)
    if state == "open":
        return list(answer.json()["alerts"])
    return [one for one in Store(service.state).alerts(time.time(), None) if one["state"] == state]


def hear(service: Service, receiver: Receiver) -> list[dict[str, Any]]:
    service.journal._tell()
    return [json.loads(body) for _, body in receiver.received]


def test_an_alert_opens_after_several_alarms_of_a_source_and_closes_when_it_is_quiet(
    service: Service, receiver: Receiver
) -> None:
    ask(service, ATTACK)
    assert listed(service) == []
    ask(service, ATTACK)
    (alert,) = listed(service)
    assert (alert["task"], alert["resource_id"], alert["state"], alert["alarms"]) == ("threat", "10.0.0.1", "open", 2)
    assert alert["version"] == 1 and alert["prediction"] != "normal" and 0 < alert["probability"] <= 1
    ask(service, ATTACK, times=5)
    ask(service, ATTACK, "10.0.0.2", times=2)
    assert [one["resource_id"] for one in listed(service)] == ["10.0.0.2", "10.0.0.1"], "one alert a source"
    assert service.total("aiops_alerts_open", task="threat") == 2
    ask(service, BENIGN, times=2)
    assert len(listed(service)) == 2
    ask(service, BENIGN)
    assert [one["resource_id"] for one in listed(service)] == ["10.0.0.2"]
    (closed,) = listed(service, "closed")
    assert closed["why"] == "3 answers without an alarm" and closed["number"] == alert["number"]
    told = hear(service, receiver)
    assert [(one["action"], one["resource_id"]) for one in told] == [
        ("alert_opened", "10.0.0.1"), ("alert_opened", "10.0.0.2"), ("alert_closed", "10.0.0.1"),
    ]  # fmt: skip
    assert "alarms" in told[0]["reason"] and told[2]["reason"].endswith("closed: 3 answers without an alarm")
    assert len(hear(service, receiver)) == 3, "each is told once"
    assert service.total("aiops_alerts_total", task="threat", event="opened") == 2
    assert service.total("aiops_alert_webhooks_total", action="alert_opened", result="sent") == 2


def test_a_single_alarm_among_quiet_answers_is_no_alert_and_quiet_answers_are_not_kept(service: Service) -> None:
    for _ in range(3):
        ask(service, ATTACK)
        ask(service, BENIGN, times=3)
    ask(service, BENIGN, "10.0.0.9")
    assert Store(service.state).alerts(time.time(), None) == [] and Store(service.state).living() == set()


def test_what_names_no_source_raises_no_alert(service: Service) -> None:
    for _ in range(4):
        assert service.client.post("predict/threat", ATTACK).status == 200
    service.journal.look()
    assert Store(service.state).living() == set()


def test_muted_alerts_open_unheard_and_are_told_when_the_window_ends(service: Service, receiver: Receiver) -> None:
    muted = service.client.post("alerts/mute", {"resource_id": "10.0.0.1", "minutes": 30, "reason": "a drill"})
    assert muted.status == 200 and muted.json()["mutes"][0]["reason"] == "a drill"
    ask(service, ATTACK, times=2)
    (alert,) = listed(service)
    assert alert["muted_until"] is not None and hear(service, receiver) == []
    assert service.client.post("alerts/mute", {"resource_id": "10.0.0.1", "minutes": 0}).json()["mutes"] == []
    service.journal._swept = 0.0
    service.journal.look()
    assert [one["action"] for one in hear(service, receiver)] == ["alert_opened"]
    assert listed(service)[0]["muted_until"] is None
    lines = [json.loads(line) for line in (service.state / "audit.jsonl").read_text().splitlines()]
    assert [line.get("route") for line in lines[::2]] == ["alerts/mute"] * 2
    refused = service.client.post("alerts/mute", {"minutes": 5})
    assert refused.status == 422 and "not everything" in refused.json()["detail"]


def test_an_alert_that_opened_muted_ends_without_a_word(service: Service, receiver: Receiver) -> None:
    service.client.post("alerts/mute", {"task": "threat", "minutes": 30})
    ask(service, ATTACK, times=2)
    ask(service, BENIGN, times=3)
    assert listed(service) == [] and len(listed(service, "closed")) == 1
    assert hear(service, receiver) == []


def test_alerts_go_on_after_a_restart(
    service: Service, make_service: Callable[..., Service], receiver: Receiver
) -> None:
    ask(service, ATTACK)
    again = make_service(alerts={"alerts": "on"}, webhooks={"alert_opened": receiver.url}, secret="key")
    ask(again, ATTACK)
    assert len(listed(again)) == 1, "one alarm before, one after"
    assert len(hear(service, receiver)) == 1, "whichever process tells it"
    assert (service.state / "alerts.sqlite").stat().st_mode & 0o077 == 0


def test_a_webhook_that_fails_is_tried_again_later(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.operations.remediation.PAUSES", (0.01, 0.01))
    receiver.statuses = [500, 500, 500]
    ask(service, ATTACK, times=2)
    hear(service, receiver)
    assert service.total("aiops_alert_webhooks_total", action="alert_opened", result="failed") == 1
    store = service.journal._store
    assert store.due(time.time()) == [] and len(store.due(time.time() + 60)) == 1


def test_failures_and_forecasts_raise_alerts_too(service: Service) -> None:
    history = {"cpu_usage": [95.0] * 48}
    for _ in range(2):
        answer = service.client.post("predict/capacity", {"resource_id": "web-01", "historical_data": history})
        assert answer.json()["prediction"] == "threshold_reached"
        rules = {"resource_id": "web-02", "metrics": {"cpu_usage": 99, "memory_usage": 99, "network_errors": 5000}}
        assert service.client.post("predict/failure", rules).json()["prediction"] == "failure"
    service.journal.look()
    assert {(one["task"], one["resource_id"], one["prediction"]) for one in listed(service)} == {
        ("capacity", "web-01", "threshold_reached"), ("failure", "web-02", "failure"),
    }  # fmt: skip


def test_what_the_journal_hashes_is_not_named_in_alerts(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path
) -> None:
    point(tmp_path / "state", {MODELS["threat"]: (servables["threat"], "1")})
    service = make_service(alerts={"alerts": "on"}, journal={"": "on", "_hash": ("source_ip",)})
    ask(service, ATTACK, times=2)
    (alert,) = listed(service)
    assert alert["resource_id"] != "10.0.0.1" and len(alert["resource_id"]) == 32
    for path in service.state.glob("alerts.sqlite*"):
        assert b"10.0.0.1" not in path.read_bytes()


def test_n_of_m_and_age_by_the_rules(tmp_path: Path) -> None:
    store = Store(tmp_path, Rules(hits=3, of=5, quiet=100, seconds=3600))

    def bits(text: str, start: float) -> list[str]:
        return [e for i, c in enumerate(text) for _, e in store.take([Seen("failure", "x", c == "1", start + i)])]

    assert bits("1100011", NOW) == [], "never three among five"
    assert bits("1", NOW + 7) == ["opened"]
    assert store.sweep(NOW + 3000) == []
    assert store.sweep(NOW + 4000) == [("failure", "closed")]
    (closed,) = store.alerts(NOW, "closed")
    assert closed["why"] == "no alarm for 1 hours"
    assert bits("111", NOW + 5000) == ["opened"], "the next one is another alert"
    assert len(store.alerts(NOW, None)) == 2


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "2", "2/1000"])
def test_a_setting_that_is_no_share_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOPS_ALERT_AFTER", text)
    with pytest.raises(UsageError, match="AIOPS_ALERT_AFTER.*2/3"):
        load()
    monkeypatch.setenv("AIOPS_ALERT_AFTER", "3/5")
    assert Rules.of_settings(load()).hits == 3 and Rules.of_settings(Settings()).of == 5
