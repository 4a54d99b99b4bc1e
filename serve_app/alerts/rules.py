"""When alarms become an alert, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass

from aiops_core.settings import Settings

__all__ = ["ACTIONS", "CLOSED", "OPENED", "Rules", "Seen"]

#: Actions of the catalogue whose webhooks hear of alerts.
OPENED, CLOSED = "alert_opened", "alert_closed"
ACTIONS = (OPENED, CLOSED)


@dataclass(frozen=True)
class Rules:
    """When alarms become an alert.

    Attributes
    ----------
    hits, of : int
        It opens after so many alarms among so many answers in a row.
    quiet : int
        It closes after so many answers without an alarm.
    seconds : float
        It closes when the last alarm is so long ago.
    kept_seconds : float
        Closed alerts are kept for so long.
    """

    hits: int = 2
    of: int = 3
    quiet: int = 3
    seconds: float = 86_400.0
    kept_seconds: float = 30 * 86_400.0

    @classmethod
    def of_settings(cls, current: Settings) -> Rules:
        """Return the rules of the environment."""
        hits, of = current.alert_after
        return cls(hits, of, current.alert_quiet, 3600.0 * current.alert_hours)


@dataclass(frozen=True)
class Seen:
    """One answer, as the rules look at it.

    Attributes
    ----------
    task, resource_id : str
    alarm : bool
    at : float
        Seconds since 1970.
    request_id, prediction : str
    probability : float or None
    version : int
        0 for an untrained model.
    """

    task: str
    resource_id: str
    alarm: bool
    at: float
    request_id: str = ""
    prediction: str = ""
    probability: float | None = None
    version: int = 0
