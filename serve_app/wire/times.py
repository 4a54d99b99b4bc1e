"""Times of requests and answers."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.wire.problems import invalid

__all__ = ["LATEST", "iso", "parse_stamp"]

#: The year 2200, in seconds since 1970.
LATEST = 7_258_118_400.0


def parse_stamp(value: str | float, path: str) -> float:
    """Return seconds since 1970, UTC.

    Parameters
    ----------
    value : str or float
        ISO 8601 with an offset, or seconds.
    path : str
        For the error.

    Raises
    ------
    Problem
        422, if it is neither, names no time zone, or lies outside the years 1970 to 2200.
    """
    if isinstance(value, str):
        try:
            stamp = datetime.fromisoformat(value)
        except ValueError:
            raise invalid(path, f"{value[:64]!r} is not an ISO 8601 time such as 2026-01-31T12:00:00Z") from None
        if stamp.tzinfo is None:
            rule = "has no time zone, which is not guessed: write UTC with an offset, such as 2026-01-31T12:00:00Z"
            raise invalid(path, f"{value[:64]!r} {rule}")
        try:
            seconds = stamp.timestamp()
        except (OverflowError, ValueError):
            raise invalid(path, "is not a time between 1970 and 2200") from None
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(path, "a time is expected: ISO 8601 with an offset, or seconds since 1970")
    else:
        seconds = float(value)
        if LATEST < seconds <= 1000 * LATEST:
            raise invalid(path, f"{seconds:.0f} is no time before 2200: give seconds since 1970, not milliseconds")
    if not 0.0 <= seconds <= LATEST:
        raise invalid(path, "is not a time between 1970 and 2200")
    return seconds


def iso(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
