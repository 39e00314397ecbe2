"""Registering data sets from YAML descriptions, and what a wrong description is told."""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.data.descriptions import read_description

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


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
    with pytest.raises(
        ValueError, match=r"root: the folder does not exist; looked for .*elsewhere/parts and .*none"
    ):
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
        ({"splits": {"train": {"images": "pictures"}}}, r"splits\.train: .*missing keys \['annotations'\]"),
        ({"splits": {"train": {**SPLIT, "labels": "x"}}}, r"splits\.train: unknown keys \['labels'\]"),
        ({"splits": {"train": "pictures"}}, r"splits\.train: expected the keys"),
        (
            {"splits": {"train": {**SPLIT, "annotations": "gone.json"}}},
            r"splits\.train: annotations .*gone\.json",
        ),
        ({"classes": "wheel"}, r"classes: expected a list of different names, got 'wheel'"),
        ({"classes": ["wheel", "wheel"]}, r"classes: expected a list of different names"),
        ({"classes": ["wheel"]}, r"\['window'\] are not among the given classes"),
    ],
)
def test_bad_description_is_refused_with_file_and_key(parts, changes, message):
    with pytest.raises(ValueError, match=rf"parts\.yaml: .*{message}"):
        register_descriptions([parts(**changes)])


def test_missing_or_broken_description(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.yaml: the file does not exist"):
        register_descriptions([str(tmp_path / "gone.yaml")])
    for text, message in (
        ("name: [", "no valid YAML"),
        ("", "expected the keys"),
        ("just text", "expected the keys"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"bad\.yaml: {message}"):
            register_descriptions([str(tmp_path / "bad.yaml")])


@pytest.mark.parametrize("name", ["ccp_parts", "synthetic_parts"])
def test_shipped_descriptions_are_well_formed(name, tmp_path, monkeypatch):
    monkeypatch.delenv("WPS_SAM_CCP_PARTS", raising=False)
    copy = tmp_path / f"{name}.yaml"
    copy.write_text((DATASETS / f"{name}.yaml").read_text())
    for split in ("train", "val"):
        labels = tmp_path / name / "annotations" / split
        labels.mkdir(parents=True)
        (labels / f"{split}.json").write_text("{}")
    description = read_description(str(copy))
    assert description.name == name and [paths.split for paths in description.splits] == ["train", "val"]
