"""Where pictures come from: files, folders, patterns such as "photos/*.jpg", videos, and cameras."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..picture_files import SUFFIXES, find_pictures

VIDEOS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .3gp".split())
_CAMERA = re.compile(r"camera:(\d+)")
# Cameras that do not say how many pictures a second they take.
USUAL_RATE = 25.0


@dataclass(frozen=True)
class Source:
    """A picture, a video or a camera.

    ``name`` is its file or "camera:N"; ``place`` is where its results go, relative and without suffix.
    """

    name: str
    place: Path

    @property
    def is_camera(self) -> bool:
        return _CAMERA.fullmatch(self.name) is not None

    @property
    def moves(self) -> bool:
        """Whether it is a video or a camera."""
        return self.is_camera or Path(self.name).suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Video:
    """An opened video or camera: ``rate`` frames a second, ``count`` of them in all; None where nobody knows."""

    name: str
    capture: cv2.VideoCapture
    rate: float
    count: int | None

    def frames(self, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Every ``every``-th frame from the first: its number, from 0, and uint8 [H, W, 3] RGB."""
        number = 0
        # The others are not even decoded to colours.
        while self.capture.grab():
            if number % every == 0:
                read, frame = self.capture.retrieve()
                if not read:
                    return
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1


def find_sources(
    inputs: Sequence[str], is_result: Callable[[Path], bool] = lambda path: False
) -> tuple[list[Source], Counter[str]]:
    """Pictures, videos and cameras among what a user names; folders are searched for pictures.

    Args:
        inputs: files, folders, patterns with * ? and [], ** for any folders, and "camera:0".
        is_result: which files of folders and patterns are results of an earlier run, to be skipped.

    Returns:
        The sources, and what was skipped, see :func:`wps_sam.picture_files.find_pictures`.

    Raises:
        ValueError: names a folder without a picture, or a pattern that fits no picture and no video.
    """
    given: list[Path] = []
    for name in inputs:
        given += _matches(name, is_result) if glob.has_magic(name) and not os.path.lexists(name) else [Path(name)]
    found, skipped = find_pictures(given, is_result)
    # A camera's results are a file name, too, where a colon may not be.
    return [Source(str(path), Path(str(place).replace(":", "_"))) for path, place in found], skipped


def _matches(pattern: str, is_result: Callable[[Path], bool]) -> list[Path]:
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    found = [p for p in matches if p.suffix.lower() in SUFFIXES | VIDEOS and p.is_file() and not is_result(p)]
    if not found:
        raise ValueError(f"{pattern}: fits no picture and no video among {len(matches)} files")
    return found


def open_video(source: Source) -> Video:
    """Opens a video or a camera.

    Raises:
        ValueError: names what is missing, is no video that OpenCV can decode, or is no camera.
    """
    camera = _CAMERA.fullmatch(source.name)
    if not camera and not Path(source.name).is_file():
        raise ValueError(f"video {source.name}: the file does not exist")
    capture = cv2.VideoCapture(int(camera.group(1)) if camera else source.name)
    if not capture.isOpened():
        raise ValueError(f"{source.name}: cannot be opened as {'a camera' if camera else 'a video'}")
    rate, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return Video(source.name, capture, rate if 0 < rate < 1000 else USUAL_RATE, count if count > 0 else None)
