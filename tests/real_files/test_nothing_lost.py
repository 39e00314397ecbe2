"""Files in which data was lost, or read wrongly, without a word."""

from __future__ import annotations

import json
import logging
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from wps_sam.cli import parse
from wps_sam.data.feature_store import Manifest
from wps_sam.data.sources.orientation import pixel_grid_of
from wps_sam.encoders import SAMEncoder
from wps_sam.encoders.promptable import ResizeLongestSide
from wps_sam.engine.loader import build_train_loader
from wps_sam.engine.setup import check_output_dir
from wps_sam.masks import clip_far_polygons, pil_to_rgb, read_picture, read_rgb, segmentation_to_mask, stored_size
from wps_sam.outputs import RECORD, check_outputs, write_output
from wps_sam.predictor import PartPredictor

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from small_coco import coco

TOOLS = Path(__file__).resolve().parents[2] / "tools"


# ------------------------------------------------------------------ 1: outputs


def run(tool: str, *arguments: Any) -> Any:
    return runpy.run_path(str(TOOLS / tool))["main"]([str(argument) for argument in arguments])


def test_demo_never_replaces_a_file_that_it_did_not_make(tiny_model, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), "grey").save(folder / name)
    (folder / "b.json").write_text("mine")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    common = ("--config-file", tiny_model.config_file, "--weights", tiny_model.safetensors)
    for inputs, message in (
        ([folder], "a.png: is an input"),
        ([folder / "b.jpg"], "b.json: exists, and was not made by"),
    ):
        assert run("demo.py", *inputs, "--output", folder, *common) == 2
        assert message in capsys.readouterr().err
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    # A folder that holds nothing in the way may hold the results, too, which are no pictures to search.
    (folder / "a.png").rename(folder / "a.jpg")
    (folder / "b.json").unlink()
    for _ in range(2):
        assert run("demo.py", folder, "--output", folder, *common) == 0
    assert "skipped 2 pictures that these tools made" in capsys.readouterr().err
    results = {"a.png", "a.json", "b.png", "b.json", "all_parts.coco.json", "predicted_by.json"}
    assert {p.name for p in folder.glob("[!.]*")} == {"a.jpg", "b.jpg", *results}
    # Its own results it may make again, but not once somebody has changed them.
    out = tmp_path / "out"
    assert run("demo.py", folder, "--output", out, *common) == 0
    assert run("demo.py", folder, "--output", out, "--confidence", 0.1, *common) == 0
    (out / "a.json").write_text("corrected by hand")
    assert run("demo.py", folder, "--output", out, *common) == 2
    assert (out / "a.json").read_text() == "corrected by hand"


def test_two_pictures_of_one_name_have_two_drawings(tiny_model, write_tiny_parts, tmp_path):
    parts = write_tiny_parts(tmp_path / "set", name="same_names")
    content = json.loads(parts.coco_json("val").read_text())
    images = parts.root / "images" / "val"
    for k, image in enumerate(content["images"]):
        (images / str(k)).mkdir()
        (images / image["file_name"]).rename(images / str(k) / "photo.JPEG")
        image["file_name"] = f"{k}/photo.JPEG"
    for png in parts.coco_json("val").parent.glob("*.png"):
        png.unlink()
    parts.coco_json("val").write_text(json.dumps(content))
    parts.description.write_text(parts.description.read_text().replace("layout: partimagenet", "layout: coco"))
    run(
        *("visualize_predictions.py", "--config-file", tiny_model.config_file, "--output", tmp_path / "out"),
        *("--weights", tiny_model.safetensors),
        *("DATASETS.DESCRIPTIONS", str([str(parts.description)]), "DATASETS.TEST", "('same_names_val',)"),
    )
    made = sorted(p.name for p in (tmp_path / "out" / "same_names_val").glob("*.png"))
    assert made == ["photo.2.png", "photo.3.png", "photo.JPEG.png", "photo.png"]


def test_outputs_are_known_by_what_was_written(tmp_path):
    path = tmp_path / "a" / "result.json"
    write_output(path, b"one")
    write_output(path, b"two")
    assert path.read_bytes() == b"two" and (path.parent / RECORD).is_file()
    check_outputs([path])
    with pytest.raises(ValueError, match=r"result\.json: is an input of this command"):
        write_output(path, b"three", inputs=[tmp_path / "a" / ".." / "a" / "result.json"])
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"result\.json: exists, and was not made by a tool"):
        write_output(path, b"three")
    # The same bytes again are no loss; a moved folder is still known.
    write_output(path, b"changed")
    path.write_bytes(b"two")
    moved = (tmp_path / "a").rename(tmp_path / "b")
    write_output(moved / "result.json", b"four")
    (tmp_path / "b" / "folder.json").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_outputs([tmp_path / "b" / "folder.json"])


