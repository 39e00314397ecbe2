"""Where pictures come from: files, folders, patterns such as "photos/*.jpg", videos, and cameras."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..picture_files import SUFFIXES, pictures_of, placed

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
        return os.path.splitext(self.name)[1].lower() in VIDEOS or self.is_camera


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


class FoundSources(NamedTuple):
    """Pictures, videos and cameras; how many pictures were skipped, by why; and what is wrong with the other inputs."""

    sources: list[Source]
    skipped: Counter[str]
    problems: list[str]


def find_sources(inputs: Sequence[str], is_result: Callable[[Path], bool] = lambda path: False) -> FoundSources:
    """Pictures, videos and cameras among what a user names; folders are searched for pictures.

    What is not there, a folder without a picture, and a pattern that fits none are among the problems.

    Args:
        inputs: files, folders, patterns with * ? and [], ** for any folders, and "camera:0".
        is_result: which files of folders and patterns are results of an earlier run, to be skipped.
    """
    found: list[tuple[Path, Path]] = []
    skipped: Counter[str] = Counter()
    problems: list[str] = []
    for name in inputs:
        is_pattern = glob.has_magic(name) and not os.path.lexists(name)
        try:
            for path in _matches(name, is_result) if is_pattern else [_existing(name)]:
                pictures, others = pictures_of(path, is_result)
                found += pictures
                skipped += others
        except ValueError as error:
            problems.append(str(error))
    # A camera's results are a file name, too, where a colon may not be.
    sources = [Source(str(path), Path(str(place).replace(":", "_"))) for path, place in placed(found)]
    return FoundSources(sources, skipped, problems)


def _existing(name: str) -> Path:
    if not (_CAMERA.fullmatch(name) or os.path.exists(name)):
        raise ValueError(f"{name}: no such picture, video or folder")
    return Path(name)


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
    if not camera and not os.path.isfile(source.name):
        raise ValueError(f"video {source.name}: the file does not exist")
    capture = cv2.VideoCapture(int(camera.group(1)) if camera else source.name)
    if not capture.isOpened():
        raise ValueError(f"{source.name}: cannot be opened as {'a camera' if camera else 'a video'}")
    rate, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return Video(source.name, capture, rate if 0 < rate < 1000 else USUAL_RATE, count if count > 0 else None)
