"""Correct the answers of a champion in the registry, and take corrections back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiops_core.errors import TrackingError
from aiops_core.tracking import recalibrations
from aiops_core.tracking.registry import CHAMPION, ModelVersion, alone, get_version
from aiops_core.tracking.store import open_client


def recalibrate(
    name: str, version: int, record: Mapping[str, Any] | None, *, expected: int | None = None
) -> ModelVersion:
    """Correct the answers of the champion by a record, or take the newest correction back.

    Parameters
    ----------
    name : str
    version : int
    record : mapping or None
        As `aiops_core.servable.Recalibration` holds it, its number apart, with whatever is worth remembering; None goes back
        to the one before, or to none.
    expected : int, optional
        Number of the correction that must be in effect, 0 for none.

    Raises
    ------
    TrackingError
        If the version is not champion, another correction is in effect, or there is nothing to take back.
    """
    with open_client() as client, alone():
        if str(client.get_registered_model(name).aliases.get(CHAMPION)) != str(version):
            raise TrackingError(f"version {version} of {name} is not the champion any more: nothing was changed")
        tags = client.get_model_version(name, str(version)).tags or {}
        now = recalibrations.current(tags)
        if expected is not None and expected != (now["number"] if now else 0):
            raise TrackingError(f"version {version} of {name} was corrected meanwhile: nothing was changed")
        for key, value in recalibrations.changed(tags, record, f"version {version} of {name}").items():
            client.set_model_version_tag(name, str(version), key, value)
    return get_version(name, version)


def corrections(name: str, version: int) -> list[dict[str, Any]]:
    """Return every correction from feedback that a version ever had, oldest first."""
    with open_client() as client:
        return recalibrations.history(client.get_model_version(name, str(version)).tags or {})
