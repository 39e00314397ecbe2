"""Each format: what its real layout says is read exactly, and what is not that layout is refused with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wps_sam.data.imports import FORMATS, Notes, detect_format, read_labels
from wps_sam.data.imports.labels import Export, LabelledPicture
from wps_sam.masks import mask_to_box, mask_to_rle, segmentation_to_mask

import numpy as np
import pytest
from small_coco import annotation, coco
from tool_exports import (
    HEIGHT,
    WIDTH,
    brush,
    cvat,
    cvat_image,
    labelme,
    labelme_mask,
    labelme_shape,
    picture,
    result,
    task,
    via_2,
    via_3,
    via_region,
    voc,
    voc_object,
    write,
)

Read = Callable[..., LabelledPicture]

GROUPED = [("wheel", 1, 1), ("window", 8, 1), ("wheel", 15, 1), ("wheel", 22, None)]
# What label-studio-sdk 2.1 packs of a mask 3 high and 4 wide: the second and third pixel of the second row are painted.
PACKED = [0, 0, 0, 48, 57, 27, 254, 19, 0, 159, 255, 9, 128, 0]


@pytest.fixture
def notes() -> Notes:
    return Notes()


def read(source: Path, notes: Notes) -> Export:
    """In the format that is found out."""
    return read_labels(source, detect_format(source), notes)


@pytest.fixture
def one(tmp_path: Path, notes: Notes) -> Read:
    """Writes a file and returns the only picture that is read of it."""

    def read_one(file_name: str, content: Any) -> LabelledPicture:
        (found,) = read(write(tmp_path / file_name, content), notes).pictures
        return found

    return read_one


def ring() -> np.ndarray:
    """A mask that no polygon and no transposition of it equals: bool [30, 40]."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 5:21] = True
    mask[5:7, 8:11] = False
    mask[8, 20] = False
    return mask


def check_ellipse(polygon: Any, center: tuple[float, float], width: float, height: float) -> None:
    """A polygon's extent and area are those of an upright ellipse, but for its corners."""
    xs, ys = np.array(polygon[0::2]), np.array(polygon[1::2])
    np.testing.assert_allclose([xs.min(), xs.max()], [center[0] - width / 2, center[0] + width / 2], atol=0.05)
    np.testing.assert_allclose([ys.min(), ys.max()], [center[1] - height / 2, center[1] + height / 2], atol=0.05)
    area = abs(np.sum(xs * np.roll(ys, -1) - ys * np.roll(xs, -1))) / 2
    assert area == pytest.approx(math.pi * width * height / 4, rel=0.01)


# -- COCO -------------------------------------------------------------------------------------------------


def test_coco_says_boxes_masks_points_and_tags(one: Read) -> None:
    content = coco(HEIGHT, WIDTH)
    content["images"] = [{**content["images"][0], "tags": ["window"]}]
    content["annotations"] = [
        annotation(1, 1, 1, (2, 3, 8, 12)),
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 2, "point": [4, 5]},
        {"id": 4, "image_id": 1, "category_id": 1},
    ]
    found = one("labels.json", content)
    assert (found.name, found.size, found.tags) == ("a.png", (30, 40), ["window", "wheel"])
    mask, box, point = found.labels
    assert (mask.name, mask.box) == ("wheel", (2, 3, 10, 15)) and len(mask.segmentation[0]) == 8
    assert (box.box, box.segmentation, box.crowd) == ((1, 2, 4, 6), None, True)
    # Whole numbers are pixel centres there, and corners of pixels here.
    assert (point.point, point.box) == ((4.5, 5.5), None)


def test_coco_keypoints_are_points_of_parts(one: Read, notes: Notes) -> None:
    content = coco(HEIGHT, WIDTH)
    content["images"].pop()
    content["categories"][0]["keypoints"] = ["left end", "right end", "middle"]
    pose = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 8, 12], "num_keypoints": 2}
    # As CVAT exports a point: a box of no size around a single keypoint.
    single = {"id": 2, "image_id": 1, "category_id": 2, "bbox": [7, 8, 0, 0], "num_keypoints": 1}
    content["annotations"] = [
        {**pose, "keypoints": [3, 4, 2, 6, 7, 1, 0, 0, 0]},
        {**single, "keypoints": [7, 8, 2]},
    ]
    whole, left, alone = one("person_keypoints.json", content).labels
    assert (whole.name, whole.box, whole.point) == ("wheel", (2, 3, 10, 15), None)
    assert (left.name, left.point) == ("wheel's left end", (3.5, 4.5))
    assert (alone.name, alone.point, alone.box) == ("window", (7.5, 8.5), None)
    assert notes.sentences() == ["Left out: 1 keypoints that are hidden (visibility 1) (a.png)."]
    content["annotations"][0]["keypoints"].pop()
    with pytest.raises(ValueError, match=r"json: annotations\[0\] \(id 1\)\.keypoints: expected \[x, y, visibility"):
        one("person_keypoints.json", content)


