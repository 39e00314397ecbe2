"""Files that tools leave behind: whole or not at all, and never in the place of anybody else's."""

from __future__ import annotations

import functools
import glob
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from .checkpointer import process_lives, write_atomically

# Lines of the digest and the name of each file that tools have written into its folder.
RECORD = ".made_by_wps_sam"


def check_outputs(paths: Iterable[str | Path], inputs: Iterable[str | Path] = ()) -> None:
    """Requires that each path is free, or a file as a tool of this project left it, and none of the ``inputs``.

    Raises:
        ValueError: names the file that would be lost.
    """
    there = [path for path in map(Path, paths) if os.path.lexists(path)]
    given = {Path(path).resolve() for path in inputs} if there else set()
    for path in there:
        if path.resolve() in given:
            raise ValueError(f"{path}: is an input of this command and would be overwritten; choose another output")
        if path.is_dir():
            raise ValueError(f"{path}: is a folder, expected the name of a file to write")
        if not is_output(path):
            raise ValueError(
                f"{path}: exists, and was not made by a tool of this project, or was changed since; choose another "
                "output, or move it away"
            )


def write_output(
    path: str | Path,
    write: Callable[[BinaryIO], Any] | bytes,
    inputs: Iterable[str | Path] = (),
    durable: bool = True,
) -> None:
    """Writes what ``write`` writes into a binary file, or these bytes, to ``path``, and makes its folder.

    ``durable``: wait until it is on the disk, which takes milliseconds: too many for thousands of files.

    Raises:
        ValueError: see :func:`check_outputs`.
    """
    path = Path(path)
    if isinstance(write, bytes):
        content = write
    else:
        buffer = io.BytesIO()
        write(buffer)
        content = buffer.getvalue()
    if path.is_file() and path.read_bytes() == content:
        return
    check_outputs([path], inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Before the file is there: after a kill between the two it is still known.
    _record(path, xxhash.xxh3_64_hexdigest(content))
    write_atomically(path, lambda file: file.write(content), durable)


@contextmanager
def stream_output(path: Path) -> Iterator[Path]:
    """For a file that is too large to be held: write it at the path that is given; it is at ``path`` when all is well.

    Raises:
        ValueError: see :func:`check_outputs`.
    """
    check_outputs([path])
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".unfinished_*_{glob.escape(path.name)}"):
        if (pid := left.name.split("_")[1]).isdigit() and not process_lives(int(pid)):
            left.unlink(missing_ok=True)
    # Some writers look at the ending.
    unfinished = path.with_name(f".unfinished_{os.getpid()}_{path.name}")
    try:
        yield unfinished
        check_outputs([path])
        _record(path, _digest(unfinished))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def adopt_output(path: Path) -> None:
    """From now on a file that is there is one of ours: of a run that is continued."""
    _record(path, _digest(path))


def _record(path: Path, digest: str) -> None:
    # One line at once, as other processes write, too.
    with open(path.parent / RECORD, "ab", buffering=0) as file:
        file.write(_line(path, digest) + b"\n")


def _line(path: Path, digest: str) -> bytes:
    # Names need not be text: those in old archives are bytes of any encoding.
    return digest.encode() + b" " + os.fsencode(path.name)


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_output(path: Path) -> bool:
    """Whether a file is as a tool of this project left it."""
    record = path.parent / RECORD
    if not path.is_file() or not record.is_file():
        return False
    changed = record.stat()
    return _line(path, _digest(path)) in _lines(record, changed.st_mtime_ns, changed.st_size)


@functools.lru_cache(maxsize=1)
def _lines(record: Path, changed: int, size: int) -> frozenset[bytes]:
    # Once for all files of a folder: of very many each would else read what was noted of all.
    return frozenset(record.read_bytes().split(b"\n"))
