"""Fixtures for every test: a tiny data set on disk in PartImageNet's layout, and a tiny configuration for it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.config import add_wps_sam_config
from wps_sam.encoders.build_sam import SAM_ARCHS
from wps_sam.encoders.hugging_face_networks import HUGGING_FACE_ARCHS

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from PIL import Image
from safetensors.torch import save_file

from tests.tiny_encoders import TINY, write_weights
from tests.tiny_wps_sam import MOBILE_TEST

# A shell's background jobs, and so all that they start, ignore Ctrl-C: tests ask for it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The test machine may have few cores, and many small operators only lose time by sharing them out.
torch.set_num_threads(1)

TINY_CLASSES = ("Animal Head", "Animal Body", "Car Body")
TINY_COLOURS = ((220, 60, 60), (60, 180, 60), (60, 80, 230))


@dataclass(frozen=True)
class TinyParts:
    """A written data set: ``root`` its folder, ``description`` the YAML that registers ``{name}_{split}``."""

    root: Path
    description: Path
    name: str
    classes: tuple[str, ...] = TINY_CLASSES

    def split(self, split: str) -> str:
        """The registered name of ``split``, for example ``tiny_parts_train``."""
        return f"{self.name}_{split}"

    def coco_json(self, split: str) -> Path:
        return self.root / "annotations" / split / f"{split}.json"


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    angles = np.arange(24) * (2 * np.pi / 24)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return [round(float(v), 2) for v in points.reshape(-1)]


def _rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [float(v) for v in (x, y, x + width, y, x + width, y + height, x, y + height)]


def _tiny_parts_of_picture(rng: np.random.Generator, animal: bool) -> list[tuple[int, list[float]]]:
    """(class, polygon) of one picture, all inside 64 x 64: an animal's body and head, or a car's body."""
    dx, dy = (int(v) for v in rng.integers(-5, 6, size=2))
    if animal:
        return [(1, _ellipse(28 + dx, 36 + dy, 17, 11)), (0, _ellipse(48 + dx, 22 + dy, 7, 7))]
    return [(2, _rectangle(14 + dx, 22 + dy, 36, 20))]


def write_tiny_dataset(
    root: Path, name: str = "tiny_parts", num_train: int = 6, num_val: int = 4, num_empty: int = 0, size: int = 64
) -> TinyParts:
    """Writes a data set in PartImageNet's (Seg) layout and its description.

    Pictures alternate between an animal (two ellipses) and a car (a rectangle), in one colour a
    class on a grey noise. ``num_empty`` pictures without any annotation follow in the training set.
    """
    categories = [{"id": i, "name": n, "supercategory": n.split(" ", 1)[0]} for i, n in enumerate(TINY_CLASSES)]
    for split, count, empty, seed in (("train", num_train, num_empty, 0), ("val", num_val, 0, 1)):
        rng = np.random.default_rng(seed)
        image_folder, label_folder = root / "images" / split, root / "annotations" / split
        image_folder.mkdir(parents=True)
        label_folder.mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(count + empty):
            stem = f"n{i % 2:08d}_{i}"
            parts = _tiny_parts_of_picture(rng, animal=i % 2 == 0) if i < count else []
            pixels = rng.integers(90, 166, size=(64, 64, 3)).astype(np.uint8)
            part_map = np.full((64, 64), len(TINY_CLASSES), np.uint8)
            for class_id, polygon in parts:
                mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 64, 64))) > 0
                pixels[mask] = np.asarray(TINY_COLOURS[class_id], np.uint8)
                part_map[mask] = class_id
                xy = np.asarray(polygon).reshape(-1, 2)
                corner, extent = xy.min(0), xy.max(0) - xy.min(0)
                scale = size / 64
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": class_id,
                        "segmentation": [[v * scale for v in polygon]],
                        "bbox": [float(v) * scale for v in (*corner, *extent)],
                        "area": float(mask.sum()) * scale**2,
                        "iscrowd": 0,
                    }
                )
            shape = (size, size)
            Image.fromarray(pixels).resize(shape).save(image_folder / f"{stem}.JPEG", quality=95)
            Image.fromarray(part_map).resize(shape, Image.NEAREST).save(label_folder / f"{stem}.png")
            (label_folder / f"{stem}.json").write_text(json.dumps({"imgHeight": size, "imgWidth": size}))
            images.append({"id": i + 1, "file_name": f"{stem}.JPEG", "height": size, "width": size})
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (label_folder / f"{split}.json").write_text(json.dumps(coco))
    description = root / f"{name}.yaml"
    splits = {split: {"images": f"images/{split}", "annotations": f"annotations/{split}"} for split in ("train", "val")}
    description.write_text(
        yaml.safe_dump({"name": name, "layout": "partimagenet", "root": str(root), "splits": splits})
    )
    return TinyParts(root=root, description=description, name=name)


@pytest.fixture(scope="session")
def write_tiny_parts() -> Callable[..., TinyParts]:
    """:func:`write_tiny_dataset`, for tests that need a data set of their own, for example to damage it."""
    return write_tiny_dataset


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory: pytest.TempPathFactory) -> TinyParts:
    """The shared data set: 6 pictures of 64 x 64 to train and 4 to validate, 3 part classes. Read only."""
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny_parts"))


def build_tiny_cfg(parts: TinyParts, output_dir: Path, *opts: Any) -> CfgNode:
    """A configuration that trains on ``parts`` in seconds; ``opts`` are key, value, key, value ..."""
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    sizes: dict[str, tuple[Any, ...]] = {
        "DETRPrompter": (
            *("MODEL.DETR_PROMPTER.NUM_QUERIES", 6),
            *("MODEL.DETR_PROMPTER.NUM_ENCODER_LAYERS", 1),
            *("MODEL.DETR_PROMPTER.NUM_DECODER_LAYERS", 1),
            *("MODEL.DETR_PROMPTER.FFN_DIM", 64),
        ),
        "DensePrompter": ("MODEL.DENSE_PROMPTER.NUM_CONVS", 1, "MODEL.DENSE_PROMPTER.CONV_DIM", 32),
    }
    named = dict(zip(opts[::2], opts[1::2])).get("MODEL.PROMPTER.NAME", "DETRPrompter")
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.SAM.ARCH", "vit_tiny"),
            *("MODEL.SAM.WEIGHTS", ""),
            *("MODEL.PROMPTER.NAME", "DETRPrompter"),
            *("MODEL.PROMPTER.NUM_CLASSES", len(parts.classes)),
            *sizes.get(named, ()),
            *("DATASETS.DESCRIPTIONS", [str(parts.description)]),
            *("DATASETS.TRAIN", (parts.split("train"),)),
            *("DATASETS.TEST", (parts.split("val"),)),
            *("DATALOADER.NUM_WORKERS", 0),
            *("SOLVER.IMS_PER_BATCH", 2),
            *("SOLVER.MAX_ITER", 4),
            *("SOLVER.WARMUP_ITERS", 1),
            *("SOLVER.CHECKPOINT_PERIOD", 2),
            *("SEED", 7),
            *("OUTPUT_DIR", str(output_dir)),
        ]
    )
    cfg.merge_from_list(list(opts))
    return cfg


@pytest.fixture(scope="session")
def cfg_for() -> Callable[..., CfgNode]:
    """:func:`build_tiny_cfg`, for data sets and folders of a test's own."""
    return build_tiny_cfg


