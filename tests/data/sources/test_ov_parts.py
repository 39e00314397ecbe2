"""Pascal-Part-116 and ADE20K-Part-234: what each of OV-PARTS' data sets holds, and the traps of the downloads."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from wps_sam.data.sources.builtin import OV_PARTS_SETS, PASCAL_PART_PROTOCOLS, register_all_ov_parts
from wps_sam.data.sources.coco import load_vocabulary, read_vocabulary
from wps_sam.data.sources.ov_parts import (
    ADE20K_PART_234,
    PARTIMAGENET_147,
    PASCAL_PART_116,
    OVSet,
    draw_few_shot,
    load_ade20k_part_234,
    load_ov_vocabulary,
    load_partimagenet_147,
    load_pascal_part_116,
    ov_metadata,
    prepare,
)
from wps_sam.masks import read_label_png, read_object_map, read_part_map

import numpy as np
import ov_layouts
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from ov_layouts import write_ade20k_part_234, write_partimagenet, write_pascal_part_116
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "ov_parts_test_"
PASCAL_VAL, ADE_VAL = OVSet("val", "object", "all"), OVSet("val", "object", "all")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The root of all data sets, read only. Folders above are called like what the reference replaces in paths."""
    root = tmp_path_factory.mktemp("some_part") / "images_of_jpgs" / "datasets"
    root.mkdir(parents=True)
    write_pascal_part_116(root)
    write_ade20k_part_234(root)
    write_partimagenet(root)
    register_all_ov_parts(str(root), PREFIX)
    return root


def records_of(name):
    return DatasetCatalog.get(PREFIX + name), MetadataCatalog.get(PREFIX + name)


def image_ids(name):
    return [record["image_id"] for record in records_of(name)[0]]


# --- Vocabularies


@pytest.mark.parametrize(
    ("family", "num_objects", "num_unseen_objects", "num_classes", "num_unseen", "ignore_label"),
    [
        ("pascal_part_116", 20, 5, 116, 42, 255),
        ("ade20k_part_234", 44, 11, 234, 58, 65535),
        ("partimagenet_147", 40, 15, 147, 55, 65535),
    ],
)
def test_vocabulary_has_the_published_counts(
    family, num_objects, num_unseen_objects, num_classes, num_unseen, ignore_label
):
    vocabulary = load_ov_vocabulary(family)
    assert len(vocabulary.object_names) == num_objects
    assert len(vocabulary.unseen_objects) == num_unseen_objects
    assert len(vocabulary) == num_classes
    assert len(vocabulary.unseen) == num_unseen
    assert vocabulary.ignore_label == ignore_label
    # Ids are positions, and a part is unseen exactly if its object is.
    assert vocabulary.dataset_ids == tuple(range(num_classes))
    for c, (name, owner) in enumerate(zip(vocabulary.names, vocabulary.part_objects)):
        assert name.startswith(f"{vocabulary.object_names[owner]}'s ")
        assert (c in vocabulary.unseen) == (owner in vocabulary.unseen_objects)


def test_objects_of_parts_are_found_by_equality():
    """The eight objects of ADE whose name is inside another part's name, by datasets.md."""
    vocabulary = load_ov_vocabulary("ade20k_part_234")
    of = dict(zip(vocabulary.names, (vocabulary.object_names[i] for i in vocabulary.part_objects)))
    assert of["armchair's seat"] == "armchair" and of["cabinet's door"] == "cabinet"
    assert of["car's headlight"] == "car" and of["coffee table's leg"] == "coffee table"
    assert of["pool table's bed"] == "pool table" and of["dishwasher's handle"] == "dishwasher"
    assert of["cooking stove's oven"] == "cooking stove" and of["cabinet's shelf"] == "cabinet"
    assert of["chest of drawers's leg"] == "chest of drawers"
    chairs = [name for name, owner in of.items() if owner == "chair"]
    assert len(chairs) == 9 and len([name for name in of if "chair" in name]) == 21


def test_objects_do_not_own_the_classes_in_their_order():
    """ADE's objects are alphabetical, its classes are not: the first class is a person's, of object 27."""
    vocabulary = load_ov_vocabulary("ade20k_part_234")
    assert vocabulary.part_objects[0] == 27 and list(vocabulary.part_objects) != sorted(vocabulary.part_objects)


