"""Execute a notebook in its folder and show how far it is: python execute.py NOTEBOOK [OUT]

OUT (NOTEBOOK itself by default) appears only once every cell has run. What would differ at the next execution is not
saved: times, the version of Python, progress bars, and whether what a cell prints came in one piece or in several.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from tqdm import tqdm
from traitlets.config import Config

ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})  # else kernels warn
KEPT = {"colab", "kernelspec"}  # of the notebook's metadata


def execute(path, out):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tqdm(total=len(code), unit=" cells", ncols=100) as bar:
        client = NotebookClient(notebook, timeout=None, record_timing=False, config=ENCRYPTED,
                                resources={"metadata": {"path": str(path.parent)}},
                                on_cell_execute=lambda cell, **_: bar.set_description(cell.source[:24].split("\n")[0]),
                                on_cell_executed=lambda **_: bar.update())
        client.execute(env={**os.environ, "TQDM_DISABLE": "1"})
    notebook, _ = CoalesceStreamsPreprocessor(enabled=True).preprocess(notebook, {})
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key in KEPT}
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    part = out.with_name(f".part-{out.name}")
    nbformat.write(notebook, part)
    part.replace(out)


if __name__ == "__main__":
    source, *given = map(Path, sys.argv[1:])
    execute(source.resolve(), (given[0] if given else source).resolve())
