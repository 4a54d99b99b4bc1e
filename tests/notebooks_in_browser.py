"""Work through a notebook in JupyterLab in a real browser, as a researcher would, and take pictures on the way.

``python tests/notebooks_in_browser.py FOLDER`` leaves the screenshots in a folder; `test_browser.py` walks the same way.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import websocket

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "03_threat_detector.ipynb"
WIDTH, HEIGHT = 1300, 1000
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
    "--remote-allow-origins=*", f"--window-size={WIDTH},{HEIGHT}",
]  # fmt: skip
#: Names for what the steps below ask of JupyterLab.
PRELUDE = """
    const app = window.jupyterapp;
    const panel = [...app.shell.widgets('main')].find(widget => widget.content?.widgets), book = panel.content;
    const code = book.widgets.filter(cell => cell.model.type === 'code');
    const find = text => book.widgets.findIndex(cell => cell.model.sharedModel.getSource().includes(text));
    const outputs = text => book.widgets[find(text)].model.sharedModel.toJSON().outputs;
"""


class Page:
    """One page of a browser, over the DevTools protocol."""

    def __init__(self, address: str, pictures: Path) -> None:
        self.pictures = pictures
        self._socket = websocket.create_connection(address, timeout=60)
        self._numbers = itertools.count(1)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; events in between are passed over."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        """Run the body of a JavaScript function and return what it returns."""
        found = self.call(
            "Runtime.evaluate", expression=f"(async () => {{{script}}})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def lab(self, script: str) -> Any:
        """Run a script with the names of `PRELUDE`."""
        return self.run(PRELUDE + script)

    def wait(self, script: str, seconds: float = 120) -> Any:
        """Wait until a script returns something true."""
        end, found = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                if found := self.run(script):
                    return found
            except AssertionError as error:
                # Before the page is built.
                found = error
            time.sleep(0.2)
        self.picture(self.pictures / "failed.png")
        raise TimeoutError(f"the page never came to: {script} (last: {found})")

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"const b = {place}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, height: int) -> None:
        """Give the window another height."""
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path) -> None:
        """Save a screenshot of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def chromium(folder: Path, pictures: Path) -> Iterator[Page]:
    """Start a browser of its own and yield its page."""
    program = shutil.which("chromium")
    assert program, "needs chromium"
    command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with _process(command, log=folder.parent / "chromium.log"):
        port = folder / "DevToolsActivePort"
        _until(lambda: port.is_file() and port.read_text().count("\n") > 0)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list"
        with urllib.request.urlopen(address) as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        yield Page(pages[0]["webSocketDebuggerUrl"], pictures)


@contextlib.contextmanager
def jupyterlab(folder: Path, notebooks: Path) -> Iterator[str]:
    """Start JupyterLab with a home of its own and yield its address, token included."""
    for plugin, chosen in (
        ("apputils-extension/notification", '{"fetchNews": "false"}'),
        # All cells stay in the page: else those out of sight hold no output.
        ("notebook-extension/tracker", '{"windowingMode": "none"}'),
    ):
        file = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(chosen)
    (folder / "home").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {
        "AIOPS_HOME": str(folder / "home"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", str(notebooks),
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with _process(command, log=folder / "lab.log", env=environment):
        _until(lambda: _answers(f"{address}/api?token={token}"))
        yield f"{address}/lab/tree/{NOTEBOOK}?token={token}"


@contextlib.contextmanager
def _process(command: list[str], log: Path, **options: Any) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, **options)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address):
            return True
    except OSError:
        return False


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("a program did not start")
        time.sleep(0.1)


