"""The subjects of the benchmark: what is run, on what inputs, and which side stands for the stock way."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wps_sam.config import add_wps_sam_config, check_config
from wps_sam.data.feature_store import DTYPES, FeatureStoreReader, FeatureStoreWriter, StoreSpec, pack
from wps_sam.data.sources.descriptions import register_descriptions
from wps_sam.data.synthetic import write_dataset
from wps_sam.encoders import EncoderSpec, all_archs, build_encoder, encoder_class
from wps_sam.engine import Trainer, build_mapper
from wps_sam.engine.features import open_features, spec_of
from wps_sam.evaluation import PooledPartEvaluator
from wps_sam.models import WPSSAM
from wps_sam.prompters import DETRPrompter
from wps_sam.structures import LabelKind

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .measuring import Contest, Side, Task
from .stock import STOCK, library, part_maps, put_stock_encoder, stock_encoder, stock_sam

T = TypeVar("T")

# Ways to run our encoder, and the config keys that ask for them.
VARIANTS: dict[str, tuple[Any, ...]] = {
    "fp32": (),
    "bf16": ("MODEL.SAM.PRECISION", "bf16"),
    "fp32+compile": ("MODEL.SAM.COMPILE", True),
    "bf16+compile": ("MODEL.SAM.PRECISION", "bf16", "MODEL.SAM.COMPILE", True),
}
NUM_PARTS = 6
# Pictures of the data set that is generated for evaluation, loading and cache.
NUM_PICTURES = 8
# Made-up embeddings of the subject cache, and the order in which they are read.
NUM_EMBEDDINGS = 32
# Whether the system can be asked to read a file from the disk again.
_CAN_FORGET = hasattr(os, "posix_fadvise")
_SHUFFLED = torch.randperm(NUM_EMBEDDINGS, generator=torch.Generator().manual_seed(0)).tolist()


@dataclass(frozen=True)
class Settings:
    """What to measure, and how often.

    ``folder`` is where pictures, caches and results of a run lie: the disk that is measured. ``threads`` of PyTorch on
    the CPU, 0: its own choice. ``variants`` of our encoder, see ``VARIANTS``; none: those that fit subject and device.
    """

    subject: str
    folder: str
    model: str = "vit_b"
    batch: int = 2
    device: str = "cpu"
    repeats: int = 5
    warmup: int = 1
    threads: int = 0
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choices: list[tuple[str, str, Collection[str]]] = [
            ("subject", self.subject, SUBJECTS),
            ("model", self.model, all_archs()),
            *(("variants", v, VARIANTS) for v in self.variants),
        ]
        for name, value, allowed in choices:
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        for name in ("batch", "repeats", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device!r}, but torch finds no CUDA device")

    @property
    def has_stock(self) -> bool:
        """Whether segment_anything has this model: its way alone is that which steps and part maps are held against."""
        return library(self.model) == STOCK

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def encoder_variants(self) -> tuple[str, ...]:
        if self.variants:
            return self.variants
        if self.device.startswith("cuda"):
            return ("fp32", "bf16", "bf16+compile")
        return ("fp32", "bf16") if self.subject == "encoder" else ("fp32",)


# ------------------------------------------------------------------ models and inputs


def _config(settings: Settings, variant: str = "fp32", *opts: Any) -> CfgNode:
    """The paper's model (25 queries, 40 classes) on random weights."""
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    keys = [
        *("MODEL.DEVICE", settings.device),
        *("MODEL.SAM.ARCH", settings.model),
        *("MODEL.INFERENCE.MAX_PARTS", NUM_PARTS),
    ]
    cfg.merge_from_list([*keys, *VARIANTS[variant], *opts])
    check_config(cfg)
    return cfg


def _spec(settings: Settings) -> EncoderSpec:
    cfg = _config(settings)
    return encoder_class(cfg).spec_of(cfg)


def _model(cfg: CfgNode) -> WPSSAM:
    torch.manual_seed(0)
    return build_model(cfg)


