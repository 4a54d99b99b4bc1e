"""Versions that answer beside the champion, as the pointer file names them: ``threat_detector@canary``.

A *shadow* answers every request once more, unheard; a *canary* answers a share of them. The follower holds their servables
ready as it does the champion's; a canary that its guard rails stop is taken out of the registry by it, with an entry in the
audit log. While the registry cannot be reached, it stays out all the same.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiops_core.errors import AiopsError
from serve_app.guard.audit import NAME, Audit

__all__ = ["ALIASES", "CANARY", "REFUSALS", "SHADOW", "Stopped", "parts", "slot"]

SHADOW, CANARY = "shadow", "canary"
ALIASES = (SHADOW, CANARY)
#: What the registry refuses, as opposed to not answering.
REFUSALS = r"has no (shadow|canary)|is its (shadow|canary)|no champion that|is the champion|share lies"
#: Who asked for it, in the audit log.
GUARD = "guard rail"
_log = logging.getLogger("serve_app")


def slot(name: str, alias: str) -> str:
    """Return the name of a companion in the pointer file.

    Examples
    --------
    >>> slot("threat_detector", "canary"), parts("threat_detector@canary"), parts("threat_detector")
    ('threat_detector@canary', ('threat_detector', 'canary'), ('threat_detector', ''))
    """
    return f"{name}@{alias}"


def parts(name: str) -> tuple[str, str]:
    """Return model name and alias of a slot; the alias of a champion is empty."""
    model, _, alias = name.partition("@")
    return model, alias


class Stopped:
    """Canaries that were stopped: kept out, and taken out of the registry as soon as that answers.

    Parameters
    ----------
    tracking : module or object
        Offers ``remove_companion``.
    state : Path
        State folder, for the audit log.
    known : mapping
        As `content` gave it before the process ended.
    """

    def __init__(self, tracking: Any, state: Path, known: Mapping[str, Any]) -> None:
        self._tracking = tracking
        self._audit = Audit(state / NAME)
        #: Slot to version, reason, time, and whether the registry still names it.
        self.content: dict[str, dict[str, Any]] = {key: dict(value) for key, value in known.items()}

    def holds(self, name: str, version: Any | None) -> bool:
        """Say whether the version that the registry names is one that was stopped; tries to take it out if so."""
        known = self.content.get(name)
        if known is None:
            return False
        same = version is not None and str(version.version) == known["version"]
        if not known["waiting"]:
            if same:
                # Named again since it was taken out: somebody wants it so.
                self.forget(name)
            return False
        if not same:
            known["waiting"] = False
            return False
        self._remove(name, known)
        return True

    def stop(self, name: str, version: str, reason: str) -> None:
        """Keep a version out from now on, and take it out of the registry."""
        _log.warning("%s version %s is stopped: %s", name, version, reason)
        model, alias = parts(name)
        what = {"name": model, "version": int(version), "reason": reason, "off": True}
        entry = {"who": GUARD, "scope": "operate", "address": None, "method": "POST", "route": f"models/{alias}"}
        try:
            event = self._audit.begin(**entry, what=what, request_id=None)
        except OSError as error:
            # Its answers are what does harm, not the missing line.
            _log.error("the audit log cannot be written, %s is taken out all the same: %s", name, error)
            event = None
        known = {"version": version, "reason": reason, "at": time.time(), "waiting": True, "event": event}
        self.content[name] = known
        self._remove(name, known)

    def forget(self, name: str) -> None:
        """Let the version in again that was stopped: somebody wants it so."""
        self.content.pop(name, None)

    def _remove(self, name: str, known: dict[str, Any]) -> None:
        model, alias = parts(name)
        try:
            self._tracking.remove_companion(model, alias, int(known["version"]))
            result = "the alias is removed"
        except AiopsError as error:
            if not re.search(REFUSALS, str(error)):
                return
            result = f"nothing to remove: {error}"
        except Exception as error:
            # The registry's client raises many types; the next poll tries again.
            _log.warning("%s waits to be taken out of the registry: %s", name, type(error).__name__)
            return
        known["waiting"] = False
        if known["event"] is not None:
            self._audit.end(known["event"], "done", result=result)
