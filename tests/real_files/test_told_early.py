"""What was told too late, or in a way that named nothing; and a small fuzz of every json that is read."""

from __future__ import annotations

import copy
import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wps_sam import engine
from wps_sam.config import read_config
from wps_sam.data.sources.descriptions import read_description, register_descriptions
from wps_sam.data.sources.mat_file import MatReader
from wps_sam.data.sources.ov_parts import OVSet, load_ade20k_part_234, load_pascal_part_116
from wps_sam.data.sources.part_map_check import check_part_map_ids
from wps_sam.data.sources.pascal_part import read_annotation

import cv2
import numpy as np
import pascal_layout
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from ov_layouts import write_ade20k_part_234, write_pascal_part_116
from PIL import Image
from scipy.io import loadmat, savemat
from small_coco import coco

# ------------------------------------------------------------------ 14: test sets before training


def cut_png(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda s: (s.root / "images" / "b.png").unlink(),
            r"val\.json: images\[1\]\.file_name: the image does not exist",
        ),
        (lambda s: s.json_file("val").write_bytes(s.json_file("val").read_bytes()[:300]), r"val\.json: no valid json"),
        (lambda s: (s.root / "images" / "b.png").write_bytes(b"no picture"), r"b\.png: cannot be decoded"),
        (
            lambda s: Image.new("RGB", (31, 20)).save(s.root / "images" / "b.png"),
            r"b\.png: height and width are \(20, 31\)",
        ),
        (lambda s: cut_png(s.root / "images" / "b.png"), r"b\.png: cannot be decoded"),
        (lambda s: s.write(no_place(), "val"), r"b\.png: annotation 6: expected a mask or a box"),
        (lambda s: s.write(unknown_class(), "val"), r"val\.json: categories: unknown class 'door'"),
    ],
)
def test_a_faulty_test_set_is_found_before_training(small, tiny_cfg, tmp_path, damage, message):
    # The training set has pictures of its own.
    images = tmp_path / "train_images"
    images.mkdir()
    for name in "ab":
        (images / f"{name}.png").write_bytes((small.root / "images" / f"{name}.png").read_bytes())
    small.keys["splits"] = {
        "train": {"images": str(images), "annotations": "train.json"},
        "val": {"images": "images", "annotations": "val.json"},
    }
    damage(small)
    train, val = small.register()
    sets = ("DATASETS.TRAIN", (train,), "DATASETS.TEST", (val,), "MODEL.PROMPTER.NUM_CLASSES", 2)
    with pytest.raises(ValueError, match=message):
        engine.Trainer(tiny_cfg(*sets))


def no_place() -> dict[str, Any]:
    content = coco()
    content["annotations"][3].update(bbox=None, segmentation=None, point=[5, 5])
    return content


def unknown_class() -> dict[str, Any]:
    content = coco()
    content["categories"][1]["name"] = "door"
    return content


def test_a_part_map_that_is_cut_off_is_found_before_training(tiny_cfg, write_tiny_parts, tmp_path):
    parts = write_tiny_parts(tmp_path / "cut", name="cut_maps")
    cut_png(sorted(parts.coco_json("val").parent.glob("*.png"))[1])
    register_descriptions([str(parts.description)])
    with pytest.raises(ValueError, match=r"label map .*\.png: cannot be decoded"):
        engine.Trainer(tiny_cfg("DATASETS.TRAIN", ("cut_maps_train",), "DATASETS.TEST", ("cut_maps_val",)))


def test_a_damaged_encoding_costs_its_mask_alone(changed, caplog):
    """It was only read in the iteration that needed it, or in the evaluation after the last."""
    rle = {"size": [20, 30], "counts": [7]}
    with caplog.at_level(logging.WARNING):
        records = changed(lambda content: content["annotations"][0].update(segmentation=rle))
    assert "segmentation" not in records[0]["annotations"][0] and "bbox" in records[0]["annotations"][0]
    assert "1 annotations with a malformed mask (annotation ids 3)" in caplog.text


# ------------------------------------------------------------------ 15: fields


@pytest.mark.parametrize("value", [float("nan"), [0], {}, "yes", 2, float("inf"), 10**400])
def test_a_strange_iscrowd_is_named(changed, value):
    with pytest.raises(ValueError, match=r"train\.json: annotations\[0\] \(id 3\)\.iscrowd: expected 0 or 1, got "):
        changed(lambda content: content["annotations"][0].update(iscrowd=value))


