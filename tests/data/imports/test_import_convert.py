"""From what was read to COCO files: pictures found, sizes settled, labels placed; all that is lost is said."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from wps_sam.data.coco_output import write_coco_dataset
from wps_sam.data.imports import Export, Imported, Notes, PictureFolder, convert
from wps_sam.data.imports.labels import Box, Label, LabelledPicture, split_of, turned_box

import numpy as np
import pytest
from tool_exports import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.jpg, and 1.jpg in two folders, all 40 wide and 30 high."""
    for name in ("a.jpg", "one/1.jpg", "two/1.jpg"):
        picture(tmp_path / name)
    return tmp_path


def boxed(name: str, *boxes: Box, label: str = "wheel", **more: Any) -> LabelledPicture:
    return LabelledPicture(name, labels=[Label(label, box=box) for box in boxes], **more)


def converted(folder: Path, *pictures: LabelledPicture, **more: Any) -> Imported:
    return convert(Export(list(pictures)), PictureFolder(folder), Notes(), **more)


def said(made: Imported) -> str:
    return made.summary()


def test_places_are_in_our_form(folder: Path) -> None:
    a = LabelledPicture(
        "a.jpg",
        labels=[
            Label("wheel", box=(1, 2, 9, 8)),
            Label("wheel", point=(3.5, 4.5)),
            Label("window", segmentation=[[1, 2, 9, 2, 5, 8]]),
            Label("wheel", box=(1, 1, 2, 2), crowd=True),
        ],
        tags=["window", "door"],
    )
    shares = LabelledPicture("one/1.jpg", in_shares=True)
    shares.labels = [Label("wheel", box=(0.25, 0.5, 0.5, 1)), Label("wheel", segmentation=[[0, 0, 0.5, 0, 0, 0.1]])]
    made = converted(folder, a, shares)
    content = made.splits["train"]
    assert made.classes == ["door", "wheel", "window"]
    assert [c["name"] for c in content["categories"]] == made.classes
    assert content["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40, "tags": ["door", "window"]},
        {"id": 2, "file_name": "one/1.jpg", "height": 30, "width": 40},
    ]
    places = [{k: v for k, v in x.items() if k not in ("id", "image_id")} for x in content["annotations"]]
    assert places == [
        {"category_id": 1, "bbox": [1, 2, 8, 6]},
        # The middle of pixel (3, 4).
        {"category_id": 1, "point": [3.0, 4.0]},
        {"category_id": 2, "segmentation": [[1, 2, 9, 2, 5, 8]], "bbox": [1, 2, 8, 6]},
        {"category_id": 1, "bbox": [1, 1, 1, 1], "iscrowd": 1},
        {"category_id": 1, "bbox": [10, 15, 10, 15]},
        {"category_id": 1, "segmentation": [[0, 0, 20, 0, 0, 3]], "bbox": [0, 0, 20, 3]},
    ]
    assert [x["image_id"] for x in content["annotations"]] == [1, 1, 1, 1, 2, 2]
    assert "2 pictures (train 2), 0 of them without labels. Labels: 2 masks, 3 boxes, 1 point, 2 tags." in said(made)
    assert "By class: door: 1 tag; wheel: 1 mask, 3 boxes, 1 point; window: 1 mask, 1 tag." in said(made)
    assert said(made).endswith("Left out: 1 pictures of the folder that no label speaks of (1.jpg).")


def test_labels_that_cannot_be_used_are_counted_and_named(folder: Path) -> None:
    a = boxed("a.jpg", (9, 2, 9, 8), (50, 2, 60, 8), (-5, 2, 9, 8), (-0.5, 2, 9, 8), (1, 2, 9, 8))
    a.labels += [
        Label("wheel", point=(41, 2)),
        Label("wheel", segmentation=[[1, 2, 3, 4]]),
        Label("wheel", segmentation=[[50, 2, 60, 2, 60, 8]]),
        Label("wheel", segmentation={"size": [30, 40], "counts": [1200]}),
        Label("wheel", segmentation={"size": [30, 40], "counts": [7]}),
        Label("_background_", box=(1, 2, 9, 8)),
    ]
    made = converted(folder, a)
    assert [x["bbox"] for x in made.splits["train"]["annotations"]] == [[0, 2, 9, 6], [0, 2, 9, 6], [1, 2, 8, 6]]
    for lost in (
        "1 boxes of no size (a.jpg)",
        "1 boxes outside of their pictures (a.jpg)",
        "1 points outside of their pictures (a.jpg)",
        "1 polygons of fewer than three corners (a.jpg)",
        "2 masks that are empty or outside of their pictures (a.jpg)",
        "1 malformed masks (a.jpg)",
        "1 labels of the class '_background_' (a.jpg)",
    ):
        assert lost in said(made)
    # Half a pixel is how people draw.
    assert "1 boxes that reach beyond their pictures were clipped." in said(made)