@pytest.mark.parametrize("benchmark", [PASCAL_PART_116, ADE20K_PART_234], ids=lambda b: b.family)
def test_names_ids_and_seen_ids_equal_the_published_lists(benchmark, specs):
    expected, vocabulary = specs[benchmark.family], load_ov_vocabulary(benchmark.family)
    assert [o["name"] for o in expected["objects"]] == list(vocabulary.object_names)
    assert {o["id"] for o in expected["objects"] if not o["seen"]} == vocabulary.unseen_objects
    assert [c["name"] for c in expected["obj_parts"]] == list(vocabulary.names)
    assert [c["object"] for c in expected["obj_parts"]] == list(vocabulary.supercategories)
    metadata = ov_metadata(vocabulary, OVSet("train", "image", "seen"))
    assert metadata["obj_part_map"] == {c["id"]: c["train_id"] for c in expected["obj_parts"] if c["seen"]}
    assert metadata["thing_classes"] == expected["seen_obj_parts"]


def test_objects_of_partimagenet_equal_the_published_lists(specs):
    expected = specs["partimagenet"]["open_vocabulary_40_objects"]
    vocabulary, content = load_ov_vocabulary("partimagenet_147"), read_vocabulary("partimagenet_147")
    assert [{k: o[k] for k in ("id", "name", "wnid", "seen")} for o in expected["objects"]] == content["objects"]
    assert [c["name"] for c in expected["obj_parts"]] == list(vocabulary.names)
    assert [c["object"] for c in expected["obj_parts"]] == list(vocabulary.supercategories)
    assert {c["id"] for c in expected["obj_parts"] if not c["seen"]} == vocabulary.unseen
    # Of every object's supercategory all of PartImageNet's parts, in its order and in lower case.
    forty = load_vocabulary("partimagenet")
    for entry in expected["objects"]:
        kind = entry["supercategory"]
        words = [n.removeprefix(f"{kind} ").lower() for n, k in zip(forty.names, forty.supercategories) if k == kind]
        assert [vocabulary.names[c] for c in vocabulary.parts_of(entry["id"])] == [
            f"{entry['name']}'s {w}" for w in words
        ]


# --- Metadata


def test_all_data_sets_of_the_benchmark_are_registered():
    assert len(OV_PARTS_SETS) == 16 and set(OV_PARTS_SETS) <= set(DatasetCatalog.list())
    for name in OV_PARTS_SETS:
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "sem_seg"
        assert metadata.stuff_classes == metadata.thing_classes
        assert len(metadata.part_objects) == len(metadata.thing_classes) == len(metadata.trainable_flag)
        assert metadata.ignore_label == (255 if name.startswith("voc") else 65535)
        per_object = name.endswith("obj_condition") or (name.startswith("ade") and "few_shot" in name)
        assert metadata.protocols == (("ov_oracle",) if per_object else ("pred_obj", "pred_all"))


def test_training_classes_are_the_seen_ones_numbered_anew():
    metadata = MetadataCatalog.get("voc_obj_part_sem_seg_train")
    assert len(metadata.thing_classes) == 74 and len(metadata.obj_part_map) == 74
    # By hand: bird is object 2 and has the classes 11..19, the first that are unseen.
    assert metadata.obj_part_map[10] == 10 and 11 not in metadata.obj_part_map
    assert metadata.thing_classes[11] == "bottle's body" and metadata.obj_part_map[20] == 11
    assert metadata.label_map[10] == 10 and metadata.label_map[11] == 255 and metadata.label_map[20] == 11
    assert len(metadata.label_map) == 116
    assert len(MetadataCatalog.get("ade_obj_part_sem_seg_train").thing_classes) == 176


def test_map_of_objects_is_made_of_objects():
    """The reference makes it of parts, whose first 11 are seen: there dog to tvmonitor (11..19) would be gone."""
    obj_map = MetadataCatalog.get("voc_obj_part_sem_seg_train_obj_condition").obj_map
    assert obj_map == dict(zip([0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 14, 15, 17, 18, 19], range(15)))


def test_seen_and_unseen_classes_in_the_metadata():
    zero_shot = MetadataCatalog.get("voc_obj_part_sem_seg_val_obj_condition")
    assert len(zero_shot.thing_classes) == 116 and len(zero_shot.evaluation_set["base"]) == 74
    assert sum(zero_shot.trainable_flag) == 74 and zero_shot.trainable_flag[11] == 0
    assert "obj_part_map" not in zero_shot.as_dict()
    for name in ("ade_obj_part_sem_seg_val_few_shot", "ade_obj_part_sem_seg_train_few_shot"):
        few_shot = MetadataCatalog.get(name)
        assert few_shot.evaluation_set["base"] == list(range(234)) and all(few_shot.trainable_flag)