def test_coco_has_a_file_a_split_in_the_order_of_its_ids(tmp_path: Path, notes: Notes) -> None:
    content = coco()
    content["categories"].reverse()
    for name in ("train/_annotations.coco.json", "valid/_annotations.coco.json"):
        write(tmp_path / name, content)
    export = read(tmp_path, notes)
    assert [p.split for p in export.pictures] == ["train", "train", "val", "val"]
    assert export.classes == ("wheel", "window")


def test_coco_ids_that_are_none_are_refused(one: Read) -> None:
    for key in ("image_id", "category_id"):
        content = coco()
        content["annotations"][0][key] = 9
        with pytest.raises(ValueError, match=rf"annotations\[0\] \(id 3\)\.{key}: 9 is the id of no"):
            one("labels.json", content)


# -- LabelMe ----------------------------------------------------------------------------------------------


def test_labelme_shapes(one: Read, notes: Notes) -> None:
    corners = [[1.5, 2.0], [9.0, 2.5], [5.0, 8.25]]
    found = one(
        "a.json",
        labelme(
            labelme_shape("wheel", "polygon", corners),
            labelme_shape("wheel", "rectangle", [[20.0, 12.0], [10.0, 4.5]]),
            labelme_shape("wheel", "point", [[3.0, 4.0]]),
            labelme_shape("wheel", "circle", [[20.0, 15.0], [23.0, 19.0]]),
            labelme_shape("window", "linestrip", corners),
            labelme_shape("window", "mask", [[5, 3], [20, 8]], mask=labelme_mask(ring()[3:9, 5:21])),
            path="..\\photos\\a.jpg",
            flags={"car": True, "blurred": False},
        ),
    )
    polygon, box, point, circle, mask = found.labels
    assert polygon.segmentation == [[1.5, 2.0, 9.0, 2.5, 5.0, 8.25]]
    assert box.box == (10.0, 4.5, 20.0, 12.0)
    assert point.point == (3.0, 4.0)
    check_ellipse(circle.segmentation[0], (20, 15), 10, 10)
    assert mask.segmentation == mask_to_rle(ring())
    assert found.tags == ["car"] and found.size == (30, 40) and found.name.endswith("photos\\a.jpg")
    assert notes.sentences() == [f"Left out: 1 lines ({found.name})."]


