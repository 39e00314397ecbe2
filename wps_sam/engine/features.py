"""Between configuration, encoder and feature store: what a store has to be made of, making it, and opening it."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..config import check_cacheable
from ..data.feature_store import (
    MANIFEST,
    FeatureStoreReader,
    FeatureStoreWriter,
    Records,
    Shard,
    StoreSpec,
    distinct_pictures,
    pack,
)
from ..data.feature_store_v1 import FeatureStoreReaderV1
from ..data.mapper import VIEW_OF, PartDatasetMapper, RandomViews, build_augmentations, random_view
from ..encoders import encoder_class, semantic_spec
from ..encoders.build_sam import image_encoder_hash
from ..mirror import Mirror
from ..shares import WHOLE, Share

logger = logging.getLogger(__name__)

# A shard, and who writes it.
Job = tuple[FeatureStoreWriter, Shard]


def views_of(cfg: CfgNode, is_train: bool) -> list[str]:
    """The views of a picture that training, or evaluation, sees."""
    if not is_train:
        return [VIEW_OF[False]]
    flipped = [VIEW_OF[True]] if cfg.INPUT.RANDOM_FLIP == "horizontal" else []
    return [VIEW_OF[False], *flipped, *map(random_view, range(cfg.INPUT.RANDOM_VIEWS))]


def settings_v1(cfg: CfgNode) -> dict[str, Any]:
    """What caches of format 1 say they were made with; all were SAM's."""
    return {
        "MODEL.SAM.ARCH": cfg.MODEL.SAM.ARCH,
        "MODEL.SAM.WEIGHTS": "sha256:" + image_encoder_hash(cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.WEIGHTS),
        "MODEL.SAM.PRECISION": cfg.MODEL.SAM.PRECISION,
        "MODEL.SAM.PADDING": cfg.MODEL.SAM.PADDING,
        "MODEL.PIXEL_MEAN": list(cfg.MODEL.PIXEL_MEAN),
        "MODEL.PIXEL_STD": list(cfg.MODEL.PIXEL_STD),
    }


def spec_of(cfg: CfgNode, data_set: str, pictures: Records, dtype: str) -> StoreSpec:
    """The store that ``cfg`` asks for; ``pictures`` from :func:`distinct_pictures`."""
    encoder = encoder_class(cfg)
    spec, settings = encoder.spec_of(cfg), encoder.feature_settings(cfg)
    semantic = semantic_spec(cfg, spec.image_size)
    if semantic.features:
        settings["MODEL.SEMANTIC"] = f"{cfg.MODEL.SEMANTIC.NAME}, sha256:{semantic.fingerprint}"
    if cfg.INPUT.RANDOM_VIEWS and data_set in cfg.DATASETS.TRAIN:
        settings["INPUT.CROP"] = [cfg.INPUT.CROP.TYPE, list(cfg.INPUT.CROP.SIZE), cfg.INPUT.RANDOM_FLIP]
    features = {name: list(shape) for name, shape in {**spec.features, **semantic.features}.items()}
    return StoreSpec(data_set, settings, pictures, features, dtype)


def open_features(cfg: CfgNode, dataset_name: str, records: Records, is_train: bool) -> FeatureStoreReader:
    """The store of a data set below MODEL.SAM.CACHE_DIR; ``records`` are all of the data set.

    Raises:
        ValueError: the store is missing, unfinished, damaged or of something else; says what to do.
    """
    spec = spec_of(cfg, dataset_name, distinct_pictures(records), dtype="fp16")
    return FeatureStoreReader(Path(cfg.MODEL.SAM.CACHE_DIR) / dataset_name, spec, views_of(cfg, is_train))


# ------------------------------------------------------------------ making


