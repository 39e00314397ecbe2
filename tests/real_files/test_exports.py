"""Exports of common tools, each of which should simply work."""

from __future__ import annotations

import codecs
import json
import logging
import unicodedata
from pathlib import Path

from wps_sam.data.sources.coco import load_coco_vocabulary
from wps_sam.data.sources.descriptions import register_descriptions
from wps_sam.data.weak_labels import part_point
from wps_sam.encoders.build_sam import build_sam, read_state_dict
from wps_sam.masks import mask_to_rle, read_picture, segmentation_to_mask
from wps_sam.picture_files import SUFFIXES, distinct, pictures_of, placed
from wps_sam.visualization import draw_instances, fonts

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from small_coco import coco

# ------------------------------------------------------------------ 9, 10: categories


def renumber(content, ids):
    for entry in content["categories"]:
        entry["id"] = ids[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = ids[entry["category_id"]]
    content["categories"].reverse()


def test_ids_may_differ_between_train_and_val(small, caplog):
    content = coco()
    renumber(content, {1: 7, 2: 3})
    small.write(content, "val")
    with caplog.at_level(logging.INFO):
        train, val = small.load(), small.load("val")
    classes = [[[a["category_id"] for a in r["annotations"]] for r in records] for records in (train, val)]
    assert classes == [[[0, 1], [0, 1]]] * 2
    assert "2 categories, such as 'window', have other ids" in caplog.text
    # Part maps are written in these numbers: there they must agree.
    small.keys["layout"] = "partimagenet"
    with pytest.raises(ValueError, match=r"val\.json: categories: 'window' has the id 3; expected 2"):
        small.load("val")


def test_an_unused_category_of_val_is_a_note(small, caplog):
    content = coco()
    content["categories"].append({"id": 9, "name": "spare wheel"})
    small.write(content, "val")
    with caplog.at_level(logging.INFO):
        assert len(small.load("val")) == 2
    assert "unknown class 'spare wheel'" in caplog.text and "It has no annotation, and is left out" in caplog.text
    content["annotations"][0]["category_id"] = 9
    small.write(content, "val")
    with pytest.raises(ValueError, match=r"val\.json: categories: unknown class 'spare wheel'"):
        small.load("val")


@pytest.mark.parametrize("root", ["vehicle-parts-x7", "wheel"])
def test_roboflows_root_category_is_dropped(small, root):
    content = coco()
    for entry in content["categories"]:
        entry["supercategory"] = root
    content["categories"].insert(0, {"id": 0, "name": root, "supercategory": "none"})
    for split in ("train", "val"):
        small.write(content, split)
    assert small.metadata().thing_classes == ["wheel", "window"]
    assert [a["category_id"] for a in small.load("val")[0]["annotations"]] == [0, 1]
    # With an annotation it is a class like any other.
    content["annotations"][0]["category_id"] = 0
    small.write(content)
    if root == "wheel":
        with pytest.raises(ValueError, match=r"categories\[1\]\.name: 'wheel' occurs twice"):
            small.load()
    else:
        assert small.metadata().thing_classes == [root, "wheel", "window"]


def test_a_class_that_looks_like_a_root_can_be_named(small):
    content = coco()
    for entry in content["categories"]:
        entry["supercategory"] = "car"
    content["categories"].insert(0, {"id": 0, "name": "car", "supercategory": "none"})
    small.write(content)
    assert small.metadata(classes=["car", "wheel", "window"]).thing_classes == ["car", "wheel", "window"]
    # A supercategory that is missing is no "none".
    del content["categories"][0]["supercategory"]
    small.write(content)
    assert small.metadata().thing_classes == ["car", "wheel", "window"]


def test_an_object_above_its_parts_is_no_root(small):
    content = coco()
    content["categories"].insert(0, {"id": 0, "name": "car", "supercategory": "vehicle"})
    small.write(content)
    assert load_coco_vocabulary(str(small.json_file())).names == ("car", "wheel", "window")


# ------------------------------------------------------------------ 11: fields in other forms


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    ],
)
def test_a_byte_order_mark(small, encode):
    small.write(encode(json.dumps(coco())))
    assert len(small.load()) == 2


def everything_as_text(content):
    for entry in content["images"]:
        entry.update(id=str(entry["id"]), height=f"{entry['height']}.0", width=float(entry["width"]))
    for entry in content["annotations"]:
        entry.update(id=str(entry["id"]), image_id=float(entry["image_id"]), category_id=str(entry["category_id"]))
    for entry in content["categories"]:
        entry["id"] = str(entry["id"])