def test_a_run_writes_over_nothing_but_a_run(tiny_cfg, tmp_path):
    def check(*flags: str, **cfg: Any) -> None:
        made = tiny_cfg(*(item for pair in cfg.items() for item in pair))
        check_output_dir(made, parse("train", ["--config-file", "FILE", *flags]))

    output = tmp_path / "output"
    check()
    output.mkdir()
    # A folder of somebody's weights: training would write over them, an evaluation does not.
    (output / "model_final.pth").touch()
    weights = {"MODEL.WEIGHTS": str(output / "model_final.pth")}
    check("--eval-only", **weights)
    with pytest.raises(ValueError, match=r"model_final\.pth: exists, but OUTPUT_DIR is no folder of a run"):
        check()
    (output / "config.yaml").write_text("mine: 1")
    for flags in ((), ("--eval-only",), ("--resume",)):
        with pytest.raises(ValueError, match=r"config\.yaml: exists, but OUTPUT_DIR is no folder of a run"):
            check(*flags)
    # A run that was copied without its log goes on.
    (output / "last_checkpoint").write_text("model_final.pth")
    check("--resume")
    (output / "log.txt").touch()
    with pytest.raises(ValueError, match=r"holds a finished run, .* choose another, such as OUTPUT_DIR .*output_2"):
        check()
    with pytest.raises(ValueError, match=r"model_final\.pth: MODEL\.WEIGHTS lies in OUTPUT_DIR"):
        check(**weights)
    for flag in ("--eval-only", "--resume"):
        check(flag, **weights)


