import joblib
import matplotlib
import pytest
import torch

from notebook import load_definitions

matplotlib.use("Agg")
torch.set_num_threads(1)  # the matrices are tiny, and the results do not depend on the machine's load


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, as attributes; what it does side by side is done one after the other here."""
    with joblib.parallel_config(backend="sequential"):
        yield load_definitions()
