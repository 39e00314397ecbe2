"""Loaders for training and testing."""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.utils.data as torchdata
from tabulate import tabulate

from ..config import CfgNode, configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .samplers import InferenceSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Returns the records that have an annotation which is not a crowd."""
    kept = [
        record
        for record in dataset_dicts
        if any(annotation.get("iscrowd", 0) == 0 for annotation in record["annotations"])
    ]
    logger.info(
        "Removed %d images with no usable annotations. %d images left.",
        len(dataset_dicts) - len(kept),
        len(kept),
    )
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Logs how many annotations (crowds aside) each class has."""
    counts = [0] * len(class_names)
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            if not annotation.get("iscrowd", 0):
                if not 0 <= annotation["category_id"] < len(counts):
                    raise ValueError(
                        f"{record.get('file_name', 'a record')}: category_id {annotation['category_id']}, "
                        f"expected 0 to {len(counts) - 1}"
                    )
                counts[annotation["category_id"]] += 1
    rows = list(zip(class_names, counts)) + [("total", sum(counts))]
    table = tabulate(
        rows, headers=["category", "#instances"], tablefmt="pipe", numalign="left", stralign="center"
    )
    logger.info("Distribution of instances among all %d categories:\n%s", len(class_names), table)


def get_detection_dataset_dicts(
    names: str | list[str], filter_empty: bool = True, check_consistency: bool = True
) -> list[dict]:
    """Returns the records of the named data sets, one after another.

    ``filter_empty`` leaves out images without annotations, if the data sets have annotations at all;
    ``check_consistency`` insists on the same ``thing_classes`` in all.

    Raises:
        AssertionError: a data set is empty, or their classes differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise AssertionError("no data set named: is DATASETS.TRAIN or DATASETS.TEST empty?")
    per_name = [DatasetCatalog.get(name) for name in names]
    for name, records in zip(names, per_name):
        if len(records) == 0:
            raise AssertionError(f"data set {name!r} is empty")
    records = list(itertools.chain.from_iterable(per_name))
    if "annotations" in records[0]:
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if check_consistency and any(other != classes[0] for other in classes):
            raise AssertionError(f"thing_classes differ among {', '.join(names)}")
        if classes[0] is not None:
            print_instances_class_histogram(records, classes[0])
    if not records:
        raise AssertionError(f"no valid data found in: {', '.join(names)}")
    return records


def trivial_batch_collator(batch: list) -> list:
    """The batch as the list it is."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seeds numpy and random of a worker, not only torch, from torch's seed."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: Iterable[int] | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    **kwargs: Any,
) -> Iterable:
    """Batches of ``total_batch_size / world size`` elements per process.

    ``sampler`` is None exactly if the data set is iterable. With ``aspect_ratio_grouping`` a batch is all
    landscape or all portrait. Batches are lists unless ``collate_fn`` makes something else. Further
    arguments go to torch's ``DataLoader``.
    """
    world_size = get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise AssertionError(
            f"total batch size {total_batch_size} must be a positive multiple of {world_size} processes"
        )
    batch_size = total_batch_size // world_size
    if isinstance(dataset, torchdata.IterableDataset):
        if sampler is not None:
            raise AssertionError("an iterable data set takes no sampler")
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)  # type: ignore[arg-type]
    common = {"num_workers": num_workers, "worker_init_fn": worker_init_reset_seed, **kwargs}
    if not aspect_ratio_grouping:
        return torchdata.DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=collate_fn or trivial_batch_collator,
            **common,
        )
    if not drop_last:
        raise AssertionError("aspect_ratio_grouping cannot keep incomplete batches")
    # Elements come one by one; they are batched by shape in this process.
    loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **common)
    grouped = AspectRatioGroupedDataset(loader, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _train_loader_from_config(
    cfg: CfgNode, *, mapper: Callable[[dict], Any], dataset: Any = None, sampler: Iterable[int] | None = None
) -> dict[str, Any]:
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    if sampler is None and cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN={cfg.DATALOADER.SAMPLER_TRAIN!r}: expected TrainingSampler"
        )
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
    ``sampler`` is a ``TrainingSampler`` unless given.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: CfgNode, dataset_name: str | list[str], *, mapper: Callable[[dict], Any]
) -> dict[str, Any]:
    return {
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Iterable[int] | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> torchdata.DataLoader:
    """A loader that goes once over the records, shared out over the processes.

    Also called as ``build_detection_test_loader(cfg, dataset_name, mapper=...)``.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,  # type: ignore[arg-type]
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )
