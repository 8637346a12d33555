"""A JupyterLab and a headless Chromium for tests and timings: local, in a temporary folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PANEL_CELL = """\
import ftlab
ftlab.setup()
data = ftlab.read("world_qa")
recipe = ftlab.Recipe(learning_rate=2e-3, per_device_train_batch_size=16, max_steps=60)
panel = ftlab.panel(recipe, data)
panel"""
# Notes, in the browser, when the mouse is released and when the panel shows which step.
RECORD = """() => {
  const panel = document.querySelector(".ftlab-panel"), log = window.ftlabLog = [];
  const note = () => {
    const step = panel.querySelector(".ftlab-readout b");
    const status = panel.querySelector("[role=status]");
    if (!step || !status) return;
    log.push([performance.now(), parseInt(step.innerText.replace(",", "")) || 0, status.innerText]);
  };
  new MutationObserver(note).observe(panel, {childList: true, subtree: true});
  window.addEventListener("pointerup", () => log.push([performance.now(), 0, "released"]), true);
}"""


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def lab_page(
    cells: Sequence[str], folder: Path, width: int = 1280, height: int = 800
) -> Iterator[Any]:
    """A Playwright page on a JupyterLab with one notebook of `cells`, which have not run yet."""
    from playwright.sync_api import sync_playwright

    (folder / "notebooks").mkdir()
    _write_notebook(folder / "notebooks" / "panel.ipynb", cells)
    with _server(folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=list(CHROMIUM_OPTIONS)
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(url)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=300_000)
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=300_000)
        yield page
        browser.close()


def run_cell(page: Any, index: int) -> None:
    """Select a cell of the notebook and run it."""
    page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Shift+Enter")


def open_panel(page: Any, index: int = 0) -> None:
    """Run the notebook's panel cell, wait for the controls, and start to record what they show."""
    run_cell(page, index)
    page.wait_for_selector(".ftlab-controls .noUi-handle", timeout=300_000)
    page.wait_for_selector(".ftlab-readout", timeout=60_000)
    page.evaluate(RECORD)


def log(page: Any) -> list[tuple[float, int, str]]:
    """What the browser recorded: milliseconds, step, status line."""
    return [(at, step, status) for at, step, status in page.evaluate("window.ftlabLog")]


def wait_for_status(page: Any, words: str, seconds: float = 120) -> None:
    """Wait until the panel's status line begins with `words`."""
    page.wait_for_function(
        "words => document.querySelector('.ftlab-panel [role=status]').innerText.startsWith(words)",
        arg=words,
        timeout=1000 * seconds,
    )


def drag(page: Any, key: str, share: float) -> None:
    """Drag the slider of recipe key `key` to `share` (0 to 1) of its track, with the mouse."""
    handle = page.locator(f".ftlab-control:has-text('{key}') .noUi-handle")
    track = page.locator(f".ftlab-control:has-text('{key}') .noUi-base")
    handle.scroll_into_view_if_needed()
    at, rail = handle.bounding_box(), track.bounding_box()
    middle = at["y"] + at["height"] / 2
    page.mouse.move(at["x"] + at["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(rail["x"] + rail["width"] * share, middle, steps=5)
    page.mouse.up()


def screenshot(page: Any, name: str) -> None:
    """The README's picture of the panel, when FTLAB_SCREENSHOTS names a folder for it."""
    folder = os.environ.get("FTLAB_SCREENSHOTS")
    if folder:
        page.locator(".jp-Cell-outputWrapper:has(.ftlab-panel)").evaluate(
            "e => { e.scrollIntoView();"
            " document.querySelector('.jp-WindowedPanel-outer').scrollBy(0, -12) }"
        )
        page.wait_for_timeout(300)
        page.screenshot(path=str(Path(__file__).parents[1] / folder / f"{name}.png"))


def _write_notebook(path: Path, cells: Sequence[str]) -> None:
    made: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "source": text,
            "outputs": [],
            "execution_count": None,
        }
        for i, text in enumerate(cells)
    ]
    kernel = {
        "kernelspec": {
            "name": "python3",
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
        }
    }
    notebook = {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A JupyterLab that keeps all its files in `folder`; yields the notebook's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, home = secrets.token_hex(16), folder / "home"
    home.mkdir()
    _no_news(home)
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    variables = {name: str(home / name.lower()) for name in names}
    variables |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "work"),
    }
    root = str(Path(__file__).parents[1])
    variables |= {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'notebooks'}"),
    ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api?token={token}", process, folder / "server.log")
            yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?token={token}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def _no_news(home: Path) -> None:
    """The one setting that is not the default: no question about news, which covers the page."""
    path = home / "settings" / "@jupyterlab" / "apputils-extension"
    path.mkdir(parents=True)
    words = {"fetchNews": "false", "checkForUpdates": False}
    (path / "notification.jupyterlab-settings").write_text(json.dumps(words), encoding="utf-8")


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