@pytest.mark.parametrize(
    "value", [[0, 0, 10**400, 5], [0, 0, float("inf"), 5], [0, 0, 1e300, 5], [{}, 0, 1, 1], "box", {"x": 1}]
)
def test_a_strange_box_is_named(changed, value):
    with pytest.raises(
        ValueError, match=r"train\.json: annotations\[0\] \(id 3\)\.bbox: expected \[x, y, width, height\]"
    ):
        changed(lambda content: content["annotations"][0].update(bbox=value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("height", 10**30, r"images\[0\]\.height: expected an integer of at least 1"),
        ("height", 10**9, r"images\[0\]: height and width: 1000000000 x 30 are more than"),
        ("height", 20.5, r"images\[0\]\.height: expected an integer"),
        ("id", [1], r"images\[0\]\.id: expected an integer, got \[1\]"),
        ("id", {}, r"images\[0\]\.id: expected an integer, got \{\}"),
        ("file_name", 7, r"images\[0\]\.file_name: expected a text, got 7"),
        ("file_name", "a\0.png", r"images\[0\]\.file_name: the image does not exist"),
        ("tags", {"wheel": 1}, r"images\[0\]\.tags: expected a list of class names"),
    ],
)
def test_a_strange_field_of_an_image_is_named(changed, key, value, message):
    with pytest.raises(ValueError, match=rf"train\.json: {message}"):
        changed(lambda content: content["images"][0].update({key: value}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layout": ["coco"]}, r"layout: expected one of .*got \['coco'\]"),
        ({"layout": {}}, "layout: expected one of"),
        ({"flip_pairs": [[["a"], {"b": 1}]]}, "flip_pairs: expected pairs of names"),
        ({"classes": [{"wheel": 1}]}, "classes: expected a list of different names"),
        ({"unseen": {"wheel": 1}}, "unseen: expected a list of different names"),
        ({"exif": 6}, "exif: expected one of"),
        ({"splits": ["train"]}, "splits: expected at least one"),
        ({"name": ["x"]}, "name: expected a text"),
    ],
)
def test_a_strange_description_is_named(small, keys, message):
    with pytest.raises(ValueError, match=rf"\.yaml: {message}"):
        read_description(small.description(**keys))


def test_unhashable_keys_of_a_description(tmp_path):
    path = tmp_path / "odd.yaml"
    for content in ("? [a, b]\n: c\n", "? {a: b}\n: c\n", "- a\n", "7\n", "\x00", "a: *b\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"odd\.yaml: "):
            read_description(str(path))


OV_TRAIN = OVSet("train", "image", "all")


@pytest.mark.parametrize(
    "content", [[], [1], {"2008_000001.png": 7}, {"2008_000001.png": [[1]]}, {"x.png": [116]}, {"x.png": [-1]}]
)
def test_a_strange_label_count_is_named(tmp_path, content):
    folder = write_pascal_part_116(tmp_path)
    load_pascal_part_116(str(tmp_path), OV_TRAIN)
    (path,) = folder.rglob("train_part_label_count.json")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"train_part_label_count\.json: .*delete"):
        load_pascal_part_116(str(tmp_path), OV_TRAIN)


@pytest.mark.parametrize("content", [{}, 7, [[]], [{"file_name": {}}], [{"file_name": ["a"]}], [None], "cut ["])
def test_a_strange_16_shot_list_is_named(tmp_path, content):
    folder = write_pascal_part_116(tmp_path)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "train_16shot.json").write_text(text)
    with pytest.raises(ValueError, match=r"train_16shot\.json: "):
        load_pascal_part_116(str(tmp_path), OVSet("train", "image", "all", few_shot=True))


# ------------------------------------------------------------------ a fuzz of what is read

ODD = [
    None,
    True,
    0,
    -1,
    7,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "7",
    [],
    [0],
    {},
    {"a": 1},
    [[]],
    [[1, 2, 3, 4, 5, 6]],
]


def mutate(value: Any, rng: random.Random) -> Any:
    """A copy with one place changed: an odd value there, a key or an element gone or twice."""
    value = copy.deepcopy(value)
    places = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        case _:
            node[key] = rng.choice(ODD)
    return value


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_json_loads_or_is_refused_by_name(small, seed):
    rng = random.Random(seed)
    outcomes = {"loaded": 0, "refused": 0}
    train, _ = small.register()
    for _ in range(120):
        small.write(mutate(coco(), rng))
        try:
            DatasetCatalog.get(train)
            outcomes["loaded"] += 1
        except ValueError as error:
            assert "train.json" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10


