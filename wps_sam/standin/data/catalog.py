"""Data sets by name, and what is known of each."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _Catalog(UserDict):
    def list(self) -> Any:
        """All names."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forgets a name."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Names of data sets, each with a function that returns its records."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Names a function without arguments that returns the same records whenever it is called."""
        if not callable(func):
            raise TypeError("a data set is registered with a function")
        if name in self:
            raise AssertionError(f"data set {name!r} is already registered")
        self[name] = func

    def get(self, name: str) -> list[dict]:  # type: ignore[override]
        """Calls the registered function; KeyError if there is none of that name."""
        if name not in self:
            raise KeyError(f"data set {name!r} is not registered; there are: {', '.join(self) or 'none'}")
        return self[name]()


class Metadata(SimpleNamespace):
    """What is known of one data set: attributes that, once set, keep their value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"data set {self.name!r} has no metadata {key!r}; there is: {', '.join(self.__dict__)}")

    def __setattr__(self, key: str, value: Any) -> None:
        old = self.__dict__.setdefault(key, value)
        if old != value:
            raise AssertionError(f"metadata {key!r} of {self.name!r} is {old!r} and cannot become {value!r}")

    def as_dict(self) -> dict[str, Any]:
        """A copy as a dict."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        """Sets several and returns itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` where there is none."""
        return self.__dict__.get(key, default)


class _MetadataCatalog(_Catalog):
    """Metadata by name; asking for a new name makes it."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The one ``Metadata`` of that name."""
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
