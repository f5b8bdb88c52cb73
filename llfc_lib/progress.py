"""Long work says where it is: a bar on a terminal, lines in the file that ``$LLFC_PROGRESS`` names,
and to whoever listens in the process.
"""

import os
import time
from collections.abc import Callable

from tqdm import tqdm

MINIMUM_SECONDS = 5.0  # between two lines
#: Called with every line. Empty in a notebook and wherever else nobody asked for lines.
listeners: list[Callable[[str], None]] = []


class Progress:
    """``with Progress("mlp 0A", 30) as p: p.advance("loss 0.1")``. Silent where nobody looks."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        # None: a bar where there is a terminal
        told = True if os.environ.get("LLFC_PROGRESS") else None
        self.bar = tqdm(total=total, initial=done, desc=title, disable=told, leave=False)
        self.start = self.last = time.monotonic()

    def advance(self, text: str) -> None:
        """One step more is done; ``text`` is what to say of it."""
        self.done += 1
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        path, now = os.environ.get("LLFC_PROGRESS"), time.monotonic()
        if (path or listeners) and (now - self.last >= MINIMUM_SECONDS or self.done == self.total):
            self.last = now
            left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
            line = f"{self.title}: {self.done} of {self.total}, {text}, {left:.0f} s left"
            if path:
                with open(path, "a") as file:
                    file.write(line + "\n")
            for listen in listeners:
                listen(line)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
