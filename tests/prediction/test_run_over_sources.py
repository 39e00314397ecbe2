"""A run over pictures and videos to its files, without a network."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wps_sam.masks import segmentation_to_mask
from wps_sam.mirror import Mirror
from wps_sam.outputs import is_output
from wps_sam.prediction import run, sources
from wps_sam.prediction.results import CLASSES_FILE, COCO_FILE, KINDS, SETTINGS_FILE, Results, keep_settings
from wps_sam.prediction.run import predict_all
from wps_sam.prediction.sources import Source, find_sources
from wps_sam.shares import Share
from wps_sam.visualization import part_colors

import cv2
import fsspec
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


# ------------------------------------------------------------------ shares, and runs that go on


def share_of(
    inputs: Sequence[Path], output: Path, share: Share, resume: bool = True, kill_after: int = 99, mirror: Any = None
) -> Any:
    """As the subcommand does it, two pictures in a batch; killed after so many batches. The predictor."""
    predictor = HalvesPredictor()
    plain = predictor.predict_batch

    def predict_batch(images: Any, batch_size: int = 4) -> Any:
        if len(predictor.shown) == kill_after:
            os._exit(9)
        return plain(images, batch_size)

    predictor.predict_batch = predict_batch  # type: ignore[method-assign]
    found, *_ = find_sources([str(name) for name in inputs], is_result=is_output)
    sources = run.sources_of(share, found, 2)
    done = {source for source in sources if resume and Results.are_there(output, KINDS, source)}
    with Results(output, KINDS, predictor.class_names, share.is_whole, mirror) as results:
        predict_all(predictor, sources, results, batch_size=2, every=3, done=done)
    return predictor


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def test_shares_that_are_killed_and_resumed_leave_what_one_run_does(photos: Path, tmp_path: Path) -> None:
    """Batches 0 1, 2 3 and 4: the first of two shares has 0 1 4 and the video."""
    inputs, out = [photos, write_video(tmp_path / "clip.mp4")], tmp_path / "out"
    whole = share_of(inputs, tmp_path / "whole", Share())
    assert whole.shown == [2, 2, 1, 2, 1]
    child = multiprocessing.get_context("fork").Process(target=share_of, args=(inputs, out, Share(0, 2), True, 2))
    child.start()
    child.join(60)
    assert child.exitcode == 9 and {"0.json", "1.json", "4.json"} <= files(out) and "clip.jsonl" not in files(out)
    (out / "1.json").unlink()
    # What was not finished is shown with the company that it had.
    assert share_of(inputs, out, Share(0, 2)).shown == [2, 2, 1]
    assert COCO_FILE not in files(out) and CLASSES_FILE not in files(out) and "2.json" not in files(out)
    assert share_of(inputs, out, Share(1, 2)).shown == [2]
    assert share_of(inputs, out, Share()).shown == []
    assert contents(out) == contents(tmp_path / "whole")
    # The comparison could have failed.
    assert len(json.loads((out / COCO_FILE).read_text())["annotations"]) == 2 * (5 + 3)
    assert share_of(inputs, out, Share(), resume=False).shown == whole.shown


def test_files_are_taken_to_a_mirror_and_come_back(photos: Path, tmp_path: Path) -> None:
    storage = fsspec.filesystem("memory")
    inputs = [photos, write_video(tmp_path / "clip.mp4")]
    for number in range(2):
        out = tmp_path / f"out{number}"
        share_of(inputs, out, Share(number, 2), mirror=Mirror(out, "memory://bucket/found"))
        assert {name: storage.cat(f"/bucket/found/{name}") for name in files(out)} == contents(out)
    # Of another machine, whose disk is empty.
    last = tmp_path / "last"
    mirror = Mirror(last, "memory://bucket/found")
    wanted = [p for s in find_sources([str(n) for n in inputs]).sources for p in Results.targets(last, KINDS, s)]
    assert mirror.exchange(wanted) == wanted
    assert share_of(inputs, last, Share(), mirror=mirror).shown == []
    share_of(inputs, tmp_path / "whole", Share())
    for name, content in contents(tmp_path / "whole").items():
        assert storage.cat(f"/bucket/found/{name}") == content
        assert "cutouts" in name or "frame" in name or (last / name).read_bytes() == content
    # What is here alone is taken there.
    storage.rm("/bucket/found/3.json")
    assert mirror.exchange(wanted) == [] and storage.exists("/bucket/found/3.json")


def test_every_source_is_in_one_share() -> None:
    found = [Source(f"{n}.{'mp4' if n % 10 == 0 else 'jpg'}", Path(str(n))) for n in range(50)]
    for of in (1, 4, 7, 60):
        shares = [run.sources_of(Share(number, of), found, 4) for number in range(of)]
        assert sorted(s.name for share in shares for s in share) == sorted(s.name for s in found)
        # Batches of a share are batches of them all.
        pictures = [s for s in found if not s.moves]
        batches = {tuple(pictures[k : k + 4]) for k in range(0, len(pictures), 4)}
        for share in shares:
            assert {tuple(batch) for batch in run._batches([s for s in share if not s.moves], 4)} <= batches


@pytest.mark.parametrize("content", ["{", "[]", '{"parts": [{"name": "tail"}]}', '{"parts": 1}'])
def test_what_is_no_result_of_an_earlier_run_is_told(photos: Path, tmp_path: Path, content: str) -> None:
    share_of([photos], tmp_path / "out", Share())
    (tmp_path / "out" / "3.json").write_text(content)
    with pytest.raises(ValueError, match=r"out/3\.json: not a result of wps-sam predict \(.*; delete it"):
        share_of([photos], tmp_path / "out", Share())


def test_what_is_kept_needs_all_its_files(photos: Path, tmp_path: Path) -> None:
    share_of([photos], tmp_path, Share())
    first = find_sources([str(photos)]).sources[0]
    assert Results.are_there(tmp_path, ["overlay", "json", "cutouts"], first)
    # Nothing tells how many there would have to be.
    assert not Results.are_there(tmp_path, ["cutouts"], first)
    (tmp_path / "0.png").unlink()
    assert Results.are_there(tmp_path, ["json"], first) and not Results.are_there(tmp_path, KINDS, first)


def test_results_of_other_settings_do_not_come_beside_those_that_stay(tmp_path: Path) -> None:
    settings = {"weights": "ab", "confidence": None, "tiles": (1, 1)}
    path = keep_settings(tmp_path, settings, resume=True)
    assert path == tmp_path / SETTINGS_FILE and is_output(path)
    assert keep_settings(tmp_path, settings, resume=True) == path
    others = {**settings, "confidence": 0.5, "tiles": (2, 1)}
    with pytest.raises(ValueError, match=r"made with confidence null, and now 0.5, tiles \[1, 1\], and now \[2, 1\];"):
        keep_settings(tmp_path, others, resume=True)
    # Nothing stays of what was there.
    keep_settings(tmp_path, others, resume=False)
    assert json.loads(path.read_text())["confidence"] == 0.5
    path.write_text("[")
    with pytest.raises(ValueError, match=rf"{SETTINGS_FILE}: not a file of wps-sam predict"):
        keep_settings(tmp_path, others, resume=True)
