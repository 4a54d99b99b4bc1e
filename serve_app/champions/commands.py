"""What the follower is asked to do over its socket: verified first, then changed in the registry and the pointer file."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiops_core import servable
from aiops_core.errors import AiopsError, ServableError, TrackingError
from aiops_core.facts import BY_MODEL
from aiops_core.redact import redacted
from serve_app.champions.companions import ALIASES, CANARY, REFUSALS, Stopped, parts, slot
from serve_app.champions.node import POINTER
from serve_app.files import stage_json

__all__ = ["ALIAS", "Commands", "Refused", "entry_of"]

#: Who asked for a version that was refused.
ALIAS, REQUEST = "alias", "request"


class Refused(AiopsError):
    """A version that the service could not serve: nothing was promoted."""


class Commands:
    """Changes to the registry, by whoever follows it: `serve_app.champions.follower.Follower` says how it does so."""

    _folder: Path
    _tracking: Any
    _lock: threading.Lock
    _content: dict[str, Any]
    _stopped: Stopped

    def _take(self, place: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _refusal(self, place: str, entry: Mapping[str, Any], reason: Exception, by: str) -> dict[str, Any]:
        raise NotImplementedError

    def _save(self) -> None:
        raise NotImplementedError

    def execute(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command of the socket and return the version it made champion, or the versions there are."""
        try:
            if command.get("do") == "list":
                return {"ok": [_plain(v) for v in self._tracking.list_models()]}
            return {"ok": self._change(command, str(command["name"]))}
        except Refused as error:
            return {"error": str(error), "kind": "conflict"}
        except AiopsError as error:
            missing = re.search(r"not found|RESOURCE_DOES_NOT_EXIST|No run", str(error), re.IGNORECASE)
            refused = re.search(rf"no earlier champion|holds no servable|{REFUSALS}", str(error))
            kind = "missing" if missing else "conflict" if refused else "unreachable"
            return {"error": str(error), "kind": kind}
        except OSError as error:
            return {
                "error": f"nothing was promoted, the state folder cannot be written: {error}",
                "kind": "unreachable",
            }
        except Exception as error:
            return {"error": redacted(f"{type(error).__name__}: {error}"), "kind": "unreachable"}

    def _change(self, command: Mapping[str, Any], name: str) -> dict[str, Any]:
        what = command.get("do")
        if what == "promote":
            version = self._tracking.get_version(name, int(command["version"]))
            return self._promote(
                name, version, lambda: self._tracking.promote(name, version.version), command.get("expected")
            )
        if what == "rollback":
            version = self._tracking.previous_champion(name)
            return self._promote(name, version, lambda: self._tracking.rollback(name), command.get("expected"))
        if what in ALIASES:
            return self._beside(what, name, command)
        if what == "stop":
            return self._stop(slot(name, CANARY), str(command["version"]), str(command["reason"]))
        if what != "register":
            raise ValueError(f"unknown command {what!r}")
        alias = command.get("alias")
        champion = alias == "champion"
        found = self._tracking.register(BY_MODEL[name], str(command["run_id"]), None if champion else alias)
        if not champion:
            return _plain(found)
        try:
            return self._promote(name, found, lambda: self._tracking.promote(name, found.version))
        except Refused as reason:
            raise Refused(f"registered as version {found.version}, without an alias: {reason}") from reason

    def _beside(self, alias: str, name: str, command: Mapping[str, Any]) -> dict[str, Any]:
        """Have a version answer beside the champion, or none any more."""
        place, number, expected = slot(name, alias), command.get("version"), command.get("expected")
        if number is not None:
            share = float(command.get("share") or 0.1) if alias == CANARY else None
            version = self._tracking.get_version(name, int(number))
            found = self._promote(
                place,
                version,
                lambda: self._tracking.set_companion(name, alias, version.version, share),
                expected,
                share,
            )
            self._stopped.forget(place)
            return found
        with self._lock:
            self._expect(name, expected)
            gone = self._tracking.remove_companion(name, alias)
            self._drop(place)
            return _plain(gone)

    def _stop(self, place: str, version: str, reason: str) -> dict[str, Any]:
        """Take a canary out that its guard rails stopped; several replicas may say so."""
        with self._lock:
            if self._content["companions"].get(place, {}).get("version") == version:
                self._stopped.stop(place, version, reason)
                self._drop(place)
            return {"stopped": version}

    def _drop(self, place: str) -> None:
        companions = {other: entry for other, entry in self._content["companions"].items() if other != place}
        self._content = {**self._content, "companions": companions}
        self._save()

    def _expect(self, name: str, expected: int | None) -> None:
        """Refuse a change that was decided on while another version was champion."""
        if expected is None:
            return
        current = self._tracking.champions().get(name)
        if current is None or current.version != expected:
            found = "no version" if current is None else f"version {current.version}"
            raise Refused(f"nothing was changed: {found} of {name} is champion, not version {expected}")

    def _promote(
        self,
        place: str,
        version: Any,
        move: Callable[[], Any],
        expected: int | None = None,
        share: float | None = None,
    ) -> dict[str, Any]:
        """Verify a version, then move the registry's alias to it, then the pointer; or change nothing.

        Parameters
        ----------
        place : str
            Model name, or `slot` of a companion.
        version : ModelVersion
        move : callable
            Changes the registry.
        expected : int, optional
            Version that must be champion.
        share : float, optional
            Of a canary.

        Returns
        -------
        dict
            The version, and under ``changes`` what requests and answers will be like from now on.

        Raises
        ------
        Refused
            If the service could not serve it, or another version than the expected one is champion.
        """
        name, alias = parts(place)
        with self._lock:
            served = _card(self._content["models"].get(name))
            entry = {**entry_of(version), "alias": alias or "champion"} | ({} if share is None else {"share": share})
            try:
                taken = self._take(place, entry)
            except ServableError as reason:
                refusal = self._refusal(place, entry, reason, REQUEST)
                self._content["refused"] = {**self._content["refused"], place: refusal}
                self._save()
                raise Refused(f"version {entry['version']} of {name} cannot be served: {reason}") from reason
            content = self._with(place, taken)
            # Written before the alias moves, so that a full disk leaves both where they were.
            try:
                staged = stage_json(self._folder / POINTER, {**content, "stopped": self._stopped.content})
            except OSError as error:
                raise TrackingError(f"nothing was promoted: the pointer file cannot be written: {error}") from error
            try:
                # Last, because fetching and verifying took a while.
                self._expect(name, expected)
                found = move()
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            os.replace(staged, self._folder / POINTER)
            self._content = content
            return {**_plain(found), "changes": servable.changes(served, _card(taken)) if served else []}

    def _with(self, place: str, taken: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of the pointer file with a version in its place."""
        name, alias = parts(place)
        companions = dict(self._content["companions"])
        models = dict(self._content["models"])
        if alias:
            companions[place] = taken
        else:
            models[name] = taken
            for other in (slot(name, one) for one in ALIASES):
                if companions.get(other, {}).get("version") == taken["version"]:
                    del companions[other]
        return {
            **self._content,
            "models": models,
            "companions": companions,
            "vacant": [other for other in self._content["vacant"] if alias or other != name],
            "refused": {other: r for other, r in self._content["refused"].items() if other != place},
        }


def _plain(version: Any) -> dict[str, Any]:
    """Return a version as it is listed: of a correction from feedback, its number."""
    record = getattr(version, "recalibration", None)
    return {**vars(version), "recalibration": record and record.get("number")}


def entry_of(version: Any) -> dict[str, Any]:
    """Return what the pointer file says of a version, apart from its folder."""
    entry = {
        "version": str(version.version),
        "run_id": version.run_id,
        "alias": version.alias,
        "created": version.created,
        # Also where there is none: a correction that was taken back is a change.
        "recalibration": getattr(version, "recalibration", None),
    }
    share = getattr(version, "share", None)
    return entry if share is None else {**entry, "share": share}


def _card(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the card of an entry of the pointer file; empty without one that can be read."""
    try:
        return servable.read_card(Path(entry["folder"])) if entry else {}
    except ServableError:
        return {}
