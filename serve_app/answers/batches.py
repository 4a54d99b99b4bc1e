"""Batches: every instance is read by itself, so that every bad one is named and the good ones can be answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from serve_app.wire.decoding import check_values
from serve_app.wire.limits import MAX_BATCH_VALUES, MAX_VALUES, MB
from serve_app.wire.problems import Problem

__all__ = ["CHUNK", "Work", "encode", "place", "read_each", "refuse", "said"]

#: Rows that go through a model together.
CHUNK = 256
#: Seconds of work after which other requests get a turn.
SLICE = 0.003
#: Errors that one answer lists, and those of an instance when there are more.
MAX_ERRORS, FEW_ERRORS = 100, 5

encode = msgspec.json.Encoder().encode
T = TypeVar("T")


class Work:
    """A batch on its way: lets other requests run, and keeps its answer within bounds.

    Parameters
    ----------
    most : int
        Bytes of the answer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._values = 0
        self._since = time.perf_counter()

    async def rest(self) -> None:
        """Let other requests run if it is their turn; here a batch that nobody waits for any more is cancelled."""
        if time.perf_counter() - self._since > SLICE:
            await asyncio.sleep(0)
            self._since = time.perf_counter()

    def take(self, values: int) -> None:
        """Count what an instance became.

        Raises
        ------
        Problem
            413 beyond `MAX_BATCH_VALUES`.
        """
        self._values += values
        if self._values > MAX_BATCH_VALUES:
            raise Problem(
                413,
                f"the windows and series of the batch have more than {MAX_BATCH_VALUES:,} values: send fewer instances",
            )

    def expect(self, size: int) -> None:
        """Refuse an answer before it is computed.

        Raises
        ------
        Problem
            413 if it would be too large.
        """
        if size > self._most:
            raise self._too_large(size)

    def encode(self, answer: Any) -> bytes:
        """Return one answer as JSON.

        Raises
        ------
        Problem
            413 if all answers together are too large.
        """
        part = encode(answer)
        self._size += len(part)
        if self._size > self._most:
            raise self._too_large(self._size)
        return part

    def _too_large(self, size: int) -> Problem:
        return Problem(
            413,
            f"the answer would have {-(-size // MB)} MB or more, and at most {self._most // MB} MB are sent: "
            "send fewer instances, or ask for fewer days",
        )


async def read_each(
    raw: Sequence[msgspec.Raw], places: Sequence[int], read: Callable[[bytes, str], T], work: Work
) -> list[T | Problem]:
    """Read the instances at some places; a bad one becomes the problem that it raised.

    Parameters
    ----------
    raw : sequence of msgspec.Raw
    places : sequence of int
    read : callable
        Called with the JSON of an instance and its path.
    work : Work

    Raises
    ------
    Problem
        400 if an instance is not JSON at all, 413 if it or all of them are too large.
    """
    found: list[T | Problem] = []
    errors = 0
    for i in places:
        try:
            body = bytes(raw[i])
            check_values(body, MAX_VALUES, place(i))
            item = read(body, place(i))
            work.take(getattr(item, "values", 0))
            found.append(item)
        except Problem as problem:
            if problem.status != 422:
                raise
            if errors >= MAX_ERRORS:
                del problem.errors[FEW_ERRORS:]
            errors += len(problem.errors)
            # Its frames would keep the instance and all that was made of it.
            found.append(problem.with_traceback(None))
        await work.rest()
    return found


def place(index: int) -> str:
    """Return the path of an instance."""
    return f"$.instances[{index}]"


def refuse(found: Sequence[Any], partial: bool, count: int) -> None:
    """Raise one 422 that names every bad instance of ``count``, unless the good ones are to be answered.

    Raises
    ------
    Problem
    """
    bad = [item for item in found if isinstance(item, Problem)]
    if not bad or partial:
        return
    errors = [error for problem in bad for error in problem.errors][:MAX_ERRORS]
    if len(bad) == 1:
        raise Problem(422, bad[0].detail, errors)
    raise Problem(422, f"{len(bad)} of {count} instances break a rule; the first: {bad[0].detail}", errors)


def said(problem: Problem) -> dict[str, Any]:
    """Return what stands in the place of a bad instance's prediction."""
    return {
        "error": {"status": problem.status, "detail": problem.detail, "errors": problem.errors[:MAX_ERRORS]},
    }
