"""Stands in for Colab's package: whatever is called in it is written down, one line a call, in the file $COLAB_CALLS."""

import os


class Recorder:
    """Has every attribute, and can be called."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        return Recorder(f"{self.name}.{name}")

    def __call__(self, *arguments, **options):
        with open(os.environ["COLAB_CALLS"], "a") as calls:
            calls.write(f"{self.name}{arguments}\n")


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Recorder(name)
