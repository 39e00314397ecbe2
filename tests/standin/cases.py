"""The cases of the golden files: each runs the same code on Detectron2 and on its stand-in.

Every function takes ``d2``, which maps a submodule's name (``d2("structures")``) to the module, and returns
plain JSON values. ``make_golden.py`` stores what Detectron2 answers; the tests ask the stand-in.
"""

from __future__ import annotations

import wps_sam  # isort: skip

import itertools
import json
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

Modules = Callable[[str], ModuleType]


def plain(value: Any) -> Any:
    """JSON values of tensors, arrays, structures and tuples; NaN, which JSON has no word for, as a text."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return plain(value.tolist())
    if hasattr(value, "tensor"):
        return plain(value.tensor)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return "nan" if isinstance(value, float) and math.isnan(value) else value


# ------------------------------------------------------------------ names


def names(d2: Modules) -> Any:
    """The public names of every module that the stand-in has: none may be missing in Detectron2."""
    root = Path(wps_sam.__file__).parent / "standin"
    files = sorted(path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    modules = [".".join(path.parts).removesuffix("__init__").rstrip(".") for path in files]
    return {name: sorted(n for n in vars(d2(name)) if not n.startswith("_")) for name in modules if name}


# ------------------------------------------------------------------ config


CONFIG_FILES = {
    "base.yaml": "MODEL:\n  MASK_ON: true\n  BACKBONE:\n    NAME: first\nSOLVER:\n  STEPS: (10, 20)\n  BASE_LR: 1.5\n",
    "child.yaml": "_BASE_: base.yaml\nMODEL:\n  BACKBONE:\n    NAME: second\nINPUT:\n  MIN_SIZE_TRAIN: [3, 4]\n",
}


def config(d2: Modules) -> Any:
    """Defaults, a file on its base, a list of overrides; only keys that the stand-in has."""
    get_cfg = d2("config").get_cfg
    merged = get_cfg()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in CONFIG_FILES.items():
            (Path(folder) / name).write_text(text)
        merged.merge_from_file(str(Path(folder) / "child.yaml"))
    merged.merge_from_list(["SOLVER.MAX_ITER", "77", "DATASETS.TRAIN", "('a', 'b')", "SEED", "3", "OUTPUT_DIR", "x"])
    return {"defaults": plain(get_cfg()), "merged": plain(merged)}


def configurable(d2: Modules) -> Any:
    """Explicit arguments, a cfg, a cfg with extra arguments, and a function."""
    module = d2("config")

    class Thing:
        @module.configurable
        def __init__(self, a: int, b: int = 2) -> None:
            self.seen = (a, b)

        @classmethod
        def from_config(cls, cfg: Any, twice: bool = False) -> dict[str, int]:
            return {"a": cfg.SEED * (2 if twice else 1)}

    @module.configurable(from_config=lambda cfg: {"a": cfg.SEED})
    def function(a: int, b: int = 5) -> tuple[int, int]:
        return a, b

    cfg = module.get_cfg()
    cfg.SEED = 7
    things = [Thing(1), Thing(a=1, b=3), Thing(cfg), Thing(cfg, b=4), Thing(cfg, twice=True), Thing(cfg=cfg)]
    return plain([[thing.seen for thing in things], function(1), function(cfg), function(cfg, b=6)])


# ------------------------------------------------------------------ structures


def boxes(d2: Modules) -> Any:
    structures = d2("structures")
    Boxes, BoxMode = structures.Boxes, structures.BoxMode
    a = Boxes(torch.tensor([[1.0, 2.0, 5.5, 7.25], [-3.0, 0.0, 4.0, 20.0], [2.0, 2.0, 2.0, 9.0]]))
    b = Boxes(torch.tensor([[0.0, 0.0, 4.0, 4.0], [100.0, 100.0, 110.0, 101.0]]))
    clipped, scaled = a.clone(), a.clone()
    clipped.clip((10, 5))
    scaled.scale(2.0, 0.5)
    raw = [1.5, 2.0, 3.25, 4.0]
    modes = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return plain(
        {
            "area": a.area(),
            "clip": clipped,
            "scale": scaled,
            "nonempty": [a.nonempty(), a.nonempty(5.0)],
            "centers": a.get_centers(),
            "index": [a[0], a[-1], a[1:], a[torch.tensor([True, False, True])], a[torch.tensor([2, 0])]],
            "cat": [Boxes.cat([a, b]), Boxes.cat([])],
            "iou": structures.pairwise_iou(a, b),
            "iou with none": structures.pairwise_iou(a, Boxes([])),
            "empty": [len(Boxes([])), list(Boxes(torch.zeros(0)).tensor.shape)],
            "convert": [
                [BoxMode.convert(box, m, n) for m, n in itertools.product(modes, modes)]
                for box in (raw, tuple(raw), np.array([raw, raw]), torch.tensor([raw]))
            ],
            "types": [
                str(getattr(BoxMode.convert(box, *modes), "dtype", type(box).__name__))
                for box in (raw, tuple(raw), np.array([raw]), torch.tensor([raw]))
            ],
            "modes": {mode.name: int(mode) for mode in BoxMode},
        }
    )


def instances(d2: Modules) -> Any:
    structures = d2("structures")

    def make(n: int) -> Any:
        one = structures.Instances((10, 20))
        one.pred_boxes = structures.Boxes(torch.arange(4.0 * n).reshape(n, 4))
        one.scores = torch.arange(float(n)) / 10
        one.names = [f"part {i}" for i in range(n)]
        one.set("gt_masks", structures.BitMasks(torch.arange(n)[:, None, None].expand(n, 2, 3) % 2 == 1))
        return one

    def shown(one: Any) -> Any:
        return [len(one), list(one.image_size), plain(one.get_fields())]

    five = make(5)
    removed = make(2)
    removed.remove("names")
    errors = []
    for wrong in (
        lambda: setattr(make(2), "scores", torch.zeros(3)),
        lambda: make(2).nothing,
        lambda: make(2)[2],
        lambda: len(structures.Instances((1, 1))),
        lambda: structures.Instances.cat([make(1), structures.Instances((1, 1))]),
        lambda: iter(make(2)),
    ):
        try:
            wrong()
            errors.append("nothing")
        except Exception as error:
            errors.append(type(error).__name__)
    return {
        "index": [shown(five[i]) for i in (0, -1, slice(1, 4), slice(None, None, 2))],
        "cat": shown(structures.Instances.cat([make(2), make(1)])),
        "to": shown(five.to("cpu")),
        "has": [five.has("scores"), removed.has("names"), "scores" in five.get_fields()],
        "errors": errors,
    }


def image_list(d2: Modules) -> Any:
    from_tensors = d2("structures").ImageList.from_tensors
    images = [torch.arange(2.0 * h * w).reshape(2, h, w) for h, w in ((3, 5), (4, 2))]
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "divisibility": {"size_divisibility": 4},
        "value": {"pad_value": -1.0},
        "square": {"padding_constraints": {"square_size": 8}},
        "no square": {"padding_constraints": {"square_size": 0, "size_divisibility": 3}},
        "both": {"size_divisibility": 2, "padding_constraints": {"square_size": 7, "size_divisibility": 5}},
    }
    result = {}
    for name, arguments in cases.items():
        padded = from_tensors(images, **arguments)
        result[name] = plain([padded.tensor, padded.image_sizes, padded[1]])
    single = from_tensors(images[:1], padding_constraints={"square_size": 6})
    result["single"] = plain([single.tensor, single.image_sizes, len(single)])
    return result


POLYGONS = [[[1.0, 1.0, 8.0, 1.0, 8.0, 6.0, 1.0, 6.0]], [[0.5, 0.5, 4.0, 9.0, 9.5, 2.0], [7, 7, 9, 7, 9, 9]], []]


def masks(d2: Modules) -> Any:
    structures = d2("structures")
    polygons = structures.PolygonMasks([[np.array(p, dtype=float) for p in one] for one in POLYGONS])
    bitmaps = structures.BitMasks.from_polygon_masks(polygons, 10, 12)
    return plain(
        {
            "bitmaps": bitmaps.tensor.int(),
            "boxes": [bitmaps.get_bounding_boxes(), polygons[:2].get_bounding_boxes()],
            "nonempty": [bitmaps.nonempty(), polygons.nonempty()],
            "index": [bitmaps[1].tensor.int(), bitmaps[torch.tensor([2, 0])].tensor.int(), len(polygons[1])],
            "cat": len(structures.BitMasks.cat([bitmaps, bitmaps])),
        }
    )


# ------------------------------------------------------------------ pictures


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth picture with edges, uint8 [height, width, channels]."""
    y, x = np.mgrid[:height, :width]
    planes = [(37 * c + 5 * x + 3 * y + 90 * ((x // 4 + y // 3) % 2)) % 256 for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def resizing(d2: Modules) -> Any:
    """Sizes and pixels of resized pictures, coordinates and labels."""
    T = d2("data.transforms")
    shapes = [(480, 640), (640, 480), (1, 1), (8000, 20), (333, 500), (1024, 1024), (375, 500)]
    limits = [(800, 1333), (256, 256), (1024, 1024), (600, 10**6)]
    sizes = [
        [shape, limit, T.ResizeShortestEdge.get_output_shape(*shape, *limit)]
        for shape, limit in itertools.product(shapes, limits)
        if limit[1] < 10**6 or min(shape) > 20
    ]
    resize = T.ResizeTransform(9, 14, 5, 20)
    image = picture(9, 14)
    return plain(
        {
            "sizes": sizes,
            "uint8": resize.apply_image(image),
            "grey": resize.apply_image(image[:, :, :1]),
            "2d": resize.apply_image(image[:, :, 0]),
            "float": resize.apply_image(image.astype(np.float32)),
            "labels": resize.apply_segmentation(image[:, :, 0]),
            "integer labels": resize.apply_segmentation(image[:, :, 0].astype(np.float32)),
            "coords": resize.apply_coords(np.array([[0.0, 0.0], [14.0, 9.0], [3.5, 2.25]])),
            "box": resize.apply_box(np.array([[1.0, 2.0, 5.0, 8.5]])),
            "inverse": resize.inverse().apply_coords(np.array([[20.0, 5.0], [7.0, 1.0]])),
        }
    )


def augmentations(d2: Modules) -> Any:
    """What augmentations draw for a seed, and what they do to image, boxes and labels."""
    T = d2("data.transforms")
    lists = {
        "flip": [T.RandomFlip(0.5)],
        "flip vertical": [T.RandomFlip(0.8, horizontal=False, vertical=True)],
        "shortest range": [T.ResizeShortestEdge((10, 20), 40)],
        "shortest choice": [T.ResizeShortestEdge([10, 15, 20], 24, "choice")],
        "crop relative": [T.RandomCrop("relative", (0.5, 0.75))],
        "crop range": [T.RandomCrop("relative_range", (0.3, 0.6))],
        "crop absolute": [T.RandomCrop("absolute", (8, 100))],
        "crop absolute range": [T.RandomCrop("absolute_range", (5, 14))],
        "all": [T.Resize((18, 22)), T.RandomFlip(), T.RandomCrop("relative_range", (0.5, 0.5)), T.NoOpTransform()],
    }
    result: dict[str, list[Any]] = {}
    for name, augs in lists.items():
        np.random.seed(5)
        result[name] = []
        for _ in range(4):
            image = picture(16, 24)
            given = T.AugInput(image, boxes=np.array([[2.0, 3.0, 10.0, 12.0]]), sem_seg=image[:, :, 0].copy())
            done = T.AugmentationList(augs)(given)
            coords = done.apply_coords(np.array([[4.0, 5.0]]))
            sums = [given.image.shape, int(given.image.sum()), int(given.sem_seg.astype(int).sum())]
            result[name].append(plain([given.boxes, coords, sums]))
    return result


def read_images(d2: Modules) -> Any:
    """Grey, CMYK, palette, transparent and EXIF-rotated files, in three orders of colours."""
    utils = d2("data.detection_utils")
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("L", "RGB", "RGBA", "P", "CMYK"):
            path = Path(folder) / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
            Image.fromarray(picture(4, 6)).convert(mode).save(path)
            result[mode] = [plain(utils.read_image(str(path), order)) for order in ("RGB", "BGR", "L")]
        for orientation in range(1, 9):
            path = Path(folder) / f"{orientation}.png"
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.fromarray(picture(4, 6)).save(path, exif=exif)
            result[f"exif {orientation}"] = plain(utils.read_image(str(path), "RGB"))
    record: dict[str, Any] = {}
    utils.check_image_size(record, picture(4, 6))
    try:
        utils.check_image_size({"width": 4, "height": 6, "file_name": "f"}, picture(4, 6))
    except utils.SizeMismatchError:
        record["mismatch"] = True
    return {**result, "sizes": record}


def postprocessing(d2: Modules) -> Any:
    scores = torch.arange(2 * 6 * 8, dtype=torch.float32).reshape(2, 6, 8).sin()
    sem_seg_postprocess = d2("modeling.postprocessing").sem_seg_postprocess
    return plain([sem_seg_postprocess(scores, (5, 7), *size) for size in ((5, 7), (9, 11), (2, 3))])


def nms(d2: Modules) -> Any:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(30, 2, generator=generator) * 20
    all_boxes = torch.cat([corners, corners + torch.rand(30, 2, generator=generator) * 20], 1)
    scores = torch.rand(30, generator=generator)
    classes = torch.randint(0, 3, (30,), generator=generator)
    return plain([d2("layers").batched_nms(all_boxes, scores, classes, t) for t in (0.1, 0.5, 0.9)])


# ------------------------------------------------------------------ data


def samplers(d2: Modules) -> Any:
    """The training order for a seed and several ranks, and how a test set is shared out."""
    module, comm = d2("data.samplers"), d2("utils.comm")
    result: dict[str, Any] = {"training": {}, "inference": {}}
    for size, world in ((7, 1), (7, 3), (10, 4), (3, 4)):
        for rank in range(world):
            with mock.patch.object(comm, "get_rank", lambda rank=rank: rank):
                with mock.patch.object(comm, "get_world_size", lambda world=world: world):
                    sampler = module.TrainingSampler(size, seed=11)
                    ordered = module.TrainingSampler(size, shuffle=False, seed=11)
                    part = module.InferenceSampler(size)
                    result["training"][f"{size} {rank}/{world}"] = [
                        list(itertools.islice(sampler, 20)),
                        list(itertools.islice(ordered, 20)),
                    ]
                    result["inference"][f"{size} {rank}/{world}"] = [list(part), len(part)]
    np.random.seed(4)
    result["drawn seed"] = list(itertools.islice(module.TrainingSampler(9), 20))
    return result


def loaders(d2: Modules) -> Any:
    """Batches of the training loader with and without grouping and workers, of a mapper that skips, of testing."""
    data, sampler = d2("data"), d2("data.samplers").TrainingSampler
    records = [{"id": i, "width": 3 + i % 3, "height": 4, "annotations": []} for i in range(10)]
    result: dict[str, Any] = {}
    for name, arguments in {
        "plain": {"aspect_ratio_grouping": False},
        "grouped": {},
        "workers": {"aspect_ratio_grouping": False, "num_workers": 2},
        "collate": {"aspect_ratio_grouping": False, "collate_fn": _ids},
    }.items():
        loader = data.build_detection_train_loader(
            records, mapper=_same, sampler=sampler(10, seed=2), total_batch_size=2, **arguments
        )
        batches = list(itertools.islice(loader, 6))
        result[name] = batches if name == "collate" else [_ids(batch) for batch in batches]
    test = data.build_detection_test_loader(records, mapper=_same, batch_size=4)
    result["test"] = [_ids(batch) for batch in test]
    result["skipping"] = [r["id"] % 2 for r in map(data.MapDataset(records, _even).__getitem__, range(10))]
    listed = data.DatasetFromList(records)
    listed[0]["id"] = "changed"
    result["list"] = [listed[0], listed[-1]["id"], len(listed)]
    return result


def _same(record: dict) -> dict:
    return record


def _even(record: dict) -> dict | None:
    return record if record["id"] % 2 == 0 else None


def _ids(batch: list[dict]) -> list[int]:
    return [record["id"] for record in batch]


COCO_JSON = {
    "images": [
        {"id": 4, "file_name": "b.jpg", "height": 20, "width": 30},
        {"id": 2, "file_name": "a.jpg", "height": 24, "width": 24},
        {"id": 9, "file_name": "none.jpg", "height": 24, "width": 24},
    ],
    "categories": [{"id": 7, "name": "tail"}, {"id": 3, "name": "head"}, {"id": 5, "name": "never"}],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 10, 8], "iscrowd": 0, "area": 80,
         "segmentation": [[1, 2, 11, 2, 11, 10, 1, 10]]},
        {"id": 2, "image_id": 4, "category_id": 3, "bbox": [12, 3, 15, 15], "iscrowd": 0, "area": 225,
         "segmentation": [[12, 3, 27, 3, 27, 18, 12, 18], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [0, 0, 24, 12], "iscrowd": 0, "area": 288,
         "segmentation": {"size": [24, 24], "counts": [0, 288, 288]}},
        {"id": 4, "image_id": 2, "category_id": 7, "bbox": [3, 14, 5, 5], "iscrowd": 1, "area": 25,
         "segmentation": {"size": [24, 24], "counts": [86, 5, 19, 5, 19, 5, 19, 5, 19, 5, 389]}},
        {"id": 5, "image_id": 2, "category_id": 7, "bbox": [3, 14, 5, 5], "iscrowd": 0, "area": 25,
         "segmentation": [[1, 2, 3, 4]]},
    ],
}  # fmt: skip


def coco_records(d2: Modules) -> Any:
    """A COCO file with categories out of order, invalid polygons, RLE, and an image without annotations."""
    coco, data = d2("data.datasets.coco"), d2("data")
    name = "golden_coco_records"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parts.json"
        path.write_text(json.dumps(COCO_JSON))
        coco.register_coco_instances(name, {}, str(path), "images")
        records = data.DatasetCatalog.get(name)
        trained_on = data.get_detection_dataset_dicts(name)
        raw = coco.load_coco_json(str(path), "images")
    metadata = data.MetadataCatalog.get(name)
    for record in (*records, *raw):
        for annotation in record["annotations"]:
            if isinstance(annotation.get("segmentation"), dict):
                counts = annotation["segmentation"]["counts"]
                annotation["segmentation"]["counts"] = counts if isinstance(counts, list) else counts.decode()
    shown = [records, metadata.thing_classes, metadata.thing_dataset_id_to_contiguous_id, metadata.evaluator_type]
    data.DatasetCatalog.remove(name)
    data.MetadataCatalog.remove(name)
    return plain([*shown, [r["image_id"] for r in trained_on], [r["annotations"] for r in raw]])


# ------------------------------------------------------------------ solver


def schedules(d2: Modules) -> Any:
    """The learning rate of every iteration."""
    result = {}
    for name, keys in {
        "cosine": {"LR_SCHEDULER_NAME": "WarmupCosineLR"},
        "cosine to an end": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 1e-3},
        "cosine from zero": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_FACTOR": 0.0},
        "cosine rescaled": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "RESCALE_INTERVAL": True},
        "steps": {},
        "steps beyond": {"STEPS": (20, 99)},
        "constant warm-up": {"WARMUP_METHOD": "constant"},
        "no warm-up": {"WARMUP_ITERS": 0},
        "only warm-up": {"WARMUP_ITERS": 60},
    }.items():
        cfg = d2("config").get_cfg()
        given = {"MAX_ITER": 40, "BASE_LR": 0.02, "WARMUP_ITERS": 8, "WARMUP_FACTOR": 0.1, "STEPS": (20, 30), **keys}
        cfg.SOLVER.update(given)
        parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
        optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:]}], lr=0.02)
        scheduler = d2("solver").build_lr_scheduler(cfg, optimizer)
        rates = []
        for _ in range(40):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        result[name] = [rates, plain(scheduler.state_dict())]
    return result


