"""Run one notebook through papermill, whose only user this is."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiops_core import errors, settings
from aiops_core.data.tables import suggestion
from aiops_core.errors import AiopsError, UsageError
from aiops_core.facts import FACTS

NOTEBOOKS = {
    "data": "01_data",
    **{task: facts.notebook for task, facts in FACTS.items()},
    "report": "05_training_report",
    "monitor": "07_monitoring",
}
Progress = Callable[[str, str], None]


def notebook_folder() -> Path:
    """Return the folder of the notebooks: beside the package in a checkout."""
    return Path(__file__).resolve().parents[2] / "notebooks"


def execute(name: str, output: Path, parameters: Mapping[str, Any], kernels: list[Any] | None = None) -> None:
    """Run one notebook with a value for every parameter it has.

    Parameters
    ----------
    name : str
        One of `NOTEBOOKS`' values.
    output : Path
        Where the executed notebook is written.
    parameters : mapping
        All of them: a default would be whatever somebody last saved in the notebook.
    kernels : list, optional
        Gets the manager of the kernel, so that the caller can end it.

    Raises
    ------
    UsageError
        If a parameter is unknown to the notebook (papermill alone would only warn and run with the default), or one
        of the notebook's is not given.
    AiopsError
        If the notebook stopped with one.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    path = notebook_folder() / f"{name}.ipynb"
    if not path.is_file():
        raise UsageError(f"notebook {path.name} is not in {path.parent}")
    known = papermill.inspect_notebook(str(path))
    for parameter in parameters:
        if parameter not in known:
            raise UsageError(f"notebook {path.name} has no parameter '{parameter}'{suggestion(parameter, known)}")
    absent = [parameter for parameter in known if parameter not in parameters]
    if absent:
        raise UsageError(f"notebook {path.name} has a parameter '{absent[0]}' that this run does not set")
    try:
        with tempfile.TemporaryDirectory(prefix="aiops-") as sockets:
            papermill.execute_notebook(
                str(path),
                str(output),
                parameters=dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                # A kernel logs the interrupt that ends it.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                cwd=str(settings.load().home),
                kernel_manager_class=_local_kernel(Path(sockets), [] if kernels is None else kernels),
            )
    except PapermillExecutionError as error:
        kind = getattr(errors, str(error.ename), None)
        if isinstance(kind, type) and issubclass(kind, AiopsError) and kind is not AiopsError:
            raise UsageError(str(error.evalue)) from None
        if error.ename == "OSError" and f"Errno {errno.ENOSPC}" in str(error.evalue):
            raise UsageError(f"the disk is full: {error.evalue}") from None
        raise NotebookError(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise NotebookError(f"{path.name}: its kernel was ended from outside, perhaps for want of memory") from error


def _local_kernel(folder: Path, started: list[Any]) -> type:
    """Return a kernel manager that talks over files in a folder, since every user of the machine could reach a port."""
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class LocalKernelManager(AsyncKernelManager):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

        @default("transport")
        def _transport_over_files(self) -> str:
            return "ipc"

        @default("ip")
        def _files_of_its_own(self) -> str:
            return str(folder / "kernel")

    return LocalKernelManager


class NotebookError(Exception):
    """A notebook stopped with an error that is not the user's."""


def run_stage(
    stage: str, work: Path, parameters: Mapping[str, Any], tell: Progress, kernels: list[Any] | None = None
) -> None:
    """Run the notebook of one stage into the working folder, and tell when it begins and ends."""
    output = work / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    tell(stage, "running")
    execute(NOTEBOOKS[stage], output, parameters, kernels)
    tell(stage, "done")


def write_page(notebook: Path, page: Path) -> None:
    """Write an executed notebook as an HTML page that needs no network."""
    from nbconvert import HTMLExporter

    # The template names scripts of other hosts, for formulas and widgets that these notebooks do not have.
    nothing = dict.fromkeys(("require_js_url", "mathjax_url"), "data:,")
    text, _ = HTMLExporter(**nothing).from_filename(str(notebook))
    page.write_text(text, encoding="utf-8")
