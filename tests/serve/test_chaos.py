"""The short form of `make chaos`: processes of the real service are killed under load, one after the other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from chaos.load import SNAPSHOT, Load
from chaos.scenarios import CONTROLLER, FOLLOWER, INGRESS
from chaos.stand import Stand, wait
from chaos.writes import Receiver, Writes

pytestmark = pytest.mark.serve
HAPROXY = ("/haproxy ", " -f ")


def answered_by(stand: Stand) -> str:
    """Send a snapshot of one resource; returns the kind of model that answered."""
    kind: str = stand.post("predict/failure", {"resource_id": "a", "metrics": SNAPSHOT}).json()["model"]["kind"]
    return kind


def test_killed_processes_come_back_and_nothing_is_lost_or_done_twice(registry: str, tmp_path: Path) -> None:
    receiver = Receiver()
    environment = {"AIOPS_WEBHOOKS": f'{{"scale_horizontal": "{receiver.url}"}}', "AIOPS_WEBHOOK_SECRET": "key"}
    with Stand(tmp_path, registry, **environment) as stand:
        for _ in range(24):
            kind = answered_by(stand)
        assert kind == "lstm"
        with Load(stand.port) as load, Writes(stand, receiver, []) as writes:
            for words in (INGRESS, FOLLOWER, HAPROXY):
                before = set(stand.processes(*words))
                killed = stand.kill(*words)

                def back(words: tuple[str, ...] = words, number: int = len(before), killed: int = killed) -> bool:
                    found = stand.processes(*words)
                    return killed not in found and len(found) >= number

                wait(back, 60, f"another {words[-1]}")
                wait(lambda: stand.get("health").status_code == 200, 60, "an answer")
            wait(lambda: stand.get("models/versions").status_code == 200, 60, "a follower that answers")
            # The process that everything else belongs to, and the same command again.
            assert stand.process is not None
            stand.process.kill()
            stand.process.wait()
            stand.start()
            assert answered_by(stand) == "lstm", "the window of snapshots is gone"
            assert len(stand.processes(*INGRESS)) == 2 and stand.processes(*CONTROLLER)
            wait(lambda: stand.get("health/ready").status_code == 200, 60, "to be ready")
            served = load.outcome.answers["ok"]
            wait(lambda: load.outcome.answers["ok"] > served + 50, 60, "the load to go on")
        assert writes.faults() == [] and any(writes.remediated.values())
    receiver.close()
    assert load.outcome.answers["plain"] == load.outcome.answers["hung"] == 0, load.outcome.answers
    failed = [line for line in stand.log_lines() if line["event"] == "failed"]
    assert all(line["status"] in (502, 503) for line in failed), failed
