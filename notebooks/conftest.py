"""Give each kernel that nbval starts a socket folder of its own.

By default a kernel gets free TCP ports that are looked up first and taken a second later. Of two test processes that
start kernels side by side, the second can be told the same ports in between: its kernel then never answers, and every
cell of the chapter fails with "Kernel didn't respond in 60 seconds" (jupyter/jupyter_client issue 487).
"""

import tempfile
from typing import Any

import nbval.kernel
from jupyter_client.manager import KernelManager

#: A socket's path holds about a hundred characters, which TMPDIR may use up.
SHORT = "/tmp" if len(tempfile.gettempdir()) > 60 else None

folders: list[tempfile.TemporaryDirectory] = []  # removed when the test process ends


def own_sockets(**settings: Any) -> KernelManager:
    folders.append(tempfile.TemporaryDirectory(prefix="llfc-", dir=SHORT))
    return KernelManager(transport="ipc", ip=f"{folders[-1].name}/kernel", **settings)


nbval.kernel.KernelManager = own_sockets
