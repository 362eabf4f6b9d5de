"""Run all fails, complains, or gives other digits: by hand in a browser, on Colab's versions, as a script, elsewhere.

The notebook is executed twice, with two flows of each kind trained for a few epochs: as in Colab (in JupyterLab in a
real browser, on Colab's versions, warnings as errors; what the machine lacks is left out), and as a script made by
nbconvert, in one process, as an older processor would compute. Both have to write the same.
"""

import contextlib
import importlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time

import nbformat
import pytest

from cells import NOTEBOOK, ONE_THREAD, ROOT, cells, shown, sources
from needs import CHROMIUM, COLAB, MISSING

pytestmark = [pytest.mark.slow, pytest.mark.first]

SHORTER = {  # what is replaced in the notebook
    "NUM_RUNS = 8": "NUM_RUNS = 2",
    "enumerate(fit(stacked, train_set, max(checkpoints), batch_size=64), start=1)":  # one epoch each
        "zip(sorted(checkpoints), fit(stacked, train_set, 5, 64))",
    "train(CouplingFlow(4).double(), moons)": "train(CouplingFlow(4).double(), moons, 5)",
    "epochs=40, rate": "epochs=2, rate", "epochs=60, rate": "epochs=2, rate",
    "learn_digits, range(4)": "learn_digits, range(2)",
    '"figure.dpi": 120, "savefig.dpi": 240': '"savefig.dpi": 40'}
PRECISELY = """
import hashlib, json, matplotlib, scipy, sklearn
weights = b"".join(to_np(p).tobytes() for runs in all_runs.values() for flow, _ in runs for p in flow.parameters())
bits = [bits for *_, models in folds for bits, _ in models.values()]
sums = [density.sum() for _, _, runs in learned.values() for density in runs[0].values()]
precisely = [hashlib.sha256(weights).hexdigest(), *(f"{each:.8g}" for each in (*sums, *bits))]
save("precisely.json", lambda path: path.write_text(json.dumps(precisely)))
save("versions.txt", lambda path: path.write_text(" ".join(m.__version__ for m in (np, scipy, sklearn, matplotlib))))
"""  # the bits of what was trained and more digits of the rest, in a last cell
OLDER_PROCESSOR = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Nehalem"}


def write_shortened(folder):
    """The notebook not yet run, with all that is shorter, in a folder; returns its path."""
    texts, path = [*sources(), PRECISELY], folder / NOTEBOOK.name
    for long, short in SHORTER.items():
        assert "".join(texts).count(long) == 1, long
        texts = [text.replace(long, short) for text in texts]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in texts])
    notebook.metadata = nbformat.read(NOTEBOOK, as_version=4).metadata
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """base/parent/alone has old figures and a note; base/home is nobody's; base/state is for Jupyter."""
    base = tmp_path_factory.mktemp("colab")
    for name in ("parent/alone/figures", "home", "state"):
        (base / name).mkdir(parents=True)
    for name in (*os.listdir(ROOT / "figures"), "notes.txt"):
        (base / "parent" / "alone" / "figures" / name).write_text("old")
    return base


@pytest.fixture(scope="module")
def environment(base):
    state = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
             "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    environment = {**os.environ, **ONE_THREAD, **{variable: str(base / "state" / variable) for variable in state},
                   "HOME": str(base / "home"), "PYTHONPATH": str(COLAB), "TQDM_DISABLE": "1"}
    fonts = [sys.executable, "-c", "import matplotlib.font_manager"]  # said to be found, on stderr, the first time
    subprocess.run(fonts, env=environment, check=True, capture_output=True)
    return environment | {"PYTHONWARNINGS": "error:::__main__"}


@pytest.fixture(scope="module")
def alone(base, environment, request):
    """The folder of the notebook, when all its cells have run as in Colab."""
    path = write_shortened(base / "parent" / "alone")
    if "browser" in MISSING:
        subprocess.run([sys.executable, ROOT / "tests" / "execute.py", path], env=environment, check=True)
    else:
        request.getfixturevalue("page")
    return path.parent


