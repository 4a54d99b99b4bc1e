"""Alerts on disk: one SQLite file of the state folder that all replicas change, so that a restart forgets nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiops_core.facts import TASKS
from serve_app.alerts.rules import CLOSED, OPENED, Rules, Seen
from serve_app.files import only_ours

__all__ = ["FILE", "Store", "fingerprint"]

FILE = "alerts.sqlite"
WAIT_SECONDS = 10.0
#: How often a webhook is tried that does not answer, the first pause, and how long one process may take for a try.
TRIES, PAUSE_SECONDS, CLAIM_SECONDS = 8, 30.0, 60.0
_SCHEMA = (
    "create table if not exists alerts (number integer primary key, fingerprint text not null, task text not null, "
    "resource_id text not null, state text not null, recent text not null, opened real, last_alarm real not null, "
    "closed real, why text, alarms integer not null, quiet integer not null, prediction text, probability real, "
    "version integer, request_id text, notified integer not null default 0)",
    "create unique index if not exists living on alerts (fingerprint) where state != 'closed'",
    "create index if not exists by_state on alerts (state, number)",
    "create table if not exists mutes (task text not null, resource_id text not null, until real not null, reason text, "
    "primary key (task, resource_id))",
    "create table if not exists outbox (number integer primary key, alert integer not null, action text not null, "
    "due real not null, tries integer not null default 0)",
)
_SHOWN = (
    "number", "fingerprint", "task", "resource_id", "state", "opened", "last_alarm", "closed", "why", "alarms",
    "prediction", "probability", "version", "request_id",
)  # fmt: skip
#: Columns that answers change.
_CHANGING = (
    "state", "recent", "opened", "last_alarm", "alarms", "quiet", "prediction", "probability", "version", "request_id",
)  # fmt: skip
_Event = tuple[str, str]


def fingerprint(task: str, resource_id: str) -> str:
    """Return what alarms of one alert have in common: task and resource, hashed.

    Examples
    --------
    >>> fingerprint("failure", "web-01")
    'a35a92710209028c'
    """
    return hashlib.sha256(f"{task}\n{resource_id}".encode()).hexdigest()[:16]


class Store:
    """Alerts, mute windows and webhooks that wait.

    Parameters
    ----------
    state : Path
        State folder.
    rules : Rules
    told : bool
        Whether there are webhooks to tell.
    """

    def __init__(self, state: Path, rules: Rules = Rules(), told: bool = False) -> None:  # noqa: B008  (frozen)
        self._path = state / FILE
        self._rules = rules
        self._told = told
        self._made = False

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, and make it if there is none."""
        fresh = not self._path.exists()
        if fresh:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives the files beside it the same mode.
            os.close(only_ours(str(self._path), os.O_WRONLY | os.O_CREAT))
        connection = sqlite3.connect(self._path, timeout=WAIT_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            if fresh or not self._made:
                connection.execute("pragma journal_mode=wal")
            # A power cut may cost the last second, as it does the journal.
            connection.execute("pragma synchronous=normal")
            connection.execute("begin immediate")
            if fresh or not self._made:
                for sentence in _SCHEMA:
                    connection.execute(sentence)
                self._made = True
            yield connection
            connection.execute("commit")
        finally:
            connection.close()

    def living(self) -> set[tuple[str, str]]:
        """Return task and resource of all alerts that are open or about to be."""
        with self._open() as db:
            return {
                (row[0], row[1]) for row in db.execute("select task, resource_id from alerts where state!='closed'")
            }

    def take(self, seen: Iterable[Seen]) -> list[_Event]:
        """Take answers in, those of one resource in their order.

        Returns
        -------
        list of (task, event)
            What happened: ``opened``, ``closed``.
        """
        groups: dict[tuple[str, str], list[Seen]] = {}
        for one in seen:
            groups.setdefault((one.task, one.resource_id), []).append(one)
        events: list[_Event] = []
        with self._open() as db:
            for (task, resource_id), answers in groups.items():
                events += [(task, event) for event in self._one(db, fingerprint(task, resource_id), answers)]
        return events

    def _one(self, db: sqlite3.Connection, name: str, answers: Sequence[Seen]) -> list[str]:
        """Take the answers of one resource in: read once, written where something happens and at the end."""
        events: list[str] = []
        row = db.execute("select * from alerts where fingerprint=? and state!='closed'", (name,)).fetchone()
        alert = None if row is None else dict(row)
        for one in answers:
            if alert is None and one.alarm:
                alert = self._begin(db, name, one)
            if alert is None:
                continue
            alert["recent"] = (alert["recent"] + "01"[one.alarm])[-self._rules.of :]
            alert["quiet"] = 0 if one.alarm else alert["quiet"] + 1
            if one.alarm:
                alert["alarms"] += 1
                alert |= {"last_alarm": one.at, "prediction": one.prediction, "probability": one.probability}
                alert |= {"version": one.version, "request_id": one.request_id}
            if alert["state"] == "pending" and alert["recent"].count("1") >= self._rules.hits:
                alert |= {"state": "open", "opened": one.at}
                self._write(db, alert)
                self._notify(db, alert["number"], OPENED, one.at)
                events.append("opened")
            elif alert["state"] == "pending" and "1" not in alert["recent"]:
                db.execute("delete from alerts where number=?", (alert["number"],))
                alert = None
            elif alert["state"] == "open" and alert["quiet"] >= self._rules.quiet:
                self._write(db, alert)
                self._close(db, alert["number"], one.at, f"{alert['quiet']} answers without an alarm")
                events.append("closed")
                alert = None
        if alert is not None:
            self._write(db, alert)
        return events

    @staticmethod
    def _begin(db: sqlite3.Connection, name: str, one: Seen) -> dict[str, Any]:
        number = db.execute(
            "insert into alerts (fingerprint, task, resource_id, state, recent, last_alarm, alarms, quiet) "
            "values (?, ?, ?, 'pending', '', ?, 0, 0)",
            (name, one.task, one.resource_id, one.at),
        ).lastrowid
        return dict(db.execute("select * from alerts where number=?", (number,)).fetchone())

    @staticmethod
    def _write(db: sqlite3.Connection, alert: Mapping[str, Any]) -> None:
        changing = ", ".join(f"{key}=:{key}" for key in _CHANGING)
        db.execute(f"update alerts set {changing} where number=:number", dict(alert))

    def _close(self, db: sqlite3.Connection, number: int, at: float, why: str) -> None:
        db.execute("update alerts set state='closed', closed=?, why=? where number=?", (at, why, number))
        self._notify(db, number, CLOSED, at)

    def _notify(self, db: sqlite3.Connection, number: int, action: str, at: float) -> None:
        """Have webhooks told, unless the alert is muted; of an end only those who heard of the beginning."""
        row = db.execute("select * from alerts where number=?", (number,)).fetchone()
        if action == OPENED:
            if self._muted(db, row, at):
                return
            db.execute("update alerts set notified=1 where number=?", (number,))
        elif not row["notified"]:
            return
        if self._told:
            db.execute("insert into outbox (alert, action, due) values (?, ?, ?)", (number, action, at))

    @staticmethod
    def _muted(db: sqlite3.Connection, row: Mapping[str, Any], at: float) -> float | None:
        """Return until when an alert is muted."""
        found = db.execute(
            "select max(until) from mutes where until>? and task in ('', ?) and resource_id in ('', ?)",
            (at, row["task"], row["resource_id"]),
        ).fetchone()[0]
        return None if found is None else float(found)

    def sweep(self, now: float) -> list[_Event]:
        """Close what has been without an alarm for too long, tell what is muted no longer, remove what is old."""
        rules, events = self._rules, []
        with self._open() as db:
            for row in db.execute(
                "select number, task from alerts where state='open' and last_alarm<?", (now - rules.seconds,)
            ).fetchall():
                self._close(db, row["number"], now, f"no alarm for {rules.seconds / 3600:g} hours")
                events.append((row["task"], "closed"))
            db.execute("delete from alerts where state='pending' and last_alarm<?", (now - rules.seconds,))
            db.execute("delete from alerts where state='closed' and closed<?", (now - rules.kept_seconds,))
            db.execute("delete from mutes where until<?", (now,))
            for row in db.execute("select number from alerts where state='open' and notified=0").fetchall():
                self._notify(db, row["number"], OPENED, now)
        return events

    def mute(self, task: str | None, resource_id: str | None, until: float, reason: str | None, now: float) -> None:
        """Keep quiet about a task, a resource or both until a time; a time that is over ends it."""
        key = (task or "", resource_id or "")
        with self._open() as db:
            db.execute("delete from mutes where task=? and resource_id=?", key)
            if until > now:
                db.execute("insert into mutes values (?, ?, ?, ?)", (*key, until, reason))

    def mutes(self, now: float) -> list[dict[str, Any]]:
        """Return the mute windows."""
        with self._open() as db:
            found = db.execute("select * from mutes where until>? order by until", (now,)).fetchall()
        return [{**dict(row), "task": row["task"] or None, "resource_id": row["resource_id"] or None} for row in found]

    def alerts(
        self,
        now: float,
        state: str | None = "open",
        task: str | None = None,
        resource: str | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return alerts, the newest first; each with ``muted_until``."""
        wanted = [("state=?", state), ("task=?", task), ("resource_id=?", resource)]
        given = [(text, value) for text, value in wanted if value is not None]
        where = " and ".join(["state!='pending'", *(text for text, _ in given)])
        with self._open() as db:
            found = db.execute(
                f"select * from alerts where {where} order by number desc limit ?", [*(v for _, v in given), limit]
            ).fetchall()
            return [{**{key: row[key] for key in _SHOWN}, "muted_until": self._muted(db, row, now)} for row in found]

    def samples(self) -> list[tuple[dict[str, str], float]]:
        """Return the open alerts by task, for the metrics."""
        counts = dict.fromkeys(TASKS, 0)
        if self._path.exists():
            with contextlib.suppress(sqlite3.Error), self._open() as db:
                counts |= dict(
                    db.execute("select task, count(*) from alerts where state='open' group by task").fetchall()
                )
        return [({"task": task}, float(count)) for task, count in counts.items()]

    # Webhooks --------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[dict[str, Any]]:
        """Claim the webhooks that are due, oldest first, so that no other process sends them meanwhile."""
        with self._open() as db:
            found = db.execute(
                "select outbox.number as waiting, outbox.action, outbox.tries, alerts.* from outbox join alerts "
                "on alerts.number=outbox.alert where due<=? order by outbox.number limit 20",
                (now,),
            ).fetchall()
            self._put_off(db, [row["waiting"] for row in found], now + CLAIM_SECONDS)
        return [dict(row) for row in found]

    @staticmethod
    def _put_off(db: sqlite3.Connection, numbers: Sequence[int], until: float) -> None:
        db.executemany("update outbox set due=? where number=?", [(until, number) for number in numbers])

    def sent(self, waiting: int) -> None:
        """Forget a webhook that was heard, or that nobody wants to hear."""
        with self._open() as db:
            db.execute("delete from outbox where number=?", (waiting,))

    def failed(self, waiting: int, tries: int, now: float) -> bool:
        """Have a webhook tried again later; False if that was the last try."""
        if tries + 1 >= TRIES:
            self.sent(waiting)
            return False
        with self._open() as db:
            db.execute(
                "update outbox set due=?, tries=? where number=?", (now + PAUSE_SECONDS * 2**tries, tries + 1, waiting)
            )
        return True