def _finder(cfg: CfgNode) -> WPSSAM:
    """A model whose queries all become parts, of which MAX_PARTS are decoded: NUM_PARTS of every picture."""
    model = _model(cfg)
    assert isinstance(model.prompter, DETRPrompter)
    model.prompter.class_head.bias.data[-1] = -10
    return model.eval()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _images(settings: Settings) -> Tensor:
    """Normalised images float [B, 3, S, S]."""
    size = _spec(settings).image_size
    return torch.randn(settings.batch, 3, size, size, generator=_generator()).to(settings.torch_device)


def _records(settings: Settings) -> list[dict[str, Any]]:
    """Mapped pictures of shape 3:4, each with NUM_PARTS labelled boxes."""
    spec, generator = _spec(settings), _generator()
    original = (3 * spec.image_size // 4, spec.image_size)
    blank = np.empty((*original, 3), np.uint8)
    height, width = spec.resize.get_transform(blank).apply_image(blank).shape[:2]
    records = []
    for number in range(settings.batch):
        corners = torch.rand(NUM_PARTS, 2, 2, generator=generator).sort(dim=1).values
        corners[:, 1] += 0.05
        instances = Instances((height, width))
        instances.gt_classes = torch.randint(40, (NUM_PARTS,), generator=generator)
        instances.gt_kinds = torch.full((NUM_PARTS,), int(LabelKind.BOX))
        instances.gt_boxes = Boxes((corners * torch.tensor([width, height])).flatten(1))
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        records.append(
            {
                "file_name": f"picture {number}",
                "image": image,
                "instances": instances,
                "height": original[0],
                "width": original[1],
            }
        )
    return records


@torch.no_grad()
def _with_embeddings(model: WPSSAM, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records as the mapper gives them with MODEL.SAM.FEATURES cache: features in place of pictures."""
    cached = []
    features = model.embed(records)[0]
    for i, record in enumerate(records):
        of_cache: dict[str, Any] = {name: features[name][i].cpu() for name in model.feature_names}
        of_cache["image_size"] = tuple(record["image"].shape[-2:])
        cached.append({**{key: value for key, value in record.items() if key != "image"}, **of_cache})
    return cached


# ------------------------------------------------------------------ encoder


def encoder(settings: Settings) -> list[Contest]:
    """The image encoder alone."""

    def stock() -> Task:
        return Task(torch.no_grad()(_bind(stock_encoder(settings.model, settings.torch_device), _images(settings))))

    def ours(variant: str) -> Task:
        backbone, images = build_encoder(_config(settings, variant)), _images(settings)
        backbone.to(settings.torch_device)
        sizes = {
            "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            # Of one image in half precision.
            "feature_bytes": 2 * sum(math.prod(shape) for shape in backbone.spec.features.values()),
        }
        return Task(lambda: backbone(images)["image_embedding"], sizes=sizes)

    name, variants = library(settings.model), settings.encoder_variants()
    sides = [Side(name, stock, settings.batch)]
    sides += [Side(f"ours, {v}", _bind(ours, v), settings.batch, counts_as=name) for v in variants]
    return [Contest("encoder", "image", tuple(sides), tuple((name, s.name) for s in sides[1:]))]


def _bind(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    return lambda: function(*arguments)


# ------------------------------------------------------------------ training


CACHED = "ours, from features"


def _step(cfg: CfgNode, model: WPSSAM, records: list[dict[str, Any]]) -> Task:
    """Forward, backward and the optimizer's step; the output is the losses before it."""
    optimizer = Trainer.build_optimizer(cfg, model.train())

    def run() -> Tensor:
        losses = torch.stack(list(model(records).values()))
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    return Task(run)


def _cached_step(settings: Settings) -> Task:
    records = _with_embeddings(_model(_config(settings)), _records(settings))
    cfg = _config(settings, "fp32", "MODEL.SAM.FEATURES", "cache")
    return _step(cfg, _model(cfg), records)


def training_step(settings: Settings) -> list[Contest]:
    """A step with features from the cache, against the same step with the encoder in it; data loading is not part."""

    def live(variant: str) -> Task:
        cfg = _config(settings, "fp32" if variant == STOCK else variant)
        model = _model(cfg)
        if variant == STOCK:
            put_stock_encoder(model, stock_sam(settings.model, settings.torch_device))
        return _step(cfg, model, _records(settings))

    counts_as = STOCK if settings.has_stock else None
    stock = [Side(STOCK, _bind(live, STOCK), settings.batch)] if settings.has_stock else []
    ours = [Side(f"ours, live, {v}", _bind(live, v), settings.batch, counts_as) for v in settings.encoder_variants()]
    cached = Side(CACHED, _bind(_cached_step, settings), settings.batch)
    pairs = [(side.name, other.name) for side in stock for other in (*ours, cached)]
    pairs += [(side.name, CACHED) for side in ours]
    return [Contest("training step", "image", (*stock, *ours, cached), tuple(pairs))]


# ------------------------------------------------------------------ inference


def inference(settings: Settings) -> list[Contest]:
    """From the resized picture to the part map, and what of it comes after the encoder."""

    def stock(with_embeddings: bool) -> Task:
        model, sam = _finder(_config(settings)), stock_sam(settings.model, settings.torch_device)
        put_stock_encoder(model, sam)
        records = _records(settings)
        if with_embeddings:
            records = _with_embeddings(model, records)
        return Task(lambda: part_maps(model, sam, records))

    def ours(variant: str, with_embeddings: bool) -> Task:
        model, records = _finder(_config(settings, variant)), _records(settings)
        if with_embeddings:
            records = _with_embeddings(model, records)

        @torch.no_grad()
        def run() -> Tensor:
            outputs = model(records)
            assert all(len(output["instances"]) == NUM_PARTS for output in outputs)
            return torch.stack([output["sem_seg"].argmax(0) for output in outputs])

        return Task(run)

    def encoder_alone(variant: str) -> Task:
        backbone, images = build_encoder(_config(settings, variant)), _images(settings)
        backbone.to(settings.torch_device)

        def run() -> None:
            backbone(images)

        return Task(run)

    batch, has_stock = settings.batch, settings.has_stock
    counts_as = STOCK if has_stock else None
    whole = [Side(STOCK, _bind(stock, False), batch)] if has_stock else []
    pairs = []
    for v in settings.encoder_variants():
        whole += [Side(f"ours, {v}", _bind(ours, v, False), batch, counts_as)]
        whole += [Side(f"our encoder alone, {v}", _bind(encoder_alone, v), batch, counts_as)]
        pairs += [(STOCK, f"ours, {v}")] if has_stock else []
        pairs += [(f"our encoder alone, {v}", f"ours, {v}")]
    contests = [Contest(f"image to part map, {NUM_PARTS} parts", "image", tuple(whole), tuple(pairs))]
    if has_stock:
        after = (Side(STOCK, _bind(stock, True), batch), Side("ours", _bind(ours, "fp32", True), batch))
        contests += [Contest(f"features to part map, {NUM_PARTS} parts", "image", after, ((STOCK, "ours"),))]
    return contests


# ------------------------------------------------------------------ data


def _pictures(settings: Settings) -> str:
    """The name of a registered data set of NUM_PICTURES generated pictures, half as wide as the network's square, or
    64 pixels, the least that are drawn."""
    root = Path(settings.folder).resolve() / "pictures"
    size = max(_spec(settings).image_size // 2, 64)
    # Registered names hold for the whole process, which may measure in several folders.
    name = f"benchmark_{zlib.crc32(str(root).encode()):08x}"
    description = root / "description.yaml"
    if not description.is_file():
        write_dataset(root, num_train=NUM_PICTURES, num_val=1, size=size, variety=0.4)
        split = {"images": "images/train", "annotations": "annotations/train"}
        content = {"name": name, "layout": "partimagenet", "root": str(root), "splits": {"train": split}}
        description.write_text(yaml.safe_dump(content))
    register_descriptions([str(description)])
    return f"{name}_train"


def evaluation(settings: Settings) -> list[Contest]:
    """Scoring finished part maps. Detectron2's way keeps every map as run lengths; ours does for the file only."""

    def evaluate_with(kind: type, writes: bool) -> Task:
        name = _pictures(settings)
        records, names = DatasetCatalog.get(name), MetadataCatalog.get(name).thing_classes
        output_dir = str(Path(settings.folder) / "predictions") if writes else None
        evaluator = kind(name, distributed=False, output_dir=output_dir)
        # Blobs: of noise, the length of the run-length code would be all that is measured.
        coarse = torch.rand(1, len(names) + 1, 8, 8, generator=_generator())
        size = (records[0]["height"], records[0]["width"])
        output = {"sem_seg": torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]}

        def run() -> Tensor:
            evaluator.reset()
            for record in records:
                evaluator.process([record], [output])
            # The means follow different rules, the IoU of a class does not.
            of_classes = next(iter(evaluator.evaluate().values()))
            return torch.tensor([of_classes[f"IoU-{c}"] for c in names]).nan_to_num()

        return Task(run)

    sides = (
        Side("Detectron2's SemSegEvaluator", _bind(evaluate_with, SemSegEvaluator, True), NUM_PICTURES),
        Side("ours, with predictions file", _bind(evaluate_with, PooledPartEvaluator, True), NUM_PICTURES),
        Side("ours, scores only", _bind(evaluate_with, PooledPartEvaluator, False), NUM_PICTURES),
    )
    return [Contest("evaluation", "image", sides, tuple((sides[0].name, s.name) for s in sides[1:]))]


def loading(settings: Settings) -> list[Contest]:
    """A training input from the feature cache, against one from its picture, and against the step that waits for it.

    The ratio of the latter pairs says how many times faster one loading process is than the training.
    """

    def pictures() -> Task:
        name = _pictures(settings)
        return _mapping(build_mapper(_config(settings), name, is_train=True), DatasetCatalog.get(name))

    def features(from_disk: bool) -> Task:
        name, folder = _pictures(settings), Path(settings.folder).resolve() / "features"
        records = DatasetCatalog.get(name)
        cfg = _config(settings, "fp32", "MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(folder))
        spec = spec_of(cfg, name, records, "fp16")
        made = {feature: torch.randn(*shape, generator=_generator()) for feature, shape in spec.features.items()}
        _write_cache(folder / name, spec, made)
        reader = open_features(cfg, name, records, is_train=True)
        task = _mapping(build_mapper(cfg, name, is_train=True, features=reader), records)
        return Task(task.run, prepare=_bind(_forget, folder / name) if from_disk else None)

    sides = [
        Side("from pictures", pictures, NUM_PICTURES),
        Side("training step, from features", _bind(_cached_step, settings), settings.batch),
        Side("features, page cache", _bind(features, False), NUM_PICTURES),
    ]
    if _CAN_FORGET:
        sides.append(Side("features, disk", _bind(features, True), NUM_PICTURES))
    pairs = tuple((baseline.name, ours.name) for baseline in sides[:2] for ours in sides[2:])
    return [Contest("loading", "image", tuple(sides), pairs)]


def _mapping(mapper: Callable[[dict[str, Any]], dict[str, Any]], records: list[dict[str, Any]]) -> Task:
    def run() -> None:
        for record in records:
            mapper(record)

    return Task(run)


# ------------------------------------------------------------------ cache


def _write_cache(folder: Path, spec: StoreSpec, features: dict[str, Tensor]) -> None:
    """A cache of the original views, all with the same ``features``."""
    writer = FeatureStoreWriter(folder, spec, ["original"])
    writer.prepare()
    digests = {}
    for shard in writer.shards:
        digests[shard.name] = writer.write(shard, (pack(features, spec.dtype) for _ in range(shard.count)))
    writer.finish(digests)


def cache(settings: Settings) -> list[Contest]:
    """Writing and reading embeddings, against one file a picture by torch.save, made as safe against a power cut."""
    shape = list(_spec(settings).features["image_embedding"])

    def embedding() -> Tensor:
        return torch.randn(shape, generator=_generator())

    def folder(name: str) -> Path:
        return Path(settings.folder).resolve() / name

    def write_files(dtype: torch.dtype, to: Path) -> Task:
        made = embedding().to(dtype)
        to.mkdir(parents=True, exist_ok=True)

        def run() -> None:
            for i in range(NUM_EMBEDDINGS):
                with (to / f"{i}.pt").open("wb") as file:
                    torch.save(made, file)
                    file.flush()
                    os.fsync(file.fileno())

        return Task(run, prepare=_bind(_delete_files, to))

    def read_files(dtype: torch.dtype, to: Path, from_disk: bool) -> Task:
        write_files(dtype, to).run()

        def run() -> Tensor:
            read = [torch.load(to / f"{i}.pt", weights_only=True) for i in _SHUFFLED]
            return read[0].float()

        return Task(run, prepare=_bind(_forget, to) if from_disk else None)

    def spec(dtype: str) -> StoreSpec:
        records = []
        folder("cache_pictures").mkdir(parents=True, exist_ok=True)
        for i in range(NUM_EMBEDDINGS):
            path = folder("cache_pictures") / f"{i}.jpg"
            path.write_bytes(b"no picture")
            records.append({"file_name": str(path), "image_id": i, "height": 1, "width": 1})
        return StoreSpec("benchmark", {}, records, {"image_embedding": shape}, dtype)

    def write_cache(dtype: str, to: Path) -> Task:
        made = {"image_embedding": embedding()}
        return Task(_bind(_write_cache, to, spec(dtype), made), prepare=_bind(_delete_files, to))

    def read_cache(dtype: str, to: Path, from_disk: bool) -> Task:
        written = write_cache(dtype, to)
        _delete_files(to)
        written.run()
        asked = spec(dtype)
        reader = FeatureStoreReader(to, asked, ["original"])

        def run() -> Tensor:
            read = [reader.read(asked.pictures[i], "original")["image_embedding"] for i in _SHUFFLED]
            return read[0].float()

        return Task(run, prepare=_bind(_forget, to) if from_disk else None)

    files = {"fp32": torch.float32, "fp16": torch.float16}
    pairs = tuple(("torch.save, " + ("fp32" if d == "fp32" else "fp16"), f"ours, {d}") for d in DTYPES)

    def contest(what: str, of_files: Callable[..., Task], of_cache: Callable[..., Task], *options: Any) -> Contest:
        sides = [
            Side(f"torch.save, {name}", _bind(of_files, dtype, folder(f"files_{name}"), *options), NUM_EMBEDDINGS)
            for name, dtype in files.items()
        ]
        sides += [
            Side(f"ours, {name}", _bind(of_cache, name, folder(f"cache_{name}"), *options), NUM_EMBEDDINGS)
            for name in DTYPES
        ]
        return Contest(what, "image", tuple(sides), pairs)

    contests = [contest("writing features", write_files, write_cache)]
    if _CAN_FORGET:
        contests.append(contest("reading features, disk", read_files, read_cache, True))
    return [*contests, contest("reading features, page cache", read_files, read_cache, False)]


def _delete_files(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()


def _forget(folder: Path) -> None:
    """Asks the system to drop its copies of these files, so that they come from the disk again."""
    for path in folder.glob("*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


SUBJECTS: dict[str, Callable[[Settings], list[Contest]]] = {
    "encoder": encoder,
    "training_step": training_step,
    "inference": inference,
    "evaluation": evaluation,
    "loading": loading,
    "cache": cache,
}
