"""A plugin for nbval: each kernel is a process of its own, forked from one that has torch imported.

Importing torch, pandas and the drawing takes a kernel six seconds, which a run of many notebooks
would spend again and again. Here one server imports them for all workers of a test run. The book's
library is not among them: each kernel imports it anew, from the folder above its notebook. Use:
``PYTHONPATH=tests pytest -p forked_kernels --nbval ...``.
"""

import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
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
#: Where the server listens: set by the process that started it, for its workers.
PLACE = "LLFC_TEST_KERNELS"


def serve(place: str) -> None:
    """Fork a kernel for each line "connection file, tab, folder" that comes, until the process that
    started this one is gone.
    """
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen(64)
        for name in KNOWN:
            importlib.import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that end leave nothing behind
        server.settimeout(1.0)
        while os.getppid() == parent:
            with suppress(TimeoutError):
                asked, _ = server.accept()
                with asked:
                    connection_file, _, folder = asked.makefile().readline().strip().partition("\t")
                    if not os.fork():
                        server.close()
                        kernel(asked, connection_file, folder)


def kernel(asked: socket.socket, connection_file: str, folder: str) -> None:
    """What a forked process does: become a kernel in ``folder``, beside which the library lies."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # signals go to the kernel's group, which must not be the server's
    asked.sendall(str(os.getpid()).encode())
    asked.close()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(folder)
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
    os._exit(0)


class Forked:
    """As much of :class:`subprocess.Popen` as jupyter asks for. How a kernel ended nobody knows."""

    stdin = stdout = stderr = None

    def __init__(self, connection_file: str, folder: str) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(os.environ[PLACE])
            server.sendall(f"{connection_file}\t{folder}\n".encode())
            self.pid = int(server.makefile().read())

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return 0

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def launch(command: list[str], cwd: str, **_: Any) -> Forked:
    return Forked(command[command.index("-f") + 1], cwd)


def pytest_configure(config: pytest.Config) -> None:
    local_provisioner.launch_kernel = launch
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.TemporaryDirectory(prefix="llfc-", dir="/tmp")  # a socket's path is short
    os.environ[PLACE] = f"{folder.name}/kernels"
    environment = {
        **os.environ,
        # as a kernel sets it before it imports anything
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    server = subprocess.Popen([sys.executable, __file__, os.environ[PLACE]], env=environment)

    def end() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    config.add_cleanup(end)
    while not os.path.exists(os.environ[PLACE]):
        assert server.poll() is None, "the server of kernels has ended"
        time.sleep(0.01)


if __name__ == "__main__":
    serve(sys.argv[1])
