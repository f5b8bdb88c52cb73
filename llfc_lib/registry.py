"""What can be chosen by name: architectures, metrics, matching methods."""

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Generic[T]):
    """Entries by name, each registered where it is defined; ``kind`` is what messages call one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator. ValueError where another module has registered the name."""

        def enter(entry: Entry) -> Entry:
            if name in self._entries and self._entries[name].__module__ != entry.__module__:
                raise ValueError(f"there is a {self.kind} {name!r} already; choose another name")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry. ValueError, with the names that there are, for an unknown one."""
        if name not in self._entries:
            raise ValueError(f"unknown {self.kind} {name!r}; choose one of {self.names()}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)


def import_all(package: str, folders: Iterable[str]) -> None:
    """Import every module of ``package``, so that what is in them registers itself."""
    for module in iter_modules(folders):
        import_module(f"{package}.{module.name}")
