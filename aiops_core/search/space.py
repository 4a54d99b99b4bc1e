"""The space of a search: the task's own, or one that a notebook hands in."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from aiops_core.data.tables import suggestion
from aiops_core.errors import UsageError

__all__ = ["checked_space", "first_points", "moved_into"]


def checked_space(
    task: ModuleType, data: Any, space: Mapping[str, BaseDistribution] | None
) -> dict[str, BaseDistribution]:
    """Return a search space that the task's ``fit`` understands: the given one, or the task's.

    Raises
    ------
    UsageError
        If a name is not in the task's space, one of its names is missing, or a value is no distribution of Optuna.
    """
    own: dict[str, BaseDistribution] = task.space(data)
    if space is None:
        return own
    for name, distribution in space.items():
        if name not in own:
            raise UsageError(f"space: task '{task.NAME}' has no parameter '{name}'{suggestion(name, own)}")
        if not isinstance(distribution, BaseDistribution):
            raise UsageError(
                f"space: '{name}' is {distribution!r}; it must be a distribution of optuna.distributions, such as "
                "CategoricalDistribution([64])"
            )
    for name in own:
        if name not in space:
            raise UsageError(f"space: '{name}' is missing; CategoricalDistribution with one choice keeps it fixed")
    return dict(space)


def first_points(
    task: ModuleType, data: Any, space: Mapping[str, BaseDistribution], start: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the points that a search tries first, moved into the space: where to start from, then the task's defaults.

    Parameters
    ----------
    task, data
        As in `aiops_core.search.search`.
    space : mapping
    start : mapping, optional
        Parameters of an earlier model; what it does not name is as in the first default, names that are not in the space
        are left out.
    """
    defaults = task.defaults(data)
    known = {name: value for name, value in (start or {}).items() if name in space}
    return moved_into(space, [*([{**defaults[0], **known}] if known else []), *defaults])


def moved_into(space: Mapping[str, BaseDistribution], points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return points with every value that lies outside the space replaced by the nearest one inside.

    A number goes to the end of its range, a choice that is not offered to the first that is. Points that become equal
    are tried once.
    """
    found: list[dict[str, Any]] = []
    for point in points:
        moved = {name: _nearest(space[name], value) for name, value in point.items()}
        if moved not in found:
            found.append(moved)
    return found


def _nearest(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return distribution.low
    inside = min(max(value, distribution.low), distribution.high)
    if distribution.step:
        steps = round((inside - distribution.low) / distribution.step)
        inside = distribution.low + steps * distribution.step
    return int(inside) if isinstance(distribution, IntDistribution) else inside