def test_ids_and_sizes_as_text_or_with_a_point(small, changed):
    expected = changed(lambda content: None)
    assert changed(everything_as_text) == expected
    assert expected[0]["height"] == 20 and isinstance(expected[0]["height"], int)


def test_ids_of_images_may_be_names(changed):
    def change(content):
        for entry in content["images"]:
            entry["id"] = f"photo-{entry['id']}"
        for entry in content["annotations"]:
            entry.update(image_id=f"photo-{entry['image_id']}", id=f"a-{entry['id']}")

    records = changed(change)
    assert [(r["image_id"], len(r["annotations"])) for r in records] == [("photo-1", 2), ("photo-2", 2)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 0),
        ("0", 0),
        ("false", 0),
        (False, 0),
        ("", 0),
        (0.0, 0),
        (1, 1),
        ("1", 1),
        (True, 1),
        ("true", 1),
        (1.0, 1),
    ],
)
def test_iscrowd_in_every_form(changed, value, expected):
    records = changed(lambda content: content["annotations"][0].update(iscrowd=value))
    assert records[0]["annotations"][0]["iscrowd"] == expected


def test_a_flat_polygon_and_counts_written_as_python_bytes(changed):
    mask = np.zeros((20, 30), bool)
    mask[3:15, 2:10] = True
    # A second piece, and edges that bring a backslash or two into the encoding.
    mask[1:19:2, 14:29:3] = True
    rle = mask_to_rle(mask)

    def change(content):
        first, second = content["annotations"][:2]
        first["segmentation"] = first["segmentation"][0]
        second["segmentation"] = {"size": [20.0, 30.0], "counts": str(rle["counts"].encode())}

    first, second = changed(change)[0]["annotations"]
    assert segmentation_to_mask(first["segmentation"], 20, 30).sum() == 8 * 12
    assert np.array_equal(segmentation_to_mask(second["segmentation"], 20, 30), mask)


def test_ids_that_only_look_alike_and_ids_of_many_bits(changed):
    def change(content):
        content["images"][0]["id"], content["images"][1]["id"] = "007", "7"
        for entry in content["annotations"]:
            entry["image_id"] = "007" if entry["image_id"] == 1 else 7
        content["annotations"][0]["id"] = 2**63 + 5
        content["annotations"][1]["id"] = "a-4"

    first, second = changed(change)
    assert (first["image_id"], second["image_id"]) == ("007", 7)
    assert [len(r["annotations"]) for r in (first, second)] == [2, 2]
    for annotation in first["annotations"]:
        assert part_point(annotation, 20, 30, "random_pixel", seed=0) is not None


@pytest.mark.parametrize("counts", ["b'a',b'b'", "b'", "b'\\xff'", "b'abc' + b''"])
def test_counts_that_are_not_quite_python_bytes_cost_their_mask_alone(changed, counts):
    def change(content):
        content["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": counts}

    assert "segmentation" not in changed(change)[0]["annotations"][0]


def test_label_maps_in_another_form_of_unicode(write_tiny_parts, tmp_path):
    parts = write_tiny_parts(tmp_path / "forms", name="forms")
    file = parts.coco_json("train")
    content = json.loads(file.read_text())
    stem = Path(content["images"][0]["file_name"]).stem
    nfc, nfd = (unicodedata.normalize(form, f"{stem}é") for form in ("NFC", "NFD"))
    (parts.root / "images" / "train" / f"{stem}.JPEG").rename(parts.root / "images" / "train" / f"{nfd}.JPEG")
    (file.parent / f"{stem}.png").rename(file.parent / f"{nfc}.png")
    content["images"][0]["file_name"] = f"{nfc}.JPEG"
    file.write_text(json.dumps(content))
    register_descriptions([str(parts.description)])
    record = DatasetCatalog.get("forms_train")[0]
    assert Path(record["file_name"]).is_file() and Path(record["sem_seg_file_name"]).is_file()


@pytest.mark.parametrize(
    ("on_disk", "in_json"),
    [
        ("a wheel.png", "a%20wheel.png"),
        ("é.png", "%C3%A9.png"),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png")),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        ("100%25.png", "100%25.png"),
    ],
)
def test_names_of_files_in_another_spelling(small, changed, on_disk, in_json):
    (small.root / "images" / "a.png").rename(small.root / "images" / on_disk)
    record = changed(lambda content: content["images"][0].update(file_name=in_json))[0]
    assert Path(record["file_name"]).name == on_disk and Path(record["file_name"]).is_file()


def test_class_names_in_another_form_of_unicode(small):
    content = coco()
    content["categories"][0]["name"] = unicodedata.normalize("NFD", "Tür")
    small.write(content)
    content["categories"][0]["name"] = unicodedata.normalize("NFC", "TÜR")
    small.write(content, "val")
    assert [a["category_id"] for a in small.load("val")[0]["annotations"]] == [0, 1]


