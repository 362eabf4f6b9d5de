"""The kernel of Colab, by which a notebook can tell that it is there."""

from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell


class Shell(ZMQInteractiveShell):
    pass


class Kernel(IPythonKernel):
    shell_class = Shell
