"""Files, folders, patterns, videos and cameras are found and read."""

from __future__ import annotations

from pathlib import Path

from wps_sam.prediction.sources import Source, find_sources, open_video

import cv2
import numpy as np
import pytest
from PIL import Image


def write_video(path: Path, frames: int = 7, rate: float = 10.0) -> Path:
    """Frames 64 x 48 whose grey is 30 times their number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 30 * number, np.uint8))
    writer.release()
    return path


def test_patterns_give_pictures_and_videos(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    write_video(tmp_path / "clip.mp4")
    (tmp_path / "notes.txt").write_text("no picture")
    found, *_ = find_sources([str(tmp_path / "*")])
    assert [Path(source.name).name for source in found] == ["a.jpg", "b.jpg", "clip.mp4"]
    assert [source.moves for source in found] == [False, False, True]
    found, *_ = find_sources([str(tmp_path / "**" / "*.png"), str(tmp_path / "a.jpg"), "camera:2"])
    assert [source.place for source in found] == [Path("c"), Path("a"), Path("camera_2")]
    assert found[2].name == "camera:2" and found[2].is_camera and found[2].moves
    found, *_ = find_sources([str(tmp_path / "*.jpg")], is_result=lambda path: path.name == "a.jpg")
    assert [Path(source.name).name for source in found] == ["b.jpg"]
    # What is wrong with one input does not hide the others.
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "*.txt", tmp_path / "nope.jpg", tmp_path / "a.jpg", tmp_path / "empty"]
    found, _, problems = find_sources(list(map(str, given)))
    assert [Path(source.name).name for source in found] == ["a.jpg"]
    told = ["*.txt: fits no picture and no video among 1 files", "nope.jpg: no such picture", "empty: no picture in"]
    assert len(problems) == 3 and all(what in problem for what, problem in zip(told, problems))


def test_a_picture_that_is_given_twice_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/b.jpg", "other/a.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(name)
    given = ["photos/b.jpg", "photos", "./photos/a.jpg", str(tmp_path / "photos" / "b.jpg"), "other/a.jpg"]
    found, *_ = find_sources([*given, "camera:0", "camera:0"])
    # In the order in which they first came; another file of the same name is another picture.
    assert [source.name for source in found] == ["photos/b.jpg", "photos/a.jpg", "other/a.jpg", "camera:0"]
    assert [str(source.place) for source in found] == ["b", "a", "a.jpg", "camera_0"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "photo [1].jpg")
    found, *_ = find_sources([str(tmp_path / "photo [1].jpg")])
    assert [source.place for source in found] == [Path("photo [1]")]


def test_every_nth_frame(tmp_path: Path) -> None:
    video = open_video(Source(str(write_video(tmp_path / "clip.mp4")), Path("clip")))
    assert video.rate == 10 and video.count == 7
    frames = list(video.frames(every=3))
    assert [number for number, _ in frames] == [0, 3, 6]
    for number, frame in frames:
        assert frame.shape == (48, 64, 3) and abs(float(frame.mean()) - 30 * number) < 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.mp4", "video nowhere.mp4: the file does not exist"),
        ("broken.mp4", "broken.mp4: cannot be opened as a video"),
        ("camera:99", "camera:99: cannot be opened as a camera"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=message):
        open_video(Source(name, Path("place")))