def small_network() -> nn.Module:
    """Layers with and without normalisation and bias, one frozen, one shared."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, False)
    )
    network[2].weight.requires_grad = False
    network.add_module("again", network[0])
    return network


def optimizers(d2: Modules) -> Any:
    """Which parameters are optimised how, and three clipped steps."""
    solver, network = d2("solver"), small_network()
    names = {parameter: name for name, parameter in network.named_parameters()}
    result: dict[str, Any] = {}
    for name, arguments in {
        "plain": {"base_lr": 0.1},
        "decays": {"base_lr": 0.1, "weight_decay": 0.5, "weight_decay_norm": 0.0},
        "bias": {"base_lr": 0.1, "weight_decay_norm": 0.2, "bias_lr_factor": 2.0, "weight_decay_bias": 0.0},
        "nothing": {},
    }.items():
        groups = solver.get_default_optimizer_params(network, **arguments)
        result[name] = [{**group, "params": [names[p] for p in group["params"]]} for group in groups]
    for clip in (None, "value", "norm"):
        network = small_network()
        cfg = d2("config").get_cfg()
        cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": clip is not None, "CLIP_TYPE": clip or "", "CLIP_VALUE": 0.1})
        optimizer = solver.build_optimizer(cfg, network)
        for i in range(3):
            optimizer.zero_grad()
            network(torch.linspace(-2, 3, 15).reshape(5, 3) * (i + 1)).pow(2).sum().backward()
            optimizer.step()
        result[f"clip {clip}"] = [type(optimizer).__name__, plain([p.detach() for p in network.parameters()])]
    return result


# ------------------------------------------------------------------ evaluation


class _FakeModel(nn.Module):
    """Says of every input what it carries with it."""

    def forward(self, inputs: list[dict]) -> list[dict]:
        assert not self.training and not torch.is_grad_enabled()
        return [record["output"] for record in inputs]


def sem_seg_evaluation(d2: Modules) -> Any:
    """Classes that are missing in labels, in predictions and in both, and ignored pixels."""
    data, evaluation = d2("data"), d2("evaluation")
    name = "golden_sem_seg"
    generator = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        records, inputs = [], []
        for i in range(3):
            labels = generator.integers(0, 4, (12, 9)).astype(np.uint8)
            labels[labels == 3] = 255
            path = Path(folder) / f"{i}.png"
            Image.fromarray(labels).save(path)
            records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)})
            scores = generator.random((5, 12, 9)).astype(np.float32) * np.array([1, 2, 1, 1, 0])[:, None, None]
            inputs.append([{"file_name": f"{i}.jpg", "output": {"sem_seg": torch.from_numpy(scores)}}])
        data.DatasetCatalog.register(name, lambda: records)
        data.MetadataCatalog.get(name).set(stuff_classes=["a", "b", "c", "found only", "nowhere"], ignore_label=255)
        evaluator = evaluation.SemSegEvaluator(name, distributed=False, output_dir=folder)
        results = evaluation.inference_on_dataset(_FakeModel().train(), inputs, evaluator)["sem_seg"]
        predictions = json.loads((Path(folder) / "sem_seg_predictions.json").read_text())
    data.DatasetCatalog.remove(name)
    data.MetadataCatalog.remove(name)
    # Detectron2's main branch also has scores of boundaries, where OpenCV is installed.
    kept = {key: value for key, value in results.items() if "oundary" not in key and not key.startswith("min(")}
    return plain([kept, predictions])


def coco_evaluation(d2: Modules) -> Any:
    """Mask and box AP of good, bad and missing instances; also without any instance."""
    data, evaluation, structures = d2("data"), d2("evaluation"), d2("structures")
    name = "golden_coco_evaluation"
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parts.json"
        # Without the invalid polygons: COCO's code cannot draw them.
        valid = json.loads(json.dumps(COCO_JSON))
        valid["annotations"].pop()
        del valid["annotations"][1]["segmentation"][1:]
        path.write_text(json.dumps(valid))
        data.MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=["head", "never", "tail"],
            thing_dataset_id_to_contiguous_id={3: 0, 5: 1, 7: 2},
        )
        for case in ("segm and bbox", "bbox only", "nothing found"):
            inputs = []
            for image in COCO_JSON["images"]:
                size = (image["height"], image["width"])
                found = structures.Instances(size)
                rows = [] if case == "nothing found" else _found(image["id"])
                found.pred_boxes = structures.Boxes([row[:4] for row in rows])
                found.scores = torch.tensor([row[4] for row in rows])
                found.pred_classes = torch.tensor([row[5] for row in rows], dtype=torch.int64)
                if case != "bbox only":
                    bitmaps = torch.zeros(len(rows), *size, dtype=torch.bool)
                    for bitmap, (x0, y0, x1, y1, *_) in zip(bitmaps, rows):
                        bitmap[int(y0) : int(y1), int(x0) : int(x1)] = True
                    found.pred_masks = bitmaps
                inputs.append([{"image_id": image["id"], "output": {"instances": found}}])
            evaluator = evaluation.COCOEvaluator(
                name,
                tasks=("bbox", "segm") if case == "nothing found" else None,
                distributed=False,
                output_dir=folder,
                use_fast_impl=False,
            )
            scores = evaluation.inference_on_dataset(_FakeModel(), inputs, evaluator)
            results[case] = [scores, json.loads((Path(folder) / "coco_instances_results.json").read_text())]
    data.MetadataCatalog.remove(name)
    return plain(results)


def _found(image_id: int) -> list[tuple[float, ...]]:
    return {
        4: [(1, 2, 11, 10, 0.9, 2), (13, 4, 27, 18, 0.8, 0), (0, 0, 6, 6, 0.7, 2), (12, 3, 27, 17, 0.75, 0)],
        2: [(0, 0, 12, 24, 0.6, 0), (3, 14, 8, 19, 0.5, 2), (0, 0, 24, 11, 0.55, 0)],
        9: [(2, 2, 9, 9, 0.95, 1)],
    }[image_id]


def results_tools(d2: Modules) -> Any:
    """Flattening, and results against what is expected."""
    testing = d2("evaluation.testing")
    results = {"a": {"x": 1.0, "y": {"z": 2.0}}, "b": 3.0}
    verdicts = []
    for expected in ([], [["a", "x", 1.2, 0.5]], [["a", "x", 2.0, 0.5]], [["a", "x", float("nan"), 1.0]]):
        cfg = d2("config").get_cfg()
        cfg.TEST.EXPECTED_RESULTS = expected
        try:
            verdicts.append(testing.verify_results(cfg, results))
        except SystemExit as stop:
            verdicts.append(stop.code)
    return plain([testing.flatten_results_dict(results), verdicts])


# ------------------------------------------------------------------ training


class _Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        error = self.layer(batch[:, :2]) - batch[:, 2:]
        return {"loss_square": error.pow(2).mean(), "loss_absolute": 0.1 * error.abs().mean()}


def regression_trainer(d2: Modules, folder: Path, first_batch: int = 0, evaluate: Any = dict) -> tuple[Any, Any]:
    """A trainer of ten steps with the usual hooks, which writes to ``folder``, and its checkpointer."""
    engine, solver = d2("engine"), d2("solver")
    cfg = d2("config").get_cfg()
    cfg.SOLVER.update({"MAX_ITER": 10, "STEPS": (6,), "WARMUP_ITERS": 3, "BASE_LR": 0.05})
    model = _Regression()
    batches = [torch.linspace(-1, 1, 12).reshape(4, 3) * (i + 1) / 5 for i in range(first_batch, 10)]
    optimizer = solver.build_optimizer(cfg, model)
    trainer = engine.SimpleTrainer(model, batches, optimizer)
    trainer.scheduler = solver.build_lr_scheduler(cfg, optimizer)
    checkpointer = d2("checkpoint").DetectionCheckpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks(
        [
            engine.hooks.LRScheduler(),
            engine.hooks.PeriodicCheckpointer(checkpointer, 4),
            engine.hooks.EvalHook(3, evaluate),
            engine.hooks.PeriodicWriter([d2("utils.events").JSONWriter(str(folder / "metrics.json"))], 2),
        ]
    )
    return trainer, checkpointer


def training(d2: Modules) -> Any:
    """Ten steps: metrics.json, what a checkpoint holds, when it is saved and when evaluated."""
    evaluated: list[int] = []

    def evaluate() -> dict[str, Any]:
        evaluated.append(trainer.iter)
        return {"task": {"score": float(trainer.iter)}}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer, _ = regression_trainer(d2, folder, evaluate=evaluate)
        trainer.train(0, 10)
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        saved = torch.load(folder / "model_0000003.pth", weights_only=True)
        files = sorted(path.name for path in folder.glob("*.pth"))
        last = (folder / "last_checkpoint").read_text()
    # Which further options an optimizer stores depends on torch's version.
    for group in saved["trainer"]["optimizer"]["param_groups"]:
        for key in set(group) - {"lr", "momentum", "weight_decay", "nesterov", "initial_lr", "params"}:
            del group[key]
    for line in lines:
        # Times differ; that of each process is in Detectron2's main branch only.
        line.pop("data_time", None)
        line.pop("rank_data_time", None)
    return plain([lines, evaluated, files, last, saved])


def scalars(d2: Modules) -> Any:
    """Scalars that come at different rates, smoothed and not, as JSON lines."""
    events = d2("utils.events")
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.json"
        writer = events.JSONWriter(str(path), window_size=4)
        with events.EventStorage(5) as storage:
            for i in range(5, 17):
                storage.iter = i
                storage.put_scalar("noisy", generator.random())
                if i % 3 == 0:
                    events.get_event_storage().put_scalars(rare=float(i), smoothing_hint=False)
                    storage.put_scalar("rare and noisy", generator.random())
                if i % 4 == 0:
                    writer.write()
            latest = {name: value for name, (value, _) in storage.latest().items()}
            median = storage.history("noisy").median(5)
        writer.close()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    return plain([lines, latest, median])


CASES: dict[str, Callable[[Modules], Any]] = {
    case.__name__: case
    for case in (
        names, config, configurable, boxes, instances, image_list, masks, resizing, augmentations, read_images,
        postprocessing, nms, samplers, loaders, coco_records, schedules, optimizers, sem_seg_evaluation,
        coco_evaluation, results_tools, training, scalars,
    )
}  # fmt: skip