def test_labelme_polygons_of_one_group_are_one_part(one: Read) -> None:
    def triangle(x: float) -> list[list[float]]:
        return [[x, 1], [x + 2, 1], [x, 4]]

    shapes = [labelme_shape(name, "polygon", triangle(x), group_id=g) for name, x, g in GROUPED]
    assert [len(label.segmentation) for label in one("a.json", labelme(*shapes)).labels] == [2, 1, 1]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            labelme_shape("wheel", "rectangle", [[1, 2]]),
            r"a\.json: shapes\[0\]\.points: expected 2 points of a rectangle",
        ),
        (labelme_shape("wheel", "polygon", [[1, 2, 3]]), r"shapes\[0\]\.points: expected a list of \[x, y\]"),
        (labelme_shape("wheel", "polygon", [[1, None]]), r"shapes\[0\]\.points: expected a number, got None"),
        (labelme_shape("wheel", "cuboid", [[1, 2]]), r"shapes\[0\]\.shape_type: unknown kind 'cuboid'"),
        (labelme_shape("", "point", [[1, 2]]), r"shapes\[0\]\.label: expected a text"),
        (labelme_shape("wheel", "mask", [[1, 2], [3, 4]], mask="?"), r"shapes\[0\]\.mask: expected a PNG in base64"),
        (
            labelme_shape("wheel", "mask", [[39, 2], [42, 5]], mask=labelme_mask(np.ones((4, 4), bool))),
            r"shapes\[0\]\.mask: \(4, 4\) at \(39, 2\) is not within the picture, 30 x 40",
        ),
    ],
)
def test_labelme_refuses(one: Read, shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one("a.json", labelme(shape))


# -- CVAT -------------------------------------------------------------------------------------------------

CVAT_SHAPES = """
<box label="wheel" source="manual" occluded="0" xtl="1.50" ytl="2.00" xbr="9.50" ybr="8.00" z_order="0">
  <attribute name="side">left</attribute></box>
<box label="wheel" source="manual" occluded="0" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90.00" z_order="0"></box>
<polygon label="window" source="manual" occluded="0" points="1.00,2.00;9.00,2.50;5.00,8.25" z_order="0"></polygon>
<points label="window" source="manual" occluded="0" points="3.00,4.00;5.50,6.00" z_order="0"></points>
<ellipse label="wheel" source="manual" occluded="0" cx="20" cy="15" rx="8.00" ry="2.00" rotation="90" z_order="0"/>
<polyline label="window" points="1.00,2.00;9.00,2.50" z_order="0"></polyline>
<cuboid label="window" xtl1="1" ytl1="2" xbl1="1" ybl1="5" z_order="0"></cuboid>
<skeleton label="body" z_order="0"><points label="head" occluded="0" outside="0" points="3,4"></points></skeleton>
<tag label="wheel" source="manual"></tag>
"""


def test_cvat_shapes(one: Read, notes: Notes) -> None:
    found = one("annotations.xml", cvat(cvat_image("sub/a.jpg", CVAT_SHAPES, 'subset="Validation"')))
    box, rotated, polygon, first, second, oval = found.labels
    assert (found.name, found.size, found.split, found.tags) == ("sub/a.jpg", (30, 40), "val", ["wheel"])
    assert box.box == (1.5, 2.0, 9.5, 8.0)
    # About its centre (15, 12): 10 wide and 4 high become 4 wide and 10 high.
    np.testing.assert_allclose(rotated.box, (13, 7, 17, 17))
    assert polygon.segmentation == [[1.0, 2.0, 9.0, 2.5, 5.0, 8.25]]
    assert (first.point, second.point) == ((3.0, 4.0), (5.5, 6.0))
    check_ellipse(oval.segmentation[0], (20, 15), 4, 16)
    assert notes.sentences() == [
        "Left out: 1 polylines (sub/a.jpg); 1 cuboids (sub/a.jpg); 1 skeletons (sub/a.jpg).",
        "1 rotated boxes became the upright boxes around them.",
    ]


def test_cvat_masks_are_runs_row_by_row_of_a_rectangle(one: Read) -> None:
    # Of ring()[3:9, 5:21], 16 wide: rows of 16; then 3, 3 of the hole, 10; the last row ends one pixel early.
    rle = "0, 35, 3, 13, 3, 41, 1"
    shape = (
        f'<mask label="wheel" source="manual" occluded="0" rle="{rle}" left="5" top="3" width="16" height="6"></mask>'
    )
    (label,) = one("annotations.xml", cvat(cvat_image("a.jpg", shape))).labels
    np.testing.assert_array_equal(segmentation_to_mask(label.segmentation, HEIGHT, WIDTH), ring())
    for key, wrong, message in [
        ("width", "15", r"rle: expected runs that add up to 15 \* 6, got 96"),
        ("left", "30", r"16 x 6 pixels at \(30, 3\) are not within the picture, 40 x 30"),
        ("rle", "0, 35, x", r"rle: expected an integer of at least 0, got ' x'"),
    ]:
        damaged = re.sub(rf' {key}="[^"]*"', f' {key}="{wrong}"', shape)
        with pytest.raises(ValueError, match=rf"annotations\.xml: image 'a\.jpg': mask 'wheel'.*{message}"):
            one("annotations.xml", cvat(cvat_image("a.jpg", damaged)))


def test_cvat_declares_its_classes_and_keeps_empty_pictures(tmp_path: Path, notes: Notes) -> None:
    content = cvat(cvat_image("a.jpg", "") + cvat_image("b.jpg", ""), ["window", "wheel"])
    body = "<label><name>body</name><type>skeleton</type></label><label><name>head</name><parent>body</parent></label>"
    export = read(write(tmp_path / "x.xml", content.replace("</labels>", body + "</labels>")), notes)
    assert export.classes == ("window", "wheel") and len(export.pictures) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cvat('<track id="0" label="wheel"></track>'), "holds tracks of a video"),
        (
            cvat(cvat_image("a.jpg", '<points label="wheel" points="1;2"/>')),
            r"points: expected 'x,y;x,y;...', got '1;2'",
        ),
        (cvat(cvat_image("a.jpg", '<box label="wheel" xtl="1"/>')), r"box 'wheel'\.ytl: expected a number, got None"),
        (cvat(cvat_image("a.jpg", '<box xtl="1"/>')), r"image 'a\.jpg': box\.label: expected a text"),
        (cvat(cvat_image("a.jpg", '<blob label="wheel"/>')), "blob 'wheel': unknown kind of label"),
        (cvat(cvat_image("a.jpg", ""))[:-20], "no valid XML, perhaps cut off"),
        (cvat("").replace("<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>'), "has a document type"),
    ],
)
def test_cvat_refuses(one: Read, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"annotations\.xml: .*{message}"):
        one("annotations.xml", content)