def test_a_changed_description_is_read_or_refused_by_name(small):
    rng, whole = random.Random(0), yaml.safe_load(Path(small.description(classes=["wheel", "window"])).read_text())
    whole.update(unseen=["window"], flip_pairs=[["wheel", "window"]], objects=["car"], crowds="parts", exif="auto")
    path, refused = small.root / "fuzzed.yaml", 0
    for _ in range(200):
        path.write_text(yaml.safe_dump(mutate(whole, rng)))
        try:
            read_description(str(path))
        except ValueError as error:
            refused += 1
            assert "fuzzed.yaml" in str(error)
    assert 20 < refused < 200


@pytest.mark.parametrize("seed", range(2))
def test_a_changed_instance_json_of_ade_loads_or_is_refused_by_name(tmp_path, seed):
    folder, rng = write_ade20k_part_234(tmp_path), random.Random(seed)
    path, refused = folder / "ade20k_instance_val.json", 0
    whole = json.loads(path.read_text())
    load_ade20k_part_234(str(tmp_path), OVSet("val", "object", "all"))
    for _ in range(40):
        path.write_text(json.dumps(mutate(whole, rng)))
        try:
            load_ade20k_part_234(str(tmp_path), OVSet("val", "object", "all"))
        except ValueError as error:
            refused += 1
            assert "ade20k_instance_val.json" in str(error) or "val_instance_label_count.json" in str(error)
    assert 4 < refused < 40


# ------------------------------------------------------------------ 16: .mat files


def test_changed_mat_files_are_read_or_refused_by_name(tmp_path):
    path = tmp_path / "2008_000002.mat"
    pascal_layout.write_mat(path, [pascal_layout.CAR])
    # Not compressed, where every byte that changes is one of the format.
    savemat(path, {"anno": loadmat(path)["anno"]}, do_compression=False)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            content[rng.randrange(128, 1200)] = rng.choice((0, 255, rng.randrange(256)))
        path.write_bytes(content)
        try:
            read_annotation(path)
        except ValueError as error:
            refused += 1
            assert "2008_000002.mat" in str(error)
    assert refused > 20


def test_a_mat_file_that_ends_its_reader_is_named_and_the_next_is_read(tmp_path, monkeypatch):
    from wps_sam.data.sources import pascal_part

    whole = pascal_layout.write_mat(tmp_path / "2008_000002.mat", [pascal_layout.CAR])
    assert len(read_annotation(whole)) == 1
    process = pascal_part._read_mat._process
    assert process is not None
    process.kill()
    process.wait()
    assert len(read_annotation(whole)) == 1
    # A file of 12 GiB on paper: the sizes of the largest mask, raised to 100,000 squared.
    anno = loadmat(whole)["anno"]
    savemat(whole, {"anno": anno}, do_compression=False)
    content = whole.read_bytes()
    mask = anno["objects"][0, 0][0, 0]["mask"]
    sizes = b"".join(int(side).to_bytes(4, "little") for side in mask.shape)
    assert sizes in content
    whole.write_bytes(content.replace(sizes, (100_000).to_bytes(4, "little") * 2))
    with pytest.raises(ValueError, match=r"2008_000002\.mat: cannot be read as a MATLAB 5 file"):
        read_annotation(whole)


def test_an_interrupt_does_not_shift_the_answers(tmp_path, monkeypatch):
    reader = MatReader()
    for name in "ab":
        savemat(tmp_path / f"{name}.mat", {"name": name})

    def interrupted(answers):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wps_sam.data.sources.mat_file._Answers.load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader(tmp_path / "a.mat")
    assert reader(tmp_path / "b.mat")["name"].item() == "b"


def test_a_small_part_on_a_large_one_may_have_another_border(tmp_path):
    """Maps painted with their borders: a ring around the eye's polygon lies within that of the head alone."""
    head, eye = [[10, 10], [80, 10], [80, 80], [10, 80]], [[30, 30], [36, 30], [36, 36], [30, 36]]
    part_map = np.full((100, 100), 2, np.uint8)
    for value, polygon in enumerate((head, eye)):
        cv2.fillPoly(part_map, [np.array(polygon)], value)
    cv2.imwrite(str(tmp_path / "a.png"), part_map)
    flat = [[float(v) for point in polygon for v in point] for polygon in (head, eye)]
    record = {"height": 100, "width": 100, "sem_seg_file_name": str(tmp_path / "a.png")}
    record["annotations"] = [{"category_id": c, "segmentation": [flat[c]]} for c in (0, 1)]
    metadata = SimpleNamespace(thing_classes=["head", "eye"], label_map={0: 0, 1: 1, 2: 2})
    check_part_map_ids([record], metadata)
    cv2.imwrite(str(tmp_path / "a.png"), np.array([1, 0, 2], np.uint8)[part_map])
    with pytest.raises(ValueError, match="number the parts differently"):
        check_part_map_ids([record], metadata)


