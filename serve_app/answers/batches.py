"""Batches: every instance is read by itself, so that every bad one is named and the good ones can be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from serve_app.wire.problems import Problem

__all__ = ["CHUNK", "let_others_run", "place", "read_each", "refuse", "said"]

#: Rows of a batch answered before other requests get a turn.
CHUNK = 256
#: Errors that one answer lists.
MAX_ERRORS = 100

T = TypeVar("T")


async def let_others_run(done: int) -> None:
    """Let other requests run after every `CHUNK` rows of a batch."""
    if done % CHUNK == 0:
        await asyncio.sleep(0)


def place(index: int) -> str:
    """Return the path of an instance."""
    return f"$.instances[{index}]"


async def read_each(raw: Sequence[msgspec.Raw], read: Callable[[bytes, str], T]) -> list[T | Problem]:
    """Read every instance; a bad one becomes the problem that it raised.

    Parameters
    ----------
    raw : sequence of msgspec.Raw
    read : callable
        Called with the JSON of an instance and its path.

    Raises
    ------
    Problem
        400 if an instance is not JSON at all.
    """
    found: list[T | Problem] = []
    for i, instance in enumerate(raw):
        try:
            found.append(read(bytes(instance), place(i)))
        except Problem as problem:
            if problem.status != 422:
                raise
            found.append(problem)
        await let_others_run(i)
    return found


def refuse(found: Sequence[Any], partial: bool) -> None:
    """Raise one 422 that names every bad instance, unless the good ones are to be answered.

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
    raise Problem(422, f"{len(bad)} of {len(found)} instances break a rule; the first: {bad[0].detail}", errors)


def said(problem: Problem) -> dict[str, Any]:
    """Return what stands in the place of a bad instance's prediction."""
    return {
        "error": {"status": problem.status, "detail": problem.detail, "errors": problem.errors[:MAX_ERRORS]},
    }
