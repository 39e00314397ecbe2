"""The loaders on copies of the published layouts, every trap of theirs, and bad input with its message."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

from wps_sam.data.sources.builtin import PARTIMAGENET_SPLITS
from wps_sam.data.sources.coco import (
    find_coco_json,
    load_coco_parts,
    load_coco_vocabulary,
    load_partimagenet,
    load_vocabulary,
    register_part_dataset,
)
from wps_sam.data.sources.part_map_check import check_part_map_ids
from wps_sam.masks import mask_to_rle, read_part_map

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from part_layouts import BICYCLE, DOG, EMPTY, HEIGHT, PICTURES, WIDTH, Split, part_map_of
from PIL import Image

VOCABULARY = load_vocabulary("partimagenet")
METADATA = SimpleNamespace(**VOCABULARY.metadata())


def load(split: Split) -> list[dict]:
    return load_partimagenet(str(split.images), str(split.json_file), VOCABULARY)


def by_stem(records: list[dict]) -> dict[str, dict]:
    return {Path(record["file_name"]).stem: record for record in records}


def test_vocabulary_is_the_published_list():
    assert len(VOCABULARY.names) == 40
    assert VOCABULARY.names[0] == "Quadruped Head" and VOCABULARY.names[26] == "Car Side Mirror"
    assert VOCABULARY.names[39] == "Bottle Body"
    assert len(set(VOCABULARY.supercategories)) == 11
    assert METADATA.background_label == 40 and METADATA.ignore_label == 255
    assert METADATA.stuff_classes == [*METADATA.thing_classes, "background"]
    assert METADATA.label_map == {i: i for i in range(41)}


@pytest.mark.parametrize("name", PARTIMAGENET_SPLITS)
def test_published_splits_are_registered_on_import(name):
    assert name in DatasetCatalog.list()
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "part_seg" and metadata.layout == "partimagenet"
    assert len(metadata.thing_classes) == 40 and metadata.family == "partimagenet"
    # Ids are 0..39 already; a mapping would only make Detectron2's evaluator translate for nothing.
    assert "thing_dataset_id_to_contiguous_id" not in metadata.as_dict()
    with pytest.raises(ValueError, match=re.escape(metadata.image_root)):
        DatasetCatalog.get(name)


def test_seg_layout(seg):
    records = load(seg)
    assert [Path(r["file_name"]).stem for r in records] == list(PICTURES)
    dog = by_stem(records)[DOG]
    assert dog["file_name"] == str(seg.images / f"{DOG}.JPEG")
    assert (dog["image_id"], dog["height"], dog["width"]) == (0, HEIGHT, WIDTH)
    # Category 0 is a part, not background; two feet are two annotations.
    assert [a["category_id"] for a in dog["annotations"]] == [1, 0, 2, 2]
    assert dog["annotations"][1]["bbox"] == [40.0, 5.0, 12.0, 12.0]
    assert dog["annotations"][1]["bbox_mode"] == BoxMode.XYWH_ABS
    assert np.array_equal(read_part_map(dog, METADATA), part_map_of(PICTURES[DOG]))


def test_image_without_annotations_stays(seg):
    empty = by_stem(load(seg))[EMPTY]
    assert empty["annotations"] == []
    assert (read_part_map(empty, METADATA) == 40).all()


def test_ood_layout_has_class_folders_and_no_label_maps(ood):
    records = by_stem(load(ood))
    assert records[BICYCLE]["file_name"] == str(ood.images / "n02835271" / f"{BICYCLE}.JPEG")
    assert all("sem_seg_file_name" not in record for record in records.values())
    # Painted from the annotations instead.
    assert np.array_equal(read_part_map(records[BICYCLE], METADATA), part_map_of(PICTURES[BICYCLE]))


def test_back_slashes_in_file_names(ood):
    ood.rewrite(lambda coco: coco["images"][0].update(file_name=f"train\\n02102040\\{DOG}.JPEG"))
    assert DOG in by_stem(load(ood))


def test_litter_in_the_json_is_left_out(seg, caplog):
    def change(coco):
        coco["images"].append({**coco["images"][0], "id": 99, "file_name": f"._{DOG}.JPEG"})
        coco["annotations"].append({**coco["annotations"][0], "id": 99, "image_id": 99})

    seg.rewrite(change)
    with caplog.at_level(logging.WARNING):
        assert len(load(seg)) == len(PICTURES)
    assert "1 entries of macOS litter" in caplog.text


def test_the_coco_file_is_found_by_name(seg, tmp_path):
    assert find_coco_json(str(seg.json_file.parent), "train") == str(seg.json_file)
    # Also where the split is named otherwise than the folder, and where the json itself is given.
    assert find_coco_json(str(seg.json_file.parent), "training") == str(seg.json_file)
    assert find_coco_json(str(seg.json_file), "train") == str(seg.json_file)
    with pytest.raises(ValueError, match=r"nowhere.*does not exist"):
        find_coco_json(str(tmp_path / "nowhere"), "train")
    with pytest.raises(ValueError, match=r"no COCO file; looked for .*val\.json"):
        find_coco_json(str(seg.images), "val")


POLYGON = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


@pytest.mark.parametrize(
    ("segmentation", "kept"),
    [
        ([], None),
        (None, None),
        ([[]], None),
        ([[1.0, 2.0]], None),
        ([[1.0, 2.0, 3.0, 4.0]], None),
        ([[1.0, 2.0, 3.0, 4.0, 5.0]], None),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], None),
        ([[1.0, 2.0, 3.0, 4.0], POLYGON], [POLYGON]),
        ([POLYGON, [1.0, 2.0]], [POLYGON]),
        ("rubbish", None),
        ([1.0, 1.0, 9.0, 1.0, 9.0, 9.0], [POLYGON]),
        ([1.0, 1.0, 9.0], None),
        ({"size": [1, 1], "counts": [1]}, None),
    ],
)
def test_broken_polygons_go_and_the_box_stays(seg, caplog, segmentation, kept):
    seg.change_annotation(0, segmentation=segmentation, area=0)
    with caplog.at_level(logging.WARNING):
        annotation = load(seg)[0]["annotations"][0]
    assert annotation.get("segmentation") == kept
    assert annotation["bbox"] == [10.0, 10.0, 30.0, 15.0]
    if kept is None:
        assert re.search(r"1 annotations without a usable mask.*annotation ids 0\)", caplog.text)


def test_what_the_authors_rule_would_drop_is_marked(seg):
    seg.change_annotation(0, segmentation=[[1.0, 2.0, 3.0, 4.0], POLYGON])
    first, second = load(seg)[0]["annotations"][:2]
    assert first["dropped_by_wps_sam"] and "dropped_by_wps_sam" not in second


NOTHING = "1 annotations with neither a usable mask, box nor point"


@pytest.mark.parametrize("bbox", [[10, 10, 0, 15], [10, 10, 30, -1], [WIDTH, 0, 5, 5], [-9, -9, 5, 5]])
def test_bad_box_is_counted_and_kept_only_for_a_mask(seg, caplog, bbox):
    seg.change_annotation(0, bbox=bbox)
    seg.change_annotation(1, bbox=bbox, segmentation=[])
    with caplog.at_level(logging.WARNING):
        annotations = load(seg)[0]["annotations"]
    assert [a["id"] for a in annotations] == [0, 2, 3]
    assert "1 boxes of no size or outside the image, kept for their mask or point (annotation ids 0)" in caplog.text
    assert f"{NOTHING}, kept as tags of their pictures (annotation ids 1)" in caplog.text


def test_a_point_is_kept_where_it_lies_in_the_picture(seg, caplog):
    # The first pixel's and the last pixel's outer corner, SAM's convention; then half a pixel further.
    for position, point in enumerate([[-0.5, 3], [WIDTH - 0.5, HEIGHT - 0.5], [WIDTH, 3], None]):
        seg.change_annotation(position, point=point)
    with caplog.at_level(logging.WARNING):
        annotations = load(seg)[0]["annotations"]
    assert [a.get("point") for a in annotations] == [[-0.5, 3.0], [WIDTH - 0.5, HEIGHT - 0.5], None, None]
    assert "1 points outside the image left out (annotation ids 2)" in caplog.text
    assert all("bbox" in a and "segmentation" in a for a in annotations)


@pytest.mark.parametrize("bbox", [None, [10, 10, 0, 15]])
def test_an_annotation_may_be_a_point_alone(seg, caplog, bbox):
    """Without a box, as a box of no size would only be taken for one."""
    seg.change_annotation(0, bbox=bbox, segmentation=[], point=[12, 13.5])
    with caplog.at_level(logging.WARNING):
        record = load(seg)[0]
    assert record["annotations"][0] == {"id": 0, "category_id": 1, "iscrowd": 0, "point": [12.0, 13.5]}
    assert "tags" not in record
    assert "1 annotations without a usable mask, kept for their box or point (annotation ids 0)" in caplog.text


def test_boxes_alone_are_no_reason_for_a_warning(seg, caplog):
    content = json.loads(seg.json_file.read_text())
    content["annotations"] = [{**a, "segmentation": []} for a in content["annotations"]]
    seg.json_file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert all("segmentation" not in a for a in load(seg)[0]["annotations"])
    assert "without a usable mask" not in caplog.text


def test_a_missing_box_is_that_of_the_mask(seg):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[7:9, 20:25] = True
    for position, segmentation in enumerate(
        [
            # Two pieces, and one that leaves the picture.
            [[1.5, 2, 9, 2, 9, 8], [3, 4, 20, 4, 20, 30.5]],
            [[50, 30, WIDTH + 9, 30, WIDTH + 9, HEIGHT + 5, 50, HEIGHT + 5], [-3.0, 20, 51, 20, 51, 31]],
            mask_to_rle(mask),
        ]
    ):
        seg.change_annotation(position, bbox=None, segmentation=segmentation)
    seg.rewrite(lambda coco: coco["annotations"][3].pop("bbox"))
    annotations = load(seg)[0]["annotations"]
    assert [a["bbox"] for a in annotations] == [
        *([1.5, 2.0, 18.5, 28.5], [0.0, 20.0, WIDTH, HEIGHT - 20.0], [20.0, 7.0, 5.0, 2.0], [30.0, 25.0, 5.0, 10.0])
    ]
    assert {a["bbox_mode"] for a in annotations} == {BoxMode.XYWH_ABS}


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[WIDTH + 1, 2, WIDTH + 9, 2, WIDTH + 9, 8]],
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [3, 5]},
    ],
    ids=["none", "polygon outside", "empty encoding", "encoding too short"],
)
def test_what_has_no_usable_place_tags_its_picture(seg, caplog, segmentation):
    seg.change_annotation(1, bbox=None, segmentation=segmentation, point=[-1, 5])
    with caplog.at_level(logging.WARNING):
        records = load(seg)
    assert [a["id"] for a in records[0]["annotations"]] == [0, 2, 3]
    # Annotation 1 is the head; the other classes are known from their annotations.
    assert [record.get("tags") for record in records] == [[0], None, None]
    assert f"{NOTHING}, kept as tags of their pictures (annotation ids 1)" in caplog.text


def test_a_crowd_or_the_background_without_a_place_is_no_tag(seg, caplog):
    seg.change_annotation(1, bbox=None, segmentation=[], iscrowd=1)
    seg.rewrite(lambda coco: coco["categories"].append({"id": 40, "name": "background"}))
    seg.change_annotation(2, bbox=None, segmentation=[], category_id=40)
    with caplog.at_level(logging.WARNING):
        record = load(seg)[0]
    assert [a["id"] for a in record["annotations"]] == [0, 3] and "tags" not in record
    assert f"1 crowd {NOTHING[2:]}, left out (annotation ids 1)" in caplog.text


def test_tags_of_an_image_join_those_of_its_annotations(seg):
    seg.change_annotation(0, bbox=None, segmentation=[])
    tags = ["bottle  body", "Quadruped Head", "_background_", "Bottle Body, flask"]
    seg.rewrite(lambda coco: coco["images"][0].update(tags=tags))
    seg.rewrite(lambda coco: coco["images"][1].update(tags=None))
    seg.rewrite(lambda coco: coco["images"][2].update(tags=["Background"]))
    assert [record.get("tags") for record in load(seg)] == [[0, 1, 39], None, None]


def test_no_part_map_is_painted_from_a_point(ood):
    ood.change_annotation(1, bbox=None, segmentation=[], point=[12, 13])
    record = by_stem(load(ood))[DOG]
    with pytest.raises(ValueError, match=rf"{DOG}\.JPEG: annotation 1: expected a mask or a box to paint"):
        read_part_map(record, METADATA)


def test_run_length_encodings_are_kept(seg):
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 2, HEIGHT * (WIDTH - 2)]}
    seg.change_annotation(0, segmentation=uncompressed)
    assert load(seg)[0]["annotations"][0]["segmentation"] == uncompressed


def test_background_category_and_classes_without_annotations(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"")
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "wheel"}, {"id": 4, "name": "window"}]
    annotation = {"image_id": 1, "bbox": [1, 1, 2, 2], "segmentation": []}
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}],
        "annotations": [{"id": 1, "category_id": 0, **annotation}, {"id": 2, "category_id": 4, **annotation}],
        "categories": categories,
    }
    json_file = tmp_path / "parts.json"
    json_file.write_text(json.dumps(coco))
    classes = load_coco_vocabulary(str(json_file))
    assert classes.names == ("wheel", "window")
    register_part_dataset(tmp_path.name, "coco", str(tmp_path), str(json_file), classes)
    metadata = MetadataCatalog.get(tmp_path.name)
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 4: 1}
    assert metadata.label_map == {1: 0, 4: 1, 0: 2, 5: 2}
    with caplog.at_level(logging.WARNING):
        [record] = load_coco_parts(str(tmp_path), str(json_file), classes)
    assert [a["category_id"] for a in record["annotations"]] == [1]
    assert "1 annotations of the background category left out" in caplog.text
    # Pictures beside the json are no label maps.
    assert "sem_seg_file_name" not in load_partimagenet(str(tmp_path), str(json_file), classes)[0]


def test_ids_that_start_at_one_leave_zero_for_background(tmp_path):
    coco = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate("ab")]}
    json_file = tmp_path / "parts.json"
    json_file.write_text(json.dumps(coco))
    assert load_coco_vocabulary(str(json_file)).label_map == {1: 0, 2: 1, 0: 2, 3: 2}
    # A given list sets the order, and may name a class that the json does not have.
    classes = load_coco_vocabulary(str(json_file), ("b", "C", "a"))
    assert classes.dataset_ids == (2, 3, 1)
    assert load_coco_vocabulary(str(json_file), ("b",)).names == ("b",)
    coco["annotations"].append({"id": 1, "image_id": 1, "category_id": 1})
    json_file.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"parts\.json: categories: \['a'\] are not among the given classes"):
        load_coco_vocabulary(str(json_file), ("b",))


def test_coco_layout_with_folders_in_file_names(seg):
    folder = seg.images.parent
    seg.rewrite(lambda coco: coco["images"][0].update(file_name=f"train/{DOG}.JPEG"))
    seg.rewrite(lambda coco: coco.update(images=coco["images"][:1], annotations=coco["annotations"][:4]))
    [record] = load_coco_parts(str(folder), str(seg.json_file), VOCABULARY)
    assert record["file_name"] == str(folder / "train" / f"{DOG}.JPEG")
    assert "sem_seg_file_name" not in record


def _set_first(key, field, value):
    def change(coco):
        coco[key][0][field] = value

    return change


def _unset_first(key, field):
    return lambda coco: coco[key][0].pop(field)


def _double(key):
    return lambda coco: coco[key].append(coco[key][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set_first("annotations", "category_id", 40), r"annotations\[0\].*category_id: unknown category 40"),
        (_set_first("annotations", "category_id", "three"), r"category_id: expected an integer, got 'three'"),
        (_set_first("annotations", "image_id", 99), r"annotations\[0\].*\.image_id: 99 is the id of no image"),
        (_set_first("annotations", "bbox", [1, 2, 3]), r"bbox: expected \[x, y, width, height\].*got \[1, 2, 3\]"),
        (_set_first("annotations", "bbox", [1, 2, float("nan"), 3]), r"bbox: expected .*nan"),
        (_set_first("annotations", "bbox", []), r"annotations\[0\].*bbox: .*got \[\]"),
        (_set_first("annotations", "point", [1]), r"annotations\[0\].*point: expected \[x, y\].*got \[1\]"),
        (_set_first("annotations", "point", [1, float("inf")]), r"point: expected \[x, y\] in pixels, got \[1, inf\]"),
        (_set_first("annotations", "point", "middle"), r"point: expected \[x, y\] in pixels, got 'middle'"),
        (_set_first("images", "tags", "Quadruped Head"), r"images\[0\]\.tags: expected a list of class names"),
        (
            _set_first("images", "tags", ["Quadruped Head", "Unicorn Horn"]),
            r"images\[0\]\.tags: unknown class 'Unicorn Horn'; expected some of \['Quadruped Head', ",
        ),
        (_unset_first("annotations", "id"), r"annotations\[0\]\.id: expected an integer, got None"),
        (_double("annotations"), r"annotations\[7\]\.id: 0 occurs twice"),
        (_double("images"), r"images\[3\]\.id: 0 occurs twice"),
        (_double("categories"), r"categories\[40\]\.id: 0 occurs twice"),
        (_set_first("images", "file_name", "gone.JPEG"), r"images\[0\]\.file_name: the image does not exist; .*gone"),
        (_set_first("images", "height", 0), r"images\[0\]\.height: expected an integer of at least 1, got 0"),
        (_unset_first("images", "width"), r"images\[0\]\.width: .*got None"),
        (_set_first("categories", "name", "Unicorn Horn"), r"categories: unknown class 'Unicorn Horn'"),
        (_set_first("categories", "name", "Quadruped Body"), r"categories\[1\]\.name: 'Quadruped Body' occurs twice"),
        (lambda coco: coco.update(images=[], annotations=[]), r"images: expected at least one image"),
        (lambda coco: coco.pop("annotations"), r"expected a COCO file with the lists .*got \['categories', 'images'\]"),
        (
            lambda coco: (
                coco["categories"][0].update(name="Quadruped Body")
                or coco["categories"][1].update(name="Quadruped Head")
            ),
            r"'Quadruped Body' has the id 0; expected 1",
        ),
    ],
)
def test_bad_json_is_refused_with_file_and_field(seg, change, message):
    seg.rewrite(change)
    with pytest.raises(ValueError, match=rf"train\.json: .*{message}"):
        load(seg)


def test_json_cut_in_half(seg):
    text = seg.json_file.read_text()
    seg.json_file.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"train\.json: no valid json, perhaps cut off: .*line 1"):
        load(seg)


def test_json_of_one_image_instead_of_the_split(seg):
    path = seg.json_file.parent / f"{DOG}.json"
    with pytest.raises(ValueError, match=r"expected a COCO file .* got \['imgHeight', 'imgWidth'\]"):
        load_partimagenet(str(seg.images), str(path), VOCABULARY)


def test_missing_folder_file_and_label_map(seg):
    with pytest.raises(ValueError, match=r"images .*nowhere: expected a folder"):
        load_partimagenet(str(seg.images / "nowhere"), str(seg.json_file), VOCABULARY)
    with pytest.raises(ValueError, match=r"annotations .*nowhere\.json: the file does not exist"):
        load_partimagenet(str(seg.images), str(seg.json_file.with_name("nowhere.json")), VOCABULARY)
    (seg.json_file.parent / f"{DOG}.png").unlink()
    with pytest.raises(ValueError, match=rf"label maps: 1 of 3 are missing, among them .*{DOG}\.png"):
        load(seg)


def test_label_maps_in_the_jsons_order_pass(seg):
    check_part_map_ids(load(seg), METADATA)
    check_part_map_ids([], METADATA)


def test_permuted_label_maps_fail_with_the_permutation(seg):
    path = seg.json_file.parent / f"{BICYCLE}.png"
    stored = np.array(Image.open(path))
    # The order that a published list gives to the bicycle's parts.
    body, head = stored == 27, stored == 28
    stored[body], stored[head] = 28, 27
    Image.fromarray(stored).save(path)
    with pytest.raises(ValueError, match="number the parts differently") as error:
        check_part_map_ids(load(seg), METADATA)
    assert "Bicycle Body (class 27): expected 27, found 28 (100%)" in str(error.value)
    assert "Bicycle Head (class 28): expected 28, found 27 (100%)" in str(error.value)
    assert "Quadruped" not in str(error.value)


def test_the_check_sees_every_class_even_with_few_images(seg):
    path = seg.json_file.parent / f"{BICYCLE}.png"
    stored = np.array(Image.open(path))
    Image.fromarray(np.where(stored == 30, 29, stored).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"Bicycle Tier \(class 30\): expected 30, found 29"):
        check_part_map_ids(load(seg), METADATA, max_images=1)


def test_label_map_of_another_size(seg):
    path = seg.json_file.parent / f"{DOG}.png"
    Image.open(path).resize((WIDTH * 2, HEIGHT)).save(path)
    record = by_stem(load(seg))[DOG]
    message = rf"label map .*{DOG}\.png: height and width are \(40, 120\), but .*says \(40, 60\)"
    with pytest.raises(ValueError, match=message):
        check_part_map_ids([record], METADATA)
    with pytest.raises(ValueError, match=message):
        read_part_map(record, METADATA)