# ------------------------------------------------------------------ 18: evaluation elsewhere


def test_evaluation_needs_no_training_set(tiny_cfg, tiny_parts, write_tiny_parts, tmp_path):
    """With the description of another data set in place of the configured one."""
    register_descriptions([str(tiny_parts.description)])
    trainer = engine.Trainer(tiny_cfg("SOLVER.MAX_ITER", 1))
    trainer.resume_or_load(resume=False)
    trainer.train()
    elsewhere = write_tiny_parts(tmp_path / "elsewhere", name="elsewhere")
    register_descriptions([str(elsewhere.description)])
    weights = str(tmp_path / "output" / "model_final.pth")
    cfg = tiny_cfg(
        *("DATASETS.TRAIN", ("gone_train",), "DATASETS.TEST", ("elsewhere_val",), "MODEL.WEIGHTS", weights),
        *("OUTPUT_DIR", str(tmp_path / "second")),
    )
    results = engine.evaluate_only(cfg)
    assert set(results) == {"elsewhere_val"}
    assert "gone_train" not in DatasetCatalog.list() and not hasattr(MetadataCatalog.get("gone_train"), "thing_classes")
    assert torch.load(weights, weights_only=True)["trainer"]["exif"] is None


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ["Animal Body", "Animal Head", "Car Body"],
            r"model_final\.pth: class 0 is 'Animal Head' in training and 'Animal Body' in data set .*write classes: \[",
        ),
        (
            ["Animal Head", "Animal Body", "Car Body", "Car Wheel"],
            r"model_final\.pth: trained on 3 classes, .* has 4: ",
        ),
        (["animal head", "Animal  Body", "CAR BODY"], None),
    ],
)
def test_weights_are_not_scored_on_other_classes(
    tiny_model, tiny_parts, tiny_cfg, write_tiny_parts, tmp_path, classes, message
):
    """In another order they scored 0 without a word."""
    parts = write_tiny_parts(tmp_path / "set", name=f"classes_{len(classes)}_{classes[0].replace(' ', '')}")
    content = yaml.safe_load(parts.description.read_text())
    parts.description.write_text(yaml.safe_dump({**content, "layout": "coco", "classes": classes}))
    register_descriptions([str(parts.description), str(tiny_parts.description)])
    trainer = engine.Trainer(tiny_cfg("SOLVER.MAX_ITER", 1, "OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.TEST", ()))
    trainer.resume_or_load(resume=False)
    trainer.train()
    cfg = tiny_cfg(
        *("MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth"), "DATASETS.TEST", (parts.split("val"),)),
        *("MODEL.PROMPTER.NUM_CLASSES", len(classes), "OUTPUT_DIR", str(tmp_path / "second")),
    )
    if message is None:
        assert set(engine.evaluate_only(cfg)) == {parts.split("val")}
    else:
        with pytest.raises(ValueError, match=message):
            engine.evaluate_only(cfg)


def test_a_warm_up_that_never_ends_is_told(tiny_cfg, tiny_parts, caplog):
    register_descriptions([str(tiny_parts.description)])
    with caplog.at_level(logging.WARNING):
        engine.Trainer(tiny_cfg("SOLVER.MAX_ITER", 40, "SOLVER.WARMUP_ITERS", 50))
        assert "SOLVER.WARMUP_ITERS is 50 and SOLVER.MAX_ITER 40" in caplog.text
        caplog.clear()
        engine.Trainer(tiny_cfg("SOLVER.MAX_ITER", 40, "SOLVER.WARMUP_ITERS", 5))
        assert "WARMUP_ITERS" not in caplog.text


def test_the_own_data_command_of_the_readme_ends_soon():
    root = Path(__file__).resolve().parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert "--config-file configs/own_data.yaml" in readme and "SOLVER.MAX_ITER" not in readme
    assert read_config(root / "configs" / "own_data.yaml", []).SOLVER.MAX_ITER <= 1000
