"""A copy of a folder in any storage that fsspec knows: s3://, gs://, abfs://, memory://, file:// and others."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import fsspec  # type: ignore[import-untyped]

from .checkpointer import write_atomically


class Mirror:
    """The copy of ``folder`` at ``url``. Files arrive there, and come back, whole or not at all.

    Args:
        folder: on this machine.
        url: of a folder that is this work's alone: what it holds under the same names is replaced.

    Raises:
        ValueError: the kind of storage is unknown, or its package is not installed.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        try:
            self._storage, self._root = fsspec.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ValueError(f"--mirror {url}: {error}") from error

    def exchange(self, paths: Iterable[Path]) -> list[Path]:
        """Brings those of these files that are only there, and takes those that are only here. Returns the first."""
        names = {self._there(path): path for path in paths}
        # One listing, as asking for each of very many files would take hours.
        found = names.keys() & set(self._storage.find(self._root))
        brought = [path for name, path in names.items() if name in found and not path.is_file()]
        for path in brought:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._storage.open(self._there(path), "rb") as source:
                write_atomically(path, partial(shutil.copyfileobj, source))
        for name, path in names.items():
            if name not in found and path.is_file():
                self.publish(path)
        return brought

    def publish(self, path: Path) -> None:
        """Takes a file of the folder into the storage."""
        name = self._there(path)
        self._storage.makedirs(posixpath.dirname(name), exist_ok=True)
        with path.open("rb") as source, self._storage.transaction, self._storage.open(name, "wb") as target:
            shutil.copyfileobj(source, target)

    def _there(self, path: Path) -> str:
        return posixpath.join(self._root, path.relative_to(self._folder).as_posix())
