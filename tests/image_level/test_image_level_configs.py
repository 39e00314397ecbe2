"""Every configuration of configs/image_level/, run from names to labels on fixtures of its data's layout.

Networks are tiny and random and schedules two steps long; all else is the file's. What published files say is in
test_run.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.data.sources.coco import load_vocabulary
from wps_sam.image_level import run as run_module
from wps_sam.image_level import words as words_module
from wps_sam.image_level.results import evaluate, export
from wps_sam.image_level.run import Run
from wps_sam.image_level.settings import ImageLevelSettings, read_values
from wps_sam.image_level.weaktr import build_weaktr
from wps_sam.prompt_evaluation import load_encoder

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.name: path for path in sorted((ROOT / "configs" / "image_level").glob("*.yaml"))}
CCP_CLASSES = (
    *("hair", "skin", "headwear", "eyewear", "outerwear", "top", "dress", "skirt", "trousers", "shorts", "legwear"),
    *("footwear", "bag", "belt", "neckwear", "accessory"),
)
SIZE = (48, 64)
# Of both pictures class and box (x0, y0, x1, y1) of what is in it; no class is in both.
SCENES = ([(0, (4, 8, 24, 40)), (2, (36, 16, 60, 44))], [(1, (16, 12, 48, 40))])


def picture(scene):
    image = np.full((*SIZE, 3), 90, np.uint8)
    for c, (x0, y0, x1, y1) in scene:
        image[y0:y1, x0:x1, c] = 240
    return Image.fromarray(image)


def label_map(scene, background, first):
    labels = np.full(SIZE, background, np.uint8)
    for c, (x0, y0, x1, y1) in scene:
        labels[y0:y1, x0:x1] = c + first
    return Image.fromarray(labels)


def write_coco(images, json_file, classes, ending=".jpg", classless=False):
    """Pictures and a COCO file with boxes and polygons; ``classless``: every label is of the first class."""
    images.mkdir(parents=True, exist_ok=True)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    listed, labels = [], []
    for i, scene in enumerate(SCENES):
        picture(scene).save(images / f"{i}{ending}")
        listed.append({"id": i, "file_name": f"{i}{ending}", "height": SIZE[0], "width": SIZE[1]})
        for c, (x0, y0, x1, y1) in scene:
            polygon = [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
            area, box = (x1 - x0) * (y1 - y0), [x0, y0, x1 - x0, y1 - y0]
            number, c = len(labels), 0 if classless else c
            labels.append({"id": number, "image_id": i, "category_id": c, "bbox": box, "area": area, "iscrowd": 0})
            labels[-1]["segmentation"] = [polygon]
    categories = [{"id": c, "name": name} for c, name in enumerate(classes)]
    json_file.write_text(json.dumps({"images": listed, "annotations": labels, "categories": categories}))


def describe(root, name, layout, splits):
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "layout": layout, "root": str(root), "splits": splits}))
    return {"descriptions": [str(path)], "dataset": f"{name}_train"}


def part_layout(root, name, classes):
    write_coco(root / "images/train", root / "annotations/train/train.json", classes, ".JPEG")
    for i, scene in enumerate(SCENES):
        label_map(scene, len(classes), 0).save(root / f"annotations/train/{i}.png")
    return describe(
        root, name, "partimagenet", {"train": {"images": "images/train", "annotations": "annotations/train"}}
    )


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Of each kind of data the settings that name it."""
    root = tmp_path_factory.mktemp("layouts")
    voc = root / "VOC2012"
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets"):
        (voc / name).mkdir(parents=True)
    for i, scene in enumerate(SCENES):
        picture(scene).save(voc / "JPEGImages" / f"{i}.jpg")
        label_map(scene, 0, 1).save(voc / "SegmentationClassAug" / f"{i}.png")
    (voc / "ImageSets" / "train.txt").write_text("0\n1\n")
    coco = yaml.safe_load(CONFIGS["coco.yaml"].read_text(encoding="utf-8"))
    names = [*coco["texts"], *(f"thing {k}" for k in range(80 - len(coco["texts"])))]
    write_coco(root / "coco/train2014", root / "coco/annotations/instances_train2014.json", names)
    about = yaml.safe_load((ROOT / "datasets" / "coco2014.yaml").read_text(encoding="utf-8"))
    parts = load_vocabulary("partimagenet").names
    of_parts = part_layout(root / "parts", "dry_partimagenet", parts)
    write_coco(root / "parts/images/train", root / "objects.json", ["object"], ".JPEG", classless=True)
    return {
        "voc": {
            "label_maps": str(voc / "SegmentationClassAug"),
            "names": str(voc / "ImageSets/train.txt"),
            "images": str(voc / "JPEGImages"),
        },
        "coco": describe(root / "coco", "dry_coco2014", about["layout"], {"train": about["splits"]["train"]}),
        "ccp_parts": part_layout(root / "ccp", "dry_ccp_parts", CCP_CLASSES),
        "parts": {**of_parts, "objects": str(root / "objects.json")},
    }


def shortened(values):
    fit = {"iterations": 2, "stop": 0, "warmup": 1, "batch_size": 2, "accumulate": 1, "crop": 32, "long_side": [40, 48]}
    stage = {"batch_size": 2, "learning_rate": 0.1}
    values.update(sam_arch="vit_tiny", sam_weights="", weights="", semantic="dinov2", semantic_weights="", side=64)
    values["superpixels"] = {**values.get("superpixels", {}), "points_per_side": 2, "crop_n_layers": 0}
    if values["superpixels"].get("thresholds") != "quantile":
        values["superpixels"].update(pred_iou_thresh=-9, stability_score_thresh=0)
    for name in ("fit_tags", "fit_seeds"):
        values[name] = {**values.get(name, {}), **fit}
    if "semples" in values:
        small = {"side": 32, "epochs": 1, "checkpoint": "", "scored": "", "scales": [1.0]}
        values["semples"].update(small, match=stage, background=stage, refine=stage)
    return values


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("vit_tiny", "")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_runs_from_names_to_labels(name, layouts, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "load_encoder", lambda *args: encoder)
    sizes = dict(dim=96, depth=2, heads=6, image_size=64)
    monkeypatch.setattr(words_module, "build_weaktr", lambda classes, *more: build_weaktr(classes, *more, **sizes))
    values = shortened(yaml.safe_load(CONFIGS[name].read_text(encoding="utf-8")))
    values.update(layouts[name.removesuffix(".yaml").removesuffix("_semples")])
    run = Run(tmp_path / f"labels_of_{name[:-5]}", read_values(ImageLevelSettings, values))
    run.tags()
    run.masks()
    assert [len(picture.tags) for picture in run.pictures] == [2, 1]
    if run.settings.network == "weaktr":
        for stage in ("match", "background", "refine"):
            run.fit(stage)
        kinds = ("fine",)
    else:
        kinds = ("coarse", "fine")
    for kind in kinds:
        if run.settings.network != "weaktr":
            run.fit(run.words_of(kind))
        run.cams(run.words_of(kind))
        run.seeds(kind)
        report = evaluate(run, kind)
        assert set(report["rows"]) == {kind, "centre", "noise"}
        parts = report["parts"][run.classes[1]]
        assert {"present", "tagged", "empty", "precision", "recall", "IoU"} == set(parts) and parts["present"] == 0.5
    export(run, "fine")
    (registered,) = register_descriptions([str(run.folder / "description.yaml")])
    assert len(DatasetCatalog.get(registered)) == 2