@pytest.mark.parametrize("variant", ["58", "93", "108", "116", "201"])
def test_variants_of_pascal_part_are_registered(variant):
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"pascal_part_{variant}_{split}")
        assert metadata.evaluator_type == "part_seg" and metadata.family == f"pascal_part_{variant}"
        assert metadata.protocols == PASCAL_PART_PROTOCOLS[variant]
        assert [metadata.obj_classes[o] for o in metadata.part_objects] == metadata.part_supercategories
        assert ("flip_map" in metadata.as_dict()) == (variant == "201")


def test_import_opens_no_data(tmp_path):
    """A broken data folder is no reason for the import to fail, and nothing is written into it."""
    (tmp_path / "PascalPart116").write_text("not a folder")
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", "import wps_sam"], env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["PascalPart116"]


# --- Pascal-Part-116


def test_pascal_image_records(written):
    records, metadata = records_of("voc_obj_part_sem_seg_val")
    # boat alone (2008_000009) and a sheep without labels (2010_000014) could never count.
    assert image_ids("voc_obj_part_sem_seg_val") == [
        *("2008_000004", "2008_000007", "2009_000012", "2010_000013", "2010_000015")
    ]
    folder = written / "PascalPart116"
    assert records[0] == {
        "image_id": "2008_000004",
        "file_name": str(folder / "images/val/2008_000004.jpg"),
        "sem_seg_file_name": str(folder / "annotations_detectron2_part/val/2008_000004.png"),
        "obj_sem_seg_file_name": str(folder / "annotations_detectron2_obj/val/2008_000004.png"),
    }
    assert metadata.image_root == str(folder / "images/val")
    assert metadata.sem_seg_root == str(folder / "annotations_detectron2_part/val")


def test_pascal_has_a_record_for_each_object_with_parts(written, caplog):
    with caplog.at_level(logging.INFO, logger="wps_sam"):
        records, _ = records_of("voc_obj_part_sem_seg_val_obj_condition")
    # cat 7, dog 11, bus 5, bird 2, person 14; the two boats and the sheep without labels are not there, but logged.
    assert [record["image_id"] for record in records] == [
        *("2008_000004_7", "2008_000004_11", "2008_000007_5", "2009_000012_2", "2009_000012_11"),
        *("2010_000013_14", "2010_000015_7"),
    ]
    assert [record["category_id"] for record in records] == [7, 11, 5, 2, 11, 14, 7]
    assert "3 records left out" in caplog.text and "'boat': 2, 'sheep': 1" in caplog.text


def test_pascal_training_hides_unseen_objects(written):
    """Pictures with dogs or birds alone show nothing; where a cat stands beside a dog, the cat is trained on."""
    assert image_ids("voc_obj_part_sem_seg_train") == [
        *("2008_000001", "2008_000002", "2008_000005", "2009_000006", "2010_000010")
    ]
    assert "2009_000006_7" in image_ids("voc_obj_part_sem_seg_train_obj_condition")
    assert "2009_000006_11" not in image_ids("voc_obj_part_sem_seg_train_obj_condition")
    records, metadata = records_of("voc_obj_part_sem_seg_train")
    beside_dog = next(record for record in records if record["image_id"] == "2009_000006")
    names = [metadata.thing_classes[a["category_id"]] for a in beside_dog["annotations"]]
    assert names == ["cat's head", "cat's torso", "cat's leg", "cat's leg"]
    part_map = read_part_map(beside_dog, metadata)
    stored = read_label_png(beside_dog["sem_seg_file_name"])
    dog = np.isin(stored, [i for i, v in metadata.label_map.items() if v == 255])
    assert dog.any() and (part_map[dog] == 255).all()
    assert {metadata.thing_classes[c] for c in np.unique(part_map) if c != 255} == set(names)


def test_training_images_carry_their_connected_parts(written):
    records, metadata = records_of("voc_obj_part_sem_seg_train")
    bus = next(record for record in records if record["image_id"] == "2008_000002")
    assert (bus["height"], bus["width"]) == (48, 64)
    # By hand: the outline is 2, 3, 27, 40; three bands of (40 - 4) // 3 = 12 rows lie two pixels inside. The wheels
    # lack their middle: columns 4..10 and 20..26 remain.
    boxes = {(metadata.thing_classes[a["category_id"]], tuple(a["bbox"])) for a in bus["annotations"]}
    assert boxes == {
        ("bus's window", (4, 5, 23, 12)),
        ("bus's side", (4, 17, 23, 12)),
        ("bus's wheel", (4, 29, 7, 12)),
        ("bus's wheel", (20, 29, 7, 12)),
    }
    assert all(a["iscrowd"] == 0 and a["segmentation"]["size"] == [48, 64] for a in bus["annotations"])