@pytest.fixture(scope="module")
def address(base, environment):
    """The address of the notebook in a JupyterLab on this machine alone."""
    settings = base / "state" / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # all cells, seen or not
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with (base / "state" / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=base / "parent" / "alone", env=environment, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?token={token}"
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def page(address):
    """The page after Run > Run All Cells, when all is idle and saved; .build/browser.png is a picture of it."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1600})
        for _ in range(60):  # until the server answers
            with contextlib.suppress(sync_api.Error):
                page.goto(address)
                break
            time.sleep(1)
        page.locator(".jp-Notebook .jp-CodeCell").nth(len(cells())).wait_for(state="attached", timeout=120_000)
        idle, busy = (page.locator(f".jp-Notebook-ExecutionIndicator[data-status={status}]")
                      for status in ("idle", "busy"))
        idle.wait_for(timeout=120_000)  # the kernel is up
        for patience in (20, 20, 120):  # seconds: a menu that has only just come does not always act
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            with contextlib.suppress(sync_api.TimeoutError):
                busy.wait_for(timeout=1000 * patience)
                break
        waiting = "[...document.querySelectorAll('.jp-InputPrompt')].some(one => one.innerText.includes('*'))"
        page.wait_for_function(f"!{waiting}", timeout=900_000)  # between two cells the kernel can be idle, too
        page.locator(".jp-CodeCell .jp-OutputArea img").last.scroll_into_view_if_needed()
        page.screenshot(path=ROOT / ".build" / "browser.png")
        # JupyterLab saves by itself now and then; a checkpoint it makes only when asked, after it has saved.
        with page.expect_response(lambda said: said.request.method == "POST" and "/checkpoints" in said.url):
            page.keyboard.press("Control+s")
        yield page
        browser.close()


@pytest.mark.needs("browser")
def test_the_page_shows_all_cells_run_all_pictures_and_no_error(alone, page):
    def all_of(selector, value):
        return page.evaluate(f"[...document.querySelectorAll('.jp-CodeCell {selector}')].map(one => {value})")

    assert all_of('[data-mime-type$="jupyter.error"], [data-mime-type$="jupyter.stderr"]', "one.innerText") == []
    assert all_of(".jp-InputPrompt", "one.innerText.trim()") == [f"[{i}]:" for i in range(1, len(cells()) + 2)]
    pictures = [output for cell in cells() for output in cell["outputs"] if "image/png" in output.get("data", {})]
    widths = all_of(".jp-OutputArea img", "one.naturalWidth")
    assert len(widths) == len(pictures) and min(widths) > 100


def test_every_cell_runs_in_order_and_prints_nothing_on_stderr(alone):
    executed = cells(path=alone / NOTEBOOK.name)
    assert [cell["execution_count"] for cell in executed] == list(range(1, len(cells()) + 2))
    assert [output for cell in executed for output in cell["outputs"] if output.get("name") == "stderr"] == []
    assert "Bit for bit the saved run: False" in str(shown(alone / NOTEBOOK.name))  # as it trains less


def test_it_writes_figures_over_old_ones_and_nothing_else(base, alone):
    assert os.listdir(base / "parent") == ["alone"] and set(os.listdir(base / "home")) <= {".npm"}  # JupyterLab's own
    assert {path.name for path in alone.iterdir()} - {".ipynb_checkpoints"} == {NOTEBOOK.name, "figures"}
    contents = {path.name: path.read_bytes() for path in (alone / "figures").iterdir()}
    assert [name for name, content in contents.items() if content == b"old"] == ["notes.txt"]
    assert contents.keys() == {*os.listdir(ROOT / "figures"), "notes.txt", "precisely.json", "versions.txt"}


@pytest.mark.needs("colab")
def test_it_ran_on_the_versions_of_colab(alone):
    wanted = re.findall(r"==([\d.]+)", (ROOT / "tests" / "requirements-colab.txt").read_text())
    ran = (alone / "figures" / "versions.txt").read_text().split()
    assert len(ran) == 4 and set(ran) <= set(wanted)


@pytest.mark.needs("mkl")
def test_its_text_is_the_committed_one_up_to_the_runs_of_flows(alone):
    first = next(i for i, text in enumerate(sources()) if "NUM_RUNS = 8" in text)
    assert shown(alone / NOTEBOOK.name)[:first] == shown(NOTEBOOK)[:first]


def vector_features():
    """All that NumPy dispatches by the processor, as NPY_DISABLE_CPU_FEATURES wants it."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name))


@pytest.mark.needs("mkl")
def test_as_a_script_on_an_older_processor_it_gives_the_same_bits_and_digits(alone, tmp_path):
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "script", write_shortened(tmp_path)], check=True)
    one_process = {"LOKY_MAX_CPU_COUNT": "1", "MPLBACKEND": "Agg", "NPY_DISABLE_CPU_FEATURES": vector_features()}
    environment = {**os.environ, **ONE_THREAD, **OLDER_PROCESSOR, **one_process, "TQDM_DISABLE": "1"}
    script = [sys.executable, NOTEBOOK.with_suffix(".py").name]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("results.tex", "precisely.json"):
        as_script, as_in_colab = ((folder / "figures" / name).read_text().splitlines() for folder in (tmp_path, alone))
        assert as_script == as_in_colab
