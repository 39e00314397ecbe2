"""Where the picture of a task is: in one of the folders that were given, or at the Label Studio that was given."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np

from ..masks import pil_to_rgb, read_rgb
from ..picture_files import decoding, open_picture
from ..user_errors import one_line

_MAX_BYTES = 100 * 2**20
_TIMEOUT = 30.0


class Pictures:
    """Reads the pictures of tasks.

    Args:
        roots: folders in which local and uploaded files are looked for, and nowhere else.
        host: address of Label Studio, such as http://localhost:8080; None to load nothing from anywhere.
        token: that its API asks for.

    Raises:
        ValueError: a root is no folder, or the host no http address.
    """

    def __init__(self, roots: Sequence[Path], host: str | None = None, token: str | None = None) -> None:
        for root in roots:
            if not os.path.isdir(root):
                raise ValueError(f"root {root}: expected a folder")
        if host is not None and (urlsplit(host).scheme not in ("http", "https") or not urlsplit(host).netloc):
            raise ValueError(f"Label Studio {host}: expected an address such as http://localhost:8080")
        self._roots = [root.resolve() for root in roots]
        self._host, self._token = host, token

    def read(self, address: str) -> np.ndarray:
        """The picture at an address as tasks have them, turned upright as browsers show it: uint8 [H, W, 3] RGB.

        Known are /data/upload/PROJECT/NAME, /data/local-files/?d=PATH, the same behind the address of Label Studio,
        and plain paths. Of a path its end is enough: /data/upload/1/a.jpg may be upload/1/a.jpg, 1/a.jpg or a.jpg below
        a root.

        Raises:
            ValueError: names the address, and where the picture was looked for.
        """
        parts = urlsplit(address)
        path = self._below_roots(parse_qs(parts.query).get("d", [unquote(parts.path)])[0])
        if not parts.scheme and not parts.netloc:
            if path is None:
                roots = ", ".join(map(str, self._roots)) or "none was given"
                raise ValueError(f"picture {address}: not found below the folders of --root ({roots})")
            return read_rgb(str(path), exif="upright")
        of_host = urlsplit(self._host or "")
        if (parts.scheme, parts.netloc) != (of_host.scheme, of_host.netloc):
            raise ValueError(
                f"picture {address}: pictures are loaded from Label Studio alone ({self._host or 'none was given'})"
            )
        return read_rgb(str(path), exif="upright") if path is not None else self._download(address)

    def _below_roots(self, name: str) -> Path | None:
        """The file of that name, or of the longest end of it, below a root."""
        steps = [step for step in PurePosixPath(name.replace("\\", "/")).parts if step != "/"]
        if ".." in steps or "\0" in name:
            raise ValueError(f"picture {name!r}: a path must not lead upwards")
        for start in range(len(steps)):
            for root in self._roots:
                # Links that lead out of the root are followed, and then refused.
                path = root.joinpath(*steps[start:]).resolve()
                if path.is_relative_to(root) and os.path.isfile(path):
                    return path
        return None

    def _download(self, address: str) -> np.ndarray:
        headers = {"Authorization": f"Token {self._token}"} if self._token else {}
        try:
            with build_opener(_NoRedirect).open(Request(address, headers=headers), timeout=_TIMEOUT) as answer:
                content = answer.read(_MAX_BYTES + 1)
        except HTTPError as error:
            hint = "; set LABEL_STUDIO_API_KEY to the access token of an account" if error.code in (401, 403) else ""
            raise ValueError(f"picture {address}: Label Studio answers {error.code} {error.reason}{hint}") from error
        except (URLError, HTTPException) as error:
            raise ValueError(f"picture {address}: {getattr(error, 'reason', None) or one_line(error)}") from error
        if len(content) > _MAX_BYTES:
            raise ValueError(f"picture {address}: larger than {_MAX_BYTES // 2**20} MB")
        with decoding("picture", address), open_picture(io.BytesIO(content)) as image:
            return pil_to_rgb(image, "upright")


class _NoRedirect(HTTPRedirectHandler):
    """The token is for the host that was given, and for no other that it may point to."""

    def redirect_request(self, *args: Any) -> None:
        return None
