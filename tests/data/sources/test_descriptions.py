"""Registering data sets from YAML descriptions, and what a wrong description is told."""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.data import check_part_map_ids, register_descriptions
from wps_sam.data.sources.descriptions import read_description, sided_pairs
from wps_sam.masks import read_object_map, read_part_map

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

DATASETS = Path(__file__).resolve().parents[3] / "datasets"


@pytest.fixture
def parts(tmp_path):
    """A data set in COCO layout and a function that writes a description of it."""
    root = tmp_path / "parts"
    (root / "pictures").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(root / "pictures" / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 3], "segmentation": []}],
        "categories": [
            {"id": 1, "name": "wheel", "supercategory": "car"},
            {"id": 2, "name": "window", "supercategory": "car"},
        ],
    }
    (root / "train.json").write_text(json.dumps(coco))

    def write(path=tmp_path / "parts.yaml", **changes):
        content = {
            "name": tmp_path.name,  # Unique: the catalogs outlive a test.
            "layout": "coco",
            "root": "parts",
            "splits": {"train": {"images": "pictures", "annotations": "train.json"}},
            **changes,
        }
        content = {key: value for key, value in content.items() if value is not ...}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_registers_every_split_without_python(parts, tmp_path):
    [name] = register_descriptions([parts()])
    assert name == f"{tmp_path.name}_train"
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["wheel", "window"]
    assert metadata.stuff_classes == ["wheel", "window", "background"]
    assert metadata.part_supercategories == ["car", "car"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert metadata.layout == "coco" and metadata.json_file == str(tmp_path / "parts" / "train.json")
    [record] = DatasetCatalog.get(name)
    assert record["file_name"] == str(tmp_path / "parts" / "pictures" / "a.png")
    assert record["annotations"][0]["category_id"] == 1


def test_class_list_sets_the_order_and_may_hold_more(parts):
    [name] = register_descriptions([parts(classes=["door", "window", "wheel"])])
    assert MetadataCatalog.get(name).thing_classes == ["door", "window", "wheel"]
    assert DatasetCatalog.get(name)[0]["annotations"][0]["category_id"] == 1


def test_the_same_description_may_come_twice_but_not_another(parts, tmp_path):
    first = register_descriptions([parts()])
    assert register_descriptions([parts()]) == first
    # A copy elsewhere that means the same data.
    copy = parts(path=tmp_path / "copy" / "parts.yaml", root=str(tmp_path / "parts"))
    assert register_descriptions([copy]) == first
    with pytest.raises(ValueError, match=rf"name: '{first[0]}' is already registered with other content"):
        register_descriptions([parts(classes=["window", "wheel"])])
    with pytest.raises(ValueError, match=r"name: 'partimagenet_train' is already registered"):
        register_descriptions([parts(name="partimagenet")])


def test_relative_root_starts_at_the_description_then_at_the_datasets_folder(parts, tmp_path, monkeypatch):
    elsewhere = parts(path=tmp_path / "elsewhere" / "parts.yaml")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"root: the folder does not exist; looked for .*elsewhere/parts and .*none"):
        read_description(elsewhere)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert read_description(elsewhere).splits[0][1] == str(tmp_path / "parts" / "pictures")
    # What lies beside the description wins.
    (tmp_path / "elsewhere" / "parts").mkdir()
    with pytest.raises(ValueError, match=r"splits\.train: annotations .*elsewhere.*does not exist"):
        read_description(elsewhere)