def test_diagonal_neighbours_are_one_piece(tmp_path):
    """With 4-connectivity these two pixels would be two parts."""
    folder = write_pascal_part_116(tmp_path)
    part_map = np.full((48, 64), 255, np.uint8)
    part_map[3, 3] = part_map[4, 4] = 0
    Image.fromarray(part_map).save(folder / "annotations_detectron2_part/train/2008_000002.png")
    records = load_pascal_part_116(str(tmp_path), OVSet("train", "image", "all"))
    [annotation] = next(r for r in records if r["image_id"] == "2008_000002")["annotations"]
    assert annotation["bbox"] == [3, 3, 2, 2]


def test_label_counts_have_the_official_form(written):
    image_ids("voc_obj_part_sem_seg_val_obj_condition")
    folder = written / "PascalPart116" / "annotations_detectron2_part"
    objects = json.loads((folder / "val_obj_label_count.json").read_text())
    # Values of the object map, but 255; stored beside the part folders.
    assert objects["2008_000004.png"] == [7, 11] and objects["2008_000009.png"] == [3]
    parts = json.loads((folder / "val_part_label_count.json").read_text())
    assert parts["2008_000009.png"] == [] and parts["2008_000007.png"] == [22, 25, 31]
    assert set(parts) == {f"{stem}.png" for stem in ov_layouts.PASCAL_VAL}  # No ._2008_000004.png.


def test_label_counts_that_are_there_are_used(tmp_path):
    folder = write_pascal_part_116(tmp_path)
    count = folder / "annotations_detectron2_part" / "val_obj_label_count.json"
    count.write_text(json.dumps({f"{stem}.png": [11] for stem in ov_layouts.PASCAL_VAL}))
    records = load_pascal_part_116(str(tmp_path), PASCAL_VAL)
    assert {record["category_id"] for record in records} == {11}
    count.write_text(json.dumps({"2008_000004.png": [7]}))
    with pytest.raises(ValueError, match=r"val_obj_label_count\.json: has no entry '2008_000007\.png'.*delete it"):
        load_pascal_part_116(str(tmp_path), PASCAL_VAL)
    count.write_text("{")
    with pytest.raises(ValueError, match=r"val_obj_label_count\.json: no valid json"):
        load_pascal_part_116(str(tmp_path), PASCAL_VAL)


def test_a_folder_that_cannot_be_written_to_names_the_tool(tmp_path, monkeypatch):
    folder = write_pascal_part_116(tmp_path)

    def refuse(path, make):
        raise PermissionError(13, "Permission denied", str(path))

    # Taking the rights away would not stop a root user.
    monkeypatch.setattr("wps_sam.data.sources.ov_parts.write_atomically", refuse)
    with pytest.raises(ValueError, match=r"label_count\.json: cannot be written .*prepare_ov_parts\.py"):
        load_pascal_part_116(str(tmp_path), PASCAL_VAL)
    assert not list(folder.rglob("*label_count*"))


def test_a_derived_file_is_whole_or_absent(tmp_path):
    folder = write_pascal_part_116(tmp_path)
    bad = np.full((48, 64), 200, np.uint8)
    Image.fromarray(bad).save(folder / "annotations_detectron2_part/val/2010_000015.png")
    with pytest.raises(ValueError, match=r"val/2010_000015\.png: unknown value 200; expected 0\.\.115 or 255"):
        load_pascal_part_116(str(tmp_path), PASCAL_VAL)
    assert not list(folder.rglob("*label_count*"))


def test_images_without_maps_are_left_out_with_both_counts(tmp_path, caplog):
    folder = write_pascal_part_116(tmp_path)
    (folder / "annotations_detectron2_obj/val/2008_000007.png").unlink()
    records = load_pascal_part_116(str(tmp_path), OVSet("val", "image", "all"))
    assert "2008_000007" not in [record["image_id"] for record in records]
    assert "do not match" in caplog.text and "6 stems" in caplog.text


def test_missing_layout_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"PascalPart116/images/val: expected a folder, .*README"):
        load_pascal_part_116(str(tmp_path), PASCAL_VAL)
    with pytest.raises(ValueError, match=r"ADE20KPart234/images/training: expected a folder"):
        load_ade20k_part_234(str(tmp_path), ADE_VAL)
    (tmp_path / "PascalPart116/images/val").mkdir(parents=True)
    ov_layouts.write_litter(tmp_path / "PascalPart116/images/val", "2008_000002.jpg")
    with pytest.raises(ValueError, match=r"PascalPart116/images/val: expected \.jpg files, found none"):
        load_pascal_part_116(str(tmp_path), PASCAL_VAL)


# --- ADE20K-Part-234