# -- Label Studio -----------------------------------------------------------------------------------------


def test_label_studio_regions_are_percents(one: Read, notes: Notes) -> None:
    box = {"x": 10, "y": 20, "width": 50, "height": 40, "rotation": 0}
    found = one(
        "project-3-at-2024-05-02.json",
        [
            task(
                result("rectanglelabels", {**box, "rectanglelabels": ["wheel"]}),
                # About its upper left corner (4, 6): 20 wide and 12 high, to the right and down, go down and left.
                result("rectanglelabels", {**box, "rotation": 90, "rectanglelabels": ["wheel"]}),
                result(
                    "polygonlabels", {"points": [[0, 0], [50, 0], [25, 50]], "closed": True, "polygonlabels": ["wheel"]}
                ),
                result("keypointlabels", {"x": 25, "y": 50, "width": 0.3, "keypointlabels": ["window"]}),
                result(
                    "ellipselabels",
                    {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["w"]},
                ),
                result("brushlabels", {"format": "rle", "rle": brush(ring()), "brushlabels": ["window"]}),
                result("choices", {"choices": ["wheel", "car"]}),
                result("choices", {**box, "choices": ["rusty"]}),
                result("textarea", {"text": ["a remark"]}),
                result("rectanglelabels", {**box, "rectanglelabels": []}),
                # Shape and class apart, as <Rectangle> and <Labels> give them.
                result("rectangle", box, id="y2"),
                result("labels", {**box, "labels": ["window"]}, id="y2"),
            )
        ],
    )
    assert found.size == (30, 40) and found.tags == ["wheel", "car"] and found.name == "/data/upload/3/0a1b2c3d-a.jpg"
    straight, turned, polygon, point, oval, painted, apart = found.labels
    assert straight.box == (4, 6, 24, 18)
    np.testing.assert_allclose(turned.box, (4 - 12, 6, 4, 26))
    assert polygon.segmentation == [[0, 0, 20, 0, 10, 15]]
    assert point.point == (10, 15) and point.name == "window"
    check_ellipse(oval.segmentation[0], (20, 15), 8, 12)
    assert painted.segmentation == mask_to_rle(ring())
    assert (apart.name, apart.box) == ("window", (4, 6, 24, 18))
    assert (
        notes.sentences()[0].count("1 results of the kind") == 2 and "1 regions without a class" in notes.sentences()[0]
    )


def test_label_studio_bytes_of_its_own_packer(one: Read) -> None:
    value = {"format": "rle", "rle": PACKED, "brushlabels": ["wheel"]}
    small = {"original_width": 4, "original_height": 3}
    (label,) = one("export.json", [task(result("brushlabels", value, **small))]).labels
    mask = segmentation_to_mask(label.segmentation, 3, 4)
    assert mask_to_box(mask) == (1, 1, 3, 2) and mask.sum() == 2