def test_environment_variables_in_root(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PARTS", str(tmp_path / "parts"))
    expected = read_description(parts())
    for root in ("$MY_PARTS", "${MY_PARTS}", "${MY_PARTS:-nowhere}", "${MY_OTHER_PARTS:-parts}"):
        assert read_description(parts(root=root)) == expected
    with pytest.raises(ValueError, match=r"root: the environment variable MY_OTHER_PARTS .* is not set"):
        read_description(parts(root="${MY_OTHER_PARTS}"))


SPLIT = {"images": "pictures", "annotations": "train.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": ["a"]}, r"unknown keys \['clases'\].*expected \('name', .*perhaps \('classes', "),
        ({"root": ...}, r"missing keys \['root'\]"),
        ({"layout": "voc"}, r"layout: expected one of \('partimagenet', 'coco'\), got 'voc'"),
        ({"name": "my parts"}, r"name: expected letters, digits"),
        ({"name": 3}, r"name: expected a text, got 3"),
        ({"splits": {}}, r"splits: expected at least one"),
        ({"splits": {"../train": SPLIT}}, r"splits: expected letters, digits, _ and -, got '\.\./train'"),
        ({"splits": {"train": {"images": "pictures"}}}, r"splits\.train: .*missing keys \['annotations'\]"),
        ({"splits": {"train": {**SPLIT, "labels": "x"}}}, r"splits\.train: unknown keys \['labels'\]"),
        ({"splits": {"train": "pictures"}}, r"splits\.train: expected the keys"),
        ({"splits": {"train": {**SPLIT, "annotations": "gone.json"}}}, r"splits\.train: annotations .*gone\.json"),
        ({"classes": "wheel"}, r"classes: expected a list of different names, got 'wheel'"),
        ({"classes": ["wheel", "wheel"]}, r"classes: expected a list of different names"),
        ({"classes": ["wheel"]}, r"\['window'\] are not among the given classes"),
        ({"unseen": ["door"]}, r"unseen: \['door'\] are not among the classes \['wheel', 'window'\]"),
        ({"unseen": ["wheel", "window"]}, r"unseen: at least one class must be seen"),
        ({"unseen": []}, r"unseen: expected a list of different names, got \[\]"),
        ({"flip_pairs": [["wheel"]]}, r"flip_pairs: expected pairs of names"),
        ({"flip_pairs": "wheel"}, r"flip_pairs: expected pairs of names"),
        ({"flip_pairs": [["wheel", "wheel"]]}, r"flip_pairs: expected pairs of names"),
        ({"flip_pairs": [["wheel", "door"]]}, r"flip_pairs: \['door'\] are not among the classes"),
        (
            {"flip_pairs": [["wheel", "window"]], "unseen": ["wheel"]},
            r"flip_pairs: of \['wheel', 'window'\] one is unseen",
        ),
        ({"objects": ["car", "bus"]}, r"objects: the classes \['wheel', 'window'\] are of none of"),
        (
            {"objects": ["car"], "splits": {"train": {**SPLIT, "objects": "pictures"}}},
            r"splits\.train: objects: needs the layout partimagenet",
        ),
        (
            {"splits": {"train": {**SPLIT, "objects": "gone"}}},
            r"splits\.train: objects: the folder .*gone does not exist",
        ),
    ],
)
def test_bad_description_is_refused_with_file_and_key(parts, changes, message):
    with pytest.raises(ValueError, match=rf"parts\.yaml: .*{message}"):
        register_descriptions([parts(**changes)])


def test_missing_or_broken_description(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.yaml: the file does not exist"):
        register_descriptions([str(tmp_path / "gone.yaml")])
    for text, message in (("name: [", "no valid YAML"), ("", "expected the keys"), ("just text", "expected the keys")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"bad\.yaml: {message}"):
            register_descriptions([str(tmp_path / "bad.yaml")])


CLASSES = ("dog's left ear", "dog's right ear", "dog's tail", "cat's tail")
# Two pictures, a dog and a cat: (class, x) of a square of 3 x 3 pixels from row 2 on.
PETS = {"p_0": [(0, 1), (1, 5), (2, 9)], "p_1": [(3, 1), (2, 6)], "p_2": []}


@pytest.fixture
def pets(tmp_path):
    """A data set with part maps (4 = background) and object maps (0 dog, 1 cat, 7 and 255 neither); its description."""
    root = tmp_path / "pets"
    for folder in ("images", "labels", "whole"):
        (root / folder).mkdir(parents=True)
    coco = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    for image_id, (stem, parts) in enumerate(PETS.items()):
        Image.new("RGB", (12, 8)).save(root / "images" / f"{stem}.JPEG")
        part_map, object_map = np.full((8, 12), 4, np.uint8), np.full((8, 12), 7, np.uint8)
        object_map[0] = 255
        coco["images"].append({"id": image_id, "file_name": f"{stem}.JPEG", "height": 8, "width": 12})
        for class_id, x in parts:
            part_map[2:5, x : x + 3] = class_id
            object_map[2:5, x : x + 3] = class_id == 3
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]),
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": [x, 2, 3, 3],
                    "segmentation": [],
                }
            )
        Image.fromarray(part_map).save(root / "labels" / f"{stem}.png")
        Image.fromarray(object_map).save(root / "whole" / f"{stem}.png")
    (root / "labels" / "val.json").write_text(json.dumps(coco))

    def write(**changes):
        split = {"images": "images", "annotations": "labels", "objects": "whole"}
        content = {
            "name": tmp_path.name,
            "layout": "partimagenet",
            "root": "pets",
            "splits": {"val": split},
            "objects": ["dog", "cat"],
            **changes,
        }
        (tmp_path / "pets.yaml").write_text(yaml.safe_dump(content))
        return str(tmp_path / "pets.yaml")

    return write