def test_ade_object_records(written):
    records, metadata = records_of("ade_obj_part_sem_seg_val_obj_condition")
    folder = written / "ADE20KPart234"
    first = records[0]
    assert first["file_name"] == str(folder / "images/validation/ADE_val_00000001.jpg")
    assert first["sem_seg_file_name"] == str(folder / "annotations_detectron2_part/validation/ADE_val_00000001.png")
    assert first["obj_sem_seg_file_name"] == "NA" and (first["height"], first["width"]) == (48, 64)
    assert metadata.obj_classes[first["category_id"]] == "chair"
    [instance] = first["obj_annotations"]
    assert instance["category_id"] == first["category_id"] and instance["bbox"] == [2, 3, 27, 40]


def test_ade_test_set_is_wider_than_its_val_split(written):
    """All of val, and of the training images the unseen objects: bench and desks, but no chair beside them."""
    assert image_ids("ade_obj_part_sem_seg_val_obj_condition") == [
        *("ADE_val_00000001_1", "ADE_val_00000001_2", "ADE_val_00000003_3", "ADE_val_00000005_5"),
        *("ADE_val_00000005_6", "ADE_train_00000007_5", "ADE_train_00000008_6", "ADE_train_00000011_10"),
    ]
    # The few-shot one does without the training images of the list, among them ADE_train_00000008.
    assert image_ids("ade_obj_part_sem_seg_val_few_shot") == [
        *("ADE_val_00000001_1", "ADE_val_00000001_2", "ADE_val_00000003_3", "ADE_val_00000005_5"),
        *("ADE_val_00000005_6", "ADE_train_00000007_5", "ADE_train_00000011_10"),
    ]


def test_ade_test_images_hold_the_tested_instances(written):
    records, metadata = records_of("ade_obj_part_sem_seg_val")
    tested = {r["image_id"]: [metadata.obj_classes[a["category_id"]] for a in r["obj_annotations"]] for r in records}
    assert tested == {
        "ADE_val_00000001": ["chair", "bench"],
        "ADE_val_00000003": ["cabinet"],
        "ADE_val_00000005": ["desk", "door"],
        "ADE_train_00000007": ["bench"],
        "ADE_train_00000008": ["desk"],
        "ADE_train_00000011": ["desk"],
    }
    assert sum(map(len, tested.values())) == len(image_ids("ade_obj_part_sem_seg_val_obj_condition"))


def test_ade_training_records(written):
    records, metadata = records_of("ade_obj_part_sem_seg_train")
    assert [r["image_id"][-2:] for r in records] == ["01", "02", "07", "09", "13"]
    beside_bench = records[2]
    # All objects are painted; the parts are the seen ones.
    assert len(beside_bench["obj_annotations"]) == 2
    names = [metadata.thing_classes[a["category_id"]] for a in beside_bench["annotations"]]
    assert names == ["chair's back", "chair's leg", "chair's leg", "chair's seat"]
    instances = image_ids("ade_obj_part_sem_seg_train_obj_condition")
    # Two chairs in one image are two records.
    assert "ADE_train_00000009_7" in instances and "ADE_train_00000009_8" in instances
    assert not any(name.startswith("ADE_train_00000008") for name in instances)
    assert image_ids("ade_obj_part_sem_seg_train_few_shot") == [
        *("ADE_train_00000001_1", "ADE_train_00000001_2", "ADE_train_00000002_3", "ADE_train_00000008_6")
    ]


def test_instances_without_part_labels_are_filtered_and_logged(written, caplog):
    with caplog.at_level(logging.INFO, logger="wps_sam"):
        records_of("ade_obj_part_sem_seg_val_obj_condition")
    assert "2 records left out" in caplog.text and "'chair': 1, 'stool': 1" in caplog.text
    labels = json.loads(
        (written / "ADE20KPart234/annotations_detectron2_part/val_instance_label_count.json").read_text()
    )
    names = load_ov_vocabulary("ade20k_part_234").names
    assert {names[c] for c in labels["1"]} == {"chair's back", "chair's seat", "chair's leg"}
    assert labels["4"] == []


def test_polygons_and_both_encodings_become_object_maps(written):
    records, metadata = records_of("ade_obj_part_sem_seg_val_obj_condition")
    kinds = set()
    for record in records:
        [instance] = record["obj_annotations"]
        segmentation = instance["segmentation"]
        kinds.add(type(segmentation["counts"]) if isinstance(segmentation, dict) else type(segmentation))
        object_map = read_object_map(record, metadata)
        x, y, width, height = map(int, instance["bbox"])
        assert (object_map == record["category_id"]).sum() == width * height
        assert (object_map[y : y + height, x : x + width] == record["category_id"]).all()
        assert set(np.unique(object_map)) == {record["category_id"], 65535}
    assert kinds == {list, str}