def test_label_studio_takes_one_annotation_of_a_picture(one: Read, notes: Notes) -> None:
    def annotated(x: float, **more: Any) -> dict[str, Any]:
        value = {"x": x, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["wheel"]}
        return {"id": 1, "was_cancelled": False, "result": [result("rectanglelabels", value)], **more}

    annotations = [annotated(10, was_cancelled=True), annotated(20), annotated(30, ground_truth=True)]
    found = one("export.json", [task(annotations=annotations)])
    assert [label.box for label in found.labels] == [(12, 0, 32, 15)]
    assert notes.sentences() == [f"Left out: 1 further annotations of the same picture ({found.name})."]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/3/0a1b2c3d-a%20b.jpg", "/data/upload/3/0a1b2c3d-a b.jpg"),
        ("/data/local-files/?d=photos/a%20b.jpg", "photos/a b.jpg"),
        ("s3://bucket/photos/a.jpg", "/photos/a.jpg"),
        ("https://example.org/photos/a.jpg?size=3", "/photos/a.jpg"),
    ],
)
def test_label_studio_addresses(one: Read, image: str, name: str) -> None:
    assert one("export.json", [task(image=image)]).name == name


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (task(image="about.txt"), r"export\.json: task 11\.data: expected one picture"),
        (
            task(result("rectanglelabels", {"x": 1, "y": 2, "width": 3, "height": "?", "rectanglelabels": ["a"]})),
            r"height: expected a number",
        ),
        (task(result("brushlabels", {"rle": [1, 999], "brushlabels": ["a"]})), "rle: expected a list of bytes"),
        (
            task(result("brushlabels", {"rle": brush(ring())[:-9], "brushlabels": ["a"]})),
            "rle: ends before the picture",
        ),
        (
            task(result("brushlabels", {"rle": brush(ring().T[:9]), "brushlabels": ["a"]})),
            r"expected 4 \* 30 \* 40 values",
        ),
        (
            task(result("polygonlabels", {"points": [1, 2], "polygonlabels": ["a"]})),
            r"points: expected a list of \[x, y\]",
        ),
        (
            task(result("rectanglelabels", {"x": 1, "rectanglelabels": "a"})),
            "rectanglelabels: expected a list of names",
        ),
    ],
)
def test_label_studio_refuses(one: Read, made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one("export.json", [made])


# -- YOLO -------------------------------------------------------------------------------------------------


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """As Ultralytics lays it out: a split has a folder of images and one of labels; b.jpg has nothing on it."""
    for name in ("train/a", "train/b", "val/c.d"):
        picture(tmp_path / "images" / f"{name}.jpg")
    write(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.25 0.2\n1 0.1 0.1 0.5 0.1 0.3 0.5\n\n")
    write(tmp_path / "labels/val/c.d.txt", "1 0.25 0.5 0.5 1\n")
    names = "  0: wheel\n  1: window\n"
    write(tmp_path / "data.yaml", f"path: /home/me/data\ntrain: images/train\nval: images/val\ntest:\nnames:\n{names}")
    return tmp_path


def test_yolo_boxes_and_polygons_are_shares(yolo: Path, notes: Notes) -> None:
    export = read(yolo, notes)
    a, b, c = export.pictures
    assert export.classes == ("wheel", "window") and all(p.in_shares for p in export.pictures)
    assert [(Path(p.name).name, p.split) for p in (a, b, c)] == [("a", "train"), ("b", "train"), ("c.d", "val")]
    box, polygon = a.labels
    np.testing.assert_allclose(box.box, (0.375, 0.4, 0.625, 0.6))
    assert (polygon.name, polygon.segmentation) == ("window", [[0.1, 0.1, 0.5, 0.1, 0.3, 0.5]])
    assert not b.labels and c.labels[0].box == (0, 0, 0.5, 1)


def test_yolo_splits_as_roboflow_and_as_lists(yolo: Path, notes: Notes) -> None:
    # Roboflow's train/images lies beside data.yaml, which says it does not.
    for kind in ("images", "labels"):
        (yolo / "valid").mkdir(exist_ok=True)
        (yolo / kind / "val").rename(yolo / "valid" / kind)
    write(yolo / "list.txt", "./images/train/a.jpg\n")
    write(yolo / "data.yaml", "train: list.txt\nval: ../valid/images\nnc: 2\nnames: ['wheel', 'window']\n")
    export = read(yolo, notes)
    assert [(Path(p.name).stem, p.split, len(p.labels)) for p in export.pictures] == [
        ("a", "train", 2),
        ("c", "val", 1),
    ]


@pytest.mark.parametrize("names_file", ["classes.txt", "obj.names"])
def test_yolo_without_yaml(tmp_path: Path, notes: Notes, names_file: str) -> None:
    write(tmp_path / names_file, "wheel\nwindow\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.jpg\n")
    write(tmp_path / "obj_train_data/a.txt", "1 0.5 0.5 0.25 0.2\n")
    (found,) = read(tmp_path, notes).pictures
    assert (Path(found.name).name, found.split, found.labels[0].name) == ("a", "train", "window")


def test_yolo_ids_of_no_class_are_left_out(yolo: Path, notes: Notes) -> None:
    write(yolo / "labels/train/a.txt", "2 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.25 0.2\n")
    assert [label.name for label in read(yolo, notes).pictures[0].labels] == ["window"]
    (said,) = notes.sentences()
    assert re.search(r"1 labels of a class 2, where there are 0 to 1 \(labels .*a\.txt: line 1\)", said)


def test_yolo_poses_are_boxes(yolo: Path, notes: Notes) -> None:
    with (yolo / "data.yaml").open("a") as file:
        file.write("kpt_shape: [1, 3]\n")
    write(yolo / "labels/train/a.txt", "0 0.5 0.5 0.25 0.2 0.4 0.4 2\n")
    assert read(yolo, notes).pictures[0].labels[0].box == (0.375, 0.4, 0.625, 0.6)
    assert "poses, kept as boxes without their keypoints" in notes.sentences()[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 120 80 40 30", r"a\.txt: line 1: expected shares of the picture, 0 to 1, got 120\.0"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 1: expected a class and x centre"),
        ("0 0.5 0.5 0.1", "line 1: expected a class and x centre"),
        ("wheel 0.5 0.5 0.1 0.1", "line 1: expected a number, got 'wheel'"),
    ],
)
def test_yolo_refuses_lines(yolo: Path, notes: Notes, line: str, message: str) -> None:
    write(yolo / "labels/train/a.txt", line)
    with pytest.raises(ValueError, match=message):
        read(yolo, notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: nowhere\nnames: [a]\n", r"data\.yaml: train: expected a folder of images or a list, but there is no"),
        (
            "train: images/train\nnames: {0: a, 2: b}\n",
            r"data\.yaml: names: expected a list of names, or names by 0, 1",
        ),
    ],
)
def test_yolo_refuses_yaml(yolo: Path, notes: Notes, content: str, message: str) -> None:
    write(yolo / "data.yaml", content)
    with pytest.raises(ValueError, match=message):
        read(yolo, notes)


