"""A page that is served by a process, and a browser that opens it."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LEFT = ("AbortError", "Connection errored out")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def chromium():
    """A browser without a screen, in which no name of a host is known."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = [path for path in map(shutil.which, NAMES) if path]
    if not found:
        pytest.skip(f"there is none of {', '.join(NAMES)} on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=found[0],
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def explorer(chromium, tmp_path_factory):
    """The address of the explorer, in a process without a network."""
    pytest.importorskip("gradio")
    from keras_capsules import models

    folder = tmp_path_factory.mktemp("networks")
    models.ConvNet().save(folder / "conv_net.keras")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed = folder / "printed.txt"
    command = [
        *(sys.executable, "tests/browser/offline.py", "examples/explorer.py"),
        *("--port", str(port), "--model", str(folder / "conv_net.keras")),
    ]
    with printed.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, printed)
        yield address
    finally:
        process.terminate()
        process.wait()
    assert "ASKED FOR" not in printed.read_text()
    assert "Traceback" not in printed.read_text()


def wait_for(address, process, printed, seconds=300):
    """Waits until the process serves the page."""
    for _ in range(seconds):
        assert process.poll() is None, printed.read_text()
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.URLError:
            time.sleep(1)
    raise AssertionError(f"{address} is not served:\n{printed.read_text()}")


@pytest.fixture
def open_page(chromium, explorer):
    """A function that opens the page, in a window of its own.

    Whatever it asks another host for, and the errors that it logs, fail the
    test; but not that a page is left while something is on its way.
    """
    contexts, faults = [], []

    def note(text):
        if not any(each in text for each in LEFT):
            faults.append(text)

    def open_it(**options):
        context = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", check)
        page.on("pageerror", lambda error: note(str(error)))
        page.on(
            "console",
            lambda message: (
                note(message.text) if message.type == "error" else None
            ),
        )
        page.goto(explorer)
        page.locator(".pad canvas").first.wait_for()
        return page

    def check(request):
        if not request.url.startswith((explorer, "data:", "blob:")):
            faults.append(request.url)

    yield open_it
    for context in contexts:
        context.close()
    assert not faults
