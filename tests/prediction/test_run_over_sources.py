"""A run over pictures and videos to its files, without a network."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wps_sam.masks import segmentation_to_mask
from wps_sam.outputs import is_output
from wps_sam.prediction import run, sources
from wps_sam.prediction.results import CLASSES_FILE, COCO_FILE, KINDS, Results
from wps_sam.prediction.run import predict_all
from wps_sam.prediction.sources import find_sources
from wps_sam.visualization import part_colors

import cv2
import numpy as np
import pytest
from PIL import Image
from prediction_scenes import HalvesPredictor
from pycocotools.coco import COCO
from test_sources import write_video


def predict(inputs: Sequence[Path | str], output: Path, kinds: Sequence[str] = KINDS, **how: Any) -> tuple[int, Any]:
    predictor = HalvesPredictor()
    found, *_ = find_sources([str(name) for name in inputs], is_result=is_output)
    with Results(output, kinds, predictor.class_names) as results:
        failed = predict_all(predictor, found, results, **how)
    return failed, predictor


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (20 + number, 10), (200, 100, 50)).save(folder / f"{number}.png")
    return folder


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".made")}


def test_every_kind_of_a_picture(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict([photos / "0.png"], out)[0] == 0
    cutouts = {"0.cutouts/0_left_half.png", "0.cutouts/1_right_half.png"}
    assert files(out) == {"0.png", "0.json", "0.labels.png", COCO_FILE, CLASSES_FILE, *cutouts}
    assert all(is_output(out / name) for name in files(out))
    # The two stand below each other.
    assert Image.open(out / "0.png").size[1] > 2 * 320
    labels = Image.open(out / "0.labels.png")
    assert labels.mode == "P" and np.asarray(labels)[0].tolist() == [0] * 10 + [1] * 10
    # Seen as a picture it has the colours of the drawings.
    colors = part_colors(HalvesPredictor.class_names)
    assert np.array_equal(np.asarray(labels.convert("RGB"))[0, [0, 19]], colors[:2])
    with open(out / CLASSES_FILE, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["index", "name"],
        ["0", "left half"],
        ["1", "right half"],
        ["2", "dog's ear"],
        ["255", "background"],
    ]
    cutout = Image.open(out / "0.cutouts/1_right_half.png")
    assert cutout.mode == "RGBA" and cutout.size == (10, 10) and cutout.getpixel((3, 3)) == (200, 100, 50, 255)


def test_only_the_parts_that_were_asked_for(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict([photos / "0.png"], out, ["labels", "json"], names=["right half"])
    assert files(out) == {"0.labels.png", "0.json", COCO_FILE, CLASSES_FILE}
    assert np.asarray(Image.open(out / "0.labels.png"))[0].tolist() == [255] * 10 + [1] * 10
    assert [part["name"] for part in json.loads((out / "0.json").read_text())["parts"]] == ["right half"]


def test_background_of_many_classes_has_16_bits(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*HalvesPredictor.class_names, *map(str, range(253)))
    monkeypatch.setattr(HalvesPredictor, "class_names", names)
    predict([photos / "0.png"], tmp_path / "out", ["labels"], names=["right half"])
    # The map of 256 classes has the background 256 itself.
    assert np.asarray(Image.open(tmp_path / "out" / "0.labels.png"))[0].tolist() == [65535] * 10 + [1] * 10


def test_one_coco_file_of_all(photos: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4")
    out = tmp_path / "out"
    predict([photos, video], out, ["json"], every=3)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(out / COCO_FILE)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(HalvesPredictor.class_names)
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == [
        *(str(photos / f"{n}.png") for n in range(5)),
        *[str(video)] * 3,
    ]
    assert [image.get("frame") for image in images] == [None] * 5 + [0, 3, 6]
    for image in images:
        left, right = coco.loadAnns(coco.getAnnIds(image["id"]))
        height, width = image["height"], image["width"]
        assert (left["category_id"], right["category_id"]) == (1, 2) and right["score"] == pytest.approx(0.4)
        assert (
            right["bbox"] == [width // 2, 0, width - width // 2, height]
            and right["area"] == coco.annToMask(right).sum()
        )
        assert np.array_equal(coco.annToMask(left) + coco.annToMask(right), np.ones((height, width)))
    # Also without anything found in anything.
    predict([photos / "0.png"], tmp_path / "none", ["json"], names=["dog's ear"])
    assert json.loads((tmp_path / "none" / COCO_FILE).read_text())["annotations"] == []


def test_names_are_said_once_each() -> None:
    assert run._counted(["skin", "dress", "skin"]) == "skin x2, dress" and run._counted([]) == "no part found"


def test_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    failed, predictor = predict([write_video(tmp_path / "clip.mp4")], out, every=2, batch_size=3)
    assert failed == 0 and predictor.shown == [3, 1]
    said = capsys.readouterr()
    assert said.out.endswith("clip.mp4: 4 frames; left half in 4, right half in 4\n")
    # No bar where nobody watches.
    assert said.err == ""
    lines = [json.loads(line) for line in (out / "clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 2, 4, 6]
    assert all(line["file_name"].endswith("clip.mp4") and len(line["parts"]) == 2 for line in lines)
    assert segmentation_to_mask(lines[0]["parts"][0]["mask"], 48, 64)[:, :32].all()
    assert is_output(out / "clip.mp4") and is_output(out / "clip.jsonl")
    film = cv2.VideoCapture(str(out / "clip.mp4"))
    # Half of the frames, as long as the video.
    assert film.get(cv2.CAP_PROP_FPS) == 5 and film.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert film.read()[1].shape == (480, 640, 3)
    assert {name for name in files(out) if name.startswith("clip/") and name.endswith("labels.png")} == {
        f"clip/frame_{number:06d}.labels.png" for number in (0, 2, 4, 6)
    }


def test_pictures_come_in_batches_and_bad_ones_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.png").write_bytes(b"no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    failed, predictor = predict([photos, tmp_path / "broken.mp4"], tmp_path / "out", ["json"], batch_size=3)
    assert failed == 2
    assert files(tmp_path / "out") == {"0.json", "2.json", "3.json", "4.json", COCO_FILE}
    # The three with the bad one among them again one by one, then the other two.
    assert predictor.shown == [1, 1, 2]
    said = capsys.readouterr()
    assert "1.png: cannot be decoded" in said.err and "broken.mp4: cannot be opened" in said.err
    assert "0.png: left half, right half" in said.out


def test_a_camera_is_watched_until_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        """Gives three frames; then somebody presses Ctrl-C."""

        left = 3

        def grab(self) -> bool:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return True

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((48, 64, 3), np.uint8)

    opened = sources.Video("camera:0", Camera(), 30.0, None)  # type: ignore[arg-type]
    monkeypatch.setattr(run, "open_video", lambda source: opened)
    failed, predictor = predict(["camera:0"], tmp_path, ["overlay", "json"])
    assert failed == 0 and predictor.shown == [1, 1, 1]
    assert len((tmp_path / "camera_0.jsonl").read_text().splitlines()) == 3
    assert files(tmp_path) == {"camera_0.jsonl", "camera_0.mp4", COCO_FILE}


def test_nothing_of_others_is_overwritten_and_nothing_half_is_left(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / COCO_FILE).write_text("mine")
    with pytest.raises(ValueError, match=f"{COCO_FILE}: exists, and was not made by a tool"):
        predict([photos], out)
    assert files(out) == {COCO_FILE}
    with pytest.raises(ValueError, match="was not made"), Results(tmp_path / "new", ["json"], ("a",)):
        raise ValueError("was not made")
    assert files(tmp_path / "new") == set()