# -- VIA --------------------------------------------------------------------------------------------------

VIA_REGIONS = [
    via_region("rect", {"part": "wheel"}, x=1, y=2, width=8, height=6),
    via_region("polygon", {"part": "window"}, all_points_x=[1, 9, 5], all_points_y=[2, 3, 8]),
    via_region("circle", {"part": "wheel"}, cx=20, cy=15, r=5.5),
    # Turned by a right angle.
    via_region("ellipse", {"part": "wheel"}, cx=20, cy=15, rx=8, ry=2, theta=math.pi / 2),
    via_region("point", {"part": "wheel"}, cx=3, cy=4),
    via_region("polyline", {"part": "wheel"}, all_points_x=[1, 2], all_points_y=[1, 2]),
    via_region("rect", {}, x=1, y=2, width=8, height=6),
]


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_via_2_regions(tmp_path: Path, notes: Notes, project: bool, version: int) -> None:
    content = via_2(*VIA_REGIONS, project=project)
    if version == 1:
        for entry in (content["_via_img_metadata"] if project else content).values():
            entry["regions"] = {str(k): region for k, region in enumerate(entry["regions"])}
    export = read(write(tmp_path / "via.json", content), notes)
    (found,) = export.pictures
    box, polygon, circle, oval, point = found.labels
    assert (box.box, point.point) == ((1, 2, 9, 8), (3, 4))
    assert (polygon.name, polygon.segmentation) == ("window", [[1, 2, 9, 3, 5, 8]])
    check_ellipse(circle.segmentation[0], (20, 15), 11, 11)
    check_ellipse(oval.segmentation[0], (20, 15), 4, 16)
    assert export.classes == (("wheel", "window") if project else ())
    assert notes.sentences() == ["Left out: 1 lines (a.jpg); 1 regions without a class (a.jpg)."]