@pytest.fixture
def tiny_cfg(tiny_parts: TinyParts, tmp_path: Path) -> Callable[..., CfgNode]:
    """``tiny_cfg("SOLVER.MAX_ITER", 2, ...)``: a cfg on :func:`tiny_parts` writing to ``tmp_path / "output"``.

    The data set is registered by ``wps_sam.engine.setup`` or ``wps_sam.data.register_descriptions``.
    To hand it to a subprocess, write ``cfg.dump()`` to a file.
    """
    return lambda *opts: build_tiny_cfg(tiny_parts, tmp_path / "output", *opts)


@dataclass(frozen=True)
class TinyModel:
    """A config file on :func:`tiny_parts` and random weights for it that find parts everywhere."""

    config_file: Path
    weights: Path
    safetensors: Path


@pytest.fixture(scope="session")
def tiny_encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """MODEL.SAM.ARCH of a tiny encoder of each family to its MODEL.SAM.WEIGHTS; MobileSAM's are seeded."""
    with pytest.MonkeyPatch.context() as patch:
        made = {"mobile_test": ""}
        patch.setitem(SAM_ARCHS, "mobile_test", MOBILE_TEST)
        for arch, sizes in TINY.items():
            patch.setitem(HUGGING_FACE_ARCHS, arch, sizes)
            folder = tmp_path_factory.mktemp(arch)
            write_weights(arch, folder)
            made[arch] = str(folder)
        yield made


def make_tiny_model(parts: TinyParts, folder: Path, *opts: Any) -> TinyModel:
    """Random weights as training leaves them (.pth, in the config's OUTPUT_DIR) and as shipped (with class names)."""
    cfg = build_tiny_cfg(parts, folder, *opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    # Without this a random prompter may well find nothing.
    model.prompter.class_head.bias.data[-1] = -5
    SafeCheckpointer(model, str(folder)).save("model_final")
    made = TinyModel(folder / "config.yaml", folder / "model_final.pth", folder / "shipped.safetensors")
    made.config_file.write_text(cfg.dump())
    save_file(model.state_dict(), made.safetensors, {"class_names": json.dumps(parts.classes)})
    return made


@pytest.fixture(scope="session")
def tiny_model(tiny_parts: TinyParts, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """On vit_tiny."""
    return make_tiny_model(tiny_parts, tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(
    scope="session", params=["vit_tiny", "mobile_test", "hq_test", "sam2_test", "edgetam_test", "sam3_test"]
)
def tiny_model_of_a_family(
    request: pytest.FixtureRequest,
    tiny_model: TinyModel,
    tiny_encoders: dict[str, str],
    tiny_parts: TinyParts,
    tmp_path_factory: pytest.TempPathFactory,
) -> TinyModel:
    """On an encoder of each family in turn."""
    arch = request.param
    if arch == "vit_tiny":
        return tiny_model
    sam = ("MODEL.SAM.ARCH", arch, "MODEL.SAM.WEIGHTS", tiny_encoders[arch])
    return make_tiny_model(tiny_parts, tmp_path_factory.mktemp(f"model_on_{arch}"), *sam)