def test_unseen_classes_make_a_second_data_set_of_the_seen_ones(pets):
    whole, seen, *_ = register_descriptions([pets(unseen=["dog's left ear", "dog's right ear"])])
    assert seen == f"{whole}_seen"
    # The whole set keeps all classes, and says which are seen.
    metadata = MetadataCatalog.get(whole)
    assert metadata.thing_classes == list(CLASSES) and metadata.trainable_flag == [0, 0, 1, 1]
    assert metadata.evaluation_set == {"base": [2, 3]} and metadata.part_objects == [0, 0, 0, 1]
    assert metadata.protocols == ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap", "pred_all")
    metadata = MetadataCatalog.get(seen)
    assert metadata.thing_classes == ["dog's tail", "cat's tail"] and metadata.obj_part_map == {2: 0, 3: 1}
    assert metadata.part_objects == [0, 1] and metadata.background_label == 2
    # Hidden classes read as ignore, background as the new background.
    assert metadata.label_map == {0: 255, 1: 255, 2: 0, 3: 1, 4: 2}
    records = DatasetCatalog.get(seen)
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[0], [1, 0], []]
    assert [len(r["annotations"]) for r in DatasetCatalog.get(whole)] == [3, 2, 0]
    assert "protocols" not in metadata.as_dict() and not any("tags" in record for record in records)
    dog = read_part_map(records[0], metadata)
    assert (dog[2:5, 1:4] == 255).all() and (dog[2:5, 9:12] == 0).all() and dog[0, 0] == 2
    check_part_map_ids(records, metadata)


def test_tags_of_unseen_classes_are_hidden_from_training(pets, tmp_path):
    json_file = tmp_path / "pets/labels/val.json"
    coco = json.loads(json_file.read_text())
    coco["images"][0]["tags"] = ["cat's tail", "dog's left ear", "dog's tail"]
    coco["images"][1]["tags"] = ["dog's right ear"]
    json_file.write_text(json.dumps(coco))
    whole, seen, conditioned, _ = register_descriptions([pets(unseen=["dog's left ear", "dog's right ear"])])
    assert [r.get("tags") for r in DatasetCatalog.get(whole)] == [[0, 2, 3], [1], None]
    assert [r.get("tags") for r in DatasetCatalog.get(seen)] == [[0, 1], None, None]
    assert not any("tags" in record for record in DatasetCatalog.get(conditioned))


def test_object_maps_make_a_data_set_of_objects(pets):
    whole, conditioned = register_descriptions([pets()])
    assert conditioned == f"{whole}_obj_condition"
    records, metadata = DatasetCatalog.get(conditioned), MetadataCatalog.get(conditioned)
    # The cat's picture shows a dog's tail as well; the empty picture has nothing to tell apart.
    assert [(r["image_id"], r["category_id"]) for r in records] == [("0_0", 0), ("1_0", 0), ("1_1", 1)]
    assert metadata.protocols == ("ov_oracle",) and metadata.evaluator_type == "sem_seg"
    assert metadata.obj_classes == ["dog", "cat"] and metadata.family == metadata.name.split("_val")[0]
    assert metadata.evaluation_set == {"base": [0, 1, 2, 3]}
    assert metadata.label_map == {0: 0, 1: 1, 2: 2, 3: 3, 4: 255}
    object_map = read_object_map(records[1], metadata)
    assert (object_map[2:5, 1:4] == 1).all() and (object_map[2:5, 6:9] == 0).all()
    assert object_map[0, 0] == object_map[1, 0] == 255
    assert set(np.unique(read_part_map(records[1], metadata))) == {2, 3, 255}