def test_via_2_class_among_attributes(one: Read, notes: Notes) -> None:
    box = {"x": 1, "y": 2, "width": 8, "height": 6}
    boxes = {"rusty": {"yes": True}, "Class": "wheel"}
    found = one("via.json", via_2(via_region("rect", boxes, **box), caption="mine"))
    assert [label.name for label in found.labels] == ["wheel"]
    assert "1 pictures' own attributes" in notes.sentences()[0]
    found = one("via.json", via_2(via_region("rect", {"part": {"wheel": True, "window": False}}, **box)))
    assert [label.name for label in found.labels] == ["wheel"]
    with pytest.raises(ValueError, match=r"via\.json: region attributes \['side', 'part'\]: expected one, or one"):
        one("via.json", via_2(via_region("rect", {"side": "left", "part": "wheel"}, **box)))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (via_region("rect", {"part": "wheel"}, x=1, y=2, width=8), r"regions\[0\]\.shape_attributes\.height: expected"),
        (
            via_region("polygon", {"part": "wheel"}, all_points_x=[1, 2, 3], all_points_y=[1, 2]),
            "expected as many all_points_x as all_points_y",
        ),
        ({"shape_attributes": {}}, r"regions\[0\]\.region_attributes: expected a mapping, got None"),
    ],
)
def test_via_2_refuses(one: Read, region: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one("via.json", via_2(region))


def test_via_3_regions(tmp_path: Path, notes: Notes) -> None:
    content = via_3(
        {
            "1_a": {"xy": [2, 1, 2, 8, 6], "av": {"1": "0"}},
            "1_b": {"xy": [7, 1, 2, 9, 3, 5, 8], "av": {"1": "1"}},
            "1_c": {"xy": [3, 20, 15, 5.5], "av": {"1": "0"}},
            "1_d": {"xy": [4, 20, 15, 2, 8], "av": {"1": "0"}},
            "1_e": {"xy": [1, 3, 4], "av": {"1": "0"}},
            "1_f": {"xy": [6, 1, 2, 3, 4], "av": {"1": "0"}},
            "1_g": {"xy": [8, 1, 2, 3, 4, 5, 6, 7, 8], "av": {"1": "0"}},
            "1_h": {"xy": [2, 1, 2, 8, 6], "av": {}},
            "1_i": {"xy": [2, 1, 2, 8, 6], "av": {"1": "0"}, "flg": 1},
            "1_j": {"xy": [], "z": [1.5, 2.5], "av": {}},
            "1_k": {"xy": [], "av": {"2": "0,1"}},
        }
    )
    export = read(write(tmp_path / "via.json", content), notes)
    (found,) = export.pictures
    box, polygon, circle, oval, point = found.labels
    assert (found.name, found.tags, export.classes) == ("a.jpg", ["wheel", "window"], ("wheel", "window"))
    assert (box.box, point.point) == ((1, 2, 9, 8), (3, 4))
    assert (polygon.name, polygon.segmentation) == ("window", [[1, 2, 9, 3, 5, 8]])
    check_ellipse(circle.segmentation[0], (20, 15), 11, 11)
    check_ellipse(oval.segmentation[0], (20, 15), 4, 16)
    for kind in ("lines", "regions of the kind 'number 8'", "regions without a class", "segments of a video"):
        assert f"1 {kind}" in notes.sentences()[0]
    content["metadata"]["1_a"]["xy"].pop()
    with pytest.raises(ValueError, match=r"metadata '1_a'\.xy: expected the numbers \('x', 'y', 'width', 'height'\)"):
        read(write(tmp_path / "via.json", content), notes)


# -- Pascal VOC -------------------------------------------------------------------------------------------


def test_voc_boxes_are_numbered_from_one_unless_one_is_zero(tmp_path: Path, notes: Notes) -> None:
    part = voc_object("head", (3, 4, 10, 12), tag="part")
    write(tmp_path / "Annotations/a.xml", voc(voc_object("person", (1, 1, 40, 30), part)))
    (found,) = read(tmp_path, notes).pictures
    assert found.size == (30, 40) and found.name == "a.jpg"
    # A box of all pixels is the whole picture.
    assert [(label.name, label.box) for label in found.labels] == [
        ("person", (0, 0, 40, 30)),
        ("person's head", (2, 3, 10, 12)),
    ]
    assert notes.sentences() == ["2 VOC boxes were read with pixels numbered from 1 and the last ones in the box."]
    write(tmp_path / "Annotations/b.xml", voc(voc_object("person", (0, 2, 39.5, 30)), "b.jpg"))
    boxes = [label.box for p in read(tmp_path, notes).pictures for label in p.labels]
    assert boxes == [(1, 1, 40, 30), (3, 4, 10, 12), (0, 2, 39.5, 30)]


def test_voc_splits_sizes_and_other_elements(tmp_path: Path, notes: Notes) -> None:
    more = "<polygon><x1>1</x1><y1>1</y1></polygon>"
    for name in "abc":
        write(tmp_path / f"Annotations/{name}.xml", voc(voc_object("wheel", (2, 2, 9, 9), more), f"{name}.jpg", 0, 0))
    write(tmp_path / "ImageSets/Main/train.txt", "a\nc\n")
    write(tmp_path / "ImageSets/Main/val.txt", "b\n")
    found = read(tmp_path, notes).pictures
    assert [p.split for p in found] == ["train", "val", "train"] and found[0].size is None
    assert "3 elements <polygon> (a.jpg, b.jpg, c.jpg)" in notes.sentences()[0]
    write(tmp_path / "Annotations/a.xml", voc("<object><name>wheel</name></object>"))
    read(tmp_path, notes)
    assert "1 objects without a <bndbox>" in notes.sentences()[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (voc(voc_object("wheel", ("one", 2, 3, 4))), r"a\.xml: xmin: expected a number, got 'one'"),
        (voc(voc_object("wheel", (1, 2, 3))), r"a\.xml: object\[0\]\.bndbox\.ymax: expected a number, got None"),
        (voc(voc_object("", (1, 2, 3, 4))), r"a\.xml: object\[0\]\.name: expected a text"),
        ("<!DOCTYPE annotation []>" + voc(""), r"a\.xml: has a document type \(<!DOCTYPE annotation>\)"),
    ],
)
def test_voc_refuses(one: Read, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one("a.xml", content)


# -- tags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "a.jpg,wheel,window\nb.jpg,wheel\nc.jpg\n",
        "file,tag\na.jpg,wheel\na.jpg,window\nb.jpg,wheel\nc.jpg,\n",
        "filename, wheel, window\na.jpg,1,1\nb.jpg,1,0\nc.jpg,0,0\n",
        'file;tags\r\n"a.jpg";wheel;window\r\nb.jpg;wheel\r\nc.jpg;\r\n',
    ],
)
def test_tags_of_a_csv(tmp_path: Path, notes: Notes, content: str) -> None:
    found = read(write(tmp_path / "tags.csv", content), notes).pictures
    assert [(p.name, p.tags) for p in found] == [("a.jpg", ["wheel", "window"]), ("b.jpg", ["wheel"]), ("c.jpg", [])]


