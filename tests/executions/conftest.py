"""The notebook executed again, alone in an empty folder: by hand in JupyterLab in a real browser, where there is one.

The last screenshot is kept as .build/browser.png.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from notebook import NOTEBOOK, ONE_THREAD, ROOT, code_cells, execute_alone
from rerun import COLAB

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else only the cells on screen are in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
MINUTES = 30  # for all cells, on a slow machine at work on other tests as well

# What the page shows: the prompts of the code cells, empty where a cell is folded, the errors, and the widths of the pictures.
LOOK = """() => {
    const all = (selector, value) => [...document.querySelectorAll('.jp-CodeCell ' + selector)].map(value);
    return {
        prompts: all('.jp-InputPrompt', prompt => prompt.innerText.trim()),
        errors: all('[data-mime-type$="jupyter.error"], [data-mime-type$="jupyter.stderr"]', output => output.innerText),
        widths: all('.jp-OutputArea img', image => image.complete ? image.naturalWidth : 0),
    };
}"""


def write_without_outputs(path):
    """A copy of the notebook that has not been run."""
    notebook = json.loads(NOTEBOOK.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    path.write_text(json.dumps(notebook))


@pytest.fixture(scope="session")
def colab_packages(tmp_path_factory):
    """A folder with Colab's versions, to come first in PYTHONPATH."""
    packages = tmp_path_factory.mktemp("colab") / "packages"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--target", str(packages), "-r", str(COLAB)], check=True)
    return packages


@pytest.fixture(scope="session")
def can_browse():
    """Whether there is a browser, and what drives it."""
    return CHROMIUM is not None and importlib.util.find_spec("playwright") is not None


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with nothing in it but the notebook, without outputs."""
    folder = tmp_path_factory.mktemp("lab")
    write_without_outputs(folder / NOTEBOOK.name)
    return folder


@pytest.fixture(scope="session")
def address(can_browse, folder, tmp_path_factory):
    """The address of the notebook in a JupyterLab on this machine alone, all of whose state lies in a temporary folder."""
    if not can_browse:
        pytest.skip("Chromium is not installed: the notebook was not run in a browser")
    state = tmp_path_factory.mktemp("jupyter")
    for plugin, settings in SETTINGS.items():
        path = state / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    variables = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
                 "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    environment = {**os.environ, **ONE_THREAD, "TQDM_DISABLE": "1", **{variable: str(state / variable) for variable in variables}}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with (state / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, state / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, log):
    """Wait until the server answers."""
    for _ in range(240):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5)
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"JupyterLab does not answer: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def page(address, tmp_path_factory):
    """The page with the notebook after Run > Run All Cells, when the last cell has run or one has failed: the kernel is idle."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1200, "height": 1600})
        page = browser.new_page()
        page.goto(address)
        page.locator(".jp-Notebook .jp-CodeCell").nth(len(code_cells()) - 1).wait_for(state="attached", timeout=120_000)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=120_000)  # the kernel is up
        indicator = ".jp-Notebook-ExecutionIndicator[data-status={}]"
        for patience in (20, 20, 120):  # seconds: a menu that has only just come does not always act
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            with contextlib.suppress(sync_api.TimeoutError):
                page.locator(indicator.format("busy")).wait_for(timeout=1000 * patience)
                break
        else:
            raise AssertionError("Run All Cells starts nothing")
        try:
            page.locator(indicator.format("idle")).wait_for(timeout=MINUTES * 60_000)
        finally:
            page.locator(".jp-CodeCell .jp-OutputArea img").last.scroll_into_view_if_needed()
            (ROOT / ".build").mkdir(exist_ok=True)
            page.screenshot(path=ROOT / ".build" / "browser.png")
        yield page
        browser.close()


@pytest.fixture(scope="session")
def seen(page):
    """What the page shows."""
    return page.evaluate(LOOK)


@pytest.fixture(scope="session")
def executed(request, can_browse, tmp_path_factory):
    """The path of the executed notebook, figures/ beside it: saved from the browser where there is one, else by nbconvert."""
    if not can_browse:
        return execute_alone(tmp_path_factory.mktemp("alone"))
    page, folder = request.getfixturevalue("page"), request.getfixturevalue("folder")
    # JupyterLab writes in place, and by itself now and then. A checkpoint it makes only when asked, after it has saved: then is
    # the time for the copy that the tests read.
    with page.expect_response(lambda answer: answer.request.method == "POST" and "/checkpoints" in answer.url):
        page.keyboard.press("Control+s")
    return shutil.copytree(folder, tmp_path_factory.mktemp("saved") / "lab") / NOTEBOOK.name
