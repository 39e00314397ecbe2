"""Where the files are that configurations and command lines name: in the current folder, else in the project's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

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
    if not text or os.path.exists(text):
        return text
    ours = [PROJECT / text]
    if Path(text).parts[0] == PACKAGE.name:
        # Of an installation the project's folder is the package itself.
        ours.append(PACKAGE.parent / text)
    return next((str(file) for file in ours if os.path.exists(file)), text)


def leads_out(name: str) -> bool:
    """Whether the name of a file in a folder, of other people's making, may mean one outside of it."""
    return any(path.is_absolute() or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))


def outside(files: Iterable[str], root: str | Path) -> list[str]:
    """Those files that do not lie in the folder ``root`` once ``..`` and links are followed."""
    base = os.path.join(os.path.realpath(root), "")
    folders: dict[str, str] = {}

    def real(file: str) -> str:
        # Links of folders are followed once a folder: a data set has a million files in few.
        folder = os.path.dirname(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return os.path.realpath(file) if os.path.islink(file) else os.path.join(folders[folder], "")

    return [file for file in files if not real(file).startswith(base)]


def output_dir_of(config_file: str | Path, opts: Sequence[Any] = ()) -> Path | None:
    """OUTPUT_DIR of a configuration, as far as it can be read without Detectron2, which takes seconds to import.

    Args:
        config_file: its file, with its _BASE_.
        opts: overrides, key, value, key, value ...

    Returns:
        None where it is left at its default, or something is wrong, which is told when all is read.
    """
    import yaml

    overrides = dict(zip(opts[::2], opts[1::2]))
    if "OUTPUT_DIR" in overrides:
        return Path(overrides["OUTPUT_DIR"])
    file, seen = Path(find_config(config_file)), set[Path]()
    try:
        while file not in seen:
            seen.add(file)
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            if "OUTPUT_DIR" in content:
                return Path(content["OUTPUT_DIR"])
            file = file.parent / content["_BASE_"]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        pass
    return None


def check_overrides(opts: Sequence[Any]) -> None:
    """What can be told of overrides of a configuration, key, value, key, value ..., before Detectron2 is imported.

    Raises:
        ValueError: a key has no value, or DATASETS.DESCRIPTIONS is no list.
    """
    if len(opts) % 2:
        raise ValueError(
            f"config overrides: expected KEY VALUE pairs, but {opts[-1]!r} stands alone at the end of {opts}"
        )
    described = dict(zip(opts[::2], opts[1::2])).get("DATASETS.DESCRIPTIONS")
    if isinstance(described, str) and not described.strip().startswith(("[", "(")):
        raise ValueError(
            f"config overrides: DATASETS.DESCRIPTIONS: expected a list, '[\"{described}\"]', got {described}"
        )


def is_finished(output: Path) -> bool:
    """Whether a training has been finished in the folder."""
    return (output / "log.txt").is_file() and (output / "model_final.pth").is_file()


def check_no_run(output: Path) -> None:
    """Requires that the folder holds no training that would be written over, finished or with a checkpoint.

    Raises:
        ValueError: names it.
    """
    another = f"choose another, such as OUTPUT_DIR {output}_2"
    if is_finished(output):
        raise ValueError(
            f"{output}: OUTPUT_DIR holds a finished run, which would be written over: {another}, or look at it again "
            "with --eval-only"
        )
    if (output / "last_checkpoint").is_file():
        raise ValueError(
            f"{output}: OUTPUT_DIR holds the checkpoints of an unfinished run, which would be written over: go on with "
            f"it by --resume, or {another}"
        )
