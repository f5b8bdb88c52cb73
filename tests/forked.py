"""Processes that start at once: each is forked from a server that has imported torch, pandas and
the drawing, which takes six seconds otherwise.

The book's two packages are not among what it knows: each process imports them anew, as they are
by then.
"""

import contextlib
import importlib.util
import io
import multiprocessing
import os
import sys
import traceback
from importlib.machinery import ModuleSpec
from pathlib import Path

KNOWN = [
    "ipykernel.kernelapp",
    "IPython.core.completer",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "pandas",
    "safetensors.torch",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.datasets",
    "torch._dynamo",  # by the first optimiser
    "torch.func",
    "torch.fx",
    "tqdm",
    "networkx",
]


def context() -> multiprocessing.context.ForkServerContext:
    """Its processes are forked from the server, which starts with the first of them."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(KNOWN)
    return found


def _among(root: Path) -> None:
    """The packages are those below ``root``."""
    assert not [name for name in sys.modules if name.startswith(("llfc_lib", "llfc_book"))]
    sys.path[:0] = [str(root), str(root / "book")]


def kernel(connection_file: str, folder: str) -> None:
    """Become a notebook's kernel in ``folder``, beside which the packages lie."""
    os.setsid()  # signals go to the kernel's group, which must not be the server's
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(folder)
    _among(Path(folder).parent)
    from ipykernel.kernelapp import IPKernelApp

    # without the server there is no use for kernels
    IPKernelApp.launch_instance(
        argv=["-f", connection_file, f"--IPKernelApp.parent_handle={os.getppid()}"]
    )


class _Instead:
    """Imports one module from another source than its file's."""

    def __init__(self, module: str, source: str) -> None:
        self.module, self.source = module, source

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.module else None

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: object) -> None:
        exec(compile(self.source, self.module, "exec"), vars(module))


def run(root: Path, cache: Path, code: str, module: str = "", source: str = "") -> str:
    """What ``code`` says, with the packages below ``root``, of which ``module`` has ``source``: its
    last line is "passed" or an error's.
    """
    os.environ["LLFC_CACHE"] = str(cache)
    _among(root)
    if module:
        sys.meta_path.insert(0, _Instead(module, source))
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            exec(code, {})
            print("passed")
        except BaseException:
            traceback.print_exc()
    return told.getvalue()
