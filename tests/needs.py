"""What a test may need that is not on every machine, where it is, and what is not checked without."""

import importlib.util
import platform
import shutil

import torch

from cells import ROOT

COLAB = ROOT / ".build" / "colab"  # packages of Colab's versions, which `make test` puts there
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS = {  # name: whether it is here, what it is, what is not checked without
    "git": ((ROOT / ".git").exists() and shutil.which("git"), "a git clone", "which files are in it"),
    "latex": (all(map(shutil.which, ("latexmk", "pdflatex", "bibtex"))), "LaTeX", "the report typeset anew"),
    "browser": (CHROMIUM and importlib.util.find_spec("playwright"), "Chromium", "Run all in a browser"),
    "colab": (COLAB.exists(), "Colab's versions for this Python", "the notebook on them"),
    "emulator": (platform.machine() == "x86_64" and shutil.which("qemu-x86_64"), "qemu-x86_64", "other makers' bits"),
    "bubblewrap": (shutil.which("bwrap"), "bubblewrap", "the grader's sandbox"),
    "mkl": (torch.backends.mkl.is_available(), "a PyTorch with MKL", "the digits of what is trained"),
}
MISSING = {need: f"without {what}, not checked: {unchecked}"
           for need, (here, what, unchecked) in NEEDS.items() if not here}
