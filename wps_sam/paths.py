"""Where the files are that configurations and command lines name: in the current folder, else in the project's."""

from __future__ import annotations

import os
from pathlib import Path

from .user_errors import did_you_mean

PACKAGE = Path(__file__).resolve().parent
# The folder of configs/ and datasets/: in a clone they lie beside the package, an installation has them inside.
PROJECT = PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent


def find_config(path: str | Path) -> str:
    """The file of a configuration, see :func:`find_file`.

    Raises:
        ValueError: it is nowhere; says which of ours was perhaps meant.
    """
    found = find_file(path)
    if not os.path.isfile(found):
        ours = (file.relative_to(PROJECT).as_posix() for file in (PROJECT / "configs").rglob("*.yaml"))
        raise ValueError(f"config {path}: the file does not exist{did_you_mean(str(path), ours)}")
    return found


def find_file(path: str | Path) -> str:
    """``path``, or if it is relative and not there the file or folder of that name in the project's folder.

    So ``configs/quickstart.yaml``, and what it names, are found from any folder, and one's own files come first. What
    is nowhere is returned as it came: it may be a name that is no path, or yet to be written.
    """
    text = os.fspath(path)
    in_project = PROJECT / text
    return str(in_project) if text and not os.path.exists(text) and in_project.exists() else text
