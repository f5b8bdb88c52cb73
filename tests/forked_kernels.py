"""A plugin for nbval runs of many small notebooks: every kernel is a process of its own, forked
from one that knows torch already.

Importing torch, pandas and the drawing takes a kernel four seconds, which a run of many notebooks
would spend again and again. Here a server imports them once. The book's library is not among them:
each kernel imports it anew, from the folder above its notebook. Use: ``PYTHONPATH=tests pytest -p
forked_kernels --nbval ...``.
"""

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import local_provisioner

KNOWN = (
    "ipykernel.kernelapp",
    "IPython.core.completer",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "pandas",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.linalg",
    "sklearn.datasets",
    "torch._dynamo",  # by the first optimiser
    "torch.func",
    "torch.fx",
    "tqdm",
    "networkx",
)
SERVER = multiprocessing.get_context("forkserver")


def kernel(ready: Connection, connection_file: str, folder: str) -> None:
    """What a forked process does: become a kernel in ``folder``, beside which the library lies."""
    os.setsid()  # signals go to the kernel's group, which must not be the server's
    ready.send(os.getpid())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(folder)
    os.environ.setdefault("LLFC_CACHE", str(Path(folder).parent / "cache"))
    sys.path[:] = [
        str(Path(folder).parent),
        str(Path(folder).parent / "book"),
        *(p for p in sys.path if p and Path(p).name != "tests"),
    ]
    assert not [name for name in sys.modules if name.startswith(("llfc_lib", "llfc_book"))]
    from ipykernel.kernelapp import IPKernelApp

    # without the server there is no use for kernels
    IPKernelApp.launch_instance(
        argv=["-f", connection_file, f"--IPKernelApp.parent_handle={os.getppid()}"]
    )


class Forked:
    """As much of :class:`subprocess.Popen` as jupyter asks for."""

    stdin = stdout = stderr = None

    def __init__(self, connection_file: str, folder: str) -> None:
        here, there = SERVER.Pipe()
        self.process = SERVER.Process(
            target=kernel, args=(there, connection_file, folder), daemon=True
        )
        self.process.start()
        self.pid = here.recv()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def launch(command: list[str], cwd: str, **_: Any) -> Forked:
    return Forked(command[command.index("-f") + 1], cwd)


def pytest_configure() -> None:
    os.environ["MPLBACKEND"] = (
        # as a kernel sets it before it imports anything
        "module://matplotlib_inline.backend_inline"
    )
    SERVER.set_forkserver_preload(list(KNOWN))
    local_provisioner.launch_kernel = launch
