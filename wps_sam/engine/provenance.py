"""What numbers come from: the code, the libraries, the data, the weights; and whether two came from the same."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detectron2
import torch
import xxhash
from detectron2.utils import comm

from ..encoders.frozen import hash_tensors
from ..paths import PACKAGE, PROJECT

# Those that compute something of a score.
PACKAGES = ("torchvision", "numpy", "scipy", "timm", "transformers", "pillow", "pycocotools")
_OPENCV = ("opencv-python-headless", "opencv-python")


@functools.cache
def code() -> dict[str, str]:
    """``sha256`` of the package's source files, and git's ``revision``, with "-dirty" after changes; "" without git."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {"sha256": digest.hexdigest(), "revision": _revision()}


def _revision() -> str:
    # An installation may lie in somebody else's repository.
    if not (PROJECT / ".git").exists():
        return ""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Of Python, Detectron2 and the libraries that are installed."""
    # PyTorch's own answer tells builds apart, too.
    found = {"python": platform.python_version(), "detectron2": detectron2.__version__, "torch": str(torch.__version__)}
    for name in (*PACKAGES, *_OPENCV):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hash_data(records: Sequence[Mapping[str, Any]], known: Mapping[str, str] | None = None) -> str:
    """SHA-256 of a data set's records, with the content of pictures and label maps in the place of their paths.

    The processes of the group, all of which have to call it, share the reading.

    Args:
        records: Detectron2's, whose keys of paths end in "file_name".
        known: the XXH3 of files that need not be read, by path.
    """
    contents = {} if known is None else dict(known)
    paths = {record[key]: None for record in records for key in _path_keys(record)}
    unread = [path for path in paths if path not in contents]
    mine = {path: _hash_file(path) for path in unread[comm.get_rank() :: comm.get_world_size()]}
    for of_process in comm.all_gather(mine):
        contents.update(of_process)
    digest = hashlib.sha256()
    for record in records:
        files = {key: [Path(record[key]).name, contents[record[key]]] for key in _path_keys(record)}
        digest.update(json.dumps({**record, **files}, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def _path_keys(record: Mapping[str, Any]) -> list[str]:
    return [key for key, value in record.items() if key.endswith("file_name") and isinstance(value, str)]


def _hash_file(path: str) -> str:
    # Who needs the file says what is wrong with it.
    return xxhash.xxh3_64_hexdigest(Path(path).read_bytes()) if Path(path).is_file() else "missing"


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else repr(value)


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 of what a checkpoint holds of a model, whose frozen part has its own hash in there."""
    return hash_tensors(sorted(model.state_dict().items()))


def made_by(data: Mapping[str, str]) -> dict[str, Any]:
    """What an output has to say of itself; ``data`` are hashes by the data set's name. Plain values, as for JSON."""
    return {"code": code(), "versions": versions(), "data": dict(data)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, of two values of :func:`made_by`, for people. Data sets count that both know."""
    told = []
    if then["code"]["sha256"] != now["code"]["sha256"]:
        was, new = (_short(side["code"]["revision"]) for side in (then, now))
        told.append(f"code of the revision {was}, now {new}")
    for kind, what in (("versions", ""), ("data", "data set ")):
        for name, was in then[kind].items():
            new = now[kind].get(name)
            if new != was and (kind == "versions" or new is not None):
                told.append(f"{what}{name} {was[:12]}, now {new[:12] if new else 'not installed'}")
    return told


def _short(revision: str) -> str:
    return revision[:12] + "-dirty" * revision.endswith("-dirty") or "unknown"