@pytest.mark.parametrize("name", [b"caf\xe9.png", "a\u2028b.png".encode(), "é.png".encode()])
def test_outputs_of_any_name_are_known_again(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    write_output(path, b"one", durable=False)
    write_output(path, b"two", durable=False)
    assert path.read_bytes() == b"two" and not list(tmp_path.glob("*.tmp"))


# ------------------------------------------------------------------ 2: far polygons

FAR = [-164.1, -221.8, 208543216, 352186880, 226, 236.6, 272, 384.3]


@pytest.mark.parametrize(
    "far", [FAR, [0, 0, 1e300, 0, 1e300, 1e300], [0, 0, 1e8, 0, 0, 1e8], [5, -1e18, 9, -1e18, 9, 10]]
)
def test_a_far_polygon_does_not_end_the_process(far):
    program = f"from wps_sam.masks import segmentation_to_mask as m; print(m([{far}], 480, 640).sum())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_far_polygon_covers_what_it_covers_of_the_picture():
    # A triangle whose right corner lies a billion pixels away: within 20 rows its sides are horizontal lines.
    mask = segmentation_to_mask([[2.0, 5.0, 1e9, 5.0, 2.0, 15.0]], 20, 30)
    expected = np.zeros((20, 30), bool)
    expected[5:15, 2:] = True
    assert np.array_equal(mask, expected)
    # Nearer ones are left as they are, to the last bit.
    near = [-20.5, 3.25, 40.0, 3.0, 45.0, 18.0, -5.0, 30.0]
    assert clip_far_polygons([near], 20, 30) == [near]
    assert clip_far_polygons([[2.0, 5.0, 61.0, 5.0, 2.0, 15.0]], 20, 30) != [[2.0, 5.0, 61.0, 5.0, 2.0, 15.0]]


def test_a_far_polygon_is_counted_with_its_annotation(changed, caplog):
    with caplog.at_level(logging.WARNING):
        records = changed(lambda c: c["annotations"][0].update(segmentation=[FAR]))
    assert "train.json: 1 masks that reach far outside their images, clipped (annotation ids 3)" in caplog.text
    assert max(map(abs, records[0]["annotations"][0]["segmentation"][0])) <= 60


# ------------------------------------------------------------------ 3: crowds


def all_wheels_are_crowds(content):
    for entry in content["annotations"]:
        entry["iscrowd"] = int(entry["category_id"] == 1)


def test_a_training_set_of_crowds_alone_says_what_to_do(small, tiny_cfg):
    content = coco()
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    small.write(content)
    train, val = small.register()
    cfg = tiny_cfg("DATASETS.TRAIN", (train,), "DATASETS.TEST", (val,), "MODEL.PROMPTER.NUM_CLASSES", 2)
    with pytest.raises(ValueError, match=r"all 4 annotations are crowds .*crowds: parts"):
        build_train_loader(cfg)


def test_brush_masks_as_crowds_are_told_and_can_be_taken(changed, caplog):
    with caplog.at_level(logging.WARNING):
        records = changed(all_wheels_are_crowds)
    assert [a["iscrowd"] for a in records[0]["annotations"]] == [1, 0]
    assert "2 annotations are crowds" in caplog.text and "of the classes ['wheel'] there is nothing else" in caplog.text
    assert "crowds: parts" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        records = changed(all_wheels_are_crowds, crowds="parts")
    assert [a["iscrowd"] for a in records[0]["annotations"]] == [0, 0] and not caplog.text
    with pytest.raises(ValueError, match=r"crowds: expected one of \('ignore', 'parts'\), got 'yes'"):
        changed(all_wheels_are_crowds, crowds="yes")


# ------------------------------------------------------------------ 4: EXIF


def turn(path: Path, orientation: int, size: tuple[int, int] = (30, 20)) -> np.ndarray:
    """Writes a picture with an EXIF orientation; returns its pixels as stored."""
    pixels = np.random.default_rng(1).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


def test_orientation_is_settled_for_the_whole_set(small, caplog):
    """a.png stands on its head, which its size does not tell; b.png lies on its side and was labelled upright."""
    stored = turn(small.root / "images" / "a.png", 3)
    content = coco()
    # Nothing tells.
    small.write(content)
    with caplog.at_level(logging.WARNING):
        records = small.load()
    assert "1 pictures have an EXIF orientation, and no size tells" in caplog.text and "exif: upright" in caplog.text
    assert records[0]["exif"] == "stored" and np.array_equal(read_picture(records[0]), stored)
    assert "exif" not in records[1]
    # The other picture tells.
    turn(small.root / "images" / "b.png", 6)
    content["images"][1].update(height=30, width=20)
    small.write(content)
    records = small.load()
    assert [r["exif"] for r in records] == ["upright", "upright"] and pixel_grid_of(records) == "upright"
    assert np.array_equal(read_picture(records[0]), stored[::-1, ::-1])
    # Somebody knows.
    records = small.load(exif="upright")
    assert np.array_equal(read_picture(records[0]), stored[::-1, ::-1])
    with pytest.raises(
        ValueError, match=r"b\.png: height and width are \(20, 30\).*annotation says \(30, 20\).*exif: stored"
    ):
        read_picture(small.load(exif="stored")[1])


def test_a_square_photo_on_its_side(small):
    stored = turn(small.root / "images" / "a.png", 6, size=(24, 24))
    content = coco()
    content["images"][0].update(height=24, width=24)
    small.write(content)
    assert np.array_equal(read_picture(small.load(exif="upright")[0]), np.rot90(stored, -1))
    assert np.array_equal(read_picture(small.load(exif="stored")[0]), stored)


def test_pictures_that_disagree_are_each_read_by_their_size(small, caplog):
    for name in "ab":
        turn(small.root / "images" / f"{name}.png", 6)
    content = coco()
    content["images"][1].update(height=30, width=20)
    small.write(content)
    with caplog.at_level(logging.WARNING):
        records = small.load()
    assert [r["exif"] for r in records] == ["stored", "upright"]
    assert (
        "1 pictures with an EXIF orientation have the size of their labels as stored, 1 turned upright" in caplog.text
    )


def test_a_picture_or_two_do_not_speak_for_a_camera():
    records = [{"exif": "stored"}, {}, {}]
    assert pixel_grid_of(records) is None
    assert pixel_grid_of(records[:1]) == "stored"
    assert pixel_grid_of([*records, {"exif": "upright"}]) == "upright"


def test_an_orientation_behind_the_pixels_of_a_png(small):
    """Where some tools append it."""
    path = small.root / "images" / "a.png"
    stored = turn(path, 6)
    chunks, content, place = [], path.read_bytes(), 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big") + 12
        chunks.append(content[place : place + length])
        place += length
    exif = next(c for c in chunks if c[4:8] == b"eXIf")
    chunks.remove(exif)
    path.write_bytes(content[:8] + b"".join([*chunks[:-1], exif, chunks[-1]]))
    assert stored_size(str(path)) == (20, 30, 6)
    data = coco()
    data["images"][0].update(height=30, width=20)
    small.write(data)
    record = small.load()[0]
    assert record["exif"] == "upright" and np.array_equal(read_picture(record), np.rot90(stored, -1))


@pytest.mark.parametrize("grid", ["stored", "upright"])
def test_prediction_follows_the_training_set(tiny_model, small, tiny_cfg, tmp_path, grid):
    stored = turn(tmp_path / "photo.png", 3)
    weights = tmp_path / "weights.safetensors"
    metadata = {"class_names": json.dumps(["a", "b", "c"]), "exif": json.dumps(grid), "format": "pt"}
    save_file(load_file(tiny_model.safetensors), weights, metadata)
    predictor = PartPredictor(tiny_model.config_file, weights)
    expected = stored if grid == "stored" else stored[::-1, ::-1]
    assert np.array_equal(predictor(tmp_path / "photo.png").image, expected)
    assert np.array_equal(predictor(Image.open(tmp_path / "photo.png")).image, expected)
    # What a checkpoint says comes from the training set.
    train, val = small.register(exif=grid)
    cfg = tiny_cfg("DATASETS.TRAIN", (train,), "DATASETS.TEST", (val,), "MODEL.PROMPTER.NUM_CLASSES", 2)
    assert build_train_loader(cfg).exif == grid


# ------------------------------------------------------------------ 6: boxes in another form


def with_boxes(form):
    def change(content):
        size = {"height": 200, "width": 300}
        for image in content["images"]:
            image.update(size)
        for k, entry in enumerate(content["annotations"]):
            x, y, w, h = 20 + 40 * k, 30 + 25 * k, 120, 90
            entry.update(bbox=form(x, y, w, h), segmentation=[])

    return change


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], r"2 reach beyond their pictures: they look like \[x0, y0, x1, y1\]"),
        (lambda x, y, w, h: [x / 300, y / 200, w / 300, h / 200], "4 are smaller than a pixel: they look like shares"),
        (lambda x, y, w, h: [x / 300, y / 200, (x + w) / 300, (y + h) / 200], "they look like shares of the picture"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], r"they look like \[x centre, y centre, width, height\]"),
        (lambda x, y, w, h: [x, y, w, h if y > 30 else 400], "of 4 boxes, 1 reach beyond their pictures$"),
    ],
)
def test_boxes_in_another_form_are_counted_and_named(changed, caplog, form, said):
    with caplog.at_level(logging.WARNING):
        changed(with_boxes(form))
    (message,) = [r.getMessage() for r in caplog.records if "boxes, " in r.getMessage()]
    assert re.search(said, message), message


