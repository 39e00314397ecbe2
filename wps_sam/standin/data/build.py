"""Loaders for training and testing."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.utils.data as torchdata

from ..config import CfgNode, configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset
from .samplers import InferenceSampler, TrainingSampler

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, check_consistency: bool = True
) -> list[dict]:
    """Returns the records of the named data sets, one after another.

    ``filter_empty`` leaves out images without an annotation that is not a crowd, if the data sets have
    annotations at all; ``check_consistency`` insists on the same ``thing_classes`` in all.

    Raises:
        AssertionError: a data set is empty, or their classes differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    per_name = [DatasetCatalog.get(name) for name in names]
    for name, records in zip(names, per_name):
        if not records:
            raise AssertionError(f"data set {name!r} is empty")
    records = list(itertools.chain.from_iterable(per_name))
    if records and "annotations" in records[0]:
        kept = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
        if filter_empty:
            logger.info("Removed %d images without usable annotations, %d left", len(records) - len(kept), len(kept))
            records = kept
        classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if check_consistency and any(other != classes[0] for other in classes):
            raise AssertionError(f"thing_classes differ among {', '.join(names)}")
        counts = Counter(a["category_id"] for r in records for a in r["annotations"] if not a.get("iscrowd", 0))
        logger.info("Annotations by class: %s", dict(sorted(counts.items())))
    if not records:
        raise AssertionError(f"no valid data found in: {', '.join(names) or 'an empty list of data sets'}")
    return records


def trivial_batch_collator(batch: list) -> list:
    """The batch as the list it is."""
    return batch


def _first(batch: list) -> Any:
    return batch[0]


def worker_init_reset_seed(worker_id: int) -> None:
    """Seeds numpy and random of a worker, not only torch, from torch's seed."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def _mapped(dataset: Any, mapper: Callable[[dict], Any] | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def _train_loader_from_config(
    cfg: CfgNode, *, mapper: Any = None, dataset: Any = None, sampler: Any = None
) -> dict[str, Any]:
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if sampler is None and cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN={cfg.DATALOADER.SAMPLER_TRAIN!r}: expected TrainingSampler")
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Iterable[int] | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Iterable:
    """An endless loader of mapped records; also called as ``build_detection_train_loader(cfg, mapper=...)``.

    ``dataset`` is a list of records or a torch data set; ``mapper`` makes of a record what the model takes;
    ``sampler`` is a ``TrainingSampler`` unless given, and None for an iterable data set. Each process has
    ``total_batch_size / world size`` elements a batch; with ``aspect_ratio_grouping`` they are all landscape
    or all portrait. ``kwargs`` go to torch's ``DataLoader``.
    """
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset))
    world_size = get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise AssertionError(f"total batch size {total_batch_size}: expected a multiple of {world_size} processes")
    batch_size = total_batch_size // world_size
    collate_fn = collate_fn or trivial_batch_collator
    kwargs = dict(sampler=sampler, num_workers=num_workers, worker_init_fn=worker_init_reset_seed, **kwargs)
    if not aspect_ratio_grouping:
        return torchdata.DataLoader(dataset, batch_size, drop_last=True, collate_fn=collate_fn, **kwargs)
    # Elements come one by one; they are batched by shape in this process.
    return AspectRatioGroupedDataset(torchdata.DataLoader(dataset, collate_fn=_first, **kwargs), batch_size, collate_fn)


def _test_loader_from_config(cfg: CfgNode, dataset_name: str | Sequence[str], mapper: Any = None) -> dict[str, Any]:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {"dataset": dataset, "mapper": mapper, "num_workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Any = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> torchdata.DataLoader:
    """A loader that goes once over the records, shared out over the processes.

    Also called as ``build_detection_test_loader(cfg, dataset_name, mapper=...)``.
    """
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = InferenceSampler(len(dataset))
    collate_fn = collate_fn or trivial_batch_collator
    return torchdata.DataLoader(dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate_fn)