def test_sixteen_bit_ignore_does_not_become_a_class(written):
    records, metadata = records_of("ade_obj_part_sem_seg_val_obj_condition")
    with Image.open(records[0]["sem_seg_file_name"]) as image:
        assert image.mode.startswith("I")
        # What a cast to uint8 would leave of 65535.
        assert 255 in np.asarray(image).astype(np.uint8)
    part_map = read_part_map(records[0], metadata)
    assert part_map.dtype == np.int64 and part_map[0, 0] == 65535 and 255 not in part_map


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_categories_of_the_instances_must_be_the_vocabularys(tmp_path):
    """Their ids index the object list; the reference trusts them unread."""
    folder = write_ade20k_part_234(tmp_path)
    path = folder / "ade20k_instance_val.json"
    rewrite(path, lambda coco: coco["categories"][0].update(name="aeroplane"))
    with pytest.raises(ValueError, match=r"instance_val\.json: categories: unknown class 'aeroplane'"):
        load_ade20k_part_234(str(tmp_path), ADE_VAL)
    rewrite(path, lambda coco: coco["categories"][0].update(name="airplane"))
    rewrite(path, lambda coco: [category.update(id=category["id"] + 1) for category in coco["categories"]])
    with pytest.raises(ValueError, match=r"'airplane' has the id 1; expected 0"):
        load_ade20k_part_234(str(tmp_path), ADE_VAL)


def test_order_of_the_categories_does_not_matter_but_their_ids_do(tmp_path):
    folder = write_ade20k_part_234(tmp_path)
    expected = load_ade20k_part_234(str(tmp_path), ADE_VAL)
    rewrite(folder / "ade20k_instance_val.json", lambda coco: coco["categories"].reverse())
    assert load_ade20k_part_234(str(tmp_path), ADE_VAL) == expected


def test_ade20ks_full_names_are_understood(tmp_path):
    folder = write_ade20k_part_234(tmp_path)
    expected = load_ade20k_part_234(str(tmp_path), ADE_VAL)
    path = folder / "ade20k_instance_val.json"
    rewrite(path, lambda coco: coco["categories"][0].update(name="airplane, aeroplane, plane"))
    assert load_ade20k_part_234(str(tmp_path), ADE_VAL) == expected


def test_duplicate_annotations_and_images_are_refused(tmp_path):
    folder = write_ade20k_part_234(tmp_path)
    path = folder / "ade20k_instance_val.json"
    before = path.read_text()
    rewrite(path, lambda coco: coco["annotations"].append(coco["annotations"][0]))
    with pytest.raises(ValueError, match=r"annotations\[6\]\.id: 1 occurs twice"):
        load_ade20k_part_234(str(tmp_path), ADE_VAL)
    path.write_text(before)
    rewrite(path, lambda coco: coco["images"].append(coco["images"][0]))
    with pytest.raises(ValueError, match=r"images\[4\]\.id: 3 occurs twice"):
        load_ade20k_part_234(str(tmp_path), ADE_VAL)


def test_litter_among_the_images_of_the_json_is_skipped(tmp_path):
    folder = write_ade20k_part_234(tmp_path)
    expected = load_ade20k_part_234(str(tmp_path), ADE_VAL)
    litter = {"id": 999, "file_name": "._ADE_val_00000001.jpg", "height": 48, "width": 64}
    rewrite(folder / "ade20k_instance_val.json", lambda coco: coco["images"].append(litter))
    assert load_ade20k_part_234(str(tmp_path), ADE_VAL) == expected


def test_part_map_of_another_size_is_refused(tmp_path):
    folder = write_ade20k_part_234(tmp_path)
    png = folder / "annotations_detectron2_part/validation/ADE_val_00000003.png"
    Image.fromarray(np.full((47, 64), 65535, np.uint16)).save(png)
    with pytest.raises(ValueError, match=r"ADE_val_00000003\.png: height and width are \(47, 64\)"):
        load_ade20k_part_234(str(tmp_path), ADE_VAL)


# --- PartImageNet