def test_boxes_that_fit_in_another_form_are_told_by_their_polygons(changed, caplog):
    def corners(content):
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x, y, x + w, y + h]

    with caplog.at_level(logging.WARNING):
        changed(corners)
    assert "of 4 boxes, 4 of 4 lie beside their polygons: they look like [x0, y0, x1, y1]" in caplog.text


def test_boxes_in_the_right_form_are_no_news(changed, caplog):
    with caplog.at_level(logging.WARNING):
        changed(with_boxes(lambda x, y, w, h: [x, y, w, h]))
    assert "boxes, " not in caplog.text


# ------------------------------------------------------------------ 7: 16 bits


@pytest.mark.parametrize(("highest", "shift"), [(200, 0), (1023, 2), (4095, 4), (16383, 6), (65535, 8)])
@pytest.mark.parametrize("kind", ["grey.png", "colour.png", "colour.tif"])
def test_files_of_16_bits_are_read_by_the_bits_they_use(tmp_path, highest, shift, kind):
    values = np.random.default_rng(0).integers(0, highest + 1, (8, 9, 3)).astype(np.uint16)
    values[0, 0] = highest
    path = tmp_path / kind
    cv2.imwrite(str(path), values[..., 0] if kind.startswith("grey") else values[..., ::-1])
    read = read_rgb(str(path))
    expected = (values >> shift).astype(np.uint8)
    assert np.array_equal(read[..., 0], expected[..., 0])
    if kind.startswith("colour"):
        assert np.array_equal(read, expected)


def test_a_later_page_of_16_bits_is_not_the_first(tmp_path):
    pages = [np.full((6, 7, 3), value, np.uint16) for value in (60000, 20000)]
    cv2.imwritemulti(str(tmp_path / "pages.tif"), pages)
    image = Image.open(tmp_path / "pages.tif")
    image.seek(1)
    assert pil_to_rgb(image).mean() == pytest.approx(20000 >> 8, abs=1)


# ------------------------------------------------------------------ 8: the feature cache


def test_features_are_known_by_the_filter_and_the_side_that_is_up(tiny_cfg, monkeypatch, small):
    settings = SAMEncoder.feature_settings(tiny_cfg())
    assert settings["resize"] == "longest side, bilinear" and settings["version of the code"]
    monkeypatch.setattr(ResizeLongestSide, "FILTER", Image.Resampling.BICUBIC)
    assert SAMEncoder.feature_settings(tiny_cfg()) != settings
    pixels = np.full((10, 20, 3), 7, np.uint8)
    pixels[:, 10:] = 200
    wide = ResizeLongestSide(64).get_transform(pixels).apply_image(pixels)
    assert wide.max() > 200 or wide.min() < 7  # Bicubic overshoots: the filter is the one that is named.
    turn(small.root / "images" / "a.png", 3)
    rows = {}
    for grid in ("stored", "upright"):
        records = small.load(exif=grid)
        spec = type("Spec", (), {})()
        spec.data_set, spec.settings, spec.pictures = "small", {}, records
        spec.features, spec.dtype = {"image_embedding": [4, 2, 2]}, "fp16"
        rows[grid] = Manifest.of(spec).pictures
    assert rows["stored"] != rows["upright"]