def test_object_by_object_training_sees_no_unseen_class(pets):
    """ZSSeg+ trains on single objects: with all classes among them, its zero-shot scores would be none."""
    *_, conditioned, seen = register_descriptions([pets(unseen=["dog's left ear", "dog's right ear", "cat's tail"])])
    assert seen == conditioned.replace("_val_obj", "_val_seen_obj")
    records, metadata = DatasetCatalog.get(seen), MetadataCatalog.get(seen)
    # Nothing of the cat is left; objects keep their numbers in records, and obj_map says which they get in training.
    assert [(r["image_id"], r["category_id"]) for r in records] == [("0_0", 0), ("1_0", 0)]
    assert metadata.thing_classes == ["dog's tail"] and metadata.obj_part_map == {2: 0} and metadata.obj_map == {0: 0}
    assert metadata.label_map == {0: 255, 1: 255, 2: 0, 3: 255, 4: 255}
    part_map = read_part_map(records[0], metadata)
    assert (part_map[2:5, 9:12] == 0).all() and (part_map == 0).sum() == 9 and set(np.unique(part_map)) == {0, 255}
    assert metadata.family == MetadataCatalog.get(conditioned).family


def test_one_object_owns_all_classes(pets):
    """With one object, names need not begin with it, as in ccp_parts: "hair" of a person."""
    _, conditioned = register_descriptions([pets(objects=["pet"])])
    assert MetadataCatalog.get(conditioned).part_objects == [0, 0, 0, 0]
    assert [r["category_id"] for r in DatasetCatalog.get(conditioned)] == [0, 0]


def test_missing_object_map_is_named(pets, tmp_path):
    _, conditioned = register_descriptions([pets()])
    (tmp_path / "pets/whole/p_1.png").unlink()
    with pytest.raises(ValueError, match=r"p_1\.JPEG: expected .* an object map, .*whole/p_1\.png is missing"):
        DatasetCatalog.get(conditioned)


def test_flip_pairs_are_numbered_as_each_data_set_numbers_its_classes(pets):
    pairs = [["dog's left ear", "dog's right ear"]]
    whole, seen, conditioned, _ = register_descriptions([pets(flip_pairs=pairs, unseen=["dog's tail"])])
    assert MetadataCatalog.get(whole).flip_map == [1, 0, 2, 3]
    assert MetadataCatalog.get(conditioned).flip_map == [1, 0, 2, 3]
    assert MetadataCatalog.get(seen).flip_map == [1, 0, 2]


def test_left_and_right_are_paired_by_name_unless_the_description_says_otherwise(pets, caplog):
    assert sided_pairs(["left ear", "tail", "right ear", "dog's left paw", "legR", "legL", "left", "l"]) == (
        (("left ear", "right ear"), ("legL", "legR")),
        ["dog's left paw", "left"],
    )
    whole, seen, *_ = register_descriptions([pets(unseen=["dog's tail"])])
    assert MetadataCatalog.get(whole).flip_map == [1, 0, 2, 3]
    assert MetadataCatalog.get(seen).flip_map == [1, 0, 2]


def test_one_side_alone_is_told_and_an_empty_list_is_taken_as_it_is(pets, caplog):
    caplog.set_level("INFO")
    whole, *_ = register_descriptions([pets(unseen=["dog's right ear"])])
    assert "dog's left ear: named after a side" in caplog.text
    assert MetadataCatalog.get(whole).get("flip_map") is None


def test_no_pairs_where_the_description_names_none(pets):
    whole, _ = register_descriptions([pets(flip_pairs=[])])
    assert MetadataCatalog.get(whole).get("flip_map") is None


@pytest.mark.parametrize(
    ("file", "name", "folder"),
    [
        ("ccp_parts", "ccp_parts", "ccp_parts"),
        ("ccp_parts_zero_shot", "ccp_parts_zs", "ccp_parts"),
        ("synthetic_parts", "synthetic_parts", "synthetic_parts"),
    ],
)
def test_shipped_descriptions_are_well_formed(file, name, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("WPS_SAM_CCP_PARTS", raising=False)
    copy = tmp_path / f"{file}.yaml"
    copy.write_text((DATASETS / f"{file}.yaml").read_text())
    for split in ("train", "val"):
        labels = tmp_path / folder / "annotations" / split
        labels.mkdir(parents=True)
        (labels / f"{split}.json").write_text("{}")
        (tmp_path / folder / "annotations" / f"{split}_whole").mkdir()
    description = read_description(str(copy))
    assert description.name == name and [paths.split for paths in description.splits] == ["train", "val"]
