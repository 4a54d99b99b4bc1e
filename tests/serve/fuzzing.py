"""Requests drawn from the service's own description, and what its answers break."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import AcceptedNegativeData, Failure, FailureGroup

__all__ = ["NOT_CHECKED", "Row", "fuzz"]

#: Checks of schemathesis that do not apply, and why.
NOT_CHECKED = {
    "positive_data_acceptance": "rules that no schema can say, such as rows oldest first, answer 422",
}


@dataclass
class Row:
    """What one operation answered."""

    operation: str
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    #: One message for each broken check.
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return self.statuses.total()

    def judge(self, case: Any, answer: Any, allowed: frozenset[int]) -> None:
        """Run every check on an answer; `allowed` are states of the service, not reactions to what was sent."""
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500 and answer.status_code not in allowed:
            self._note("server_error", answer.text)
        if answer.status_code in allowed:
            return
        if answer.status_code >= 400 and answer.headers["content-type"] != ["application/problem+json"]:
            self._note("problem_details", f"{answer.status_code} {answer.headers['content-type']}")
        if len(answer.headers.get("x-request-id", [])) != 1:
            self._note("one_request_id", str(answer.headers.get("x-request-id")))
        try:
            case.validate_response(answer, checks=_checks())
        except (Failure, FailureGroup) as error:
            for failure in getattr(error, "exceptions", [error]):
                if (
                    isinstance(failure, AcceptedNegativeData)
                    and isinstance(case.body, dict)
                    and case.body.get("partial")
                ):
                    # Such a batch names its bad instances and answers the others.
                    continue
                self._note(type(failure).__name__, str(failure))

    def _note(self, check: str, message: str) -> None:
        self.broken[check] += 1
        self.messages.setdefault(check, message[:500])


def _checks() -> list[Callable[..., Any]]:
    load_all_checks()
    return [check for check in CHECKS.get_all() if check.__name__ not in NOT_CHECKED]


def fuzz(
    schema: Any,
    examples: int,
    *,
    call: Callable[[Any], Any] = lambda case: case.call(),
    allowed: frozenset[int] = frozenset(),
    seed: int = 0,
) -> Iterator[Row]:
    """Send requests to every operation, half of them by the description and half against it.

    Parameters
    ----------
    schema : schemathesis schema
    examples : int
        For each operation and half; an operation that takes nothing is asked a tenth as often.
    call : callable
        Sends a case.
    allowed : set of int
        Statuses that are no reaction to what was sent.
    seed : int
    """
    for result in schema.get_all_operations():
        operation = result.ok()
        row = Row(operation.label)
        takes = bool(operation.body or operation.path_parameters)
        modes = [schemathesis.GenerationMode.POSITIVE] + [schemathesis.GenerationMode.NEGATIVE] * takes
        for mode in modes:
            settings = hypothesis.settings(
                max_examples=examples if takes else max(1, examples // 10),
                deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
            )  # fmt: skip

            hypothesis.seed(seed)(
                settings(
                    hypothesis.given(case=operation.as_strategy(generation_mode=mode))(_asking(row, call, allowed))
                )
            )()
        yield row


def _asking(row: Row, call: Callable[[Any], Any], allowed: frozenset[int]) -> Callable[[Any], None]:
    def ask(case: Any) -> None:
        row.judge(case, call(case), allowed)

    return ask