def test_pictures_that_cannot_be_used_are_counted_and_named(folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no picture")
    box = (1.0, 2.0, 9.0, 8.0)
    made = converted(
        folder,
        *(boxed(name, box, box) for name in ("a.jpg", "gone.jpg", "three/1.jpg", "bad.jpg")),
        boxed("one/1.jpg", box, size=(30, 41)),
        # A namesake in a folder that is not here.
        boxed("elsewhere/a.jpg", box),
    )
    assert len(made.splits["train"]["images"]) == 1
    for lost in (
        f"1 pictures that are not in {folder}, with 2 labels (gone.jpg)",
        "1 pictures whose names several files have, with 2 labels (three/1.jpg)",
        "1 pictures that cannot be read, with 2 labels (bad.jpg)",
        "1 pictures of another size than their labels say, with 1 labels (one/1.jpg)",
        "1 second entries that would be of the same picture file, with 1 labels (elsewhere/a.jpg)",
        "3 pictures of the folder that no label speaks of (bad.jpg, 1.jpg)",
    ):
        assert lost in said(made)
    with pytest.raises(ValueError, match=r"of 1 labelled pictures none could be used.*not in .*gone\.jpg"):
        converted(folder, boxed("gone.jpg", box))


@pytest.mark.parametrize(
    "name",
    [
        *("two/1.jpg", "C:\\data\\two\\1.jpg", "/other/machine/two/1.jpg", "../two/1.jpg", "two/1"),
        *("dir%20a/two/1.jpg", "/data/upload/3/two/1.jpg"),
    ],
)
def test_a_picture_is_found_by_the_end_of_its_path(folder: Path, name: str) -> None:
    assert PictureFolder(folder).find(name) == [folder / "two" / "1.jpg"]


def test_names_that_are_spelt_otherwise_are_found(folder: Path) -> None:
    # A and a ring, as macOS writes it; a blank; and what Label Studio puts before an uploaded name.
    for name in ("A\u030a b.jpg", "0a1b2c3d-c.jpg"):
        picture(folder / name)
    pictures = PictureFolder(folder)
    assert [len(pictures.find(n)) for n in ("\u00c5%20b.jpg", "c.jpg", "0a1b2c3d-c.jpg", "1.jpg", "b.jpg")] == [
        1,
        0,
        1,
        2,
        0,
    ]
    assert pictures.find("/data/upload/3/ffffffff-a.jpg") == [folder / "a.jpg"]


def test_sizes_decide_which_way_up_labels_lie(folder: Path) -> None:
    # Stored lying, shown standing: 40 wide and 30 high become 30 wide and 40 high.
    for name in ("turned.jpg", "said.jpg", "stored.jpg"):
        picture(folder / name, orientation=6)
    box = (1.0, 2.0, 9.0, 38.0)
    only = converted(folder, boxed("said.jpg", box, size=(40, 30)), boxed("stored.jpg", box, size=(30, 40)))
    assert [(i["height"], i["width"]) for i in only.splits["train"]["images"]] == [(40, 30), (30, 40)]
    assert not only.upright
    made = converted(folder, boxed("turned.jpg", box), boxed("a.jpg", box))
    assert [(i["height"], i["width"]) for i in made.splits["train"]["images"]] == [(40, 30), (30, 40)]
    assert made.upright
    assert "1 pictures with an EXIF orientation were taken as labelled upright, as the labels name no size." in said(
        made
    )


def test_names_of_one_class_are_one(folder: Path) -> None:
    box = (1.0, 2.0, 9.0, 8.0)
    entry = LabelledPicture("a.jpg", labels=[Label(name, box=box) for name in ("wheel", "Wheel", " wheel ", "window")])
    export = Export([entry], ("wheel", "spare"))
    made = convert(export, PictureFolder(folder), Notes())
    assert made.classes == ["wheel", "spare", "window"]
    assert [x["category_id"] for x in made.splits["train"]["annotations"]] == [0, 0, 0, 2]
    assert "1 labels 'Wheel' were taken as 'wheel'." in said(made)
    made = convert(export, PictureFolder(folder), Notes(), classes=["window", "door"])
    assert made.classes == ["window", "door"]
    assert [x["category_id"] for x in made.splits["train"]["annotations"]] == [0]
    assert "1 labels of the class 'wheel' (a.jpg)" in said(made)
    # A list of classes may go for several exports; a misspelt one is refused.
    assert "1 of the chosen classes is not in the labels: 'door'." in said(made)
    message = r"classes: the labels have no class 'whele' \(did you mean wheel\?\); they have wheel, spare, window"
    with pytest.raises(ValueError, match=message):
        convert(export, PictureFolder(folder), Notes(), classes=["window", "whele"])
    assert convert(export, PictureFolder(folder), Notes(), classes=["wheel", "whele"]).classes == ["wheel", "whele"]
    with pytest.raises(ValueError, match="classes: expected different names of parts"):
        convert(export, PictureFolder(folder), Notes(), classes=["wheel", "WHEEL"])
    with pytest.raises(ValueError, match="expected at least one class, found none"):
        converted(folder, LabelledPicture("a.jpg"))


def test_entries_of_one_picture_are_one_picture(folder: Path) -> None:
    made = converted(folder, boxed("a.jpg", (1, 2, 3, 4)), boxed("a.jpg", (5, 6, 7, 8)))
    assert len(made.splits["train"]["images"]) == 1 and len(made.splits["train"]["annotations"]) == 2


def test_val_is_drawn_by_the_seed_or_is_the_exports_own(tmp_path: Path) -> None:
    entries = [boxed(picture(tmp_path / f"{k:02d}.jpg").name, (1, 2, 3, 4)) for k in range(10)]

    def val(seed: int, order: int = 1) -> set[str]:
        made = converted(tmp_path, *entries[::order], val_share=0.3, seed=seed)
        assert list(made.splits) == ["train", "val"] and len(made.splits["train"]["images"]) == 7
        ids = [i["id"] for content in made.splits.values() for i in content["images"]]
        assert sorted(ids) == list(range(1, 11))
        return {image["file_name"] for image in made.splits["val"]["images"]}

    assert len(val(0)) == 3 and val(0) == val(0, -1) and val(0) != val(1)
    own = [boxed("00.jpg", (1, 2, 3, 4), split="val"), boxed("01.jpg", (1, 2, 3, 4), split="train")]
    assert {s: len(c["images"]) for s, c in converted(tmp_path, *own).splits.items()} == {"train": 1, "val": 1}
    with pytest.raises(ValueError, match=r"the labels name their own splits, \['train', 'val'\]"):
        converted(tmp_path, *own, val_share=0.5)
    for share in (1, -0.1):
        with pytest.raises(ValueError, match="expected 0 or more and less than 1"):
            converted(tmp_path, *entries, val_share=share)
    with pytest.raises(ValueError, match="leaves none to train on"):
        converted(tmp_path, entries[0], val_share=0.5)


def test_val_has_every_class_that_can_be_on_both_sides(tmp_path: Path) -> None:
    """Ten pictures of wheels, of which two also show a door and one a lamp: a plain draw of two has no door for most
    seeds (8 * 7 of 10 * 9), or both."""
    entries = [boxed(picture(tmp_path / f"{k}.jpg").name, (1, 2, 3, 4)) for k in range(10)]
    for k, name in ((3, "door"), (6, "door"), (8, "lamp")):
        entries[k].labels.append(Label(name, box=(5, 5, 9, 9)))
    for seed in range(12):
        made = converted(tmp_path, *entries, val_share=0.2, seed=seed)
        doors = {s: sum(a["category_id"] == 0 for a in c["annotations"]) for s, c in made.splits.items()}
        assert doors == {"train": 1, "val": 1} and len(made.splits["val"]["images"]) == 2
        (lamps,) = (s for s, c in made.splits.items() if any(a["category_id"] == 1 for a in c["annotations"]))
        assert f"No label in {'val' if lamps == 'train' else 'train'} of: lamp." in said(made)
    # Of those that are not kept nothing is asked, and where every class is on both sides the draw is as it was.
    wheels = converted(tmp_path, *entries, classes=["wheel"], val_share=0.2)
    drawn = random.Random(0).sample([f"{k}.jpg" for k in range(10)], 2)
    assert {image["file_name"] for image in wheels.splits["val"]["images"]} == set(drawn)
    assert "No label" not in said(wheels)


def test_splits_are_words_of_paths() -> None:
    assert split_of("instances_val2017.json") == "val" and split_of("train/_annotations.coco.json") == "train"
    assert split_of("Validation/x.xml") == "val" and split_of("obj_train_data/a.txt") == "train"
    assert split_of("trainer.json") is None and split_of("") is None


def test_boxes_turn_clockwise() -> None:
    # A square of 2 about its centre (1, 1), by an eighth of a circle: as wide as its diagonal.
    notes = Notes()
    half = math.sqrt(2)
    np.testing.assert_allclose(turned_box((0, 0, 2, 2), (1, 1), 45, notes), (1 - half, 1 - half, 1 + half, 1 + half))
    # About its upper left corner, by a quarter: to the right becomes down, and down becomes to the left.
    np.testing.assert_allclose(turned_box((0, 0, 4, 1), (0, 0), 90, notes), (-1, 0, 0, 4), atol=1e-9)
    assert turned_box((0, 0, 4, 1), (0, 0), 360, notes) == (0, 0, 4, 1)
    assert notes.sentences() == ["2 rotated boxes became the upright boxes around them."]


def test_a_data_set_needs_a_name_that_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name: expected letters, digits, _ and -, got 'my parts'"):
        write_coco_dataset(tmp_path / "out", "my parts", tmp_path, {}, ["wheel"])
    assert not (tmp_path / "out").exists()