def test_partimagenet_has_the_pictures_of_forty_objects(written):
    """In training of the seen 25 alone; the springer spaniel, n02102040, is none of them, and the PNGs are not used."""
    assert image_ids("partimagenet_obj_part_sem_seg_train") == [
        *("n02129604_10", "n03769881_4", "n02129604_12", "n03769881_9")
    ]
    assert image_ids("partimagenet_obj_part_sem_seg_val") == [
        "n02129604_2",
        "n03594945_3",
        "n02134084_5",
        "n03769881_8",
    ]
    records, metadata = records_of("partimagenet_obj_part_sem_seg_val_obj_condition")
    assert [metadata.obj_classes[r["category_id"]] for r in records] == ["tiger", "jeep", "ice bear", "minibus"]
    # Objects 24, 21, 19 and 28 of PartCLIPSeg's list.
    assert [r["image_id"] for r in records] == ["n02129604_2_24", "n03594945_3_21", "n02134084_5_19", "n03769881_8_28"]
    folder = written / "PartImageNet"
    assert records[0]["file_name"] == str(folder / "images/val/n02129604_2.JPEG")
    assert all("sem_seg_file_name" not in record and "tags" not in record for record in records)
    assert metadata.sem_seg_root == str(folder / "annotations/val")


def test_partimagenets_parts_are_those_of_the_pictures_object(written):
    """The json says Quadruped Head in both: of a tiger it is class 54, and of an ice bear 95."""
    records, metadata = records_of("partimagenet_obj_part_sem_seg_val")
    by_name = {r["image_id"]: r for r in records}
    for stem, first in (("n02129604_2", 54), ("n02134084_5", 95)):
        record = by_name[stem]
        assert [a["category_id"] for a in record["annotations"]] == [first, first + 1, first + 2, first + 2]
        assert metadata.thing_classes[first].endswith("'s head")
        part_map, object_map = read_part_map(record, metadata), read_object_map(record, metadata)
        # By hand: bands of (40 - 4) // 3 = 12 rows in an outline of 27 columns, two pixels inside; feet in two pieces.
        x = 4
        for row, label in ((6, first), (18, first + 1), (30, first + 2)):
            assert (part_map[row, x : x + 7] == label).all() and part_map[row, x - 1] == 65535
        assert part_map[30, x + 7] == 65535
        # Elsewhere nobody knows, as there is no background; the object is all that has a part.
        assert set(np.unique(part_map)) == {first, first + 1, first + 2, 65535}
        assert ((part_map == 65535) == (object_map == 65535)).all() and len(np.unique(object_map)) == 2
    jeep = by_name["n03594945_3"]
    assert {metadata.thing_classes[a["category_id"]] for a in jeep["annotations"]} == {"jeep's body", "jeep's tier"}


def test_partimagenets_training_numbers_seen_classes_anew(written):
    records, metadata = records_of("partimagenet_obj_part_sem_seg_train")
    assert len(metadata.thing_classes) == 92 and len(metadata.obj_map) == 25
    found = [metadata.thing_classes[a["category_id"]] for a in records[1]["annotations"]]
    assert found == ["minibus's body", "minibus's side mirror", "minibus's tier", "minibus's tier"]
    part_map = read_part_map(records[1], metadata)
    assert {metadata.thing_classes[c] for c in np.unique(part_map) if c != 65535} == set(found)


def test_partimagenets_picture_without_a_mask_is_left_out(written, caplog):
    with caplog.at_level(logging.INFO, logger="wps_sam"):
        records_of("partimagenet_obj_part_sem_seg_train_obj_condition")
    assert "1 records left out" in caplog.text and "'tiger': 1" in caplog.text


def test_part_that_its_object_cannot_have_is_refused(tmp_path):
    """The object by the file's name, the part by the json: one of them is wrong."""
    folder = write_partimagenet(tmp_path)
    rewrite(folder / "annotations/val/val.json", lambda coco: coco["annotations"][0].update(category_id=25))
    with pytest.raises(
        ValueError, match=r"val\.json: annotation 0: category_id: n02129604_2 shows 'tiger', .* no part 'Car Tier'"
    ):
        load_partimagenet_147(str(tmp_path), PASCAL_VAL)
    (folder / "annotations/val/val.json").unlink()
    with pytest.raises(ValueError, match=r"annotations/val/val\.json"):
        load_partimagenet_147(str(tmp_path), PASCAL_VAL)


def test_partimagenet_needs_no_preparing_and_has_no_few_shot_task(tmp_path):
    folder = write_partimagenet(tmp_path)
    before = sorted(folder.rglob("*"))
    prepare(str(tmp_path), PARTIMAGENET_147)
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(ValueError, match="PartImageNet: .* no few-shot task"):
        prepare(str(tmp_path), PARTIMAGENET_147, draw_seed=1)


# --- 16 shots