def test_a_csv_that_is_none_of_tags_is_refused(tmp_path: Path, notes: Notes) -> None:
    heading = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    row = 'a.jpg,2043,"{}",1,0,"{""name"":""rect""}","{""part"":""wheel""}"'
    with pytest.raises(ValueError, match=r"tags\.csv: is a CSV of VIA; expected its JSON"):
        read(write(tmp_path / "tags.csv", f"{heading}\n{row}\n"), notes)
    with pytest.raises(ValueError, match=r"tags\.csv: line 2: expected 2 of 0 and 1, got 1"):
        read(write(tmp_path / "tags.csv", "file,wheel,window\na.jpg,1\n"), notes)


# -- boxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "file,part,x,y,width,height\na.jpg,wheel,1,2,8,6.5\na.jpg,window,0,0,4,3\nb.jpg,,,,,\n",
        "X;Y;Width;Height;Part;File\r\n1;2;8;6.5;wheel;a.jpg\r\n0;0;4;3;window;a.jpg\r\n;;;;;b.jpg\r\n",
    ],
)
def test_boxes_of_a_csv(tmp_path: Path, notes: Notes, content: str) -> None:
    source = write(tmp_path / "boxes.csv", content)
    assert detect_format(source) == "boxes_csv"
    a, b = read(source, notes).pictures
    assert [(label.name, label.box) for label in a.labels] == [("wheel", (1, 2, 9, 8.5)), ("window", (0, 0, 4, 3))]
    assert (a.name, a.tags, a.in_shares) == ("a.jpg", [], False) and (b.name, b.labels, b.tags) == ("b.jpg", [], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,part,x,y,width,height\na.jpg,wheel,1,2,8\n", r"boxes\.csv: row 2: expected 6 cells, file, .*, got 5"),
        ("file,part,x,y,width,height\na.jpg,wheel,1,2,8,?\n", r"row 2: height: expected a number, got '\?'"),
        # None of them is taken for tags.
        (
            "file,part,x0,y0,x1,y1\na.jpg,wheel,1,2,8,6\n",
            "unknown headings x0, y0, x1, y1; .* of boxes the heading file,part,x,y,width,height",
        ),
        ("a.jpg,wheel,1,2,8,6.5\nb.jpg,wheel,1,-2,8,6\n", "four numbers a line, which are no tags; expected file,tag"),
    ],
)
def test_a_csv_that_is_none_of_boxes_is_refused(tmp_path: Path, notes: Notes, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "boxes.csv", content), notes)


# -- which format -----------------------------------------------------------------------------------------


def test_no_format_and_several_are_told(tmp_path: Path, notes: Notes) -> None:
    write(tmp_path / "notes.json", {"some": "json"})
    with pytest.raises(ValueError, match="of no known format; expected one of coco: "):
        detect_format(tmp_path)
    with pytest.raises(ValueError, match=r"no file of the format labelme \(LabelMe"):
        read_labels(tmp_path, "labelme", notes)
    with pytest.raises(ValueError, match="expected a file or a folder, but it does not exist"):
        detect_format(tmp_path / "nowhere")
    write(tmp_path / "a.json", labelme())
    write(tmp_path / "annotations.xml", cvat(""))
    with pytest.raises(
        ValueError, match=r"could be labelme \(a\.json\), cvat \(annotations\.xml\); choose with --format"
    ):
        detect_format(tmp_path)
    assert len(read_labels(tmp_path, "labelme", notes).pictures) == 1
    assert "files that are not of the format labelme (notes.json)" in notes.sentences()[-1]


def test_every_format_is_found_by_its_own_name() -> None:
    assert list(FORMATS) == [form.name for form in FORMATS.values()]
    assert len(set(FORMATS)) == 9
