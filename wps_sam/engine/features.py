"""Between configuration, SAM and the feature cache: what a cache has to be made of, making it, and opening it."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..config import check_cacheable
from ..data.mapper import PartDatasetMapper, build_augmentations
from ..data.feature_store import (
    VIEWS,
    CacheSpec,
    FeatureCacheReader,
    FeatureCacheWriter,
    FeatureReaders,
    Shard,
    check_free_space,
    distinct_pictures,
    readable_size,
)
from ..encoders.build_sam import PATCH_SIZE, PROMPT_DIM, get_arch, image_encoder_hash

logger = logging.getLogger(__name__)

Records = Sequence[Mapping[str, Any]]


def views_of(cfg: CfgNode, is_train: bool) -> list[str]:
    """The views of a picture that training, or evaluation, sees."""
    return list(VIEWS) if is_train and cfg.INPUT.RANDOM_FLIP == "horizontal" else [VIEWS[0]]


def spec_of(cfg: CfgNode, data_set: str, pictures: Records, dtype: str) -> CacheSpec:
    """The cache that ``cfg`` asks for; ``pictures`` from :func:`distinct_pictures`."""
    side = get_arch(cfg.MODEL.SAM.ARCH).image_size // PATCH_SIZE
    settings = {
        "MODEL.SAM.ARCH": cfg.MODEL.SAM.ARCH,
        "MODEL.SAM.WEIGHTS": "sha256:" + image_encoder_hash(cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.WEIGHTS),
        "MODEL.SAM.PRECISION": cfg.MODEL.SAM.PRECISION,
        "MODEL.SAM.PADDING": cfg.MODEL.SAM.PADDING,
        "MODEL.PIXEL_MEAN": list(cfg.MODEL.PIXEL_MEAN),
        "MODEL.PIXEL_STD": list(cfg.MODEL.PIXEL_STD),
    }
    return CacheSpec.of(data_set, pictures, settings, (PROMPT_DIM, side, side), dtype)


def open_features(cfg: CfgNode, records: Mapping[str, Records], is_train: bool) -> FeatureReaders:
    """The caches below MODEL.SAM.CACHE_DIR of data sets, whose ``records`` are given by name.

    Raises:
        ValueError: a cache is missing, unfinished, damaged or of something else; says what to do.
    """
    readers = []
    for name, of_set in records.items():
        pictures = distinct_pictures(of_set)
        folder = Path(cfg.MODEL.SAM.CACHE_DIR) / name
        expected = spec_of(cfg, name, pictures, dtype="fp16")
        readers.append(FeatureCacheReader(folder, expected, pictures, views_of(cfg, is_train)))
    return FeatureReaders(readers)


# ------------------------------------------------------------------ making


class _Views(Dataset):
    """Model inputs of pictures, by (number of the data set, number of the picture, view)."""

    def __init__(self, cfg: CfgNode, pictures: Sequence[Records]) -> None:
        self.pictures = pictures
        resize = build_augmentations(cfg, is_train=False)
        # The flip comes first, as in training, where the resize then sees the same pixels.
        augmentations = {"original": resize, "flipped": [T.RandomFlip(prob=1.0), *resize]}
        self.mappers = {
            view: PartDatasetMapper(is_train=False, augmentations=a) for view, a in augmentations.items()
        }

    def __getitem__(self, key: tuple[int, int, str]) -> dict[str, Any]:
        data_set, number, view = key
        return self.mappers[view](self.pictures[data_set][number])


def cache_features(cfg: CfgNode, output: str | Path, dtype: str = "fp16", batch_size: int = 1) -> None:
    """Makes, or completes and checks, the caches of all data sets of DATASETS.TRAIN and DATASETS.TEST.

    Run by every process of the group, which share the work by shards.

    Args:
        cfg: whose data sets are registered.
        output: the folder of the caches, one for each data set.
        dtype: fp16, fp32 or int8.
        batch_size: pictures that the encoder is given at once.

    Raises:
        ValueError: pictures are seen in too many views, the folder holds something else, or the disk is too small.
    """
    check_cacheable(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SAM.FEATURES = "live"
    pictures, writers = [], []
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        pictures.append(distinct_pictures(DatasetCatalog.get(name)))
        spec = spec_of(cfg, name, pictures[-1], dtype)
        writers.append(FeatureCacheWriter(Path(output) / name, spec, views_of(cfg, name in cfg.DATASETS.TRAIN)))
    if comm.is_main_process():
        for writer in writers:
            writer.prepare()
    jobs = [(i, shard) for i, writer in enumerate(writers) for shard in writer.shards]
    missing = {(i, shard) for i, writer in enumerate(writers) for shard in writer.missing()}
    check_free_space_for(output, writers, missing)
    # Only when all have seen what is missing may the first write something.
    comm.synchronize()
    model = build_model(cfg).eval() if missing else None
    if comm.is_main_process():
        _announce(writers, missing, _seconds_a_picture(model, cfg, batch_size) if model else 0.0, output)

    rank, world = comm.get_rank(), comm.get_world_size()
    checksums: dict[tuple[int, str], str] = {}
    todo = [job for job in jobs if job in missing][rank::world]
    for i, shard in [job for job in jobs if job not in missing][rank::world]:
        checksum = writers[i].checksum(shard)
        if checksum is None:
            todo.append((i, shard))
        else:
            checksums[i, shard.name] = checksum
    if todo:
        embeddings = _embeddings(cfg, model or build_model(cfg).eval(), pictures, todo, batch_size)
        for i, shard in todo:
            checksums[i, shard.name] = writers[i].write(shard, itertools.islice(embeddings, shard.count))
    gathered = {key: value for of_rank in comm.gather(checksums) for key, value in of_rank.items()}
    if comm.is_main_process():
        for i, writer in enumerate(writers):
            writer.finish({name: value for (of, name), value in gathered.items() if of == i})
            logger.info("%s: complete", writer.folder)


def check_free_space_for(
    output: str | Path, writers: Sequence[FeatureCacheWriter], missing: set[tuple[int, Shard]]
) -> None:
    """:func:`check_free_space` for the shards that are missing."""
    folder = Path(output)
    while not folder.exists():
        folder = folder.parent
    check_free_space(folder, sum(writers[i].shard_bytes(shard) for i, shard in missing))


def _announce(
    writers: Sequence[FeatureCacheWriter], missing: set[tuple[int, Shard]], seconds: float, output: str | Path
) -> None:
    for i, writer in enumerate(writers):
        left = [shard for of, shard in missing if of == i]
        logger.info(
            "%s: %d pictures x %s, %s; %d of %d embeddings, %s, are still to be made",
            writer.spec.data_set,
            len(writer.spec.pictures),
            " and ".join(writer.views),
            writer.spec.dtype,
            sum(shard.count for shard in left),
            sum(shard.count for shard in writer.shards),
            readable_size(sum(map(writer.shard_bytes, left))),
        )
    count, size = sum(s.count for _, s in missing), sum(writers[i].shard_bytes(s) for i, s in missing)
    duration = timedelta(seconds=math.ceil(count * seconds / comm.get_world_size()))
    logger.info("%s into %s, in about %s (hours:minutes:seconds)", readable_size(size), output, duration)


@torch.inference_mode()
def _seconds_a_picture(model: Any, cfg: CfgNode, batch_size: int) -> float:
    """Time of the encoder alone, which is nearly all."""
    side = get_arch(cfg.MODEL.SAM.ARCH).image_size
    blank = [{"image": torch.zeros(3, side, side, dtype=torch.uint8)}] * batch_size
    seconds = 0.0
    # The first run of a GPU takes much longer than the others; of a slow machine one is enough.
    for _ in range(2):
        if seconds < 5:
            start = time.perf_counter()
            model.embed(blank)[0].cpu()
            seconds = time.perf_counter() - start
    return seconds / batch_size


@torch.inference_mode()
def _embeddings(
    cfg: CfgNode, model: Any, pictures: Sequence[Records], todo: Sequence[tuple[int, Shard]], batch_size: int
) -> Iterator[torch.Tensor]:
    """The embeddings of the shards of ``todo``, one after another.

    No batch reaches into the next shard, so that a picture always has the same company and the same last bits.
    """
    batches = []
    for i, shard in todo:
        keys = [(i, number, shard.view) for number in range(shard.first, shard.first + shard.count)]
        batches += [keys[k : k + batch_size] for k in range(0, len(keys), batch_size)]
    loader: DataLoader = DataLoader(
        _Views(cfg, pictures),
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
    )
    # tqdm's own lock is shared with forked processes, and one that is killed while it holds it stops all others.
    tqdm.set_lock(threading.RLock())
    name = f"process 1 of {comm.get_world_size()}" if comm.get_world_size() > 1 else None
    total = sum(map(len, batches))
    with tqdm(total=total, desc=name, unit="embedding", disable=not comm.is_main_process()) as progress:
        for batch in loader:
            embeddings = model.embed(batch)[0].cpu()
            progress.update(len(batch))
            yield from embeddings