def test_sixteen_shot_list_is_compared_by_base_names(written):
    """Its paths begin with datasets/PascalPart116, and the data lies elsewhere: compared whole, none would match."""
    listed = json.loads((written / "PascalPart116/train_16shot.json").read_text())
    assert all(entry["file_name"].startswith("datasets/PascalPart116/images/train/") for entry in listed)
    records, metadata = records_of("voc_obj_part_sem_seg_train_few_shot")
    assert [record["image_id"] for record in records] == sorted(ov_layouts.PASCAL_16_SHOT)
    # All classes are seen: the dog and the bird are trained on.
    names = {metadata.thing_classes[a["category_id"]] for r in records for a in r["annotations"]}
    assert len(metadata.thing_classes) == 116 and {"dog's head", "bird's beak", "cat's leg"} <= names


def test_sixteen_shot_list_with_duplicates_strangers_or_nothing(tmp_path, caplog):
    folder = write_pascal_part_116(tmp_path)
    few_shot = OVSet("train", "image", "all", few_shot=True)
    path = folder / "train_16shot.json"
    # An image may be drawn for two objects; paths may come from Windows.
    names = ["C:\\data\\2008_000001.jpg", "2008_000001.jpg", "2007_999999.jpg"]
    path.write_text(json.dumps([{"file_name": name} for name in names]))
    records = load_pascal_part_116(str(tmp_path), few_shot)
    assert [record["image_id"] for record in records] == ["2008_000001"]
    assert "1 of its 2 images do not exist" in caplog.text
    path.write_text(json.dumps([{"file_name": "2007_999999.jpg"}]))
    with pytest.raises(ValueError, match=r"train_16shot\.json: none of its 1 images is among"):
        load_pascal_part_116(str(tmp_path), few_shot)
    path.write_text(json.dumps(["2008_000001.jpg"]))
    with pytest.raises(ValueError, match=r"train_16shot\.json: \[0\]\.file_name: expected a text"):
        load_pascal_part_116(str(tmp_path), few_shot)
    path.unlink()
    with pytest.raises(ValueError, match=r"train_16shot\.json: the file does not exist; .*--draw-16-shot"):
        load_pascal_part_116(str(tmp_path), few_shot)


def test_draw_takes_sixteen_of_each_object_or_all_there_are():
    records = [{"file_name": f"a/{i:02}.jpg", "category_id": 0} for i in range(40)]
    records += [{"file_name": f"a/{i:02}.jpg", "category_id": 3} for i in range(38, 43)]
    drawn = [entry["file_name"] for entry in draw_few_shot(records, seed=5)]
    assert len(set(drawn)) == len(drawn) and drawn == sorted(drawn)
    assert {f"{i}.jpg" for i in range(38, 43)} <= set(drawn)
    # 16 of the first; those that were drawn for the other as well may come on top.
    assert 16 <= len([name for name in drawn if int(name[:2]) < 40]) <= 18
    assert draw_few_shot(records[::-1], seed=5) == draw_few_shot(records, seed=5)
    assert draw_few_shot(records, seed=6) != draw_few_shot(records, seed=5)


# --- prepare


@pytest.mark.parametrize("benchmark", [PASCAL_PART_116, ADE20K_PART_234], ids=lambda b: b.family)
def test_prepare_makes_everything_there_is_to_make(benchmark, tmp_path):
    write = write_pascal_part_116 if benchmark is PASCAL_PART_116 else write_ade20k_part_234
    folder = write(tmp_path)
    prepare(str(tmp_path), benchmark)
    made = {path: path.read_bytes() for path in folder.rglob("*.json")}
    names = {path.name for path in made}
    kinds = ("part_label_count", "obj_label_count") if benchmark is PASCAL_PART_116 else ("instance_label_count",)
    assert names >= {"train_parts.json", *(f"{s}_{kind}.json" for s in ("train", "val") for kind in kinds)}
    for _, ov_set in [entry for entry in OV_PARTS_SETS.values() if entry[0] is benchmark]:
        assert benchmark.load(str(tmp_path), ov_set)
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == made
    with pytest.raises(ValueError, match=r"train_16shot\.json: exists already"):
        prepare(str(tmp_path), benchmark, draw_seed=1)


def test_a_few_shot_task_has_no_unseen_classes_to_report():
    """Its test set is the zero-shot task's on Pascal: only the family tells that the model has seen everything."""
    few_shot = MetadataCatalog.get("voc_obj_part_sem_seg_train_few_shot").family
    assert few_shot != MetadataCatalog.get("voc_obj_part_sem_seg_val_obj_condition").family
    ade = [MetadataCatalog.get(f"ade_obj_part_sem_seg_{split}_few_shot").family for split in ("train", "val")]
    assert ade[0] == ade[1] != MetadataCatalog.get("ade_obj_part_sem_seg_val_obj_condition").family
