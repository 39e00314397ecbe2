"""Weights of others, from where their owners keep them: downloads that go on where they broke off and are checked."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from .user_errors import did_you_mean

TABLE = Path(__file__).resolve().parent / "weights" / "official.yaml"
_BLOCK = 1 << 20
# Seconds without a byte after which a server counts as gone.
_PATIENCE = 60


@dataclass(frozen=True)
class WeightFile:
    """A file and what is known of it: ``size`` in bytes, hexadecimal ``sha256`` and ``md5``; None where nobody says."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    def problem(self, path: Path) -> str | None:
        """What tells the file at ``path`` from this one; None where nothing does."""
        found = path.stat().st_size
        if self.size is not None and found != self.size:
            return f"has {found} bytes, expected {self.size}"
        for kind, expected in (("sha256", self.sha256), ("md5", self.md5)):
            if expected is not None and (got := _digest(path, kind)) != expected:
                return f"has {kind} {got}, expected {expected}"
        return None


@dataclass(frozen=True)
class Weights:
    """One entry of the table: ``keys`` are those of the configuration that take it, {path} the place it has here;
    None where no key does. ``agree``: the page where its licence has to be agreed to before a download, if so."""

    name: str
    what: str
    licence: str
    files: tuple[WeightFile, ...]
    keys: str | None = None
    agree: str | None = None

    def place(self, folder: Path) -> Path:
        """Where it lies in ``folder``: its file, or of several the folder that holds them."""
        return folder / (self.files[0].name if len(self.files) == 1 else self.name)

    def describe(self, folder: Path) -> str:
        """Some lines for a reader: what it is for, from where, how large, under which licence, with which hash."""
        keys = "no key of this version" if self.keys is None else self.keys.format(path=self.place(folder))
        lines = [f"{self.name}: {self.what}", f"  for      {keys}", f"  licence  {self.licence}"]
        if self.agree:
            lines.append(f"           to be agreed to before the download, at {self.agree}")
        for file in self.files:
            size = "size not published" if file.size is None else f"{file.size} bytes"
            known = [f"{kind} {value}" for kind, value in (("sha256", file.sha256), ("md5", file.md5)) if value]
            missing = [] if file.sha256 else ["sha256 not published"]
            lines += [f"  from     {file.url}", f"           {', '.join([size, *missing, *known])}"]
        return "\n".join(lines)


def read_table(path: Path = TABLE) -> dict[str, Weights]:
    """The weights that are known, by their names."""
    entries: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    table = {}
    for name, entry in entries.items():
        files = tuple(
            WeightFile(file, entry["from"] + file, about.get("bytes"), about.get("sha256"), about.get("md5"))
            for file, about in entry["files"].items()
        )
        more = {key: entry.get(key) for key in ("keys", "agree")}
        table[name] = Weights(name, entry["what"], entry["licence"], files, **more)
    return table


def download(name: str, folder: Path, mirror: str | None = None, table: Mapping[str, Weights] | None = None) -> Path:
    """Puts weights of the table into ``folder``; what is there and right is kept.

    Args:
        name: in the table.
        folder: is made.
        mirror: the address of the file in place of the official one; or, with a / at its end, that of the folder that
            holds the files. What comes is checked as if it were the official file.
        table: other than the shipped one.

    Returns:
        Its place, see :meth:`Weights.place`.

    Raises:
        ValueError: the name is unknown; a file is in the way, can't be had, or is another than it should be; the disk
            is full. What was loaded until a download broke off is kept, and the next call goes on from there.
    """
    known = read_table() if table is None else table
    if name not in known:
        raise ValueError(f"no weights {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    weights = known[name]
    if mirror is not None and len(weights.files) > 1 and not mirror.endswith("/"):
        raise ValueError(
            f"--url {mirror}: {name} has {len(weights.files)} files, expected the address of their folder, with / at "
            "its end"
        )
    place = weights.place(folder)
    for file in weights.files:
        url = file.url if mirror is None else mirror + file.name if mirror.endswith("/") else mirror
        try:
            _fetch(file, url, place if len(weights.files) == 1 else place / file.name)
        except _Denied as error:
            if weights.agree is None:
                raise
            raise ValueError(
                f"{error}: agree to the licence at {weights.agree}, download the files there with a browser and put "
                f"them into {place}; or name a mirror with --url"
            ) from error
    return place


class _Denied(ValueError):
    """A server wants to know who asks."""


def _fetch(file: WeightFile, url: str, target: Path) -> None:
    """Downloads ``url`` to ``target``, over a file beside it whose name ends in .part."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url}: expected an address that begins with https:// or http://")
    if target.exists():
        problem = file.problem(target)
        if problem is not None:
            raise ValueError(f"{target}: exists, but {problem}; move it away")
        return
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.is_file() and file.size is not None and part.stat().st_size > file.size:
            part.unlink()
        if not (part.is_file() and part.stat().st_size == file.size):
            _load(file, url, part)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ValueError(f"{part}: the disk is full; what came so far is kept") from error
    problem = file.problem(part)
    if problem is not None:
        # Whatever it is, nothing can be made of it by going on.
        part.unlink()
        raise ValueError(f"{url}: what came {problem}; it was removed. Try again, or another address with --url")
    os.replace(part, target)


def _load(file: WeightFile, url: str, part: Path) -> None:
    """Appends to ``part`` what it lacks."""
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "wps_sam", "Accept-Encoding": "identity"})
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    try:
        response = urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and _total(error.headers) == begun:
            # It was all there but for its name.
            return
        if error.code == 416:
            part.unlink()
            _load(file, url, part)
            return
        message = f"{url}: the server answers {error.code} {error.reason}"
        raise (_Denied if error.code in (401, 403) else ValueError)(message) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{url}: can't be reached: {reason}; is there a network, or a mirror (--url)?") from error
    with response:
        # A server that knows no ranges answers 200 and begins anew.
        begun = begun if response.status == 206 else 0
        rest = response.headers.get("Content-Length")
        total = begun + int(rest) if rest is not None else file.size
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - begun > free:
            raise ValueError(f"{part.parent}: the disk has {free} bytes left, {file.name} needs {total - begun}")
        with (
            open(part, "ab" if begun else "wb") as kept,
            tqdm(total=total, initial=begun, unit="B", unit_scale=True, desc=file.name) as progress,
        ):
            came, reason = begun, "the connection ended"
            try:
                while block := response.read(_BLOCK):
                    kept.write(block)
                    came += len(block)
                    progress.update(len(block))
            except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            else:
                reason = "the connection ended" if total is not None and came < total else ""
            kept.flush()
            os.fsync(kept.fileno())
    if reason:
        of = "" if total is None else f" of {total}"
        raise ValueError(f"{url}: broke off after {came}{of} bytes ({reason}); the same command goes on from there")


def _total(headers: Any) -> int | None:
    """How long a file is, by the answer to a range that it does not have: ``Content-Range: bytes */N``."""
    match = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "") if headers else "")
    return int(match[1]) if match else None


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