# ------------------------------------------------------------------ 12: checkpoints


@pytest.fixture(scope="module")
def sam_state():
    return build_sam("vit_tiny").state_dict()


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "taken out of 'module.'"),
        (lambda s: {"model": s, "epoch": 3}, 'taken out of {"model": ...}'),
        (lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}}, "{\"state_dict\": ...} and 'model.'"),
        (lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}}, "'module.' and '_orig_mod.'"),
    ],
)
def test_fine_tuned_sams_are_unwrapped_and_said(sam_state, tmp_path, caplog, wrap, said):
    path = tmp_path / "tuned.pth"
    torch.save(wrap(sam_state), path)
    with caplog.at_level(logging.INFO):
        sam = build_sam("vit_tiny", str(path))
    assert said in caplog.text
    assert all(torch.equal(value, sam_state[key]) for key, value in sam.state_dict().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n<!DOCTYPE html><html><title>Virus scan warning</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
        (b"", "an empty file"),
        (b'{"error": "Entry not found"}', "JSON"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, said, suffix):
    path = tmp_path / f"sam{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"sam{suffix}: .*{said}"):
        read_state_dict(str(path))


# ------------------------------------------------------------------ 13: letters and kinds of pictures


def test_names_outside_latin_script_are_drawn_with_a_font_that_has_them():
    """Letters that a font lacks are all drawn as the same empty box."""
    for one, other in (("Ухо", "Рот"), ("οδός", "ουρά"), ("é", "ü")):  # noqa: RUF001
        assert fonts.load_font(20, one).getmask(one).getbbox()
        pictures = [bytes(fonts.load_font(20, letter).getmask(letter)) for letter in one + other]
        assert len(set(pictures)) == len(set(one + other))


def test_a_script_without_font_is_told_with_the_package(caplog, monkeypatch):
    monkeypatch.setattr(fonts, "_candidates", lambda: iter(()))
    fonts.load_font.cache_clear()
    fonts._warn_of.cache_clear()
    mask = np.ones((1, 40, 40), bool)
    with caplog.at_level(logging.WARNING):
        draw_instances(np.zeros((40, 40, 3), np.uint8), mask, [0], ["狗的耳朵"])
        draw_instances(np.zeros((40, 40, 3), np.uint8), mask, [0], ["狗的耳朵"])
    assert caplog.text.count("no font on this machine has the letters") == 1 and "fonts-noto-cjk" in caplog.text
    fonts.load_font.cache_clear()


def test_folders_are_searched_for_all_kinds_and_the_rest_is_counted(tmp_path):
    picture = Image.new("RGB", (20, 10), "red")
    for name in ("a.gif", "b.jfif", "c.jp2", "d.webp", "e.PNG", "B.jpg"):
        kind = {"jfif": "JPEG", "jp2": "JPEG2000", "jpg": "JPEG", "PNG": "PNG"}.get(name[2:], name[2:].upper())
        picture.save(tmp_path / name, format=kind)
    for name in ("raw.dng", "raw2.DNG", "notes.txt", "._a.jpg"):
        (tmp_path / name).write_bytes(b"")
    found, skipped = pictures_of(tmp_path)
    # B.jpg and b.jfif would meet where case does not count.
    assert [(p.name, str(base)) for p, base in placed(found)] == [
        *(("B.jpg", "B"), ("a.gif", "a"), ("b.jfif", "b.jfif")),
        *(("c.jp2", "c"), ("d.webp", "d"), ("e.PNG", "e")),
    ]
    assert skipped == {"of the kind .dng: convert it to JPEG or PNG first": 2}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.dng").write_bytes(b"")
    with pytest.raises(ValueError, match=r"raw: no picture in this folder; 1 of kinds that can't be opened here"):
        pictures_of(tmp_path / "raw")


def test_no_two_results_share_a_place():
    places = [Path(name) for name in ("a.jpg", "a.png", "A.jpg", "a.jpg", "a.2.jpg", "d/a.jpg")]
    bases = distinct(places)
    assert len({str(base).lower() for base in bases}) == len(places) and bases[0] == Path("a")


@pytest.mark.skipif(".heic" in SUFFIXES, reason="pillow-heif is installed")
def test_a_heic_without_its_plugin_is_told(small, changed):
    (small.root / "images" / "a.heic").write_bytes(b"ftypheic")
    (record, _) = changed(lambda content: content["images"][0].update(file_name="a.heic"))
    with pytest.raises(ValueError, match=r"a\.heic: cannot be decoded: .*pip install pillow-heif"):
        read_picture(record)