class Book:
    """The notebook that is open in JupyterLab."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        page.resize(HEIGHT)
        page.call("Page.navigate", url=address)
        page.wait(f"{PRELUDE} return code.length > 5 && panel.sessionContext.session.kernel.status === 'idle'")

    def change(self, old: str, new: str) -> None:
        """Replace a piece of text in the one cell that holds it."""
        changed = self.page.lab(f"""
            const model = book.widgets[find({json.dumps(old)})].model.sharedModel;
            model.setSource(model.getSource().replace({json.dumps(old)}, {json.dumps(new)}));
            return model.getSource()""")
        assert new in changed

    def start(self, command: str, cell: str | None = None) -> None:
        """Give a command of the Run menu, from a cell on if one is named."""
        active = "" if cell is None else f"book.activeCellIndex = find({json.dumps(cell)});"
        self.page.lab(
            f"app.shell.activateById(panel.id); {active} book.deselectAll(); app.commands.execute('notebook:{command}')"
        )

    def finish(self, seconds: float = 240) -> None:
        """Wait until no cell is running or waits to run."""
        idle = (
            "code.every(cell => cell.model.executionState !== 'running' && !cell.promptNode.textContent.includes('*'))"
        )
        self.page.wait(f"{PRELUDE} return {idle} && panel.sessionContext.session.kernel.status === 'idle'", seconds)

    def outputs(self, cell: str) -> list[dict[str, Any]]:
        """Return the outputs of the cell that holds a text, as they would be saved."""
        found: list[dict[str, Any]] = self.page.lab(f"return outputs({json.dumps(cell)})")
        return found

    def errors(self) -> list[dict[str, Any]]:
        """Return what went wrong: tracebacks, and anything written to the standard error stream."""
        found: list[dict[str, Any]] = self.page.lab(
            "return code.flatMap(cell => cell.model.sharedModel.toJSON().outputs)"
            ".filter(out => out.output_type === 'error' || out.name === 'stderr')"
        )
        return found

    def picture(self, path: Path) -> None:
        """Save a screenshot of the whole notebook, as in a window that is tall enough; then go back to the usual one."""
        tall = "book.widgets.reduce((sum, cell) => sum + cell.node.offsetHeight + 10, 200)"
        # Cells out of sight have no height yet, so that it takes a second look.
        for _ in range(2):
            self.page.resize(int(self.page.lab(f"return Math.ceil({tall})")))
            self.page.lab("book.node.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
            time.sleep(1)
        self.page.picture(path)
        self.page.resize(HEIGHT)


SPACE, SEARCH, STOP = "IntDistribution(8, 18)", "study.search(", ".jupyter-widgets.jupyter-button"
#: A row of the live table; the fifth trial of many.
IN_SIGHT = f"{PRELUDE} book.scrollToItem(find('{SEARCH}'), 'start');"
ROW = f"{IN_SIGHT} return document.querySelector('.widget-html-content td') !== null"
FIFTH = (
    f"{IN_SIGHT} const said = document.querySelector('.widget-html-content')?.textContent ?? '';"
    "return /([5-9]|[1-9][0-9])\\/200 trials done/.test(said)"
)


def walk(folder: Path, pictures: Path) -> dict[str, Any]:
    """Run the notebook, change its space, run it again, stop a long search, and let that one go on.

    Parameters
    ----------
    folder : Path
        Empty folder for everything that is written on the way.
    pictures : Path
        Folder of the screenshots.

    Returns
    -------
    dict
        ``home`` of the experiment, ``errors`` of the two full runs, and the outputs of the search's cell: ``first``,
        ``changed``, ``stopped``, ``resumed``.
    """
    notebooks = shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    pictures.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"home": folder / "home"}
    with jupyterlab(folder, notebooks) as address, chromium(folder / "profile", pictures) as page:
        book = Book(page, address)
        book.change("n_samples: int = None", "n_samples: int = 800")
        book.change("n_trials: int = 20", "n_trials: int = 3")
        book.start("run-all-cells")
        page.wait(ROW)
        page.picture(pictures / "1-searching.png")
        book.finish()
        found |= {"first": book.outputs(SEARCH), "errors": book.errors()}
        book.picture(pictures / "2-whole.png")

        book.change(SPACE, "IntDistribution(3, 4)")
        book.start("run-all-below", "IntDistribution(3, 4)")
        book.finish()
        found |= {"changed": book.outputs(SEARCH), "errors": found["errors"] + book.errors()}
        book.picture(pictures / "3-another-space.png")

        book.change("n_trials=n_trials", "n_trials=200")
        book.start("run-cell", SEARCH)
        page.wait(FIFTH)
        page.picture(pictures / "4-long-search.png")
        page.click(STOP)
        book.finish(60)
        found["stopped"] = book.outputs(SEARCH)
        page.picture(pictures / "5-stopped.png")

        ended = int(text(found["stopped"]).partition("stopped after ")[2].partition(" of 200")[0])
        book.change("n_trials=200", f"n_trials={ended + 2}")
        book.start("run-cell", SEARCH)
        book.finish()
        found["resumed"] = book.outputs(SEARCH)
        page.picture(pictures / "6-gone-on.png")
    return found


def text(outputs: list[dict[str, Any]]) -> str:
    """Return what outputs say, tables as HTML."""
    data = [output.get("data", {}) for output in outputs]
    said = [one.get("text/html") or one.get("text/plain") or "" for one in data]
    said += [output.get("text", "") for output in outputs]
    return "\n".join("".join(part) for part in said)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        outcome = walk(Path(place), Path(sys.argv[1]))
        print(outcome["errors"] or "no errors")
        print(text(outcome["stopped"]))
