"""A plugin for nbval: each kernel is a process of its own, forked from one that has torch imported.

Use: ``PYTHONPATH=tests pytest -p forked_kernels --nbval ...``.
"""

import os
import time
from typing import Any

import forked
from jupyter_client.provisioning import local_provisioner


class Forked:
    """As much of :class:`subprocess.Popen` as jupyter asks for."""

    stdin = stdout = stderr = None

    def __init__(self, connection_file: str, folder: str) -> None:
        process = forked.context().Process(
            target=forked.kernel, args=(connection_file, folder), daemon=True
        )
        process.start()
        self.process, self.pid = process, process.pid
        self.kill, self.terminate = process.kill, process.terminate
        while os.getpgid(self.pid) != self.pid:  # jupyter signals the group that it finds
            time.sleep(0.01)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


def launch(command: list[str], cwd: str, **_: Any) -> Forked:
    return Forked(command[command.index("-f") + 1], cwd)


def pytest_configure() -> None:
    # as a kernel sets it before it imports anything
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    local_provisioner.launch_kernel = launch
