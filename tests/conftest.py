from types import SimpleNamespace

import matplotlib
import pytest

from notebook import load_definitions

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, as attributes."""
    return SimpleNamespace(**load_definitions())
