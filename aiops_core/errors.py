"""The few exceptions of the workbench: each carries one sentence that names what is wrong and where."""

from __future__ import annotations

from collections.abc import Sequence

from aiops_core.redact import redacted


class AiopsError(Exception):
    """Base of every error a user can act on; the CLI prints its message and exits with code 2.

    Parameters
    ----------
    message : str
        One sentence. It is shown, logged and kept in many places, so credentials of addresses in it are left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class UsageError(AiopsError):
    """An option, parameter or setting has a value that cannot be used."""


class DataError(AiopsError):
    """A contract table breaks a rule.

    Parameters
    ----------
    message : str
        One sentence: the rule, and the first rows or values that break it.
    table : str, optional
        Name of the contract table.
    column : str, optional
        Name of the column.
    """

    def __init__(self, message: str, *, table: str | None = None, column: str | None = None) -> None:
        self.table = table
        self.column = column
        self._several: tuple[DataError, ...] = ()
        where = f"table '{table}'" if table else ""
        if column:
            where = f"{where}, column '{column}'" if where else f"column '{column}'"
        super().__init__(f"{where}: {message}" if where else message)

    @property
    def faults(self) -> tuple[DataError, ...]:
        """Every fault that was found: this one alone, or those given to `all_of`."""
        return self._several or (self,)

    @classmethod
    def all_of(cls, faults: Sequence[DataError]) -> DataError:
        """Return one error that says all the faults, or the only one itself."""
        if len(faults) == 1:
            return faults[0]
        several = cls("; ".join(str(fault) for fault in faults))
        several._several = tuple(faults)
        return several


class TrackingError(AiopsError):
    """The MLflow tracking store or registry cannot be reached or refuses a request."""


class ClusterError(AiopsError):
    """The Ray cluster cannot be started or reached."""


class SearchStopped(AiopsError):
    """A search was asked to stop before any of its trials had ended, so that there is nothing to go on with."""

    def _render_traceback_(self) -> list[str]:
        """Show a notebook the sentence alone: whoever pressed Stop looks for no fault in the code."""
        return [str(self)]


class ServableError(AiopsError):
    """A servable folder is missing, damaged, or does not reproduce its golden examples."""