def cache_features(
    cfg: CfgNode,
    output: str | Path,
    dtype: str = "fp16",
    batch_size: int = 1,
    share: Share = WHOLE,
    mirror: str | None = None,
) -> None:
    """Makes, or completes and checks, the stores of all data sets of DATASETS.TRAIN and DATASETS.TEST, or a share.

    Run by every process of the group, which share the work by shards. A share reads no other's pictures and writes no
    other's shards; the stores can be read once the whole was asked for, which then only has to check what is there.

    Args:
        cfg: whose data sets are registered.
        output: the folder of the stores, one for each data set.
        dtype: fp16, fp32 or int8.
        batch_size: pictures that the encoder is given at once.
        share: of the shards of each store.
        mirror: where fsspec finds a copy of ``output``, into which shards are taken as they are finished, and from
            which those come that are missing here.

    Raises:
        ValueError: pictures are seen in too many views, the folder holds something else, or the disk is too small.
    """
    check_cacheable(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SAM.FEATURES = "live"
    writers = []
    for name, pictures in _pictures(cfg).items():
        spec, views = spec_of(cfg, name, pictures, dtype), views_of(cfg, name in cfg.DATASETS.TRAIN)
        writers.append(FeatureStoreWriter(Path(output) / name, spec, views, share))

    def encoded(jobs: Sequence[Job]) -> Iterator[dict[str, Tensor]]:
        return (pack(features, dtype) for features in _features(cfg, jobs, batch_size))

    _complete(writers, output, encoded, Mirror(Path(output), mirror) if mirror else None)


def convert_features(cfg: CfgNode, old: str | Path, output: str | Path) -> None:
    """Makes the stores from the caches of format 1 in the folder ``old``, without the encoder.

    They keep the views, the dtype and every value of the old ones. Otherwise as :func:`cache_features`.

    Raises:
        ValueError: an old cache is missing, damaged or of something else; or see :func:`cache_features`.
    """
    readers, writers = {}, []
    for name, pictures in _pictures(cfg).items():
        spec = spec_of(cfg, name, pictures, dtype="fp16")
        readers[name] = FeatureStoreReaderV1(Path(old) / name, replace(spec, settings=settings_v1(cfg)))
        made = readers[name].manifest
        writers.append(FeatureStoreWriter(Path(output) / name, replace(spec, dtype=made.dtype), made.views))

    def read(jobs: Sequence[Job]) -> Iterator[dict[str, Tensor]]:
        for writer, shard in jobs:
            for number in range(shard.first, shard.first + shard.count):
                yield readers[writer.manifest.data_set].read(number, shard.view)

    _complete(writers, output, read)


def _pictures(cfg: CfgNode) -> dict[str, Records]:
    """The pictures of every data set by its name."""
    names = dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    return {name: distinct_pictures(DatasetCatalog.get(name)) for name in names}


def _complete(
    writers: Sequence[FeatureStoreWriter],
    output: str | Path,
    records_of: Callable[[Sequence[Job]], Iterator[Mapping[str, Tensor]]],
    mirror: Mirror | None = None,
) -> None:
    """Writes what is missing or damaged; ``records_of`` yields the packed records of shards one after another."""
    if comm.is_main_process():
        for writer in writers:
            writer.prepare()
        if mirror:
            mirror.exchange(writer.folder / shard.name for writer in writers for shard in writer.shards)
            for writer in writers:
                writer.check_shards()
    comm.synchronize()
    missing = {(writer, shard) for writer in writers for shard in writer.missing()}
    _announce(writers, missing, Path(output))
    # Only when all have seen what is missing may the first write something.
    comm.synchronize()
    jobs = [(writer, shard) for writer in writers for shard in writer.shards]
    rank, world = comm.get_rank(), comm.get_world_size()
    todo = [job for job in jobs if job in missing][rank::world]
    digests: dict[tuple[Path, str], str | None] = {}
    for writer, shard in [job for job in jobs if job not in missing][rank::world]:
        digests[writer.folder, shard.name] = writer.check(shard)
        if digests[writer.folder, shard.name] is None:
            todo.append((writer, shard))
    records = records_of(todo)
    for writer, shard in todo:
        digests[writer.folder, shard.name] = writer.write(shard, itertools.islice(records, shard.count))
        if mirror:
            mirror.publish(writer.folder / shard.name)
    gathered = {key: digest for of_rank in comm.gather(digests) for key, digest in of_rank.items()}
    if comm.is_main_process():
        for writer in writers:
            if writer.share.is_whole:
                writer.finish({shard.name: gathered[writer.folder, shard.name] for shard in writer.shards})
                if mirror:
                    mirror.publish(writer.folder / MANIFEST)
                logger.info("%s: complete", writer.folder)
            else:
                after = "when all are, the command without --shard finishes the cache"
                logger.info("%s: the shards %s are complete; %s", writer.folder, writer.share, after)


def _announce(writers: Sequence[FeatureStoreWriter], missing: set[Job], output: Path) -> None:
    """Says what is to be made, and requires room for it on the disk of ``output``."""
    needed = 0
    for writer in writers:
        left = [shard for of, shard in missing if of is writer]
        size = sum(map(writer.shard_bytes, left))
        needed += size
        what = f"{len(writer.pictures)} pictures x {' and '.join(writer.views)}, {writer.manifest.dtype}"
        records = f"{sum(s.count for s in left)} of {sum(s.count for s in writer.shards)} records"
        logger.info("%s: %s; %s, %s, are still to be made", writer.folder, what, records, _readable(size))
    while not output.exists():
        output = output.parent
    free = shutil.disk_usage(output).free
    if free < needed:
        raise ValueError(
            f"{output}: the features need {_readable(needed)} more, but only {_readable(free)} of the disk are free; "
            "choose another --output, or a smaller --dtype"
        )


def _readable(count: int) -> str:
    """Bytes in MiB, or GiB from one on."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


# ------------------------------------------------------------------ the encoder at work


class _Views(Dataset):
    """Model inputs by record and view."""

    def __init__(self, cfg: CfgNode) -> None:
        resize = build_augmentations(cfg, is_train=False)
        # The flip comes first, as in training, where the resize then sees the same pixels.
        augmentations = {VIEW_OF[False]: resize, VIEW_OF[True]: [T.RandomFlip(prob=1.0), *resize]}
        self.mappers = {view: PartDatasetMapper(is_train=False, augmentations=a) for view, a in augmentations.items()}
        for number in range(cfg.INPUT.RANDOM_VIEWS):
            crops = RandomViews(build_augmentations(cfg, is_train=True), cfg.INPUT.RANDOM_VIEWS)
            self.mappers[random_view(number)] = PartDatasetMapper(
                is_train=False, augmentations=resize, random_views=replace(crops, only=number)
            )

    def __getitem__(self, key: tuple[Mapping[str, Any], str]) -> dict[str, Any]:
        record, view = key
        return self.mappers[view](record)


def _features(cfg: CfgNode, jobs: Sequence[Job], batch_size: int) -> Iterator[dict[str, Tensor]]:
    """The features of all pictures of ``jobs``, one after another.

    No batch reaches into the next shard, so that a picture always has the same company and the same last bits.
    """
    model = build_model(cfg).eval()
    batches = []
    for writer, shard in jobs:
        keys = [(record, shard.view) for record in writer.pictures[shard.first : shard.first + shard.count]]
        batches += [keys[k : k + batch_size] for k in range(0, len(keys), batch_size)]
    loader: DataLoader = DataLoader(
        _Views(cfg), batch_sampler=batches, num_workers=cfg.DATALOADER.NUM_WORKERS, collate_fn=list
    )
    # tqdm's own lock is shared with forked processes, and one that is killed while it holds it stops all others.
    tqdm.set_lock(threading.RLock())
    name = f"process 1 of {comm.get_world_size()}" if comm.get_world_size() > 1 else None
    total = sum(map(len, batches))
    with tqdm(total=total, desc=name, unit="picture", disable=not comm.is_main_process()) as progress:
        for batch in loader:
            features = _encode(model, batch)
            progress.update(len(batch))
            yield from features


@torch.inference_mode()
def _encode(model: Any, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """The encoder's features of each picture of a batch by name, on the CPU."""
    features = model.embed(batch)[0]
    of_batch = {name: features[name].cpu() for name in model.feature_names}
    return [{name: values[i] for name, values in of_batch.items()} for i in range(len(batch))]
