"""Bodies and headers made to break readers, kept as files: no 5xx, and every refusal one clear sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from client import Client
from test_bad_input import check

FOLDER = Path(__file__).with_name("nasty")
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def test_every_file_of_the_corpus_has_its_entry() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*MANIFEST, "manifest.json"}


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_a_nasty_body_is_answered_as_expected(client: Client, name: str) -> None:
    entry = MANIFEST[name]
    body = (FOLDER / name).read_bytes()
    for chunks in (1, 7):
        answer = client.post(entry["route"], body, headers=entry.get("headers"), chunks=chunks)
        assert answer.status == entry["status"], answer.body[:500]
        (found,) = [value for header, value in answer.every_header if header == "x-request-id"]
        assert re.fullmatch(r"[\w.:-]+", found)
        if answer.status == 200:
            assert "prediction" in answer.json() or "predictions" in answer.json()
            continue
        check(answer, entry["status"])
        detail = answer.json()["detail"]
        assert 10 < len(detail) < 1200 and detail.isprintable(), detail
        # Words for a client, none of the machinery.
        assert not re.search(r"msgspec|Struct|Traceback|recursion|codec|object at 0x|\bNone\b", detail), detail


def test_of_a_key_given_twice_the_last_value_counts(client: Client) -> None:
    body = b'{"failed_auth_count": 0, "failed_auth_count": 60, "request_rate": 10}'
    twice = client.post("predict/threat", body).json()
    once = client.post("predict/threat", {"failed_auth_count": 60, "request_rate": 10}).json()
    assert twice["probabilities"] == once["probabilities"]
